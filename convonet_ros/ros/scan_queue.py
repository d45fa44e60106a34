"""What arrived and waits for its turn, and what became of everything that arrived."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convonet_ros.sensors import Intrinsics

_REPEAT_S = 5.0  # the same complaint is not written more often
_LONGEST = 400  # characters of a complaint, which may quote what arrived


class Tally:
    """What became of every scan: received = integrated + dropped + waiting.

    Complaints are one sentence each, written with `warn`, throttled by their reason. May be used
    by several threads.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._lock = threading.Lock()
        self._written: dict[str, float] = {}
        self.received = 0
        self.integrated = 0
        self.drops: Counter[str] = Counter()
        self.last_error = ""

    def receive(self) -> None:
        with self._lock:
            self.received += 1

    def integrate(self) -> None:
        with self._lock:
            self.integrated += 1

    def drop(self, reason: str, sentence: str) -> None:
        """Count a scan that is lost, and say why."""
        with self._lock:
            self.drops[reason] += 1
            count = self.drops[reason]
        self.complain(reason, f"scan dropped ({count} so far): {sentence}", sentence)

    def complain(self, reason: str, sentence: str, error: str = "") -> None:
        """Write a sentence unless its reason was written just now."""
        now = time.monotonic()
        with self._lock:
            self.last_error = _one_line(error or sentence)
            if now - self._written.get(reason, -_REPEAT_S) < _REPEAT_S:
                return
            self._written[reason] = now
        self._warn(_one_line(sentence))

    def snapshot(self) -> tuple[int, int, dict[str, int], str]:
        """received, integrated, drops by reason, last error: all of one moment."""
        with self._lock:
            return self.received, self.integrated, dict(sorted(self.drops.items())), self.last_error


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]


@dataclass(slots=True)
class Camera:
    """What is known of a depth camera: its intrinsics, or why they are no good."""

    topic: str
    intrinsics: Intrinsics | None = None
    problem: str = ""


@dataclass(slots=True, eq=False)
class Measurement:
    """A message that waits to become a scan. camera: None for a point cloud."""

    topic: str
    frame_id: str
    stamp_ns: int
    message: Any
    camera: Camera | None
    arrived_s: float
    missing: tuple[str, str] | None = None  # what it waited for when last looked at

    def age_s(self) -> float:
        return time.monotonic() - self.arrived_s


class ScanQueue:
    """Measurements in the order of their arrival; the oldest one goes when there are too many."""

    def __init__(self, size: int, tally: Tally) -> None:
        self._size = size
        self._tally = tally
        self._waiting: list[Measurement] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, measurement: Measurement) -> None:
        with self._lock:
            self._waiting.append(measurement)
            lost = self._waiting.pop(0) if len(self._waiting) > self._size else None
        if lost:
            # A scan that waited for something would have been lost to a longer queue too.
            full = f"more than {self._size} scans wait, so the oldest goes"
            reason, why = lost.missing or ("queue_full", "the sensors are faster than the map")
            self._tally.drop(reason, f"{why}; {full}")

    def waiting(self) -> list[Measurement]:
        """All that wait, oldest first."""
        with self._lock:
            return list(self._waiting)

    def remove(self, measurement: Measurement) -> bool:
        """Take a measurement out; False when it was dropped in the meantime."""
        with self._lock:
            if measurement not in self._waiting:
                return False
            self._waiting.remove(measurement)
            return True
