"""Samples of special functions, by SciPy: none where it is not installed."""

from __future__ import annotations

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Arrays, Sample, between, normal, reseed


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(5)
    try:
        import scipy.special as scipy
    except ImportError:
        return []
    chance, positive = between(0.1, 0.9, 3, 4), between(0.5, 3, 3, 4)
    domains: dict[str, Arrays] = {
        "digamma": (positive,),
        "entr": (positive,),
        "erfinv": (between(-0.9, 0.9, 3, 4),),
        "gammaln": (positive,),
        "i0e": (positive,),
        "i1e": (-positive,),
        "logit": (chance,),
        "ndtri": (chance,),
        "betaln": (positive, between(0.5, 3, 3, 4)),
        "rel_entr": (positive, between(0.5, 3, 3, 4)),
        "xlog1py": (normal(3, 4), between(-0.5, 2, 3, 4)),
        "xlogy": (normal(3, 4), positive),
    }
    names = (
        "betaln digamma entr erf erfc erfcx erfinv expit gammaln i0 i0e i1 i1e log_expit log_ndtr logit ndtr ndtri "
        "rel_entr sinc xlog1py xlogy"
    )
    rows = [
        Sample(n, getattr(tg.special, n), getattr(scipy, n), domains.get(n, (normal(3, 4),))) for n in names.split()
    ]
    for n in ("betaln", "rel_entr", "xlog1py", "xlogy"):
        f, reference = getattr(tg.special, n), getattr(scipy, n)
        rows += [
            Sample(f"{n} broadcast", f, reference, (between(0.5, 1, 3, 1), between(1.2, 2, 4))),
            Sample(f"{n} 0-d", f, reference, (between(0.5, 1, 3, 4), between(1.2, 2))),
            Sample(f"{n} size-0", f, reference, (normal(0, 3), normal(3))),
            Sample(f"{n} scalar", lambda x, f=f: f(x, 1.5), lambda x, r=reference: r(x, 1.5), (between(2, 3, 3),)),
            Sample(f"{n} reflected", lambda x, f=f: f(1.5, x), lambda x, r=reference: r(1.5, x), (between(2, 3, 3),)),
        ]
    poles = np.asarray([-0.3, -1.4, -2.5])
    near = np.asarray([-0.26, -0.1, -1e-3, 0.0, 0.01, 0.24, 0.26])
    tail = np.asarray([-30.0, -12.0, -5.0, 0.0, 4.0])
    own = np.random.default_rng(44)
    incomplete = own.uniform(0.4, 4.0, (3, 4)), own.uniform(0.4, 4.0, (4,))
    return [
        *rows,
        Sample("gammainc", tg.special.gammainc, scipy.gammainc, incomplete),
        Sample("gammaincc", tg.special.gammaincc, scipy.gammaincc, incomplete, order=1),
        Sample("gelu", tg.gelu, lambda x: x * scipy.ndtr(x), (np.linspace(-4.0, 3.0, 12).reshape(3, 4),)),
        Sample("erf 0-d", tg.special.erf, scipy.erf, (between(0.5, 0.8),)),
        Sample("erf size-0", tg.special.erf, scipy.erf, (normal(0, 3),)),
        Sample("erfcx large", tg.special.erfcx, scipy.erfcx, (np.asarray([20.0, 90.0, 110.0, 1e3]),)),
        Sample("gammaln negative", tg.special.gammaln, scipy.gammaln, (poles,)),
        Sample("digamma negative", tg.special.digamma, scipy.digamma, (poles,)),
        Sample("i1 near 0", tg.special.i1, scipy.i1, (near * 2,)),
        Sample("i1e near 0", tg.special.i1e, scipy.i1e, (near[near != 0] * 2,)),
        Sample("log_ndtr tail", tg.special.log_ndtr, scipy.log_ndtr, (tail,)),
        Sample("sinc near 0", tg.special.sinc, scipy.sinc, (near,)),
        *[
            Sample(
                "polygamma" if n == 2 else f"polygamma order {n}",
                lambda x, n=n: tg.special.polygamma(n, x),
                lambda x, n=n: scipy.polygamma(n, x),
                (positive,),
            )
            for n in (0, 1, 2)
        ],
    ]
