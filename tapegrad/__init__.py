"""tapegrad: reverse-mode automatic differentiation over any array API library.

`import tapegrad as tg` gives the namespace of the array API standard for differentiable Tensors, the transforms of
functions (`tg.grad`), and the settings (`tg.default_device`, `tg.default_dtype`, `tg.no_grad`, `tg.Tape`).
"""

import importlib as _importlib
import sys as _sys
import typing as _typing
from math import e, inf, nan, pi

from tapegrad import backends, fft, linalg, random, signal, special
from tapegrad._bind import bind as _bind
from tapegrad._compile.function import compile
from tapegrad._engine.dispatch import CaptureError
from tapegrad._engine.dtypes import DTYPES as _DTYPES
from tapegrad._engine.dtypes import DType, isdtype, numpy_dtype
from tapegrad._engine.host_constants import HostCopies
from tapegrad._engine.mode import enable_grad, no_grad
from tapegrad._engine.settings import default_device, default_dtype, deterministic, tf32
from tapegrad._engine.tensor import Tensor
from tapegrad._inspect.drawing import to_dot, to_mermaid
from tapegrad._inspect.tape import Tape, debug
from tapegrad._protocols.hints import of_function as _of_function
from tapegrad._protocols.namespace_info import __array_namespace_info__
from tapegrad._protocols.scipy_objective import scipy_objective
from tapegrad._protocols.wrong_calls import published as _published
from tapegrad._transforms.checkpoint import checkpoint
from tapegrad._transforms.custom_rules import custom_jvp, custom_vjp, stop_gradient
from tapegrad._transforms.forward import jvp, linearize
from tapegrad._transforms.implicit import fixed_point, root
from tapegrad._transforms.jacobian import hessian, hvp, jacobian
from tapegrad._transforms.reverse import grad, value_and_grad, vjp
from tapegrad._vmap.transform import vmap
from tapegrad.ops.activations import (
    celu,
    elu,
    geglu,
    gelu,
    glu,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_sigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    swiglu,
)
from tapegrad.ops.attention import attention
from tapegrad.ops.binary import (
    add,
    atan2,
    bitwise_and,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    clip,
    copysign,
    divide,
    equal,
    floor_divide,
    greater,
    greater_equal,
    hypot,
    less,
    less_equal,
    logaddexp,
    logical_and,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    nextafter,
    not_equal,
    pow,
    remainder,
    subtract,
    where,
)
from tapegrad.ops.classification import cross_entropy, one_hot
from tapegrad.ops.contraction import einsum
from tapegrad.ops.conversion import astype
from tapegrad.ops.convolution import conv, conv_transpose
from tapegrad.ops.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    tensor,
    tril,
    triu,
    zeros,
    zeros_like,
)
from tapegrad.ops.ctc import ctc_loss
from tapegrad.ops.dropout import dropout
from tapegrad.ops.dtypes import (
    can_cast,
    finfo,
    iinfo,
    result_type,
)
from tapegrad.ops.elementwise import (
    abs,
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atanh,
    bitwise_invert,
    ceil,
    conj,
    cos,
    cosh,
    exp,
    expm1,
    floor,
    imag,
    isfinite,
    isinf,
    isnan,
    log,
    log1p,
    log2,
    log10,
    logical_not,
    negative,
    positive,
    real,
    reciprocal,
    round,
    sign,
    signbit,
    sin,
    sinh,
    sqrt,
    square,
    tan,
    tanh,
    trunc,
)
from tapegrad.ops.indexing import (
    repeat,
    take,
    take_along_axis,
)
from tapegrad.ops.interchange import from_dlpack
from tapegrad.ops.losses import (
    bce_with_logits_loss,
    cosine_embedding_loss,
    hinge_loss,
    huber_loss,
    info_nce_loss,
    kl_div_loss,
    mae_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
    triplet_margin_loss,
)
from tapegrad.ops.normalisation import (
    batch_norm,
    batch_norm_training,
    group_norm,
    layer_norm,
    rms_norm,
)
from tapegrad.ops.pooling import adaptive_max_pool, adaptive_mean_pool, fold, max_pool, mean_pool, unfold
from tapegrad.ops.products import (
    kron,
    matmul,
    matrix_transpose,
    tensordot,
    vecdot,
)
from tapegrad.ops.reductions import (
    all,
    any,
    count_nonzero,
    cumulative_prod,
    cumulative_sum,
    diff,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    var,
)
from tapegrad.ops.resizing import pad, resize
from tapegrad.ops.rotary import rope
from tapegrad.ops.scans import (
    associative_scan,
    cumulative_logsumexp,
    cumulative_max,
    cumulative_min,
    scan,
)
from tapegrad.ops.segments import (
    segment_max,
    segment_mean,
    segment_min,
    segment_sum,
)
from tapegrad.ops.sets import (
    isin,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)
from tapegrad.ops.shaping import (
    broadcast_arrays,
    broadcast_shapes,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    meshgrid,
    moveaxis,
    permute_dims,
    reshape,
    roll,
    squeeze,
    stack,
    tile,
    unstack,
)
from tapegrad.ops.softmax import (
    log_softmax,
    logsumexp,
    softmax,
    sparsemax,
)
from tapegrad.ops.sorting import (
    argmax,
    argmin,
    argsort,
    nonzero,
    searchsorted,
    sort,
    top_k,
)

__version__ = "0.1.0"
__array_api_version__ = "2025.12"

bool = _DTYPES["bool"]
int8, int16, int32, int64 = (_DTYPES[f"int{n}"] for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (_DTYPES[f"uint{n}"] for n in (8, 16, 32, 64))
float16, bfloat16, float32, float64 = (_DTYPES[n] for n in ("float16", "bfloat16", "float32", "float64"))
complex64, complex128 = _DTYPES["complex64"], _DTYPES["complex128"]
newaxis = None

_bind(_sys.modules[__name__])
_published(globals(), "tapegrad")
for _module in (fft, linalg, random, signal, special):
    _published(vars(_module), _module.__name__)

# The training kit, which an import of tapegrad does not need: each part is loaded at its first use.
_KIT = {
    **{name: f"tapegrad.{name}" for name in ("data", "loggers", "metrics", "nn", "optim")},
    "init": "tapegrad.nn",
    "Loop": "tapegrad._training.loop",
    "Run": "tapegrad._training.run",
    **dict.fromkeys(("load", "save"), "tapegrad._training.saving"),
}

if _typing.TYPE_CHECKING:
    from tapegrad import data, loggers, metrics, nn, optim
    from tapegrad._training.loop import Loop
    from tapegrad._training.run import Run
    from tapegrad._training.saving import load, save
    from tapegrad.nn import init
else:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        """Return a part of the training kit; else raise AttributeError, with our name for one of NumPy or PyTorch."""
        if name in _KIT:
            module = _importlib.import_module(_KIT[name])
            part = {name: module if _KIT[name] == f"tapegrad.{name}" else getattr(module, name)}
            _published(part, "tapegrad")
            globals().update(part)
            return part[name]
        hint = _of_function(name)
        message = f"module 'tapegrad' has no attribute {name!r}{': use ' + hint if hint else ''}"
        raise AttributeError(message, name=name, obj=_sys.modules[__name__])

    def __dir__() -> list[str]:
        """Return all names, those of parts that are not loaded yet too."""
        return sorted({*globals(), *_KIT})


__all__ = [
    # Tensors, gradients, settings
    "CaptureError",
    "DType",
    "HostCopies",
    "Tape",
    "Tensor",
    "backends",
    "signal",
    "special",
    "debug",
    "linalg",
    "init",
    "nn",
    "optim",
    "data",
    "loggers",
    "metrics",
    "Loop",
    "Run",
    "load",
    "save",
    "default_device",
    "default_dtype",
    "deterministic",
    "tf32",
    "enable_grad",
    "fft",
    "grad",
    "no_grad",
    "random",
    "numpy_dtype",
    "to_dot",
    "to_mermaid",
    "value_and_grad",
    "vjp",
    "vmap",
    "jvp",
    "linearize",
    "jacobian",
    "hessian",
    "hvp",
    "checkpoint",
    "compile",
    "fixed_point",
    "root",
    "custom_jvp",
    "custom_vjp",
    "stop_gradient",
    "scipy_objective",
    # dtypes and constants
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "e",
    "inf",
    "nan",
    "newaxis",
    "pi",
    "__array_api_version__",
    "__array_namespace_info__",
    "can_cast",
    "finfo",
    "iinfo",
    "isdtype",
    "result_type",
    # creation
    "arange",
    "asarray",
    "astype",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "full",
    "full_like",
    "linspace",
    "meshgrid",
    "ones",
    "ones_like",
    "tensor",
    "tril",
    "triu",
    "zeros",
    "zeros_like",
    # elementwise
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "ceil",
    "clip",
    "conj",
    "copysign",
    "cos",
    "cosh",
    "divide",
    "equal",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "imag",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "real",
    "reciprocal",
    "remainder",
    "round",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "trunc",
    "where",
    # indexing
    "argmax",
    "argmin",
    "argsort",
    "nonzero",
    "searchsorted",
    "sort",
    "top_k",
    "take",
    "take_along_axis",
    # products
    "einsum",
    "kron",
    "matmul",
    "matrix_transpose",
    "tensordot",
    "vecdot",
    # reductions
    "all",
    "any",
    "count_nonzero",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "max",
    "mean",
    "min",
    "prod",
    "std",
    "sum",
    "var",
    # scans and segments
    "associative_scan",
    "cumulative_logsumexp",
    "cumulative_max",
    "cumulative_min",
    "scan",
    "segment_max",
    "segment_mean",
    "segment_min",
    "segment_sum",
    # sets
    "isin",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    # normalisation
    "batch_norm",
    "batch_norm_training",
    "group_norm",
    "layer_norm",
    "rms_norm",
    # shaping
    "broadcast_arrays",
    "broadcast_shapes",
    "broadcast_to",
    "concat",
    "expand_dims",
    "flip",
    "moveaxis",
    "permute_dims",
    "repeat",
    "reshape",
    "roll",
    "squeeze",
    "stack",
    "tile",
    "unstack",
    # convolution, windows, other lengths
    "adaptive_max_pool",
    "adaptive_mean_pool",
    "conv",
    "conv_transpose",
    "fold",
    "max_pool",
    "mean_pool",
    "pad",
    "resize",
    "unfold",
    # attention
    "attention",
    "rope",
    "dropout",
    # activations
    "celu",
    "elu",
    "geglu",
    "gelu",
    "glu",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "swiglu",
    # softmax
    "log_softmax",
    "logsumexp",
    "softmax",
    "sparsemax",
    # classification
    "cross_entropy",
    "one_hot",
    # losses
    "bce_with_logits_loss",
    "cosine_embedding_loss",
    "ctc_loss",
    "hinge_loss",
    "huber_loss",
    "info_nce_loss",
    "kl_div_loss",
    "mae_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
    "triplet_margin_loss",
]
