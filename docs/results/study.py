"""Tables and pictures of many runs at once: what docs/results shows.

    python docs/results/study.py RUNS OUTPUT [--pair RUN OTHER]... [--fourier RUN...]

RUNS is a folder with run folders below it, such as V/s0 and V/kernel-1e-2; a run is called by its path there.
OUTPUT gets

    runs.csv        every run: what was trained, and the best epoch with roughness and norm of each layer
    evaluation.csv  accuracies of the runs that `skreg evaluate` has seen, with 95% intervals
    pairs.csv       for each --pair, how much farther OTHER's adversarial images are than RUN's, image by image
    plane.png       roughness against norm of both layers of all runs
    fourier.csv, .png   with --fourier: error by the frequency of a perturbation

With --fourier a run takes about a minute, and nothing is kept for the next time.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from safetensors.torch import load_file
from torch import Tensor

from skreg.data import load
from skreg.evaluation import write_results
from skreg.evaluation.frequency import fourier_error, radial_mean
from skreg.evaluation.reading import is_evaluated, read_evaluation
from skreg.figures import save
from skreg.training import Run, list_runs, load_run
from skreg.training.checkpoint import write_file

RESAMPLES = 2000
RINGS = 10
COLOURS = {"V": "#0072b2", "T": "#d55e00", "A": "#009e73", "L": "#cc79a7"}
MARKERS = {"": "o", "R": "s", "H": "^"}


def read_runs(folder: Path) -> dict[str, Run]:
    """The finished runs below `folder` by their path in it."""
    finished = [each.path for each in list_runs(folder) if each.state == "finished"]
    return {path.relative_to(folder).as_posix(): load_run(path) for path in finished}


def describe_penalty(run: Run) -> str:
    """The form of the penalty in a few words; "" for a run without one."""
    config = run.config
    if not config.signed_strength:
        return ""
    score = {"subtract": "D - E", "divide": "D / E", None: "D"}[config.normalize]
    if config.exponentiate == "kernel":
        score = f"exp({score})"
    total = f"{config.reduction} of {score}"
    if config.exponentiate == "layer":
        total = f"exp({config.reduction} of {score})"
    return total + (f", {' '.join(config.include)} only" if config.include else "")


def best_epoch(run: Run) -> dict:
    """The log's record of the epoch whose weights are kept."""
    return max(run.log, key=lambda record: record["score"])


def tabulate_runs(runs: dict[str, Run]) -> list[dict]:
    """A row a run."""
    rows = []
    for name, run in runs.items():
        best, config = best_epoch(run), run.config
        row = {
            "run": name,
            "variant": config.variant,
            "penalty": describe_penalty(run),
            "strength": config.strength if config.signed_strength else "",
            "weight_decay": config.optimizer_options.get("weight_decay", ""),
            "gamma": config.gamma if config.loss in "TL" else "",
            "seed": config.seed,
            "epochs": config.epochs,
            "best_epoch": best["epoch"],
            "validation_accuracy": round(best["validation_accuracy"], 4),
            "validation_pgd_accuracy": round(best["validation_pgd_accuracy"], 4),
        }
        for layer in best["layers"]:
            short = layer["name"].removesuffix(".weight")
            row |= {f"{short}_roughness": round(layer["roughness"], 3), f"{short}_norm": round(layer["norm"], 3)}
        rows.append(row)
    return rows


def compare(distances: Tensor, others: Tensor, generator: torch.Generator) -> tuple[int, float, float, float]:
    """How much farther `others` are, image by image: number of images, median ratio, and its 95% bootstrap interval.

    Images that either model misclassifies (distance 0) or for which a search failed (inf) are left out.
    """
    both = distances.isfinite() & others.isfinite() & (distances > 0) & (others > 0)
    logs = (others[both] / distances[both]).log()
    count = len(logs)
    if not count:
        return 0, math.nan, math.nan, math.nan
    draws = torch.randint(count, (RESAMPLES, count), generator=generator)
    ends = logs[draws].median(dim=1).values.quantile(torch.tensor([0.025, 0.975], dtype=logs.dtype))
    return count, *torch.stack([logs.median(), *ends]).exp().tolist()


def tabulate_pairs(folder: Path, pairs: Iterable[Sequence[str]]) -> list[dict]:
    """A row for each pair, and each attack that has searched for the smallest perturbation of both."""
    norms = {"fgsm": "linf", "pgd": "linf", "deepfool_linf": "linf", "deepfool_l2": "l2", "cw": "l2"}
    rows = []
    for run, other in pairs:
        for attack, norm in norms.items():
            files = [folder / name / "evaluation" / f"paper-{attack}.safetensors" for name in (run, other)]
            if not all(file.exists() for file in files):
                continue
            a, b = (load_file(file)[norm] for file in files)
            shared = min(len(a), len(b))
            result = compare(a[:shared], b[:shared], torch.Generator().manual_seed(0))
            keys = ("images", "median_ratio", "lower", "upper")
            numbers = dict(zip(keys, (result[0], *(round(each, 4) for each in result[1:])), strict=True))
            rows.append({"run": run, "other": other, "attack": attack, "norm": norm, **numbers})
    return rows


def plane(runs: dict[str, Run]) -> Figure:
    """Roughness against norm, a panel a layer and a mark a run: smoothness and growth are seen apart."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    # In the nets' order; a run whose penalty leaves layers out has a record of the others alone.
    layers = list(dict.fromkeys(layer["name"] for run in runs.values() for layer in best_epoch(run)["layers"]))
    unique: dict[str, Line2D] = {}
    for index, layer in enumerate(layers):
        axes = figure.add_subplot(1, len(layers), index + 1, xscale="log", yscale="log")
        axes.set(title=layer, xlabel="norm", ylabel="roughness D / E")
        for run in runs.values():
            found = next((each for each in best_epoch(run)["layers"] if each["name"] == layer), None)
            if found is None:
                continue
            variant, decayed = run.config.variant, bool(run.config.optimizer_options.get("weight_decay"))
            axes.plot(
                found["norm"],
                found["roughness"],
                MARKERS[variant[1:]],
                color=COLOURS[variant[0]],
                markerfacecolor="none" if decayed else None,
                label=variant + (" with weight decay" if decayed else ""),
            )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
            axis.set_tick_params(which="both", labelsize=7)
        axes.grid(color="0.9", which="both", linewidth=0.5)
        handles, labels = axes.get_legend_handles_labels()
        unique |= dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def measure_fourier(run: Run, *, norm: float, limit: int) -> tuple[Tensor, Tensor]:
    """Ring edges in cycles a pixel (RINGS + 1) and the mean error rate in each ring (RINGS), on test images."""
    pixels, labels = load(run.config.data, "test", run.config.data_root, limit)
    errors = fourier_error(run.load_model(), pixels.float() / 255, labels, norm=norm)
    edges = torch.linspace(0, 0.71, RINGS + 1)
    return edges, radial_mean(errors, edges)


def draw_fourier(errors: dict[str, tuple[Tensor, Tensor]], norm: float) -> Figure:
    """Error rate by radius, a line a run."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    axes.set(xlabel="frequency, cycles a pixel", ylabel=f"error rate, perturbation of l2 norm {norm:g}", ylim=(0, None))
    for name, (edges, rates) in errors.items():
        axes.plot((edges[1:] + edges[:-1]) / 2, rates, marker="o", markersize=3, label=name)
    axes.grid(color="0.9")
    axes.legend(frameon=False, fontsize=8)
    return figure


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows, whose columns may differ; nothing where there are none."""
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=("RUN", "OTHER"))
    parser.add_argument("--fourier", nargs="+", default=[], metavar="RUN")
    parser.add_argument("--norm", type=float, default=4.0, help="l2 norm of the Fourier perturbations")
    parser.add_argument("--limit", type=int, default=200, help="test images of the Fourier perturbations")
    options = parser.parse_args(arguments)

    runs = read_runs(options.runs)
    unknown = sorted({*options.fourier, *(name for pair in options.pair for name in pair)} - runs.keys())
    if unknown or not runs:
        parser.error(f"no finished run {', '.join(unknown)} in {options.runs}; it has {', '.join(runs) or 'none'}")
    options.output.mkdir(parents=True, exist_ok=True)
    write_csv(options.output / "runs.csv", tabulate_runs(runs))
    evaluated = {name: read_evaluation(run) for name, run in runs.items() if is_evaluated(run)}
    if evaluated:
        named = [dataclasses.replace(evaluation, name=name) for name, evaluation in evaluated.items()]
        write_results(options.output / "evaluation.csv", named)
    write_csv(options.output / "pairs.csv", tabulate_pairs(options.runs, options.pair))
    save(plane(runs), options.output / "plane.png", dpi=110)
    if options.fourier:
        errors = {name: measure_fourier(runs[name], norm=options.norm, limit=options.limit) for name in options.fourier}
        rows = [
            {"run": name, "low": f"{low:.3f}", "high": f"{high:.3f}", "error": f"{rate:.4f}", "images": options.limit}
            for name, (edges, rates) in errors.items()
            for low, high, rate in zip(edges[:-1].tolist(), edges[1:].tolist(), rates.tolist(), strict=True)
        ]
        write_csv(options.output / "fourier.csv", rows)
        save(draw_fourier(errors, options.norm), options.output / "fourier.png", dpi=110)


if __name__ == "__main__":
    main()
