"""Special functions, differentiable to second order, by the names and with the arguments that SciPy gives them.

On NumPy arrays they are SciPy's (`pip install 'tapegrad[scipy]'`), on CuPy cupyx.scipy.special, on PyTorch and JAX
the library's own, elsewhere SciPy's through the host. SciPy's own functions find them here when it runs with
`SCIPY_ARRAY_API=1`. softmax, log_softmax and logsumexp are those of `tapegrad`: the axis of the first two is -1 unless
given.

>>> import tapegrad as tg
>>> print(tg.grad(tg.special.gammaln)(1.0))
-0.5772156649015329
"""

from tapegrad.ops.softmax import log_softmax, logsumexp, softmax
from tapegrad.ops.special import (
    entr,
    erf,
    erfc,
    erfcx,
    erfinv,
    expit,
    log_expit,
    log_ndtr,
    logit,
    ndtr,
    ndtri,
    rel_entr,
    xlog1py,
    xlogy,
)
from tapegrad.ops.special_gamma import betaln, digamma, gammaln, i0, i0e, i1, i1e, polygamma, sinc
from tapegrad.ops.special_incomplete import gammainc, gammaincc

psi = digamma  # the name by which SciPy looks for it

__all__ = [
    "betaln",
    "digamma",
    "entr",
    "erf",
    "erfc",
    "erfcx",
    "erfinv",
    "expit",
    "gammainc",
    "gammaincc",
    "gammaln",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "log_expit",
    "log_ndtr",
    "log_softmax",
    "logit",
    "logsumexp",
    "ndtr",
    "ndtri",
    "polygamma",
    "psi",
    "rel_entr",
    "sinc",
    "softmax",
    "xlog1py",
    "xlogy",
]
