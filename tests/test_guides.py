"""Guides and READMEs: their code runs, its comments hold, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import guides
import pytest

import tapegrad as tg
from tapegrad._engine import rules

DOCUMENTS = guides.documents()
WITH_CODE = [p for p in DOCUMENTS if "```python" in (guides.ROOT / p).read_text(encoding="utf-8")]


def name(path: Path) -> str:
    """Name a file, and whether it has blocks for a CUDA device: tests of these are chosen by their names."""
    return f"{path}{' cuda' if '```python cuda' in (guides.ROOT / path).read_text(encoding='utf-8') else ''}"


@pytest.mark.parametrize("path", WITH_CODE, ids=name)
def test_its_code_does_what_it_says(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    operations = dict(rules.OPERATIONS)
    try:
        guides.run(path)
    finally:
        for name in rules.OPERATIONS.keys() - operations.keys():
            del rules.OPERATIONS[name]  # that a guide has declared


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_its_links_lead_somewhere(path: Path) -> None:
    assert guides.broken_links(path) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_names_it_mentions_exist(path: Path) -> None:
    for found in re.findall(r"\btg((?:\.[a-z_]\w*)+)", (guides.ROOT / path).read_text(encoding="utf-8")):
        here = tg
        for part in found[1:].split(".")[:2]:
            assert hasattr(here, part), f"tg{found}"
            here = getattr(here, part)


def test_every_guide_is_listed() -> None:
    """In the index of the guides, and in the table of contents of the main README."""
    guide = {p.name for p in DOCUMENTS if p.parent == Path("examples/guides")}
    index = (guides.ROOT / "examples/guides/README.md").read_text(encoding="utf-8")
    contents = (guides.ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.md)", index)) == guide - {"README.md"}
    assert set(re.findall(r"\]\(examples/guides/(\w+\.md)", contents)) >= guide - {"README.md"}


def test_the_gallery_shows_every_example() -> None:
    """With the command, and small pictures, each of which is shown."""
    examples, folder = guides.ROOT / "examples", guides.ROOT / "examples/guides/pictures"
    text = (examples / "guides/gallery.md").read_text(encoding="utf-8")
    for path in examples.glob("*.py"):
        if path.name != "command_line.py":
            assert re.search(rf"^    python examples/{path.name}( --compile)?$", text, re.MULTILINE), path.name
    assert set(re.findall(r"\(pictures/(\w+\.png)\)", text)) == {p.name for p in folder.iterdir()}
    assert max(p.stat().st_size for p in folder.iterdir()) <= 60_000


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("print(1 + 1)  # 2", ""),
        ("for i in range(2):\n    print(i)  # 0, 1", ""),
        ("1 / 0  # raises ZeroDivisionError: division", ""),
        ("1 / 0  # raises ArithmeticError: ... by zero", ""),
        ("import warnings\nwarnings.warn('deep water', stacklevel=1)  # warns UserWarning: deep", ""),
        ("print(1 + 1)  # 3", "promises\n3\nand gives\n2"),
        ("if False:\n    print(1)  # 1", "promises\n1\nand gives"),
        ("1 / 1  # raises ZeroDivisionError: division", "raises nothing"),
        ("1 / 0  # raises ValueError: division", "ZeroDivisionError"),
        ("1 / 0  # raises ZeroDivisionError: modulo", "promises"),
        ("1 / 1  # warns UserWarning: deep", "warns nothing"),
        ("print(7)\n```\n```text\n7", ""),
        ("print(7)\n```\n```text\n8", "promises\n8\nand gives\n7"),
    ],
)
def test_a_promise_that_is_not_kept_is_seen(text: str, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text(f"```python\n{text}\n```\n", encoding="utf-8")
    if not wrong:
        guides.run(path)
    else:
        with pytest.raises(AssertionError, match=re.escape(wrong)):
            guides.run(path)
