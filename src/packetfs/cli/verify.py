"""`packetfs verify`: check every byte of a volume against its digest, and repair what is damaged from another copy."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, ssh_options
from packetfs.cli.config import size
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown, shown_message
from packetfs.cli.output import Output
from packetfs.cli.quantities import amount, bytes_text, duration
from packetfs.errors import EXIT_OK, DamagedError, UsageError
from packetfs.format.location import Location

if TYPE_CHECKING:
    from packetfs.sync.repair import Copy, Source
    from packetfs.sync.scrub import DamagedPath, DamagedRange, ScrubReport


@command(
    "verify",
    examples="""
packetfs verify /srv/volume
packetfs verify --rate 50M --restart /srv/volume
packetfs verify --repair-from ada@host:/backup/volume /srv/volume
packetfs verify --json /srv/volume | jq 'select(.event == "damaged-path").path'
""",
)
@click.argument("volume", required=False, shell_complete=paths)
@click.option("--restart", is_flag=True, help="Begin anew instead of going on where a stopped run was.")
@click.option(
    "--repair-from",
    metavar="LOCATION",
    shell_complete=paths,
    help="Another copy of the volume, here or on another machine: what is damaged is fetched from there.",
)
@click.option("--rate", metavar="SIZE", help="Read no more than this in a second: 50M.")
@ssh_options
def verify(
    invocation: Invocation, *, volume: str | None, restart: bool, repair_from: str | None, rate: str | None
) -> int:
    """Check every byte of a volume against its digest.

    And that every snapshot has all of its bytes. A run that is stopped is continued by the next one. Damaged ranges are
    listed with the files that need them and the snapshots in which they do; the exit code is then 5. VOLUME may be a
    replica.

    With --repair-from, damaged ranges are fetched from another copy of the volume: a replica made with
    `clone --full`, or the origin of a replica. Only what can be proved is written; if all is sound then, the exit code
    is 0. Without it nothing is repaired; but the next push of such a file reads it again and stores it anew: the
    snapshot it makes is whole.
    """
    output = invocation.output
    place = invocation.volume(volume)
    bytes_per_s = None if rate is None else size(rate, "--rate")
    if bytes_per_s == 0:
        raise UsageError("--rate 0 would never end", hint="leave it out to read as fast as possible")
    from packetfs.sync import scrub

    with ExitStack() as stack:
        copy = _opened(invocation, place, stack)
        source = _source(invocation, copy, repair_from, stack) if repair_from is not None else None
        meter = stack.enter_context(output.meter("verify"))
        report = scrub.verify(
            copy,
            restart=restart,
            source=source,
            bytes_per_s=bytes_per_s,
            progress=meter,
            found=lambda damaged: _tell_range(output, damaged),
        )
        seconds = meter.elapsed_s
    _tell(output, place, report, seconds)
    if not report.sound:
        raise _why(report, is_repaired=repair_from is not None)
    return EXIT_OK


def _opened(invocation: Invocation, place: Location, stack: ExitStack) -> "Copy":
    """The volume or replica at `place`, open until `stack` ends."""
    from packetfs import api
    from packetfs.volume.replica import is_replica

    if is_replica(place.volume):
        replica = api.open_replica(place.volume, lock_wait_s=invocation.settings.lock_wait_s)
        return stack.enter_context(replica)
    return stack.enter_context(invocation.volume_here(place))


def _source(invocation: Invocation, copy: "Copy", repair_from: str, stack: ExitStack) -> "Source":
    """The other copy, open until `stack` ends."""
    from packetfs.sync.remote import far_source
    from packetfs.sync.repair import check_same, near_source

    chosen, place = invocation.settings, invocation.volume(repair_from, remote=True)
    if place.endpoint is None:
        return near_source(copy, _opened(invocation, place, stack))
    found = stack.enter_context(far_source(place, ssh=chosen.ssh, remote_packetfs=chosen.remote_packetfs))
    check_same(copy, *found.identity, repair_from)
    return found


def _tell(output: Output, place: Location, report: "ScrubReport", seconds: float) -> None:
    if report.journal:
        text = f"the journal is damaged: {report.journal}"
        output.warning(lines.Notice(code="journal-damaged", message=text), text)
    for path in report.paths:
        _tell_path(output, path)
    for reason in report.reasons:
        text = f"not all could be repaired: {shown_message(reason)}"
        output.warning(lines.Notice(code="not-repaired", message=text), text)
    repaired_bytes = sum(length for _, length in report.repaired)
    summary = lines.Verified(
        volume=place.volume,
        segments=report.segments,
        checked_bytes=report.checked_bytes,
        resumed_bytes=report.resumed_bytes,
        damaged_ranges=report.found_ranges,
        damaged_paths=len(report.paths),
        repaired_ranges=len(report.repaired),
        repaired_bytes=repaired_bytes,
        unrepaired_ranges=len(report.ranges),
        unrepaired_bytes=sum(damaged.length for damaged in report.ranges),
        reasons=list(report.reasons),
        journal=report.journal,
        seconds=round(seconds, 3),
        bytes_per_s=round(report.checked_bytes / seconds) if seconds else 0,
    )
    text = f"checked {bytes_text(report.checked_bytes)} in {amount(report.segments, 'segment')}"
    if report.resumed_bytes:
        text += f", after {bytes_text(report.resumed_bytes)} in the run before"
    found = "damage found" if report.found_ranges or not report.sound else "no damage"
    text += f", in {duration(seconds)}: {found}"
    if report.repaired:
        text += f", {bytes_text(repaired_bytes)} repaired"
    output.notice(summary, text)


def _why(report: "ScrubReport", *, is_repaired: bool) -> DamagedError:
    """The error for what is damaged still."""
    if not report.ranges and not report.paths:
        return DamagedError(
            "the journal is damaged",
            code="journal-damaged",
            hint="`packetfs rebuild` recovers it from the segments",
        )
    if not report.ranges:
        return DamagedError(
            f"{amount(len(report.paths), 'path')} of snapshots need bytes that the journal does not know",
            code="journal-damaged",
            hint="`packetfs rebuild` looks for them in the segments",
            paths=len(report.paths),
        )
    hint = "push again what you still have of what is listed: it is stored anew; what is not listed is intact"
    if not is_repaired:
        hint += "; if there is another copy of the volume, --repair-from takes it from there"
    return DamagedError(
        f"{amount(len(report.ranges), 'damaged range')}, needed by {amount(len(report.paths), 'path')}",
        hint=hint,
        ranges=len(report.ranges),
        paths=len(report.paths),
    )


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
