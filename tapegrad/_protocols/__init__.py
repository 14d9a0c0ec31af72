"""Protocols of Python, NumPy and other libraries, as Tensors follow them."""
