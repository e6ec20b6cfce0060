"""The command line: each command parses its options, calls the library and prints the result."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from skreg._version import __version__

app = typer.Typer(
    name="skreg",
    help="Smooth-kernel regularization of convolutional networks: train, evaluate, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
output = Console()  # results, on stdout
messages = Console(stderr=True)  # progress and errors, so that stdout stays clean for --json

_debug = False


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register `function` as a command; what it raises becomes one line on stderr and exit status 1.

    A `KeyboardInterrupt` ends with status 130, usage errors (`typer.BadParameter`) with 2. `skreg --debug`
    lets every exception through with its traceback.
    """

    @functools.wraps(function)
    def reporting(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt as interrupt:
            _print_error("stopped", str(interrupt) or "interrupted")
            raise typer.Exit(130) from None
        except Exception as error:
            if _debug:
                raise
            _print_error("error", _one_line(error))
            raise typer.Exit(1) from None

    app.command()(reporting)
    return reporting


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, OSError, RuntimeError, ModuleNotFoundError, ArithmeticError)) and text:
        return text
    # Anything else is unexpected: its type says more than its text, and the traceback says the rest.
    return f"{type(error).__name__}: {text} (run `skreg --debug ...` to see where)"


def _print_error(kind: str, text: str) -> None:
    messages.print(f"[bold red]{kind}:[/] ", end="")
    messages.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print `value` as JSON on stdout, without colours or line breaks of a terminal's width."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


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


@command
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, the device, the build of the native op and the data sets found."""
    print_json({"skreg": __version__})
