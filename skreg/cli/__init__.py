"""The command line: one file a command. Each parses its options, calls the library and prints the result."""

# In the order of `skreg --help`: importing a command registers it.
from skreg.cli import train, runs, evaluate, bands, figures, report, reproduce, bench, info  # noqa: F401, I001
from skreg.cli.application import app

__all__ = ["app"]
