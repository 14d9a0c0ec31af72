"""Ten ordinary programs, as a newcomer writes them: NumPy's arrays and indices stand among Tensors as they come.

None of them names a device. Each has a `run()` that returns numbers, arrays of NumPy, and the device of its Tensors.
"""
