"""Checks of derivatives, for tapegrad's own rules and for users' functions."""

from tapegrad.testing._gradcheck import GradcheckError, gradcheck, gradgradcheck
from tapegrad.testing._sample import Sample
from tapegrad.testing._samples import SAMPLES

__all__ = ["SAMPLES", "GradcheckError", "Sample", "gradcheck", "gradgradcheck"]
