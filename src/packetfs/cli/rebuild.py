"""`packetfs rebuild`: recover a lost or damaged journal from the segments."""

import os
from typing import NoReturn

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown, shown_message
from packetfs.cli.quantities import amount, bytes_text
from packetfs.errors import EXIT_OK, PartialError, UsageError


@command(
    "rebuild",
    examples="""
packetfs rebuild /srv/volume
PACKETFS_VOLUME=/srv/volume packetfs rebuild
packetfs rebuild --without-secret --into /tmp/found /srv/volume
""",
)
@click.argument("volume", required=False, shell_complete=paths)
@click.option("--without-secret", is_flag=True, help="The secret is lost, too: write unverified files into DIR.")
@click.option("--into", metavar="DIR", shell_complete=paths, help="A new directory for --without-secret.")
def rebuild(invocation: Invocation, *, volume: str | None, without_secret: bool, into: str | None) -> int:
    """Recover a lost or damaged journal from the segments.

    For a volume whose `journal.db` is missing, damaged or older than its segments: other commands say so. Every commit
    whose record is found intact is there again, and a new epoch begins. The old file is kept beside the new one. A
    sound journal is left alone (exit code 8).

    Where the file `secret` is lost as well, nothing can be verified and the volume cannot be recovered. Then
    --without-secret writes what seems to be the newest snapshot of each ref into DIR, and changes nothing in the
    volume. Any byte of it may be wrong; the exit code is 3.
    """
    place = invocation.volume(volume)
    if without_secret != (into is not None):
        raise UsageError("--without-secret and --into DIR belong together", hint="give both or neither")
    if into is not None:
        _salvage(invocation, place.volume, into)
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
    return EXIT_OK


def _salvage(invocation: Invocation, volume: str, into: str) -> NoReturn:
    from packetfs.sync.salvage import salvage

    output = invocation.output
    with output.meter("rebuild") as meter:
        done, lost_bytes, lost_pages = salvage(volume, into, progress=meter)
    for one in done:
        line = lines.Salvaged(
            ref=one.ref,
            snapshot=one.snapshot.name,
            target=os.fsencode(os.path.join(into, one.ref)),
            files=one.files,
            written_bytes=one.written_bytes,
            reason=one.why_not,
        )
        text = f"UNVERIFIED: {one.ref}@{one.snapshot.short}: {amount(one.files, 'file')}, "
        text += bytes_text(one.written_bytes) + (f"; {shown_message(one.why_not)}" if one.why_not else "")
        output.warning(line, text)
    raise PartialError(
        f"nothing in {into!r} is verified: without the volume's secret any byte, name or date may be wrong; "
        f"{amount(lost_bytes, 'byte')} that were missing are zeros, "
        f"{amount(lost_pages, 'page')} of directories could not be read",
        code="unverified",
        hint="compare it with whatever else there is; with the secret from a backup `packetfs rebuild` recovers it all",
        lost_bytes=lost_bytes,
        lost_pages=lost_pages,
    )
