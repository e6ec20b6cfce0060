"""Whether the faster ways to train cost accuracy: an epoch by a plain loop and by `skreg.training.train`, seed by seed.

`python benchmarks/accuracy.py results.csv` writes a row a run (`benchmarks/results/accuracy-cpu.csv`) and prints what
`--summarise results.csv` prints: mean and 95% interval of the paired differences to the plain loop of the same seed,
that is the same first weights, order of images and random starts. The test images serve for this comparison alone.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from torch import nn

from skreg.attacks import PGD
from skreg.benchmark import describe_machine
from skreg.benchmark.plain_training import plain_start, plain_step
from skreg.data import batches, load, split_validation
from skreg.training import TrainConfig, train
from skreg.training.checkpoint import write_file
from skreg.training.run import build_model

CONFIG = TrainConfig(
    data="fashion-mnist",
    variant="T",
    limit=3000,
    epochs=1,
    batch_size=64,
    attack_steps=5,
    step_size=0.025,
    validation_attack_steps=1,
    validation_attack_images=1,
    device="cpu",
).resolved()
PLAIN = "plain"
CONTENDERS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, channels_last": {"channels_last": True},
    "bfloat16": {"precision": "bfloat16"},
}
SCORES = ("accuracy", "pgd_accuracy")


def train_plainly(config: TrainConfig) -> nn.Module:
    """Train by the plain loop, from the weights and with the order and random starts that `train` has."""
    assert config.eps is not None
    assert config.step_size is not None
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = build_model(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    order, noise = (torch.Generator().manual_seed(config.seed) for _ in range(2))
    examples, _ = split_validation(
        *load(config.data, "train", limit=config.limit), config.validation_fraction, config.seed
    )
    for _ in range(config.epochs):
        for images, labels in batches(*examples, config.batch_size, shuffle=True, generator=order):
            plain_step(
                model,
                optimizer,
                images,
                labels,
                plain_start(images, config.loss, config.eps, noise),
                loss=config.loss,
                eps=config.eps,
                step_size=config.step_size,
                steps=config.attack_steps,
            )
    return model.eval()


def train_ours(config: TrainConfig) -> nn.Module:
    """Train by `skreg.training.train` and take the weights of the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        return train(config, folder).load_model("last")


def score(model: nn.Module, config: TrainConfig, test_images: int, steps: int = 10) -> dict[str, float]:
    """Accuracy on test images and under PGD, in float32."""
    assert config.eps is not None
    attack, noise = PGD(eps=config.eps, steps=steps), torch.Generator().manual_seed(0)
    correct, robust, count = 0, 0, 0
    for images, labels in batches(*load(config.data, "test", limit=test_images), 100, shuffle=False):
        adversarial = attack(model, images, labels, generator=noise)
        with torch.no_grad():
            correct += int((model(images).argmax(1) == labels).sum())
            robust += int((model(adversarial).argmax(1) == labels).sum())
        count += len(labels)
    return {"accuracy": correct / count, "pgd_accuracy": robust / count}


def run(contender: str, seed: int, config: TrainConfig, test_images: int) -> dict[str, Any]:
    """Train and judge one net; a row of the results."""
    config = dataclasses.replace(config, seed=seed, **CONTENDERS.get(contender, {}))
    begin = time.process_time()
    model = train_plainly(config) if contender == PLAIN else train_ours(config)
    seconds = time.process_time() - begin
    row = {
        "loss": config.loss,
        "contender": contender,
        "seed": seed,
        "images": config.limit,
        "test_images": test_images,
    }
    return {**row, **score(model, config, test_images), "cpu_seconds": round(seconds, 1), **describe_machine()}


def summarise(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of one loss: mean and 95% interval (Student's t) of the differences to the plain loop."""
    found = {(row["contender"], str(row["seed"])): row for row in rows}
    lines = ["| | seeds | accuracy | difference | under PGD | difference |", "|---|---:|---:|---:|---:|---:|"]
    for contender in (PLAIN, *CONTENDERS):
        mine = {seed: row for (name, seed), row in found.items() if name == contender}
        if not mine:
            continue
        cells = []
        for key in SCORES:
            values = [100 * float(row[key]) for row in mine.values()]
            plain = [100 * float(found[PLAIN, seed][key]) for seed in mine]
            cells += [f"{statistics.mean(values):.1f}%", "" if contender == PLAIN else _difference(values, plain)]
        lines.append(f"| {contender} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difference(values: Sequence[float], plain: Sequence[float]) -> str:
    differences = [one - other for one, other in zip(values, plain, strict=True)]
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return f"{mean:+.1f}"
    half = student.ppf(0.975, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, help="written after each run; runs that it has are not repeated")
    parser.add_argument("--summarise", action="store_true", help="train nothing")
    parser.add_argument("--contenders", default=f"{PLAIN}/" + "/".join(CONTENDERS), help="separated by /")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--loss", default=CONFIG.variant, choices=("T", "A"))
    parser.add_argument("--images", type=int, default=CONFIG.limit)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = dataclasses.replace(CONFIG, variant=options.loss, limit=options.images)
    rows: list[dict[str, Any]] = []
    if options.csv.is_file():
        with options.csv.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {(row["loss"], row["contender"], str(row["seed"])) for row in rows}
    for seed in range(options.seeds):
        for contender in options.contenders.split("/"):
            if options.summarise or (options.loss, contender, str(seed)) in done:
                continue
            rows.append(run(contender, seed, config, options.test_images))
            print(rows[-1], flush=True)
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_file(options.csv, text.getvalue().encode())
    print(summarise([row for row in rows if row["loss"] == options.loss]))


if __name__ == "__main__":
    main()
