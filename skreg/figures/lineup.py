"""Trained runs side by side, in the paper's order, with the test images that they are judged on."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from skreg.data import DATASETS, DatasetInfo, load
from skreg.training import VARIANTS, Run, RunError

POOL = 1000  # test images that figures choose from: enough of every class, and few enough for ImageNet's size


@dataclass(frozen=True)
class Lineup:
    """What every figure of runs is made from; `line_up` makes it.

    Attributes:
        runs: by the name to write beside them, in the order V VR VH T TR TH A AR AH L LR LH.
        info: facts about the data set that all of them were trained on.
        seed: of everything random.
        quick: whether fewer images and steps will do.
        device: where to compute.
        data_root: folder of the data set; None for the one used in training.
        numbers: folder that keeps what took long to compute; None to keep nothing.
        told: is called with a line before each step of something long.
    """

    runs: Mapping[str, Run]
    info: DatasetInfo
    seed: int
    quick: bool
    device: torch.device
    data_root: str | os.PathLike[str] | None
    numbers: Path | None
    told: Callable[[str], None]

    @cached_property
    def models(self) -> dict[str, nn.Module]:
        """The nets with their best weights, in eval mode.

        Raises:
            RunError: a run has no weights, damaged ones, or some that are not finite.
        """
        models = {name: run.load_model("best", self.device) for name, run in self.runs.items()}
        for name, model in models.items():
            broken = [key for key, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())]
            if broken:
                raise RunError(
                    f"{self.runs[name].path}: the weights hold NaN or infinite values in {', '.join(broken)}, so there "
                    "is nothing to draw; leave this run out"
                )
        return models

    def test_images(self, limit: int = POOL) -> tuple[Tensor, Tensor]:
        """Float test images N C H W in [0, 1] and their labels N, the same for all runs.

        At most `limit` of them, the first ones of the fixed permutation of `skreg.data.load`.

        Raises:
            DatasetNotFoundError, DatasetFormatError: as `skreg.data.load` does.
        """
        root = self.data_root or next(iter(self.runs.values())).config.data_root
        pixels, labels = load(self.info.name, "test", root, limit)
        return pixels.to(self.device).float() / 255, labels.to(self.device)


def line_up(
    runs: Sequence[Run],
    *,
    seed: int = 0,
    quick: bool = False,
    device: str | torch.device | None = None,
    data_root: str | os.PathLike[str] | None = None,
    numbers: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Lineup:
    """Put runs in the paper's order and name them: by variant or, where two share one, by folder.

    Args:
        runs: of one data set; see `Lineup` for the rest. `device` None takes a GPU where there is one.

    Raises:
        ValueError: no runs, the same folder twice, or runs of several data sets; says which run is of which.
    """
    check_runs(runs)
    folders = [Path(run.path).resolve() for run in runs]
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if twice:
        raise ValueError(f"runs: expected different ones, found twice: {', '.join(twice)}")
    datasets = {run.config.data for run in runs}
    if len(datasets) > 1:
        found = ", ".join(f"{run.path} ({run.config.data})" for run in runs)
        raise ValueError(f"runs: expected one data set, found {found}; draw the runs of each data set by themselves")
    ordered = sorted(runs, key=lambda run: VARIANTS.index(run.config.variant))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Lineup(
        runs=dict(zip(_names(ordered), ordered, strict=True)),
        info=DATASETS[datasets.pop()],
        seed=seed,
        quick=quick,
        device=torch.device(device),
        data_root=data_root,
        numbers=None if numbers is None else Path(numbers),
        told=progress or (lambda step: None),
    )


def check_runs(runs: Collection[object]) -> None:
    """Refuse an empty collection of runs, which would make an empty picture.

    Raises:
        ValueError: there are none.
    """
    if not runs:
        raise ValueError("runs: expected at least one, found none")


def _names(runs: Sequence[Run]) -> list[str]:
    """What tells the runs apart in the fewest letters: variants, folders' names, or paths from where they part."""
    folders = [Path(run.path).resolve() for run in runs]
    common = os.path.commonpath([folder.parent for folder in folders])
    choices = (
        [run.config.variant for run in runs],
        [folder.name for folder in folders],
        [folder.relative_to(common).as_posix() for folder in folders],
    )
    return next(names for names in choices if len(set(names)) == len(names))
