"""The executor of compiled programs: kernels over buffers that are planned once, replayed as CUDA graphs."""
