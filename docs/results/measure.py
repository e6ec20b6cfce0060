"""Accuracy of trained runs under noise and attacks by frequency, and under PGD at two radii: about a minute a run.

    python docs/results/measure.py OUTPUT.csv RUN...

Each run's best weights meet the same first test images: clean, PGD on the margin loss within two linf radii (one
random start), noise and attacks confined to a band of frequencies, Gaussian noise and blur. DeepFool's searches go to
RUN/evaluation, as `skreg evaluate` keeps them. OUTPUT.csv is written after each run; runs that it has are left out.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from skreg.attacks import PGD
from skreg.data import load
from skreg.evaluation import robust_accuracy, stored_attack
from skreg.evaluation.bands import BandResult, measure_bands
from skreg.training import load_run
from skreg.training.checkpoint import write_file

# linf radii: nets trained without attacks have no accuracy left at the eps of adversarial training, 0.1.
RADII = {"V": (0.025, 0.05), "T": (0.05, 0.1), "A": (0.05, 0.1), "L": (0.05, 0.1)}
STEPS = 20
NOISE, ATTACK = (4.0,), (1.0,)  # l2 norms of an image's perturbation within a band
DEEPFOOL = ("deepfool_l2", "deepfool_linf")


def measure(path: Path, limit: int) -> list[BandResult]:
    """Everything about one run, on its first `limit` test images."""
    run = load_run(path)
    pixels, labels = load(run.config.data, "test", run.config.data_root, limit)
    images, model = pixels.float() / 255, run.load_model()
    results = [
        BandResult(
            str(path),
            "PGD",
            "",
            eps,
            robust_accuracy(model, images, labels, [PGD(eps=eps, steps=STEPS, objective="margin")]),
        )
        for eps in RADII[run.config.loss]
    ]
    (path / "evaluation").mkdir(exist_ok=True)
    for attack in DEEPFOOL:
        stored_attack(path / "evaluation" / f"paper-{attack}.safetensors", model, images, labels, attack)
    return [*measure_bands([path], limit=limit, noise=NOISE, attack=ATTACK), *results]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the runs that the file has not yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=200, help="test images")
    options = parser.parse_args(arguments)
    rows = list(csv.DictReader(options.output.open(encoding="utf-8"))) if options.output.exists() else []
    for path in options.runs:
        if str(path) in {row["run"] for row in rows}:
            continue
        for each in measure(path, options.limit):
            lower, upper = each.accuracy.interval
            row = {"run": str(path), "kind": each.kind, "band": each.band, "size": f"{each.size:g}"}
            numbers = {"accuracy": each.accuracy.value, "lower": lower, "upper": upper}
            row |= {"images": each.accuracy.total, **{name: f"{value:.4f}" for name, value in numbers.items()}}
            rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(options.output, text.getvalue().encode())
        print(f"{path}: measured", flush=True)


if __name__ == "__main__":
    main()
