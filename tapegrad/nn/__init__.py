"""Models without a base class: layers, their first values, and functions of any tree or object that holds Tensors."""

from tapegrad.nn import init
from tapegrad.nn.attention import Attention
from tapegrad.nn.convolution import Conv, ConvTranspose
from tapegrad.nn.dropout import Dropout
from tapegrad.nn.layer import layer, static
from tapegrad.nn.linear import Embedding, Linear, Sequential
from tapegrad.nn.model import Loaded, cast, copy, freeze, load, named, parameters
from tapegrad.nn.modes import evaluation, precision, training
from tapegrad.nn.norms import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from tapegrad.nn.recurrent import GRU, LSTM
from tapegrad.nn.summary import Summary, SummaryRow, summary

__all__ = [
    # layers
    "Linear",
    "Embedding",
    "Conv",
    "ConvTranspose",
    "LayerNorm",
    "RMSNorm",
    "GroupNorm",
    "BatchNorm",
    "Dropout",
    "Attention",
    "LSTM",
    "GRU",
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
    "summary",
    "Summary",
    "SummaryRow",
    # modes
    "evaluation",
    "precision",
    "training",
]
