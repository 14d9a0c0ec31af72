"""The CUDA text that copies several arrays by one launch: results, new state over the old, parts into a whole."""

from __future__ import annotations

from typing import NamedTuple

THREADS = 256
BLOCKS = 512  # at most, for each array
WIDEST = 32  # arrays of one launch
_WORDS = {16: "uint4", 8: "unsigned long long", 4: "unsigned int", 2: "unsigned short", 1: "unsigned char"}


class Copy(NamedTuple):
    """An array to copy: bytes, the longest word (1 to 16 bytes) that all addresses are multiples of.

    guarded: whether there is another source, which is copied from if the call was refused. row, pitch: bytes of a row,
    and from one row to the next where they are copied to, if that is not the whole of an array.
    """

    nbytes: int
    word: int
    guarded: bool = False
    row: int = 0
    pitch: int = 0


def kernel(name: str, copies: list[Copy], refused: bool) -> tuple[str, tuple[int, int]]:
    """Return the text of a kernel that takes (to, from) of each array, with the other source of guarded ones, and grid.

    refused: whether it takes at last the mark that the call was refused; arrays that are not guarded are copied anyway.
    """
    # One case for each array: blocks of row y of the grid copy array y, each thread every so many words.
    arguments, cases, most = [], [], 1
    for i, copy in enumerate(copies):
        word, count = _WORDS[copy.word], copy.nbytes // copy.word
        arguments += [f"{word}* to{i}", f"const {word}* from{i}"]
        source = f"from{i}"
        if copy.guarded:
            arguments.append(f"const {word}* old{i}")
            source = f"(*refused ? old{i} : from{i})"
        # Rows of the source lie `pitch` apart in a larger array.
        row, pitch = copy.row // copy.word, copy.pitch // copy.word
        place = "j" if row == pitch else f"j / {row} * {pitch} + j % {row}"
        step = f"for (long long j = at; j < {count}; j += {THREADS}ll * gridDim.x) to{i}[{place}] = from[j];"
        cases.append(f"case {i}: {{ const {word}* from = {source}; {step} break; }}")
        most = max(most, -(-count // THREADS))
    if refused:
        arguments.append("const bool* refused")
    source = (
        f'extern "C" __global__ void __launch_bounds__({THREADS}, 1) {name}({", ".join(arguments)}) {{\n'
        f"  const long long at = (long long)blockIdx.x * {THREADS} + threadIdx.x;\n  switch (blockIdx.y) {{\n    "
        + "\n    ".join(cases)
        + "\n  }\n}\n"
    )
    return source, (min(BLOCKS, most), len(copies))


def word(nbytes: int, *addresses: int) -> int:
    """Return the longest word that an array's bytes and addresses are multiples of."""
    return next(w for w in _WORDS if all(n % w == 0 for n in (nbytes, *addresses)))
