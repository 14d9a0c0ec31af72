"""The Markdown files of the project: their blocks of code, run as a reader runs them, and their links.

The convention is in examples/guides/README.md: a comment behind `print(...)` is the text that the line prints,
`# raises Name: text` and `# warns Name: text` are effects of a statement, and `...` stands for any text.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from places import why_not

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("", "examples/guides", "tapegrad", "tapegrad/*", "backends", "backends/*", "tests", "tests/*", "benchmarks")
FENCE = re.compile(r"^```(\w*) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"\bprint\(.*\)  # (?!raises |warns )(.*)$")
PACKAGES = ("scipy", "einops", "dask")  # that blocks may need; other names are devices
HAPPENS = re.compile(r"  # (raises|warns) (\w+): (.*)$")


class Block(NamedTuple):
    """A fenced block: the words behind its language, its text, and the lines before it in the file."""

    language: str
    needs: str
    text: str
    before: int


def documents() -> list[Path]:
    """Return the Markdown files of the project, from the root."""
    found = {p for folder in (*FOLDERS, "benchmarks/*") for p in ROOT.glob(f"{folder}/*.md".lstrip("/"))}
    return sorted(p.relative_to(ROOT) for p in found if "tapegrad/backends" not in p.as_posix())


def blocks(text: str) -> Iterator[Block]:
    """Go through the fenced blocks of a file."""
    for found in FENCE.finditer(text):
        yield Block(found[1], found[2].strip(), found[3], text.count("\n", 0, found.start(3)))


def is_here(needs: str) -> bool:
    """Say whether the needs of a block are here: a device, a package, or nothing."""
    if needs in PACKAGES:
        return importlib.util.find_spec(needs) is not None
    return not needs or why_not(needs) is None


def run(path: Path) -> None:
    """Run the Python blocks of a file in order, in one namespace; AssertionError for a promise that is not kept.

    A block that names a device or a package is left out where that is absent. Errors name the lines of the file.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    rest: list[str] = []
    here = True
    for block in blocks((ROOT / path).read_text(encoding="utf-8")):
        if block.language == "python":
            here = is_here(block.needs)
            rest = _run(path, block, namespace) if here else []
        elif block.language == "text" and here:
            _check(f"{path}:{block.before}", " ".join(rest), block.text)


def _run(path: Path, block: Block, namespace: dict[str, Any]) -> list[str]:
    """Run one block, and return its output from lines without a comment."""
    lines = block.text.splitlines()
    printed: dict[int, list[str]] = defaultdict(list)

    def note(*values: object) -> None:
        printed[sys._getframe(1).f_lineno].append(" ".join(map(str, values)))

    namespace["print"] = note
    for statement in ast.parse("\n" * block.before + block.text, str(path)).body:
        assert statement.end_lineno is not None
        code = compile(ast.Module([statement], []), str(path), "exec")
        _execute(code, namespace, f"{path}:{statement.end_lineno}", lines[statement.end_lineno - block.before - 1])
    for i, line in enumerate(lines, block.before + 1):
        if (promise := PRINTED.search(line)) is not None:
            _check(f"{path}:{i}", ", ".join(printed.pop(i, [])), promise[1])
    return [text for _, texts in sorted(printed.items()) for text in texts]


def _execute(code: Any, namespace: dict[str, Any], where: str, line: str) -> None:
    """Run one statement, which raises or warns if its last line says so."""
    promise = HAPPENS.search(line)
    if promise is None:
        exec(code, namespace)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always" if promise[1] == "warns" else "error")
        try:
            exec(code, namespace)
        except Exception as error:
            if promise[1] == "warns":
                raise
            seen = [error]
        else:
            seen = [w.message for w in caught]  # type: ignore[misc]
    assert seen, f"{where} {promise[1]} nothing"
    assert promise[2] in [kind.__name__ for kind in type(seen[0]).__mro__], f"{where}: {seen[0]!r}"
    _check(where, str(seen[0]), f"...{promise[3]}...")


def _check(where: str, got: str, promised: str) -> None:
    """Assert that a text is as promised, except for white space and text in the place of `...`."""
    got, promised = " ".join(got.split()), " ".join(promised.split())
    pattern = ".*?".join(re.escape(part) for part in promised.split("..."))
    assert re.fullmatch(pattern, got, re.DOTALL), f"{where} promises\n{promised}\nand gives\n{got}"


def headings(text: str) -> set[str]:
    """Return the anchors of a file's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def broken_links(path: Path) -> list[str]:
    """Return the relative links of a file whose target is missing."""
    text = (ROOT / path).read_text(encoding="utf-8")
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / path).parent / name).resolve() if name else ROOT / path
        there = target.exists() and target.is_relative_to(ROOT)
        if not (there and (not anchor or anchor in headings(target.read_text(encoding="utf-8")))):
            missing.append(link)
    return missing
