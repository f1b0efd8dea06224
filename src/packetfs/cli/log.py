"""`packetfs log`: the history of a ref."""

from collections.abc import Iterator
from itertools import islice

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import amount, bytes_text, time_json, time_text
from packetfs.errors import UsageError
from packetfs.format.snapshot import Snapshot
from packetfs.format.when import LATEST


@command(
    "log",
    examples="""
packetfs log /srv/volume::main
packetfs log -c 5 /srv/volume::main
packetfs log --json /srv/volume::main
""",
)
@click.argument("location", metavar="VOLUME::REF[@WHEN]", shell_complete=paths)
@click.option("-c", "--count", type=click.IntRange(min=1), help="At most so many snapshots.")
@remote_options
def log(invocation: Invocation, location: str, count: int | None) -> None:
    """List the snapshots of a ref, newest first.

    With @WHEN, from that one on. The id in the first column can stand after `@`.
    """
    place = invocation.location(location, remote=True)
    if place.path:
        raise UsageError("the history of a single path is not kept", hint="leave :/PATH out")
    with invocation.open(place) as volume:
        snapshots = volume.log(place.line)
        if place.when != LATEST:
            first = volume.resolve(place.line, place.when)
            snapshots = _since(snapshots, first)
        for snapshot in islice(snapshots, count):
            invocation.output.data(_line(place.line, snapshot), _text(snapshot))


def _since(snapshots: Iterator[Snapshot], first: Snapshot) -> Iterator[Snapshot]:
    for snapshot in snapshots:
        if snapshot.id == first.id:
            yield snapshot
            yield from snapshots


def _text(snapshot: Snapshot) -> str:
    counted = snapshot.statistics
    text = f"{snapshot.short}  {time_text(snapshot.time_ns)}  {amount(counted.files, 'file')}, "
    text += f"{bytes_text(counted.logical_bytes)} ({bytes_text(counted.new_bytes)} new)"
    if snapshot.source_time_ns is not None:
        text += f"  of {time_text(snapshot.source_time_ns)}"
    if snapshot.tags:
        text += f"  [{shown(', '.join(snapshot.tags))}]"
    return f"{text}  {shown(snapshot.message)}" if snapshot.message else text


def _line(ref: str, snapshot: Snapshot) -> lines.SnapshotLine:
    counted = snapshot.statistics
    return lines.SnapshotLine(
        ref=ref,
        snapshot=snapshot.name,
        parent=snapshot.parent.hex() or None,
        time_ns=snapshot.time_ns,
        time=time_json(snapshot.time_ns),
        host=snapshot.host,
        user=snapshot.user,
        message=snapshot.message,
        tags=list(snapshot.tags),
        source_time_ns=snapshot.source_time_ns,
        sources=list(snapshot.paths),
        root_is_source=snapshot.root_is_source,
        root_digest=snapshot.root_digest.hex(),
        files=counted.files,
        directories=counted.directories,
        symlinks=counted.symlinks,
        logical_bytes=counted.logical_bytes,
        new_bytes=counted.new_bytes,
    )
