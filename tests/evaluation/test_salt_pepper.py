from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from skreg.evaluation import run_attack
from skreg.evaluation import salt_pepper as salt_pepper_module
from skreg.evaluation.salt_pepper import salt_pepper


class Counting(nn.Module):
    """Class 1 where at least so many pixels of a grey image are changed: the least l0 is known."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.rows: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        changed = (images[:, 0] != 0.5).flatten(1).sum(dim=1)
        score = (changed - self.least + 0.5).to(images.dtype)
        return torch.stack([-score, score], dim=1)


GREY = torch.full((6, 3, 8, 8), 0.5)
ZEROS = torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize("least", [1, 5, 20])
def test_closes_in_on_the_least_number_of_pixels(least):
    result = run_attack(Counting(least), GREY, ZEROS, "salt_pepper")
    assert result.success.all()
    assert (result.l0 >= 3 * least).all()
    assert (result.l0 <= 3 * least * 1.3 + 3).all()
    torch.testing.assert_close(result.l2, 0.5 * result.l0.sqrt())


def test_pixels_become_black_or_white_on_all_channels_alike():
    torch.manual_seed(0)
    points = salt_pepper(Counting(12), GREY, ZEROS)
    assert torch.equal(points[:, :1].expand_as(points), points)
    assert set(points.unique().tolist()) == {0.0, 0.5, 1.0}


def test_the_range_shrinks_to_a_little_more_than_the_best(monkeypatch):
    shares = []
    noisy = salt_pepper_module._noisy

    def recording(images: Tensor, share: Tensor) -> Tensor:
        shares.append(float(share[0]))
        return noisy(images, share)

    monkeypatch.setattr(salt_pepper_module, "_noisy", recording)
    salt_pepper(Counting(5), GREY[:1], ZEROS[:1])
    drops = [index for index in range(1, len(shares)) if shares[index] < shares[index - 1]]
    first_hit = shares[drops[0] - 1]
    assert first_hit < 0.5
    assert max(shares[drops[0] :]) <= 1.2 * first_hit + 1e-6
    assert shares[drops[0]] == pytest.approx(1.2 * first_hit / 64)


def test_fails_where_nothing_helps(constant_model):
    result = run_attack(constant_model, GREY[:, :1], ZEROS, "salt_pepper")
    assert not result.success.any()
    assert result.l0.isinf().all()


def test_seed_decides():
    first, again, other = (run_attack(Counting(9), GREY, ZEROS, "salt_pepper", seed=s).adversarial for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_few_pixels_are_tried_few_times():
    model = Counting(100)
    salt_pepper(model, GREY[:1, :, :2, :2], ZEROS[:1])
    assert len(model.rows) == 10 * 4
