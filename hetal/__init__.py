"""Training a classifier on data its trainer cannot read. The client library is :mod:`hetal.client`."""

from hetal._version import __version__

__all__ = ["__version__"]
