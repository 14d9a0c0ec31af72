"""Registration of Tensors with libraries that keep a table of array types, when such a library is imported.

einops looks for a subclass of its AbstractBackend, autoray for a registered type. opt_einsum takes the functions of a
type's module. This module imports none of them: a finder on `sys.meta_path` notices their import.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from tapegrad._engine.bound import bound
from tapegrad._engine.tensor import Tensor
from tapegrad.linalg import svd
from tapegrad.ops.contraction import einsum
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import asarray

_NAMES = "tapegrad._protocols.numpy_names"


def _einops(backends: ModuleType) -> None:
    """Define a backend of einops, in functions of the standard."""
    tg = bound.namespace

    class Backend(backends.AbstractBackend):  # type: ignore[name-defined, misc]
        framework_name = "tapegrad"

        def is_appropriate_type(self, tensor: Any) -> bool:
            return type(tensor) is Tensor

        def from_numpy(self, x: Any) -> Any:
            return tg.asarray(x)

        def to_numpy(self, x: Tensor) -> Any:
            return x.__array__()

        def arange(self, start: int, stop: int) -> Any:
            return tg.arange(start, stop)

        def reshape(self, x: Tensor, shape: Sequence[int]) -> Any:
            return tg.reshape(x, tuple(shape))

        def transpose(self, x: Tensor, axes: Sequence[int]) -> Any:
            return tg.permute_dims(x, tuple(axes))

        def reduce(self, x: Tensor, operation: str, axes: Sequence[int]) -> Any:
            return getattr(tg, operation)(x, axis=tuple(axes))

        def stack_on_zeroth_dimension(self, tensors: Sequence[Tensor]) -> Any:
            return tg.stack(tensors)

        def add_axis(self, x: Tensor, new_position: int) -> Any:
            return tg.expand_dims(x, axis=new_position)

        def tile(self, x: Tensor, repeats: Sequence[int]) -> Any:
            return tg.tile(x, tuple(repeats))

        def concat(self, tensors: Sequence[Tensor], axis: int) -> Any:
            return tg.concat(tensors, axis=axis)

        def is_float_type(self, x: Tensor) -> Any:
            return tg.isdtype(x.dtype, "real floating")

        def einsum(self, pattern: str, *x: Tensor) -> Any:
            return einsum(pattern, *x)

    backends._tapegrad = Backend  # type: ignore[attr-defined]  # einops finds it among the living subclasses


def _autoray(autoray: ModuleType) -> None:
    """Register NumPy's names with autoray, except for functions that differ from NumPy's there."""
    autoray.register_backend(Tensor, "tapegrad")
    autoray.register_module_alias("tapegrad", _NAMES)
    own: dict[str, Callable[..., Any]] = {
        "astype": lambda x, dtype: astype(x, dtype),
        "linalg.svd": lambda x, full_matrices=False: svd(x, full_matrices=full_matrices),
        **{f"random.{name}": partial(_random, name) for name in ("normal", "uniform")},
    }
    for name, function in own.items():
        autoray.register_function("tapegrad", name, function)


def _random(name: str, *args: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return random numbers of NumPy as a Tensor."""
    return asarray(getattr(np.random, name)(*args, **options), dtype=dtype)


def _opt_einsum(dispatch: ModuleType) -> None:
    """Register a module of functions with opt_einsum."""
    dispatch._aliases["tapegrad"] = _NAMES


_REGISTER: dict[str, Callable[[ModuleType], None]] = {
    "einops._backends": _einops,
    "autoray.autoray": _autoray,
    "opt_einsum.backends.dispatch": _opt_einsum,
}


class _Finder:
    """An import finder that delegates to the others, and registers Tensors after a library's module has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        register = _REGISTER.pop(name, None)
        if register is None:
            return None
        spec = find_spec(name)  # by the other finders, as the name is out of the table now
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                try:
                    run(module)
                except BaseException:
                    _REGISTER[name] = register  # for another try
                    raise
                _register(name, register, module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register(name: str, register: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Register with a library; a failure, as with an unknown version, only warns, so that the import succeeds."""
    try:
        register(module)
    except Exception as error:
        library = name.partition(".")[0]
        warnings.warn(f"tapegrad: {library} will not know Tensors: {error!r}", RuntimeWarning, stacklevel=2)


def watch() -> None:
    """Register with the libraries that are imported already, and with the others at their import."""
    for name in [name for name in _REGISTER if name in sys.modules]:
        _register(name, _REGISTER.pop(name), sys.modules[name])
    if _REGISTER:
        sys.meta_path.insert(0, _Finder())
