"""Transforms of functions: derivatives in both directions, and rules of users."""
