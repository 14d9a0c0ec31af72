"""The table and the chart of a comparison of devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks._check import TOLERANCE
from benchmarks._compared import Compared, compiled
from benchmarks._text import aligned, short

EDGE = 4.0  # where the chart ends, and longer bars are cut

Speed = Callable[[Compared], float | None]


def table(results: Sequence[Compared], devices: Sequence[str]) -> str:
    """Return the table: a block a program, a line a device, and notes on the columns."""
    first = devices[0]
    head = ["", "eager ms", "compiled ms", "speed-up", f"eager to {first}", f"compiled to {first}"]
    head += ["eager MB", "compiled MB", "off by"]
    blocks = [(result.name, [_line(result, device, first) for device in devices]) for result in results]
    if len(results) > 1:
        blocks.append(("geometric mean", [_mean_line(results, device, first) for device in devices]))
    made = aligned([head, *[line for _, lines in blocks for line in lines]]).splitlines()
    text = made[:2]
    at = 2
    for name, lines in blocks:
        text += [name, *made[at : at + len(lines)], ""]
        at += len(lines)
    text += [
        "ms: median ± interquartile range of a step. speed-up: of compiled over eager, on the same device.",
        f"to {first}: how many times as fast as {first}, eager to eager and compiled to compiled.",
        f"MB: peak memory above the inputs. off by: how far results are from those of eager {first}, relative to",
        f"the largest element, over four calls; more than {TOLERANCE:g} is marked with !.",
        "",
    ]
    return "\n".join(text)


def _speeds(device: str, first: str) -> tuple[Speed, ...]:
    """Return the parts of a program's speed-up on a device, and its speed eager and compiled relative to the first."""
    return (
        lambda result: result.speed_up(device),
        lambda result: result.speed(device, first),
        lambda result: result.speed(compiled(device), compiled(first)),
    )


def _line(result: Compared, device: str, first: str) -> list[str]:
    labels = (device, compiled(device))
    row = result.row
    times = [f"{short(row.median(n))} ±{short(row.spread(n), 2)}" if n in row.samples else "-" for n in labels]
    memory = [f"{result.memory[n]:.1f}" if n in result.memory else "-" for n in labels]
    off = max(result.off.get(n, 0.0) for n in labels)
    apart = "" if off <= TOLERANCE else " !"
    speeds = [_times(speed(result)) for speed in _speeds(device, first)]
    return [f"  {device}", *times, *speeds, *memory, f"{off:.0e}{apart}" if off else "0"]


def _mean_line(results: Sequence[Compared], device: str, first: str) -> list[str]:
    cells = []
    for speed in _speeds(device, first):
        found = [times for result in results if (times := speed(result)) is not None]
        cells.append(_times(geometric_mean(found) if found else None))
    return [f"  {device}", "", "", *cells, "", "", ""]


def _times(value: float | None) -> str:
    return "-" if value is None else f"{short(value)}x"


def chart(results: Sequence[Compared], devices: Sequence[str], path: Path) -> bool:
    """Draw the times as bars, eager and compiled, into a PNG file; return False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        return False
    across = min(2, len(results))
    down = -(-len(results) // across)
    high = 0.55 + 0.42 * len(devices)
    figure = Figure(figsize=(5.5 * across + 1, 1.3 + high * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for panel, result in zip(panels, results, strict=False):
        _draw(panel, result, devices)
    for panel in panels[len(results) :]:
        panel.set_axis_off()
    figure.suptitle("The same program on each device, eager and compiled", fontsize=12)
    figure.supxlabel(
        f"time of a step, as a multiple of eager {devices[0]}'s (labels in ms); shorter is faster", fontsize=9
    )
    patches = [Patch(color=_tint("black", 0.65), label="eager"), Patch(color=_tint("black", 0.25), label="compiled")]
    figure.legend(handles=patches, loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    return True


def _draw(panel: Any, result: Compared, devices: Sequence[str]) -> None:
    """Draw one program: two bars for each device, cut where they are longer than the panel."""
    unit = result.row.median(devices[0])
    for n, device in enumerate(devices):
        for label, place, tint in ((device, n - 0.2, 0.6), (compiled(device), n + 0.2, 0.0)):
            if label not in result.row.samples:
                continue
            time = result.row.median(label)
            length = time / unit
            panel.barh(place, min(length, EDGE), 0.38, color=_tint(f"C{n}", tint))
            text = short(time)
            if length > 0.85 * EDGE:
                where: dict[str, Any] = {"ha": "right", "color": "black" if tint else "white"}
                panel.text(EDGE - 0.03, place, f"{text} »" if length > EDGE else text, va="center", fontsize=7, **where)
            else:
                panel.text(length + 0.04, place, text, va="center", fontsize=7)
    panel.axvline(1, color="black", linewidth=0.6, linestyle=":")
    panel.set_xlim(0, EDGE)
    panel.set_ylim(len(devices) - 0.5, -0.5)
    panel.set_yticks(range(len(devices)), devices, fontsize=8)
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(result.name, loc="left", fontsize=9)


def _tint(color: str, share: float) -> tuple[float, ...]:
    """Return a colour mixed with so much white."""
    from matplotlib.colors import to_rgb

    return tuple(share + (1 - share) * part for part in to_rgb(color))
