"""What a server has done since it started, as numbers. It counts; how they are shown is `metrics.py`'s business."""

import threading
from collections import Counter
from typing import Final

__all__ = ["COMMIT_SECONDS", "Counts"]

COMMIT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds of the classes of how long commits took."""


class Counts:
    """Numbers that only grow. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[tuple[str, str]] = Counter()
        self._commits = [0] * (len(COMMIT_SECONDS) + 1)
        self._commit_s = 0.0

    def add(self, name: str, value: int = 1, label: str = "") -> None:
        """Add `value` to what is counted as `name`, and there apart by `label`."""
        with self._lock:
            self._totals[name, label] += value

    def committed(self, seconds: float) -> None:
        """Count a commit that took `seconds`, from when it was asked for until it was durable."""
        place = next((i for i, bound in enumerate(COMMIT_SECONDS) if seconds <= bound), len(COMMIT_SECONDS))
        with self._lock:
            self._commits[place] += 1
            self._commit_s += seconds

    def totals(self) -> Counter[tuple[str, str]]:
        """(name, label) -> sum."""
        with self._lock:
            return self._totals.copy()

    def commits(self) -> tuple[list[int], float]:
        """Commits of each class, the last one for all that took longer, and the seconds of all together."""
        with self._lock:
            return list(self._commits), self._commit_s
