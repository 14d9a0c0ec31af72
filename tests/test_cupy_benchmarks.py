"""Compiled benchmark programs on CuPy: one graph a call, and the list of its launches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from places import why_not

import tapegrad as tg

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

from cuda_stand_in import Counts, counted, is_installed

# Small ones of the benchmarks' structure: the perceptron's three layers, 3 of the LSTM's 64 steps, GPT's 4 layers.
TASKS: dict[str, Callable[[Any], Any]] = {
    "mlp": lambda benchmark: benchmark.task(8, (16, 8, 8, 3)),
    "gelu": lambda benchmark: benchmark.task(1000),
    "lstm": lambda benchmark: benchmark.cases(tiny=True)[0].task,
    "gpt": lambda benchmark: benchmark.task(2, 8, 16, 2, 4, 16),
}
# The number of steps of a plan that do these operations. A sum over rows, or of all, is completed by a second
# kernel, one for many sums ("partial results"). "join" and "copy" move data. Names of CuPy's functions are those of its
# own kernels.
STEPS = {
    "mlp": """
1 5 times multiply subtract
1 add max subtract exp sum take_along_axis log subtract sum divide equal astype subtract multiply sum
2 add maximum greater
1 divide
1 less greater_equal bitwise_or any
8 matmul
1 multiply
3 partial results
1 refuse
1 subtract
2 where sum
""",
    "gelu": """
1 multiply multiply multiply multiply add multiply tanh add multiply multiply subtract multiply
  multiply multiply multiply multiply add multiply add add multiply add sum
1 partial results
""",
    "lstm": """
6 add add
3 join
14 matmul
1 multiply multiply multiply add multiply multiply multiply multiply multiply multiply multiply
  multiply multiply multiply
1 multiply multiply multiply add multiply multiply multiply multiply multiply multiply multiply
  multiply multiply multiply multiply
1 partial results
1 sigmoid sigmoid sigmoid multiply tanh multiply add tanh multiply multiply multiply add multiply
  multiply multiply subtract multiply multiply multiply multiply subtract multiply multiply multiply
  multiply subtract multiply multiply subtract multiply multiply subtract multiply mean
2 sigmoid sigmoid sigmoid multiply tanh multiply add tanh multiply multiply subtract multiply subtract
  subtract subtract subtract
3 sum
""",
    "gpt": """
1 54 times multiply multiply add multiply multiply multiply add multiply multiply sqrt add divide multiply add
  multiply subtract
5 add
8 add add mean subtract multiply mean add sqrt divide multiply add multiply
1 add max subtract exp sum take_along_axis log subtract sum divide equal astype subtract multiply sum
4 add multiply multiply add multiply tanh add multiply multiply maximum minimum multiply multiply add multiply
  subtract multiply multiply multiply add
4 attention
4 attention_gradient
1 commit
1 divide add pow subtract divide pow subtract divide
1 index_add
1 index_get
1 less greater_equal bitwise_or any
51 matmul
1 mean subtract multiply mean add sqrt divide multiply add multiply
1 multiply multiply sum divide negative multiply divide sum divide divide multiply add add add negative sum divide
  add
7 multiply multiply sum divide negative multiply divide sum divide divide multiply add add add negative sum divide
  add sum
1 multiply multiply sum divide negative multiply divide sum divide divide multiply add add negative sum divide add
  sum
4 multiply sum
3 partial results
1 refuse
14 sum
1 zeros
""",
}


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_one_graph_and_one_launch_that_copies_its_results(executors: list[Any], name: str) -> None:
    benchmark = import_module(f"benchmarks.{name}")
    step = tg.compile(benchmark.PROGRAMS["tapegrad"](TASKS[name](benchmark), "cuda"))
    for _ in range(6):
        step()
    with counted() as counts:
        step()
    assert executors[-1].how == "1 CUDA graphs"
    plan = executors[-1]._plan
    assert len(plan.donated) == sum(number is not None for number in plan.program.replaces)  # all state stays in place
    found = Counter(re.sub(r" at \S+:\d+$", "", s.name) for s in plan.steps)
    assert found == expected(name)
    if is_installed():
        assert counts == Counts(launches=1, graph_launches=1)


def expected(name: str) -> Counter[str]:
    lines = STEPS[name].replace("\n  ", " ").strip().splitlines()
    return Counter({operations: int(count) for count, operations in (line.split(" ", 1) for line in lines)})
