"""Run a module on the stand-in: `PYTHONPATH=tests python -m cuda_stand_in benchmarks --tiny --device cuda`."""

from __future__ import annotations

import runpy
import sys

from cuda_stand_in import Unavailable, install

try:
    install()
except Unavailable as error:
    sys.exit(str(error))
if sys.argv[1:]:
    del sys.argv[0]
    sys.path.insert(0, "")
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
