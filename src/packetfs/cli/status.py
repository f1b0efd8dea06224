"""`packetfs status`: how large a volume is and where its journal stands."""

from typing import TYPE_CHECKING

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import amount, bytes_text, duration, time_json, time_text
from packetfs.errors import UsageError
from packetfs.volume import Volume
from packetfs.volume.replica import Replica

if TYPE_CHECKING:
    from packetfs.volume.standing import Standing


@command(
    "status",
    examples="""
packetfs status /srv/volume
packetfs status --json /srv/volume
""",
)
@click.argument("volume", required=False, shell_complete=paths)
@remote_options
def status(invocation: Invocation, volume: str | None) -> None:
    """Tell how large a volume is and where its journal stands.

    Logical: what separate copies of all snapshots would take. Unique: content that is stored once for all of them.
    Stored: that and the trees and the journal. On disk: that and what is derived from it. Reclaimed: what `gc` has
    given back.
    """
    place = invocation.volume(volume, remote=True)
    with invocation.open(place) as opened:
        if isinstance(opened, Replica):
            raise UsageError(
                f"{place.volume!r} is a replica: how large the volume is, its origin knows",
                hint=f"packetfs status {opened.identity.origin}",
            )
        found = opened.status()
        here = opened.standing if isinstance(opened, Volume) else None
    line = lines.StatusLine(
        volume=found.path,
        volume_id=found.volume_id,
        created=time_json(found.created_ns),
        epoch=found.epoch,
        position_seq=found.position.seq,
        position_hash=found.position.hash.hex(),
        refs=found.refs,
        snapshots=found.snapshots,
        logical_bytes=found.logical_bytes,
        latest_bytes=found.latest_bytes,
        unique_bytes=found.unique_bytes,
        stored_bytes=found.stored_bytes,
        disk_bytes=found.disk_bytes,
        dedup_ratio=round(found.dedup_ratio, 3),
        segments=found.segments,
        open_segments=found.open_segments,
        reclaimed_bytes=found.reclaimed_bytes,
        role=here.role if here is not None else "origin",
        origin=here.origin if here is not None else "",
        lag_bytes=here.bytes if here is not None else 0,
        lag_s=here.lag_s if here is not None else 0.0,
        heard=time_json(here.heard_ns) if here is not None and here.heard_ns else "",
        fenced_by_epoch=here.epoch if here is not None and here.role == "fenced" else None,
    )
    rows = [
        ("volume", f"{shown(found.path)} ({found.volume_id})"),
        ("created", time_text(found.created_ns)),
        ("position", f"{found.position} in epoch {found.epoch}"),
        ("snapshots", f"{found.snapshots:,} in {amount(found.refs, 'ref')}"),
        ("logical", f"{bytes_text(found.logical_bytes)} ({bytes_text(found.latest_bytes)} in the latest)"),
        ("unique", f"{bytes_text(found.unique_bytes)} ({found.dedup_ratio:.2f} : 1)"),
        ("stored", f"{bytes_text(found.stored_bytes)} in {amount(found.segments, 'segment')}"),
        ("on disk", bytes_text(found.disk_bytes)),
    ]
    if here is not None:
        rows.append(("role", _role(here)))
    if found.reclaimed_bytes:
        rows.append(("reclaimed", bytes_text(found.reclaimed_bytes)))
    invocation.output.data(line, "\n".join(f"{name:<10} {value}" for name, value in rows))


def _role(here: "Standing") -> str:
    if here.role == "fenced":
        return f"fenced: epoch {here.epoch} began elsewhere, and this copy is not written to"
    text = f"full replica of {shown(here.origin)}"
    if not here.heard_ns:
        return f"{text}, which it has not followed yet"
    behind = f"{bytes_text(here.bytes)} and {duration(here.lag_s)} behind" if here.time_ns else "up to date"
    return f"{text}, {behind} at {time_text(here.heard_ns)}"
