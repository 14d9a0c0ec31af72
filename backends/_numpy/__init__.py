"""NumPy under tapegrad: the adapter of device "cpu"."""

from tapegrad.backends._numpy.adapter import Adapter

__all__ = ["Adapter"]
