"""Layers: every import, wherever it stands in a file and also for type checkers only, goes downwards."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The packages and modules of tapegrad on floors: a file imports from its own floor and those below. A name stands for
# all modules under it, except those that a longer name has.
FLOORS = (
    ("tapegrad._program",),
    ("tapegrad.backends",),
    ("tapegrad._engine", "tapegrad.typing"),
    ("tapegrad._inspect",),
    ("tapegrad.ops",),
    ("tapegrad.fft", "tapegrad.linalg", "tapegrad.signal", "tapegrad.special"),
    ("tapegrad._transforms", "tapegrad._vmap"),
    ("tapegrad.random",),
    ("tapegrad._compile.plan",),
    ("tapegrad._compile.capture", "tapegrad._compile.states"),
    ("tapegrad._compile.run",),
    ("tapegrad._compile",),
    ("tapegrad._protocols",),
    ("tapegrad.nn",),
    ("tapegrad.optim", "tapegrad.data", "tapegrad.metrics"),
    ("tapegrad._training", "tapegrad.loggers"),
    ("tapegrad._bind",),
    ("tapegrad",),
    ("tapegrad.testing",),
)

# Modules of tapegrad that the parts of a backend may import: whole packages by "*", else single modules of the package.
_CUPY = "tapegrad.backends._cupy"
PARTS = {
    f"{_CUPY}.codegen": ("tapegrad._program.*", f"{_CUPY}.codegen.*"),
    f"{_CUPY}.eager": ("tapegrad._program.*", f"{_CUPY}.codegen.*", f"{_CUPY}.eager.*", "tapegrad.backends._array"),
    f"{_CUPY}.executor": (
        *("tapegrad._program.*", f"{_CUPY}.codegen.*", f"{_CUPY}.executor.*"),
        *(f"{_CUPY}.cublas", f"{_CUPY}.deferred_checks", f"{_CUPY}.error_advice"),
        *("tapegrad.backends._array", "tapegrad.backends._pool", "tapegrad.backends._settings"),
    ),
}

# Own modules that are imported late, because an import of tapegrad does not need them.
LATE = {
    "tapegrad.backends": {"tapegrad.backends._other"},
    "tapegrad._compile.function": {"tapegrad._compile.display"},
    "tapegrad.backends._cupy": {"tapegrad.backends._cupy.adapter"},
    "tapegrad.backends._cupy.adapter": {
        "tapegrad.backends._cupy.eager.fused_program",
        "tapegrad.backends._cupy.executor.executor",
    },
    "tapegrad.backends._jax": {"tapegrad.backends._jax_compile"},
    "tapegrad.backends._numpy.adapter": {"tapegrad.backends._numpy.executor.executor"},
}
# Packages of others that are optional, or slow to import: functions that need them import them.
OPTIONAL = {
    *("array_api_compat", "cuda", "cupy", "jax", "matplotlib", "ml_dtypes", "opt_einsum", "scipy"),
    *("threadpoolctl", "torch"),
    *("autograd", "mygrad"),  # peers in benchmarks
    *("safetensors", "tqdm", "tensorboardX"),  # of the training kit
    "resource",  # which Windows lacks
}


class Import(NamedTuple):
    """An import: of a module, at a line of a file; late: inside a function."""

    module: str
    line: int
    late: bool


def modules() -> dict[str, Path]:
    """Return the file of each module; backends/ is tapegrad.backends."""
    found = {}
    for top in ("tapegrad", "backends", "benchmarks"):
        for path in sorted((ROOT / top).rglob("*.py")):
            if "tapegrad/backends" in path.as_posix():  # a link to backends/
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = ("tapegrad", *parts) if top == "backends" else parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def own(base: str, name: str) -> str:
    """Return the module that `from base import name` imports."""
    return f"{base}.{name}" if f"{base}.{name}" in MODULES else base


def imports_of(text: str) -> Iterator[Import]:
    """Go through all imports of a file, those inside functions and under TYPE_CHECKING too."""

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(a.name, child.lineno, late) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, "imports are absolute here"
                yield from (Import(own(child.module or "", a.name), child.lineno, late) for a in child.names)
            inner = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, inner)

    return visit(ast.parse(text), False)


IMPORTS = {name: list(imports_of(path.read_text(encoding="utf-8"))) for name, path in MODULES.items()}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that import each other: the rest when ends are taken away again and again."""
    left = {name: set(targets) for name, targets in graph.items()}
    while True:
        used = set().union(*left.values())
        ends = {name for name, targets in left.items() if not targets or name not in used}
        if not ends:
            return [sorted(left)] if left else []
        left = {name: targets - ends for name, targets in left.items() if name not in ends}


def test_no_modules_import_each_other() -> None:
    graph = {
        name: {i.module for i in found if i.module in MODULES and i.module != name} for name, found in IMPORTS.items()
    }
    assert cycles(graph) == []


def test_the_search_for_cycles_finds_one() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_all_kinds_of_imports_are_seen() -> None:
    text = """
import a
if TYPE_CHECKING:
    from b import x
def f():
    import c
    class D:
        g = lambda: __import__("d")
async def h():
    from e.f import y
"""
    assert [(i.module, i.late) for i in imports_of(text)] == [("a", False), ("b", False), ("c", True), ("e.f", True)]


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("tapegrad")])
def test_imports_go_down(name: str) -> None:
    def floor(module: str) -> int:
        held = [
            (len(part), n) for n, parts in enumerate(FLOORS) for part in parts if f"{module}.".startswith(f"{part}.")
        ]
        assert held, f"{module} stands on no floor"
        return max(held)[1]

    for i in IMPORTS[name]:
        if i.module in MODULES:
            assert floor(i.module) <= floor(name), f"{name}:{i.line} imports {i.module}, which is above it"


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_a_backend_import_what_their_readme_says(part: str) -> None:
    names = [name for name in MODULES if name == part or name.startswith(f"{part}.")]
    assert len(names) > 1
    for name in names:
        for i in IMPORTS[name]:
            if i.module in MODULES:
                assert any(fnmatch(i.module, allowed) or f"{i.module}.*" == allowed for allowed in PARTS[part]), (
                    f"{name}:{i.line} imports {i.module}: see the README of the backend"
                )


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(f"{_CUPY}.codegen")])
def test_kernel_texts_are_made_without_the_library(name: str) -> None:
    assert not {i.module.partition(".")[0] for i in IMPORTS[name]} & {"cupy", "cupyx", "cupy_backends"}


def test_own_modules_are_imported_at_the_top() -> None:
    late = {}
    for name, found in IMPORTS.items():
        targets = {i.module for i in found if i.late and i.module in MODULES}
        if targets and name.startswith("tapegrad"):  # programs of benchmarks import once their arguments are read
            late[name] = targets
    assert late == LATE


def test_packages_that_are_imported_late_are_optional() -> None:
    for name, found in IMPORTS.items():
        late = {i.module.partition(".")[0] for i in found if i.late and i.module not in MODULES}
        assert late <= OPTIONAL, f"{name} imports {late - OPTIONAL} inside functions"


def test_only_adapters_name_a_library() -> None:
    libraries = {"cupy", "cupyx", "torch", "jax", "array_api_strict", "array_api_compat"}
    for name, found in IMPORTS.items():
        used = {i.module.partition(".")[0] for i in found if not i.late} & libraries
        if name.startswith("tapegrad"):  # benchmarks measure the libraries
            assert not used or name.startswith("tapegrad.backends._"), f"{name} imports {used}"


QUESTION = re.compile(r"(How|What|When|Where|Whether|Which|Who|Whose|Why)\b")
WHAT_CLAUSE = re.compile(r"\bwhat\b(?![`-])")


def first_lines(text: str) -> Iterator[str]:
    """Go through the first lines of the docstrings in a file, the module's first."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc is not None:
                yield doc.partition("\n")[0]


def is_plain(line: str) -> bool:
    """Say whether a first line is no question, has no what-clause, and ends as a sentence."""
    return not QUESTION.match(line) and not WHAT_CLAUSE.search(line) and line.endswith((".", "?", ":", ",", "::"))


def test_plain_first_lines_are_told() -> None:
    text = "'''Keys.'''\ndef f():\n    '''What f does.'''"
    assert list(first_lines(text)) == ["Keys.", "What f does."]
    assert is_plain("Give the name `what` and the error.")
    assert not is_plain("Whether it holds.")
    assert not is_plain("Return what is there.")
    assert not is_plain("Return it")


@pytest.mark.parametrize("top", ["tapegrad", "backends", "tests", "benchmarks", "examples"])
def test_first_lines_of_docstrings_are_plain(top: str) -> None:
    """A docstring begins with a noun or a verb: neither a question nor a clause in the place of a noun."""
    unlike = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted((ROOT / top).rglob("*.py"))
        if "tapegrad/backends" not in path.as_posix()
        for line in first_lines(path.read_text(encoding="utf-8"))
        if not is_plain(line)
    ]
    assert not unlike


PROGRAM_NAMES = {"program", "node", "nodes", "planner", "plan", "executor", "loop", "until", "fused_program"}


def untyped(text: str) -> list[str]:
    """Return the arguments, attributes and results that are parts of a program by their names, and `Any` by type."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg):
            pairs = [(node.arg, node.annotation)]
        elif isinstance(node, ast.FunctionDef):
            pairs = [(node.name, node.returns)]
        elif isinstance(node, ast.AnnAssign):
            pairs = [(ast.unparse(node.target).rpartition(".")[2], node.annotation)]
        else:
            continue
        found += [
            f"{name}: {ast.unparse(kind)}"
            for name, kind in pairs
            if name.strip("_") in PROGRAM_NAMES and kind is not None and ast.unparse(kind) in ("Any", "list[Any]")
        ]
    return found


def test_parts_of_programs_have_types() -> None:
    """Executors and planners are typed by `tapegrad._program`: mypy does not look behind `Any`."""
    assert untyped("def executor(program: Any) -> Any: ...\nnode: list[Any] = []") == [
        *("executor: Any", "node: list[Any]"),
        "program: Any",
    ]
    unlike = {name: untyped(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
    assert not {name: found for name, found in unlike.items() if found and name.startswith("tapegrad")}
