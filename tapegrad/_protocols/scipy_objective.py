"""Objectives for scipy.optimize: functions of one flat float64 vector, made from one of nested containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tapegrad._compile.function import Compiled
from tapegrad._engine.dispatch import backend_of, find_backend, untrace
from tapegrad._engine.dtypes import isdtype
from tapegrad._engine.mode import mode_set
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import flatten
from tapegrad._transforms.forward import jvp_as, linearize_as
from tapegrad._transforms.reverse import check_function, device_for_host, grad_as, value_and_grad_as
from tapegrad.ops.creation import asarray, on_device

Vector = np.ndarray[Any, Any]


class Objective(Mapping[str, Any]):
    """A function to minimise, as `scipy_objective` makes it; as a mapping, keyword arguments of `minimize`.

    Parameters
    ----------
    f : callable
        The function.
    x0 : ArrayLike or tree
        Where to start.
    compile : bool, default False
        Whether to compile it.

    Attributes
    ----------
    x0 : numpy.ndarray
        The start as a flat float64 vector.

    Examples
    --------
    >>> import tapegrad as tg
    >>> objective = tg.scipy_objective(lambda p: tg.sum(p**3), tg.asarray([1.0, 2.0]))
    >>> list(objective)
    ['fun', 'x0', 'jac']
    """

    def __init__(self, f: Callable[..., Any], x0: Any, compile: bool = False) -> None:
        check_function("scipy_objective", f, form="(f, x0)")
        options: tuple[Any, ...] = ()
        if isinstance(f, Compiled):  # compile the gradient of the plain function, not a gradient that calls f
            compile, (f, *options) = True, f.recipe()  # type: ignore[assignment]
        self._what = f"scipy_objective of {getattr(f, '__name__', 'the function')}"
        leaves, self._rebuild = flatten(x0)
        if not leaves:
            raise ValueError(f"{self._what}: x0 holds no numbers to find")
        device = device_for_host(leaves)
        self._leaves = [self._leaf(x, device) for x in leaves]
        self._kinds = [type(x) for x in leaves]
        value_and_grad = value_and_grad_as("scipy_objective", f)
        self._grad: Callable[..., Any] = grad_as("scipy_objective", f)
        self._compiled = compile

        def product(tree: Any, direction: Any, *args: Any) -> Any:
            return jvp_as("scipy_objective", lambda tree: self._grad(tree, *args), (tree,), (direction,))[1]

        self._value_and_grad = Compiled(value_and_grad, *options) if compile else value_and_grad
        self._product = Compiled(product, *options) if compile else product
        self._slope: tuple[Vector, tuple[Any, ...], Callable[[Any], Any]] | None = None
        self._begun = False  # whether a value and gradient were finite before
        self.x0 = _flat(self._leaves)

    def _leaf(self, x: Any, device: str | None) -> Tensor:
        """Return a leaf of the start as a constant Tensor; device: for a leaf of the host."""
        if not isinstance(x, (Tensor, float)) and find_backend(x) is None:
            raise TypeError(f"{self._what}: x0 must hold arrays, Tensors or floats, not {type(x).__name__}")
        leaf: Tensor = x.detach() if isinstance(x, Tensor) else on_device(x, device)
        if not isdtype(leaf.dtype, "real floating"):
            fix = "split it into tapegrad.real(z) and tapegrad.imag(z)"
            if not isdtype(leaf.dtype, "complex floating"):
                fix = "convert it with tapegrad.astype(x, tapegrad.float64)"
            raise TypeError(f"{self._what}: x0 holds an array of {leaf.dtype.name}, which is not real floating: {fix}")
        return leaf

    def _tensors(self, x: Any) -> list[Tensor]:
        """Split a vector into Tensors of the shapes, dtypes and devices of the start's leaves."""
        x = np.asarray(x)
        if x.shape != self.x0.shape:
            raise ValueError(f"{self._what}: a vector of shape {x.shape}, but x0 holds {self.x0.size} numbers")
        out, at = [], 0
        for leaf in self._leaves:
            part = np.reshape(x[at : at + leaf.size], leaf.shape)
            out.append(asarray(part, dtype=leaf.dtype, device=leaf.device))
            at += leaf.size
        return out

    def unflatten(self, x: Any) -> Any:
        """Return a vector in the structure of the start.

        Parameters
        ----------
        x : ArrayLike
            A flat float64 vector, as `x0` is.

        Returns
        -------
        tree
            Tensors, arrays and floats where the start had them.

        Raises
        ------
        ValueError
            The vector has another length than `x0`.

        Examples
        --------
        >>> import tapegrad as tg
        >>> objective = tg.scipy_objective(lambda p: tg.sum(p**3), tg.asarray([1.0, 2.0]))
        >>> objective.unflatten([3.0, 4.0])
        Tensor([3., 4.])
        """
        parts: list[Any] = []
        for part, kind in zip(self._tensors(x), self._kinds, strict=True):
            a = part._array
            if kind is Tensor:
                parts.append(part)
            elif issubclass(kind, float):
                parts.append(part.item())
            else:
                parts.append(
                    np.array(_host(part)) if issubclass(kind, np.ndarray) else untrace(backend_of[type(a)].copy(a))
                )
        return self._rebuild(parts)

    def fun(self, x: Any, *args: Any) -> tuple[float, Vector]:
        """Return the value and the gradient.

        Where they are not finite they are returned as they are, except at the start: a line search or trust region may
        step too far and come back.

        Parameters
        ----------
        x : ArrayLike
            A flat float64 vector, as `x0` is.
        *args : object
            Further arguments of the function, as in `minimize(..., args=)`.

        Returns
        -------
        tuple of float and numpy.ndarray
            The value, and the gradient as a flat float64 vector.

        Raises
        ------
        FloatingPointError
            They are not finite at the start.
        ValueError
            The vector has another length than `x0`, or the function gives other than one number.

        Examples
        --------
        >>> import tapegrad as tg
        >>> objective = tg.scipy_objective(lambda p: tg.sum(p**3), tg.asarray([1.0, 2.0]))
        >>> objective.fun(objective.x0)
        (9.0, array([ 3., 12.]))
        """
        self._slope = None  # other values that the function reads may have changed
        with mode_set(recording=False):
            value, gradient = self._value_and_grad(self._rebuild(list(self._tensors(x))), *args)
            y, g = _host(asarray(value)).item(), _flat(flatten(gradient)[0])  # of one element, of whatever shape
        bad = np.flatnonzero(~np.isfinite(g))
        finite = np.isfinite(y) and not bad.size
        if not finite and (not self._begun or np.array_equal(x, self.x0)):
            found = f"is {y}" if not np.isfinite(y) else f"has a gradient that is not finite, first in element {bad[0]}"
            raise FloatingPointError(
                f"{self._what}: it {found}, at a vector with elements from {np.min(x):g} to {np.max(x):g}: start "
                "nearer, pass bounds= to minimize, or find the operation under tapegrad.debug()"
            )
        self._begun = self._begun or bool(finite)
        return y, g

    def hessp(self, x: Any, p: Any, *args: Any) -> Vector:
        """Return the Hessian times a vector.

        Products at one `x` share one recording until `fun` is called. Compiled, each is a call of one program.

        Parameters
        ----------
        x : ArrayLike
            A flat float64 vector, as `x0` is.
        p : ArrayLike
            The vector to multiply with.
        *args : object
            Further arguments of the function, as in `minimize(..., args=)`.

        Returns
        -------
        numpy.ndarray
            The product, a flat float64 vector.

        Raises
        ------
        ValueError
            A vector has another length than `x0`.

        Examples
        --------
        >>> import tapegrad as tg
        >>> objective = tg.scipy_objective(lambda p: tg.sum(p**3), tg.asarray([1.0, 2.0]))
        >>> objective.hessp(objective.x0, [1.0, 1.0])
        array([ 6., 12.])
        """
        known = self._slope
        with mode_set(recording=False):
            if self._compiled:
                tree, direction = (self._rebuild(list(self._tensors(v))) for v in (x, p))
                return _flat(flatten(self._product(tree, direction, *args))[0])
            if (
                known is None
                or not np.array_equal(known[0], x)
                or len(known[1]) != len(args)
                or any(a is not b for a, b in zip(known[1], args, strict=True))
            ):
                tree = self._rebuild(list(self._tensors(x)))
                _, slope = linearize_as("scipy_objective", lambda tree: self._grad(tree, *args), tree)
                known = self._slope = (np.array(x), args, slope)
            return _flat(flatten(known[2](self._rebuild(list(self._tensors(p)))))[0])

    def __getitem__(self, key: str) -> Any:
        return {"fun": self.fun, "x0": self.x0, "jac": True}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("fun", "x0", "jac"))

    def __len__(self) -> int:
        return 3


def scipy_objective(f: Callable[..., Any], x0: Any, *, compile: bool = False) -> Objective:
    """Return a function and a start as `scipy.optimize` takes them.

        objective = tg.scipy_objective(f, x0)
        result = scipy.optimize.minimize(**objective, method="Newton-CG", hessp=objective.hessp)
        solution = objective.unflatten(result.x)

    SciPy sees one float64 vector of all numbers of `x0`; `f` sees their structure, shapes, dtypes and devices. A
    method that takes the Hessian is given `hessp`; the others would warn of it.

    A call of the result raises TypeError or ValueError if `f` does not return one real number,
    FloatingPointError if that or its gradient is not finite at the start. Elsewhere SciPy gets the NaN: most methods
    step back from it, or report that they did not succeed. BFGS, CG, Newton's and trust region methods step back from
    infinity more often: `tg.where(tg.isnan(y), tg.inf, y)`.

    Parameters
    ----------
    f : callable
        A function of one argument, and of those in `args=` of `minimize`, that returns one number.
    x0 : ArrayLike or tree
        Where to start: an array of any library and device, a Tensor, a float, or nested containers of them.
    compile : bool, default False
        Whether value and gradient, and products with the Hessian, are captured and replayed, as by `tapegrad.compile`;
        things that change from call to call go into `args=`, as Tensors or arrays. So are those of an `f` that is a
        compiled function, with its options.

    Returns
    -------
    Objective
        A mapping with `fun` (value and gradient), `x0` and `jac=True`, with the methods `hessp` and `unflatten`.

    Raises
    ------
    TypeError
        `f` is no function, or a leaf of `x0` is not real floating.
    ValueError
        `x0` has no leaves.

    Examples
    --------
    >>> import tapegrad as tg
    >>> objective = tg.scipy_objective(lambda p: tg.sum(p["a"] ** 2) * p["b"], {"a": tg.asarray([1.0, 2.0]), "b": 3.0})
    >>> objective.fun(objective.x0)
    (15.0, array([ 6., 12.,  5.]))
    >>> objective.unflatten([0.0, 1.0, 2.0])
    {'a': Tensor([0., 1.]), 'b': 2.0}
    """
    return Objective(f, x0, compile)


def _host(x: Tensor) -> Vector:
    return np.asarray(x.detach().to_device("cpu"))


def _flat(leaves: list[Any]) -> Vector:
    return np.concatenate([np.ravel(_host(asarray(x))).astype(np.float64) for x in leaves])
