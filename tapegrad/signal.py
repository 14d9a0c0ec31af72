"""Signal processing: convolution, correlation and short-time Fourier transforms, on Tensors."""

from tapegrad.ops.signal import convolve, correlate, fftconvolve, istft, stft

__all__ = [
    "convolve",
    "correlate",
    "fftconvolve",
    "istft",
    "stft",
]
