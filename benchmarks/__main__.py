"""`python -m benchmarks`: measure, print the table, write results.json and results.png.

With --compare it is one library, tapegrad, on several devices; without, several libraries.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

NAMES = ("rows", "overhead", "mlp", "lstm", "gelu", "layers", "gpt", "optimisers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run benchmarks as the command line says; return the exit status.

    Raises Disagreement if two columns compute different results.
    """
    options = _options(argv)
    # Before JAX is imported: by default it takes most of a GPU's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from benchmarks._columns import PEERS, columns
    from benchmarks._machine import keep_freed_memory, machine, versions
    from benchmarks._measure import cores, measure
    from benchmarks._memory import measure_memory
    from benchmarks._report import as_json, chart, table, targets, write_json

    keep_freed_memory()
    if options.compare:
        from benchmarks._compare import run

        threads = options.threads or cores()
        return run(options.names, options.compare, options.repeat, threads, options.tiny, options.out)
    chosen, notes = columns(options.device, PEERS if options.peers else (), options.compile)
    threads = options.threads or cores()
    rows = []
    for name in options.names:
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


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line. Among the words after --compare, the names of benchmarks are no devices."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure tapegrad.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--device", action="append", help="a tapegrad device; repeat for more (default: all there are)")
    parser.add_argument("--compile", action="store_true", help="compiled columns beside the eager ones")
    parser.add_argument(
        "--compare", nargs="+", metavar="DEVICE", help="the same program on these devices, eager and compiled"
    )
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="other libraries too")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--repeat", type=int, default=50, help="samples a column, as far as time allows")
    parser.add_argument("--threads", type=int, help="threads a library may use (default: as many as cores)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: benchmarks/results, or its compare)")
    options = parser.parse_args(argv)
    if options.compare:
        options.names += [name for name in options.compare if name in NAMES]
        options.compare = [device for device in options.compare if device not in NAMES]
        if not options.compare:
            parser.error("--compare needs a device")
    options.names = options.names or list(NAMES)
    if options.out is None:
        results = Path(__file__).parent / "results"
        options.out = results / "compare" if options.compare else results
    return options


if __name__ == "__main__":
    sys.exit(main())
