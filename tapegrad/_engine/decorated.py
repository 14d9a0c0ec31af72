"""Decoration of generators and coroutines with a context manager.

The block is entered whenever the body resumes, and left whenever the body yields. So it holds while the body runs, and
not for other code in between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractContextManager
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

Block = Callable[[], AbstractContextManager[Any]]


def in_block(block: Block, function: Any) -> Any:
    """Return a generator or coroutine function whose body runs in blocks; None for a plain function."""
    if isgeneratorfunction(function):
        return _generator(block, function)
    if iscoroutinefunction(function):
        return _coroutine(block, function)
    if isasyncgenfunction(function):
        return _asynchronous_generator(block, function)
    return None


def _generator(block: Block, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
    @wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        steps = function(*args, **kwargs)
        go_on: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        try:
            while True:
                with block():
                    given = go_on()
                try:
                    sent = yield given
                except GeneratorExit:
                    with block():
                        steps.close()
                    raise
                except BaseException as error:
                    go_on = _bound(steps.throw, error)
                else:
                    go_on = _bound(steps.send, sent)
        except StopIteration as stop:
            return stop.value

    return generator


def _coroutine(block: Block, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a coroutine function that runs in one block; a task has its own context, so that others do not see it."""

    @wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        with block():
            return await function(*args, **kwargs)

    return coroutine


def _asynchronous_generator(block: Block, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        steps = function(*args, **kwargs)
        go_on: Callable[[], Any] = lambda: anext(steps)  # noqa: E731
        try:
            while True:
                with block():
                    given = await go_on()
                try:
                    sent = yield given
                except GeneratorExit:
                    with block():
                        await steps.aclose()
                    raise
                except BaseException as error:
                    go_on = _bound(steps.athrow, error)
                else:
                    go_on = _bound(steps.asend, sent)
        except StopAsyncIteration:
            return

    return generator


def _bound(step: Callable[[Any], Any], value: Any) -> Callable[[], Any]:
    return lambda: step(value)
