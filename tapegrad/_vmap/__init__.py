"""Vectorised mapping of a function over a batch."""
