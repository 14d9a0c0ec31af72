"""Transforms of functions: derivatives in both modes, and custom rules."""
