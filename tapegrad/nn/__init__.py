"""Models without a base class: functions of any tree or object that holds Tensors."""

from tapegrad.nn.model import Loaded, cast, copy, freeze, load, named, parameters

__all__ = [
    "Loaded",
    "cast",
    "copy",
    "freeze",
    "load",
    "named",
    "parameters",
]
