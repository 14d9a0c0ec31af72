"""The README is short, shows results, and names the two commands; the table of functions is up to date."""

from __future__ import annotations

import re
from pathlib import Path

from tapegrad.testing import table

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_read_in_five_minutes() -> None:
    """The size of the file; tests/test_guides.py runs its code and follows its links."""
    assert len(TEXT.encode()) <= 9216


def test_the_first_gradient_is_short_and_needs_nothing_else() -> None:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line]) < 10
    assert code.startswith("import tapegrad as tg\n")
    assert "print(w.grad)  # Tensor([12., 56.])" in code


def test_the_compiled_step_has_ten_lines() -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "tg.compile" in block]
    body = code.partition("@tg.compile\n")[2]
    assert len([line for line in body.splitlines() if line]) <= 10


def test_there_are_two_commands() -> None:
    commands = re.findall(r"^    (pip install .*)$", TEXT, re.MULTILINE)
    assert commands == [
        "pip install '.[examples]' && python examples/train_digits.py",
        "pip install '.[test]' && python -m pytest",
    ]


def test_its_figures_are_those_of_the_benchmarks() -> None:
    """Each line of the speed table is one of the longer table, which is made of benchmarks/results/cpu."""
    rows = re.findall(r"^\| [^|]+ \|(?: [\d.,]+ \|){6}$", TEXT, re.MULTILINE)
    assert len(rows) > 3
    known = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").splitlines()
    assert set(rows) <= set(known)


def test_the_tables_of_functions_are_up_to_date() -> None:
    text = (ROOT / table.FILE).read_text(encoding="utf-8")
    assert f"{table.START}{table.render()}{table.END}" in text, "run: python -m tapegrad.testing.table"


def test_the_tables_of_functions_are_written_where_the_marks_are(tmp_path: Path) -> None:
    guide = tmp_path / "functions.md"
    guide.write_text(f"before\n{table.START}old\n{table.END}\nafter\n", encoding="utf-8")
    table.write(guide)
    assert guide.read_text(encoding="utf-8") == f"before\n{table.START}{table.render()}{table.END}\nafter\n"
