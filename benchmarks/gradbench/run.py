"""The tool: answers the messages of a GradBench evaluation, JSON lines on standard input, on standard output.

`python benchmarks/gradbench/run.py --device cpu`, or `python -m benchmarks.gradbench.run`. With `--compile` what can be
compiled is, see `_compiled.py`: three calls run before the clock does, two eager ones and a replayed one.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if __name__ == "__main__" and not __package__:  # run as a file: its folder is on the path, not the checkout
    sys.path[0] = str(Path(__file__).parents[2])

from benchmarks.gradbench import MODULES

if TYPE_CHECKING:
    from benchmarks.gradbench._compiled import Compiler


class Malformed(Exception):
    """A line that is no message of the protocol."""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer messages until standard input ends; return 0, or 1 after a line that is no message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="a tapegrad device, such as cpu, cuda or torch:cpu")
    parser.add_argument("--multithreaded", action="store_true", help="let the library use all cores")
    parser.add_argument("--compile", action="store_true", help="time replays of functions that are compiled")
    options = parser.parse_args(argv)
    from benchmarks._machine import keep_freed_memory
    from benchmarks._measure import cores, held_to
    from benchmarks.gradbench._compiled import Compiler

    if options.device.startswith("jax"):
        import_module("jax").config.update("jax_enable_x64", True)
    keep_freed_memory()
    try:
        with held_to(cores() if options.multithreaded else 1):
            compiler = Compiler(None if options.multithreaded else 1) if options.compile else None
            serve(sys.stdin, sys.stdout, options.device, compiler)
    except Malformed as error:
        print(f"gradbench: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    return 0


def serve(messages: TextIO, responses: TextIO, device: str, compiler: Compiler | None = None) -> None:
    """Answer every message with one line. Raises Malformed for a line that is none."""
    for number, line in enumerate(messages, 1):
        message = _parsed(line, number)
        answer = {"id": message["id"], **respond(message, device, compiler)}
        print(json.dumps(answer), file=responses, flush=True)


def respond(message: dict[str, Any], device: str, compiler: Compiler | None = None) -> dict[str, Any]:
    """Return the answer to a message, without its id."""
    try:
        match message["kind"]:
            case "start":
                config = {"device": device} | ({"compile": True} if compiler else {})
                return {"tool": "tapegrad", "config": config}
            case "define":
                functions(message["module"])
                return {"success": True}
            case "evaluate":
                module, name = message["module"], message["function"]
                found = functions(module)
                if name not in found:
                    raise LookupError(f"module {module} has no function {name!r}; it has {', '.join(found)}")
                compiled = partial(compiler, module) if compiler else None
                output, timings = found[name].evaluate(message["input"], device, compiled)
                return {"success": True, "output": output, "timings": timings}
            case _:
                return {}
    except LookupError as error:
        missing = f"the message has no {error}" if isinstance(error, KeyError) else str(error)
        return {"success": False, "error": missing}
    except Exception:
        return {"success": False, "error": traceback.format_exc()}


def functions(module: str) -> dict[str, Any]:
    """Return the functions of a module of the suite; raise LookupError if there is none of that name."""
    if module not in MODULES:
        raise LookupError(f"there is no module {module!r}; there are {', '.join(MODULES)}")
    found: dict[str, Any] = import_module(f"benchmarks.gradbench.{module}").FUNCTIONS
    return found


def _parsed(line: str, number: int) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except json.JSONDecodeError as error:
        raise Malformed(f"line {number} is not JSON: {error}: {line.strip()[:80]!r}") from None
    if not isinstance(message, dict) or "id" not in message or "kind" not in message:
        raise Malformed(f"line {number} is no message: it needs an id and a kind: {line.strip()[:80]!r}")
    return message


if __name__ == "__main__":
    sys.exit(main())
