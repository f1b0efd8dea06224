"""`packetfs verify`: check every byte of a volume against its digest."""

from typing import TYPE_CHECKING

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.output import Output
from packetfs.cli.quantities import amount, bytes_text, duration
from packetfs.errors import EXIT_OK, DamagedError

if TYPE_CHECKING:
    from packetfs.sync.scrub import DamagedPath, DamagedRange


@command(
    "verify",
    examples="""
packetfs verify /srv/volume
packetfs verify --restart /srv/volume
packetfs verify --json /srv/volume | jq 'select(.event == "damaged-path").path'
""",
)
@click.argument("volume", required=False, shell_complete=paths)
@click.option("--restart", is_flag=True, help="Begin anew instead of going on where a stopped run was.")
def verify(invocation: Invocation, *, volume: str | None, restart: bool) -> int:
    """Check every byte of a volume against its digest.

    And that every snapshot has all of its bytes. A run that is stopped is continued by the next one. Damaged ranges are
    listed with the files that need them and the snapshots in which they do; the exit code is then 5. Nothing is
    repaired; but the next push of such a file reads it again and stores it anew: the snapshot it makes is whole.
    """
    output = invocation.output
    place = invocation.volume(volume)
    from packetfs.sync import scrub

    with invocation.volume_here(place) as opened, output.meter("verify") as meter:
        report = scrub.verify(
            opened, restart=restart, progress=meter, found=lambda damaged: _tell_range(output, damaged)
        )
        seconds = meter.elapsed_s
    if report.journal:
        text = f"the journal is damaged: {report.journal}"
        output.warning(lines.Notice(code="journal-damaged", message=text), text)
    for path in report.paths:
        _tell_path(output, path)
    summary = lines.Verified(
        volume=place.volume,
        segments=report.segments,
        checked_bytes=report.checked_bytes,
        resumed_bytes=report.resumed_bytes,
        damaged_ranges=len(report.ranges),
        damaged_paths=len(report.paths),
        journal=report.journal,
        seconds=round(seconds, 3),
    )
    text = f"checked {bytes_text(report.checked_bytes)} in {amount(report.segments, 'segment')}"
    if report.resumed_bytes:
        text += f", after {bytes_text(report.resumed_bytes)} in the run before"
    output.notice(summary, f"{text}, in {duration(seconds)}: {'no damage' if report.sound else 'damage found'}")
    if not report.sound:
        if not report.ranges and not report.paths:
            raise DamagedError(
                "the journal is damaged",
                code="journal-damaged",
                hint="`packetfs rebuild` recovers it from the segments",
            )
        if not report.ranges:
            raise DamagedError(
                f"{amount(len(report.paths), 'path')} of snapshots need bytes that the journal does not know",
                code="journal-damaged",
                hint="`packetfs rebuild` looks for them in the segments",
                paths=len(report.paths),
            )
        raise DamagedError(
            f"{amount(len(report.ranges), 'damaged range')}, needed by {amount(len(report.paths), 'path')}",
            hint="push again what you still have of what is listed: it is stored anew; what is not listed is intact",
            ranges=len(report.ranges),
            paths=len(report.paths),
        )
    return EXIT_OK


def _tell_range(output: Output, damaged: "DamagedRange") -> None:
    line = lines.Damage(
        address=damaged.address,
        length=damaged.length,
        file=damaged.file,
        offset=damaged.offset,
        reason=damaged.reason,
    )
    output.warning(
        line,
        f"damaged: {amount(damaged.length, 'byte')} at {damaged.offset:,} of {shown(damaged.file)}: "
        f"{shown(damaged.reason)}",
    )


def _tell_path(output: Output, damaged: "DamagedPath") -> None:
    line = lines.DamagedFile(
        path=damaged.path,
        snapshots=[{"ref": ref, "snapshot": snapshot.name} for ref, snapshot in damaged.snapshots],
    )
    ref, snapshot = damaged.snapshots[0]
    more = len(damaged.snapshots) - 1
    where = f"{ref}@{snapshot.short}" + (f" and {amount(more, 'other snapshot')}" if more else "")
    output.warning(line, f"damaged: {shown(damaged.path)} in {where}")
