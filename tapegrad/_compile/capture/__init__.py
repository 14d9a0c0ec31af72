"""Capture: a call runs eagerly on tracers, which makes it a program with guards."""
