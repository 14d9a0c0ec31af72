"""`tapegrad.compile`: the function that runs a few calls eagerly and replays the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from functools import update_wrapper
from threading import Lock
from typing import Any

from tapegrad._compile._capture import traced, watched
from tapegrad._compile._debug import compared
from tapegrad._compile._events import Events, difference
from tapegrad._compile._key import changed, key_of
from tapegrad._compile._replay import Replay
from tapegrad._namespace import CaptureError, capturing
from tapegrad._record import LEAF, mode
from tapegrad._settings import default_device, default_dtype, deterministic
from tapegrad._tensor import Tensor
from tapegrad._tree import flatten

EAGER_CALLS = 3  # that two in a row must have done the same
LIMIT = 8  # programs of one function


class Compiled:
    """A function whose calls are captured and replayed; made by `tapegrad.compile`."""

    def __init__(self, function: Callable[..., Any], debug: bool = False, threads: int | None = None) -> None:
        self.function = function
        self.debug = debug
        self.threads = threads
        self._replays: dict[Hashable, list[Replay]] = {}
        self._pending: dict[Hashable, tuple[Events, list[Any], int]] = {}
        self._last: Replay | None = None
        self._keys: list[Any] = []
        self._warned = False
        self._lock = Lock()
        update_wrapper(self, function)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Be a method: the instance is an argument, static by identity."""
        if instance is None:
            return self
        from types import MethodType

        return MethodType(self, instance)

    @property
    def program(self) -> Any:
        """The program that the latest replayed call ran: print it; it has `profile`, `to_dot` and `to_mermaid`.

        Raises RuntimeError before the first call that was captured.
        """
        if self._last is None:
            raise RuntimeError("no program yet: the first two calls of a compiled function run eagerly")
        if self._last.view is None:
            from tapegrad._compile._view import View

            self._last.view = View(self._last.program, self._last)
        return self._last.view

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if capturing.get() is not None:
            return self.function(*args, **kwargs)  # a part of the program that is being captured
        leaves: list[Any] = []
        m = mode()
        key = (
            key_of((args, kwargs) if kwargs else args, leaves),
            m.recording,
            default_dtype(),
            default_device(),
            deterministic(),
        )
        if m.recording and any(_inner(x) for x in leaves):
            return self.function(*args, **kwargs)  # recorded from outside: that tape needs every operation
        with self._lock:
            for replay in self._replays.get(key, ()):
                if replay.fits(leaves):
                    self._last = replay
                    if self.debug:
                        return compared(self.function, replay, args, kwargs)
                    return replay(leaves)
            return self._eager(key, args, kwargs)

    def _eager(self, key: Any, args: Any, kwargs: Any) -> Any:
        if len(self._keys) >= LIMIT and key not in self._pending:
            self._warn(key)
            return self.function(*args, **kwargs)
        leaves, rebuild = flatten((args, kwargs))
        before = self._pending.pop(key, None)
        if before is None:
            result, events = watched(lambda: self.function(*args, **kwargs), leaves)
            self._pending[key] = events, leaves, 1
            return result
        result, capture, events = traced(self.function, leaves, rebuild, before[0])
        arguments = {id(x): i for i, x in (*enumerate(before[1]), *enumerate(leaves))}
        differs = difference(before[0], events, arguments)
        if differs is not None:
            calls = before[2] + 1
            if not differs.again or calls >= EAGER_CALLS:
                raise CaptureError(f"two calls did not do the same: {differs.message}")
            self._pending[key] = events, leaves, calls
            return result
        replay = Replay(capture, leaves, self.threads)
        self._replays.setdefault(key, []).append(replay)
        self._keys.append(key)
        self._last = replay
        return result

    def _warn(self, key: Any) -> None:
        if self._warned:
            return
        self._warned = True
        same = [k for k in self._keys if k == key]
        why = (
            "which gradients are None, or a state Tensor's shape or dtype"
            if same
            else changed(self._keys[-1][0], key[0])
        )
        name = getattr(self.function, "__name__", "the function")
        warnings.warn(
            f"compile: {name} was captured {LIMIT} times, once for every new combination of shapes, dtypes and static "
            f"arguments, and runs eagerly for further ones. The last change was in {why}. Pass what changes as a "
            "Tensor of one shape, or compile one function for each",
            RuntimeWarning,
            stacklevel=4,
        )


def _inner(x: Any) -> bool:
    return isinstance(x, Tensor) and x._record is not None and x._record.op is not LEAF


def compile(function: Callable[..., Any] | None = None, /, *, debug: bool = False, threads: int | None = None) -> Any:
    """Return the function compiled: two calls run eagerly, later ones replay what these did.

    Usable as a decorator. Arguments may be nested containers: Tensors and arrays in them are inputs, everything else is
    static, and another value of it another program. Tensors that the function reaches otherwise (parameters, the state
    of an optimiser) are read at each call, and get their new values and gradients as in an eager call. Programs are for
    one combination of shapes, dtypes, devices and default settings. Results are recorded by nobody: call `backward()`,
    or `grad`, inside.

    debug: run every call eagerly as well, and raise AssertionError for the first value that differs. threads: how many
    threads a program may use on NumPy; by default as many as there are cores, OMP_NUM_THREADS or OPENBLAS_NUM_THREADS.

    What is not replayed is what the function does beside computing: printing, appending to a list, counting in Python.
    Raises CaptureError, naming the line, where a call needs the value of an array (`if`, `float`, a shape that depends
    on values), where two calls do not do the same (a number that Python changes), and where something outside
    keeps a Tensor that a call made.

    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0, 2.0], requires_grad=True)
    >>> @tg.compile
    ... def step(x):
    ...     w.grad = None
    ...     loss = tg.sum((w - x) ** 2)
    ...     loss.backward()
    ...     with tg.no_grad():
    ...         w[...] = w - 0.25 * w.grad
    ...     return loss
    >>> [step(tg.asarray([0.0, 0.0])).item() for _ in range(4)]
    [5.0, 1.25, 0.3125, 0.078125]
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"compile: threads must be 1 or more, not {threads!r}")
    if function is None:
        return lambda f: Compiled(f, debug, threads)
    if not callable(function):
        raise TypeError(f"compile: pass a function, not {type(function).__name__}")
    return Compiled(function, debug, threads)
