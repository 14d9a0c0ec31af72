"""Wheels that are carried to a machine where nothing can be installed."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile


def unpack(wheels: Path, folder: Path) -> bool:
    """Unpack all wheels of a folder, which makes their packages importable there; say whether there were any."""
    found = sorted(wheels.glob("*.whl"))
    for wheel in found:
        with ZipFile(wheel) as archive:
            archive.extractall(folder)
    return bool(found)
