"""Random numbers, the same on every library and device: a function of a key and a counter, which are Tensors."""

from tapegrad.random.generator import Generator, bits

__all__ = ["Generator", "bits"]
