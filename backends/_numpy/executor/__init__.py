"""The executor of compiled programs on NumPy."""
