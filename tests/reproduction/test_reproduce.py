from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from typer.testing import CliRunner

from skreg import cli
from skreg.reproduction import QUICK_RECIPES, Options, load_runs, pipeline, reproduce
from skreg.training import RunError, load_run

ATTACKS = ("deepfool_l2", "deepfool_linf")


def small(data, **training):
    options = {
        "net": "tiny",
        "limit": 40,
        "epochs": 1,
        "batch_size": 20,
        "attack_steps": 1,
        "validation_attack_images": 4,
        "validation_attack_steps": 1,
        **training,
    }
    recipe = QUICK_RECIPES[data].with_training(options)
    return dataclasses.replace(recipe, attacks=ATTACKS, test_images=3, figures=("kernels",))


@pytest.mark.usefixtures("tiny_net")
def test_all_twelve_variants_and_again_with_nothing_left_to_do(tmp_path):
    recipe, options = small("four-shapes"), Options(device="cpu")
    first = reproduce(recipe, tmp_path / "out", options)
    assert [each.name for each in first] == list(options.variants)
    assert len(first) == 12
    report = tmp_path / "out" / "report"
    assert sorted(file.name for file in report.iterdir()) == [
        "figures", "report.html", "report.pdf", "results.json", "tables.csv", "tables.md",
    ]  # fmt: skip
    assert sorted(file.name for file in (report / "figures").iterdir()) == ["kernels.png", "report.md"]
    assert ">AR<" in (report / "report.html").read_text()
    assert [each["name"] for each in json.loads((report / "results.json").read_text())] == list(options.variants)
    assert "| AR |" in (report / "tables.md").read_text()

    weights = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "runs").rglob("*.safetensors")}
    assert reproduce(recipe, tmp_path / "out", Options(variants=("V", "AH"), device="cpu")) == [first[0], first[8]]
    assert all(file.stat().st_mtime_ns == time for file, time in weights.items())


@pytest.mark.usefixtures("tiny_net")
def test_another_recipe_is_an_error_that_names_the_difference(tmp_path):
    options = Options(variants=("VR",), device="cpu")
    reproduce(small("four-shapes"), tmp_path / "out", options)
    before = load_run(tmp_path / "out" / "runs" / "VR").log
    with pytest.raises(RunError, match=r"another recipe: training\.epochs \(was 1, now 2\), training\.strength"):
        reproduce(small("four-shapes", epochs=2, strength=0.5), tmp_path / "out", options)
    with pytest.raises(RunError, match=r"tuned \(was False, now True\)"):
        reproduce(small("four-shapes"), tmp_path / "out", dataclasses.replace(options, tune=True))
    with pytest.raises(RunError, match=r"data \(was 'four-shapes', now 'mnist'\)"):
        pipeline._Reproduction(small("mnist"), tmp_path / "out", options, None)._keep_recipe()
    assert load_run(tmp_path / "out" / "runs" / "VR").log == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"is not empty and holds no recipe\.json"):
        reproduce(small("four-shapes"), tmp_path / "other", options)


@pytest.mark.usefixtures("tiny_net")
def test_interrupted_in_any_stage_it_goes_on(tmp_path, monkeypatch):
    recipe, options = small("four-shapes"), Options(variants=("V", "VR"), seeds=2, device="cpu")
    expected = reproduce(recipe, tmp_path / "whole", options)
    assert sorted(each.name for each in (tmp_path / "whole" / "runs").iterdir()) == [
        "V", "V-seed1", "VR", "VR-seed1",
    ]  # fmt: skip
    assert "± " in (tmp_path / "whole" / "report" / "seeds.md").read_text()

    real_train = pipeline.train_run

    def stop(*arguments, **keywords):
        raise KeyboardInterrupt

    def stop_at_second(config, folder, **keywords):
        return (stop if folder.name == "V-seed1" else real_train)(config, folder, **keywords)

    for name, function in (("train_run", stop_at_second), ("evaluate_runs", stop), ("write_report", stop)):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, name, function)
            with pytest.raises(KeyboardInterrupt, match="keeps what is finished; the same command goes on"):
                reproduce(recipe, tmp_path / "out", options)
    assert reproduce(recipe, tmp_path / "out", options) == expected


@pytest.mark.usefixtures("tiny_net")
def test_tuning_is_recorded_and_used(tmp_path):
    reproduce(small("four-shapes"), tmp_path / "out", Options(variants=("LR",), tune=True, device="cpu"))
    record = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert len(list((tmp_path / "out" / "tuning").iterdir())) == len(record["candidates"]) == 8
    config = load_run(tmp_path / "out" / "runs" / "LR").config
    assert {"gamma": config.gamma, "strength": config.strength} == record["chosen"]["LR"]

    again = pipeline._Reproduction(small("four-shapes"), tmp_path / "out", Options(), None)
    again._keep_tuning(
        again._earlier_tuning(), {"chosen": {"VR": {"strength": 1.0}}, "candidates": [{"run": "VR-strength1"}]}
    )
    merged = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert {"LR", "VR"} <= merged["chosen"].keys()
    assert len(merged["candidates"]) == 9


@pytest.mark.usefixtures("tiny_net")
@pytest.mark.parametrize("text", ['{"chosen": {}}', '{"candidates": []}', '{"chosen": {}, "candidates": [3]}'])
def test_damaged_tuning_is_found_before_tuning(tmp_path, text):
    recipe, folder = small("four-shapes"), tmp_path / "out"
    options = Options(variants=("LR",), tune=True, device="cpu")
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps({**recipe.as_dict(), "tuned": True}))
    (folder / "tuning.json").write_text(text)
    with pytest.raises(RunError, match=r'tuning.json: damaged, expected an object "chosen" and a list "candidates"'):
        reproduce(recipe, folder, options)
    assert not (folder / "tuning").exists()


@pytest.mark.usefixtures("tiny_net")
@pytest.mark.parametrize("data", ["cifar10", "restricted-imagenet"])
def test_files_of_the_true_formats_from_end_to_end(tmp_path, data, request):
    files = request.getfixturevalue("cifar10_files" if data == "cifar10" else "imagenet_files")
    recipe = small(data, validation_fraction=0.5)
    options = Options(variants=("V", "AR", "TR"), device="cpu", data_root=str(files))
    found = reproduce(recipe, tmp_path / "out", options)
    assert [(each.name, each.data) for each in found] == [("V", data), ("AR", data), ("TR", data)]
    assert (tmp_path / "out" / "report" / "figures" / "kernels.png").stat().st_size > 1000


@pytest.mark.usefixtures("tiny_net")
def test_a_folder_stands_for_the_runs_of_its_first_seed(tmp_path):
    folder = tmp_path / "out"
    reproduce(small("four-shapes"), folder, Options(variants=("V", "VR"), seeds=2, device="cpu"))
    assert sorted(run.path.name for run in load_runs([folder])) == ["V", "VR"]
    assert [run.path.name for run in load_runs([folder / "runs" / "V-seed1"])] == ["V-seed1"]
    shutil.rmtree(folder / "report")
    result = skreg("report", folder, "--only", "radial,deceptive-fgsm", "--quick")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder / 'report'}\n"
    assert f"less what {folder / 'report' / 'numbers'} keeps" in result.stderr
    report = folder / "report"
    assert sorted(each.name for each in report.iterdir()) == ["figures", "numbers", "report.html", "report.pdf"]
    assert sorted(each.name for each in (report / "figures").iterdir()) == [
        "deceptive-fgsm.png", "radial.png", "report.md",
    ]  # fmt: skip
    assert len(list((report / "numbers").iterdir())) == 2
    for run in (folder / "runs").iterdir():
        shutil.rmtree(run)
    with pytest.raises(RunError, match="runs: expected a run of seed 0, found none"):
        load_runs([folder])


def skreg(*arguments):
    environment = {"COLUMNS": "300", "NO_COLOR": "1"}
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], env=environment)


@pytest.mark.usefixtures("tiny_net")
def test_command(tmp_path):
    sets = ["limit=40", "epochs=1", "net=tiny", "validation_attack_images=4", "validation_attack_steps=1"]
    arguments = [
        "four-shapes",
        "--quick",
        "--only",
        "VR",
        "--limit",
        2,
        "--attacks",
        "deepfool_l2",
        "-o",
        tmp_path / "o",
    ]
    result = skreg("reproduce", *arguments, *(f"--set={pair}" for pair in sets))
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(f"report: {(tmp_path / 'o' / 'report').resolve()}")
    assert "Table 1: accuracy under attack, four-shapes" in result.stdout
    assert "AutoAttack was not run: add --attacks autoattack" in (tmp_path / "o" / "report" / "tables.md").read_text()

    pytest.importorskip("pyautoattack")
    arguments[arguments.index("deepfool_l2")] = "deepfool_l2,autoattack"
    result = skreg("reproduce", *arguments, *(f"--set={pair}" for pair in sets))
    assert result.exit_code == 0, result.output
    (evaluation,) = json.loads((tmp_path / "o" / "report" / "results.json").read_text())
    assert evaluation["autoattack_at_eps"]["total"] == 2


@pytest.mark.usefixtures("tiny_net")
def test_fewer_runs_leave_no_stale_seeds_and_are_told_apart_from_the_rest(tmp_path):
    sets = ["limit=40", "epochs=1", "net=tiny", "validation_attack_images=4", "validation_attack_steps=1"]
    options = ["--quick", "--limit", 1, "--attacks", "deepfool_l2", "-o", tmp_path / "o", "--set=V.eps=0.2"]
    command = ["reproduce", "four-shapes", *options, *(f"--set={pair}" for pair in sets)]
    result = skreg(*command, "--only", "V,VR", "--seeds", 2)
    assert result.exit_code == 0, result.output
    assert "left out" not in result.stderr
    seeds = tmp_path / "o" / "report" / "seeds.md"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in seeds.read_text().splitlines()[2:6]]
    assert cells[0][-2:] == ["eps", "PGD at eps"]
    assert [(row[0], row[1], row[-2]) for row in cells[2:]] == [("V", "2", "0.2"), ("VR", "2", "0.1")]

    result = skreg(*command, "--only", "VR", "--json")
    assert [each["name"] for each in json.loads(result.stdout)] == ["VR"]
    assert "left out of the report, as neither --only nor --seeds asks for them: V, V-seed1, VR-seed1" in result.stderr
    assert not seeds.exists()


@pytest.mark.usefixtures("tiny_net")
def test_command_sets_options_of_single_variants(tmp_path):
    tiny = ["limit=40", "epochs=1", "net=tiny", "validation_attack_images=4"]
    sets = ["TR.strength=10", "gamma=2", "T.gamma=0.5", *tiny]
    options = ["--quick", "--only", "T,TR", "--limit", 1, "--attacks", "fgsm", "-o", tmp_path / "o"]
    result = skreg("reproduce", "four-shapes", *options, *(f"--set={pair}" for pair in sets))
    assert result.exit_code == 0, result.output
    chosen = {name: load_run(tmp_path / "o" / "runs" / name).config for name in ("T", "TR")}
    assert (chosen["T"].gamma, chosen["TR"].gamma) == (0.5, 2)
    assert (chosen["T"].strength, chosen["TR"].strength) == (0.1, 10)
    record = json.loads((tmp_path / "o" / "recipe.json").read_text())
    assert record["training"]["gamma"] == 2
    assert record["variants"] == {"TR": {"strength": 10}, "T": {"gamma": 0.5}}

    result = skreg("reproduce", "four-shapes", *options, *(f"--set={pair}" for pair in [*sets, "TR.strength=1"]))
    assert result.exit_code == 1
    assert "variants.TR.strength (was 10, now 1)" in result.stderr


def test_mistakes_come_before_the_work(tmp_path):
    for arguments, text in (
        (["imagenet"], "expected one of four-shapes, mnist"),
        (["mnist", "--only", "VX"], "variant must be one of 'V', 'VR'"),
        (["mnist", "--only", "V", "--paper"], "expected no --only beside it"),
        (["mnist", "--set", "epoch=3"], "unknown option 'epoch'; did you mean 'epochs'"),
        (["mnist", "--set", "TR.epoch=3"], "recipe, TR: configuration: unknown option 'epoch'; did you mean 'epochs'"),
        (["mnist", "--set", "TR.seed=3"], "seed belongs to the run"),
        (["mnist", "--set", "T.strength=strong"], "recipe, T: strength"),
        (["mnist", "--set", "TX.gamma=3"], "expected one of V, VR, VH, T, TR, TH, A, AR, AH, L, LR, LH before the"),
        (["mnist", "--set", "TR.gamma=3", "--tune"], "--set TR.gamma: --tune chooses gamma"),
        (["mnist", "--seeds", "0"], "seeds must be at least 1"),
        (["mnist", "--attacks", "cw2"], "--attacks: unknown attack 'cw2'; expected names among fgsm, pgd"),
    ):
        result = skreg("reproduce", *arguments, "-o", tmp_path / "o")
        assert result.exit_code == 2, result.output
        assert text in result.stderr
    result = skreg("reproduce", "mnist", "-o", tmp_path / "o", "--data-root", tmp_path / "none")
    assert result.exit_code == 1
    assert not (tmp_path / "o").exists()
