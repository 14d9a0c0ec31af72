"""NumPy's names as a namespace for Tensors, for opt_einsum, autoray and the libraries above them.

Creation functions are tapegrad's. Other functions are NumPy's, which call tapegrad's by NumPy's protocols (see
numpy_protocols.py). Functions that NumPy lacks, such as relu, are tapegrad's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad._engine.bound import bound
from tapegrad._engine.dtypes import DTYPES
from tapegrad._engine.tensor import Tensor
from tapegrad.ops.contraction import einsum as einsum
from tapegrad.ops.conversion import astype as astype
from tapegrad.ops.creation import arange as arange
from tapegrad.ops.creation import asarray as array
from tapegrad.ops.creation import asarray as asarray
from tapegrad.ops.creation import empty as empty
from tapegrad.ops.creation import eye as eye
from tapegrad.ops.creation import eye as identity
from tapegrad.ops.creation import full as full
from tapegrad.ops.creation import linspace as linspace
from tapegrad.ops.creation import ones as ones
from tapegrad.ops.creation import zeros as zeros

__all__ = ["array", "asarray", "astype", "arange", "complex", "einsum", "empty", "eye", "full", "identity", "linspace"]
__all__ += ["ones", "zeros"]


def complex(real: Tensor, imag: Tensor) -> Any:
    """Return the complex numbers of real and imaginary parts."""
    return real + 1j * imag


def __getattr__(name: str) -> Any:
    return DTYPES[name] if name in DTYPES else getattr(np if hasattr(np, name) else bound.namespace, name)
