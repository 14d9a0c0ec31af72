"""Errors of a capture: each names the user's line, with a way out."""

from __future__ import annotations

import os

from tapegrad._engine.dispatch import CaptureError
from tapegrad._engine.source_line import user_line

_PACKAGES = "site-packages"  # in the names of files of libraries


def unknown_tensor() -> CaptureError:
    """Return the error for a Tensor that turned up in a later call only."""
    return CaptureError(
        f"at {user_line()} a Tensor is used that the call before did not use: pass changing values as arguments, "
        "and keep state in the same Tensors, updated in place"
    )


def value_needed(what: str) -> CaptureError:
    """Return the error for an operation that needs a value."""
    return CaptureError(
        f"{what} at {user_line()} needs the value of an array, which a compiled function does not know: choose with "
        "tapegrad.where, pass fixed values as Python values (they are static), or leave it outside the function"
    )


def array_needed() -> CaptureError:
    """Return the error for a raw array whose values its library, not tapegrad, is to compute with."""
    return CaptureError(
        f"at {user_line(apart=_PACKAGES)} the values of a raw array are needed, which a compiled function does not "
        "know: use the function of the same name in tapegrad, on tapegrad.asarray(x), or compute it outside"
    )


def type_asked(file: str, line: int, name: str) -> CaptureError:
    """Return the error for code that compares a type with that of a raw array."""
    return CaptureError(
        f"at {os.path.basename(file)}:{line} a type is compared with {name}, but a raw array has another one while a "
        "call is captured: use isinstance, or pass a Tensor"
    )


def written_to() -> CaptureError:
    """Return the error for a raw array that is written to."""
    return CaptureError(
        f"at {user_line(apart=_PACKAGES)} a raw array is updated in place, which replay cannot do: pass a Tensor "
        "instead, or make a new array, as in x = x + y"
    )


def written_in(name: str) -> CaptureError:
    """Return the error for a raw array that a library has written to, known by its place."""
    return CaptureError(
        f"the function updates {name} in place, a raw array from outside, which replay cannot do: keep changing values "
        "in a Tensor, or write to the array outside"
    )


def rounds_unlike(name: str, how: str) -> CaptureError:
    """Return the error for a loop whose rounds differ in more than the state that is handed on."""
    return CaptureError(
        f"{name} at {user_line()}: its function does not do the same in each iteration, which replay would: {how}"
    )


def escaped(line: str) -> CaptureError:
    """Return the error for a value that leaves an iteration beside its result."""
    return CaptureError(
        f"a result of an iteration of fixed_point or root at {line} is used after it, which replay cannot do: its "
        "function may update no state and keep nothing, so use its results"
    )


def caught(name: str) -> CaptureError:
    """Return the error for an error that the function went on after."""
    return CaptureError(
        f"{name} at {user_line()} raised an error, and the function went on, which depends on values: let the error "
        "pass, or leave this outside the function"
    )


def shape_needed(what: str, instead: str = "") -> CaptureError:
    """Return the error for a function whose result has a shape that depends on values."""
    return CaptureError(
        f"{what} at {user_line()} has a result whose shape depends on values, which a compiled function does not know: "
        + (f"use {instead}, or " if instead else "")
        + "leave it outside the function"
    )


def random_numbers(name: str) -> CaptureError:
    """Return the error for random numbers that calls draw."""
    return CaptureError(
        f"the function draws random numbers from {name}, which a replayed call would not do: draw them outside, and "
        "pass them as an argument"
    )
