"""How long what was moved would take over a link that nobody has here: arithmetic, and never passed off as measured.

Does no I/O and knows nothing of who moved it.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["FORMULA", "STEPS", "Link", "Moved", "Row", "Step", "reckoned_s", "room_needed"]

FORMULA: Final = "the longer of the time here and wire bytes / rate, plus round trips x round-trip time"

Step = str
STEPS: Final[tuple[Step, ...]] = ("first copy", "new version", "no change")

_ROOM_SLACK_BYTES: Final = 64 << 20  # the volume's reserve, tables, indexes and logs of an almost empty volume, twice


@dataclass(frozen=True, slots=True)
class Link:
    """What lies between two machines: one rate for both directions together, and no losses."""

    bits_s: float
    round_trip_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Moved:
    """What one copy took, both sides together. What is not known counts as nothing, which favours who did it."""

    wire_bytes: int
    round_trips: int | None = None
    seconds: float | None = None
    cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One step of one subject. `why` says why there is no `moved`, or why it is not of all that there was."""

    step: Step
    subject: str
    moved: Moved | None
    why: str = ""


def reckoned_s(moved: Moved, link: Link) -> float:
    """Seconds over `link`: while bytes travel one works on, but for an answer one waits."""
    travel_s = moved.wire_bytes * 8 / link.bits_s
    return max(moved.seconds or 0.0, travel_s) + (moved.round_trips or 0) * link.round_trip_s


def room_needed(old_bytes: int, new_bytes: int) -> int:
    """Bytes that the scratch directory must have room for: nothing in common, and all of it on both sides."""
    return 2 * (old_bytes + new_bytes) + _ROOM_SLACK_BYTES
