"""Code generation: the CUDA text of fused kernels, made from nodes, shapes and strides without CuPy."""
