"""The CuPy backend: arrays on CUDA devices.

The adapter is `adapter.Adapter`. Importing this package imports nothing, so that kernel texts can be generated, and
tested, where there is no CuPy.
"""
