"""The benchmark: the penalty beside PyTorch alone and beside a copy; whole training steps; attacks."""

from skreg.benchmark.attacks import run_attacks
from skreg.benchmark.cases import SECTIONS, Case, build_cases
from skreg.benchmark.contenders import CONTENDERS
from skreg.benchmark.machine import describe_machine
from skreg.benchmark.measure import Measurement, run_cases
from skreg.benchmark.results import plot_size, print_attacks, print_measurements, print_steps, print_training, write_csv
from skreg.benchmark.steps import run_steps
from skreg.benchmark.training import run_training
from skreg.benchmark.weights import WEIGHT_SETS, make_weights

__all__ = [
    "CONTENDERS",
    "SECTIONS",
    "WEIGHT_SETS",
    "Case",
    "Measurement",
    "build_cases",
    "describe_machine",
    "make_weights",
    "plot_size",
    "print_attacks",
    "print_measurements",
    "print_steps",
    "print_training",
    "run_attacks",
    "run_cases",
    "run_steps",
    "run_training",
    "write_csv",
]
