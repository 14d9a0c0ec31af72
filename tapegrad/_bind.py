"""The one place where functions of upper floors are handed to lower ones, once, when tapegrad is imported."""

from __future__ import annotations

from types import ModuleType

from tapegrad._compile.capture.graph import Graph
from tapegrad._compile.capture.tracer import tracer_type
from tapegrad._compile.capture.tracer_backend import TraceBackend
from tapegrad._compile.eager_fusion import Fused
from tapegrad._engine import fusing
from tapegrad._engine.bound import bound
from tapegrad._protocols import hints, known_libraries, numpy_protocols, operators
from tapegrad._transforms import later, reverse
from tapegrad._transforms.opaque import as_one
from tapegrad._vmap.array import BatchedBackend
from tapegrad._vmap.rules import BatchedNamespace
from tapegrad.backends._base import Namespace
from tapegrad.ops import _slopes, _trilinear, _windows, attention, creation, draws, dropout, indexing

# Functions beyond the standard that rules on Tensors call.
_ON_TENSORS: dict[ModuleType, str] = {
    _trilinear: "convolution convolution_input convolution_weight",
    _windows: "max_pool pad_last pool_gather pool_scatter window_spread window_sum windows windows_sum",
}


def bind(namespace: ModuleType) -> None:
    """Fill the slots of lower floors; namespace: the module tapegrad."""
    bound.namespace = namespace
    own = {name: getattr(indexing, name) for name in ("index_get", "index_set", "index_add")}
    own |= {name: getattr(_slopes, name) for name in ("sigmoid_slope", "tanh_slope")}
    for module, names in _ON_TENSORS.items():
        own |= {name: getattr(module, name) for name in names.split()}
    own |= {name: getattr(draws, name) for name in ("draw", "gamma_sample", "skip")}
    own["dropped"] = dropout.dropped
    own |= {name: getattr(attention, name) for name in ("attend", "attend_gradient")}
    bound.tensor_namespace = Namespace(namespace, as_one=as_one, **own)
    bound.asarray, bound.of_list = creation.asarray, creation.of_list
    bound.hint = hints.of_attribute
    BatchedBackend.namespace = BatchedNamespace
    Graph.library, Graph.array_type = TraceBackend, tracer_type
    operators.install()  # the operators of Tensors
    numpy_protocols.install()  # NumPy's protocols
    fusing.install(Fused)  # kernels of eager calls
    reverse.install_later(later.derivatives)
    known_libraries.watch()  # for imports of libraries with a list of array types
