"""Data for training: mini-batches of arrays or of anything that has a length and items."""

from tapegrad.data._batches import Batches

__all__ = ["Batches"]
