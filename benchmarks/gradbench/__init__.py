"""tapegrad as a tool of the benchmark suite GradBench: its twelve evaluations, written as array code.

One file a module of the suite, each with a table FUNCTIONS of those that the suite may ask for. `run.py` speaks the
suite's protocol; `python -m benchmarks.gradbench --suite PATH` measures side by side with the suite's own tools;
`python -m benchmarks.gradbench.validate --suite PATH` runs the suite's evaluations.
"""

MODULES = ("hello", "llsq", "lse", "gmm", "lstm", "kmeans", "ode", "det", "ba", "ht", "saddle", "particle")
