"""Mapping a function of one example over a batch."""
