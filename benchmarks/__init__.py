"""tapegrad measured against the array library written by hand, and against its peers.

`python -m benchmarks` runs everything; `python -m benchmarks mlp lstm --device cpu --compile` a part, also compiled;
`python -m benchmarks --compare cpu cuda` tapegrad's program on several devices. Every benchmark is one file, in which
the same program is written once for each library, side by side.
"""
