"""The libraries that a step measures on the device, and the fix where one is missing."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._columns import Column, columns
from benchmarks.gpu._records import Output
from benchmarks.gpu._runner import MISSING
from tapegrad import backends

DEVICE = "cuda"
FIXES = {
    "torch": "PyTorch finds no CUDA device: install a build of it for CUDA (pip install torch)",
    "jax": "JAX finds no GPU: pip install 'jax[cuda13]'",
}


def device_columns(
    output: Output, peers: Sequence[str] = tuple(FIXES), compiled: bool = True
) -> tuple[list[Column], int]:
    """Return the hand-written column and those on the device, and an exit status.

    The status is that of a step with no others: 0, or MISSING.

    Prints each library that is missing, with the fix. In a tiny run a peer that finds no GPU is run on the CPU,
    without its compiler, so that its programs are run at all.
    """
    status = 0
    why = backends.available()[DEVICE]
    if why is not None:
        output.write(f"MISSING tapegrad on {DEVICE}: {why}", kind="missing", what=f"tapegrad {DEVICE}", fix=why)
        status = MISSING
    found, notes = columns([] if why else [DEVICE], peers, compiled, gpu_only=True)
    for peer in peers:
        if any(column.library == peer for column in found):
            continue
        if output.tiny and (on_cpu := _on_cpu(peer)):
            output.write(f"{peer} finds no GPU: this tiny run takes its CPU")
            found += on_cpu
            continue
        absent = any(note.startswith(f"{peer}: not installed") for note in notes)
        fix = f"{peer} is not installed: pip install 'tapegrad[{peer}]'" if absent else FIXES[peer]
        output.write(f"MISSING {peer}: {fix}", kind="missing", what=peer, fix=fix)
        status = MISSING
    for note in notes:
        if note.startswith("torch.compile"):
            output.write(f"MISSING {note}", kind="missing", what="torch.compile", fix=note)
            status = MISSING
    return found, status


def of_library(found: Sequence[Column], library: str) -> str | None:
    """Return the place of a library's eager column, None where it is missing."""
    return next((c.place for c in found if c.library == library and not c.compiled), None)


def _on_cpu(peer: str) -> list[Column]:
    return [column for column in columns([], (peer,))[0] if column.library == peer]
