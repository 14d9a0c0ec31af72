"""The package as it is shipped: imports, layers, wheel contents, documentation."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from places import why_not

import tapegrad as tg

ROOT = Path(__file__).resolve().parent.parent


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    return done.stdout.strip()


def test_import_brings_no_array_library_but_numpy() -> None:
    code = (
        "import sys, tapegrad; "
        "print([m for m in ('cupy', 'torch', 'jax', 'array_api_strict', 'dask', 'scipy') if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_import_is_quick() -> None:
    """Measured in imports of NumPy, of 0.1 s where nothing else runs: processors slow down by the half under load."""
    code = (
        "import time; s = time.process_time(); import numpy; t = time.process_time(); import tapegrad; "
        "print((time.process_time() - t) / (t - s))"
    )
    assert min(float(run(code)) for _ in range(3)) < 3.5


def test_backends_is_no_top_level_import() -> None:
    assert tg.backends.__name__ == "tapegrad.backends"
    code = "import importlib.util, os; os.chdir('/'); print(importlib.util.find_spec('backends'))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "None"


def public_modules() -> list[str]:
    names = ["tapegrad"]
    for package in (
        tg,
        importlib.import_module("tapegrad.testing"),
        tg.backends,
        importlib.import_module("tapegrad.ops"),
        importlib.import_module("tapegrad._compile"),
        importlib.import_module("tapegrad._compile.run"),
        importlib.import_module("tapegrad._compile.capture"),
        importlib.import_module("tapegrad._compile.plan"),
    ):
        names += [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return sorted(names)


@pytest.mark.parametrize("name", public_modules())
def test_doctests(name: str) -> None:
    library = re.match(r"tapegrad\.backends\._(cupy|torch|jax|strict)", name)
    if library is not None:
        device = {"cupy": "cuda"}.get(library[1], library[1])
        why = why_not(device)
        if why is not None:
            pytest.skip(why)
    result = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert result.failed == 0


def test_every_public_name_is_documented_with_an_example() -> None:
    for name in tg.__all__:
        f = getattr(tg, name)
        if callable(f) and not name.startswith("_"):
            assert f.__doc__, name
            assert ">>>" in f.__doc__, f"{name} has no example"
    assert sorted(set(tg.__all__)) == sorted(tg.__all__)
    for name in tg.special.__all__:
        assert ">>>" in getattr(tg.special, name).__doc__, f"special.{name} has no example"


def test_elementwise_doctests_are_found() -> None:
    finder = doctest.DocTestFinder()
    families = [
        importlib.import_module(f"tapegrad.ops.{name}")
        for name in ("elementwise", "binary", "special", "special_gamma")
    ]
    found = {t.name for family in families for t in finder.find(family) if t.examples}
    assert len(found) > 85


def test_the_wheel_holds_what_the_tree_holds(tmp_path: Path) -> None:
    """The modules and nothing else: Markdown is for those who have the tree. The wheel is built from the sdist."""
    build = pytest.importorskip("build")
    assert build is not None
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    tree = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "tapegrad").rglob("*.py")
        if p.parent.resolve().parent == p.parent.parent
    }
    tree = {n for n in tree if not n.startswith("tapegrad/backends/")}
    tree |= {f"tapegrad/{p.relative_to(ROOT)}" for p in (ROOT / "backends").rglob("*.py")} | {"tapegrad/py.typed"}
    assert inside == tree
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        files = {n.partition("/")[2] for n in packed.getnames()}
    assert files >= {"LICENSE", "README.md", "pyproject.toml"}
    assert files >= {n.replace("tapegrad/backends/", "backends/") for n in tree}
