"""Runs the official suite data-apis/array-api-tests on tapegrad: `python tests/run_conformance.py torch:cpu`.

The environment variable ARRAY_API_TESTS names a checkout of the suite. What may fail, and why, is in array_api_xfails/.
Options go to pytest: `python tests/run_conformance.py cuda -p cuda_stand_in` runs it without a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# Device prefix -> lists of expected failures, dtypes that the library hardly supports. CuPy has NumPy's failures too.
LISTS = {
    "cpu": (("numpy.txt",), ""),
    "cuda": (("numpy.txt", "cupy.txt"), ""),
    "strict": (("strict.txt",), ""),
    "torch": (("torch.txt",), "uint16,uint32,uint64"),
}


def why_not() -> str | None:
    """Say why the suite cannot be run here, or None if it can."""
    checkout = os.environ.get("ARRAY_API_TESTS")
    if not checkout:
        return "ARRAY_API_TESTS names no checkout of data-apis/array-api-tests: see examples/guides/conformance.md"
    if not (Path(checkout) / "array_api_tests").is_dir():
        return f"ARRAY_API_TESTS={checkout} is no checkout of data-apis/array-api-tests"
    if not (Path(checkout) / "array-api" / "src").is_dir():
        return f"ARRAY_API_TESTS={checkout} lacks its submodule: git submodule update --init"
    return None


def run(device: str, *options: str) -> int:
    """Run the suite over a device and return pytest's exit status: 0 if nothing failed that is not in the list."""
    why = why_not()
    if why is not None:
        raise RuntimeError(why)
    files, without = LISTS[device.partition(":")[0]]
    environment = {
        **os.environ,
        "ARRAY_API_TESTS_MODULE": "tapegrad",
        "ARRAY_API_TESTS_SKIP_DTYPES": without,
        "TAPEGRAD_DEVICE": device,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", "array_api_tests", "-q", "-p", "no:cacheprovider", "--disable-deadline"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as xfails:
        xfails.writelines((HERE / "array_api_xfails" / file).read_text() for file in files)
        xfails.flush()
        command += ["--xfails-file", xfails.name, *options]
        return subprocess.run(command, cwd=os.environ["ARRAY_API_TESTS"], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(run(*(sys.argv[1:] or ["cpu"])))
