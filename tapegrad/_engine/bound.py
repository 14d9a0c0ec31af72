"""The functions of upper floors that lower ones call: a slot for each, filled by `tapegrad/_bind.py` at import.

An import upwards would close a circle. So a lower floor reads the slot when it needs the function, never at import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Bound:
    """The slots.

    namespace: the module tapegrad, which is the array API's namespace for Tensors; tensor_namespace: the namespace that
    rules on Tensors compute in, which is the former with what only rules and walks call; asarray, of_list: from
    `ops.creation`; hint: the end of an error for an attribute that Tensors lack.
    """

    __slots__ = ("asarray", "hint", "namespace", "of_list", "tensor_namespace")

    namespace: Any
    tensor_namespace: Any
    asarray: Callable[..., Any]
    of_list: Callable[..., Any]
    hint: Callable[[str], str]


bound = Bound()
