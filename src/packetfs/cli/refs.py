"""`packetfs refs`: the refs of a volume and what they name."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.quantities import amount, bytes_text, time_json, time_text


@command(
    "refs",
    examples="""
packetfs refs /srv/volume
PACKETFS_VOLUME=/srv/volume packetfs refs --json
""",
)
@click.argument("volume", required=False, shell_complete=paths)
@remote_options
def refs(invocation: Invocation, volume: str | None) -> None:
    """List the refs of a volume."""
    with invocation.open(invocation.volume(volume, remote=True)) as opened:
        found = opened.refs()
    width = max((len(ref.name) for ref in found), default=0)
    for ref in found:
        snapshot = ref.snapshot
        line = lines.RefLine(
            ref=ref.name,
            snapshot=snapshot.name,
            time_ns=snapshot.time_ns,
            time=time_json(snapshot.time_ns),
            visited=time_json(ref.visited_ns),
            seq=ref.seq,
        )
        counted = snapshot.statistics
        text = f"{ref.name:<{width}}  {snapshot.short}  {time_text(snapshot.time_ns)}  "
        invocation.output.data(line, text + f"{amount(counted.files, 'file')}, {bytes_text(counted.logical_bytes)}")
