"""Every Python process with this folder on PYTHONPATH, and `tests` behind it, starts on the stand-in for CUDA."""

from cuda_stand_in import install

install()
