"""tapegrad measured against the array library written by hand, and against its peers.

`python -m benchmarks` runs everything; `python -m benchmarks mlp lstm --device cpu` a part. Every benchmark
is one file, in which the same program is written once for each library, side by side.
"""
