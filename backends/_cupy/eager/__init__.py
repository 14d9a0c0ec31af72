"""Fusion of eager calls: the operations of one call of tapegrad as few kernels that hold for any shape."""
