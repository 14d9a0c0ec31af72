"""Safetensors files: written whole or not at all, and read with one kind of error for all that is wrong with a file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VERSION = 1  # of the entry below of a file's metadata
_ENTRY = "tapegrad"  # JSON of version, values, complex and note; one entry, as the library writes entries in any order

Array = np.ndarray[Any, Any]


class Content(NamedTuple):
    """The content of a file: arrays and plain values (numbers, strings, None, lists of these) by name, and a note."""

    arrays: dict[str, Array]
    values: dict[str, Any]
    note: str | None


def write(path: Path, content: Content) -> None:
    """Write a file: to a temporary one beside it, down to the disk, then in the place of the old one.

    Whoever reads the path, at any time, even after a power failure, finds the old file or the new one.
    """
    numpy_file = _library()
    stored = {name: _stored(x) for name, x in content.arrays.items()}
    entry = {
        "version": VERSION,
        "values": content.values,
        "complex": [name for name, x in content.arrays.items() if _is_complex128(x)],
        "note": content.note,
    }
    metadata = {_ENTRY: json.dumps(entry)}
    replace(path, lambda temporary: numpy_file.save_file(stored, temporary, metadata))


def replace(path: Path, fill: Callable[[str], None]) -> None:
    """Put a new file in the place of an old one; `fill` writes it under the name that it is given.

    An error, a full disk for example, leaves the old file as it was and takes the temporary one away.
    """
    folder = path.parent
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=folder)
    os.close(handle)
    try:
        fill(temporary)
        os.chmod(temporary, _mode_of(path))
        _to_disk(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if _is_of_library(error):
            # The library tells of a full disk or a lost permission by an error of its own, with the system's text.
            raise OSError(f"{path} could not be written, and is as it was before: {error}") from error
        if isinstance(error, OSError):
            error.add_note(f"{path} could not be written, and is as it was before")
        raise
    if os.name == "posix":
        _to_disk(folder)  # the folder's entry, too


def _mode_of(path: Path) -> int:
    """Return the permissions of a file, or those that a new one would get: mkstemp's own are for the owner alone."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _to_disk(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> Content:
    """Read a file, one that other programs wrote too.

    Raises
    ------
    FileNotFoundError
        There is none.
    IsADirectoryError
        It is a folder.
    ValueError
        It is no whole safetensors file, or one of a later version of tapegrad.
    """
    _library()
    from safetensors import safe_open

    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file")
    try:
        with safe_open(path, framework="np") as file:
            entry = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no dict
    except TypeError as error:
        raise ImportError(f"{path} holds {error}: pip install ml_dtypes, which NumPy needs for it") from error
    except Exception as error:
        if not _is_of_library(error):
            raise
        raise ValueError(f"{path} cannot be read: {_fault(path)} ({error})") from error
    version = entry.get("version", 0)
    if version > VERSION:
        raise ValueError(
            f"{path} was written by a later version of tapegrad (version {version} of its files; this one reads "
            f"up to {VERSION}): update tapegrad"
        )
    for name in entry.get("complex", ()):
        arrays[name] = arrays[name].view(np.complex128)[..., 0]
    return Content(arrays, entry.get("values", {}), entry.get("note"))


def _fault(path: Path) -> str:
    """Return the fault of a file, by its size and first bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if size == 0:
        return "it is empty"
    if start[:1] == b"\x80" or start[:2] == b"PK":
        return (
            "it is a pickle, or a zip of one, as torch.save writes; a pickle can run any code, so it is not read: save "
            "its tensors with safetensors"
        )
    if start[:6] == b"\x93NUMPY":
        return "it is a file of numpy.save; read it with numpy.load"
    if len(start) == 8 and int.from_bytes(start, "little") < size:
        return "it is a safetensors file that is damaged"
    if len(start) == 8 and int.from_bytes(start, "little") < 100_000_000:
        return "it is no safetensors file, or only the beginning of one"
    return "it is no safetensors file"


def _stored(x: Array) -> Array:
    """Return an array as the format has it: C order; complex128, which it lacks, as pairs on a last axis."""
    x = np.asarray(x, order="C")
    return x[..., np.newaxis].view(np.float64) if _is_complex128(x) else x


def _is_complex128(x: Array) -> bool:
    return bool(x.dtype == np.complex128)


def _is_of_library(error: BaseException) -> bool:
    return type(error).__name__ == "SafetensorError"


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("saving and loading need safetensors: pip install 'tapegrad[training]'") from error
    return safetensors.numpy


def flat(tree: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Return the leaves of nested dicts under their joined keys.

    >>> from tapegrad._training.tensor_file import flat, nested
    >>> flat({"a": {"b": 1}, "c": 2})
    {'a/b': 1, 'c': 2}
    >>> nested({"a/b": 1, "c": 2})
    {'a': {'b': 1}, 'c': 2}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inside = isinstance(value, Mapping) and bool(value)
        parts = {f"{key}{separator}{n}": x for n, x in flat(value, separator).items()} if inside else {str(key): value}
        twice = found.keys() & parts.keys()
        if twice:
            raise ValueError(f"two entries would have the name {min(twice)!r}")
        found |= parts
    return found


def nested(leaves: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Return nested dicts of leaves under joined keys, the reverse of `flat`."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *path, last = name.split(separator)
        inner = tree
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = leaf
    return tree
