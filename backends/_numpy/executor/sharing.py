"""Sharing of work among threads: either those of BLAS, or those of this process.

BLAS shares a large product among its own threads, but not the many small products of a batch. Where batches matter,
all products are split among threads of this process, and BLAS is held to one. Elsewhere products are left to BLAS, as
the two sets of threads would compete for the same cores.

    a = matmul (64, 128, 128) (64, 128, 128)  a batch of products: half of them on each of two threads
    b = matmul (512, 512) (512, 512)          a large one beside it: split by rows, BLAS is held to one thread
    b alone, without a                        left to the threads of BLAS
"""

from __future__ import annotations

from typing import NamedTuple

from tapegrad._program.ir import Node, Program
from tapegrad.backends._numpy.executor import blas

WORTH_THREADS = 5e7  # floating-point operations of a product from which it is split: waking a thread takes 0.1 ms
WAKES_BLAS = 1e6  # floating-point operations of products that BLAS shares among its threads
MOST_OUTSIDE = 20  # how many times the work of batched products all products may have where they are split


class Sharing(NamedTuple):
    """The threads that a program shares its work among.

    threads: how many it may use; splits: whether products and copies are split among threads of this process; wakes:
    whether BLAS has threads that are awake after a product.
    """

    threads: int
    splits: bool
    wakes: bool

    def parts_of(self, length: int) -> list[slice]:
        """Return the slices of a leading axis that go to one thread each."""
        n = min(self.threads, length) if self.splits else 1
        return [slice(t * length // n, (t + 1) * length // n) for t in range(n)]


def sharing_of(program: Program, threads: int) -> Sharing:
    """Return how a program shares work among at most so many threads."""
    nodes = [item for item in program.items if isinstance(item, Node)]
    products = [n for n in nodes if n.kind == "matmul"]
    # Kernels of attention are batches of products, on threads of this process.
    attention = sum(_attention_flops(n) for n in nodes if n.op in ("attend", "attend_gradient"))
    flops = sum(map(flops_of, products)) + attention
    batched = sum(flops_of(n) for n in products if len(n.out.shape) > 2 and is_worth_threads(n)) + attention
    splits = blas.can_hold() and 0 < flops <= MOST_OUTSIDE * batched
    return Sharing(threads, splits, threads > 1 and not splits and flops >= WAKES_BLAS)


def flops_of(product: Node) -> float:
    """Return the floating-point operations of a matrix product."""
    return 2.0 * float(product.out.size * product.args[0].shape[-1])


def _attention_flops(node: Node) -> float:
    """Return about how many floating-point operations of products a kernel of attention takes."""
    gradient = node.op == "attend_gradient"
    queries, keys = node.args[1:3] if gradient else node.args[:2]
    return (5.0 if gradient else 4.0) * float(queries.size * keys.shape[-2])


def is_worth_threads(product: Node) -> bool:
    """Say whether a matrix product gains more by threads than it takes to wake them."""
    return flops_of(product) >= WORTH_THREADS
