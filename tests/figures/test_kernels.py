from __future__ import annotations

import os

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skreg.figures import kernels, save
from skreg.figures.kernels import spectra
from skreg.training import RunError


def net(channels: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten())


def data_of(axes) -> np.ndarray:
    (shown,) = axes.images
    return np.asarray(shown.get_array())


def test_weights_spectra_and_responses_are_those_of_the_models():
    models, image = {"V": net(), "VR": net(seed=1)}, torch.rand(1, 8, 8)
    figure = kernels(models, image=image)
    axes = figure.axes
    assert len(axes) == 3 * 2 * 4
    for column, model in enumerate(models.values()):
        with torch.no_grad():
            response = model[0](image[None])[0]
        for index in range(4):
            panels = [axes[block * 8 + column * 4 + index] for block in range(3)]
            kernel = model[0].weight[index, 0].detach().numpy()
            padded = np.zeros((64, 64), dtype=np.float32)
            padded[:5, :5] = kernel
            np.testing.assert_array_equal(data_of(panels[0]), kernel)
            spectrum = np.abs(np.fft.fftshift(np.fft.fft2(padded)))
            np.testing.assert_allclose(data_of(panels[1]), spectrum, atol=1e-5)
            np.testing.assert_allclose(data_of(panels[2]), response[index].numpy(), atol=1e-6)


def test_models_stand_side_by_side_and_blocks_below_each_other():
    figure = kernels({"V": net(), "VR": net(), "VH": net()}, image=torch.rand(1, 8, 8))
    centres = np.array([[axes.get_position().x0, axes.get_position().y0] for axes in figure.axes])
    centres = centres.reshape(3, 3, 4, 2)  # block, model, kernel, coordinate
    assert (centres[:, 0, :, 0].max() < centres[:, 1, :, 0]).all()
    assert (centres[:, 1, :, 0].max() < centres[:, 2, :, 0]).all()
    assert (centres[0, ..., 1].min() > centres[1, ..., 1]).all()
    assert (centres[1, ..., 1].min() > centres[2, ..., 1]).all()
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_colour_scales():
    models = {"V": net(), "VR": net(seed=1)}
    models["VR"][0].weight.data *= 10
    figure = kernels(models, count=2)
    limits = [axes.images[0].get_clim() for axes in figure.axes]
    texts = [text.get_text() for text in figure.texts]
    for column, (name, model) in enumerate(models.items()):
        scale = float(model[0].weight[:2].detach().abs().max())
        assert limits[2 * column] == limits[2 * column + 1] == pytest.approx((-scale, scale))
        assert name in texts
        assert f"±{scale:.2g}" in texts
    for axes, (low, high) in zip(figure.axes[4:], limits[4:], strict=True):
        assert low == 0
        assert high == pytest.approx(data_of(axes).max())


def test_caption_explains_what_is_drawn():
    def text(figure) -> str:
        return " ".join(each.get_text().replace("\n", " ") for each in figure.texts)

    without, with_image = kernels({"V": net()}), kernels({"V": net()}, image=torch.rand(1, 8, 8))
    assert "zero frequency in the middle" in text(without)
    assert "responses" not in text(without)
    assert "Responses:" in text(with_image)


def test_several_input_channels_are_summed():
    model = net(channels=3)
    figure = kernels({"V": model}, count=1)
    np.testing.assert_allclose(data_of(figure.axes[0]), model[0].weight[0].detach().sum(0).numpy(), atol=1e-7)


def test_another_layer_by_name():
    model = net()
    figure = kernels({"V": model}, count=1, layer="2")
    np.testing.assert_allclose(data_of(figure.axes[0]), model[2].weight[0].detach().sum(0).numpy(), atol=1e-6)


def test_spectrum_of_known_kernels():
    constant, checkerboard = torch.ones(4, 4), torch.ones(4, 4)
    checkerboard[::2, 1::2] = checkerboard[1::2, ::2] = -1
    middle, corner = spectra(torch.stack([constant, checkerboard]))
    assert divmod(int(middle.argmax()), 64) == (32, 32)
    assert divmod(int(corner.argmax()), 64) == (0, 0)  # the highest frequency along both axes
    assert middle.max() == corner.max() == 16


def test_model_is_left_as_it_was():
    model = net().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kernels({"V": model}, image=torch.rand(1, 8, 8))
    assert model.training
    assert not model[0]._forward_hooks
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_no_global_state_of_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    kernels({"V": net()})
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": {}}, "models: expected at least one"),
        ({"models": {"V": nn.Linear(2, 2)}}, 'model "V" has no torch.nn.Conv2d'),
        ({"models": {"V": net()}, "layer": "conv9"}, 'no 2-D convolution "conv9"; it has: 0, 2'),
        ({"models": {"V": net()}, "count": 7}, 'the layer of model "V" has 6 filters, asked for 7'),
        ({"models": {"V": net()}, "count": 0}, "count must be at least 1"),
        ({"models": {"V": net()}, "image": torch.zeros(8, 8)}, r"image: expected floats C H W"),
        ({"models": {"V": net()}, "image": torch.zeros(1, 8, 8).byte()}, "image: expected floats"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels(**arguments)


def test_layer_that_takes_no_part():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    with pytest.raises(ValueError, match="computes its logits without it"):
        kernels({"V": Idle()}, image=torch.rand(1, 8, 8))


def test_save_writes_a_picture_of_the_right_size(tmp_path):
    figure = kernels({"V": net()})
    path = tmp_path / "kernels.png"
    path.write_bytes(b"older")
    save(figure, path, dpi=100)
    height, width = matplotlib.image.imread(path).shape[:2]
    assert (width, height) == tuple(int(side * 100) for side in figure.get_size_inches())
    assert os.listdir(tmp_path) == ["kernels.png"]
    save(figure, tmp_path / "kernels.pdf")
    assert (tmp_path / "kernels.pdf").read_bytes().startswith(b"%PDF")


def test_save_errors(tmp_path):
    figure = kernels({"V": net()})
    with pytest.raises(ValueError, match=r"must end in one of .*png.*, found '\.gif9'"):
        save(figure, tmp_path / "kernels.gif9")
    with pytest.raises(RunError, match="cannot write"):
        save(figure, tmp_path / "missing" / "kernels.png")
