"""PyTorch tensors as plain arrays: devices "torch:cpu", "torch:cuda:0" and the like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import array_api_compat.torch as compat
import numpy as np
import torch

from tapegrad._program.executor import Executor
from tapegrad._program.ir import Program, nodes_only
from tapegrad.backends import _torch_attention as attention
from tapegrad.backends import _torch_compile, _torch_windows
from tapegrad.backends import _torch_functions as functions
from tapegrad.backends import _torch_philox as philox
from tapegrad.backends._array import Array
from tapegrad.backends._base import Backend
from tapegrad.backends._norms import scaled_std
from tapegrad.backends._special import find, promoting


class Adapter(Backend):
    """PyTorch tensors. Its own autograd is not used; tensors that it records are refused."""

    def __init__(self) -> None:
        super().__init__("torch", compat)
        self.xp.replace(std=scaled_std(self.xp, lambda x, **options: torch.sqrt(compat.var(x, **options))))
        philox.install(self)
        self.xp.replace(take_along_axis=functions.take_along_axis)
        self.xp.replace(searchsorted=functions.searchsorted)
        self.xp.replace(
            cumulative_max=lambda x, /, *, axis: torch.cummax(x, axis).values,
            cumulative_min=lambda x, /, *, axis: torch.cummin(x, axis).values,
            segment_max=partial(functions.segment_extreme, True),
            segment_min=partial(functions.segment_extreme, False),
        )
        self.xp.replace(attend=attention.attend, attend_gradient=attention.attend_gradient)
        self.xp.replace(**_torch_windows.functions(self.xp))
        self.xp.linalg.replace(expm=torch.linalg.matrix_exp, solve_triangular=functions.solve_triangular)

    def owns(self, array_type: type) -> bool:
        return issubclass(array_type, torch.Tensor)

    def has_dtype(self, name: str, device: Any) -> bool:
        return hasattr(torch, name) and not (name == "float64" and torch.device(device).type == "mps")

    def native_device(self, text: str) -> torch.device:
        try:
            device = torch.device(text or "cpu")
        except RuntimeError as error:
            raise ValueError(f"unknown device 'torch:{text}': {error}") from error
        if device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError(
                    f"device 'torch:{text}' is not available here: PyTorch finds no CUDA device; install a driver "
                    "and a CUDA build of torch"
                )
            if device.index is None:
                device = torch.device("cuda", torch.cuda.current_device())
            elif device.index >= torch.cuda.device_count():
                raise ValueError(f"device 'torch:{text}': there are {torch.cuda.device_count()} CUDA devices")
        return device

    def devices(self) -> list[str]:
        return ["torch:cpu", *[f"torch:cuda:{i}" for i in range(torch.cuda.device_count())]]

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).resolve_conj().numpy()  # type: ignore[no-any-return]

    def from_host(self, array: np.ndarray[Any, Any], device: Any) -> Array:
        return torch.from_numpy(np.array(array)).to(device)

    def move(self, array: Array, device: Any) -> Array:
        return array.to(device)

    def synchronize(self, array: Array) -> None:
        if array.device.type == "cuda":
            torch.cuda.synchronize(array.device)

    def executor(self, program: Program, threads: int | None = None) -> Executor:
        return _torch_compile.executor(nodes_only(program), self.to_host)

    def refuse_recorded(self, array: Array) -> None:
        functions.refuse_recorded(array)

    def copy(self, array: Array) -> Array:
        self.refuse_recorded(array)
        return array.clone()

    def sigmoid(self, x: Array) -> Array:
        return torch.sigmoid(x)

    def special(self, name: str) -> Callable[..., Array]:
        own = {n: promoting(self.xp, getattr(torch.special, n)) for n in ("xlogy", "xlog1py")}
        own["log_expit"] = lambda x: torch.nn.functional.logsigmoid(x if x.is_floating_point() else x * 1.0)
        return find(self, name, torch.special, own, composed=("ndtr",))  # PyTorch's, by 1 + erf, is 0 below -9

    def philox_dtype(self, device: Any) -> str:
        return "int64"  # PyTorch neither adds nor shifts unsigned integers

    def draw(self, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0) -> Array:
        return philox.draw(self, key, count, form, shape, dtype, least)

    def skip(self, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
        return philox.skip(self, count, shape, start, step)

    def races(self, array: Array) -> bool:
        return bool(array.device.type != "cpu")

    # PyTorch has no slices of negative step, and adds at repeated indices by functions of its own.

    def index_get(self, array: Array, key: tuple[Any, ...]) -> Array:
        key, axes = self._forward(array, key)
        return torch.flip(array[key], axes) if axes else array[key]

    def index_set(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        key, axes = self._forward(array, key)
        if axes:
            value = torch.flip(value.broadcast_to(array[key].shape), axes)
        array[key] = value
        return array

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        key, axes = self._forward(array, key)
        if axes:
            value = torch.flip(value, axes)
        if not self.has_integer_arrays(key):
            if functions.tracing.depth and not any(hasattr(i, "shape") for i in key):
                return functions.added(array, key, value)
            array[key] += value
            return array
        simple = [n for n, i in enumerate(key) if i != slice(None)] if functions.one_array(key) else []
        if len(simple) == 1:
            (axis,) = simple
            index = key[axis].long()
            return array.index_add_(axis, torch.where(index < 0, index + array.shape[axis], index), value)
        places = torch.arange(array.numel(), device=array.device).reshape(array.shape)[key]
        flat = array.contiguous().view(-1).index_add_(0, places.reshape(-1), value.reshape(-1))
        return flat.view(array.shape)

    def _forward(self, array: Array, key: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[int]]:
        """Return a key with slices of positive step only, and the axes of the result to flip after it."""
        out, axes, axis = [], [], 0
        for i in key:
            if isinstance(i, slice) and (i.step or 1) < 0:
                if self.has_integer_arrays(key):
                    return tuple(self.spell_out(array, key)), []
                numbers = range(i.start, -1 if i.stop is None else i.stop, i.step)
                i = slice(numbers[-1], numbers[0] + 1, -i.step)
                axes.append(axis)
            axis += not isinstance(i, int)
            out.append(i)
        return tuple(out), axes
