"""Implicit functions: solutions of equations, differentiated by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

from tapegrad._engine.coercion import as_tensor, lift_to_level, placed
from tapegrad._engine.dispatch import backend_of, on_level, outer_record
from tapegrad._engine.dtypes import as_dtype, is_complex
from tapegrad._engine.graph_breaks import unnoticed
from tapegrad._engine.levels import mapping
from tapegrad._engine.mode import mode_set
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad._engine.tree import flatten
from tapegrad._transforms.custom_rules import SavedCall, constant_of, inputs_of, isolated, no_captures, recorded
from tapegrad._transforms.jacobian import jacobian_as
from tapegrad._transforms.reverse import check_function, vjp_as
from tapegrad._vmap.array import Batched, Level
from tapegrad._vmap.transform import inside
from tapegrad.backends import Array
from tapegrad.linalg import solve
from tapegrad.ops.elementwise import abs
from tapegrad.ops.reductions import max, sum
from tapegrad.ops.shaping import broadcast_to, reshape
from tapegrad.typing import ArrayLike

Equation = Callable[..., Any]


def fixed_point(
    f: Equation, x0: ArrayLike, *args: Any, tolerance: float | None = None, max_iterations: int = 1000
) -> Tensor:
    """Return the x with x = f(x, *args), by iterating from a start.

    The derivative solves the adjoint equation w = t + (df/dx)^T w, for the cotangent t of x, by the same iteration: to
    any order, in memory that does not grow with the number of iterations (implicit function theorem; Christianson,
    "Reverse accumulation and attractive fixed points", 1994). In a compiled function the iteration is one operation,
    which goes on until it converges at each call; f is then to do the same each time, and update no state.

    Parameters
    ----------
    f : callable
        A function `f(x, *args)` that keeps the shape and dtype of x.
    x0 : ArrayLike
        The start, which gets no gradient.
    *args : ArrayLike or tree
        Further arguments of `f`: arrays, Tensors, or containers of them, which get gradients.
    tolerance : float or None, default None
        The largest change of an element, relative to the largest element or 1, at which the iteration ends; 64 units
        of rounding for None.
    max_iterations : int, default 1000
        The number of iterations after which it is given up.

    Returns
    -------
    Tensor
        The fixed point, of the shape and dtype of `x0`.

    Raises
    ------
    RuntimeError
        It does not converge.
    ValueError
        `f` changes the shape or dtype.
    TypeError
        `f` is no function, or uses a Tensor from outside that requires a gradient.

    Examples
    --------
    >>> import tapegrad as tg
    >>> root2 = lambda a: tg.fixed_point(lambda x, a: 0.5 * (x + a / x), tg.asarray(1.0), a)
    >>> round(float(tg.grad(root2)(2.0)), 9)
    0.353553391
    """
    check_function("fixed_point", f, form="(f, x0)")
    f = isolated(f)

    def iterate(x: Tensor, given: Sequence[Any]) -> Tensor:
        text = (
            f"fixed_point: the last of {max_iterations} iterations still changed an element by {{:.3g}}: start "
            "closer, allow more max_iterations or a larger tolerance, or make f a contraction"
        )
        until = Until("fixed_point", _tolerance(x, tolerance), max_iterations, text)
        return _settled(until, lambda x: _checked_like("fixed_point", f(x, *given), x), x)

    def adjoint(x: Tensor, t: Tensor, given: list[Any]) -> Tensor:
        def step(w: Tensor, x: Tensor, t: Tensor, *given: Any) -> Any:
            return t + vjp_as("fixed_point", _named(f, lambda x: f(x, *given)), (x,), may_be_constant=True)[1](w)[0]

        return fixed_point(step, t, x, t, *given, tolerance=tolerance, max_iterations=max_iterations)

    return _implicit("fixed_point", f, iterate, adjoint, x0, args)


def root(f: Equation, x0: ArrayLike, *args: Any, tolerance: float | None = None, max_iterations: int = 50) -> Tensor:
    """Return an x with f(x, *args) = 0, by Newton's method from a start.

    The Jacobian comes from the tape. The derivative is -(df/dx)^-1 df/dargs (implicit function theorem), to any order.
    In a compiled function it is one operation: see `fixed_point`.

    Parameters
    ----------
    f : callable
        A function `f(x, *args)` that gives as many elements as x has.
    x0 : ArrayLike
        The start, of n elements, which gets no gradient.
    *args : ArrayLike or tree
        Further arguments of `f`: arrays, Tensors, or containers of them, which get gradients.
    tolerance : float or None, default None
        The largest element of a Newton step, relative to the largest of x or 1, at which it ends; 64 units of rounding
        for None.
    max_iterations : int, default 50
        The number of steps after which it is given up.

    Returns
    -------
    Tensor
        The root, of the shape and dtype of `x0`.

    Raises
    ------
    RuntimeError
        It does not converge.
    ValueError
        `f` gives another shape or dtype than `x0`.
    TypeError
        `f` is no function, or uses a Tensor from outside that requires a gradient.

    Examples
    --------
    >>> import tapegrad as tg
    >>> cube_root = lambda a: tg.root(lambda x, a: x**3 - a, tg.asarray(2.0), a)
    >>> round(float(tg.grad(cube_root)(8.0)), 9)
    0.083333333
    """
    check_function("root", f, form="(f, x0)")
    f = isolated(f)

    def iterate(x: Tensor, given: Sequence[Any]) -> Tensor:
        def newton(x: Tensor) -> Tensor:
            y = _checked_like("root", f(x, *given), x)
            return x - _solved(_matrix(x, given), y)

        text = (
            f"root: the last of {max_iterations} Newton steps still had an element of {{:.3g}}: start closer, or "
            "allow more max_iterations or a larger tolerance"
        )
        return _settled(Until("root", _tolerance(x, tolerance), max_iterations, text), newton, x)

    def _matrix(x: Tensor, given: Sequence[Any]) -> Tensor:
        by_x = _named(f, lambda x: f(x, *given))
        return reshape(jacobian_as("root", by_x, 0, "auto", None)(x), (x.size, x.size))

    def adjoint(x: Tensor, t: Tensor, given: list[Any]) -> Tensor:
        return -_solved(_matrix(x, given).mT, t)

    return _implicit("root", f, iterate, adjoint, x0, args)


def _implicit(
    name: str,
    f: Equation,
    iterate: Callable[[Tensor, Sequence[Any]], Tensor],
    adjoint: Callable[[Tensor, Tensor, list[Any]], Tensor],
    x0: Any,
    args: tuple[Any, ...],
) -> Tensor:
    """Record a solution as one operation, whose rule pulls the adjoint's solution back to the arguments."""
    like = _model(name, x0, args)
    start = constant_of(lift_to_level(placed(name, x0, like._array)))
    if is_complex(start._array.dtype):
        raise TypeError(f"{name}: complex unknowns are not supported: write them as their real and imaginary parts")
    args = tuple(_tensors(name, a, like) for a in args)
    inputs, put = inputs_of(args)
    no_captures(name, f(start, *put([constant_of(x) for x in inputs])))

    def pull(x: Tensor, t: Tensor, tied: list[Tensor]) -> list[Tensor]:
        with unnoticed():
            w = adjoint(x, t, put(tied))
            return list(vjp_as(name, _named(f, lambda *given: f(x, *put(list(given)))), tied)[1](w))

    return _solution(name, lambda x, given: iterate(x, put(given)), pull, start, inputs)


def _solution(
    name: str,
    iterate: Callable[[Tensor, list[Tensor]], Tensor],
    pull: Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]],
    start: Tensor,
    inputs: list[Tensor],
) -> Tensor:
    """Return the solution that an iteration finds, recorded as one operation.

    pull: maps the solution and its cotangent to the cotangents of the inputs. If an input is recorded outside of the
    running vmap, the solution of all examples is recorded there.
    """
    if any(outer_record(x._array) is not None for x in inputs):
        level = mapping.get()
        assert isinstance(level, Level)
        x = wrap(level.array(_of_all(level, name, iterate, pull, start, inputs), mapped=True))
    else:
        with mode_set(recording=False):
            x = iterate(start, [constant_of(x) for x in inputs])

    def rule(tied: list[Tensor], outs: list[Tensor], ts: list[Tensor], _: Any) -> list[Tensor]:
        return pull(outs[0], ts[0], tied)

    (y,) = recorded(name, SavedCall([v._array for v in inputs], [x._array], tuple(v._record for v in inputs), rule))
    return y


def _of_all(
    level: Level,
    name: str,
    iterate: Callable[[Tensor, list[Tensor]], Tensor],
    pull: Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]],
    start: Tensor,
    inputs: list[Tensor],
) -> Tensor:
    """Return the solution for all examples of a level, computed and recorded outside of the level."""
    mapped = [x._array.mapped for x in inputs]
    start_mapped = start._array.mapped

    def running() -> Level:
        """Return the level, whose values the equation may use, or a similar one inside a vmap of the rule."""
        outer = mapping.get()
        return level if outer is level.outer else Level(level.size, outer)

    def iterate_all(start: Tensor, inputs: list[Tensor]) -> Tensor:
        with inside(level := running()):
            x = iterate(_example(level, start, start_mapped), _examples(level, inputs, mapped))
        return _whole(level, x)

    def pull_all(x: Tensor, t: Tensor, inputs: list[Tensor]) -> list[Tensor]:
        with inside(level := running()):
            found = pull(_example(level, x, True), _example(level, t, True), _examples(level, inputs, mapped))
        wholes = [_whole(level, s) for s in found]
        return [s if own else sum(s, axis=0) for s, own in zip(wholes, mapped, strict=True)]

    with on_level(level.outer):
        wholes = [lift_to_level(x._array.whole) for x in (start, *inputs)]
        return _solution(name, iterate_all, pull_all, wholes[0], wholes[1:])


def _example(level: Level, x: Tensor, mapped: bool) -> Tensor:
    return wrap(level.array(x, mapped))


def _examples(level: Level, xs: list[Tensor], mapped: list[bool]) -> list[Tensor]:
    return [_example(level, x, own) for x, own in zip(xs, mapped, strict=True)]


def _whole(level: Level, x: Tensor) -> Tensor:
    """Return a result from inside a level as a Tensor of all examples, along the first axis."""
    a = x._array
    if isinstance(a, Batched) and a.level is level:
        return a.spread()
    return broadcast_to(lift_to_level(x), (level.size, *x.shape))


def _named(f: Equation, part: Equation) -> Equation:
    """Give a function the name of the function that it calls, for messages."""
    part.__name__ = f.__name__
    return part


class Until(NamedTuple):
    """The stopping criterion of an iteration: no element changes by more than `scale` times the largest one, or 1.

    Attributes
    ----------
    name : str
        The function, for messages.
    scale : float
        The tolerance.
    limit : int
        The largest number of steps.
    text : str
        The error message at the limit, with a place for the last change.
    """

    name: str
    scale: float
    limit: int
    text: str

    def __call__(self, step: Callable[[Array], Sequence[Array]], x: Array) -> Array:
        """Iterate until the criterion holds.

        step: maps the current array to the next one, the largest change of an element and the largest element.
        """
        change = float("inf")
        for _ in range(self.limit):
            x, *measures = step(x)
            change, size = [float(host(wrap(m)).item()) for m in measures]
            if not isfinite(change):  # an infinite size would satisfy the criterion
                break
            if change <= self.scale * (size if size > 1 else 1.0):
                return x
        raise self.error(change)

    def error(self, change: float) -> Exception:
        """Return the error for an iteration that did not converge; change: that of its last step."""
        return RuntimeError(self.text.format(change))


def _settled(until: Until, advance: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Iterate until the criterion holds; in a captured program the iteration is one operation."""
    if x.size == 0:
        return advance(x)

    def step(a: Array) -> Sequence[Array]:
        before = wrap(a)
        y = lift_to_level(advance(before))
        return [v._array for v in (y, max(abs(y - before)), max(abs(y)))]

    return wrap(backend_of[type(x._array)].loop(until, step, x._array))


def _model(name: str, x0: Any, args: tuple[Any, ...]) -> Tensor:
    """Return a Tensor on the device of the solution: the first Tensor among the arguments, else the start."""
    tensors = [x for x in (x0, *flatten(args)[0]) if isinstance(x, Tensor)]
    return tensors[0] if tensors else as_tensor(x0, name)


def _tensors(name: str, tree: Any, like: Tensor) -> Any:
    leaves, rebuild = flatten(tree)
    return rebuild([x if isinstance(x, (Tensor, int, str)) else placed(name, x, like._array) for x in leaves])


def _checked_like(name: str, y: Any, x: Tensor) -> Tensor:
    y = placed(name, y, x._array)
    if y.shape != x.shape or y.dtype is not x.dtype:
        raise ValueError(
            f"{name}: f gives {y.dtype.name} of shape {y.shape} for an x of {x.dtype.name} and shape {x.shape}"
        )
    return y  # type: ignore[no-any-return]


def _solved(matrix: Tensor, y: Tensor) -> Tensor:
    return reshape(solve(matrix, reshape(y, (-1,))), y.shape)


def _tolerance(x: Tensor, tolerance: float | None) -> float:
    if tolerance is not None:
        return tolerance
    return 64 * (2.0**-52 if as_dtype(x.dtype).name == "float64" else 2.0**-23)
