"""The functions of upper floors that lower ones call: a slot for each, filled by `tapegrad/_bind.py` at import.

An import upwards would close a circle. So a lower floor reads the slot when it needs the function, never at import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Bound:
    """The slots.

    Attributes
    ----------
    namespace : module
        The module tapegrad, the array API namespace for Tensors.
    tensor_namespace : Namespace
        The same namespace with the functions that only rules and walks call; rules on Tensors compute in it.
    asarray, of_list : callable
        The functions of `ops.creation`.
    hint : callable
        The end of an error message for an attribute that Tensors lack.
    """

    __slots__ = ("asarray", "hint", "namespace", "of_list", "tensor_namespace")

    namespace: Any
    tensor_namespace: Any
    asarray: Callable[..., Any]
    of_list: Callable[..., Any]
    hint: Callable[[str], str]


bound = Bound()
