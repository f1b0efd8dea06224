"""Bytes at rest: one volume on this machine. Start reading at `volume.py`; a push is told in `ingest.py`.

Nothing here knows of peers, of directories to check out into, or of how things are shown.
"""

from packetfs.format.entry import Position
from packetfs.format.snapshot import Snapshot, Statistics
from packetfs.kernel import Entry
from packetfs.volume.ingest import PushReport, Source, sources_of
from packetfs.volume.refs import Ref
from packetfs.volume.selection import Pattern, Selection
from packetfs.volume.status import Status
from packetfs.volume.volume import Volume

__all__ = [
    "Entry",
    "Pattern",
    "Position",
    "PushReport",
    "Ref",
    "Selection",
    "Snapshot",
    "Source",
    "Statistics",
    "Status",
    "Volume",
    "sources_of",
]
