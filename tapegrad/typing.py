"""Types of arguments, for annotations of a user's own functions: `from tapegrad.typing import ArrayLike`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, SupportsIndex, TypeVar

from tapegrad._engine.dtypes import DType
from tapegrad._engine.tensor import Tensor

T_co = TypeVar("T_co", covariant=True)


class SupportsArray(Protocol):
    """An array of any library: NumPy, CuPy, PyTorch, JAX, Dask and others of the array API standard."""

    @property
    def shape(self) -> Any:
        """The length of each axis."""

    @property
    def dtype(self) -> Any:
        """The element type, an object of the library."""


class NestedSequence(Protocol[T_co]):
    """A list or tuple of items, or of lists or tuples of them; a string is none."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> T_co | NestedSequence[T_co]: ...
    def __contains__(self, item: object, /) -> bool: ...
    def __iter__(self) -> Iterator[T_co | NestedSequence[T_co]]: ...


class LibraryDType(Protocol):
    """A dtype object of a library: NumPy's `numpy.dtype`, PyTorch's `torch.float32`."""

    @property
    def itemsize(self) -> int:
        """The number of bytes of an element."""


class SupportsDLPack(Protocol):
    """An object whose memory can be handed over by DLPack."""

    def __dlpack__(self, *, stream: Any = None) -> Any:
        """Return a capsule of the memory."""

    def __dlpack_device__(self) -> tuple[Any, int]:
        """Return the kind and the number of the device."""


ArrayLike = Tensor | SupportsArray | complex | NestedSequence[Tensor | SupportsArray | complex]
DTypeLike = DType | LibraryDType | type[Any] | str
Axis = int | tuple[int, ...] | None
Shape = SupportsIndex | Sequence[SupportsIndex]

__all__ = ["ArrayLike", "Axis", "DTypeLike", "Shape", "SupportsDLPack"]
