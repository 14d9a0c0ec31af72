"""`tapegrad.compile`: a function whose first calls run eagerly, while later ones are replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from functools import partial
from threading import RLock
from typing import Any, overload
from weakref import ref

from tapegrad._compile.cache_key import changed, identities, key_of, key_of_modes, same_ones
from tapegrad._compile.capture.capture import captured, captured_tentatively
from tapegrad._compile.capture.captured_call import Capture
from tapegrad._compile.capture.errors import random_numbers
from tapegrad._compile.capture.locks import functions, tracing
from tapegrad._compile.capture.rng_guard import RngGuard
from tapegrad._compile.debug import compared
from tapegrad._compile.rehearsal import MOST, Snapshot, unknown_state
from tapegrad._compile.run.bound_program import BoundProgram, elsewhere, fits, grown, outlived
from tapegrad._compile.states import ATTEMPTS, Attempt, Pending, State, judged
from tapegrad._engine.levels import capturing, mapping
from tapegrad._engine.mode import is_passive, mode
from tapegrad._engine.record import LEAF
from tapegrad._engine.settings import chosen_device, default_dtype, deterministic, tf32
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import flatten
from tapegrad._transforms.derived import Derived
from tapegrad._transforms.typed import CompiledFunction, P, ProgramView, R

LIMIT = 8  # programs of one function, with those that it does not have yet
FEW = 4  # calls that are captured since Python changed something between calls, and one more for so many calls:
MANY = 20


class Compiled(Derived):
    """A function whose calls are captured and replayed; made by `tapegrad.compile`."""

    def __init__(
        self,
        function: Callable[..., Any],
        debug: bool = False,
        threads: int | None = None,
        reassociate: bool = False,
        rehearse: bool = False,
    ) -> None:
        self.wrap(function)
        self.function = function
        self.debug = debug
        self.threads = threads
        self.reassociate = reassociate
        self.rehearse = rehearse
        self._warned: set[str] = set()
        self.reset()
        functions[id(self)] = self

    def reset(self) -> None:
        """Forget all programs, and whoever holds the lock.

        Examples
        --------
        >>> import tapegrad as tg
        >>> doubled = tg.compile(lambda x: x * 2.0)
        >>> _ = [doubled(tg.ones(2)) for _ in range(3)]
        >>> doubled.reset()
        """
        self.lock = RLock()
        self._programs: dict[Hashable, list[BoundProgram]] = {}
        self._pending: dict[Hashable, Pending] = {}
        self._watched: dict[Hashable, list[ref[Any]]] = {}  # objects in keys, which forget the key when they are gone
        self._lost = 0  # keys that were forgotten before there was a program, since there last was one
        self._last: BoundProgram | None = None
        self._missed = self._replayed = self._fell_back = 0  # calls: captured since something changed, others
        self._grown = 0  # of the former, those where a container had got further items, which made no difference
        self._fresh = False  # whether a library makes arrays inside

    def recipe(self) -> tuple[Any, ...]:
        """Return the function and the options; programs are made anew."""
        return self.function, self.debug, self.threads, self.reassociate, self.rehearse

    @property
    def program(self) -> ProgramView:
        """The program that the latest replayed call ran: print it; it has `profile`, `to_dot` and `to_mermaid`.

        It raises RuntimeError before the first call that was captured, and after the last object is gone that there
        was a program for.

        Examples
        --------
        >>> import tapegrad as tg
        >>> doubled = tg.compile(lambda x: x * 2.0)
        >>> _ = [doubled(tg.ones(2)) for _ in range(3)]
        >>> "multiply" in str(doubled.program)
        True
        """
        if self._last is None:
            raise RuntimeError(
                "no program yet: the first two calls of a compiled function run eagerly, and a program is dropped with "
                "the object that is its argument"
            )
        if self._last.view is None:
            from tapegrad._compile.display import View

            self._last.view = View(self._last.program, self._last)
        return self._last.view

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        m = mode()
        if (
            (m.watch is not None and not is_passive(m.watch))
            or capturing.get() is not None
            or mapping.get() is not None
        ):
            return self.function(*args, **kwargs)  # a part of a captured or mapped function, or listed by an open Tape
        leaves: list[Any] = []
        key = (
            key_of((args, kwargs) if kwargs else args, leaves),
            same_ones(leaves),
            m.recording,
            default_dtype(),
            chosen_device(),
            deterministic(),
            tf32(),
            key_of_modes(),
        )
        if m.recording and any(_inner(x) for x in leaves):
            return self.function(*args, **kwargs)  # recorded from outside: that tape needs every operation
        with self.lock:
            begun = tracing.begun
            replay, xs = self._fitting(key, leaves)
            if replay is not None and not self.debug:
                arrays = replay.arrays(leaves, xs)
                if begun == tracing.begun == tracing.ended:  # no other thread's call had our Tensors meanwhile
                    self._last = replay
                    self._replayed += 1
                    return replay.replay(leaves, xs, arrays)
                del arrays
            with tracing.lock:
                tracing.begun += 1
                try:
                    replay, xs = self._fitting(key, leaves)
                    if replay is None and self.rehearse:
                        replay, xs = self._rehearsed(key, leaves, args, kwargs)
                    if replay is None:
                        return self._eager(key, args, kwargs)
                    self._last = replay
                    if self.debug:
                        return compared(self.function, replay, xs, args, kwargs, self._fresh)
                    return replay.replay(leaves, xs, replay.arrays(leaves, xs))
                finally:
                    tracing.ended += 1

    def _fitting(self, key: Any, leaves: list[Any]) -> tuple[BoundProgram | None, list[Tensor]]:
        for replay in self._programs.get(key, ()):
            xs = replay.tensors(leaves)
            if xs is not None:
                return replay, xs
        return None, []

    def _rehearsed(
        self, key: Any, leaves: list[Any], args: Any, kwargs: Any
    ) -> tuple[BoundProgram | None, list[Tensor]]:
        """Run captured calls, and take back their effects, until a program fits; None where there will be none."""
        for _ in range(MOST):
            pending = self._pending.get(key)
            before = Snapshot(self.function, flatten((args, kwargs))[0], [] if pending is None else pending.tensors())
            try:
                self._eager(key, args, kwargs)
            finally:
                before.restore()
            pending = self._pending.get(key)
            if pending is not None and before.lacks(pending.tensors(lasting=True)):
                raise unknown_state()
            replay, xs = self._fitting(key, leaves)
            if replay is not None or pending is None:  # without pending calls there will be no program
                return replay, xs
        return None, []

    @property
    def _keys(self) -> list[Any]:
        """The key of each program."""
        return [key for key in list(self._programs) for _ in self._programs.get(key, ())]

    def _eager(self, key: Any, args: Any, kwargs: Any) -> Any:
        """Run a call that no program fits: captured, if that may lead to one, else as it is; see `State`."""
        leaves = flatten((args, kwargs))[0]
        self._drop_abandoned(key)
        pending, programs = self._pending.get(key), self._programs.get(key, [])
        missed = [p for p in programs if p.missed]
        before = [] if pending is None else [a for a in pending.attempts if _is_like(a.capture, leaves)]
        # Changes that Python made outside: further items of containers, and where; None for any other change.
        changed = [elsewhere(a.capture, leaves) for a in before]
        more = [grown(a.capture, leaves) if what else set() for a, what in zip(before, changed, strict=True)]
        if (missed or more) and all(where is None for where in more):
            latest = [*changed, *[p.missed for p in missed]][-1]
            if self._too_often(latest):
                return self.function(*args, **kwargs)
        if pending is None:
            if missed and self._is_full():
                self._drop(key, missed.pop(0))
            if self._is_full():
                self._warn_of_keys(key)
                return self.function(*args, **kwargs)
            pending = self._begun(key)
            if self._lost >= LIMIT:  # most objects do not come back: wait and see
                self._warn_of_keys(key)
                return self.function(*args, **kwargs)
        pending.attempts = [a for a in pending.attempts if not outlived(a.capture)]
        # Calls to agree with. A container that has got further items since excuses a difference.
        like = [
            a._replace(state=State.TENTATIVE, tries=0) if where else a
            for a, where in zip(before, more, strict=True)
            if where is not None
        ]
        like += [Attempt(p.capture, p.state, 1) for p in programs if not p.missed and _is_like(p.capture, leaves)]
        if not like and (pending.known is None or pending.known.stale(leaves)):
            return self._tentative(pending, args, kwargs)
        return self._captured(key, pending, like, missed, leaves, args, kwargs)

    def _tentative(self, pending: Pending, args: Any, kwargs: Any) -> Any:
        """Run a call of an unknown kind."""
        result, pending.known, capture = captured_tentatively(self.function, args, kwargs)
        pending.generators = pending.known.generators
        self._fresh = pending.known.fresh
        if capture is not None:
            pending.keep(Attempt(capture, State.TENTATIVE))
        return result

    def _captured(
        self,
        key: Any,
        pending: Pending,
        like: list[Attempt],
        missed: list[BoundProgram],
        leaves: list[Any],
        args: Any,
        kwargs: Any,
    ) -> Any:
        """Run a call captured, and make a program of it if it agrees with another one.

        like: captures that it may agree with; missed: programs whose guards failed, though it may do the same.
        """
        known = pending.tensors()
        known += [c.tensor.tensor for a in like for c in a.capture.slots if c.tensor is not None]
        chance = RngGuard(pending.generators)
        result, capture = captured(self.function, args, kwargs, known, fresh=self._fresh)
        del known
        pending.known = None
        for program in missed:  # the change outside may not matter
            if program.also_after(capture):
                if self._grown < MANY and grown(program.capture, leaves):
                    self._grown += 1
                    self._missed -= 1
                pending.attempts = [a for a in pending.attempts if a.is_binding]
                self._clear(key, pending)
                return result
        pending.forget(like)
        attempt = judged(capture, like)
        if attempt.state is State.CAPTURED:
            pending.keep(attempt)
            return result
        drawn = chance.drawn_from()
        if drawn is None:
            self._bind(key, pending, attempt.capture, capture, leaves)
            return result
        pending.draws += 1  # if it was another thread, it does not draw in every call
        if pending.draws >= ATTEMPTS:
            raise random_numbers(drawn)
        if not any(p.capture is attempt.capture for p in self._programs.get(key, ())):
            pending.attempts.append(Attempt(attempt.capture, State.CAPTURED, 1))
        return result

    def _bind(self, key: Any, pending: Pending, before: Capture, capture: Capture, leaves: list[Any]) -> None:
        """Make a program of a captured call that agrees with one before."""
        for program in [p for p in self._programs.get(key, ()) if p.capture is before]:
            self._drop(key, program)  # the new one holds for both calls, which is more general
        self._last = BoundProgram(capture, leaves, self.threads, self.reassociate)
        self._programs.setdefault(key, []).append(self._last)
        self._lost = 0
        self._clear(key, pending)
        if capture.found.counted:
            self._warn(
                "counted",
                f"compile: {getattr(self.function, '__name__', 'the function')} changes and reads "
                f"{' and '.join(capture.found.counted[:3])}, which stays as it is now while calls are replayed: keep "
                "it in a Tensor that is updated in place, or count outside",
                6,
            )

    def _drop_abandoned(self, key: Any) -> None:
        """Drop programs whose state was replaced by other Tensors; go on from their captures."""
        for program in [p for p in self._programs.get(key, ()) if p.state is State.ABANDONED]:
            self._drop(key, program)
            pending = self._pending.get(key) or self._begun(key)
            pending.attempts.append(Attempt(program.capture, State.ABANDONED, 1))

    def _clear(self, key: Any, pending: Pending) -> None:
        if not pending.attempts:
            self._pending.pop(key, None)

    def _too_often(self, what: str) -> bool:
        """Say whether Python changes things outside so often that programs gain nothing; warn if so."""
        if self._missed < FEW + (self._replayed + self._fell_back) // MANY:
            self._missed += 1
            return False
        self._fell_back += 1
        name = getattr(self.function, "__name__", "the function")
        self._warn(
            "found",
            f"compile: things outside that {name} uses change too often to be worth a program each time: last, {what}. "
            "It runs eagerly for things that no program is for. Keep changing values in a Tensor that is updated in "
            "place, or pass it as an argument",
        )
        return True

    def _begun(self, key: Any) -> Pending:
        """Begin to learn about calls of a key, until an object in it is gone."""
        pending = self._pending[key] = Pending()
        if key not in self._watched:
            gone = partial(_forget, ref(self), key)
            self._watched[key] = [ref(x, gone) for i in identities(key) if (x := i.weakly()) is not None]
        return pending

    def _is_full(self) -> bool:
        """Say whether there is no place for one more program, even without those of objects that only keys hold."""
        if len(self._keys) + len(self._pending) < LIMIT:
            return False
        for key in list(self._watched):
            if any(i.forsaken() for i in identities(key)):
                self.forget(key)
        return len(self._keys) + len(self._pending) >= LIMIT

    def forget(self, key: Any) -> None:
        """Drop all that is known of calls of a key; at any time, even inside another method of this."""
        replays = self._programs.pop(key, ())
        if self._pending.pop(key, None) is not None and not replays:
            self._lost += 1
        if any(r is self._last for r in replays):
            self._last = None
        self._watched.pop(key, None)

    def _drop(self, key: Any, replay: BoundProgram) -> None:
        self._programs[key].remove(replay)

    def _warn(self, about: str, message: str, level: int = 5) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(message, RuntimeWarning, stacklevel=level)

    def _warn_of_keys(self, key: Any) -> None:
        keys = [k for k in (*self._pending, *self._keys) if k != key] or [key]
        last = keys[-1]
        why = (
            "which gradients are None, or a state Tensor's shape or dtype"
            if key in self._keys
            else changed(last[0], key[0])
            if last[0] != key[0]
            else "an argument that is another object at each call"
            if self._lost
            else "a default, or whether gradients are recorded"
        )
        name = getattr(self.function, "__name__", "the function")
        n = self._lost + len({*self._keys, *self._pending, key})
        self._warn(
            "keys",
            f"compile: {name} was called with {n} combinations of shapes, dtypes and static arguments, each of which "
            f"needs a program, and has {len(self._keys)} of these: it runs eagerly for further ones. The last "
            f"change was in {why}. Pass changing values as a Tensor of one shape, or compile one function for each",
        )


def _forget(function: ref[Compiled], key: Any, _: object) -> None:
    compiled = function()
    if compiled is not None:
        compiled.forget(key)


def _is_like(capture: Capture, leaves: list[Any]) -> bool:
    """Say whether arguments and state are as at a captured call, whose state is there still."""
    return not outlived(capture) and fits(capture, leaves)


def _inner(x: Any) -> bool:
    return isinstance(x, Tensor) and x._record is not None and x._record.op is not LEAF


@overload
def compile(
    function: Callable[P, R],
    /,
    *,
    debug: bool = False,
    threads: int | None = None,
    reassociate: bool = False,
    rehearse: bool = False,
) -> CompiledFunction[P, R]: ...
@overload
def compile(
    function: None = None,
    /,
    *,
    debug: bool = False,
    threads: int | None = None,
    reassociate: bool = False,
    rehearse: bool = False,
) -> Callable[[Callable[P, R]], CompiledFunction[P, R]]: ...
def compile(
    function: Callable[..., Any] | None = None,
    /,
    *,
    debug: bool = False,
    threads: int | None = None,
    reassociate: bool = False,
    rehearse: bool = False,
) -> Any:
    """Return the function compiled: two calls run eagerly, later ones replay the work of these.

    Usable as a decorator, with and without options. Arguments may be nested containers: Tensors and arrays in them are
    inputs, everything else is static, and another value of it another program. Tensors that the function reaches
    otherwise (parameters, the state of an optimiser) are read at each call, and get their new values and gradients as
    in an eager call; so are raw arrays from outside read. Programs are for one combination of shapes, dtypes, devices
    and default settings; after some of them, further ones run eagerly, with a warning. State that the first call makes
    takes an eager call or two more, and so does state that a search through closures, globals, attributes and
    containers does not find. Results are recorded by nobody: call `backward()`, or `grad`, inside. Under an open Tape
    or `debug()`, inside another compiled function, and for arguments that are recorded, it runs eagerly.

    Parameters
    ----------
    function : callable or None, default None
        The function; None where only options are given, as in `@tg.compile(threads=1)`.
    debug : bool, default False
        Whether to run every call eagerly as well, and raise AssertionError for the first operation or value that
        differs.
    threads : int or None, default None
        How many threads a program may use on NumPy; for None as many as there are cores, OMP_NUM_THREADS or
        OPENBLAS_NUM_THREADS.
    reassociate : bool, default False
        Whether to collect and factor sums and products of elementwise operations on large arrays (x * 2 * y * 3 is 6 *
        x * y, a * x + b * x * y is x * (a + b * y)), which makes fewer passes on NumPy and CuPy; and whether a
        multiple of an array may be added to a parameter with one rounding, by the threads of NumPy's BLAS. Results
        then differ by rounding: by a few units in the last place of the largest term of each sum. Where a term is
        infinite, or its coefficient underflows, they may be NaN where an eager call's are not.
    rehearse : bool, default False
        Whether the calls that are captured only rehearse: their effects on Tensors are taken back, and the first call
        that counts is a replay, too. A training that is stopped and goes on in another process is then equal to the
        bit to one without a break, where compilers round otherwise than eager calls do. The function runs two times,
        or a few more, within its first call, and its other effects come as often.

    Returns
    -------
    callable
        The compiled function; a decorator where only options are given. Its `program` is that of the latest replayed
        call: print it; it has `profile`, `to_dot` and `to_mermaid`.

    Raises
    ------
    CaptureError
        At a call, naming the line: it needs the value of an array (`if`, `float`, a shape that depends on values), two
        calls do not do the same (a number that Python changes), or something outside keeps a Tensor that a call made.
        State is then as the call left it, as if it had run eagerly.
    AssertionError
        At a call, with `debug`: an operation or value differs from that of the eager call.
    TypeError
        It is no function.

    Notes
    -----
    Without `reassociate`, a replayed call agrees with an eager one to the bit, except where NumPy adds in another
    order: sums over runs of large arrays are added block by block, products of matrices in a loop may become one, and
    a sum, or product of matrices, depends on whether its operand lies in C order, as results of a program do, or
    transposed, as it may in an eager call; `jax.jit` and `torch.compile` round in their own way.

    Effects beside computing are not replayed: printing, appending to a list, counting in Python, some of NumPy's
    warnings of overflow. Guards compare the things outside that the code names (numbers, flags, functions, Tensors, in
    globals, closures, attributes and containers) in each call. Where one has changed, the call is captured anew; more
    often than in one of 20 calls it runs eagerly instead, with a warning. Guards leave out things that the function
    changes itself, items of a container of more than 256, and things that code does not name, as behind `__getattr__`
    or an iterator. Tensors and arrays that it can reach are not to be used by other threads while a call
    is captured.

    Examples
    --------
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
    >>> [step(tg.asarray([0.0, 0.0])).item() for _ in range(5)]
    [5.0, 1.25, 0.3125, 0.078125, 0.01953125]
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"compile: threads must be 1 or more, not {threads!r}")
    if function is None:
        return lambda f: Compiled(f, debug, threads, reassociate, rehearse)
    if not callable(function):
        raise TypeError(f"compile: pass a function, not {type(function).__name__}")
    return Compiled(function, debug, threads, reassociate, rehearse)
