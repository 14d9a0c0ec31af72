"""Schedules: rates as functions of the Tensor that counts the steps so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log, pi
from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.ops.binary import clip, minimum, where
from tapegrad.ops.elementwise import cos, exp
from tapegrad.optim._optimiser import number


class Schedule:
    """A rate as a function of the number of steps so far; the functions of this module return such ones.

    Parameters
    ----------
    text : str
        How it was made.
    rate : callable
        The rate after the warm-up, a function of the count.
    warmup : int
        The number of steps in which the rate grows from nothing, in equal parts.

    Examples
    --------
    >>> import tapegrad as tg
    >>> rate = tg.optim.constant(0.1, warmup=4)
    >>> rate, [rate(tg.asarray(float(n))).item() for n in range(5)]
    (constant(0.1, warmup=4), [0.025, 0.05, 0.07500000000000001, 0.1, 0.1])
    """

    def __init__(self, text: str, rate: Callable[[Tensor], Any], warmup: int) -> None:
        self.text, self.rate, self.warmup = text, rate, warmup

    def __call__(self, count: Tensor) -> Any:
        rate = self.rate(count)
        return minimum((count + 1.0) / self.warmup, 1.0) * rate if self.warmup else rate

    def __repr__(self) -> str:
        return self.text


def _made(name: str, shown: tuple[Any, ...], options: dict[str, Any], rate: Callable[[Tensor], Any]) -> Schedule:
    warmup = options.get("warmup", 0)
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"{name}: warmup is a number of steps, not {warmup!r}")
    text = ", ".join([*map(repr, shown), *[f"{k}={v!r}" for k, v in options.items() if v]])
    return Schedule(f"{name}({text})", rate, warmup)


def _steps(name: str, steps: Any, warmup: Any = 0) -> int:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps <= 0:
        raise ValueError(f"{name}: steps must be a positive integer, not {steps!r}")
    if isinstance(warmup, int) and warmup >= steps:
        raise ValueError(f"{name}: the warm-up of {warmup} steps must be shorter than all {steps}")
    return steps


def _progress(count: Tensor, steps: int, warmup: int) -> Tensor:
    """Return how far a count is from the end of the warm-up to the last step: from 0 to 1."""
    return clip((count - float(warmup)) / float(steps - warmup), 0.0, 1.0)


def constant(rate: float, *, warmup: int = 0) -> Schedule:
    """Make a rate that stays the same.

    Parameters
    ----------
    rate : float
        The rate.
    warmup : int, default 0
        The number of steps in which it grows to that.

    Returns
    -------
    Schedule
        A function of the count.

    Raises
    ------
    ValueError
        The rate is negative, or the warm-up no number of steps.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.optim.constant(0.1, warmup=2)(tg.asarray(0.0))
    Tensor(0.05)
    """
    number("constant", "rate", rate)
    return _made("constant", (rate,), {"warmup": warmup}, lambda count: rate)


def linear(rate: float, steps: int, *, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Make a rate that changes in equal parts, and then stays.

    Parameters
    ----------
    rate : float
        The rate after the warm-up.
    steps : int
        The number of all steps, the warm-up included.
    warmup : int, default 0
        The number of steps in which it grows to `rate`.
    end : float, default 0.0
        The last rate.

    Returns
    -------
    Schedule
        A function of the count.

    Raises
    ------
    ValueError
        A rate is negative, or the numbers of steps do not fit.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.optim.linear(0.1, 10)(tg.asarray(5.0))
    Tensor(0.05)
    """
    number("linear", "rate", rate), number("linear", "end", end)
    _steps("linear", steps, warmup)
    return _made(
        "linear",
        (rate, steps),
        {"warmup": warmup, "end": end},
        lambda count: rate + (end - rate) * _progress(count, steps, warmup),
    )


def cosine(rate: float, steps: int, *, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Make a rate that falls by half a wave of a cosine (Loshchilov and Hutter, 2017), and then stays.

    Parameters
    ----------
    rate : float
        The rate after the warm-up.
    steps : int
        The number of all steps, the warm-up included.
    warmup : int, default 0
        The number of steps in which it grows to `rate`.
    end : float, default 0.0
        The last rate.

    Returns
    -------
    Schedule
        A function of the count.

    Raises
    ------
    ValueError
        A rate is negative, or the numbers of steps do not fit.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.optim.cosine(0.1, 100, warmup=10)(tg.asarray(55.0))
    Tensor(0.05)
    """
    number("cosine", "rate", rate), number("cosine", "end", end)
    _steps("cosine", steps, warmup)
    return _made(
        "cosine",
        (rate, steps),
        {"warmup": warmup, "end": end},
        lambda count: end + (rate - end) * (0.5 + 0.5 * cos(pi * _progress(count, steps, warmup))),
    )


def one_cycle(
    rate: float, steps: int, *, rise: float = 0.3, start: float | None = None, end: float | None = None
) -> Schedule:
    """Make a rate that rises and falls once, each by half a wave of a cosine (Smith and Topin, 2019).

    Parameters
    ----------
    rate : float
        The highest rate.
    steps : int
        The number of all steps.
    rise : float, default 0.3
        The share of steps in which it rises.
    start : float or None, default None
        The first rate; a 25th of the highest for None.
    end : float or None, default None
        The last rate; a 10,000th of the first for None.

    Returns
    -------
    Schedule
        A function of the count.

    Raises
    ------
    ValueError
        A rate is negative, or `rise` leaves no steps to rise or to fall.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.optim.one_cycle(0.1, 100)(tg.asarray(29.0))
    Tensor(0.1)
    """
    number("one_cycle", "rate", rate), _steps("one_cycle", steps)
    low = rate / 25 if start is None else number("one_cycle", "start", start)
    last = low / 1e4 if end is None else number("one_cycle", "end", end)
    top = rise * steps - 1
    if not 0 < top < steps - 1:
        raise ValueError(f"one_cycle: rise={rise} of {steps} steps leaves none to rise, or none to fall")

    def value(count: Tensor) -> Tensor:
        rising = clip(count / top, 0.0, 1.0)
        falling = clip((count - top) / (steps - 1 - top), 0.0, 1.0)
        up = low + (rate - low) * (0.5 - 0.5 * cos(pi * rising))
        down = last + (rate - last) * (0.5 + 0.5 * cos(pi * falling))
        return where(count <= top, up, down)

    return _made("one_cycle", (rate, steps), {"rise": rise, "start": start, "end": end}, value)


def piecewise(rates: Mapping[int, float], *, warmup: int = 0) -> Schedule:
    """Make a rate that is constant between some steps.

    Parameters
    ----------
    rates : mapping of int to float
        The rate from each count of steps on; one must be for 0.
    warmup : int, default 0
        The number of steps in which it grows from nothing.

    Returns
    -------
    Schedule
        A function of the count.

    Raises
    ------
    ValueError
        There is no rate for 0, or one is negative.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.optim.piecewise({0: 0.1, 100: 0.01})(tg.asarray(100.0))
    Tensor(0.01)
    """
    if 0 not in rates or any(n < 0 for n in rates):
        raise ValueError("piecewise: give the rate from step 0 on, and from later ones, as in {0: 0.1, 100: 0.01}")
    ordered = sorted((int(n), number("piecewise", "rate", rate)) for n, rate in rates.items())

    def value(count: Tensor) -> Any:
        rate: Any = ordered[0][1]
        for n, later in ordered[1:]:
            rate = where(count >= float(n), later, rate)
        return rate

    return _made("piecewise", (dict(ordered),), {"warmup": warmup}, value)


def exponential(rate: float, factor: float, every: int = 1, *, warmup: int = 0) -> Schedule:
    """Make a rate that is multiplied by a factor, a little in each step.

    Parameters
    ----------
    rate : float
        The first rate.
    factor : float
        The factor.
    every : int, default 1
        The number of steps that change the rate by the whole factor.
    warmup : int, default 0
        The number of steps in which it grows from nothing.

    Returns
    -------
    Schedule
        A function of the count.

    Raises
    ------
    ValueError
        The rate is negative, or the factor not positive.

    Examples
    --------
    >>> import tapegrad as tg
    >>> round(tg.optim.exponential(0.1, 0.5, every=10)(tg.asarray(20.0)).item(), 6)
    0.025
    """
    number("exponential", "rate", rate), _steps("exponential", every)
    if not factor > 0:
        raise ValueError(f"exponential: the factor must be positive, not {factor!r}")
    return _made(
        "exponential",
        (rate, factor, every),
        {"warmup": warmup},
        lambda count: rate * exp(count * (log(factor) / every)),
    )
