"""What is written to TensorBoard, read back from its files."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from skreg import SmoothKernelRegularizer
from skreg.integrations.tensorboard import _SCALARS, TensorBoardProgress, write_statistics


class Recorder:
    """Keeps what a SummaryWriter would write."""

    def __init__(self):
        self.scalars, self.images = {}, {}

    def add_scalar(self, tag, value, step):
        self.scalars[tag] = (value, step)

    def add_image(self, tag, image, step):
        self.images[tag] = image


def regularizer():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv1d(2, 2, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[0, :, 0, 0] = 1.0
        model[0].weight[1, :, 0, 1] = -0.5
    return SmoothKernelRegularizer(model, strength=0.5)


def test_scalars_are_the_statistics():
    reg, writer = regularizer(), Recorder()
    write_statistics(writer, reg, 7)
    for layer in reg.statistics():
        for quantity in ("roughness", "high_frequency_share", "energy", "penalty"):
            assert writer.scalars[f"{quantity}/{layer.name}"] == (getattr(layer, quantity), 7)
    assert writer.scalars["smooth_kernels/penalty"] == (pytest.approx(reg().item()), 7)
    assert writer.scalars["smooth_kernels/strength"] == (0.5, 7)


def test_pictures_show_signs_and_spectra():
    writer = Recorder()
    write_statistics(writer, regularizer(), 0, count=2)
    assert set(writer.images) == {"kernels/0.weight", "spectra/0.weight"}
    picture = writer.images["kernels/0.weight"]
    side = 3 * 22  # the first multiple of 3 from 64 on
    assert picture.shape == (3, side + 2, 2 * (side + 2))
    assert picture[:, 5, 5].tolist() == [1.0, 0.0, 0.0]  # the largest: red
    assert picture[:, 5, side + 2 + 33].tolist() == [0.5, 0.5, 1.0]  # half as much, negative: light blue
    assert picture[:, 60, 60].tolist() == [1.0, 1.0, 1.0]  # zero: white
    spectra = writer.images["spectra/0.weight"]
    assert torch.allclose(spectra[:, 1:-1, 1:65], torch.ones(()))  # of a single element: flat


def test_no_pictures_and_zero_weights():
    writer = Recorder()
    write_statistics(writer, regularizer(), 0, count=0)
    assert not writer.images
    reg = SmoothKernelRegularizer(nn.Conv2d(1, 3, 3))
    nn.init.zeros_(next(reg.named_parameters())[1])
    write_statistics(writer, reg, 0)
    assert all(image.isfinite().all() for image in writer.images.values())


def test_a_real_writer(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra skreg[tensorboard] is not installed")
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    reg = regularizer()
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(2):
            write_statistics(writer, reg, step)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("roughness/0.weight")] == [0, 1]
    assert events.Scalars("roughness/0.weight")[0].value == pytest.approx(reg.statistics()[0].roughness)
    encoded = events.Images("kernels/0.weight")[-1].encoded_image_string
    pixels = np.asarray(Image.open(io.BytesIO(encoded)))
    assert pixels[5, 5].tolist() == [255, 0, 0]


def record(epoch, value, names=("conv.weight",)):
    layers = [{"name": name, "norm": 2.0, "roughness": 0.5} for name in names]
    return {**dict.fromkeys(_SCALARS, value), "epoch": epoch, "layers": layers}


def test_progress_of_a_sharded_net_that_was_resumed(tmp_path):
    """Such a net hands over no weights; the epochs after the one it resumes from are replaced."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    TensorBoardProgress(tmp_path).end()  # stopped before it began
    for first in (0, 1):
        progress = TensorBoardProgress(tmp_path)
        progress.begin(epoch=first, epochs=2, steps=1)
        for epoch in range(first + 1, 3):
            progress.epoch(record(epoch, 10.0 * first + epoch))
        progress.end()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    for key in _SCALARS:
        assert [(event.step, event.value) for event in events.Scalars(f"training/{key}")] == [(1, 1.0), (2, 12.0)]
    assert [event.value for event in events.Scalars("roughness/conv.weight")] == [0.5, 0.5]
    assert [event.value for event in events.Scalars("norm/conv.weight")] == [2.0, 2.0]


def test_progress_of_a_net_whose_weights_are_seen(tmp_path):
    """Statistics before the first epoch and after each, and the roughness once."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reg, progress = regularizer(), TensorBoardProgress(tmp_path)
    progress.begin(epoch=0, epochs=2, steps=1)
    for epoch in (1, 2):
        progress.weights(epoch, reg)
        progress.epoch(record(epoch, 1.0, reg.names))
    writer = progress._writer
    progress.end()
    assert writer.file_writer is None  # closed
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    for name in reg.names:
        assert [event.step for event in events.Scalars(f"energy/{name}")] == [0, 1, 2]
        assert [event.step for event in events.Scalars(f"roughness/{name}")] == [0, 1, 2]


@pytest.mark.parametrize("method", ["add_scalar", "add_image"])
def test_a_writer_of_one_kind_alone_is_no_writer(method):
    with pytest.raises(TypeError, match="writer: expected"):
        write_statistics(SimpleNamespace(**{method: print}), regularizer(), 0)


def test_mistakes_are_named():
    with pytest.raises(TypeError, match=r"writer: expected .*SummaryWriter, found str; .*skreg\[tensorboard\]"):
        write_statistics("runs", regularizer(), 0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        write_statistics(Recorder(), regularizer(), 0, count=-1)
