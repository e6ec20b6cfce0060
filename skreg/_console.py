"""The console script: starts the command line, or says which extra it needs."""

from __future__ import annotations

from skreg._extras import require


def main() -> None:
    """Run `skreg.cli.app`; without the lab's packages, say what to install and exit with status 1."""
    try:
        require("typer", "lab")
        require("rich", "lab")
    except ModuleNotFoundError as error:
        raise SystemExit(f"skreg: {error}") from None
    from skreg.cli import app

    app(prog_name="skreg")
