"""Inspection of the namespace, as the array API standard defines it."""

from __future__ import annotations

from typing import Any

from tapegrad import backends
from tapegrad._engine.dtypes import DTYPES, DType, isdtype
from tapegrad._engine.settings import default_device, float_dtype_on

# The dtypes of the standard, which has no half precision.
_STANDARD = tuple(name for name in DTYPES if name not in ("float16", "bfloat16"))


class Devices(tuple[str, ...]):
    """A tuple that can be added to a list: the standard had a list before 2025.12, and SciPy adds one to it."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return [*self, *other] if isinstance(other, list) else super().__add__(other)

    def __radd__(self, other: Any) -> Any:
        return [*other, *self] if isinstance(other, list) else NotImplemented


class Info:
    """The inspection functions of the array API standard, about tapegrad.

    >>> import tapegrad as tg
    >>> info = tg.__array_namespace_info__()
    >>> info.devices()[0], info.capabilities()["boolean indexing"]
    ('cpu', True)
    """

    def capabilities(self) -> dict[str, Any]:
        """Return the capabilities of tapegrad.

        Returns
        -------
        dict
            'boolean indexing' and 'data-dependent shapes', which are True, and 'max dimensions', which is that of the
            default library.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.__array_namespace_info__().capabilities()["max dimensions"]
        64
        """
        backend, _ = backends.of_device(default_device())
        most = backend.xp.__array_namespace_info__().capabilities().get("max dimensions", 64)
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": most}

    def default_device(self) -> str:
        """Return the device of new Tensors: that of `tapegrad.default_device`.

        Returns
        -------
        str
            The device.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.__array_namespace_info__().default_device()
        'cpu'
        """
        backend, native = backends.of_device(default_device())
        return backend.full_name(native)

    def default_dtypes(self, *, device: str | None = None) -> dict[str, DType]:
        """Return the dtypes that new Tensors on a device get, by kind.

        The floating ones follow `tapegrad.default_dtype`.

        Parameters
        ----------
        device : str or None, default None
            The device; the default one for None.

        Returns
        -------
        dict of str to DType
            The dtypes for 'real floating', 'complex floating', 'integral' and 'indexing'.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.__array_namespace_info__().default_dtypes()["complex floating"]
        tapegrad.complex128
        """
        backend, native = backends.of_device(default_device() if device is None else device)
        real = DTYPES[backend.dtype_names[float_dtype_on(backend, native)]]
        integer = DTYPES["int64" if backend.has_dtype("int64", native) else "int32"]
        return {
            "real floating": real,
            "complex floating": DTYPES["complex128" if real.name == "float64" else "complex64"],
            "integral": integer,
            "indexing": integer,
        }

    def dtypes(self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None) -> dict[str, DType]:
        """Return the standard's dtypes that a device has, by name.

        Parameters
        ----------
        device : str or None, default None
            The device; the default one for None.
        kind : str or tuple[str, ...] or None, default None
            The kind of dtypes, as for `tapegrad.isdtype`; all of them for None.

        Returns
        -------
        dict of str to DType
            The dtypes.

        Raises
        ------
        ValueError
            The kind is unknown.

        Examples
        --------
        >>> import tapegrad as tg
        >>> list(tg.__array_namespace_info__().dtypes(kind="real floating"))
        ['float32', 'float64']
        """
        backend, native = backends.of_device(default_device() if device is None else device)
        return {
            name: DTYPES[name]
            for name in _STANDARD
            if (kind is None or isdtype(DTYPES[name], kind)) and backend.has_dtype(name, native)
        }

    def devices(self) -> Devices:
        """Return the devices of NumPy, of the default library and of those this process has imported.

        Libraries that are installed but not imported are left out, so that asking takes no seconds to import them:
        `tapegrad.backends.available` tells of those.

        Returns
        -------
        tuple of str
            The devices.

        Examples
        --------
        >>> import tapegrad as tg
        >>> "cpu" in tg.__array_namespace_info__().devices()
        True
        """
        backends.of_device(default_device())
        return Devices(device for backend in backends.imported() for device in backend.devices())


def __array_namespace_info__() -> Info:
    """Return an object to ask about tapegrad's devices, dtypes and capabilities.

    Returns
    -------
    Info
        The inspection functions of the array API standard.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.__array_namespace_info__().default_device()
    'cpu'
    """
    return Info()
