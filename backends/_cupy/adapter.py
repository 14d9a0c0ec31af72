"""CuPy: the arrays of devices "cuda", "cuda:1" and so on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from operator import attrgetter
from typing import Any

import array_api_compat.cupy as compat
import cupy
import cupyx
import cupyx.scipy.special
import numpy as np
from cupy_backends.cuda.libs import nvrtc

from tapegrad._program.executor import AttentionKernels, FusedProgram, PlanningExecutor
from tapegrad._program.ir import Node, Program
from tapegrad._program.queries import is_put_where
from tapegrad.backends._array import DEVICE_IDS, Array
from tapegrad.backends._base import PRIVATE_COUNT, Backend
from tapegrad.backends._cupy import attention as attention_calls
from tapegrad.backends._cupy import bfloat16, functions, philox, windows
from tapegrad.backends._cupy import deferred_checks as checks
from tapegrad.backends._cupy.codegen.cuda_types import BFLOAT16
from tapegrad.backends._cupy.codegen.expressions import EXTRA
from tapegrad.backends._cupy.cublas import Matmul, vecdot
from tapegrad.backends._cupy.devices import Everywhere, there
from tapegrad.backends._cupy.error_advice import remedy
from tapegrad.backends._special import find

DEVICE_IDS[cupy.cuda.Device] = attrgetter("id")
_OWN = (cupy.cuda.memory.PooledMemory, cupy.cuda.Memory)  # memory that no other library knows


class Adapter(Backend):
    """CuPy arrays, one CUDA device each."""

    plans = fuses = True
    smallest_run = 1  # each kernel costs a launch
    attention: AttentionKernels | None = attention_calls
    kernels = True
    elementwise = EXTRA
    dtype_hint = bfloat16.hint()

    def __init__(self) -> None:
        super().__init__("cupy", compat)
        self.prefix = "cuda"
        matmul = Matmul(cupy)
        self.xp.replace(matmul=matmul, vecdot=partial(vecdot, matmul))
        # array_api_compat takes device= and ignores it.
        for name in ("zeros", "ones", "empty", "arange", "eye"):
            self.xp.replace(**{name: _on_device(getattr(compat, name))})
        self.xp.replace(reshape=functions.reshape, permute_dims=functions.permute_dims)
        self.xp.replace(
            asarray=_on_device(functions.asarray),
            linspace=_on_device(functions.linspace),
            full=_on_device(functions.full),
        )
        self.xp.replace(pow=functions.power)
        self.xp.replace(sign=functions.sign, floor_divide=functions.floor_divide, remainder=functions.remainder)
        self.xp.replace(bitwise_left_shift=functions.left_shift, bitwise_right_shift=functions.right_shift)
        self.xp.replace(note_outside=checks.note_outside)
        self.xp.replace(draw=philox.Draw(), skip=philox.skip)
        self.xp.replace(**windows.functions(self.xp))
        self.xp.linalg.replace(solve=functions.solve)
        bfloat16.install(self.xp)
        self.dtype_names[BFLOAT16] = "bfloat16"
        if cupy.cuda.runtime.getDeviceCount() > 1:
            self.xp = Everywhere(self.xp)
            for name in ("copy", "copied_dlpack", "loop", "refuse", "refuse_outside"):
                setattr(self, name, there(getattr(self, name)))
        # The standard's operators that are not CuPy's own: see functions.
        own = {"//": "floor_divide", "%": "remainder", "<<": "bitwise_left_shift", ">>": "bitwise_right_shift"}
        own["**"] = "pow"
        self.in_place = {symbol: functions.in_place(getattr(self.xp, name)) for symbol, name in own.items()}

    @classmethod
    def why_not(cls) -> str | None:
        runtime = cupy.cuda.runtime
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if 0 < driver // 1000 < needed // 1000:
            found = f"the NVIDIA driver is for CUDA {_version(driver)} and CuPy for {_version(needed)}"
            return f"{found}; update the driver, or pip install 'tapegrad[cuda{driver // 1000}]'"
        try:
            runtime.getDeviceCount()
        except runtime.CUDARuntimeError:
            return "CuPy is installed but finds no CUDA device; install the NVIDIA driver"
        try:
            nvrtc.getVersion()
        except (ImportError, RuntimeError) as error:
            return f"CuPy finds no CUDA libraries; pip install 'cupy-cuda{needed // 1000}x[ctk]' ({error})"
        return None

    def remedy(self, error: Exception) -> str:
        return remedy(error)

    def owns(self, array_type: type) -> bool:
        return issubclass(array_type, cupy.ndarray)

    def native_dtype(self, name: str) -> Any:
        return np.dtype(getattr(self.xp, name))

    def has_dtype(self, name: str, device: Any) -> bool:
        return name != "bfloat16" or BFLOAT16 is not None

    def native_device(self, text: str) -> Any:
        count = cupy.cuda.runtime.getDeviceCount()
        if not (text or "0").isdecimal() or int(text or 0) >= count:
            raise ValueError(f"unknown device 'cuda:{text}': there are {count}, from 'cuda:0' on")
        return cupy.cuda.Device(int(text or 0))

    def full_name(self, device: Any) -> str:
        return f"cuda:{device.id}"

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        values = cupy.asnumpy(array)
        if array.dtype is BFLOAT16:
            values = values.astype(np.float32)  # NumPy's own functions know no bfloat16
        checks.report(array.device.id)
        return values  # type: ignore[no-any-return]

    def holds(self, condition: Array) -> bool:
        return bool(self.to_host(condition))

    def refuse(self, condition: Array, error: Callable[[], Exception]) -> None:
        checks.defer(condition, error)

    def refuse_outside(self, indices: Array, n: int, error: Callable[[], Exception]) -> None:
        checks.defer_outside(indices, n, error)

    def refusal_outside(self, indices: Array, n: int, error: Callable[[], Exception]) -> Any:
        return checks.flag_of(indices, error)

    def from_host(self, array: np.ndarray[Any, Any], device: Any) -> Array:
        with device:
            if array.ndim == 0 and not array and any(array.tobytes()):
                zero = cupy.empty((), array.dtype)  # cupy.array would fill it with +0
                zero.set(array)
                return zero
            return cupy.array(array)

    def move(self, array: Array, device: Any) -> Array:
        with device:
            return cupy.asarray(array)

    def raising(self) -> AbstractContextManager[Any]:
        return cupyx.errstate(linalg="raise")  # type: ignore[no-any-return]

    def synchronize(self, array: Array) -> None:
        with array.device:
            cupy.cuda.get_current_stream().synchronize()
            checks.report(array.device.id)

    def copy(self, array: Array) -> Array:
        return array.copy()

    def is_private(self, holder: Any) -> bool:
        array = holder._array
        if array.base is not None or sys.getrefcount(array) != PRIVATE_COUNT or type(array.data.mem) not in _OWN:
            return False
        return bool(array.data.device_id == cupy.cuda.runtime.getDevice())  # operators compute on the current device

    def can_share(self, array: Array, target: Array) -> bool:
        same = array.data.device_id == target.data.device_id
        return bool(same and array.base is None and array.flags.c_contiguous)

    def memory(self, array: Array) -> int:
        return id(array if array.base is None else array.base)

    def sigmoid(self, x: Array) -> Array:
        return functions.sigmoid(x)

    def tanh_slope(self, x: Array) -> Array:
        return functions.tanh_slope_of_complex(x) if x.dtype.kind == "c" else super().tanh_slope(x)

    def special(self, name: str) -> Callable[..., Array]:
        return bfloat16.wide(find(self, name, cupyx.scipy.special, functions.SPECIAL))

    def dropped(self, x: Array, key: Array, count: Array, shape: tuple[int, ...], least: int, scale: float) -> Array:
        out = philox.dropped(x, key, count, shape, least, scale)
        return super().dropped(x, key, count, shape, least, scale) if out is None else out

    def executor(self, program: Program, threads: int | None = None) -> PlanningExecutor:
        from tapegrad.backends._cupy.executor.executor import Executor

        return Executor(program)

    def fused_program(self, program: Program[Node], name: str) -> FusedProgram | None:
        from tapegrad.backends._cupy.eager.fused_program import compiled

        return compiled(program, name)

    def races(self, array: Array) -> bool:
        return True  # atomics

    def index_set(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        if is_put_where(array, key, value):
            functions.put_where(array, key, value)  # CuPy would count the true ones, on the host
        else:
            array[key] = value
        return array

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        if self.has_integer_arrays(key):
            functions.add_at(array, key, value)
        else:
            array[key] += value
        return array

    def copied_dlpack(self, array: Array, **options: Any) -> Any:
        return array.copy().__dlpack__(**options)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _on_device(create: Callable[..., Array]) -> Callable[..., Array]:
    """Return a creation function that makes its array on the device it is given."""

    def created(*args: Any, device: Any = None, **options: Any) -> Array:
        with cupy.cuda.Device(device):  # None is the current one
            return create(*args, **options)

    return created
