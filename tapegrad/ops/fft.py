"""Discrete Fourier transforms.

Three operations carry them: the complex transform over any axes, and the transform of real values along one axis, there
and back. All are linear and save nothing; lengths to cut or pad to are handed to the library. Transposed, "backward"
and "forward" norms change places: the adjoint of a transform is the inverse one without its 1/n.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.dispatch import native_device
from tapegrad._engine.dtypes import as_dtype, isdtype
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed, nondifferentiable
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import axis_of, integer
from tapegrad.ops._text import SAME, documented
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import arange, default_if
from tapegrad.ops.elementwise import conj
from tapegrad.ops.shaping import broadcast_to, roll
from tapegrad.typing import ArrayLike, DTypeLike

_FLIPPED = {"backward": "forward", "forward": "backward", "ortho": "ortho"}

SPECTRUM = "The dtype is complex, of the precision of `x`."
SIGNAL = "The dtype is real, of the precision of `x`."
REAL = "Real floating."
HALF = "Real or complex floating; real values count as complex. The frequencies from 0 to n // 2."
LENGTH = (
    "The length of the result, by default 2 m - 2 for m frequencies; `x` is cut or padded with zeros to n // 2 + 1."
)
MANY = "ValueError: There are not as many lengths as axes, or lengths without axes."
SOME = "ValueError: There is no axis."
NO_COMPLEX = "TypeError: `x` is complex; on PyTorch it is a RuntimeError."
NO_AXIS = ("ValueError: An axis is not there.", "TypeError: An axis is no integer.")
_documented = partial(
    documented,
    shared={
        "x": "Real or complex floating; real values count as complex.",
        "n": "The length of the transform; that of the axis for None. `x` is cut or padded with zeros to it.",
        "axis": "The axis to transform along.",
        "s": "The length along each of the axes, which must then be named; `x` is cut or padded with zeros to it. -1 "
        "stands for the length that is, and None for all of these.",
        "axes": "The axes; all of them for None.",
        "norm": "Where the factor 1/n goes: 'backward' to the inverse transform, 'forward' to the other one, 'ortho' "
        "as 1/sqrt(n) to both.",
    },
)
_frequencies_of = partial(
    documented,
    shared={"n": "The length of the transform.", "d": "The distance of the samples."},
)

# -- the primitives --------------------------------------------------------------------------------------


def _transform(xp: Any, x: Any, sizes: tuple[int, ...], axes: tuple[int, ...], inverse: bool, norm: str) -> Any:
    if len(axes) == 1:  # half the time of fftn on small arrays
        return (xp.fft.ifft if inverse else xp.fft.fft)(x, n=sizes[0], axis=axes[0], norm=norm)
    return (xp.fft.ifftn if inverse else xp.fft.fftn)(x, s=sizes, axes=axes, norm=norm)


def _resized(xp: Any, t: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """Return a cotangent with zeros for elements that were cut off, and without padding, along axes of a shape."""
    for i in axes:
        missing = shape[i] - t.shape[i]
        if missing < 0:
            t = t[(..., slice(0, shape[i]), *(slice(None),) * (-i - 1))]
        elif missing > 0:
            wide = (*t.shape[: t.ndim + i], missing, *t.shape[t.ndim + i + 1 :])
            t = xp.concat([t, xp.zeros(wide, dtype=t.dtype, device=native_device(t))], axis=i)
    return t


def _fft_vjp(xp: Any, t: Any, x_shape: Any, sizes: Any, axes: Any, inverse: bool, norm: str) -> Any:
    return _resized(xp, _transform(xp, t, sizes, axes, not inverse, _FLIPPED[norm]), x_shape, axes)


_fft = primitive("fft", _transform, _fft_vjp)


def _weighted(xp: Any, t: Any, n: int, axis: int, weight: float) -> Any:
    """Multiply the frequencies that stand for two, all but 0 and, for an even length, the last, by a weight."""
    k = xp.arange(n // 2 + 1, device=native_device(t))
    alone = xp.astype((k == 0) | (2 * k == n), xp.float32 if t.dtype == xp.complex64 else xp.float64)
    return t * xp.reshape(weight + (1 - weight) * alone, (-1,) + (1,) * (-axis - 1))


def _rfft_vjp(xp: Any, t: Any, x_shape: Any, n: int, axis: int, norm: str) -> Any:
    x = xp.fft.irfft(_weighted(xp, t, n, axis, 0.5), n=n, axis=axis, norm=_FLIPPED[norm])
    return _resized(xp, x, x_shape, (axis,))


_rfft = primitive("rfft", lambda xp, x, n, axis, norm: xp.fft.rfft(x, n=n, axis=axis, norm=norm), _rfft_vjp)


def _irfft_vjp(xp: Any, t: Any, x_shape: Any, n: int, axis: int, norm: str) -> Any:
    z = _weighted(xp, xp.fft.rfft(t, n=n, axis=axis, norm=_FLIPPED[norm]), n, axis, 2.0)
    return _resized(xp, z, x_shape, (axis,))


def _irfft_forward(xp: Any, x: Any, n: int, axis: int, norm: str) -> Any:
    if x.shape[axis] == 0:  # NumPy reads past the end (of 2.4)
        shape = (*x.shape[:axis], 1, *x.shape[x.ndim + axis + 1 :])
        x = xp.zeros(shape, dtype=x.dtype, device=native_device(x))
    return xp.fft.irfft(x, n=n, axis=axis, norm=norm)


_irfft = primitive("irfft", _irfft_forward, _irfft_vjp)

# -- arguments -------------------------------------------------------------------------------------------


def _norm(name: str, norm: str) -> str:
    if norm not in _FLIPPED:
        raise ValueError(f"{name}: norm is 'backward', 'ortho' or 'forward', not {norm!r}")
    return norm


def _length(name: str, n: Any) -> int:
    length = integer(name, "a length", n)
    if length < 1:
        raise ValueError(f"{name}: a transform has a length of 1 or more, not {length}")
    return length


def _one_axis(name: str, x: Tensor, n: int | None, axis: int, half: bool = False) -> tuple[int, int]:
    """Return the length of a transform, by default that of its axis (of a half spectrum: 2 m - 2), and its axis."""
    place = axis_of(name, x.ndim, axis)
    if n is None:
        n = 2 * (x.shape[place] - 1) if half else x.shape[place]
    return _length(name, n), place


def _many_axes(
    name: str, x: Tensor, s: Sequence[int] | None, axes: Sequence[int] | None, half: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the lengths and axes of a transform over many axes; half: whether the last one is of a half spectrum."""
    if axes is None:
        if s is not None:
            raise ValueError(f"{name}: s={tuple(s)} needs axes= to say which axes these lengths are of")
        axes = range(-x.ndim, 0)
    places = tuple([axis_of(name, x.ndim, i) for i in axes])
    if len(set(places)) != len(places):
        raise ValueError(f"{name}: an axis is named twice in {tuple(axes)}")
    if s is not None and len(s) != len(places):
        raise ValueError(f"{name}: {len(s)} lengths in s={tuple(s)} for {len(places)} axes")
    sizes = [x.shape[i] if n == -1 else n for i, n in zip(places, s or [-1] * len(places), strict=True)]
    if half and sizes and (s is None or s[-1] == -1):
        sizes[-1] = 2 * (sizes[-1] - 1)
    return tuple([_length(name, n) for n in sizes]), places


def _as_complex(x: Tensor) -> Tensor:
    """Return real floating values as complex ones, which some libraries insist on."""
    if x.dtype.kind != "real floating":
        return x
    return astype(x, "complex128" if x.dtype.name == "float64" else "complex64")


def _fft_one(name: str, x: Any, n: int | None, axis: int, norm: str, inverse: bool) -> Tensor:
    x = as_tensor(x)
    size, place = _one_axis(name, x, n, axis)
    return _fft(_as_complex(x), (size,), (place,), inverse, _norm(name, norm))


def _fft_many(
    name: str, x: Any, s: Sequence[int] | None, axes: Sequence[int] | None, norm: str, inverse: bool
) -> Tensor:
    x = as_tensor(x)
    sizes, places = _many_axes(name, x, s, axes)
    norm = _norm(name, norm)
    x = _as_complex(x)
    return _fft(x, sizes, places, inverse, norm) if places else broadcast_to(x, x.shape)


# -- complex transforms ----------------------------------------------------------------------------------


@_documented(f"The frequencies: `x` in its shape, with length `n` along the axis. {SPECTRUM}")
def fft(x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    """Discrete Fourier transform along an axis.

    Derivative: the inverse transform of t without its 1/n.

    >>> import tapegrad as tg
    >>> tg.fft.fft(tg.asarray([1.0, 0.0]))
    Tensor([1.+0.j, 1.+0.j], dtype=complex128)
    """
    return _fft_one("fft", x, n, axis, norm, False)


@composed
@_documented(f"The signal: `x` in its shape, with length `n` along the axis. {SPECTRUM}")
def ifft(x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    """Inverse discrete Fourier transform along an axis.

    Derivative: the transform of t, times 1/n.

    >>> import tapegrad as tg
    >>> tg.fft.ifft(tg.asarray([1.0, 1.0]))
    Tensor([1.+0.j, 0.+0.j], dtype=complex128)
    """
    return _fft_one("ifft", x, n, axis, norm, True)


@composed
@_documented(f"The frequencies: `x` in its shape, with the lengths `s` along the axes. {SPECTRUM}", MANY)
def fftn(
    x: ArrayLike, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
) -> Tensor:
    """Discrete Fourier transform over axes.

    Derivative: the inverse transform of t without its 1/n, n being the product of the lengths.

    >>> import tapegrad as tg
    >>> tg.fft.fftn(tg.ones((2, 2)))
    Tensor([[4.+0.j, 0.+0.j],
            [0.+0.j, 0.+0.j]], dtype=complex128)
    """
    return _fft_many("fftn", x, s, axes, norm, False)


@composed
@_documented(f"The signal: `x` in its shape, with the lengths `s` along the axes. {SPECTRUM}", MANY)
def ifftn(
    x: ArrayLike, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
) -> Tensor:
    """Inverse discrete Fourier transform over axes.

    Derivative: the transform of t, times 1/n, n being the product of the lengths.

    >>> import tapegrad as tg
    >>> tg.fft.ifftn(tg.ones((1, 2)))
    Tensor([[1.+0.j, 0.+0.j]], dtype=complex128)
    """
    return _fft_many("ifftn", x, s, axes, norm, True)


# -- transforms of real values -----------------------------------------------------------------------------


@_documented(
    f"The frequencies from 0 to n // 2 along the axis; the others are their conjugates. {SPECTRUM}", NO_COMPLEX, x=REAL
)
def rfft(x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    """Discrete Fourier transform of real values along an axis.

    Derivative: that of `fft`, for t with zeros for the frequencies left out, its real part.

    >>> import tapegrad as tg
    >>> tg.fft.rfft(tg.asarray([1.0, 0.0, 0.0]))
    Tensor([1.+0.j, 1.+0.j], dtype=complex128)
    """
    x = as_tensor(x)
    size, place = _one_axis("rfft", x, n, axis)
    return _rfft(x, size, place, _norm("rfft", norm))


@_documented(f"Real values, `n` along the axis. {SIGNAL}", x=HALF, n=LENGTH)
def irfft(x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    """Inverse of `rfft`: real values of half their frequencies.

    Imaginary parts at frequency 0, and at n / 2 for even n, count as zero. Derivative: the `rfft` of t times 1/n, and
    twice that for frequencies that have a conjugate.

    >>> import tapegrad as tg
    >>> tg.fft.irfft(tg.asarray([1.0, 1.0]), n=3)
    Tensor([1., 0., 0.])
    """
    x = as_tensor(x)
    size, place = _one_axis("irfft", x, n, axis, half=True)
    return _irfft(_as_complex(x), size, place, _norm("irfft", norm))


@composed
@_documented(
    f"The frequencies over the axes, along the last one those from 0 to s[-1] // 2. {SPECTRUM}",
    MANY,
    SOME,
    NO_COMPLEX,
    x=REAL,
)
def rfftn(
    x: ArrayLike, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
) -> Tensor:
    """Discrete Fourier transform of real values over axes.

    Composed of `rfft` along the last axis and `fftn` over the others.

    >>> import tapegrad as tg
    >>> tg.fft.rfftn(tg.ones((2, 3)))
    Tensor([[6.+0.j, 0.+0.j],
            [0.+0.j, 0.+0.j]], dtype=complex128)
    """
    x = as_tensor(x)
    sizes, places = _some_axes("rfftn", *_many_axes("rfftn", x, s, axes))
    half = _rfft(x, sizes[-1], places[-1], _norm("rfftn", norm))
    return _fft(half, sizes[:-1], places[:-1], False, norm) if places[1:] else half


@composed
@_documented(
    f"Real values, of the lengths `s` along the axes. {SIGNAL}",
    MANY,
    SOME,
    x="Real or complex floating; real values count as complex. The first half of the frequencies along the last axis.",
    s=(
        "The length of the result along each of the axes, which must then be named; those of `x` "
        "for None, and 2 m - 2 for m frequencies along the last."
    ),
)
def irfftn(
    x: ArrayLike, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
) -> Tensor:
    """Inverse of `rfftn`: real values of half their frequencies.

    Composed of `ifftn` over the other axes and `irfft` along the last.

    >>> import tapegrad as tg
    >>> tg.fft.irfftn(tg.asarray([[4.0, 0.0], [0.0, 0.0]]))
    Tensor([[1., 1.],
            [1., 1.]])
    """
    x = as_tensor(x)
    sizes, places = _some_axes("irfftn", *_many_axes("irfftn", x, s, axes, half=True))
    norm, z = _norm("irfftn", norm), _as_complex(x)
    if places[1:]:
        z = _fft(z, sizes[:-1], places[:-1], True, norm)
    return _irfft(z, sizes[-1], places[-1], norm)


def _some_axes(name: str, sizes: tuple[int, ...], places: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not places:
        raise ValueError(f"{name}: at least one axis is needed")
    return sizes, places


@composed
@_documented(
    f"Real values, `n` along the axis. {SIGNAL}",
    x="Real or complex floating; real values count as complex. The first half of a signal with Hermitian symmetry.",
    n=("The length of the result, by default 2 m - 2 for m values; `x` is cut or padded with zeros to n // 2 + 1."),
)
def hfft(x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    """Discrete Fourier transform of a signal with Hermitian symmetry.

    Composed of `irfft` and `conj`.

    >>> import tapegrad as tg
    >>> tg.fft.hfft(tg.asarray([1.0, 1.0]), n=3)
    Tensor([3., 0., 0.])
    """
    x = as_tensor(x)
    size, place = _one_axis("hfft", x, n, axis, half=True)
    return _irfft(conj(_as_complex(x)), size, place, _FLIPPED[_norm("hfft", norm)])


@composed
@_documented(f"The first half of the signal, n // 2 + 1 values along the axis. {SPECTRUM}", NO_COMPLEX, x=REAL)
def ihfft(x: ArrayLike, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    """Inverse of `hfft`: the first half of a signal with Hermitian symmetry.

    Composed of `rfft` and `conj`.

    >>> import tapegrad as tg
    >>> tg.fft.ihfft(tg.asarray([3.0, 0.0, 0.0]))
    Tensor([1.-0.j, 1.-0.j], dtype=complex128)
    """
    x = as_tensor(x)
    size, place = _one_axis("ihfft", x, n, axis)
    return conj(_rfft(x, size, place, _FLIPPED[_norm("ihfft", norm)]))


# -- frequencies and their order -----------------------------------------------------------------------------


def _frequencies(name: str, start: int, stop: int, n: int, d: float, dtype: Any, device: str | None) -> Tensor:
    to = as_dtype(default_if(dtype, device))
    if not isdtype(to, "real floating"):
        raise TypeError(f"{name}: frequencies are real numbers: use a floating dtype, not {to.name}")
    return arange(start, stop, dtype=to, device=device) / (n * d)


@nondifferentiable
@_frequencies_of("The frequencies 0, 1, ..., -2, -1, over d n: a vector.")
def fftfreq(n: int, /, *, d: float = 1.0, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Frequencies of the result of `fft`.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.fft.fftfreq(4)
    Tensor([ 0.  ,  0.25, -0.5 , -0.25])
    """
    n = _length("fftfreq", n)
    return ifftshift(_frequencies("fftfreq", -(n // 2), (n + 1) // 2, n, d, dtype, device))


@nondifferentiable
@_frequencies_of("The frequencies 0, 1, ..., n // 2, over d n: a vector.")
def rfftfreq(n: int, /, *, d: float = 1.0, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Frequencies of the result of `rfft`.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.fft.rfftfreq(4)
    Tensor([0.  , 0.25, 0.5 ])
    """
    n = _length("rfftfreq", n)
    return _frequencies("rfftfreq", 0, n // 2 + 1, n, d, dtype, device)


@composed
@_documented(f"The elements of `x` in its shape. {SAME}", *NO_AXIS)
def fftshift(x: ArrayLike, /, *, axes: int | Sequence[int] | None = None) -> Tensor:
    """Move frequency 0 from the start to the middle along axes.

    Composed of `roll`.

    >>> import tapegrad as tg
    >>> tg.fft.fftshift(tg.asarray([0.0, 1.0, -1.0]))
    Tensor([-1.,  0.,  1.])
    """
    return _shift("fftshift", x, axes, 1)


@composed
@_documented(f"The elements of `x` in its shape. {SAME}", *NO_AXIS)
def ifftshift(x: ArrayLike, /, *, axes: int | Sequence[int] | None = None) -> Tensor:
    """Undo `fftshift`: move frequency 0 from the middle to the start along axes.

    Composed of `roll`.

    >>> import tapegrad as tg
    >>> tg.fft.ifftshift(tg.asarray([-1.0, 0.0, 1.0]))
    Tensor([ 0.,  1., -1.])
    """
    return _shift("ifftshift", x, axes, -1)


def _shift(name: str, x: Any, axes: int | Sequence[int] | None, sign: int) -> Tensor:
    x = as_tensor(x)
    if axes is None:
        axes = range(x.ndim)
    places = tuple([axis_of(name, x.ndim, i) for i in ((axes,) if isinstance(axes, int) else axes)])
    return roll(x, tuple([sign * (x.shape[i] // 2) for i in places]), axis=places)
