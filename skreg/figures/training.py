"""How nets were trained: loss, accuracy and kernels over epochs, from the runs' logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skreg._checks import check_choice
from skreg._extras import require
from skreg.figures.drawing import Drawing
from skreg.figures.lines import panels, style
from skreg.figures.lineup import Lineup, check_runs
from skreg.training import Run, RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Keys of the log (see `skreg.training.train`), and titles of their panels.
MEASURES = {
    "loss": "loss",
    "data_loss": "data loss",
    "penalty": "penalty",
    "train_accuracy": "training accuracy",
    "validation_accuracy": "validation accuracy",
    "validation_pgd_accuracy": "validation accuracy, PGD",
}
LAYER_MEASURES = ("roughness", "norm")
_ACROSS = 3  # panels in a row


def training_curves(runs: Mapping[str, Run]) -> Figure:
    """Draw loss, penalty and accuracies over epochs, a panel each and a line a run; a dot marks the best epoch.

    Raises:
        ValueError: no runs.
        RunError: a run has no finished epoch, or a log without these numbers.
    """
    _check(runs)
    figure, axes = panels(MEASURES.values(), runs, across=_ACROSS)
    for panel, key in zip(axes, MEASURES, strict=True):
        for run in runs.values():
            _draw_line(panel, run, _series(run, key))
        if key.endswith("accuracy"):
            panel.set_ylim(-0.02, 1.02)
    _label_epochs(axes)
    return figure


def layer_curves(runs: Mapping[str, Run], measure: str = "roughness") -> Figure:
    """Draw a measure of each conv weight's kernels over epochs, a panel a layer and a line a run.

    Args:
        runs: by name.
        measure: "roughness", D/E (paper, section 3), or "norm", Euclidean.

    Raises:
        ValueError: no runs, or another measure.
        RunError: a run has no finished epoch, or a log without these numbers.
    """
    check_choice("measure", measure, LAYER_MEASURES)
    _check(runs)
    layers = list(dict.fromkeys(layer for run in runs.values() for layer in _layers(run)))
    figure, axes = panels(layers, runs, across=_ACROSS)
    for panel in axes[::_ACROSS]:
        panel.set_ylabel("D/E" if measure == "roughness" else measure, size=9)
    for panel, layer in zip(axes, layers, strict=True):
        for run in runs.values():
            if layer in _layers(run):
                _draw_line(panel, run, _layer_series(run, layer, measure))
        panel.set_ylim(bottom=0)
    _label_epochs(axes)
    return figure


def draw_training(lineup: Lineup) -> Iterator[Drawing]:
    """Three drawings: losses and accuracies, roughness of each layer, norm of each layer."""
    runs = lineup.runs
    best = "A dot marks the epoch with the best score, whose weights are kept and evaluated."
    yield Drawing(
        name="training",
        title="Training: loss and accuracy",
        caption="Over the epochs, from log.jsonl of each run. Loss is data loss plus penalty (lambda R), each a mean "
        "over the epoch's training images. Training accuracy is on what the loss sees: adversarial images for A, clean "
        "ones else. Validation accuracy is on clean images kept apart from training and, under PGD at the training eps "
        f"with {_several(run.config.validation_attack_steps for run in runs.values())} steps, on "
        f"{_several(run.config.validation_attack_images for run in runs.values())} of them at most, evenly spread. "
        f"{best}",
        alt="Six panels of lines over epochs: loss, data loss, penalty, and accuracy in training, in validation and in "
        f"validation under PGD. At the best epochs validation accuracy is {_best(runs, 'validation_accuracy')}; under "
        f"PGD {_best(runs, 'validation_pgd_accuracy')}.",
        figure=training_curves(runs),
    )
    for measure, words in (
        ("roughness", "D/E, squared differences of neighbouring weights over squared weights: smaller is smoother."),
        ("norm", "Euclidean norm of the weight: the default penalty lets large smooth kernels grow."),
    ):
        yield Drawing(
            name=f"training-{measure}",
            title=f"Training: {measure} of each layer",
            caption=f"{words} A panel for each conv weight that the penalty would take, over the epochs. {best}",
            alt=f"A panel of lines over epochs for each conv weight. Mean {measure} at the best epoch: "
            f"{_mean_measures(runs, measure)}.",
            figure=layer_curves(runs, measure),
        )


def best_record(run: Run) -> dict[str, Any]:
    """The log's record of the epoch whose weights are kept: the first of those with the best score.

    Raises:
        RunError: no epoch is finished.
    """
    if not run.log:
        raise RunError(f"{run.path} has no finished epoch to draw; train on with --resume, or leave it out")
    return max(run.log, key=lambda record: float(record["score"]))


def _check(runs: Mapping[str, Run]) -> None:
    check_runs(runs)
    for run in runs.values():
        for number, record in enumerate(run.log, start=1):
            missing = [key for key in (*MEASURES, "epoch", "score", "layers") if key not in record]
            if missing:
                raise RunError(f"{run.path}/log.jsonl, line {number}: {', '.join(missing)} is missing; put back a copy")
        best_record(run)


def _series(run: Run, key: str) -> list[float]:
    return [record[key] for record in run.log]


def _layer_series(run: Run, layer: str, measure: str) -> list[float]:
    return [next(each[measure] for each in record["layers"] if each["name"] == layer) for record in run.log]


def _layers(run: Run) -> list[str]:
    return [each["name"] for each in run.log[0]["layers"]]


def _draw_line(panel: Axes, run: Run, values: Sequence[float]) -> None:
    epochs = [record["epoch"] for record in run.log]
    panel.plot(epochs, values, **style(run))
    best = best_record(run)["epoch"]
    panel.plot([best], [values[epochs.index(best)]], "o", color=style(run)["color"], markersize=4)


def _label_epochs(axes: Sequence[Axes]) -> None:
    for panel in axes:
        panel.set_xlabel("epoch", size=9)
        panel.xaxis.set_major_locator(require("matplotlib.ticker", "lab").MaxNLocator(integer=True))


def _several(values: Iterator[int]) -> str:
    return " or ".join(map(str, sorted(set(values))))


def _best(runs: Mapping[str, Run], key: str) -> str:
    return ", ".join(f"{name} {best_record(run)[key]:.3f}" for name, run in runs.items())


def _mean_measures(runs: Mapping[str, Run], measure: str) -> str:
    means = {}
    for name, run in runs.items():
        values = [layer[measure] for layer in best_record(run)["layers"]]
        means[name] = sum(values) / len(values) if values else 0.0
    return ", ".join(f"{name} {mean:.3g}" for name, mean in means.items())
