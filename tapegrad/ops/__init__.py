"""The operations: one file a family, and together the namespace that rules on Tensors compute in."""

# Constants of the standard, for rules.
from math import inf as inf
from math import nan as nan

from tapegrad.ops.binary import (
    add as add,
)
from tapegrad.ops.binary import (
    atan2 as atan2,
)
from tapegrad.ops.binary import (
    bitwise_and as bitwise_and,
)
from tapegrad.ops.binary import (
    bitwise_left_shift as bitwise_left_shift,
)
from tapegrad.ops.binary import (
    bitwise_or as bitwise_or,
)
from tapegrad.ops.binary import (
    bitwise_right_shift as bitwise_right_shift,
)
from tapegrad.ops.binary import (
    bitwise_xor as bitwise_xor,
)
from tapegrad.ops.binary import (
    clip as clip,
)
from tapegrad.ops.binary import (
    copysign as copysign,
)
from tapegrad.ops.binary import (
    divide as divide,
)
from tapegrad.ops.binary import (
    equal as equal,
)
from tapegrad.ops.binary import (
    floor_divide as floor_divide,
)
from tapegrad.ops.binary import (
    greater as greater,
)
from tapegrad.ops.binary import (
    greater_equal as greater_equal,
)
from tapegrad.ops.binary import (
    hypot as hypot,
)
from tapegrad.ops.binary import (
    less as less,
)
from tapegrad.ops.binary import (
    less_equal as less_equal,
)
from tapegrad.ops.binary import (
    logaddexp as logaddexp,
)
from tapegrad.ops.binary import (
    logical_and as logical_and,
)
from tapegrad.ops.binary import (
    logical_or as logical_or,
)
from tapegrad.ops.binary import (
    logical_xor as logical_xor,
)
from tapegrad.ops.binary import (
    maximum as maximum,
)
from tapegrad.ops.binary import (
    minimum as minimum,
)
from tapegrad.ops.binary import (
    multiply as multiply,
)
from tapegrad.ops.binary import (
    nextafter as nextafter,
)
from tapegrad.ops.binary import (
    not_equal as not_equal,
)
from tapegrad.ops.binary import (
    pow as pow,
)
from tapegrad.ops.binary import (
    remainder as remainder,
)
from tapegrad.ops.binary import (
    subtract as subtract,
)
from tapegrad.ops.binary import (
    where as where,
)
from tapegrad.ops.creation import (
    arange as arange,
)
from tapegrad.ops.creation import (
    asarray as asarray,
)
from tapegrad.ops.creation import (
    astype as astype,
)
from tapegrad.ops.creation import (
    empty as empty,
)
from tapegrad.ops.creation import (
    empty_like as empty_like,
)
from tapegrad.ops.creation import (
    eye as eye,
)
from tapegrad.ops.creation import (
    from_dlpack as from_dlpack,
)
from tapegrad.ops.creation import (
    full as full,
)
from tapegrad.ops.creation import (
    full_like as full_like,
)
from tapegrad.ops.creation import (
    linspace as linspace,
)
from tapegrad.ops.creation import (
    meshgrid as meshgrid,
)
from tapegrad.ops.creation import (
    ones as ones,
)
from tapegrad.ops.creation import (
    ones_like as ones_like,
)
from tapegrad.ops.creation import (
    tensor as tensor,
)
from tapegrad.ops.creation import (
    tril as tril,
)
from tapegrad.ops.creation import (
    triu as triu,
)
from tapegrad.ops.creation import (
    zeros as zeros,
)
from tapegrad.ops.creation import (
    zeros_like as zeros_like,
)
from tapegrad.ops.elementwise import (
    abs as abs,
)
from tapegrad.ops.elementwise import (
    acos as acos,
)
from tapegrad.ops.elementwise import (
    acosh as acosh,
)
from tapegrad.ops.elementwise import (
    asin as asin,
)
from tapegrad.ops.elementwise import (
    asinh as asinh,
)
from tapegrad.ops.elementwise import (
    atan as atan,
)
from tapegrad.ops.elementwise import (
    atanh as atanh,
)
from tapegrad.ops.elementwise import (
    bitwise_invert as bitwise_invert,
)
from tapegrad.ops.elementwise import (
    ceil as ceil,
)
from tapegrad.ops.elementwise import (
    conj as conj,
)
from tapegrad.ops.elementwise import (
    cos as cos,
)
from tapegrad.ops.elementwise import (
    cosh as cosh,
)
from tapegrad.ops.elementwise import (
    exp as exp,
)
from tapegrad.ops.elementwise import (
    expm1 as expm1,
)
from tapegrad.ops.elementwise import (
    floor as floor,
)
from tapegrad.ops.elementwise import (
    imag as imag,
)
from tapegrad.ops.elementwise import (
    isfinite as isfinite,
)
from tapegrad.ops.elementwise import (
    isinf as isinf,
)
from tapegrad.ops.elementwise import (
    isnan as isnan,
)
from tapegrad.ops.elementwise import (
    log as log,
)
from tapegrad.ops.elementwise import (
    log1p as log1p,
)
from tapegrad.ops.elementwise import (
    log2 as log2,
)
from tapegrad.ops.elementwise import (
    log10 as log10,
)
from tapegrad.ops.elementwise import (
    logical_not as logical_not,
)
from tapegrad.ops.elementwise import (
    negative as negative,
)
from tapegrad.ops.elementwise import (
    positive as positive,
)
from tapegrad.ops.elementwise import (
    real as real,
)
from tapegrad.ops.elementwise import (
    reciprocal as reciprocal,
)
from tapegrad.ops.elementwise import (
    round as round,
)
from tapegrad.ops.elementwise import (
    sign as sign,
)
from tapegrad.ops.elementwise import (
    signbit as signbit,
)
from tapegrad.ops.elementwise import (
    sin as sin,
)
from tapegrad.ops.elementwise import (
    sinh as sinh,
)
from tapegrad.ops.elementwise import (
    sqrt as sqrt,
)
from tapegrad.ops.elementwise import (
    square as square,
)
from tapegrad.ops.elementwise import (
    tan as tan,
)
from tapegrad.ops.elementwise import (
    tanh as tanh,
)
from tapegrad.ops.elementwise import (
    trunc as trunc,
)
from tapegrad.ops.indexing import (
    argmax as argmax,
)
from tapegrad.ops.indexing import (
    argmin as argmin,
)
from tapegrad.ops.indexing import (
    argsort as argsort,
)
from tapegrad.ops.indexing import (
    index_add as index_add,
)
from tapegrad.ops.indexing import (
    index_get as index_get,
)
from tapegrad.ops.indexing import (
    index_set as index_set,
)
from tapegrad.ops.indexing import (
    nonzero as nonzero,
)
from tapegrad.ops.indexing import (
    sort as sort,
)
from tapegrad.ops.indexing import (
    take as take,
)
from tapegrad.ops.indexing import (
    take_along_axis as take_along_axis,
)
from tapegrad.ops.products import (
    matmul as matmul,
)
from tapegrad.ops.products import (
    matrix_transpose as matrix_transpose,
)
from tapegrad.ops.products import (
    tensordot as tensordot,
)
from tapegrad.ops.products import (
    vecdot as vecdot,
)
from tapegrad.ops.reductions import (
    all as all,
)
from tapegrad.ops.reductions import (
    any as any,
)
from tapegrad.ops.reductions import (
    count_nonzero as count_nonzero,
)
from tapegrad.ops.reductions import (
    cumulative_prod as cumulative_prod,
)
from tapegrad.ops.reductions import (
    cumulative_sum as cumulative_sum,
)
from tapegrad.ops.reductions import (
    max as max,
)
from tapegrad.ops.reductions import (
    mean as mean,
)
from tapegrad.ops.reductions import (
    min as min,
)
from tapegrad.ops.reductions import (
    prod as prod,
)
from tapegrad.ops.reductions import (
    std as std,
)
from tapegrad.ops.reductions import (
    sum as sum,
)
from tapegrad.ops.reductions import (
    var as var,
)
from tapegrad.ops.shaping import (
    broadcast_arrays as broadcast_arrays,
)
from tapegrad.ops.shaping import (
    broadcast_shapes as broadcast_shapes,
)
from tapegrad.ops.shaping import (
    broadcast_to as broadcast_to,
)
from tapegrad.ops.shaping import (
    concat as concat,
)
from tapegrad.ops.shaping import (
    expand_dims as expand_dims,
)
from tapegrad.ops.shaping import (
    flip as flip,
)
from tapegrad.ops.shaping import (
    moveaxis as moveaxis,
)
from tapegrad.ops.shaping import (
    permute_dims as permute_dims,
)
from tapegrad.ops.shaping import (
    repeat as repeat,
)
from tapegrad.ops.shaping import (
    reshape as reshape,
)
from tapegrad.ops.shaping import (
    roll as roll,
)
from tapegrad.ops.shaping import (
    squeeze as squeeze,
)
from tapegrad.ops.shaping import (
    stack as stack,
)
from tapegrad.ops.shaping import (
    tile as tile,
)
from tapegrad.ops.shaping import (
    unstack as unstack,
)
from tapegrad.ops.training import (
    cross_entropy as cross_entropy,
)
from tapegrad.ops.training import (
    gelu as gelu,
)
from tapegrad.ops.training import (
    log_softmax as log_softmax,
)
from tapegrad.ops.training import (
    logsumexp as logsumexp,
)
from tapegrad.ops.training import (
    one_hot as one_hot,
)
from tapegrad.ops.training import (
    relu as relu,
)
from tapegrad.ops.training import (
    sigmoid as sigmoid,
)
from tapegrad.ops.training import (
    silu as silu,
)
from tapegrad.ops.training import (
    softmax as softmax,
)
