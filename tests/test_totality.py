"""Tables that must know every operation: each name is in the table, or listed here with the reason why not.

The guide "How to add an operation" names these tables. A name that is missing in one fails here, by name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection
from inspect import unwrap
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import PLACES

import tapegrad as tg
from tapegrad import backends
from tapegrad._engine import linear_tangents, rules
from tapegrad._engine.bound import bound
from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.record import STATIC
from tapegrad._program import op_kinds
from tapegrad._program.ir import Node
from tapegrad._protocols import numpy_protocols
from tapegrad._vmap import rules as batching
from tapegrad.backends._cupy.codegen import expressions
from tapegrad.backends._numpy.executor import kernels
from tapegrad.testing import SAMPLES, table

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = {shown: f for shown, _, f in table.functions()}
NUMPY = backend_of[np.ndarray]


def has(namespace: Any, name: str) -> bool:
    """Say whether a namespace has a function."""
    try:
        return callable(attrgetter(name)(namespace))
    except AttributeError:
        return False


def library_has(name: str) -> bool:
    """Say whether a function is one of the library below, and so a node of a compiled program."""
    return has(NUMPY.xp, name)


# Nodes of programs beside the public functions: operators, reading and writing, slopes that adapters have, and what is
# called for its effect.
OTHER_NODES: tuple[str, ...] = (
    *("T", "as_one", "draw", "dropped", "gamma_sample", "index_add", "index_get", "index_set", "loop", "refuse"),
    *("sigmoid_slope", "skip", "tanh_slope"),
    *("convolution", "convolution_input", "convolution_weight", "max_pool", "pad_last", "pool_gather", "pool_scatter"),
    *("window_spread", "window_sum", "windows", "windows_sum"),
)
# Plain code over others: a program holds these instead. A test runs them to see that it does.
NO_NODES = """
broadcast_arrays clip diff einsum kron linalg.outer linalg.trace meshgrid moveaxis pad repeat resize tensordot tile
"""
NODES = [name for name in PUBLIC if library_has(name) and name not in NO_NODES.split()] + [*OTHER_NODES]


def operands(name: str, count: int) -> tuple[Any, ...]:
    """Return arrays as the operands of an elementwise operation."""
    x = np.asarray([1, 2])
    return (x > 1, x, x)[:3] if name == "where" else (x,) * count


def count_of(name: str) -> int:
    """Return how many operands an elementwise operation has."""
    return next((len(s.args) for s in SAMPLES if s.operation == name), 1)  # slopes have one, and no sample


def numpy_runs(name: str) -> bool:
    """Say whether the executor on NumPy computes an operation into an array that is there."""
    if name in op_kinds.REDUCTIONS:
        return name in kernels.REDUCES
    arrays = operands(name, count_of(name))
    dtypes = [a.dtype if a.dtype.kind == "b" else np.dtype("float64") for a in arrays]
    return kernels.elementwise(name, list(arrays), np.empty(2), dtypes, np.dtype("float64")) is not None


def cuda_runs(name: str) -> bool:
    """Say whether there is CUDA text for an operation, for one dtype at least."""
    count = 1 if name == "astype" else count_of(name)
    for dtype in ("float32", "int32"):
        args = [("a", np.dtype(np.bool if name == "where" and not i else dtype)) for i in range(count)]
        if expressions.expression(name, args, np.dtype(dtype)) is not None:
            return True
    return False


GRAPHS_TAKE = ("linalg.diagonal", "linalg.vector_norm")  # of linear algebra


def graph_takes(name: str) -> bool:
    """Say whether a function of CuPy reads no value on the host, so that a CUDA graph may hold it."""
    pytest.importorskip("cupy")
    from tapegrad.backends._cupy.executor.library_calls import CAPTURED

    return name in CAPTURED


def numpy_name_leads_here(name: str) -> bool:
    """Say whether NumPy's function of the same name, called with Tensors, calls this one."""
    theirs = attrgetter(name)(np)
    if isinstance(theirs, np.ufunc):
        found = numpy_protocols._find(numpy_protocols._RENAMED.get(theirs.__name__, theirs.__name__))
    else:
        extension = name.rpartition(".")[0]
        if (f"{extension}.{theirs.__name__}" if extension else theirs.__name__) in numpy_protocols._SPECIAL:
            return True
        found = numpy_protocols._counterpart(theirs.__name__, extension)
    return unwrap(found) is PUBLIC[name]


def is_linear(name: str) -> bool:
    """Say whether an operation that is not elementwise saves no array: its tangent is the operation on a tangent."""
    operation = rules.OPERATIONS[name]
    return not operation.elementwise and all(source == STATIC for source in operation.sources)


def exported(name: str) -> bool:
    """Say whether users find a registered function, under `tg` or in one of its modules."""
    return any(shown.rpartition(".")[2] == name for shown in PUBLIC)


def digits_checked(name: str) -> bool:
    """Say whether derivatives are compared with mpmath over the whole domain."""
    pytest.importorskip("mpmath")
    pytest.importorskip("scipy.special")
    from test_precision import CASES, PAIRS

    return name in {case.partition(" ")[0] for case in (*CASES, *PAIRS)}


class Table(NamedTuple):
    """A table: where it is, the names it must know, how to ask, and the names it need not know, by their reasons."""

    where: str
    names: Collection[str]
    knows: Callable[[str], bool]
    apart: dict[str, str]


TABLES = {
    "facts for planners and displays": Table(
        f"TABLE or FAMILIES in {op_kinds.__name__}, with the reason if no pass is to look into it",
        NODES,
        op_kinds.is_known,
        {"no function of arrays, so no node": "can_cast finfo from_dlpack iinfo result_type"},
    ),
    "calls of the executor on NumPy": Table(
        f"UFUNCS, REDUCES or `elementwise` in {kernels.__name__}",
        op_kinds.ELEMENTWISE | op_kinds.REDUCTIONS,
        numpy_runs,
        {"the library's function, whose result is copied": "conj imag real round"},
    ),
    "CUDA text of the executor on CuPy": Table(
        f"one of the tables of expressions in {expressions.__name__}",
        op_kinds.ELEMENTWISE,
        cuda_runs,
        {"complex numbers alone, which have no text": "imag"},
    ),
    "functions of CuPy in a CUDA graph": Table(
        "CAPTURED of the executor on CuPy, in backends/_cupy/executor/library_calls.py",
        [name for name in NODES if not op_kinds.kind_of(name, (None, (0,)))],
        graph_takes,
        {
            "a copy, which is planned as one": "concat stack unstack",
            "cuSOLVER cannot be captured": " ".join(
                name for name in NODES if name.startswith("linalg.") and name not in GRAPHS_TAKE
            ),
            "cuFFT's work areas would have to be the graph's": " ".join(n for n in NODES if n.startswith("fft.")),
            "the sort of Thrust waits for the device": "argsort isin segment_max segment_min sort",
            "cupyx.scipy.special, or composed": " ".join(n for n in NODES if n.startswith("special.")),
            "there is no operand: the result is a constant": "arange asarray empty empty_like eye full full_like "
            "linspace ones zeros",
            "no function of arrays, so no node": "can_cast finfo from_dlpack iinfo result_type",
            "it looks at values": "as_one loop nonzero unique_all unique_counts unique_inverse unique_values",
            "planned by itself: the check is noted by a kernel": "refuse",
        },
    ),
    "NumPy's protocols": Table(
        f"_RENAMED, _FUNCTIONS or _SPECIAL in {numpy_protocols.__name__}",
        [name for name in PUBLIC if has(np, name)],
        numpy_name_leads_here,
        {},
    ),
    "fast tangents": Table(
        f"PUSHES in {linear_tangents.__name__}",
        [name for name in rules.OPERATIONS if is_linear(name)],
        lambda name: name in linear_tangents.PUSHES,
        {
            "elementwise in effect: the rule is a cast": "astype",
            "rare: its rule is transposed at each call, which is right and takes 100 us": "broadcast_to cumulative_sum "
            "diagonal fft flip fold irfft matrix_transpose max_pool mean pad pool_gather pool_scatter rfft roll stack "
            "take_along_axis to_device tril triu unfold unstack window_spread window_sum",
            "of the walk alone": "index_add setitem",
        },
    ),
    "digits of derivatives": Table(
        "CASES or PAIRS in tests/test_precision.py",
        sorted({name.partition(" ")[0] for name, operation in rules.OPERATIONS.items() if operation.elementwise}),
        digits_checked,
        {
            "the slope is a constant or an operand": "imag kink positive real relu",
            "the second derivative of betaln, log_expit or tan checks it": "gap sigmoid_slope tanh_slope",
            "a quadrature, which test_incomplete_gamma.py compares": "gammainc gammaincc",
        },
    ),
    "exports": Table(
        "an __all__: tapegrad/__init__.py, linalg.py, fft.py or special.py",
        sorted({name.partition(" ")[0] for name in {*rules.OPERATIONS, *rules.COMPOSED, *rules.NONDIFFERENTIABLE}}),
        exported,
        {
            "written as operators and methods": "getitem setitem to_device",
            "of the walk and of rules alone": "conv_weight cumulative_place gap index_add kink pool_gather "
            "pool_scatter sigmoid_slope tanh_slope window_spread window_sum",
            "a case of sign, of imag": "constant_sign imag_of_real",
            "what all norms of layers stand on": "standardised",
            "of generators of random numbers alone": "draw gamma_sample skip",
        },
    ),
    "vmap": Table(
        "the functions that a rule of batching may be for",
        batching.RULES,
        lambda name: has(bound.tensor_namespace, name),
        {},
    ),
}


@pytest.mark.parametrize("which", TABLES)
def test_every_operation_is_known(which: str) -> None:
    known = TABLES[which]
    apart = {name for names in known.apart.values() for name in names.split()}
    missing = [name for name in known.names if name not in apart and not known.knows(name)]
    assert not missing, f"add {', '.join(missing)} to {known.where}, or to {which!r} here with a reason"


@pytest.mark.parametrize("which", TABLES)
def test_what_is_listed_apart_is_there_and_unknown(which: str) -> None:
    """A list of exceptions shrinks when its reason is gone."""
    known = TABLES[which]
    for names in known.apart.values():
        for name in names.split():
            assert name in known.names, f"{name} is no operation, or none that {which!r} is about"
            assert not known.knows(name), f"{name} is known by now: take it off the list of {which!r}"


FOLDER = ROOT / "backends"
ADAPTERS = {
    path.relative_to(FOLDER).parts[0].removesuffix(".py")  # a module or a package
    for path in FOLDER.rglob("*.py")
    if "class Adapter(Backend)" in path.read_text(encoding="utf-8")
} - {"_other"}  # which stands for any library without an adapter


def test_every_adapter_has_a_name() -> None:
    assert {module for module, _ in backends._LIBRARIES.values()} == ADAPTERS, "see _LIBRARIES in backends/__init__.py"


@pytest.mark.parametrize("prefix", backends._LIBRARIES)
def test_every_backend_is_known(prefix: str) -> None:
    """To whoever finds a library by an array, installs it, tests it, or reads about it."""
    assert prefix in backends._ROOTS.values(), "name the package of its arrays in _ROOTS in backends/__init__.py"
    assert any(place.device.partition(":")[0] == prefix for place in PLACES.values()), (
        "add a place in tests/conftest.py"
    )
    guide = (ROOT / "examples" / "guides" / "devices.md").read_text(encoding="utf-8")
    assert f'| `"{prefix}' in guide, "add its devices to the table in examples/guides/devices.md"
    _, install = backends._LIBRARIES[prefix]
    extra = re.search(r"tapegrad\[(\w+)\]", install)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert extra is None or extra[1] in extras, "add the extra that installs it to pyproject.toml"


def test_opaque_operations_have_a_reason() -> None:
    rows = {**op_kinds.TABLE, **op_kinds.FAMILIES}
    assert [name for name, info in rows.items() if bool(info.kind) is bool(info.why)] == []


def test_elementwise_rules_are_elementwise_nodes() -> None:
    """A program fuses operations that the registry calls elementwise; another one has its reason in the table."""
    names = {name for name, operation in rules.OPERATIONS.items() if operation.elementwise}
    unlike = {name for name in names & set(NODES) if op_kinds.kind_of(name, ()) != "elementwise"}
    assert {name for name in unlike if not op_kinds.info_of(name).why} == set()


def test_kinds_name_what_there_is() -> None:
    named = op_kinds.ELEMENTWISE | op_kinds.REDUCTIONS | op_kinds.VIEWS
    assert named <= {*NODES, *NO_NODES.split()}, "a name that no node has"


@pytest.mark.parametrize("name", NO_NODES.split())
def test_what_is_plain_code_is_no_node(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = set()
    init = Node.__init__

    def noted(self: Node, op: str, *args: Any, **kwargs: Any) -> None:
        made.add(op)
        init(self, op, *args, **kwargs)

    monkeypatch.setattr(Node, "__init__", noted)
    sample = next(s for s in SAMPLES if s.operation == name.rpartition(".")[2])
    compiled = tg.compile(lambda *args: sample.f(*args))
    args = [tg.asarray(a) for a in sample.args]
    for _ in range(2):
        compiled(*args)
    assert made
    assert name not in made
