"""The `xp` fixture: every test that takes it runs on each backend and device this machine has."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from example_runs import run as run  # a fixture of tests of the examples
from places import WHOLE_SWEEPS, Place, why_not

import tapegrad as tg
from tapegrad._engine import dispatch, settings
from tapegrad.backends._settings import DETERMINISTIC, TF32, Setting

PLACES = {
    "numpy": Place("cpu"),
    "numpy-readonly": Place("cpu", readonly=True),
    "strict": Place("strict:CPU_DEVICE"),
    "strict-device1": Place("strict:device1"),
    "strict-no_float64": Place("strict:no_float64", double=False),
    "cupy": Place("cuda"),
    "torch": Place("torch:cpu"),
    "torch-cuda": Place("torch:cuda"),
    "jax": Place("jax:cpu"),
}

# A shell that starts pytest in the background has it ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Code that XLA compiles here runs once or twice, on a few numbers.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


# Long sweeps run in part on JAX: the first samples of each operation, and every third case of others.
SAMPLES_ON_JAX, LONG_SWEEP = 2, 20


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out a part of long sweeps on JAX, and put the tests on JAX first.

    Those of one sample stand together, so that they share the code that XLA compiled for them.

    Workers that take from each other take the last tests, so that one worker keeps nearly all on JAX. NVRTC compiles
    the kernels that other tests generated, and comes last.
    """

    left_out = set() if WHOLE_SWEEPS else _left_out_on_jax(items)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]

    def place_in_order(item: pytest.Item) -> tuple[int, str]:
        if "jax" in item.name:
            return 0, getattr(_parameters(item).get("sample"), "name", "")
        return 2 if item.path.stem == "test_nvrtc" else 1, ""

    items.sort(key=place_in_order)


def _left_out_on_jax(items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the tests of long sweeps on JAX that are left out."""
    sweeps: dict[str, list[pytest.Item]] = {}
    for item in items:
        if "jax" in item.name and hasattr(item, "callspec"):
            sweeps.setdefault(item.nodeid.partition("[")[0], []).append(item)
    found: set[pytest.Item] = set()
    for sweep in sweeps.values():
        if len(sweep) <= LONG_SWEEP:
            continue
        seen: Counter[str] = Counter()
        for n, item in enumerate(sweep):
            sample = _parameters(item).get("sample")
            operation = getattr(sample, "operation", "")
            seen[operation] += 1
            if seen[operation] > SAMPLES_ON_JAX if operation else n % 3:
                found.add(item)
    return found


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.fixture(autouse=True, scope="module")
def _heap_without_what_pytest_holds() -> None:
    """Have collections, and tg.compile's search for holders of traced arrays, pass over all that is there already."""
    gc.collect()
    gc.freeze()


SETTINGS: tuple[Setting[Any], ...] = (settings._device, settings._dtype, TF32, DETERMINISTIC)


@pytest.fixture(autouse=True)
def _settings_as_they_were() -> Iterator[None]:
    """Put back the settings of the process after a test: a default that was set is another one than none."""
    before = [setting.everywhere for setting in SETTINGS]
    yield
    for setting, value in zip(SETTINGS, before, strict=True):
        setting.settle()  # else a value that waits would take effect in another test
        setting.everywhere = value


@pytest.fixture(autouse=True)
def _no_compiler_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have programs on PyTorch replayed call by call: `torch.compile` takes seconds for each."""
    monkeypatch.setenv("TAPEGRAD_TORCH_COMPILE", "0")


@pytest.fixture(params=PLACES)
def xp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Give each place in turn; an absent one is skipped with its reason."""
    place = PLACES[request.param]
    why = why_not(place.device)
    if why is not None:
        pytest.skip(why)
    if place.readonly:
        _make_results_readonly(monkeypatch)
    with tg.default_device(place.device):
        yield place


def _make_results_readonly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have NumPy's functions return read-only arrays: a rule that writes into an operand fails."""
    namespace = dispatch.namespace_of[np.ndarray]
    for name in (
        "sum",
        "mean",
        "reshape",
        "where",
        "broadcast_to",
        "permute_dims",
        "matmul",
        "take",
        "flip",
        "concat",
    ):
        real = getattr(namespace, name)

        def frozen(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            out = real(*args, **kwargs)
            if isinstance(out, np.ndarray) and out.flags.owndata:
                out.flags.writeable = False
            return out

        monkeypatch.setattr(namespace, name, frozen)


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the executors of compiled functions on CuPy that the test makes."""
    from tapegrad.backends._cupy.executor.executor import Executor

    made: list[Any] = []
    init = Executor.__init__

    def spied(self: Executor, program: Any) -> None:
        init(self, program)
        made.append(self)

    monkeypatch.setattr(Executor, "__init__", spied)
    return made
