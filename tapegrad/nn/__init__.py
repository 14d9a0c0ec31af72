"""Models without a base class: layers, their first values, and functions of any tree or object that holds Tensors."""

from tapegrad.nn import init
from tapegrad.nn.layer import layer, static
from tapegrad.nn.linear import Embedding, Linear, Sequential
from tapegrad.nn.model import Loaded, cast, copy, freeze, load, named, parameters
from tapegrad.nn.modes import evaluation, precision, training

__all__ = [
    # layers
    "Linear",
    "Embedding",
    "Sequential",
    "layer",
    "static",
    "init",
    # models
    "Loaded",
    "cast",
    "copy",
    "freeze",
    "load",
    "named",
    "parameters",
    # modes
    "evaluation",
    "precision",
    "training",
]
