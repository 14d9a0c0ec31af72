"""The phases: steps that belong together, in less than five minutes."""

from __future__ import annotations

from benchmarks.gpu._runner import Step

LONGEST = 300.0  # seconds a phase


def _step(name: str, limit: float, *arguments: str, module: str = "") -> Step:
    return Step(" ".join([name, *arguments]), limit, f"benchmarks.gpu.{module or name}", arguments)


PHASES: dict[str, tuple[Step, ...]] = {
    "environment": (_step("environment", 30), _step("facts", 120)),
    "costs": (_step("costs", 120),),
    "bandwidth": (_step("bandwidth", 150), _step("products", 90)),
    "gpt": tuple(_step("gpt", 98, precision) for precision in ("bfloat16", "float32", "tf32")),
    "table": tuple(_step("table", 73, name) for name in ("gpt", "lstm", "mlp", "gelu")),
    "tests": tuple(_step("tests", 98, selection) for selection in ("samples", "compiled", "others")),
    "conformance": (_step("conformance", 290),),
    "memory": (_step("memory", 120, "gelu"), _step("memory", 170, "gpt")),
}
