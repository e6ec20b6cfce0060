"""Smooth-kernel regularization of convolutional networks."""

from skreg._version import __version__

__all__ = ["__version__"]
