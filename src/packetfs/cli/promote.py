"""`packetfs promote`: a full replica becomes the origin of its volume."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown


@command(
    "promote",
    examples="""
packetfs promote /srv/replicas/photos
""",
)
@click.argument("directory", metavar="DIR", shell_complete=paths)
def promote(invocation: Invocation, *, directory: str) -> None:
    """Make a full replica the origin of its volume.

    That is for when the old origin is lost or is to be replaced. A new epoch begins, and DIR is written to from
    then on. What the old origin committed and DIR has not is not in the volume. The old origin must not be written
    to any more. Should it come back, it is fenced when a replica of the new one reaches it, or by `packetfs
    replicate NEW OLD_DIR` on its machine: that makes it a replica of the new origin, and keeps what only it had
    under refs of their own.
    """
    from packetfs.volume import promote as volume_promote

    place = invocation.volume(directory)
    with invocation.volume_here(place) as volume:
        done = volume_promote.promote(volume)
    line = lines.Promoted(
        volume=place.volume,
        epoch=done.epoch,
        position_seq=done.position.seq,
        position_hash=done.position.hash.hex(),
        continued_seq=done.continued.seq,
        continued_hash=done.continued.hash.hex(),
        old_origin=done.origin,
    )
    text = f"{shown(place.volume)} is the origin now: epoch {done.epoch} begins after position {done.continued}"
    if done.origin:
        text += f"; nobody may write to {shown(done.origin)} any more"
    invocation.output.notice(line, text)
