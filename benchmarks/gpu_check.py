"""What only a GPU can show: tests on silicon, compute-sanitizer, a CUDA graph, and GB/s against a measured copy.

`make gpu-check` runs it and leaves gpu-check.md. Without a GPU it says so and exits with 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from roofline import H100_BYTES_PER_SECOND, bytes_moved
from torch import Tensor

from skreg import native
from skreg.benchmark.timing import EVICTING_BYTES
from skreg.benchmark.weights import WEIGHT_SETS, make_weights
from skreg.options import PenaltyOptions

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("memcheck", "racecheck", "synccheck")
NETS = ("two_conv", "resnet50", "wrn_34_10")


def calls(weights: Sequence[Tensor], options: tuple[object, ...]) -> dict[str, Callable[[], object]]:
    """Every operator as a function without arguments."""
    ops, ones = native.operators, torch.ones(len(weights), dtype=torch.float64)
    scale = torch.tensor(2.0, device=weights[0].device)
    others = [torch.zeros_like(w) for w in weights]
    return {
        "value": lambda: ops.value(weights, ones, *options),
        "value_and_gradients": lambda: ops.value_and_gradients(weights, ones, *options),
        "gradients": lambda: ops.gradients(weights, ones, scale, *options),
        "add_gradients_": lambda: ops.add_gradients_(weights, others, ones, scale, *options),
        "scale_": lambda: ops.scale_(others, scale),
        "hessian_vector": lambda: ops.hessian_vector(weights, others, ones, scale, *options),
    }


def time_us(call: Callable[[], object], cold: bool, rounds: int) -> float:
    """Median microseconds on the device's clock; cold: after other memory went through the cache."""
    evicting = torch.zeros(EVICTING_BYTES // 4, device="cuda") if cold else None
    times = []
    for _ in range(rounds + 3):
        if evicting is not None:
            evicting.add_(1)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times[3:])


def launches(call: Callable[[], object]) -> int:
    """Kernel launches of a call as torch.profiler sees them."""
    call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    return sum(e.count for e in profile.key_averages() if "LaunchKernel" in e.key)


def speed_table(nets: Sequence[str], rounds: int) -> list[str]:
    """Rows: net, entry point, launches, warm and cold time, GB/s, share of the measured copy and of an H100's floor."""
    rows = [
        "| net | call | launches | cache | us | GB/s | of copy | H100 floor, us |",
        "|---|---|--:|---|--:|--:|--:|--:|",
    ]
    for net in nets:
        weights = make_weights(WEIGHT_SETS[net], device="cuda")
        memory = torch.cat([w.flatten() for w in weights])
        target = torch.empty_like(memory)
        todo = {"copy": lambda m=memory, t=target: t.copy_(m), **calls(weights, PenaltyOptions().native())}
        for cold in (False, True):
            copied = 0.0
            for name, call in todo.items():
                moved = 2 * memory.nbytes if name == "copy" else bytes_moved(name, WEIGHT_SETS[net])
                us = time_us(call, cold, rounds)
                speed = moved / us / 1e3
                copied = copied or speed
                rows.append(
                    f"| {net} | {name} | {launches(call)} | {'cold' if cold else 'warm'} | {us:.1f} | {speed:.0f} "
                    f"| {speed / copied:.2f} | {moved / H100_BYTES_PER_SECOND * 1e6:.1f} |"
                )
    return rows


def check_graph() -> str:
    """Capture and replay a call in a CUDA graph; the result must be that of a call without."""
    weights = make_weights(WEIGHT_SETS["two_conv"], device="cuda")
    call = calls(weights, PenaltyOptions().native())["value_and_gradients"]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for weight in weights:
        weight.mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    wanted = call()
    same = torch.equal(captured[0], wanted[0]) and all(map(torch.equal, captured[2], wanted[2]))
    return "passed" if same else "FAILED: the replay's result differs from the call's"


def run(command: Sequence[str]) -> tuple[bool, str]:
    """Whether a command succeeded, and the last lines of what it said."""
    environment = {**os.environ, "SKREG_REQUIRE_CUDA": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode == 0, "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])


def outside_checks() -> list[tuple[str, bool | None, str]]:
    """The CUDA tests, and a part of them under each tool of compute-sanitizer: None where there is none."""
    pytest = [sys.executable, "-m", "pytest", "-q", "tests/cuda"]
    checks: list[tuple[str, bool | None, str]] = [("tests/cuda", *run(pytest))]
    sanitizer = shutil.which("compute-sanitizer")
    for tool in TOOLS:
        if sanitizer is None:
            checks.append((tool, None, "compute-sanitizer is not on PATH"))
            continue
        part = [*pytest, "-k", "all_operators_and_options or every_offset"]
        checks.append((tool, *run([sanitizer, "--tool", tool, "--error-exitcode", "9", *part])))
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu-check.md"))
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--no-tests", action="store_true", help="only the graph and the speed")
    options = parser.parse_args()
    if not torch.cuda.is_available() or native.cuda_module is None:
        reason = native.cuda_error or "torch finds no CUDA device"
        print(f"gpu-check needs a GPU and skreg built for it: {reason}. Nothing was checked.", file=sys.stderr)
        return 1
    emulated = "cuda_on_cpu" in sys.modules
    checks = [] if options.no_tests else outside_checks()
    graph = check_graph()
    checks.append(("CUDA graph", graph == "passed", graph))
    lines = [
        "# gpu-check",
        "",
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {native.cuda_module.cuda_version}, "
        f"built for {native.cuda_module.architectures}.",
        *(["", "**Under an emulation: the times mean nothing.**"] if emulated else []),
        "",
        *(
            f"- {name}: {'not run' if ok is None else 'passed' if ok else 'FAILED'}. {text}"
            for name, ok, text in checks
        ),
        "",
        *speed_table(options.nets, options.rounds),
    ]
    with tempfile.NamedTemporaryFile("w", dir=options.output.resolve().parent, delete=False) as file:
        file.write("\n".join(lines) + "\n")
    os.replace(file.name, options.output)
    print(options.output.read_text())
    return 0 if all(ok is not False for _, ok, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
