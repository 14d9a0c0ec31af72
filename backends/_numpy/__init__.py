"""NumPy: the adapter of device "cpu", and in `executor` the executor of compiled programs.

Only the adapter is imported with tapegrad; the executor is at the first compiled call.
"""

from tapegrad.backends._numpy.adapter import Adapter

__all__ = ["Adapter"]
