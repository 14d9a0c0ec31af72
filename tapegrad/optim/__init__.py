"""Optimisers: gradient descent in its variants, with rates, clipping, averages and loss scaling.

All are written in Tensors, which they update in place, so `tapegrad.compile` captures their steps.
"""

from tapegrad.optim.adaptive import LAMB, Adagrad, Adam, AdamW, RMSprop
from tapegrad.optim.averaging import Average
from tapegrad.optim.factored import Adafactor
from tapegrad.optim.gradient_descent import SGD, Lion
from tapegrad.optim.gradients import clip_norm, clip_value
from tapegrad.optim.scaling import Scale
from tapegrad.optim.schedules import Schedule, constant, cosine, exponential, linear, one_cycle, piecewise
from tapegrad.optim.split import Muon, Split

__all__ = [
    # optimisers
    "SGD",
    "RMSprop",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "Muon",
    "LAMB",
    "Adafactor",
    "Split",
    # rates
    "Schedule",
    "constant",
    "linear",
    "cosine",
    "one_cycle",
    "piecewise",
    "exponential",
    # gradients and weights
    "clip_norm",
    "clip_value",
    "Average",
    "Scale",
]
