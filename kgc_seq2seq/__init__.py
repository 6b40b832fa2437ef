"""Completes multimodal knowledge graphs by writing the missing entity's name."""

from kgc_seq2seq._version import __version__

__all__ = ["__version__"]
