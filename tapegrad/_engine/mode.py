"""The mode: whether operations are recorded, watched by open Tapes and checked for NaN."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from typing import Any, TypeVar

from tapegrad._engine.decorated import in_block
from tapegrad._engine.graph_breaks import cut_by_use
from tapegrad._engine.record import MARK

F = TypeVar("F", bound=Callable[..., Any])


class Mode:
    """The switches of a context: recording, the check of gradients for NaN, and the watcher of operations.

    Each `with` block makes a mode, which holds inside the block.

    Attributes
    ----------
    recording : bool
        Whether operations are recorded.
    watch : callable or None
        The function that is called with each operation, for open Tapes.
    debug : bool
        Whether gradients are checked for NaN.
    scope : mode_set or None
        The scope of the block; None once the block has ended.
    own : callable or None
        The watcher that the block adds.
    outer : Mode
        The enclosing mode.
    inner : list of Mode
        The modes of the open blocks inside.
    """

    __slots__ = ("debug", "inner", "outer", "own", "recording", "scope", "watch")

    outer: Mode
    own: Callable[..., None] | None
    inner: list[Mode]

    def __init__(
        self, recording: bool, watch: Callable[..., None] | None, debug: bool, scope: mode_set | None = None
    ) -> None:
        self.recording = recording
        self.watch = watch
        self.debug = debug
        self.scope = scope

    def follow(self) -> None:
        """Inherit from the enclosing mode all that the block does not set, then update the modes inside."""
        outer, scope = self.outer, self.scope
        if scope is None:  # the block is ending
            return
        self.recording = outer.recording if scope.recording is None else scope.recording
        self.watch = _both(None if scope.unwatched else outer.watch, self.own)
        self.debug = outer.debug if scope.debug is None else scope.debug
        for m in tuple(self.inner):
            m.follow()

    def end(self) -> None:
        """Make the mode equal to the enclosing one: contexts of other threads and tasks may still hold it."""
        outer = self.outer
        self.scope = self.own = None
        self.recording, self.watch, self.debug = outer.recording, outer.watch, outer.debug
        if outer is not DEFAULT:
            outer.inner.remove(self)
            outer.inner += self.inner
            self.__class__ = _Ended
        for m in self.inner:  # blocks that began later and are still open
            m.outer = outer
            m.follow()

    def open(self) -> Mode:
        """Return the innermost mode, this one or one around it, whose block has not ended."""
        m = self
        while m is not DEFAULT and m.scope is None:
            m = m.outer
        return m


class _Ended(Mode):
    """The mode of a nested block that has ended: it follows the enclosing mode."""

    __slots__ = ()

    recording = property(lambda m: m.outer.recording)
    watch = property(lambda m: m.outer.watch)
    debug = property(lambda m: m.outer.debug)


DEFAULT = Mode(True, None, False)
_mode: ContextVar[Mode] = ContextVar("tapegrad.mode", default=DEFAULT)
mode = _mode.get
# The modes of the open blocks, of all threads and contexts. While there are none, as nearly always, operations need not
# look up the context's mode.
scopes: list[object] = []


def notify_use(x: object) -> None:
    """Notify the watcher that a Tensor is used other than as an operand."""
    if scopes:
        m = mode()
        if m.watch is not None:
            m.watch(MARK, (x,), (), ())


class mode_set(ContextDecorator):
    """A context manager and decorator that changes the mode; safe under threads and exceptions.

    Blocks of generators may end in another order than they began, and in another thread. Each block undoes its own
    changes only.
    """

    def __init__(
        self,
        recording: bool | None = None,
        watch: Callable[..., None] | None = None,
        debug: bool | None = None,
        unwatched: bool = False,
        name: str = "",
    ) -> None:
        self.recording, self._watch, self.debug, self.unwatched = recording, watch, debug, unwatched
        self._name = name
        self.open: list[Mode] = []  # the modes of its blocks, in any thread

    def _recreate_cm(self) -> mode_set:  # a decorated function may run in many threads at once
        return mode_set(self.recording, self._watch, self.debug, self.unwatched, self._name)

    def __call__(self, function: F) -> F:
        return in_block(self._recreate_cm, function) or super().__call__(function)

    def __enter__(self) -> None:
        outer = _mode.get()
        own = _both(self._watch, cut_by_use(self._name)) if self._name else self._watch
        if outer is not DEFAULT:
            outer = outer.open()
        m = Mode(
            outer.recording if self.recording is None else self.recording,
            own if self.unwatched or outer.watch is None else _both(outer.watch, own),
            outer.debug if self.debug is None else self.debug,
            self,
        )
        m.outer, m.own, m.inner = outer, own, []
        if outer is not DEFAULT:
            outer.inner.append(m)
        self.open.append(m)
        scopes.append(m)
        _mode.set(m)

    def __exit__(self, *error: object) -> None:
        m = _mode.get()
        if m.scope is self:
            _mode.set(m.outer if m.outer is DEFAULT else m.outer.open())
        else:
            m = self._mine(m)
        self.open.remove(m)
        m.end()
        scopes.pop()  # any one: only their number counts

    def _mine(self, m: Mode) -> Mode:
        """Return the mode of this scope's innermost open block in this context, else in another context."""
        while m is not DEFAULT:
            if m.scope is self:
                return m
            m = m.outer
        return self.open[-1]


def _both(old: Callable[..., None] | None, new: Callable[..., None] | None) -> Callable[..., None] | None:
    """Return a watcher that calls two watchers; it is passive if both are."""
    if old is None or new is None:
        return old or new

    def watch(*event: Any) -> None:
        old(*event)
        new(*event)

    watch.passive = is_passive(old) and is_passive(new)  # type: ignore[attr-defined]
    return watch


def is_passive(watch: Callable[..., None] | None) -> bool:
    """Return whether a watcher is None, or looks only at which Tensors are used."""
    return watch is None or getattr(watch, "passive", False)


def no_grad() -> mode_set:
    """Record nothing inside this `with` block or decorated function: results need no gradient.

    An in-place update of a leaf is allowed inside, and is the way to train. A decorated generator function or
    coroutine is not recorded while its body runs. A block in the body of a generator holds, as in PyTorch, between its
    steps too.

    Returns
    -------
    context manager
        A `with` block, or a decorator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0], requires_grad=True)
    >>> with tg.no_grad():
    ...     w -= 0.5
    >>> w.requires_grad
    True
    """
    return mode_set(recording=False, name="no_grad()")


def enable_grad() -> mode_set:
    """Record inside this `with` block again, where a surrounding `no_grad` had turned it off.

    Returns
    -------
    context manager
        A `with` block, or a decorator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0], requires_grad=True)
    >>> with tg.no_grad(), tg.enable_grad():
    ...     (w * 2).requires_grad
    True
    """
    return mode_set(recording=True)
