"""Measurements on a CUDA device, in phases of less than five minutes each: `python -m benchmarks.gpu`.

README.md beside this file says how to run them and describes their output.
"""
