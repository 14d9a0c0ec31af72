"""`python -m benchmarks`: measure, print the table, write results.json and results.png."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

NAMES = ("rows", "overhead", "mlp", "lstm", "gelu", "gpt")


def main(argv: Sequence[str] | None = None) -> int:
    """Run benchmarks as the command line says; return 0.

    Raises Disagreement if two columns compute different results.
    """
    options = _parser().parse_args(argv)
    # Before JAX is imported: by default it takes most of a GPU's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks._columns import columns
    from benchmarks._machine import keep_freed_memory, machine, versions
    from benchmarks._measure import cores, measure
    from benchmarks._memory import measure_memory
    from benchmarks._report import as_json, chart, table, targets, write_json

    keep_freed_memory()
    chosen, notes = columns(options.device, options.peers, options.compile)
    threads = options.threads or cores()
    rows = []
    for name in options.names or NAMES:
        for case in import_module(f"benchmarks.{name}").cases(options.tiny):
            print(f"{name} {case.name} ...", file=sys.stderr, flush=True)
            if options.tiny:
                case = replace(case, targets=())
            if case.memory:
                rows.append(measure_memory(case, chosen, min(3, options.repeat), options.tiny))
            else:
                rows.append(measure(case, chosen, options.repeat, threads))
            notes += rows[-1].notes

    about = machine()
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    print(", ".join(f"{package} {version}" for package, version in versions().items()), end="\n\n")
    print(table(rows, chosen), end="\n\n")
    if asked := targets(rows):
        print(asked, end="\n\n")
    if options.tiny:
        notes.append("a tiny run says that everything runs, and nothing about speed")
    for note in notes:
        print(f"- {note}")

    options.out.mkdir(parents=True, exist_ok=True)
    settings = {"tiny": options.tiny, "repeat": options.repeat, "threads": threads, "notes": notes}
    report = as_json(rows, chosen, machine=about, versions=versions(), settings=settings)
    write_json(report, options.out / "results.json")
    if not chart(rows, chosen, options.out / "results.png"):
        print("- no chart: matplotlib is not installed (pip install 'tapegrad[examples]')")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--device", action="append", help="a tapegrad device; repeat for more (default: all there are)")
    parser.add_argument("--compile", action="store_true", help="compiled columns beside the eager ones")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="other libraries too")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--repeat", type=int, default=50, help="samples a column, as far as time allows")
    parser.add_argument("--threads", type=int, help="threads a library may use (default: as many as cores)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder to write to")
    parser.set_defaults(names=[])
    return parser


if __name__ == "__main__":
    sys.exit(main())
