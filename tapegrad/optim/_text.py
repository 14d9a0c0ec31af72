"""The parts of docstrings that all optimisers share."""

from __future__ import annotations

from textwrap import indent
from typing import TypeVar

C = TypeVar("C", bound=type)

_FIRST = """\
Parameters
----------
model : object
    The holder of the parameters: a model, or a list of Tensors.
rate : float, Tensor or callable
    The step size; a callable is a schedule, a function of the Tensor that counts steps."""
_LAST = """\
decay : str, iterable of str, callable or None, default None
    The parameters that decay: patterns of names such as '*.weight', or a function of name and Tensor; all for None.
masters : bool, default True
    Whether parameters of 16 bits are updated by way of copies in float32; they cannot be without.

Attributes
----------
rate : float, Tensor or callable
    The step size.
count : Tensor
    The number of steps.

Raises
------
ValueError
    The model holds no parameters, a pattern fits none, a number is out of range, or the rate is on another device.
TypeError
    A number is none."""


def described(kind: C) -> C:
    """Put the text that all optimisers share into the docstring of a class, at PARAMETERS and REST."""
    doc = kind.__doc__ or ""
    for mark, text in (("    PARAMETERS", _FIRST), ("    REST", _LAST)):
        assert mark in doc, kind.__name__
        doc = doc.replace(mark, indent(text, "    "))
    kind.__doc__ = doc
    return kind
