"""What took long to compute, kept in files, so that drawing it again is cheap and an interrupted figure goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from skreg._extras import require
from skreg._version import __version__
from skreg.figures.lineup import Lineup
from skreg.training.checkpoint import RunError, write_file


def of_each_model(
    lineup: Lineup,
    figure: str,
    facts: Mapping[str, object],
    compute: Callable[[nn.Module, Callable[[str], None]], dict[str, Tensor]],
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The name of each model, and what `compute` makes of it, or what it made of the same weights before.

    Args:
        lineup: the models, and the folder that keeps the numbers.
        figure: the beginning of the files' names.
        facts: all that the result depends on besides the weights, as in `keep`.
        compute: is called with a model and with a function that tells people how far it is.

    Raises:
        RunError: as `keep` does.
    """
    for name, model in lineup.models.items():

        def told(step: str, name: str = name) -> None:
            lineup.told(f"{figure}: {name}, {step}")

        lineup.told(f"{figure}: {name}")
        known = {**facts, "weights": digest(model.state_dict())}
        yield name, keep(lineup.numbers, f"{figure}-{name}", known, partial(compute, model, told))


def keep(
    folder: Path | None, name: str, facts: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `compute` returns, on the CPU, or what it returned when it was last called for the same `facts`.

    Args:
        folder: is made where it is missing; None to compute every time.
        name: the beginning of the file's name; a hash of `facts` and of skreg's version is the rest.
        facts: all that the result depends on, as JSON: digests of weights and images, options, seeds.

    Raises:
        RunError: the file is damaged, or cannot be written.
    """
    if folder is None:
        return _on_cpu(compute())
    text = json.dumps({"skreg": __version__, **facts}, sort_keys=True)
    file = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    safetensors = require("safetensors.torch", "lab")
    if file.is_file():
        try:
            tensors: dict[str, Tensor] = safetensors.load(file.read_bytes())
        except Exception as error:  # safetensors raises a class of its own, which is no base class of anything
            raise RunError(f"{file}: damaged ({error}); delete it, and it is computed again") from error
        return tensors
    result = _on_cpu(compute())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    write_file(file, safetensors.save(result, metadata={"skreg.figures": text}))
    return result


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the tensors' names, dtypes, shapes and values."""
    content: bytes = require("safetensors.torch", "lab").save(_on_cpu(tensors))
    return hashlib.sha256(content).hexdigest()


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
