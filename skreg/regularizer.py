"""The regularizer: which weights, how strongly, and the penalty of a model in one call."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skreg.effective import Weight
from skreg.hook import attach
from skreg.options import Exponentiate, Normalize, PenaltyOptions, Reduction
from skreg.penalty import penalty
from skreg.selection import Patterns, finite, match_coefficients, select_weights
from skreg.sharding import check_placements, is_distributed, sharded_penalty
from skreg.statistics import KernelStatistics, kernel_statistics

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

Schedule = Callable[[int], float]

_USES_WITHOUT_A_STEP = 1000


class SmoothKernelRegularizer:
    """Penalises differences between neighbouring weights in a model's convolution kernels (paper, section 3).

    Use one of two forms. As part of the loss: ``(loss + reg()).backward()``. Or as a hook, which is faster
    because no graph is built: ``reg.attach(optimizer)`` once, and every ``optimizer.step()`` sees the
    penalty's gradient.

    Only parameters that require a gradient at the time of a call count, in the value and in the gradient: a
    frozen layer adds nothing. The parameters of a module are looked up in each call, so it may be moved, cast,
    loaded, pruned or sharded (`fully_shard`) afterwards; (name, parameter) pairs are held by reference.

    A weight that its convolution computes (`torch.nn.utils.parametrizations.weight_norm`, pruning) is
    regularized as the convolution uses it, in the loss form; the hook refuses it by name.

    Args:
        model_or_named_parameters: a module, whose weights of convolutions (1-D to 3-D, transposed too) are
            taken, or (name, parameter) pairs, which are all taken. Single-element (1x1) kernels have no
            neighbours and are left out.
        strength: the factor in front of the penalty; it may be negative (the paper's H variants, section
            4.1). Or a schedule: a callable of the number of calls of `step` so far, from 0. It may be set at any
            time, also under `torch.compile`, which does not compile again.
        include: fnmatch patterns over parameter names; the floating parameters with 3 to 5 dimensions that
            match any of them are taken instead, whatever module they belong to. A 1x1 kernel is taken when
            its exact name is given.
        exclude: patterns of parameters to leave out.
        coefficients: factors by pattern, for single layers or groups of them. The last pattern that matches a
            name decides, so general ones come first: ``{"*": 0.1, "stem.*": 1.0}``. Unmatched: 1.
        normalize: how S is formed, see `PenaltyOptions`; so are the rest.
        exponentiate: what exp is taken of.
        reduction: ``"sum"`` or ``"mean"`` over the kernels of a layer.
        connectivity: which positions are neighbours.
        max_exponent: where exp becomes linear.

    Attributes:
        options: the penalty's options.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a pattern that matches nothing, an empty selection, a weight given twice or not
            initialised yet or sharded inside its kernels, a strength or coefficient that is not finite, an
            unknown option.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> reg = SmoothKernelRegularizer(model, strength=1e-3)
        >>> reg.names
        ['0.weight']
        >>> reg().backward()
    """

    def __init__(
        self,
        model_or_named_parameters: nn.Module | Iterable[tuple[str, Tensor]],
        strength: float | Schedule = 1e-3,
        *,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        coefficients: Mapping[str, float] | None = None,
        normalize: Normalize | None = "subtract",
        exponentiate: Exponentiate | None = "kernel",
        reduction: Reduction = "sum",
        connectivity: int = 1,
        max_exponent: float | None = None,
    ) -> None:
        self.options = PenaltyOptions(normalize, exponentiate, reduction, connectivity, max_exponent)
        source = model_or_named_parameters
        selected = select_weights(source, include, exclude)
        for name, weight in selected.items():
            check_placements(weight, name)
        self._names = list(selected)
        self._weights = [Weight(name, weight, source) for name, weight in selected.items()]
        factors = match_coefficients(self._names, coefficients)
        # On the CPU whatever the default device: the operator reads it without a transfer. A tensor, because
        # that is an input of compiled code: a new strength does not compile anew.
        self._coefficients = torch.tensor(factors, dtype=torch.float64, device="cpu")
        self._steps = 0
        self._uses = 0  # of a schedule whose step() was not called yet
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self.strength = strength

    @property
    def strength(self) -> float:
        """The factor in front of the penalty now. Setting it to a callable sets a schedule, to a number ends one.

        Example:
            >>> reg = SmoothKernelRegularizer(nn.Conv2d(1, 1, 3), strength=lambda step: 0.1 * min(1.0, step / 10))
            >>> reg.strength
            0.0
            >>> reg.strength = 0.5
        """
        return self._strength

    @strength.setter
    def strength(self, value: float | Schedule) -> None:
        schedule = value if callable(value) else None
        self._set(value if schedule is None else self._scheduled(schedule, self._steps))
        self._schedule = schedule
        self._uses = 0

    def _set(self, strength: Any) -> None:
        self._strength = finite("strength", strength)
        # Not in place: a graph that waits for its backward pass holds the old one.
        self._scaled = self._coefficients * self._strength

    @staticmethod
    def _scheduled(schedule: Schedule, steps: int) -> float:
        return finite(f"strength({steps})", schedule(steps))

    @property
    def steps(self) -> int:
        """How often `step` was called: what a schedule of the strength is a function of.

        Example:
            >>> SmoothKernelRegularizer(nn.Conv2d(1, 1, 3)).steps
            0
        """
        return self._steps

    def step(self) -> None:
        """Advance a schedule of the strength by one; call it right after ``optimizer.step()``, as a scheduler's.

        It does the same in the loss form and attached to any number of optimizers, because nothing else counts. A
        strength that is a number stays.

        Raises:
            TypeError, ValueError: the schedule returns something else than a finite number; nothing changes.

        Example:
            >>> reg = SmoothKernelRegularizer(nn.Conv2d(1, 1, 3), strength=lambda step: 0.5**step)
            >>> reg.step()
            >>> reg.steps, reg.strength
            (1, 0.5)
        """
        if self._schedule is not None:
            self._set(self._scheduled(self._schedule, self._steps + 1))
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: steps, strength, and names, coefficients and options to compare with.

        Plain numbers, strings, lists and dictionaries, so that ``torch.load(weights_only=True)`` reads it. A
        schedule is not part of it, like the functions of `torch.optim.lr_scheduler.LambdaLR`.

        Example:
            >>> reg = SmoothKernelRegularizer(nn.Conv2d(1, 1, 3), strength=0.5)
            >>> reg.state_dict()["strength"], reg.state_dict()["names"]
            (0.5, ['weight'])
        """
        return {
            "steps": self._steps,
            "strength": self._strength,
            "scheduled": self._schedule is not None,
            "names": self.names,
            "coefficients": self._coefficients.tolist(),
            "options": self.options.as_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`: its steps and its strength, or with a schedule the strength at its steps.

        Raises:
            ValueError: `state` is not of this kind, or names, coefficients, options or the presence of a schedule
                differ; the message says how, and nothing changes.

        Example:
            >>> reg = SmoothKernelRegularizer(nn.Conv2d(1, 1, 3), strength=0.5)
            >>> other = SmoothKernelRegularizer(nn.Conv2d(1, 1, 3))
            >>> other.load_state_dict(reg.state_dict())
            >>> other.strength
            0.5
        """
        own = self.state_dict()
        if not isinstance(state, Mapping) or set(state) != set(own):
            found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"state of the regularizer: expected the keys {sorted(own)}, found {found}")
        for key in ("names", "coefficients", "options"):
            if state[key] != own[key]:
                raise ValueError(_difference(key, own[key], state[key]))
        if state["scheduled"] != own["scheduled"]:
            saved, here = ("a schedule", "a number") if state["scheduled"] else ("a number", "a schedule")
            raise ValueError(
                f"strength: saved as {saved}, here {here}; build the regularizer with {saved} "
                "and set reg.strength after loading"
            )
        steps = state["steps"]
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"steps: expected a count, found {steps!r}")
        self._set(state["strength"] if self._schedule is None else self._scheduled(self._schedule, steps))
        self._steps = steps

    @property
    def names(self) -> list[str]:
        """The names of the regularized parameters, frozen ones included.

        Example:
            >>> SmoothKernelRegularizer(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(1, 1))).names
            ['0.weight']
        """
        return list(self._names)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The regularized parameters with their names, frozen ones included.

        Example:
            >>> reg = SmoothKernelRegularizer(nn.Conv2d(3, 8, 3))
            >>> [(name, tuple(weight.shape)) for name, weight in reg.named_parameters()]
            [('weight', (8, 3, 3, 3))]
        """
        return ((weight.name, weight.tensor()) for weight in self._weights)

    def computed(self) -> list[str]:
        """The names of the weights that their modules compute from other parameters now.

        Example:
            >>> convolution = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3))
            >>> SmoothKernelRegularizer(convolution).computed()
            ['weight']
        """
        return [weight.name for weight in self._weights if weight.is_computed()]

    def trainable(self, among: Container[int] | None = None) -> tuple[list[str], list[Tensor], Tensor]:
        """What counts now: the weights that require a gradient.

        Args:
            among: keep only parameters whose `id` is in here.

        Returns:
            Names, weights, and strength times coefficient of each as a float64 tensor ``(n,)`` on the CPU.

        Example:
            >>> names, weights, factors = SmoothKernelRegularizer(nn.Conv2d(1, 1, 3), strength=0.5).trainable()
            >>> names, factors.tolist()
            (['weight'], [0.5])
        """
        weights = [weight.tensor() for weight in self._weights]
        chosen = [
            index
            for index, weight in enumerate(weights)
            if weight.requires_grad and (among is None or id(weight) in among)
        ]
        if not torch.compiler.is_compiling() and self._schedule is not None:  # in this order: the schedule is no guard
            self._warn_of_a_schedule_at_rest()
        if len(chosen) == len(weights):
            return self._names, weights, self._scaled
        scaled = self._scaled[torch.tensor(chosen, dtype=torch.int64, device="cpu")]
        return [self._names[i] for i in chosen], [weights[i] for i in chosen], scaled

    def _warn_of_a_schedule_at_rest(self) -> None:
        if self._steps:
            return
        self._uses += 1
        if self._uses == _USES_WITHOUT_A_STEP:
            warnings.warn(
                f"the strength has a schedule but has stayed at its start, {self._strength:g}, for {self._uses} uses: "
                "call reg.step() after optimizer.step()",
                RuntimeWarning,
                stacklevel=2,
            )

    def __call__(self) -> Tensor:
        """Strength times R, a scalar to add to the loss; 0 when every parameter is frozen.

        With weights that are spread over processes (`fully_shard`), each process must call it and gets the same
        value; see `skreg.sharding`.

        Raises:
            FloatingPointError: R is not finite; the message names the layer.

        Example:
            >>> reg = SmoothKernelRegularizer(nn.Conv2d(1, 1, 3), strength=0.5)
            >>> loss = torch.ones(()) + reg()
            >>> loss.backward()
        """
        names, weights, scaled = self.trainable()
        if not weights:
            return torch.zeros((), device=self._weights[0].tensor().device)
        if any(map(is_distributed, weights)):
            return sharded_penalty(weights, scaled, self.options, names)
        return penalty(weights, scaled, self.options, names)

    @property
    def optimizers(self) -> weakref.WeakSet[Optimizer]:
        """The optimizers that it was attached to and that are alive, held weakly.

        Example:
            >>> convolution = nn.Conv2d(1, 1, 3)
            >>> reg, optimizer = SmoothKernelRegularizer(convolution), torch.optim.SGD(convolution.parameters(), lr=0.1)
            >>> handle = reg.attach(optimizer)
            >>> optimizer in reg.optimizers
            True
        """
        return self._optimizers

    def __getstate__(self) -> dict[str, Any]:
        # A copy is attached to nothing: optimizers lose their hooks in copies as well.
        return {key: value for key, value in self.__dict__.items() if key != "_optimizers"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _optimizers=weakref.WeakSet())

    def attach(self, optimizer: Optimizer, *, decoupled: bool = False) -> RemovableHandle:
        """Let every ``optimizer.step()`` minimise the penalty as well; see `skreg.hook.attach`.

        Example:
            >>> model = nn.Conv2d(1, 1, 3)
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> handle = SmoothKernelRegularizer(model, strength=0.5).attach(optimizer)
            >>> optimizer.step()
            >>> handle.remove()
        """
        return attach(self, optimizer, decoupled=decoupled)

    def statistics(self) -> list[KernelStatistics]:
        """Roughness, spectrum and penalty of each regularized weight as it is now, frozen ones included.

        Example:
            >>> reg = SmoothKernelRegularizer(nn.Conv2d(1, 2, 3))
            >>> reg.statistics()[0].kernels
            2
        """
        return kernel_statistics(dict(self.named_parameters()), self.options)

    def __repr__(self) -> str:
        kernels = sum(weight.shape[:2].numel() for _, weight in self.named_parameters())
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.as_dict().items())
        return (
            f"{type(self).__name__}({len(self._weights)} layers, {kernels} kernels, "
            f"strength={self.strength:g}, {options})"
        )


def _difference(key: str, own: Any, saved: Any) -> str:
    """How two values of a state's key differ, in words."""
    if key == "names" and isinstance(saved, list):
        missing, unknown = [n for n in own if n not in saved], [n for n in saved if n not in own]
        detail = f"not in the state: {missing}; not in this regularizer: {unknown}"
        if not missing and not unknown:
            detail = f"in another order: {saved} instead of {own}"
    elif key == "options" and isinstance(saved, Mapping):
        changed = [name for name in {**own, **saved} if own.get(name) != saved.get(name)]
        detail = ", ".join(f"{name}={saved.get(name)!r} saved, {own.get(name)!r} here" for name in changed)
    else:
        detail = f"{saved} saved, {own} here"
    return f"{key}: the state is of another regularizer ({detail}); build this one as that was built"
