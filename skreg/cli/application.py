"""The application, and what its commands share: how errors end, JSON, KEY=VALUE options."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, overload

import typer
from rich.console import Console

from skreg._version import __version__
from skreg.training import Terminated
from skreg.training.distributed import process_rank

app = typer.Typer(
    name="skreg",
    help="Smooth-kernel regularization of convolutional networks: train, evaluate, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_debug = False


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register `function` as a command; what it raises becomes one line on stderr and exit status 1.

    Ctrl-C ends with status 130, SIGTERM in training with 143, usage errors (`typer.BadParameter`) with 2.
    `skreg --debug` lets every exception through with its traceback.
    """

    @functools.wraps(function)
    def reporting(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt as interrupt:
            print_error("stopped", str(interrupt) or "interrupted")
            raise typer.Exit(143 if isinstance(interrupt, Terminated) else 130) from None
        except Exception as error:
            if _debug:
                raise
            print_error("error", _one_line(error))
            raise typer.Exit(1) from None

    app.command()(reporting)
    return reporting


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    expected = (ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError, MemoryError)
    if isinstance(error, expected) and text:
        return text
    # Anything else is a fault of ours: its type says more than its text, and the traceback says the rest.
    return f"{type(error).__name__}: {text} (run `skreg --debug ...` to see where)"


def print_error(kind: str, text: str) -> None:
    """Print one red line on stderr; where torchrun started several processes, it says which one this is."""
    console = Console(stderr=True)
    rank = f"rank {process_rank()}: " if "RANK" in os.environ else ""
    console.print(f"{rank}{kind}: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print `value` as JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def parse_assignments(option: str, pairs: list[str] | None) -> dict[str, Any]:
    """Turn `["a=1", "b=text"]` into `{"a": 1, "b": "text"}`; values are JSON where they can be.

    Raises:
        typer.BadParameter: a pair without `=`.
    """
    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{option}: expected key=value, found {pair!r}")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


PLAIN: dict[str, Any] = {
    "highlight": False,
    "markup": False,
    "soft_wrap": True,
}  # of console.print, for paths and names


@overload
def split_names(text: str) -> list[str]: ...
@overload
def split_names(text: str | None) -> list[str] | None: ...
def split_names(text: str | None) -> list[str] | None:
    """The names in "a, b"; None where the option was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skreg {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    global _debug
    _debug = debug


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
