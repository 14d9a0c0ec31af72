"""The one table of operations: the facts about each that planners, executors and displays need.

A new operation gets its row here; a test fails, by name, for one that has none. Executors keep their own tables of
kernels. An operation of kind "" is opaque: no pass looks into it, and an executor calls the library's function.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from tapegrad._program.ir import Kind, Node

# Floating-point operations of a call: none, for moves of elements; one for each element of the result, of the
# first operand or of the last; those of a product of matrices, a convolution or attention; not known.
Flops = Literal["none", "result", "operand", "last operand", "product", "convolution", "attention", "unknown"]


class OpInfo(NamedTuple):
    """A row of the table: the kind of operation, how its FLOP are counted, and why it is opaque if it is."""

    kind: Kind
    flops: Flops
    why: str = ""


def _rows(info: OpInfo, *names: str) -> dict[str, OpInfo]:
    """Return one row for each name in some texts."""
    return {name: info for text in names for name in text.split()}


TABLE: dict[str, OpInfo] = {
    # Each element of the result is computed from one element of each operand: such nodes are fused.
    **_rows(
        OpInfo("elementwise", "result"),
        "abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift bitwise_or",
        "bitwise_right_shift bitwise_xor ceil conj copysign cos cosh divide equal exp expm1 floor floor_divide greater",
        "greater_equal hypot isfinite isinf isnan less less_equal log log10 log1p log2 logaddexp logical_and",
        "logical_not logical_or logical_xor maximum minimum multiply negative nextafter not_equal positive pow",
        "reciprocal remainder round sigmoid sigmoid_slope sign signbit sin sinh sqrt square subtract tan tanh",
        "tanh_slope trunc",
    ),
    **_rows(OpInfo("elementwise", "none"), "astype imag real where"),
    # Several elements of the operand give one of the result: a reduction may end a fused run.
    **_rows(OpInfo("reduction", "operand"), "all any max mean min prod sum"),
    # The result may be the operand's memory, seen otherwise.
    **_rows(
        OpInfo("view", "none"),
        "T broadcast_to expand_dims flip matrix_transpose moveaxis permute_dims reshape squeeze",
    ),
    **_rows(OpInfo("matmul", "product"), "matmul"),
    # Opaque ones, each with the reason.
    **_rows(
        OpInfo("", "none", "its shape is not that of its operands, so that no run goes on through it"),
        "broadcast_arrays concat index_get meshgrid repeat roll rows stack take take_along_axis tile tril triu unstack",
        "linalg.diagonal",
    ),
    **_rows(OpInfo("", "none", "state is written, in place where nobody else holds it"), "index_set"),
    **_rows(OpInfo("", "last operand", "state is written, in place where nobody else holds it"), "index_add"),
    **_rows(
        OpInfo("", "none", "there is no operand: the result is a constant of the program"),
        "arange asarray empty empty_like eye full full_like linspace ones ones_like zeros zeros_like",
    ),
    **_rows(OpInfo("", "none", "an array is moved or copied as a whole"), "copy to_device"),
    **_rows(
        OpInfo("", "operand", "computed along an axis, in order"),
        "cumulative_max cumulative_min cumulative_prod cumulative_sum",
    ),
    **_rows(OpInfo("", "operand", "its rows go where their numbers say"), "segment_max segment_min"),
    **_rows(
        OpInfo("", "operand", "an adapter's own passes over rows"),
        "layer_norm_rows layer_norm_rows_gradient standardise standardise_gradient",
    ),
    **_rows(OpInfo("", "operand", "a mean and a sum of squares in one call"), "std var"),
    **_rows(OpInfo("", "operand", "an integer from any dtype"), "argmax argmin count_nonzero"),
    **_rows(OpInfo("", "operand", "composed in most libraries"), "linalg.trace linalg.vector_norm"),
    **_rows(OpInfo("", "product", "a product that is no matmul"), "linalg.outer tensordot vecdot"),
    **_rows(
        OpInfo("", "convolution", "an adapter's own way, by strips, kernels or a call of the library"),
        "convolution convolution_input convolution_weight",
    ),
    **_rows(
        OpInfo("", "operand", "several elements of an axis for each place, in an adapter's own way"),
        "max_pool pool_scatter window_sum windows_sum",
    ),
    **_rows(
        OpInfo("", "none", "its shape is not that of its operands, so that no run goes on through it"),
        "pad_last pool_gather windows",
    ),
    **_rows(OpInfo("", "result", "several windows add to an element"), "window_spread"),
    **_rows(OpInfo("", "attention", "an adapter's own kernel"), "attend attend_gradient attention attention_gradient"),
    **_rows(OpInfo("", "unknown", "a call of the library's sort or search"), "argsort isin searchsorted sort"),
    **_rows(OpInfo("", "unknown", "it looks at values, on which its work depends"), "as_one loop"),
    **_rows(OpInfo("", "none", "it looks at values, to refuse bad ones"), "refuse"),
    **_rows(
        OpInfo("", "result", "random numbers: a function of a key and a counter, by an adapter"),
        "draw dropped gamma_sample skip",
    ),
    **_rows(
        OpInfo("", "unknown", "no program has it: the shape of its result depends on values"),
        "argwhere nonzero unique unique_all unique_counts unique_inverse unique_values",
    ),
}
# Families of operations, by the first part of their names, where the table has no row of their own.
FAMILIES: dict[str, OpInfo] = {
    "fft": OpInfo("", "unknown", "a call of the library's FFT"),
    "linalg": OpInfo("", "unknown", "a call of LAPACK"),
    "special": OpInfo("", "result", "a library has no loop with `out`; adapters name those that they can fuse"),
}
_MISSING = OpInfo("", "result")

ELEMENTWISE = frozenset(op for op, info in TABLE.items() if info.kind == "elementwise")
REDUCTIONS = frozenset(op for op, info in TABLE.items() if info.kind == "reduction")
VIEWS = frozenset(op for op, info in TABLE.items() if info.kind == "view")
LOOKING = frozenset(("as_one", "loop"))  # operations that look at values, on which their work depends
# Operations whose result has a shape that depends on values: a capture refuses them.
DATA_DEPENDENT = frozenset(op for op, info in TABLE.items() if info.why.startswith("no program has it"))
# Views that a user takes of a raw array by an attribute or an index: nothing copies it before it is captured.
VIEWS_OF_RAW = frozenset(("T", "matrix_transpose", "index_get"))


def info_of(op: str) -> OpInfo:
    """Return the row of an operation, or that of its family; an opaque one for an operation of neither."""
    found = TABLE.get(op)
    return FAMILIES.get(op.partition(".")[0], _MISSING) if found is None else found


def is_known(op: str) -> bool:
    """Say whether an operation is in the table, or one of a family."""
    return info_of(op) is not _MISSING


def is_plain_key(key: object) -> bool:
    """Say whether an index holds only ints, slices, None and dots: reading by it gives a view."""
    return isinstance(key, tuple) and all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in key)


def kind_of(op: str, args: tuple[object, ...]) -> Kind:
    """Return "elementwise", "reduction", "view", "matmul" or, for any other operation, ""."""
    if op == "index_get":
        return "view" if is_plain_key(args[1]) else ""
    found = TABLE.get(op)
    return "" if found is None else found.kind


def picks(node: Node) -> bool:
    """Say whether a node takes one element of each row of an array, such as the logit of a label."""
    if node.op != "take_along_axis" or node.many:
        return False
    x, index = node.args
    last = node.kwargs.get("axis", -1) in (-1, len(x.shape) - 1)
    return last and len(x.shape) > 1 and tuple(index.shape) == (*x.shape[:-1], 1)
