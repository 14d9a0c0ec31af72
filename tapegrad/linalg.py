"""The linear algebra of the array API standard, differentiable: `tapegrad.linalg`."""

from tapegrad.ops.decompositions import eig, eigh, eigvals, eigvalsh, qr, svd, svdvals
from tapegrad.ops.matrix_functions import expm
from tapegrad.ops.norms import cross, diagonal, matrix_norm, matrix_rank, outer, trace, vector_norm
from tapegrad.ops.products import block_diag, matmul, matrix_transpose, tensordot, vecdot
from tapegrad.ops.solving import cholesky, det, inv, matrix_power, pinv, slogdet, solve
from tapegrad.ops.triangular import cho_solve, lstsq, solve_triangular

__all__ = [
    "block_diag",
    "cho_solve",
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "expm",
    "inv",
    "lstsq",
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
    "solve_triangular",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]
