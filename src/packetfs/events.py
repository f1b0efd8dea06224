"""What happened, as values for surfaces to show. Nothing is printed or decided here.

Each event is one object of `--json`: its `event` field is the class's tag, names of fields are stable and only added
to. Paths are bytes, as the file system gave them; how to write them is up to the surface.
"""

from typing import Literal

import msgspec

__all__ = ["Change", "Committed", "Event", "Problem", "Progress", "Unchanged", "VolumeCreated"]

ProblemKind = Literal[
    "vanished",
    "changed",
    "unreadable",
    "missing",
    "unsupported",
    "attributes",
    # of a pull
    "owner-not-set",
    "device-not-made",
    "attributes-not-set",
]
Phase = Literal[
    "counting",
    "storing",
    "committing",
    "planning",
    "writing",
    "verifying",
    "marking",
    "waiting",
    "reclaiming",
    "punching",
]


class _Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    """An event; the subclass's tag names it."""


class VolumeCreated(_Event, frozen=True, tag="volume-created", kw_only=True):
    """A volume was made at `path`."""

    path: str
    volume_id: str


class Progress(_Event, frozen=True, tag="progress", kw_only=True):
    """How far an operation is. A total of None means that it is not known yet ("counting")."""

    phase: Phase
    path: bytes = b""
    """What is being worked on, or empty."""
    files: int = 0
    files_total: int | None = None
    bytes: int = 0
    bytes_total: int | None = None
    new_bytes: int = 0
    """Of `bytes`, what the volume did not have."""


class Problem(_Event, frozen=True, tag="problem", kw_only=True):
    """A file that could not be handled, or not as a whole; the operation went on without it, or without that."""

    path: bytes
    kind: ProblemKind
    errno: int = 0


class Change(_Event, frozen=True, tag="change", kw_only=True):
    """What a checkout did (or, in a dry run, would do) to one path, or in what a push differs from the snapshot before.

    `letters` are those of rsync's `--itemize-changes`.
    """

    path: bytes
    action: Literal["created", "replaced", "metadata", "deleted"]
    kind: str
    size: int = 0
    letters: str = ""


class Committed(_Event, frozen=True, tag="committed", kw_only=True):
    """A snapshot is durable and its ref names it."""

    ref: str
    snapshot: str
    seq: int


class Unchanged(_Event, frozen=True, tag="unchanged", kw_only=True):
    """Nothing differs from what the ref names already: no snapshot was made."""

    ref: str
    snapshot: str


Event = VolumeCreated | Progress | Problem | Change | Committed | Unchanged
