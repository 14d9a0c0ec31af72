"""The docstring of an elementwise function."""

from __future__ import annotations


def text(summary: str, derivative: str, call: str, result: str) -> str:
    """Return the docstring of an elementwise function."""
    return f"""{summary}

    Takes Tensors, arrays of one library and numbers, of any shapes that broadcast; gives their broadcast shape and
    promoted dtype. Raises ValueError for shapes that do not broadcast, TypeError for mixed devices. {derivative}

    >>> import tapegrad as tg
    >>> {call}
    {result}
    """
