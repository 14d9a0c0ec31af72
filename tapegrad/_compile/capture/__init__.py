"""Capture: a call runs eagerly on tracers, and what it did becomes a program with guards."""
