from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from skreg.evaluation import run_attack, store, stored_attack
from skreg.training import RunError


@pytest.fixture
def toys(make_linear, grey_images):
    model = make_linear(2)
    return model, grey_images, model(grey_images).detach().argmax(dim=1)


def test_equals_the_attack_itself(toys, tmp_path):
    found = stored_attack(tmp_path / "a.safetensors", *toys, "deepfool_l2", batch_size=5)
    expected = run_attack(*toys, "deepfool_l2")
    for name in ("success", "l0", "l2", "linf"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def count_attacked(monkeypatch, stop_at=None):
    rows = []
    attack = store.run_attack

    def counting(model, images, *arguments, **options):
        if stop_at == len(rows):
            raise KeyboardInterrupt
        rows.append(len(images))
        return attack(model, images, *arguments, **options)

    monkeypatch.setattr(store, "run_attack", counting)
    return rows


@pytest.mark.parametrize("attack", ["fgsm", "salt_pepper"])
def test_killed_after_any_batch_it_goes_on_to_the_same_bits(toys, tmp_path, monkeypatch, attack):
    whole = stored_attack(tmp_path / "whole.safetensors", *toys, attack, batch_size=5)
    for stop in (0, 1, 2):
        file = tmp_path / f"{stop}.safetensors"
        with monkeypatch.context() as patch:
            first = count_attacked(patch, stop_at=stop)
            with pytest.raises(KeyboardInterrupt):
                stored_attack(file, *toys, attack, batch_size=5)
        with monkeypatch.context() as patch:
            second = count_attacked(patch)
            again = stored_attack(file, *toys, attack, batch_size=5)
        assert first + second == [5, 5, 2]
        assert torch.equal(again.l2, whole.l2)
        assert torch.equal(again.success, whole.success)
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".tmp")]


def test_finished_batches_are_not_done_twice_and_more_images_are_added(toys, tmp_path, monkeypatch):
    model, images, labels = toys
    file = tmp_path / "a.safetensors"
    few = stored_attack(file, model, images[:5], labels[:5], "fgsm", batch_size=5)
    rows = count_attacked(monkeypatch)
    assert torch.equal(stored_attack(file, model, images[:3], labels[:3], "fgsm").l2, few.l2[:3])
    assert rows == []
    assert torch.equal(stored_attack(file, model, images, labels, "fgsm", batch_size=5).l2[:5], few.l2)
    assert rows == [5, 2]
    assert len(load_file(file)["l2"]) == 12


@pytest.mark.parametrize("attack", ["fgsm", "salt_pepper"])
def test_grown_step_by_step_it_equals_a_file_made_at_once(toys, tmp_path, monkeypatch, attack):
    model, images, labels = toys
    whole, grown = tmp_path / "whole.safetensors", tmp_path / "grown.safetensors"
    stored_attack(whole, *toys, attack, batch_size=5)
    rows = count_attacked(monkeypatch)
    for count in (3, 4, 7, 12):
        stored_attack(grown, model, images[:count], labels[:count], attack, batch_size=5)
    assert rows == [3, 4, 5, 2, 5, 2]
    assert grown.read_bytes() == whole.read_bytes()


def test_rows_stay_until_their_batch_is_done_again(toys, tmp_path, monkeypatch):
    model, images, labels = toys
    file = tmp_path / "a.safetensors"
    stored_attack(file, model, images[:7], labels[:7], "fgsm", batch_size=5)
    before = file.read_bytes()
    count_attacked(monkeypatch, stop_at=0)
    with pytest.raises(KeyboardInterrupt):
        stored_attack(file, *toys, "fgsm", batch_size=5)
    assert file.read_bytes() == before


def test_results_of_something_else_are_refused_and_kept(toys, make_linear, tmp_path, monkeypatch):
    model, images, labels = toys
    file = tmp_path / "a.safetensors"
    stored_attack(file, *toys, "fgsm")
    before = file.read_bytes()
    with pytest.raises(RunError, match=r"other weights \(a run that was trained on has new ones\)"):
        stored_attack(file, make_linear(3), images, labels, "fgsm")
    with pytest.raises(RunError, match="another attack: expected pgd, found fgsm"):
        stored_attack(file, *toys, "pgd")
    with pytest.raises(RunError, match="another seed: expected 1, found 0"):
        stored_attack(file, *toys, "fgsm", seed=1)
    with pytest.raises(RunError, match="other data: image 0"):
        stored_attack(file, model, images.flip(0), labels.flip(0), "fgsm")
    with pytest.raises(RunError, match="other data: image 4"):
        stored_attack(file, model, images, torch.where(torch.arange(12) == 4, 1 - labels, labels), "fgsm")
    monkeypatch.setattr(store, "__version__", "99")
    with pytest.raises(RunError, match="another version of skreg: expected 99"):
        stored_attack(file, *toys, "fgsm")
    assert file.read_bytes() == before


def test_a_damaged_file_is_named(toys, tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"something else")
    with pytest.raises(RunError, match=r"a\.safetensors: damaged or no result of skreg"):
        stored_attack(file, *toys, "fgsm")


def damage(file, facts=None, **columns):
    """Write `file` again with other metadata or columns."""
    with safe_open(file, framework="pt") as opened:
        kept = json.loads(opened.metadata()["skreg.evaluation"])
    metadata = {"skreg.evaluation": json.dumps(kept if facts is None else facts)}
    save_file(load_file(file) | columns, file, metadata=metadata)


def test_damage_that_safetensors_does_not_see_is_found(toys, tmp_path):
    file = tmp_path / "a.safetensors"
    stored_attack(file, *toys, "fgsm", eps=0.02)  # some searches fail within so little
    content, good = file.read_bytes(), load_file(file)
    assert good["success"].unique().tolist() == [False, True]
    failed, found = (int((good["success"] == value).nonzero()[0]) for value in (False, True))

    def changed(name, row, value):
        column = good[name].clone()
        column[row] = value
        return {name: column}

    damages = [
        ({"l0": good["l0"][:5]}, r"l0: expected \[12\] x torch.float64, found \[5\]"),
        ({"image": good["image"][:5]}, r"success: expected \[5\] x torch.bool, found \[12\]"),
        ({"l2": good["l2"][:, None]}, r"l2: expected \[12\] x torch.float64, found \[12, 1\]"),
        ({"success": good["success"].long()}, "expected .* torch.bool, found .* torch.int64"),
        (changed("success", found, False), f"image {found}: success is False, l0 is"),
        (changed("success", failed, True), f"image {failed}: success is True, l0 is inf"),
        (changed("l2", found, torch.inf), f"image {found}: success is True, l2 is inf"),
        (changed("l2", failed, 1.0), f"image {failed}: success is False, l2 is 1.0"),
        (changed("linf", failed, torch.nan), f"image {failed}: success is False, linf is nan"),
        (changed("linf", found, -0.1), f"image {found}: success is True, linf is -0.1"),
        ({"facts": []}, "metadata: expected an object, found list"),
        ({"facts": "text"}, "metadata: expected an object, found str"),
    ]
    for parts, reason in damages:
        file.write_bytes(content)
        damage(file, **parts)
        with pytest.raises(RunError, match=rf"a\.safetensors: damaged or no result of skreg \(.*{reason}"):
            stored_attack(file, *toys, "fgsm", eps=0.02)
        with pytest.raises(RunError, match=reason):
            store.read_stored(file)
    file.write_bytes(content)
    damage(file)
    store.read_stored(file)


def test_an_error_in_the_work_keeps_what_was_finished(toys, nan_model, tmp_path):
    file = tmp_path / "a.safetensors"
    with pytest.raises(FloatingPointError):
        stored_attack(file, nan_model, toys[1].float(), toys[2], "fgsm")
    assert not file.exists()

    model, images, labels = toys
    overflowed = images.clone()
    overflowed[7] = 0.9  # the model below has no finite logits for bright images

    class Overflowing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x).masked_fill((x.flatten(1).mean(dim=1) > 0.8)[:, None], torch.nan)

    with pytest.raises(FloatingPointError, match="NaN or infinite for 1 of 5 images"):
        stored_attack(file, Overflowing(), overflowed, labels, "fgsm", batch_size=5)
    assert torch.equal(load_file(file)["l2"], run_attack(model, images[:5], labels[:5], "fgsm").l2)
