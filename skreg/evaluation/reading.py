"""Evaluations read back from RUN/evaluation.json."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import math
import types
import typing
from typing import Any

from skreg.evaluation.evaluate import AttackSummary, Evaluation, summarise_kernels
from skreg.evaluation.runs import EVALUATION_FILE
from skreg.training import Run, RunError


def is_evaluated(run: Run) -> bool:
    """Whether `run` has an evaluation.json, good or not."""
    return (run.path / EVALUATION_FILE).exists()


def read_evaluation(run: Run) -> Evaluation:
    """What `skreg evaluate` wrote into the run folder.

    The file has null for infinity and for NaN: a median distance is read as infinite where something was searched.

    Raises:
        RunError: there is no evaluation, it cannot be read, or its kernels are not those of the run's best weights.
    """
    file = run.path / EVALUATION_FILE
    again = f"run `skreg evaluate {run.path}` again"
    if not file.exists():
        raise RunError(f"{run.path} is not evaluated: run `skreg evaluate {run.path}` first")
    try:
        evaluation = typing.cast(Evaluation, _decode(Evaluation, json.loads(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file}: damaged, or of another version of skreg ({error}); {again}") from error
    _check_kernels(run, evaluation, again)
    searches = tuple(_with_infinite_medians(summary) for summary in evaluation.attacks)
    # Files of before lack the variant, which the run knows.
    return dataclasses.replace(evaluation, attacks=searches, variant=run.config.variant)


def _check_kernels(run: Run, evaluation: Evaluation, again: str) -> None:
    """The kernels are the fingerprint: measured again, they come out the same for the same weights only."""
    recorded = {layer.name: (layer.roughness, layer.norm) for layer in evaluation.layers}
    measured = {layer.name: (layer.roughness, layer.norm) for layer in summarise_kernels(run.load_model("best"))}
    same = recorded.keys() == measured.keys() and all(
        math.isclose(a, b, rel_tol=1e-4)
        for name in measured
        for a, b in zip(recorded[name], measured[name], strict=True)
    )
    if not same:
        raise RunError(
            f"{run.path / EVALUATION_FILE} is an evaluation of other weights than the run's best ones: their kernels "
            f"differ. {again[0].upper()}{again[1:]}; move {run.path / 'evaluation'} away before, if there is one"
        )


def _with_infinite_medians(summary: AttackSummary) -> AttackSummary:
    def median(value: float) -> float:
        return math.inf if summary.searches and math.isnan(value) else value

    return dataclasses.replace(
        summary,
        median_l0=median(summary.median_l0),
        median_l2=median(summary.median_l2),
        median_linf=median(summary.median_linf),
    )


def _decode(hint: Any, value: Any) -> Any:
    """The inverse of `skreg.evaluation.as_dict` for a value whose type is annotated as `hint`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(next(each for each in arguments if each is not type(None)), value)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        names = [each.name for each in dataclasses.fields(hint) if each.name in value or _is_required(each)]
        return typing.cast(Any, hint)(**{name: _decode(hints[name], value[name]) for name in names})
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_decode(arguments[0], each) for each in value)
        return tuple(_decode(each, part) for each, part in zip(arguments, value, strict=True))
    if origin in (dict, collections.abc.Mapping):
        return {key: _decode(arguments[1], each) for key, each in value.items()}
    if hint is float:
        return math.nan if value is None else float(value)
    if not isinstance(value, hint):
        raise TypeError(f"expected {hint.__name__}, found {value!r}")
    return value


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
