import csv

import pytest
from typer.testing import CliRunner

from skreg import cli
from skreg.data import load
from skreg.evaluation import robust_accuracy
from skreg.evaluation.bands import measure_bands, write_bands
from skreg.training import RunError, TrainConfig, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = TrainConfig(
        data="four-shapes",
        variant="V",
        limit=200,
        epochs=3,
        learning_rate=2e-3,
        validation_attack_steps=1,
        device="cpu",
    )
    return train(config, tmp_path_factory.mktemp("runs") / "V")


def test_every_band_is_measured_and_more_of_it_hurts_no_less(run, tmp_path):
    steps = []
    results = measure_bands([run.path], limit=30, noise=[3.0], attack=[0.5, 4.0], progress=steps.append)
    assert {(each.kind, each.band) for each in results} == {
        ("clean", ""),
        ("Gaussian noise", ""),
        ("blur", ""),
        *((kind, band) for kind in ("noise", "attack") for band in ("low", "middle", "high")),
    }
    assert all(each.accuracy.total == 30 for each in results)
    images, labels = load("four-shapes", "test", limit=30)
    clean = robust_accuracy(run.load_model(), images.float() / 255, labels, [])
    assert results[0].accuracy == clean
    assert clean.value > 0.5
    for band in ("low", "middle", "high"):
        weak, strong = (each.accuracy.count for each in results if (each.kind, each.band) == ("attack", band))
        assert strong <= weak <= clean.count
    attacked = [each.accuracy.count for each in results if each.kind == "attack"]
    assert min(attacked) < clean.count
    assert steps[-1] == "V: attack high 4"

    write_bands(tmp_path / "bands.csv", results)
    with (tmp_path / "bands.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [round(each.accuracy.value, 4) for each in results]
    assert all(float(row["lower"]) <= float(row["accuracy"]) <= float(row["upper"]) for row in rows)


def test_command_prints_a_column_a_run_and_writes_the_rows(run, tmp_path):
    again = tmp_path / "again" / "V"
    again.parent.mkdir()
    again.symlink_to(run.path)
    arguments = ["bands", str(run.path), str(again), "--limit", "3", "--output", str(tmp_path / "new" / "bands.csv")]
    result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.stderr
    header = next(line for line in result.stdout.splitlines() if "perturbation" in line)
    assert header.count("V") == 2
    assert len((tmp_path / "new" / "bands.csv").read_text().splitlines()) == 1 + 2 * 20


def test_mistakes_come_before_the_work(run, tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        measure_bands([])
    with pytest.raises(ValueError, match="attack must be finite and above 0"):
        measure_bands([run.path], attack=[0.0])
    with pytest.raises(RunError, match="no run here"):
        measure_bands([run.path, tmp_path])
    result = CliRunner().invoke(cli.app, ["bands", str(run.path), "--output", "bands.txt"])
    assert result.exit_code == 2
