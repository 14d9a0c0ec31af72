"""JAX arrays: devices "jax:cpu", "jax:gpu:0" and the like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np

from tapegrad._program.executor import Executor
from tapegrad._program.ir import Program, nodes_only
from tapegrad.backends import _jax_windows, _philox
from tapegrad.backends import _matrices as matrices
from tapegrad.backends import _scans as scans
from tapegrad.backends._array import Array
from tapegrad.backends._base import Backend
from tapegrad.backends._special import find


class Words(_philox.Words):
    """Arithmetic of 32-bit words, where rounds are a loop: XLA would compile their operations for seconds."""

    def repeat(self, n: int, step: Callable[[list[Array]], list[Array]], state: list[Array]) -> list[Array]:
        return jax.lax.fori_loop(0, n, lambda _, state: step(state), state)  # type: ignore[no-any-return]


class Adapter(Backend):
    """JAX arrays, which nobody can write to: an update makes a new one.

    float64 and int64 are there only with `jax.config.update("jax_enable_x64", True)`.
    """

    mutable = False
    words = Words
    dtype_hint = ', or have 64-bit types with jax.config.update("jax_enable_x64", True)'

    def __init__(self) -> None:
        super().__init__("jax", jnp)
        # Each is hundreds of operations, which XLA makes one loop of.
        self._jitted_draw = jax.jit(super().draw, static_argnums=(2, 3, 4, 5))
        self.xp.replace(
            cumulative_max=lambda x, /, *, axis: jax.lax.cummax(x, axis % x.ndim),
            cumulative_min=lambda x, /, *, axis: jax.lax.cummin(x, axis % x.ndim),
            segment_max=partial(_segment_extreme, True),
            segment_min=partial(_segment_extreme, False),
        )
        self.xp.replace(searchsorted=_searchsorted, **_jax_windows.functions(self.xp))
        self.xp.linalg.replace(expm=_expm, solve_triangular=_solve_triangular)
        self._jitted_skip = jax.jit(partial(_philox.skip_by, self), static_argnums=1)

    def owns(self, array_type: type) -> bool:
        return issubclass(array_type, jax.Array) or issubclass(array_type, jax.core.Tracer)

    def native_dtype(self, name: str) -> Any:
        return np.dtype(getattr(jnp, name))

    def has_dtype(self, name: str, device: Any) -> bool:
        wide = ("float64", "int64", "uint64", "complex128")
        return bool(jax.config.jax_enable_x64) or name not in wide

    def native_device(self, text: str) -> Any:
        platform, _, number = text.partition(":")
        try:
            devices = jax.devices(platform or None)
        except RuntimeError as error:
            raise RuntimeError(
                f"device 'jax:{text}' is not available here: {error}; install the JAX build for it"
            ) from error
        if not (number or "0").isdecimal() or int(number or 0) >= len(devices):
            raise ValueError(f"unknown device 'jax:{text}': JAX has {', '.join(map(self.full_name, devices))}")
        return devices[int(number or 0)]

    def devices(self) -> list[str]:
        return list(dict.fromkeys(self.full_name(device) for device in (*jax.devices("cpu"), *jax.devices())))

    def full_name(self, device: Any) -> str:
        return "jax:cpu" if (device.platform, device.id) == ("cpu", 0) else f"jax:{device.platform}:{device.id}"

    def device_string(self, array: Array) -> str:
        devices = array.devices() if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) else ()
        return self.full_name(next(iter(devices))) if len(devices) == 1 else "jax"

    def from_host(self, array: np.ndarray[Any, Any], device: Any) -> Array:
        if not isinstance(device, jax.Device):  # the device of a traced array, or of an array on several devices
            return jnp.asarray(np.array(array))  # JAX moves it to the device of the other operands
        return jax.device_put(np.array(array), device)  # a copy: JAX may keep the host's buffer

    def is_symbolic(self, array: Array) -> bool:
        return isinstance(array, jax.core.Tracer)

    def refuse(self, condition: Array, error: Callable[[], Exception]) -> None:
        if not self.is_symbolic(condition):  # compiled code of XLA cannot raise
            super().refuse(condition, error)

    def peek(self, array: Array) -> np.ndarray[Any, Any]:
        if self.is_symbolic(array):
            return np.asarray(str(array), object)
        return self.to_host(array)

    def move(self, array: Array, device: Any) -> Array:
        return jax.device_put(array, device)

    def synchronize(self, array: Array) -> None:
        array.block_until_ready()

    def executor(self, program: Program, threads: int | None = None) -> Executor:
        from tapegrad.backends._jax_compile import JitExecutor

        return JitExecutor(nodes_only(program), self.to_host)

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        return array.__dlpack__(stream=stream, max_version=(1, 0), copy=False)  # no JAX array is ever written to

    def sigmoid(self, x: Array) -> Array:
        return jax.nn.sigmoid(_as_floats(x))

    def special(self, name: str) -> Callable[..., Array]:
        own = {"log_expit": jax.nn.log_sigmoid, "sinc": jnp.sinc}
        function = find(self, name, jax.scipy.special, own, composed=("betaln",))  # JAX's has 7 digits
        return function if name == "polygamma" else lambda *args: function(*map(_as_floats, args))

    def draw(self, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0) -> Array:
        return self._jitted_draw(key, count, form, tuple(shape), dtype, least)

    def skip(self, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
        numbers = [part for number in (start, step) for part in (number & _philox.MASK, number >> 32)]
        return self._jitted_skip(count, tuple(shape), np.asarray(numbers, np.uint32))

    def races(self, array: Array) -> bool:
        traced = isinstance(array, jax.core.Tracer)  # it has no device yet; XLA has a flag for determinism
        return not traced and any(device.platform not in ("cpu", "tpu") for device in array.devices())

    def index_set(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        return array.at[key].set(value)

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        return array.at[key].add(value)


def _as_floats(x: Any) -> Any:
    """Convert integers and booleans to the default float dtype: JAX's functions refuse them, or wrap around."""
    return x * 1.0 if getattr(getattr(x, "dtype", None), "kind", "f") in "iub" else x


def _segment_extreme(largest: bool, x: Array, ids: Array, n: int, /) -> Array:
    out = jnp.full((n, *x.shape[1:]), scans.least(jnp, x.dtype, largest), x.dtype)
    return out.at[ids].max(x) if largest else out.at[ids].min(x)


def _exponential(x: Array, /) -> Array:
    """Do as `matrices.expm` does, with the norms on the device; JAX's own has 6 digits for a norm of 1e4."""
    if 0 in x.shape:
        return x
    norms = jnp.max(jnp.sum(jnp.abs(x), axis=-2), axis=-1)[..., None, None]
    counts = jnp.ceil(jnp.log2(jnp.maximum(norms / matrices.NORM, 1)))
    counts = jnp.where(jnp.isfinite(counts), counts, 0)

    def squared(step: Any, out: Array) -> Array:
        return jnp.where(counts > step, out @ out, out)

    start = matrices.pade(jnp, x * (0.5**counts).astype(x.dtype))
    return jax.lax.fori_loop(0, jnp.max(counts).astype(int), squared, start)


_expm = jax.jit(_exponential)


def _solve_triangular(
    a: Array, b: Array, /, *, upper: bool = False, trans: str = "N", unit_diagonal: bool = False
) -> Array:
    lead = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    turned = trans == "C"
    return jax.lax.linalg.triangular_solve(
        jnp.broadcast_to(a, (*lead, *a.shape[-2:])),
        jnp.broadcast_to(b, (*lead, *b.shape[-2:])),
        left_side=True,
        lower=not upper,
        transpose_a=turned,
        conjugate_a=turned and jnp.iscomplexobj(a),
        unit_diagonal=unit_diagonal,
    )


def _searchsorted(x1: Array, x2: Array, /, *, side: str = "left", sorter: Array | None = None) -> Array:
    return jnp.searchsorted(x1, x2, side=side, sorter=sorter).astype(int)  # JAX gives int32 for short arrays
