"""The command line that the training examples share: device, compile, resume, epochs, seed, folder of results."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import tapegrad as tg


def needs(*packages: str) -> None:
    """End the program with a line if packages are missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"this example needs more packages ({', '.join(missing)}): pip install 'tapegrad[examples]'")


def arguments(description: str, *, epochs: int, out: str, resume: Any = True, **others: Any) -> Namespace:
    """Read the command line, make the device and float32 the defaults; end the program with a line if it is wrong.

    epochs: the default of --epochs; out: the folder of results, beside the examples; resume: whether there are --resume
    and --stop, which a loop of SciPy has not; others: further options and their defaults.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, torch:cpu, jax:cpu, ... (default: cpu)")
    parser.add_argument("--compile", action="store_true", help="compile the training step")
    if resume:
        parser.add_argument("--resume", action="store_true", help="go on with the run in the folder of --out")
        parser.add_argument("--stop", type=int, metavar="STEP", help="stop at a step, as Ctrl-C does")
    parser.add_argument("--epochs", type=int, default=epochs, help=f"default: {epochs}")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output" / out, metavar="DIR")
    for name, value in others.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default: {value}")
    args = parser.parse_args()
    for name, least in (("epochs", 1), ("seed", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be {least} or more, not {getattr(args, name)}")
    try:
        tg.zeros(1, dtype=tg.float32, device=args.device)
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # no such device, or no such folder
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2)
    tg.default_device(args.device)
    tg.default_dtype(tg.float32)
    args.where = f"{args.device}, compiled" if args.compile else args.device
    return args


def run_of(args: Namespace, **state: Any) -> tg.Run:
    """Return the run of a program in its folder, resumed if --resume says so."""
    run = tg.Run(args.out / "run", **state)
    try:
        if args.resume:
            print(f"resumed at step {run.resume()}")
        else:
            run.check(0)
    except ValueError as error:
        sys.exit(f"{error}; here, --resume goes on with it, and another --out is another folder")
    return run


def steps_of(loop: tg.Loop, args: Namespace) -> Iterator[Any]:
    """Yield the batches of a loop, up to the step of --stop."""
    for batch in loop:
        yield batch
        if args.stop is not None and loop.step + 1 >= args.stop:
            loop.stop()


@contextmanager
def bar_of(args: Namespace) -> Iterator[Callable[..., None]]:
    """Draw a bar for a loop of others, of --epochs steps at most; yield the function that ends a step."""
    bar, steps = tg.loggers.Bar(), count(1)

    def advance(**numbers: float) -> None:
        step = next(steps)
        bar.log(numbers, step=step)
        bar.advance(step)

    bar.begin(0, args.epochs)
    try:
        yield advance
    finally:
        bar.end()
