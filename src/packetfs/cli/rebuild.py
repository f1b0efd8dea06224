"""`packetfs rebuild`: recover a lost or damaged journal from the segments."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import amount


@command(
    "rebuild",
    examples="""
packetfs rebuild /srv/volume
PACKETFS_VOLUME=/srv/volume packetfs rebuild
""",
)
@click.argument("volume", required=False, shell_complete=paths)
def rebuild(invocation: Invocation, volume: str | None) -> None:
    """Recover a lost or damaged journal from the segments.

    For a volume whose `journal.db` is missing, damaged or older than its segments: other commands say so. Every commit
    whose record is found intact is there again, and a new epoch begins. The old file is kept beside the new one. A
    sound journal is left alone (exit code 8).
    """
    place = invocation.volume(volume)
    from packetfs.volume import rebuild as volume_rebuild

    done = volume_rebuild.rebuild(place.volume)
    line = lines.Rebuilt(
        volume=place.volume,
        position_seq=done.position.seq,
        position_hash=done.position.hash.hex(),
        recovered_seq=done.recovered.seq,
        recovered_hash=done.recovered.hash.hex(),
        epoch=done.epoch,
        segments=done.segments,
        kept=done.kept,
    )
    text = f"recovered the journal up to {done.recovered} from {amount(done.segments, 'segment')}; "
    text += f"epoch {done.epoch} begins"
    if done.kept:
        text += f"; the old journal is {shown(done.kept)}"
    invocation.output.notice(line, text)
