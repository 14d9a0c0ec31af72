"""Convolutions, correlations and short-time Fourier transforms of signals."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.dispatch import backend_of, namespace_of
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import axis_of, integer
from tapegrad.ops._text import documented
from tapegrad.ops.binary import divide, maximum, multiply
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.convolution import conv
from tapegrad.ops.creation import arange, ones, zeros
from tapegrad.ops.dtypes import result_type
from tapegrad.ops.elementwise import conj
from tapegrad.ops.fft import fft, fftn, ifft, ifftn, irfft, irfftn, rfft, rfftn
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.shaping import broadcast_shapes, concat, flip, moveaxis, reshape
from tapegrad.typing import ArrayLike, Axis

_FEW = 32  # taps of a kernel up to which products are faster than transforms, and more precise
_SMALLEST = 1e-11  # of the sum of squares of windows over a sample, below which it cannot be found again
_documented = partial(
    documented,
    shared={
        "x1": "The signal, of a numeric dtype.",
        "x2": "The kernel, with as many axes; along the axes that are not named, the shapes broadcast.",
        "mode": (
            "'full' for all places where the two overlap, n1 + n2 - 1 of them; 'same' for the middle of these, as many "
            "as `x1` has; 'valid' for those where one lies within the other."
        ),
        "axes": "The axes to go along; all for None.",
    },
)
_CONVOLVED = "The {}, in the lengths of the mode along the axes. {}"
_PROMOTED = "The dtype is that of the operands, promoted."
_MODES = (
    "ValueError: The numbers of axes differ, an axis has length 0, in mode 'valid' neither operand lies within the "
    "other, or the mode is another one."
)


# -- convolution -----------------------------------------------------------------------------------------


def _operands(name: str, x1: Any, x2: Any, mode: str, axes: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return operands of one dtype with the axes to go along at their ends, and these axes."""
    x1, x2 = as_tensors(name, x1, x2)
    if mode not in ("full", "same", "valid"):
        raise ValueError(f"{name}: mode is 'full', 'same' or 'valid', not {mode!r}")
    if x1.ndim != x2.ndim:
        raise ValueError(f"{name}: {x1.shape} and {x2.shape} have different numbers of axes: add some of length 1")
    named = range(-x1.ndim, 0) if axes is None else axes if isinstance(axes, (tuple, list)) else (axes,)
    places = tuple(sorted(axis_of(name, x1.ndim, i) for i in named))
    if len(set(places)) != len(places) or not places:
        raise ValueError(f"{name}: axes {axes} of {x1.shape} name one twice, or none")
    lengths = [(x1.shape[i], x2.shape[i]) for i in places]
    if any(0 in pair for pair in lengths):
        raise ValueError(f"{name}: there is nothing along an axis of {x1.shape} or {x2.shape}")
    if mode == "valid" and not (all(m >= n for m, n in lengths) or all(m <= n for m, n in lengths)):
        raise ValueError(f"{name}: mode 'valid': of {x1.shape} and {x2.shape} neither lies within the other")
    dtype = result_type(x1, x2)
    if dtype.kind == "bool":
        raise TypeError(f"{name}: booleans have no sums: give numbers, as with tapegrad.astype(x, 'int64')")
    last = tuple(range(-len(places), 0))
    x1, x2 = (astype(x, dtype, copy=False) for x in (x1, x2))
    return moveaxis(x1, places, last), moveaxis(x2, places, last), places


def _result(full: Tensor, x1: Tensor, x2: Tensor, mode: str, places: tuple[int, ...]) -> Tensor:
    """Return the part of a full convolution that a mode wants, with the axes where they were."""
    d = len(places)
    key: list[Any] = [...]
    for m, n in zip(x1.shape[-d:], x2.shape[-d:], strict=True):
        start = {"full": 0, "same": (n - 1) // 2, "valid": min(m, n) - 1}[mode]
        length = {"full": m + n - 1, "same": m, "valid": max(m, n) - min(m, n) + 1}[mode]
        key.append(slice(start, start + length))
    out = full if mode == "full" else full[tuple(key)]
    return moveaxis(out, tuple(range(-d, 0)), places)


def _by_transforms(x1: Tensor, x2: Tensor, d: int) -> Tensor:
    """Return the full convolution along the last axes, as a product of Fourier transforms."""
    dtype = x1.dtype
    if dtype.itemsize == 2 and "floating" in dtype.kind:  # which has too few digits
        x1, x2 = astype(x1, "float32"), astype(x2, "float32")
    axes, size = tuple(range(-d, 0)), [m + n - 1 for m, n in zip(x1.shape[-d:], x2.shape[-d:], strict=True)]
    fast = tuple(_fast_length(n) for n in size)
    if "complex" in dtype.kind:
        out = ifftn(multiply(fftn(x1, s=fast, axes=axes), fftn(x2, s=fast, axes=axes)), s=fast, axes=axes)
    else:
        out = irfftn(multiply(rfftn(x1, s=fast, axes=axes), rfftn(x2, s=fast, axes=axes)), s=fast, axes=axes)
    return astype(out[(..., *[slice(0, n) for n in size])], dtype, copy=False)


def _fast_length(n: int) -> int:
    """Return the least length from n on whose prime factors are 2, 3 and 5."""
    best = 1 << (n - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-n // three)
            best = min(best, three << (rest - 1).bit_length())
            three *= 3
        five *= 5
    return best


def _by_products(x1: Tensor, x2: Tensor, d: int) -> Tensor:
    """Return the full convolution along the last axes: windows of the longer operand, times the other one reversed."""
    if prod(x1.shape[-d:]) < prod(x2.shape[-d:]):
        x1, x2 = x2, x1
    space, size = x1.shape[-d:], x2.shape[-d:]
    if "floating" not in x1.dtype.kind or d > 3 or prod(x2.shape[:-d]) != 1 or not x1.size:
        return _by_gathering(x1, x2, d)
    taps = reshape(flip(x2, axis=tuple(range(-d, 0))), (1, 1, *size))
    out = conv(reshape(x1, (prod(x1.shape[:-d]), 1, *space)), taps, padding=tuple([n - 1 for n in size]))
    return reshape(out, (*x1.shape[:-d], *out.shape[2:]))


def _by_gathering(x1: Tensor, x2: Tensor, d: int) -> Tensor:
    """Return the full convolution of any axes, kernels and dtypes: windows are copied, and one product is taken."""
    key: list[Any] = [...]
    for i in range(-d, 0):
        k = x2.shape[i]
        edge = zeros((*x1.shape[:i], k - 1, *x1.shape[x1.ndim + i + 1 :]), dtype=x1.dtype, device=x1.device)
        x1 = concat([edge, x1, edge], axis=i)
        n = x1.shape[i] - k + 1
        first, within = arange(n, device=x1.device), arange(k, device=x1.device)
        j = i + d
        first = reshape(first, (n,) + (1,) * (2 * d - 1 - j))
        key.append(first + reshape(within, (k,) + (1,) * (d - 1 - j)))
    windows = x1[tuple(key)]
    shape = windows.shape[: windows.ndim - d]
    windows = reshape(windows, (*shape[: len(shape) - d], prod(shape[len(shape) - d :]), prod(x2.shape[-d:])))
    taps = reshape(flip(x2, axis=tuple(range(-d, 0))), (*x2.shape[: x2.ndim - d], prod(x2.shape[-d:]), 1))
    lead = broadcast_shapes(x1.shape[: x1.ndim - d], x2.shape[: x2.ndim - d])
    return reshape(matmul(windows, taps), (*lead, *shape[len(shape) - d :]))


def _convolved(name: str, x1: Any, x2: Any, mode: str, axes: Any, method: str, reverse: bool) -> Tensor:
    if method not in ("auto", "direct", "fft"):
        raise ValueError(f"{name}: method is 'auto', 'direct' or 'fft', not {method!r}")
    x1, x2, places = _operands(name, x1, x2, mode, axes)
    d = len(places)
    if reverse:
        x2 = conj(flip(x2, axis=tuple(range(-d, 0))))
    few = min(prod(x.shape[-d:]) for x in (x1, x2)) <= _FEW
    exact = "floating" not in x1.dtype.kind
    if method == "fft" and exact:
        raise TypeError(f"{name}: method 'fft' rounds, so it takes no integers: give floats, or method='direct'")
    by = _by_products if method == "direct" or (method == "auto" and (few or exact)) else _by_transforms
    return _result(by(x1, x2, d), x1, x2, mode, places)


_METHOD = (
    "'direct' for sums of products; 'fft' for products of Fourier transforms, rounded relative to the greatest value; "
    f"'auto' for the first with integers and where one operand has up to {_FEW} elements, else the second."
)


@composed
@_documented(
    _CONVOLVED.format("sums", _PROMOTED),
    _MODES,
    "TypeError: The operands are booleans, or integers with method 'fft'.",
    method=_METHOD,
)
def convolve(x1: ArrayLike, x2: ArrayLike, /, *, mode: str = "full", method: str = "auto", axes: Axis = None) -> Tensor:
    """Convolution of arrays of any number of axes, as `scipy.signal.convolve`: sums of x1[i] x2[k - i] over i.

    Composed of `conv`, or of Fourier transforms; the derivative in an operand is a correlation of t with
    the other.

    >>> import tapegrad as tg
    >>> tg.signal.convolve(tg.asarray([1.0, 2.0, 3.0]), tg.asarray([1.0, 10.0]))
    Tensor([ 1., 12., 23., 30.])
    """
    return _convolved("convolve", x1, x2, mode, axes, method, False)


@composed
@_documented(
    _CONVOLVED.format("sums", _PROMOTED),
    _MODES,
    "TypeError: The operands are booleans, or integers with method 'fft'.",
    x2="The other signal, with as many axes; complex values are conjugated. Axes that are not named broadcast.",
    method=_METHOD,
)
def correlate(
    x1: ArrayLike, x2: ArrayLike, /, *, mode: str = "full", method: str = "auto", axes: Axis = None
) -> Tensor:
    """Cross-correlation of arrays of any number of axes, as `scipy.signal.correlate`: sums of x1[i + k] conj(x2[i]).

    Composed as `convolve` is, of which it is that with `x2` reversed and conjugated.

    >>> import tapegrad as tg
    >>> tg.signal.correlate(tg.asarray([1.0, 2.0, 3.0]), tg.asarray([0.0, 1.0, 0.5]), mode="valid")
    Tensor([3.5])
    """
    return _convolved("correlate", x1, x2, mode, axes, method, True)


@composed
@_documented(_CONVOLVED.format("sums", f"{_PROMOTED[:-1]}; for integers the default floating one."), _MODES)
def fftconvolve(x1: ArrayLike, x2: ArrayLike, /, *, mode: str = "full", axes: Axis = None) -> Tensor:
    """Convolution by Fourier transforms, as `scipy.signal.fftconvolve`; integers become floats.

    Composed of the transforms of `tapegrad.fft`, padded to lengths of small prime factors.

    >>> import tapegrad as tg
    >>> tg.signal.fftconvolve(tg.ones(3), tg.ones(3)).shape
    (5,)
    """
    x1, x2 = as_tensors("fftconvolve", x1, x2)
    return _convolved("fftconvolve", as_floats(x1), as_floats(x2), mode, axes, "fft", False)


# -- short-time Fourier transforms -----------------------------------------------------------------------

_WINDOW = (
    "The window, a vector of at most `frame` numbers, which is put in the middle of `frame` zeros; ones for None. "
    "Windows are those of `scipy.signal.get_window`."
)
_HOP = "The distance between frames; a quarter of `frame` for None."
_CENTER = "Whether frame i is centred on sample i hop, the signal being continued by reflection at its ends."
_NORMALIZED = "Whether to divide by the square root of `frame`, which makes each transform keep the sum of squares."


def _settings(name: str, x: Tensor, size: Any, hop: Any, window: Any) -> tuple[int, int, Tensor | None]:
    """Return the length of a frame, the distance of frames, and the window in that length."""
    size = integer(name, "the length of a frame", size)
    hop = max(size // 4, 1) if hop is None else integer(name, "hop", hop)
    if size < 1 or not 1 <= hop <= size:
        raise ValueError(f"{name}: a frame has 1 sample or more, and hop is 1 to {max(size, 1)}, not {size} and {hop}")
    if window is None:
        return size, hop, None
    _, window = as_tensors(name, x, window)
    if window.ndim != 1 or window.shape[0] > size:
        raise ValueError(f"{name}: a window is a vector of at most {size} numbers, not of shape {window.shape}")
    missing = size - window.shape[0]
    if missing:
        edges = [zeros((n,), dtype=window.dtype, device=window.device) for n in (missing // 2, missing - missing // 2)]
        window = concat([edges[0], window, edges[1]], axis=0)
    return size, hop, window


def _frames(x: Tensor, size: int, hop: int) -> Tensor:
    """Return the frames (..., count, size) of signals (..., n): pieces of length hop, joined."""
    count, parts = 1 + (x.shape[-1] - size) // hop, -(-size // hop)
    n = (count + parts - 1) * hop
    if n > x.shape[-1]:
        rest = zeros((*x.shape[:-1], n - x.shape[-1]), dtype=x.dtype, device=x.device)
        x = concat([x, rest], axis=-1)
    rows = reshape(x[..., :n], (*x.shape[:-1], count + parts - 1, hop))
    return concat([rows[..., i : i + count, :] for i in range(parts)], axis=-1)[..., :size]


def _overlapped(frames: Tensor, hop: int) -> Tensor:
    """Return the sums (..., n) of frames (..., count, size) at their places: the transpose of `_frames`."""
    *lead, count, size = frames.shape
    parts = -(-size // hop)

    def nothing(rows: int, columns: int) -> Tensor:
        return zeros((*lead, rows, columns), dtype=frames.dtype, device=frames.device)

    frames = concat([frames, nothing(count, parts * hop - size)], axis=-1)
    total = None
    for i in range(parts):
        piece = frames[..., i * hop : (i + 1) * hop]
        piece = concat([nothing(i, hop), piece, nothing(parts - 1 - i, hop)], axis=-2)
        total = piece if total is None else total + piece
    assert total is not None
    return reshape(total, (*lead, (count + parts - 1) * hop))[..., : (count - 1) * hop + size]


@composed
@documented(
    "The transforms (..., frequencies, frames): frame // 2 + 1 frequencies of real signals, else `frame`. The dtype is "
    "complex, of the precision of `x`.",
    "ValueError: The signal is shorter than a frame, or with `center` than half of one; or `frame`, `hop` or `window` "
    "do not fit.",
    "TypeError: `frame` or `hop` is no integer.",
    x="Signals (..., n), real or complex.",
    frame="The length of a frame.",
    hop=_HOP,
    window=_WINDOW,
    center=_CENTER,
    normalized=_NORMALIZED,
)
def stft(
    x: ArrayLike,
    frame: int,
    /,
    *,
    hop: int | None = None,
    window: ArrayLike | None = None,
    center: bool = True,
    normalized: bool = False,
) -> Tensor:
    """Short-time Fourier transform: that of each of the overlapping frames of a signal, times a window.

    The numbers are those of `torch.stft`. Composed of slices, `concat` and `fft.rfft`, or `fft.fft` for complex values.

    >>> import tapegrad as tg
    >>> tg.signal.stft(tg.ones(16), 8, hop=4).shape
    (5, 5)
    """
    if window is not None:
        x, window = as_tensors("stft", x, window)
    x = as_floats(x)
    if x.ndim == 0:
        raise ValueError("stft: a signal has an axis, and this is one number")
    size, hop, window = _settings("stft", x, frame, hop, window)
    half, n = size // 2, x.shape[-1]
    if n < (half + 1 if center else size):
        least = f"with center more than {half}" if center else f"at least {size}"
        raise ValueError(f"stft: a signal of {n} samples is too short for frames of {size}: {least} are needed")
    if center and half:
        before, behind = flip(x[..., 1 : half + 1], axis=-1), flip(x[..., n - half - 1 : n - 1], axis=-1)
        x = concat([before, x, behind], axis=-1)
    frames = _frames(x, size, hop)
    frames = frames if window is None else multiply(frames, window)
    transform = fft if "complex" in frames.dtype.kind else rfft
    return matrix_transpose(transform(frames, norm="ortho" if normalized else "backward"))


@composed
@documented(
    "The signals (..., n): `length` samples, or as many as the frames cover, with `center` without the halves of "
    "frames at both ends. The dtype is real, of the precision of `x`. If `x` has `frame` frequencies, it is complex.",
    "ValueError: The number of frequencies fits no frame of `frame`, the windows leave out a sample, or `frame`, `hop` "
    "or `window` do not fit.",
    "TypeError: `frame`, `hop` or `length` is no integer.",
    x="Transforms (..., frequencies, frames), as of `stft`.",
    frame="The length of a frame.",
    hop=_HOP,
    window=_WINDOW,
    center="Whether `stft` was called with it.",
    normalized="Whether `stft` was called with it.",
    onesided=(
        "Whether these are transforms of a real signal, with frame // 2 + 1 frequencies; for None their number "
        "tells, and where `frame` is 1 or 2 they are."
    ),
    length="The number of samples of the signal; zeros stand where no frame covers it.",
)
def istft(
    x: ArrayLike,
    frame: int,
    /,
    *,
    hop: int | None = None,
    window: ArrayLike | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
) -> Tensor:
    """Signal of which `stft` gives these transforms, or the nearest one in the sense of least squares.

    Griffin and Lim, "Signal estimation from modified short-time Fourier transform" (1984): the sum of the frames times
    the window, over the sum of its squares. The numbers are those of `torch.istft`. Composed of `fft.irfft` or
    `fft.ifft`, slices and sums.

    >>> import tapegrad as tg
    >>> x = tg.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    >>> tg.signal.istft(tg.signal.stft(x, 4), 4)
    Tensor([1., 2., 3., 4., 5., 6., 7., 8.])
    """
    if window is not None:
        x, window = as_tensors("istft", x, window)
    x = as_tensor(x)
    if x.ndim < 2 or x.shape[-1] == 0:
        raise ValueError(f"istft: transforms have shape (..., frequencies, frames), not {x.shape}")
    size, hop, window = _settings("istft", x, frame, hop, window)
    norm, frequencies, count = "ortho" if normalized else "backward", *x.shape[-2:]
    onesided = frequencies == size // 2 + 1 if onesided is None else onesided
    if frequencies != (size // 2 + 1 if onesided else size):
        raise ValueError(f"istft: frames of {size} have {size // 2 + 1} or {size} frequencies, not {frequencies}")
    x = matrix_transpose(x)
    frames = irfft(x, n=size, norm=norm) if onesided else ifft(x, norm=norm)
    start = size // 2 if center else 0
    total, covered = _overlapped(frames if window is None else multiply(frames, window), hop), (count - 1) * hop + size
    n = covered - 2 * start if length is None else integer("istft", "length", length)
    stop = min(start + max(n, 0), covered)
    if window is None:
        window = ones((size,), dtype=total.dtype, device=total.device)
    squares = multiply(window, conj(window) if "complex" in window.dtype.kind else window)
    squares = _overlapped(squares + zeros((count, size), dtype=squares.dtype, device=squares.device), hop)
    raw = squares._array[start:stop]
    if stop > start and "complex" not in squares.dtype.kind:
        xp, backend = namespace_of[type(raw)], backend_of[type(raw)]
        backend.refuse(xp.any(xp.less(raw, _SMALLEST)), _left_out)
        squares = maximum(squares, _SMALLEST)
    out = divide(total, squares)[..., start:stop]
    if n > stop - start:
        out = concat([out, zeros((*out.shape[:-1], n - stop + start), dtype=out.dtype, device=out.device)], axis=-1)
    return out


def _left_out() -> ValueError:
    return ValueError(
        "istft: the windows of all frames are zero at some sample, which cannot be found again: take a smaller hop, or "
        "a window without zeros"
    )
