"""The linear algebra of the array API standard, differentiable: `tapegrad.linalg`."""

from tapegrad.ops.decompositions import eig, eigh, eigvals, eigvalsh, qr, svd, svdvals
from tapegrad.ops.norms import cross, diagonal, matrix_norm, matrix_rank, outer, trace, vector_norm
from tapegrad.ops.products import matmul, matrix_transpose, tensordot, vecdot
from tapegrad.ops.solving import cholesky, det, inv, matrix_power, pinv, slogdet, solve

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]
