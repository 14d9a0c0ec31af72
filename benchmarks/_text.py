"""Text of numbers and tables."""

from __future__ import annotations

from collections.abc import Sequence


def short(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent."""
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.0f}" if value >= 1 else f"{value:.6f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text: the first column to the left, the others to the right, a rule below the head."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    made = [
        "  ".join(
            cell.ljust(n) if i < 1 else cell.rjust(n) for i, (cell, n) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([made[0], "-" * max(map(len, made)), *made[1:]])
