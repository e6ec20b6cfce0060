"""The batches of an epoch, dealt out over the processes of a training, and read by workers where they are large."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skreg.data.batching import check_examples


class Part(NamedTuple):
    """What one process has of a batch.

    Attributes:
        images: float32 N x C x H x W in [0, 1]; labels: int64 N.
        start: where they begin in the batch.
        counted: how many of them count: N, or 0 where the batch has fewer images than there are processes. Then
            its first image stands in, because a process must take part in whatever the others do together.
        batch: images of the whole batch.

    Example:
        >>> images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3)
        >>> (part,) = parts(images, labels, torch.arange(3), batch_size=3, rank=1, ranks=2)
        >>> part.start, part.counted, part.batch
        (1, 2, 3)
    """

    images: Tensor
    labels: Tensor
    start: int
    counted: int
    batch: int


def parts(
    images: Tensor,
    labels: Tensor,
    order: Tensor,
    batch_size: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Iterator[Part]:
    """Yield the part that process `rank` of `ranks` has of each batch; a single process has all of it.

    The parts of a batch are runs of its images, in the order of the ranks, and differ by one image at most. All
    together they hold every image once, however the numbers divide.

    Args:
        images: uint8 N x C x H x W. They may stay where there is more room than on `device`: a batch moves as bytes.
        labels: int64 N, beside the images.
        order: int64 M, the images to visit.
        batch_size: images a batch, of all processes together.
        device: where the batches are wanted.
        workers: processes that collect the batches ahead of time; 0 to collect them here. The batches are the same.

    Raises:
        ValueError: wrong dtype, shape or device of images or labels, a batch size below 1.

    Example:
        >>> images, labels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.arange(6)
        >>> order = torch.tensor([5, 4, 3, 2, 1, 0])
        >>> [part.labels.tolist() for part in parts(images, labels, order, batch_size=4, rank=1, ranks=2)]
        [[3, 2], [0]]
    """
    check_examples(images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
    order, device = order.to(images.device), torch.device(device)
    spans = [
        _span(begin, min(batch_size, len(order) - begin), rank, ranks) for begin in range(0, len(order), batch_size)
    ]
    chosen = [order[begin + start : begin + start + max(count, 1)] for begin, start, count, _ in spans]
    collected = _collect(images, labels, chosen, device, workers)
    for (_, start, count, batch), (some, their_labels) in zip(spans, collected, strict=True):
        some = some.to(device, non_blocking=True).float().div_(255)
        yield Part(some, their_labels.to(device, non_blocking=True), start, count, batch)


def _span(begin: int, batch: int, rank: int, ranks: int) -> tuple[int, int, int, int]:
    start, stop = batch * rank // ranks, batch * (rank + 1) // ranks
    return begin, start if stop > start else 0, stop - start, batch


def _collect(
    images: Tensor, labels: Tensor, chosen: list[Tensor], device: torch.device, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    if not workers:
        return ((images[index], labels[index]) for index in chosen)
    return iter(
        DataLoader(
            _Batches(images, labels, chosen),
            batch_size=None,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_parent,
            # Of its own: the workers' seeds must not be drawn from the generator of weights and dropout.
            generator=torch.Generator().manual_seed(0),
        )
    )


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, images: Tensor, labels: Tensor, chosen: list[Tensor]) -> None:
        self.images, self.labels, self.chosen = images, labels, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        index = self.chosen[number]
        return self.images[index], self.labels[index]


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM reach whole process groups; the training decides when it stops, and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
