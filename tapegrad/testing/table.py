"""The table of functions in the guides: how each is differentiated, and to which order it is checked.

In a checkout, `python -m tapegrad.testing.table` writes it there; a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import unwrap
from pathlib import Path
from typing import Any

import tapegrad as tg
from tapegrad._engine import rules
from tapegrad._engine.record import STATIC
from tapegrad.testing._samples import SAMPLES

NAMESPACES = ("", "linalg", "fft", "signal", "special")  # of tapegrad, where they exist
FILE = Path("examples", "guides", "functions.md")  # in a checkout
START = "<!-- made by: python -m tapegrad.testing.table -->\n"
END = "<!-- end of the generated part -->"
DERIVATIVES = ("a rule", "composed", "none")
NO_OPERATIONS = {"tensor", "broadcast_shapes"}  # they make leaves, or work on shapes


def functions() -> Iterator[tuple[str, str, Any]]:
    """Go through the public operations: (name as users write it, name it is registered by, function)."""
    seen = set()
    for space in NAMESPACES:
        home = getattr(tg, space, None) if space else tg
        for name in getattr(home, "__all__", ()):
            f = unwrap(getattr(home, name))
            here = (getattr(f, "__module__", None) or "").startswith("tapegrad.ops")
            if here and f not in seen and name not in NO_OPERATIONS:
                seen.add(f)
                yield f"{space}.{name}" if space else name, name, f


def derivatives(name: str) -> list[str]:
    """Return how an operation gets its derivative: one of DERIVATIVES, if all is well."""
    homes = (rules.OPERATIONS, rules.COMPOSED, rules.NONDIFFERENTIABLE)
    return [what for what, names in zip(DERIVATIVES, homes, strict=True) if name in names]


def render() -> str:
    """Return the tables in Markdown."""
    order: dict[str, int] = {}
    for sample in SAMPLES:
        order[sample.operation] = max(order.get(sample.operation, 0), sample.order)
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for shown, name, f in functions():
        family = f.__module__.rpartition(".")[2]
        (how,) = derivatives(name)
        checked = f"order {order[name]}" if order.get(name) else "value" if name in order else ""
        where = "all" if name in order else "its own tests"
        rows.setdefault((family, how, checked, where), []).append(shown)
    lines = ["| family | functions | derivative | checked | on |", "|---|---|---|---|---|"]
    for (family, how, checked, where), names in sorted(rows.items(), key=_place):
        lines.append(f"| {family} | {', '.join(names)} | {how} | {checked} | {where} |")
    saved: dict[str, list[str]] = {}
    for name, operation in sorted(rules.OPERATIONS.items()):
        if name == "kink" or name.endswith(" slope"):  # of rules alone
            continue
        arrays = [n for n, source in zip(operation.saves, operation.sources, strict=True) if source != STATIC]
        saved.setdefault(", ".join(sorted(arrays)) or "nothing", []).append(name)
    lines += ["", "| kept for the backward pass | by |", "|---|---|"]
    lines += [f"| {what} | {', '.join(names)} |" for what, names in sorted(saved.items())]
    return "\n".join(lines) + "\n"


def _place(row: tuple[tuple[str, str, str, str], list[str]]) -> tuple[str, int, str]:
    (family, how, checked, _), _ = row
    return family, DERIVATIVES.index(how), checked


def write(path: Path) -> None:
    """Put the tables between the two marks in a file; ValueError if these are missing."""
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{path} has no lines {START.strip()!r} and {END!r}")
    path.write_text(f"{before}{START}{render()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else FILE)
