"""What a training run does: every choice in one record, checked when it is made."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from skreg.data import DATASETS
from skreg.models import NETS
from skreg.options import PenaltyOptions
from skreg.training.optimization import check_optimizer, check_schedule

VARIANTS = ("V", "VR", "VH", "T", "TR", "TH", "A", "AR", "AH", "L", "LR", "LH")
PRECISIONS = ("float32", "bfloat16")
LOADERS = ("device", "workers")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The choices of one training run. `None` means the data set's own value, where one is named.

    Attributes:
        data: name in `skreg.data.DATASETS`.
        variant: the paper's names (sec. 4). The first letter is the loss: V cross-entropy, T TRADES, A
            adversarial training, L logit pairing. R adds `strength` times the penalty, H subtracts it, plain
            ones leave it out.
        data_root: folder of the data set; `None` searches the usual places.
        net: name in `skreg.models.NETS`; `None` takes the data set's.
        limit: use this many training images only (validation images included); `None` uses all.
        validation_fraction: share of the training images kept apart to choose the best epoch.
        epochs: passes over the training images.
        batch_size: images a step, of all processes together.
        optimizer: adam, adamw, sgd, or the exact name of a class in `torch.optim`.
        optimizer_options: its keyword arguments, such as `weight_decay`.
        learning_rate: its `lr`; the peak with schedule onecycle. Never scaled by the number of processes.
        schedule: constant, cosine, step, multistep or onecycle.
        schedule_options: keyword arguments of the schedule; `step_size` and `milestones` count epochs.
        eps: linf bound of the attacks in training and validation, pixels in [0, 1]; `None` takes the data
            set's.
        attack_steps: PGD steps in training (T, A, L).
        step_size: PGD step, pixels in [0, 1]; `None` leaves it to `skreg.attacks.PGD`.
        gamma: weight of the KL term (T, L).
        strength: |lambda|, the weight of the penalty; not used without R or H.
        normalize, exponentiate, reduction, connectivity, max_exponent: see `skreg.smooth_kernel_penalty`.
        include, exclude: fnmatch patterns over parameter names that choose the layers of the penalty.
        seed: of the weights, the split, the order of the images and the attacks' random starts.
        device: a torch device, or "auto": a GPU when there is one.
        precision: "float32", or "bfloat16" for autocast of the forward passes. The penalty is never autocast.
        channels_last: keep images and weights in the channels_last memory format.
        patience: stop after this many epochs without a better validation score; `None` never does.
        validation_attack_steps: PGD steps of the validation accuracy under attack.
        validation_attack_images: number of validation images attacked after each epoch (the first ones).
        deterministic: use deterministic algorithms only (`torch.use_deterministic_algorithms`).
        compile: call the net through `torch.compile`.
        loader: "device" keeps the images on the device, as bytes; "workers" keeps them in the machine's memory, and
            processes collect the batches. Both give the same batches.
        workers: the number of these processes.
        fsdp: where several processes train, spread weights and optimizer over them (FSDP2) instead of keeping a copy
            on each.

    Raises:
        ValueError: for a value out of range, naming the option, what it expects and what it found.
        TypeError: for a value of another type.
    """

    data: str
    variant: str = "VR"
    data_root: str | None = None
    net: str | None = None
    limit: int | None = None
    validation_fraction: float = 0.1
    epochs: int = 20
    batch_size: int = 128
    optimizer: str = "adam"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    schedule: str = "constant"
    schedule_options: dict[str, Any] = field(default_factory=dict)
    eps: float | None = None
    attack_steps: int = 10
    step_size: float | None = None
    gamma: float = 1.0
    strength: float = 1e-3
    normalize: str | None = "subtract"
    exponentiate: str | None = "kernel"
    reduction: str = "sum"
    connectivity: int = 1
    max_exponent: float | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    channels_last: bool = False
    patience: int | None = None
    validation_attack_steps: int = 10
    validation_attack_images: int = 500
    deterministic: bool = False
    compile: bool = False
    loader: str = "device"
    workers: int = 2
    fsdp: bool = False

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), list):  # as JSON gives it
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, hint in typing.get_type_hints(TrainConfig).items():
            _check_type(name, getattr(self, name), hint)
        for name in ("optimizer_options", "schedule_options"):
            object.__setattr__(self, name, _as_json(name, getattr(self, name)))

        _check_choice("data", self.data, DATASETS)
        _check_choice("variant", self.variant, VARIANTS)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("loader", self.loader, LOADERS)
        if self.net is not None:
            _check_choice("net", self.net, NETS)
        for name in (
            "epochs",
            "batch_size",
            "attack_steps",
            "validation_attack_steps",
            "validation_attack_images",
            "workers",
        ):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("limit", "patience"):
            if getattr(self, name) is not None:
                _check_at_least(name, getattr(self, name), 1)
        _check_at_least("seed", self.seed, 0)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: expected between 0 and 1, found {self.validation_fraction}")
        for name in ("learning_rate", "eps", "step_size", "strength"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a finite number above 0, found {value}")
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(f"gamma: expected a finite number, 0 or more, found {self.gamma}")
        if self.device != "auto":
            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise ValueError(f'device: expected "auto" or a torch device, found {self.device!r}') from error
        if self.fsdp and self.compile:
            raise ValueError("fsdp: not together with compile, which has not been tried on sharded nets; drop one")
        check_optimizer(self.optimizer, self.optimizer_options)
        check_schedule(self.schedule, self.schedule_options)
        PenaltyOptions(**self.penalty_options)

    @property
    def loss(self) -> str:
        """The letter of the loss: V, T, A or L."""
        return self.variant[0]

    @property
    def memory_format(self) -> torch.memory_format:
        """In which images and weights are kept."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def signed_strength(self) -> float:
        """The factor lambda of the penalty in the loss: positive for R, negative for H, else 0."""
        return self.strength * {"": 0.0, "R": 1.0, "H": -1.0}[self.variant[1:]]

    @property
    def penalty_options(self) -> dict[str, Any]:
        """The options of `skreg.smooth_kernel_penalty`."""
        names = ("normalize", "exponentiate", "reduction", "connectivity", "max_exponent")
        return {name: getattr(self, name) for name in names}

    def resolved(self) -> TrainConfig:
        """The same configuration with the data set's net and eps and this machine's device filled in.

        Raises:
            ValueError: when the device asked for is not there.
        """
        info = DATASETS[self.data]
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device: found {device!r}, but torch sees no GPU here; use cpu or auto")
        return dataclasses.replace(
            self,
            net=info.net if self.net is None else self.net,
            eps=info.eps if self.eps is None else self.eps,
            device=device,
        )

    def as_dict(self) -> dict[str, Any]:
        """The choices as plain values for JSON."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `as_dict`; a key that is no option is an error that names the nearest one."""
        names = [each.name for each in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(names)}"
                raise ValueError(f"configuration: unknown option {key!r}{hint}")
        if "data" not in values:
            raise ValueError(f"configuration: data is missing; one of {', '.join(DATASETS)}")
        return cls(**values)

    def to_json(self) -> str:
        """The choices as a JSON object."""
        return json.dumps(self.as_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The inverse of `to_json`."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"configuration: expected a JSON object, found {type(values).__name__}")
        return cls.from_dict(values)


def _check_type(name: str, value: object, hint: Any) -> None:
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(typing.get_origin(each) or each for each in hints)
    fits = isinstance(value, kinds + (int,) if float in kinds else kinds)
    if isinstance(value, bool) and bool not in kinds:
        fits = False
    if isinstance(value, tuple) and not all(isinstance(each, str) for each in value):
        fits = False
    if not fits:
        expected = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise TypeError(f"{name}: expected {expected}, found {value!r}")


def _check_choice(name: str, value: str, choices: typing.Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}; found {value!r}")


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: expected {least} or more, found {value}")


def _as_json(name: str, options: dict[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected values that JSON can hold, found {options!r}") from error
