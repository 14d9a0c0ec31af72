"""A random program that fails a check, reduced to the smallest that fails it in the same way, and shown line by line.

PYTHONPATH=tests:. python -m reduced_programs SEED CHECK
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import random_programs as programs
from random_programs import Program

import tapegrad as tg


def failure(p: Program, check: str) -> Exception | None:
    try:
        programs.CHECKS[check](p)
    except Exception as error:
        return error
    return None


def smaller(p: Program) -> Iterator[Program]:
    """Yield the programs with one result less, and those with one line less, an operand of which takes its place."""
    if len(p.outs) > 1:
        for out in p.outs:
            yield replace(p, outs=tuple(i for i in p.outs if i != out))
    for at in reversed(range(len(p.steps))):
        gone = len(p.args) + at

        for other in (p.steps[at].first, p.steps[at].second):

            def new(i: int, gone: int = gone, other: int = other) -> int:
                return other if i == gone else i - (i > gone)

            rest = (s for s in p.steps if s is not p.steps[at])
            steps = tuple(replace(s, first=new(s.first), second=new(s.second)) for s in rest)
            yield replace(p, steps=steps, outs=tuple(dict.fromkeys(map(new, p.outs))))


def reduced(p: Program, check: str) -> Program:
    """Return the smallest program to be had step by step that fails a check by the same type of error."""
    kind = type(failure(p, check))
    while (found := next((q for q in smaller(p) if type(failure(q, check)) is kind), None)) is not None:
        p = found
    return p


def described(p: Program) -> Iterator[str]:
    """Yield a text for each variable: the last source line that computed it, and its value."""
    env: list[Any] = [tg.asarray(a) for a in programs.wide(p.args)]
    texts = [f"v{i} = argument" for i in range(len(env))]
    for s in p.steps:
        code = programs.KINDS[s.kind].__code__
        last = 0

        def trace(frame: FrameType, event: str, arg: Any, code: Any = code) -> Any:
            nonlocal last
            if frame.f_code is not code:
                return None
            if event == "line":
                last = frame.f_lineno
            return trace

        sys.settrace(trace)
        try:
            env.append(s.run(p.choices, env))
        finally:
            sys.settrace(None)
        line = linecache.getline(inspect.getfile(programs), last).strip()
        texts.append(f"v{len(env) - 1} = {s.kind}(x=v{s.first}, y=v{s.second}), seed {s.seed}: {line}")
    for text, y in zip(texts, env, strict=True):
        values = np.asarray(y).tolist() if y.size < 20 else "..."
        yield f"{text}  # {y.dtype.name}{list(y.shape)} {values}"
    yield f"results: {', '.join(f'v{i}' for i in p.outs)}"


def main() -> None:
    seed, check = int(sys.argv[1]), sys.argv[2]
    with programs.quiet():
        p = programs.made(seed, programs.AtKinks if "kinks" in check else programs.Random)
        if failure(p, check) is None:
            sys.exit(f"program {seed} passes {check}")
        p = reduced(p, check)
        print(*described(p), f"{failure(p, check)}"[:2000], sep="\n")


if __name__ == "__main__":
    main()
