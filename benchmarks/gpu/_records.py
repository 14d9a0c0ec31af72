"""The file results.jsonl: one JSON object a line, on disk as soon as it is known."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "results.jsonl"

Record = dict[str, Any]


def append(folder: Path, record: Record) -> None:
    """Append a record to the file of a folder; it is on disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> list[Record]:
    """Return the records of a folder, without a last line that was cut off."""
    try:
        lines = (folder / FILE).read_text().splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


@dataclass(frozen=True)
class Output:
    """The place that a step writes to: lines for the reader, records for the report. tiny: sizes are small."""

    folder: Path
    tiny: bool = False

    def write(self, line: str, **record: Any) -> None:
        """Print a line and append its record, which names its kind, to the file."""
        print(line, flush=True)
        if record:
            self.record(**record)

    def record(self, **record: Any) -> None:
        """Append a record to the file."""
        append(self.folder, record)


def output_of(argv: Sequence[str] | None, parser: argparse.ArgumentParser) -> tuple[Output, argparse.Namespace]:
    """Read the command line of a step: --out and --tiny, and the arguments that its parser has beside them."""
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(argv)
    return Output(given.out, given.tiny), given
