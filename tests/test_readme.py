"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tapegrad as tg
from tapegrad.testing import table

TEXT = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_first_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line]) < 10
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    promised = [line.split("# ")[1].split(",")[0] for line in code.splitlines() if "# " in line]
    assert printed[0] == "Tensor([12., 56.])"
    assert printed[1] == promised[1] == "12.0"


def test_the_compiled_step(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "tg.compile" in block]
    exec(code, {"tg": tg})
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"\)  # ([\d., ]+)$", code, re.MULTILINE)
    assert printed[:5] == ", ".join(promised).split(", ")


def test_there_are_two_commands() -> None:
    commands = re.findall(r"^    (pip install .*)$", TEXT, re.MULTILINE)
    assert commands == [
        "pip install '.[examples]' && python examples/train_digits.py",
        "pip install '.[test]' && python -m pytest",
    ]


def test_names_it_mentions_exist() -> None:
    for name in re.findall(r"`tg\.(\w+)", TEXT):
        assert hasattr(tg, name), name


def test_the_tables_of_functions_are_up_to_date() -> None:
    assert f"{table.START}{table.render()}{table.END}" in TEXT, "run: python -m tapegrad.testing.table README.md"
