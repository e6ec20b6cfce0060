"""The benchmark of a training step: what the regularizer adds to forward, backward and SGD with momentum.

All contenders start from copies of one model and see the same batch, and every one is compared with the plain step of
the same round. What the regularizer does depends on the weights alone, not on the batch, while the noise of a step
grows with its length. So the milliseconds that it adds are the median difference of many short steps, with small
batches, and the overhead is their share of a plain step with a batch as people train with. A second plain step among
the contenders shows what is noise: the interval of its difference holds 0. The clock inside the hooks, with the large
batch, is a check.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import skreg.models
from skreg._checks import check_count, check_number
from skreg.benchmark.contenders import naive_penalty
from skreg.benchmark.measure import expected_result
from skreg.benchmark.timing import median_interval, time_interleaved
from skreg.regularizer import SmoothKernelRegularizer

PLAIN, AGAIN = "plain", "plain, again"
HOOK, DECOUPLED, LOSS, NAIVE = "hook", "hook, decoupled", "loss form", "naive"
CONTENDERS = (PLAIN, AGAIN, HOOK, DECOUPLED, LOSS, NAIVE)
# Enough for the penalty to move the weights by far more than rounding, in steps that are stable.
STRENGTH = LEARNING_RATE = 0.01
FULL_ROUNDS = 5  # steps with the large batch: their time is divided by, so a tenth of error is a tenth of the overhead
# Largest error of a weight after one step, as a share of the layer's largest move by the penalty.
TOLERANCE = 1e-2

_Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Net:
    """A net of `skreg.models` with the images that it is trained on.

    Attributes:
        shape: channels, height, width of an image.
        batch_size: of the default; two cores take about a second a step of the ResNets.
        small_batch_size: of the many short steps.
    """

    model: str
    shape: tuple[int, int, int]
    classes: int
    batch_size: int
    small_batch_size: int


NETS = {
    "two_conv": Net("two_conv", (1, 28, 28), 10, 128, 4),
    "resnet18_cifar": Net("resnet18_cifar", (3, 32, 32), 10, 32, 1),
    "resnet50": Net("resnet50_restricted_imagenet", (3, 224, 224), 1000, 4, 1),
}


@dataclass(frozen=True)
class StepMeasurement:
    """One contender's training step on one net.

    Attributes:
        batch_size, small_batch_size: of the step that the overhead is a share of, and of the steps that are compared.
        count: number of regularized weights.
        samples: rounds of short steps.
        plain_ms: median of the plain step.
        small_plain_ms: the same with the small batch.
        lower_added_ms, added_ms, upper_added_ms: median difference to the plain step of the same round, with the small
            batch, and the 95% confidence interval of that median.
        lower_overhead, overhead, upper_overhead: 1 + these as a share of plain_ms.
        inside_ms: median time a step inside the hook, with the large batch; None for what is no hook. It lacks what the
            hook costs the rest of the step by the caches that it leaves.
        inside_overhead: 1 + inside_ms as a share of plain_ms.
    """

    net: str
    contender: str
    batch_size: int
    small_batch_size: int
    count: int
    threads: int
    samples: int
    plain_ms: float
    small_plain_ms: float
    lower_added_ms: float
    added_ms: float
    upper_added_ms: float
    lower_overhead: float
    overhead: float
    upper_overhead: float
    inside_ms: float | None
    inside_overhead: float | None


def run_steps(
    nets: Sequence[str] = tuple(NETS),
    *,
    threads: int,
    batch_size: int | None = None,
    rounds: int = 30,
    seconds: float = 60.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[StepMeasurement]:
    """Measure a training step with the regularizer in each of its forms, beside the plain step, on the CPU.

    Args:
        nets: keys of `NETS`.
        batch_size: by default each net's own.
        rounds: short steps a contender.
        seconds: no new round of a net starts later than this, once there were a few; the long steps come on top.
        seed: of weights, images and the orders of measuring.
        progress: told what is measured next.

    Raises:
        AssertionError: a contender's first step gave other weights than the penalty's gradient gives.
        ValueError, TypeError: an option that is not a positive number, or a net that is not in `NETS`.
    """
    for name, value in (("threads", threads), ("batch_size", batch_size), ("rounds", rounds)):
        if value is not None:
            check_count(name, value)
    check_number("seconds", seconds, positive=True)
    for net in nets:
        if net not in NETS:
            raise ValueError(f"net: expected one of {', '.join(NETS)}; found {net!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measurements = []
        for net in nets:
            if progress is not None:
                progress(f"step: {net}, {threads} threads")
            size = NETS[net].batch_size if batch_size is None else batch_size
            measurements += _measure(net, size, threads, rounds, seconds, seed)
        return measurements
    finally:
        torch.set_num_threads(before)


def _measure(net: str, batch_size: int, threads: int, rounds: int, seconds: float, seed: int) -> list[StepMeasurement]:
    model, images, labels = _problem(NETS[net], batch_size, seed)
    small = min(NETS[net].small_batch_size, batch_size)
    models = {name: copy.deepcopy(model) for name in CONTENDERS}
    inside: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    steps = {name: prepare_step(name, models[name], inside[name]) for name in CONTENDERS}
    check_first_steps(model, models, steps, images, labels)
    long = {name: partial(steps[name], images, labels) for name in (PLAIN, HOOK, DECOUPLED)}
    for seconds_inside in inside.values():
        seconds_inside.clear()  # the first step has more to do, once
    plain = time_interleaved(long, rounds=min(rounds, FULL_ROUNDS), seconds=seconds, seed=seed)[PLAIN]
    in_hooks = {name: list(seconds_inside) for name, seconds_inside in inside.items()}
    short = {name: partial(step, images[:small], labels[:small]) for name, step in steps.items()}
    times = time_interleaved(short, rounds=rounds, seconds=seconds, seed=seed)
    count = sum(weight.numel() for weight in _regularized(model))
    sizes = (batch_size, small, count, threads)
    return [_row(net, name, sizes, plain, times[name], times[PLAIN], in_hooks[name]) for name in CONTENDERS]


def _problem(net: Net, batch_size: int, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with fresh weights in training mode, random images and random labels."""
    channels = net.shape[0]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = skreg.models.build(
            net.model, classes=net.classes, shape=net.shape, mean=[0.5] * channels, std=[0.5] * channels
        )
        return model.train(), torch.rand(batch_size, *net.shape), torch.randint(net.classes, (batch_size,))


def prepare_step(name: str, model: nn.Module, inside: list[float]) -> _Step:
    """The training step of a contender, to be called again and again; a hook's seconds are appended to `inside`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    regularizer = SmoothKernelRegularizer(model, strength=STRENGTH)
    if name in (HOOK, DECOUPLED):
        _attach_timed(regularizer, optimizer, name == DECOUPLED, inside)
    weights = _regularized(model)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        if name == LOSS:
            loss = loss + regularizer()
        elif name == NAIVE:
            loss = loss + STRENGTH * naive_penalty(weights, regularizer.options)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def _attach_timed(
    regularizer: SmoothKernelRegularizer, optimizer: Optimizer, decoupled: bool, inside: list[float]
) -> None:
    """Attach between two hooks that read the clock: hooks run in the order of their registration."""
    register = optimizer.register_step_post_hook if decoupled else optimizer.register_step_pre_hook
    begin = 0.0

    def start(*_: object) -> None:
        nonlocal begin
        begin = time.perf_counter()

    register(start)
    regularizer.attach(optimizer, decoupled=decoupled)
    register(lambda *_: inside.append(time.perf_counter() - begin))


def check_first_steps(
    start: nn.Module, models: Mapping[str, nn.Module], steps: Mapping[str, _Step], images: Tensor, labels: Tensor
) -> None:
    """Take the first step of each contender and compare the weights with the plain step's and the reference gradient.

    The coupled forms take the gradient at the weights before the step, the decoupled one at those after it.

    Raises:
        AssertionError: names the contender and the weight.
    """
    for step in steps.values():
        step(images, labels)
    names = SmoothKernelRegularizer(start).names
    plain, options = _regularized(models[PLAIN]), SmoothKernelRegularizer(start).options
    gradients = {point: expected_result(_regularized(point), options)[1] for point in (start, models[PLAIN])}
    for contender, model in models.items():
        point = models[PLAIN] if contender == DECOUPLED else start
        factor = 0.0 if contender in (PLAIN, AGAIN) else LEARNING_RATE * STRENGTH
        for name, without, found, gradient in zip(names, plain, _regularized(model), gradients[point], strict=True):
            largest = LEARNING_RATE * STRENGTH * gradient.abs().max().item()
            error = (found - (without - factor * gradient)).abs().max().item()
            if not error <= TOLERANCE * largest:
                raise AssertionError(
                    f"{contender}: {name} after one step is off by {error:.3g}, more than {TOLERANCE:g} of "
                    f"{largest:.3g}, the largest move by the penalty"
                )


def _regularized(model: nn.Module) -> list[Tensor]:
    return [weight for _, weight in SmoothKernelRegularizer(model).named_parameters()]


def _row(
    net: str,
    name: str,
    sizes: tuple[int, int, int, int],
    long_plain: Sequence[float],
    times: Sequence[float],
    plain: Sequence[float],
    inside: Sequence[float],
) -> StepMeasurement:
    whole = statistics.median(long_plain)
    differences = [own - other for own, other in zip(times, plain, strict=True)]
    lower, upper = median_interval(differences)
    added = statistics.median(differences)
    in_hook = statistics.median(inside) if inside else None
    batch_size, small_batch_size, count, threads = sizes
    return StepMeasurement(
        net=net,
        contender=name,
        batch_size=batch_size,
        small_batch_size=small_batch_size,
        count=count,
        threads=threads,
        samples=len(times),
        plain_ms=round(1e3 * whole, 3),
        small_plain_ms=round(1e3 * statistics.median(plain), 3),
        lower_added_ms=round(1e3 * lower, 4),
        added_ms=round(1e3 * added, 4),
        upper_added_ms=round(1e3 * upper, 4),
        lower_overhead=round(1 + lower / whole, 5),
        overhead=round(1 + added / whole, 5),
        upper_overhead=round(1 + upper / whole, 5),
        inside_ms=None if in_hook is None else round(1e3 * in_hook, 4),
        inside_overhead=None if in_hook is None else round(1 + in_hook / whole, 5),
    )
