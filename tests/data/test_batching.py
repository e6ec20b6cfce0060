from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skreg.data import batches, split_validation


def numbered(count: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images that carry their own position in their first two pixels."""
    images = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count) // 256
    images[:, 0, 0, 1] = torch.arange(count) % 256
    return images, torch.arange(count) % classes


def positions(images: Tensor) -> list[int]:
    pixels = images if images.dtype == torch.uint8 else (images * 255).round()
    return (pixels[:, 0, 0, 0].long() * 256 + pixels[:, 0, 0, 1].long()).tolist()


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 40), batch_size=st.integers(1, 50), shuffle=st.booleans())
def test_every_image_once_with_its_label(count: int, batch_size: int, shuffle: bool) -> None:
    images, labels = numbered(count)
    parts = list(batches(images, labels, batch_size, shuffle=shuffle, generator=torch.Generator().manual_seed(1)))
    assert [len(part) for part, _ in parts] == [min(batch_size, count - i) for i in range(0, count, batch_size)]
    seen = [position for part, _ in parts for position in positions(part)]
    assert sorted(seen) == list(range(count))
    assert [label for _, part in parts for label in part.tolist()] == [position % 3 for position in seen]
    if not shuffle:
        assert seen == list(range(count))


def test_images_become_float_in_the_unit_interval() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    kept = images.clone()
    ((batch, _),) = batches(images, torch.zeros(1, dtype=torch.long), 8, shuffle=False)
    assert batch.dtype == torch.float32
    assert torch.equal(batch.flatten(), torch.arange(256, dtype=torch.float32) / 255)
    assert torch.equal(images, kept)


def test_the_generator_sets_the_order() -> None:
    images, labels = numbered(300)

    def order(generator: torch.Generator | None) -> list[int]:
        return [
            position
            for part, _ in batches(images, labels, 64, shuffle=True, generator=generator)
            for position in positions(part)
        ]

    generator = torch.Generator().manual_seed(5)
    first, second = order(generator), order(generator)
    assert first == order(torch.Generator().manual_seed(5))
    assert first != second
    assert first != list(range(300))
    torch.manual_seed(7)
    from_global = order(None)
    torch.manual_seed(7)
    assert from_global == order(None)


def test_bad_arguments_fail_at_the_call() -> None:
    images, labels = numbered(4)
    with pytest.raises(ValueError, match=r"images: expected uint8 N x C x H x W, found torch\.float32"):
        batches(images.float(), labels, 2, shuffle=False)
    with pytest.raises(ValueError, match=r"images: expected uint8 .* shape \(4, 2, 2\)"):
        batches(images[:, 0], labels, 2, shuffle=False)
    with pytest.raises(ValueError, match=r"labels: expected int64 of shape \(4,\), found torch.int64 of shape \(3,\)"):
        batches(images, labels[:3], 2, shuffle=False)
    with pytest.raises(ValueError, match=r"labels: expected int64 .* found torch\.int32"):
        batches(images, labels.int(), 2, shuffle=False)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, found 0"):
        batches(images, labels, 0, shuffle=False)
    with pytest.raises(ValueError, match="labels: expected them on cpu like the images, found meta"):
        batches(images, labels.to("meta"), 2, shuffle=False)


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(5, 40), min_size=2, max_size=5),
    fraction=st.floats(0.15, 0.85),
    seed=st.integers(0, 2**32),
)
def test_the_split_is_stratified_disjoint_and_repeatable(counts: list[int], fraction: float, seed: int) -> None:
    images, _ = numbered(sum(counts))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    train, validation = split_validation(images, labels, fraction, seed)
    assert sorted(positions(train[0]) + positions(validation[0])) == list(range(len(images)))
    for part_images, part_labels in (train, validation):
        place = positions(part_images)
        assert place == sorted(place)
        assert torch.equal(part_labels, labels[place])
    assert validation[1].bincount(minlength=len(counts)).tolist() == [round(fraction * count) for count in counts]
    again = split_validation(images, labels, fraction, seed)
    assert torch.equal(again[1][0], validation[0])


def test_another_seed_holds_out_other_images() -> None:
    images, labels = numbered(300)
    held_out = [positions(split_validation(images, labels, 0.1, seed)[1][0]) for seed in (0, 1)]
    assert held_out[0] != held_out[1]
    assert len(set(held_out[0]) & set(held_out[1])) < 15


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction: expected a share between 0 and 1"):
        split_validation(*numbered(10), fraction, seed=0)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_no_part_is_left_empty(fraction: float) -> None:
    with pytest.raises(ValueError, match="leaves one of the two parts empty"):
        split_validation(*numbered(10), fraction, seed=0)
