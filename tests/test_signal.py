"""Signal processing: random shapes, modes and frames against SciPy and PyTorch; bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg


def values(rng: Any, shape: Any, is_complex: bool) -> Any:
    x = rng.normal(size=tuple(int(n) for n in shape))
    return x + 1j * rng.normal(size=x.shape) if is_complex else x


def test_random_convolutions_against_scipy() -> None:
    """Of any number of axes, in all modes, either operand the longer one, real and complex, by both methods."""
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(1)
    for i in range(200):
        d, mode = int(rng.integers(1, 4)), ("full", "same", "valid")[i % 3]
        small, more = rng.integers(1, 5, d), rng.integers(0, 5, d)
        x, y = values(rng, small + more, rng.random() < 0.3), values(rng, small, rng.random() < 0.3)
        if mode != "same" and rng.random() < 0.5:
            x, y = y, x
        method = ("auto", "direct", "fft")[int(rng.integers(3))]
        for name in ("convolve", "correlate"):
            expected = getattr(signal, name)(x, y, mode=mode)
            found = getattr(tg.signal, name)(x, y, mode=mode, method=method)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11, err_msg=f"{name} {mode} {method}")
        found = tg.signal.fftconvolve(x, y, mode=mode)
        np.testing.assert_allclose(found, signal.fftconvolve(x, y, mode=mode), rtol=1e-10, atol=1e-11)


def test_some_axes_of_batches() -> None:
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(3, 40, 2)), rng.normal(size=(1, 35, 2))
    for axes in (1, (1,), (-1, 1), (2,)):
        kernel = y[:, :1] if axes == (2,) else y
        expected = signal.fftconvolve(x, kernel, mode="same", axes=axes)
        for f in (tg.signal.convolve, tg.signal.fftconvolve):
            np.testing.assert_allclose(f(x, kernel, mode="same", axes=axes), expected, atol=1e-11)


def test_integers_are_exact_and_half_precision_is_transformed_in_single(xp: Place) -> None:
    x = xp.tensor(np.arange(60) * 10**4)
    y = xp.tensor(np.arange(50))
    found = xp.values(tg.signal.convolve(x, y))
    expected = np.convolve(np.arange(60) * 10**4, np.arange(50))
    np.testing.assert_array_equal(found, expected)
    if xp.device.startswith("strict"):  # which has no float16
        return
    half = tg.ones(100, dtype="float16", device=xp.device)
    out = tg.signal.convolve(half, half, mode="valid")
    assert out.dtype is tg.float16
    assert float(out[0]) == 100.0


def test_random_derivatives_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    for i in range(60):
        m, n = int(rng.integers(3, 70)), int(rng.integers(1, 50))
        x, y, w = rng.normal(size=m), rng.normal(size=n), rng.normal(size=m + n - 1)
        zs = [torch.tensor(v, requires_grad=True) for v in (x, y)]

        def theirs(a: Any, b: Any) -> Any:
            return torch.nn.functional.conv1d(a[None, None], b.flip(0)[None, None], padding=b.shape[0] - 1)[0, 0]

        first = torch.autograd.grad((theirs(*zs) ** 2 * torch.tensor(w)).sum(), zs, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), zs)
        f = (tg.signal.convolve, tg.signal.fftconvolve)[i % 2]
        slope = tg.grad(lambda a, b: tg.sum(f(a, b) ** 2 * w), (0, 1))  # noqa: B023
        bend = tg.grad(lambda a, b: sum(tg.sum(g**2) for g in slope(a, b)), (0, 1))  # noqa: B023
        for got, expected in zip((*slope(x, y), *bend(x, y)), (*first, *second), strict=True):
            e = expected.detach().numpy()
            np.testing.assert_allclose(np.asarray(got) / np.abs(e).max(), e / np.abs(e).max(), atol=1e-11)


def frame_options(rng: Any) -> tuple[int, int, Any, bool, bool]:
    size = int(rng.integers(1, 17))
    hop = int(rng.integers(1, size + 1))
    window = rng.uniform(0.5, 1.5, size) if rng.random() < 0.7 else None
    return size, hop, window, bool(rng.random() < 0.5), bool(rng.random() < 0.3)


@pytest.mark.filterwarnings("ignore")
def test_random_frames_against_pytorch() -> None:
    """Transforms and their inverses, and derivatives of both."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    for i in range(200):
        size, hop, window, center, normalized = frame_options(rng)
        is_complex = bool(rng.random() < 0.3)
        x = values(rng, (*[(), (2,)][i % 2], int(rng.integers(size + 1, 40))), is_complex)
        ours: dict[str, Any] = {"hop": hop, "window": window, "center": center, "normalized": normalized}
        theirs = {
            "n_fft": size,
            "hop_length": hop,
            "center": center,
            "normalized": normalized,
            "onesided": not is_complex,
            "window": None if window is None else torch.tensor(window),
        }
        z = torch.tensor(x, requires_grad=True)
        there = torch.stft(z, **theirs, return_complex=True)
        here = tg.signal.stft(x, size, **ours)
        np.testing.assert_allclose(here, there.detach().numpy(), rtol=1e-10, atol=1e-11)
        if i < 60:
            (g,) = torch.autograd.grad((there.abs() ** 4).sum(), z)
            gradient = tg.grad(lambda v: tg.sum(tg.abs(tg.signal.stft(v, size, **ours)) ** 4))(tg.asarray(x))  # noqa: B023
            scale = np.abs(g.numpy()).max()
            np.testing.assert_allclose(np.asarray(gradient) / scale, g.numpy() / scale, atol=1e-10)
        spectrum = values(rng, here.shape, True)
        n = None if rng.random() < 0.5 else int(rng.integers(1, x.shape[-1] + 3))
        if (here.shape[-1] - 1) * hop + size * (not center) < 1:
            continue
        v = torch.tensor(spectrum, requires_grad=True)
        try:
            back = torch.istft(v, **theirs, length=n, return_complex=is_complex)
        except RuntimeError:
            continue  # it refuses two-sided transforms that are to give real signals, among others
        found = tg.signal.istft(spectrum, size, **ours, onesided=not is_complex, length=n)
        np.testing.assert_allclose(found, back.detach().numpy(), rtol=1e-9, atol=1e-10)
        if i < 60:
            (g,) = torch.autograd.grad((back.abs() ** 2).sum(), v)
            ours |= {"onesided": not is_complex, "length": n}
            f = lambda u: tg.sum(tg.abs(tg.signal.istft(u, size, **ours)) ** 2)  # noqa: B023, E731
            gradient = tg.grad(f)(tg.asarray(spectrum))
            scale = np.abs(g.numpy()).max(initial=1e-300)
            np.testing.assert_allclose(np.asarray(gradient) / scale, g.numpy() / scale, atol=1e-9)


def test_there_and_back(xp: Place) -> None:
    x = np.random.default_rng(5).normal(size=(2, 50))
    window = np.hanning(12)[1:-1]
    z = tg.signal.stft(xp.tensor(x), 16, hop=3, window=xp.tensor(window))
    assert z.shape == (2, 9, 17)
    xp.check(tg.signal.istft(z, 16, hop=3, window=xp.tensor(window), length=50), x, rtol=1e-9)


def test_compiled_and_mapped() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(3, 40)), rng.normal(size=(3, 36))
    functions: dict[str, Any] = {
        "convolve": lambda a, b: tg.signal.convolve(a, b[:5], mode="same"),
        "fftconvolve": tg.signal.fftconvolve,
        "correlate": lambda a, b: tg.signal.correlate(a, b, mode="valid"),
        "stft": lambda a, b: tg.abs(tg.signal.stft(a, 8, hop=2, window=b[:8])),
        "istft": lambda a, b: tg.signal.istft(tg.signal.stft(a, 8, hop=2) * b[0], 8, hop=2, length=40),
    }
    for name, f in functions.items():
        for g in (f, tg.grad(lambda a, b: tg.sum(f(a, b) ** 2))):  # noqa: B023
            call: Any = g
            alone = [np.asarray(call(tg.asarray(a), tg.asarray(b))) for a, b in zip(x, y, strict=True)]
            mapped = tg.vmap(call)(tg.asarray(x), tg.asarray(y))
            np.testing.assert_allclose(mapped, np.stack(alone), rtol=1e-9, atol=1e-11, err_msg=name)
            compiled: Any = tg.compile(call)
            for _ in range(2):
                for a, b, expected in zip(x, y, alone, strict=True):
                    found = compiled(tg.asarray(a), tg.asarray(b))
                    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12, err_msg=name)


def test_messages() -> None:
    x, y = tg.ones(5), tg.ones(3)
    wrong: list[tuple[Any, type[Exception], str]] = [
        (lambda: tg.signal.convolve(x, y, mode="all"), ValueError, "mode is 'full', 'same' or 'valid', not 'all'"),
        (lambda: tg.signal.convolve(x, y, method="fast"), ValueError, "is 'auto', 'direct' or 'fft', not 'fast'"),
        (lambda: tg.signal.correlate(x, tg.ones((3, 3))), ValueError, r"\(5,\) and \(3, 3\) have different numbers"),
        (lambda: tg.signal.convolve(x, y[:0]), ValueError, "there is nothing along an axis"),
        (lambda: tg.signal.convolve(x, y, axes=(0, 0)), ValueError, "name one twice, or none"),
        (lambda: tg.signal.convolve(x, y, axes=1), ValueError, "axis 1 is out of range"),
        (lambda: tg.signal.convolve(1.0, 2.0), ValueError, "name one twice, or none"),
        (
            lambda: tg.signal.convolve(tg.ones((2, 3)), tg.ones((3, 2)), mode="valid"),
            ValueError,
            "neither lies within the other",
        ),
        (lambda: tg.signal.convolve(x > 0, y > 0), TypeError, "booleans have no sums"),
        (lambda: tg.signal.convolve([1, 2], [3], method="fft"), TypeError, "'fft' rounds, so it takes no integers"),
        (lambda: tg.signal.stft(x, 16), ValueError, "a signal of 5 samples is too short for frames of 16"),
        (lambda: tg.signal.stft(x, 6, center=False), ValueError, "at least 6 are needed"),
        (lambda: tg.signal.stft(x, 0), ValueError, "a frame has 1 sample or more"),
        (lambda: tg.signal.stft(x, 4, hop=5), ValueError, "hop is 1 to 4, not 4 and 5"),
        (lambda: tg.signal.stft(x, 4, window=tg.ones(5)), ValueError, r"at most 4 numbers, not of shape \(5,\)"),
        (lambda: tg.signal.stft(x, 2.5), TypeError, "the length of a frame is an integer, not 2.5"),  # type: ignore[arg-type]
        (lambda: tg.signal.stft(1.0, 2), ValueError, "a signal has an axis"),
        (lambda: tg.signal.istft(tg.ones((5, 2)), 4), ValueError, "frames of 4 have 3 or 4 frequencies, not 5"),
        (lambda: tg.signal.istft(tg.ones(3), 4), ValueError, r"\(..., frequencies, frames\), not \(3,\)"),
        (
            lambda: tg.signal.istft(tg.ones((3, 3)), 4, hop=4, window=[0.0, 1.0, 1.0, 0.0], center=False),
            ValueError,
            "the windows of all frames are zero at some sample",
        ),
    ]
    for call, error, message in wrong:
        with pytest.raises(error, match=message):
            call()
