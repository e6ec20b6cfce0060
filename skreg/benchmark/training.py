"""The benchmark of adversarial training: a step of skreg's losses beside the loops of `plain_training`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import skreg.models
from skreg._checks import check_count, check_number
from skreg.attacks import PGD
from skreg.benchmark.plain_training import plain_attack, plain_start, plain_step
from skreg.benchmark.timing import time_interleaved
from skreg.data import DATASETS
from skreg.losses import LOSSES
from skreg.training.optimization import build_optimizer

PLAIN = "plain"
LOSS_NAMES = ("T", "A")
NETS = {"two_conv": "fashion-mnist", "resnet18_cifar": "cifar10"}
# Contender: (precision, channels_last, compiled).
CONTENDERS: dict[str, tuple[torch.dtype, bool, bool]] = {
    "float32": (torch.float32, False, False),
    "float32, compiled": (torch.float32, False, True),
    "float32, channels_last": (torch.float32, True, False),
    "float32, channels_last, compiled": (torch.float32, True, True),
    "bfloat16, channels_last": (torch.bfloat16, True, False),
}
# What the largest difference between a pixel of ours and of the plain loop's may be, on the same random start.
TOLERANCE = 1e-6

_Step = Callable[[], object]


@dataclass(frozen=True)
class TrainingMeasurement:
    """One contender on one net and loss; None where it did not run, and in `note` the reason.

    Attributes:
        loss: T (TRADES) or A (adversarial training).
        same_pixels: share of adversarial pixels equal to the plain loop's to `TOLERANCE`, from the same start.
        lower_ms, median_ms, upper_ms: median and quartiles of a whole step, the optimizer's included.
        faster: the plain loop's median divided by this one.
    """

    net: str
    loss: str
    contender: str
    batch_size: int
    attack_steps: int
    threads: int
    samples: int
    same_pixels: float | None
    lower_ms: float | None
    median_ms: float | None
    upper_ms: float | None
    faster: float | None
    note: str


def run_training(
    nets: Sequence[str] = tuple(NETS),
    *,
    threads: int,
    batch_size: int = 128,
    attack_steps: int = 10,
    rounds: int = 10,
    seconds: float = 60.0,
    losses: Sequence[str] = LOSS_NAMES,
    contenders: Sequence[str] = tuple(CONTENDERS),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[TrainingMeasurement]:
    """Measure a training step (`losses`: T, A) of each contender and of the plain loop, in turn, on random images.

    Raises:
        AssertionError: float32 in the plain loop's memory format gives other adversarial images than it.
        ValueError, TypeError: an option that is not a positive number, or a net, loss or contender that is not known.
    """
    for name, value in (("batch_size", batch_size), ("attack_steps", attack_steps), ("rounds", rounds)):
        check_count(name, value)
    check_number("seconds", seconds, positive=True)
    for net in nets:
        if net not in NETS:
            raise ValueError(f"net: expected one of {', '.join(NETS)}; found {net!r}")
    for loss in losses:
        if loss not in LOSS_NAMES:
            raise ValueError(f"loss: expected one of {', '.join(LOSS_NAMES)}; found {loss!r}")
    for contender in contenders:
        if contender not in CONTENDERS:
            raise ValueError(f"contender: expected one of {', '.join(CONTENDERS)}; found {contender!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measurements = []
        for net in nets:
            for loss in losses:
                if progress is not None:
                    progress(f"training: {net}, {loss}, {threads} threads")
                case = _Case(net, loss, batch_size, attack_steps, seed)
                measurements += _measure(case, contenders, threads, rounds, seconds)
        return measurements
    finally:
        torch.set_num_threads(before)


class _Case:
    """A net, a loss and a batch of random images of its data set's shape."""

    def __init__(self, net: str, loss: str, batch_size: int, attack_steps: int, seed: int) -> None:
        self.net, self.loss, self.seed = net, loss, seed
        self.info = DATASETS[NETS[net]]
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(batch_size, *self.info.shape, generator=generator)
        self.labels = torch.randint(len(self.info.classes), (batch_size,), generator=generator)
        self.attack = PGD(eps=self.info.eps, steps=attack_steps, step_size=self.info.eps / 4)

    def model(self, channels_last: bool = False) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            model = skreg.models.build(
                self.net,
                classes=len(self.info.classes),
                shape=self.info.shape,
                mean=self.info.mean,
                std=self.info.std,
            )
        return model.to(memory_format=torch.channels_last) if channels_last else model

    @property
    def plain_options(self) -> dict[str, Any]:
        attack = self.attack
        return {"loss": self.loss, "eps": attack.eps, "step_size": attack.step_size, "steps": attack.steps}

    def plain_adversarial(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        start = plain_start(self.images, self.loss, self.attack.eps, generator)
        return plain_attack(model, self.images, self.labels, start, **self.plain_options)

    def plain_step(self) -> _Step:
        model = self.model()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(self.seed)

        def step() -> None:
            start = plain_start(self.images, self.loss, self.attack.eps, generator)
            plain_step(model, optimizer, self.images, self.labels, start, **self.plain_options)

        return step

    def our_step(self, precision: torch.dtype, channels_last: bool, compiled: bool) -> Callable[[], Tensor]:
        """A step of skreg's, which returns its adversarial images."""
        network = self.model(channels_last)
        model: Any = torch.compile(network, dynamic=False) if compiled else network
        images = self.images.contiguous(memory_format=torch.channels_last) if channels_last else self.images
        optimizer = build_optimizer("adam", {}, 1e-3, network.parameters())
        generator = torch.Generator().manual_seed(self.seed)

        def step() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                output = LOSSES[self.loss](model, images, self.labels, attack=self.attack, generator=generator)
            optimizer.zero_grad()
            torch.autograd.backward(output.loss)
            optimizer.step()
            assert output.adversarial is not None
            return output.adversarial

        return step

    def same_pixels(self, found: Tensor) -> float:
        """The share of the adversarial pixels of a contender's first step that equal those of the plain loop's."""
        expected = self.plain_adversarial(self.model().eval(), torch.Generator().manual_seed(self.seed))
        return ((found - expected).abs() <= TOLERANCE).double().mean().item()


def _measure(
    case: _Case, contenders: Sequence[str], threads: int, rounds: int, seconds: float
) -> list[TrainingMeasurement]:
    torch.compiler.reset()  # what earlier cases compiled counts against a limit
    calls: dict[str, _Step] = {PLAIN: case.plain_step()}
    same, notes = {PLAIN: 1.0}, {}
    for name in contenders:
        precision, channels_last, compiled = CONTENDERS[name]
        if precision == torch.bfloat16 and not cpu_has_bfloat16():
            notes[name] = "this processor has no bfloat16 instructions (AVX-512 BF16 or AMX): emulated, and slower"
            continue
        step = case.our_step(precision, channels_last, compiled)
        try:
            first = step()
        except Exception as error:
            if not compiled:
                raise
            # A missing compiler shows as one of many types.
            notes[name] = f"torch.compile failed: {type(error).__name__}"
            continue
        same[name] = case.same_pixels(first)
        if name == "float32" and same[name] < 1:
            raise AssertionError(
                f"{case.net}, {case.loss}: expected the plain loop's adversarial images to {TOLERANCE:g}, found "
                f"{1 - same[name]:.2%} of the pixels elsewhere"
            )
        calls[name] = step
    times = time_interleaved(calls, rounds=rounds, seconds=seconds, seed=case.seed)
    plain = statistics.median(times[PLAIN])
    return [
        _row(case, name, threads, times.get(name, []), same.get(name), plain, notes.get(name, ""))
        for name in (PLAIN, *contenders)
    ]


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself; elsewhere that is many times slower than float32."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capabilities and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _row(
    case: _Case, name: str, threads: int, times: list[float], same: float | None, plain: float, note: str
) -> TrainingMeasurement:
    milliseconds = [1e3 * seconds for seconds in times]
    lower, median, upper = (
        statistics.quantiles(milliseconds, n=4, method="inclusive") if len(milliseconds) > 1 else (None,) * 3
    )
    return TrainingMeasurement(
        net=case.net,
        loss=case.loss,
        contender=name,
        batch_size=len(case.images),
        attack_steps=case.attack.steps,
        threads=threads,
        samples=len(milliseconds),
        same_pixels=None if same is None else round(same, 5),
        lower_ms=None if lower is None else round(lower, 1),
        median_ms=None if median is None else round(median, 1),
        upper_ms=None if upper is None else round(upper, 1),
        faster=None if median is None else round(1e3 * plain / median, 3),
        note=note,
    )
