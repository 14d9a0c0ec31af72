"""The measurements of one program on several devices."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks._measure import Row


@dataclass
class Compared:
    """The measurements of one program; the labels are the devices, and "cpu compiled" for compiled ones.

    off: how far the results are from those of the first device, relative to the largest element. memory: the
    peak, in MB above the inputs.
    """

    row: Row
    off: dict[str, float]
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The program's name."""
        return f"{self.row.case.benchmark} {self.row.case.name}"

    def speed_up(self, device: str) -> float | None:
        """Return how many times as fast as eager a device is compiled."""
        return self.speed(compiled(device), device)

    def speed(self, label: str, against: str) -> float | None:
        """Return how many times as fast one is as another, None where one of them was not measured."""
        samples = self.row.samples
        return self.row.ratio(against, label) if label in samples and against in samples else None


def compiled(device: str) -> str:
    """Return the label of compiled programs on a device."""
    return f"{device} compiled"
