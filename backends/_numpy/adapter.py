"""Adapter of NumPy: the arrays of device "cpu"."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import array_api_compat.numpy as compat
import numpy as np

from tapegrad._program.executor import PlanningExecutor
from tapegrad._program.ir import Program
from tapegrad.backends import _host_philox as philox
from tapegrad.backends._array import Array
from tapegrad.backends._base import PRIVATE_COUNT, Backend
from tapegrad.backends._norms import checked, checked_std
from tapegrad.backends._numpy import attention, convolution, functions, softmax, standardise, windows
from tapegrad.backends._numpy.triangular import solve_triangular
from tapegrad.backends._special import find, scipy_special


class Adapter(Backend):
    """NumPy arrays, and NumPy's scalars as arrays of no dimensions."""

    plans = stacks = True

    def __init__(self) -> None:
        super().__init__("numpy", compat)
        self.prefix = "cpu"
        own = functions
        self.xp.replace(
            sum=own.sum_,
            mean=own.mean,
            max=own.max_,
            min=own.min_,
            where=own.where,
            reshape=own.reshape,
            broadcast_to=own.broadcast_to,
            matrix_transpose=own.matrix_transpose,
            cumulative_max=own.cumulative_max,
            cumulative_min=own.cumulative_min,
            segment_max=partial(own.segment_extreme, True),
            segment_min=partial(own.segment_extreme, False),
            take_along_axis=own.take_along_axis,
            sigmoid_slope=partial(own.sigmoid_slope, self.sigmoid_slope),
            std=checked_std(self.xp, compat.std),
            tanh_slope=partial(own.tanh_slope, self.tanh_slope),
        )
        self.xp.replace(
            convolution=convolution.convolution,
            convolution_input=convolution.convolution_input,
            convolution_weight=convolution.convolution_weight,
            max_pool=windows.max_pool,
            pad_last=windows.pad_last,
            pool_gather=windows.pool_gather,
            pool_scatter=windows.pool_scatter,
            window_spread=windows.window_spread,
            window_sum=windows.window_sum,
            windows=windows.windows,
            windows_sum=windows.windows_sum,
        )
        self.xp.linalg.replace(
            vector_norm=checked(self.xp, compat.linalg.vector_norm),
            solve_triangular=partial(solve_triangular, self.xp.linalg.solve_triangular),
        )
        # Without the frames that array_api_compat puts around them.
        self.xp.replace(zeros=np.zeros, ones=np.ones, empty=np.empty, full=np.full, arange=np.arange)
        self.xp.replace(standardise=standardise.standardise, standardise_gradient=standardise.standardise_gradient)
        self.xp.replace(
            layer_norm_rows=standardise.layer_norm_rows, layer_norm_rows_gradient=standardise.layer_norm_rows_gradient
        )
        self.xp.replace(softmax_rows=softmax.softmax_rows, softmax_rows_gradient=softmax.softmax_rows_gradient)
        self.xp.replace(attend=attention.attend, attend_gradient=attention.attend_gradient)
        self.xp.replace(matmul=np.matmul, sign=np.sign, index_get=operator.getitem)

    def owns(self, array_type: type) -> bool:
        if array_type is not np.ndarray and issubclass(array_type, np.ndarray):
            functions.refuse_subclass(array_type)
            return True
        return issubclass(array_type, (np.ndarray, np.generic))

    def native_dtype(self, name: str) -> Any:
        return np.dtype(name)

    def has_dtype(self, name: str, device: Any) -> bool:
        return name != "bfloat16"

    def native_device(self, text: str) -> Any:
        if text not in ("", "0"):
            raise ValueError(f"the device of NumPy arrays is 'cpu'; there is no 'cpu:{text}'")
        return "cpu"

    def full_name(self, device: Any) -> str:
        return "cpu"

    def device_string(self, array: Array) -> str:
        return "cpu"

    def from_host(self, array: np.ndarray[Any, Any], device: Any) -> Array:
        return np.array(array)

    def move(self, array: Array, device: Any) -> Array:
        return array

    def as_array(self, result: Any) -> Array:
        return np.asarray(result)

    def as_scalar(self, operand: Any) -> Any:
        return operand.item() if isinstance(operand, np.generic) else None

    def export(self, array: Array) -> Array:
        view = array.view()
        view.flags.writeable = False
        return view

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        # Versions before 1.0 have no such mark: a consumer that knows only those refuses the capsule.
        return self.export(array).__dlpack__(stream=stream, max_version=(1, 0), copy=False)

    def is_private(self, holder: Any) -> bool:
        array = holder._array
        if array.base is not None or sys.getrefcount(array) != PRIVATE_COUNT:
            return False
        flags = array.flags
        return flags.owndata and flags.writeable  # type: ignore[no-any-return]

    def memory(self, array: Array) -> int:
        return id(array if array.base is None else array.base)

    def sigmoid(self, x: Array) -> Array:
        return functions.sigmoid(x)

    def special(self, name: str) -> Callable[..., Array]:
        return find(self, name, scipy_special())

    def draw(self, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0) -> Array:
        return philox.draw(key, count, form, shape, dtype, least)

    def skip(self, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
        return philox.skip(count, shape, start, step)

    def executor(self, program: Program, threads: int | None = None) -> PlanningExecutor:
        from tapegrad.backends._numpy.executor.executor import Executor

        return Executor(program, threads)

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        for i in key:
            if type(i) is np.ndarray:
                if i.dtype == np.bool:
                    array[key] += value
                else:
                    functions.add_at(array, key, value)
                return array
        part = array[(*key, ...)]  # a view: array[key] += value would write it back onto itself as well
        part += value
        return array
