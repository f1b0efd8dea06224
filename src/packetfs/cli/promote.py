"""`packetfs promote`: a full replica becomes the origin of its volume."""

from typing import TYPE_CHECKING, Final

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown, shown_message
from packetfs.errors import PacketFSError, RefusedError
from packetfs.format.location import parse_location

if TYPE_CHECKING:
    from packetfs.volume.promote import Promoted

_PATIENCE_S: Final = 10.0  # with an old origin that does not answer: it is why one promotes


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
    to any more: over pfs:// it is told so, if it can be reached. Should it come back, it is fenced when a replica
    of the new one reaches it, or by `packetfs replicate NEW OLD_DIR` on its machine: that makes it a replica of the
    new origin, and keeps what only it had under refs of their own.
    """
    from packetfs.volume import promote as volume_promote
    from packetfs.volume.replica import is_replica

    place = invocation.volume(directory)
    if is_replica(place.volume):
        raise RefusedError(
            f"{place.volume!r} is a clone, which cannot be an origin",
            code="not-a-replica",
            hint="name a directory that `packetfs replicate` has made",
        )
    with invocation.volume_here(place) as volume:
        done = volume_promote.promote(volume)
        proof = volume.epoch_proof()
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
    invocation.output.flush()
    if done.origin:
        _tell(invocation, done, proof)


def _tell(invocation: Invocation, done: "Promoted", proof: bytes) -> None:
    """Let the old origin know, if it can be reached without asking anybody for a password."""
    place = parse_location(done.origin)
    if place.endpoint is None or place.endpoint.scheme != "pfs":
        return
    from packetfs.sync import remote, replicate
    from packetfs.wire import protocol

    chosen = invocation.settings
    try:
        connection = remote.reach(place, ssh=chosen.ssh, remote_packetfs=chosen.remote_packetfs, patience_s=_PATIENCE_S)
        with replicate.reach(connection, place.volume, done.origin) as old:
            old.link.ask(protocol.Fence(proof), protocol.Fenced)
    except PacketFSError as error:
        text = f"the old origin could not be told: {shown_message(error.message)}"
        invocation.output.warning(lines.Notice(code=error.code, message=text), text)
        return
    text = f"the old origin was told: {shown(done.origin)} is fenced, and writes nothing any more"
    invocation.output.notice(lines.Notice(code="fenced", message=text), text)
