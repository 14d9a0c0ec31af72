"""Prefetching: an iterator whose items are made ahead of their use, by a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")
S = TypeVar("S")

_POLL = 0.05  # seconds between looks at whether the reader is gone


def prefetched(make: Callable[[S], T], inputs: Iterable[S], ahead: int) -> Iterator[T]:
    """Yield make(x) for each input; a thread makes up to `ahead` items before they are asked for.

    An exception in the thread is raised where its item is asked for. The thread ends with the iterator: when that is
    exhausted, closed, or forgotten. With ahead = 0 there is no thread.
    """
    if ahead == 0:
        yield from map(make, inputs)
        return
    queue: Queue[tuple[Any, BaseException | None]] = Queue(ahead)
    gone = Event()
    end = object()

    def put(item: Any, error: BaseException | None = None) -> bool:
        """Hand an item over; return False if nobody waits for it any more."""
        while not gone.is_set():
            try:
                queue.put((item, error), timeout=_POLL)
            except Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for x in inputs:
                if not put(make(x)):
                    return
            put(end)
        except BaseException as error:
            put(None, error)

    # The reader's defaults (device, dtype) hold in the thread, too.
    thread = Thread(target=copy_context().run, args=(work,), name="tapegrad prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = queue.get(timeout=1.0)
            except Empty:
                if not thread.is_alive() and queue.empty():  # after a fork, which takes no threads along
                    raise RuntimeError(
                        "Batches: the thread that makes batches is gone, as after a fork; begin to iterate in the "
                        "process that uses the batches"
                    ) from None
                continue
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        gone.set()
        thread.join()
