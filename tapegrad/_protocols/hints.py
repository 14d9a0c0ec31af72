"""Hints for names of NumPy, PyTorch and JAX that the array API standard lacks."""

from __future__ import annotations

from tapegrad import fft, linalg, signal, special

_RANDOM = "rng.normal(shape) and the like, with rng = tapegrad.random.Generator(seed)"
_JOIN = "tapegrad.concat(xs, axis=axis) or tapegrad.stack(xs, axis=axis)"
_FLAT = "tapegrad.reshape(x, (-1,))"
_PRODUCTS = "tapegrad.matmul, tapegrad.vecdot or tapegrad.tensordot"
_CLOSE = "numpy's function of that name, which takes Tensors"
_SORTED = "tapegrad.sort(x) and an index"
_CONTROL = "Python's own if, for and while: they are recorded as they run"
_LAYERS = "any object that holds Tensors; tapegrad.nn has layers"

# For functions of the namespace.
FUNCTIONS = {
    **dict.fromkeys(("array", "as_tensor", "from_numpy"), "tapegrad.asarray(data), or tapegrad.tensor to copy it"),
    **dict.fromkeys(("Variable", "parameter", "Parameter"), "tapegrad.tensor(data, requires_grad=True)"),
    "ndarray": "tapegrad.Tensor",
    "numpy": "tapegrad itself, which is the namespace",
    **dict.fromkeys(("concatenate", "cat"), "tapegrad.concat(xs, axis=axis)"),
    **dict.fromkeys(("vstack", "hstack", "dstack", "column_stack", "append"), _JOIN),
    **dict.fromkeys(("dot", "inner", "mm", "bmm", "mv"), _PRODUCTS),
    **dict.fromkeys(("rand", "randn", "randint", "normal", "uniform", "manual_seed"), _RANDOM),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "tapegrad.conv(x, w), which tells their number of axes by w"),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), "tapegrad.max_pool(x, size)"),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), "tapegrad.mean_pool(x, size)"),
    "interpolate": "tapegrad.resize(x, size, mode=mode)",
    **dict.fromkeys(("transpose", "permute"), "tapegrad.permute_dims(x, axes), x.T or x.mT"),
    **dict.fromkeys(("swapaxes", "rollaxis", "movedim"), "tapegrad.moveaxis or tapegrad.permute_dims"),
    "unsqueeze": "tapegrad.expand_dims(x, axis=axis)",
    "view": "tapegrad.reshape(x, shape)",
    **dict.fromkeys(("ravel", "flatten"), _FLAT),
    **dict.fromkeys(("split", "array_split", "chunk"), "slices such as x[:n], or tapegrad.unstack(x)"),
    "norm": "tapegrad.linalg.vector_norm or tapegrad.linalg.matrix_norm",
    **dict.fromkeys(("absolute", "fabs"), "tapegrad.abs(x)"),
    **{f"arc{name}": f"tapegrad.a{name}(x)" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "arctan2": "tapegrad.atan2(y, x)",
    "power": "tapegrad.pow(x, y)",
    **dict.fromkeys(("mod", "fmod"), "tapegrad.remainder(x, y)"),
    "true_divide": "tapegrad.divide(x, y)",
    "invert": "tapegrad.bitwise_invert(x)",
    "conjugate": "tapegrad.conj(x)",
    **dict.fromkeys(("rint", "around"), "tapegrad.round(x)"),
    "clamp": "tapegrad.clip(x, min, max)",
    "amax": "tapegrad.max(x, axis=axis)",
    "amin": "tapegrad.min(x, axis=axis)",
    "average": "tapegrad.mean(x, axis=axis)",
    "cumsum": "tapegrad.cumulative_sum(x, axis=axis)",
    "cumprod": "tapegrad.cumulative_prod(x, axis=axis)",
    **dict.fromkeys(("median", "quantile", "percentile"), _SORTED),
    "topk": "tapegrad.top_k(x, k)",
    **dict.fromkeys(("cummax", "cummin"), "tapegrad.cumulative_max or tapegrad.cumulative_min"),
    "logcumsumexp": "tapegrad.cumulative_logsumexp(x, axis=axis)",
    "unique": "tapegrad.unique_values(x), or another of the unique_ functions",
    **dict.fromkeys(("gather", "index_select"), "tapegrad.take_along_axis or tapegrad.take"),
    **dict.fromkeys(("allclose", "isclose", "array_equal"), _CLOSE),
    **dict.fromkeys(("Module",), _LAYERS),
    "jit": "tapegrad.compile(f)",
    **dict.fromkeys(("cond", "while_loop", "fori_loop", "lax"), _CONTROL),
    "jacfwd": 'tapegrad.jacobian(f, mode="forward")',
    "jacrev": 'tapegrad.jacobian(f, mode="reverse")',
    "autograd": "tapegrad.grad(f)(x), or loss.backward() and x.grad",
    "GradientTape": "tapegrad.grad(f)(x), or loss.backward() and x.grad",
    **dict.fromkeys(("inference_mode", "set_grad_enabled"), "tapegrad.no_grad() or tapegrad.enable_grad()"),
    "testing": "import tapegrad.testing",
}

_CAST = "tapegrad.astype(x, tapegrad.float32), or another dtype"
_WRITE = "x[...] = value or x += y, for a leaf under tapegrad.no_grad()"
# For attributes of Tensors.
ATTRIBUTES = {
    "numpy": "numpy.asarray(x.detach()), or x.detach().array for the array of its library",
    "data": "x.detach() to read, and x[...] = value under tapegrad.no_grad() to write",
    **dict.fromkeys(("zero_grad", "zero_grad_"), "x.grad = None"),
    "grad_fn": "x.is_leaf, or tapegrad.Tape to list operations",
    "requires_grad_": "x.requires_grad = True",
    "detach_": "x = x.detach()",
    **dict.fromkeys(("cpu", "cuda", "to"), 'x.to_device("cpu") or x.to_device("cuda"), and tapegrad.astype for dtypes'),
    **dict.fromkeys(("float", "double", "half", "int", "long", "type"), _CAST),
    **dict.fromkeys(("clone", "copy"), "+x, which is recorded, or x.detach()"),
    "dim": "x.ndim",
    "nbytes": "x.size and tapegrad.finfo(x.dtype).bits",
    "fill": _WRITE,
    **dict.fromkeys(("add_", "sub_", "mul_", "div_", "zero_", "fill_", "copy_", "clamp_"), _WRITE),
    "at": "x[i] = value, which this Tensor keeps",
}


def of_function(name: str) -> str:
    """Return advice for a name that the namespace lacks; "" for an unknown name."""
    known = FUNCTIONS.get(name)
    if known is not None or name.startswith("_"):
        return known or ""
    where = next((m.__name__ for m in (linalg, fft, signal, special) if name in m.__all__), None)
    return f"{where}.{name}" if where else ""


def of_attribute(name: str) -> str:
    """Return advice for an attribute that Tensors lack, to end an error message; "" for an unknown name."""
    hint = ATTRIBUTES.get(name) or of_function(name)
    return f": use {hint}" if hint else ""
