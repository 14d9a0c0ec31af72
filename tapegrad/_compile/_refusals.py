"""What a program cannot do, in words: each error names the user's line and a way out."""

from __future__ import annotations

from tapegrad._cuts import user_line
from tapegrad._namespace import CaptureError


def stranger() -> CaptureError:
    """Return the error for a Tensor that turned up in a later call only."""
    return CaptureError(
        f"at {user_line()} a Tensor is used that the call before did not use: pass what changes from call to call as "
        "an argument, and keep state in the same Tensors, updated in place"
    )


def value_needed(what: str) -> CaptureError:
    """Return the error for what needs a value."""
    return CaptureError(
        f"{what} at {user_line()} needs the value of an array, which a compiled function does not know: choose with "
        "tapegrad.where, pass what is fixed as a Python value (it is static), or leave it outside the function"
    )


def written_to() -> CaptureError:
    """Return the error for a raw array that is written to."""
    return CaptureError(
        f"at {user_line()} a raw array is updated in place, which replay cannot do: pass a Tensor instead, or make a "
        "new array, as in x = x + y"
    )


def shape_needed(what: str, instead: str = "") -> CaptureError:
    """Return the error for a function whose result has a shape that depends on values."""
    return CaptureError(
        f"{what} at {user_line()} has a result whose shape depends on values, which a compiled function does not know: "
        + (f"use {instead}, or " if instead else "")
        + "leave it outside the function"
    )
