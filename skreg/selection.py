"""Which weights are regularized, and with which coefficient: patterns over parameter names."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from skreg._weights import check_weights
from skreg.effective import computed_weight, is_computed

Patterns = str | Sequence[str]

_NAMES_IN_ERROR = 60


def select_weights(
    source: nn.Module | Iterable[tuple[str, Tensor]],
    include: Patterns | None = None,
    exclude: Patterns | None = None,
) -> dict[str, Tensor]:
    """Choose the weights to regularize.

    The candidates are the floating parameters with 3 to 5 dimensions of a module, or all the given pairs.
    Taken are the weights of convolutions, transposed ones included, or all the given pairs; those that a
    convolution computes from others (`skreg.effective`), under the name of the weight; with `include`,
    the candidates that match it instead, whatever module they belong to. Kernels of a single element have no
    neighbours and are left out unless `include` holds their exact name. `exclude` has the last word. A weight
    that several modules share is taken once, under its first name.

    Args:
        source: a module, or (name, parameter) pairs.
        include: one or more fnmatch patterns over parameter names, case-sensitive.
        exclude: likewise.

    Returns:
        The parameters themselves, by name, in the order of `source`.

    Raises:
        TypeError: `source` is neither, or a pattern is no string.
        ValueError: a pattern matches no candidate; nothing is left; a weight is not initialised yet; or,
            among pairs, a name or a tensor comes twice or is no weight of 3 to 5 dimensions.
    """
    if isinstance(source, nn.Module):
        candidates: dict[str, Tensor] = {
            name: p for name, p in source.named_parameters() if is_lazy(p) or _is_kernel_weight(p)
        }
        convolutions = _convolution_weights(source)
        chosen = [name for name, p in candidates.items() if id(p) in convolutions]
        computed = _computed_weights(source)
        # Placeholders until they are chosen, because computing one may fail.
        candidates.update(dict.fromkeys(computed, torch.empty(0)))
        chosen += computed
    else:
        candidates = _checked_pairs(source)
        chosen = list(candidates)
    if not candidates:
        raise ValueError(
            "nothing to regularize: found no floating parameter with 3 to 5 dimensions, as convolutions have"
        )
    exact: Collection[str] = ()
    if include is not None:
        exact = _as_patterns("include", include)
        chosen = _matching("include", exact, candidates)
    if exclude is not None:
        excluded = set(_matching("exclude", _as_patterns("exclude", exclude), candidates))
        chosen = [name for name in chosen if name not in excluded]
    if isinstance(source, nn.Module):
        candidates.update(
            (name, computed_weight(computed[name], "weight", name)) for name in chosen if name in computed
        )
    if chosen:
        check_weights([candidates[name] for name in chosen], chosen)
    chosen = [name for name in chosen if name in exact or candidates[name].shape[2:].numel() != 1]
    if not chosen:
        raise ValueError(
            f"nothing to regularize: include={include!r}, exclude={exclude!r} leave no weight (kernels "
            "of one element are taken only where include holds their exact name); "
            f"candidates: {_listing(candidates)}"
        )
    return {name: candidates[name] for name in chosen}


def match_coefficients(names: Sequence[str], coefficients: Mapping[str, float] | None) -> list[float]:
    """The coefficient of each name: that of the last pattern to match it, as in a .gitignore file, or 1.

    Raises:
        TypeError: `coefficients` is no mapping, a pattern no string or a coefficient no number.
        ValueError: a pattern matches no name, or a coefficient is not finite.
    """
    found = dict.fromkeys(names, 1.0)
    if coefficients is None:
        return list(found.values())
    if not isinstance(coefficients, Mapping):
        raise TypeError(f"coefficients: expected a mapping of pattern to number, found {type(coefficients).__name__}")
    for pattern, value in coefficients.items():
        number = finite(f"coefficients[{pattern!r}]", value)
        for name in _matching("coefficients", _as_patterns("coefficients", [pattern]), found):
            found[name] = number
    return list(found.values())


def finite(what: str, value: float) -> float:
    """`value` as a float.

    Raises:
        TypeError: it is no real number.
        ValueError: it is infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what}: expected a number, found {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{what}: expected a finite number, found {value!r}")
    return float(value)


def _is_kernel_weight(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and 3 <= parameter.dim() <= 5


def _convolution_weights(module: nn.Module) -> set[int]:
    """The identities of the weights that are parameters of convolutions."""
    return {
        id(parameter)
        for convolution in module.modules()
        if isinstance(convolution, _ConvNd)
        for name, parameter in convolution.named_parameters(recurse=False)
        if name == "weight"
    }


def _computed_weights(module: nn.Module) -> dict[str, _ConvNd]:
    """The convolutions whose weight is no parameter, by the name that it would have."""
    return {
        f"{path}.weight" if path else "weight": part
        for path, part in module.named_modules()
        if isinstance(part, _ConvNd) and is_computed(part, "weight")
    }


def _checked_pairs(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The pairs as a dictionary, checked for names given twice and tensors that are not parameters."""
    if isinstance(pairs, Tensor) or not isinstance(pairs, Iterable):
        raise TypeError(f"expected a module or (name, parameter) pairs, found {type(pairs).__name__}")
    weights: dict[str, Tensor] = {}
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)):
            found = type(pair).__name__
            raise TypeError(f"expected (name, parameter) pairs as of model.named_parameters(), found {found}")
        name, weight = pair
        if name in weights:
            raise ValueError(f"the name {name!r} is given to two parameters: names must differ")
        if isinstance(weight, Tensor) and not weight.is_leaf:
            raise ValueError(
                f"{name}: computed from other tensors, so it would go stale; give the parameter itself, or "
                "call smooth_kernel_penalty on it in every step"
            )
        weights[name] = weight
    return weights


def _as_patterns(option: str, patterns: Patterns) -> list[str]:
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in listed:
        if not isinstance(pattern, str):
            raise TypeError(f"{option}: expected patterns over parameter names, found {pattern!r}")
    return listed


def _matching(option: str, patterns: Iterable[str], candidates: Collection[str]) -> list[str]:
    """The candidates that equal or match any of the patterns, each of which must match one."""
    matched: set[str] = set()
    for pattern in patterns:
        names = [name for name in candidates if name == pattern or fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(f"{option}: {pattern!r} matches no parameter; candidates: {_listing(candidates)}")
        matched.update(names)
    return [name for name in candidates if name in matched]


def _listing(names: Collection[str]) -> str:
    shown = list(names)[:_NAMES_IN_ERROR]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
