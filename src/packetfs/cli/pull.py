"""`packetfs pull`: write a snapshot, or a part of it, into a directory."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import amount, bytes_text, duration
from packetfs.cli.traffic import tell_traffic
from packetfs.errors import EXIT_OK, PartialError
from packetfs.events import Change

if TYPE_CHECKING:
    from packetfs.sync.session import Traffic

_SIGNS: Final = {"created": "+", "replaced": "~", "metadata": "m", "deleted": "-"}


@command(
    "pull",
    examples="""
packetfs pull /srv/volume::main ~/restored
packetfs pull --delete /srv/volume::main@~1 ~/project
packetfs pull -n /srv/volume::main@2026-11-20 ~/project
packetfs pull /srv/volume::main:/docs/guide.md .
packetfs pull ada@host:/srv/volume::main ~/project
""",
)
@click.argument("location", metavar="VOLUME::REF[@WHEN][:/PATH]", shell_complete=paths)
@click.argument("directory", metavar="DIR", shell_complete=paths)
@click.option("--delete", is_flag=True, help="Remove from DIR what the snapshot does not have.")
@click.option("-n", "--dry-run", is_flag=True, help="List what would be written or removed; change nothing.")
@click.option("--no-space-check", is_flag=True, help="Begin even if DIR's disk has too little room for the end.")
@remote_options
def pull(
    invocation: Invocation, *, location: str, directory: str, delete: bool, dry_run: bool, no_space_check: bool
) -> int:
    """Write a snapshot, or a part of it, into a directory.

    DIR is made if it is missing. A directory's contents land in DIR, a file under its own name. Files that are equal in
    size and time are not touched; others are replaced as a whole, so that killed at any instant each is old or new.
    """
    output = invocation.output
    place = invocation.location(location, remote=True)
    from packetfs.sync.checkout import pull as pull_into
    from packetfs.sync.session import Session
    from packetfs.sync.transfer import pull as pull_from

    def show(changes: Sequence[Change]) -> None:
        if not dry_run and output.verbosity < 1:
            return  # a million lines are only written when they were asked for
        for change in changes:
            text = f"{_SIGNS[change.action]} {shown(change.path)}"
            if dry_run:
                output.data(change, text)
            else:
                output.detail(change, text)

    traffic: Traffic | None = None
    with invocation.open(place, pulls=True) as volume, output.meter("pull", prints_data=dry_run) as meter:
        if not isinstance(volume, Session):
            report = pull_into(
                volume,
                volume.resolve(place.line, place.when),
                place.path,
                os.fsencode(directory),
                delete=delete,
                dry_run=dry_run,
                check_space=not no_space_check,
                progress=meter,
                report=show,
            )
        else:
            pulled = pull_from(
                volume,
                place.line,
                place.when,
                place.path,
                os.fsencode(directory),
                delete=delete,
                dry_run=dry_run,
                check_space=not no_space_check,
                progress=meter,
                report=show,
            )
            report, traffic = pulled.report, pulled.traffic
        seconds = meter.elapsed_s
    snapshot = report.snapshot
    summary = lines.Pulled(
        volume=place.volume,
        ref=place.line,
        snapshot=snapshot.name,
        target=os.fsencode(directory),
        dry_run=dry_run,
        created=report.created,
        replaced=report.replaced,
        metadata=report.metadata,
        deleted=report.deleted,
        unchanged=report.unchanged,
        unsupported=report.unsupported,
        owner_not_set=report.owner_not_set,
        written_bytes=report.written_bytes,
        seconds=round(seconds, 3),
    )
    counts = [
        f"{count:,} {word}"
        for count, word in (
            (report.created, "created"),
            (report.replaced, "replaced"),
            (report.metadata, "with new metadata"),
            (report.deleted, "deleted"),
            (report.unchanged, "unchanged"),
        )
        if count
    ]
    output.notice(
        summary,
        f"{place.line}@{snapshot.short} {'would go' if dry_run else 'is'} in {shown(os.fsencode(directory))}: "
        f"{', '.join(counts) or 'nothing in it'} ({bytes_text(report.written_bytes)} "
        f"{'to write' if dry_run else 'written'}) in {duration(seconds)}",
    )
    if traffic is not None:
        tell_traffic(output, traffic, snapshot.statistics.logical_bytes)
    if report.owner_not_set and output.verbosity > 0:
        text = f"{amount(report.owner_not_set, 'name')} got you as the owner: only root can give files away"
        output.notice(lines.Notice(code="owner-not-set", message=text), text)
    if report.unsupported:
        raise PartialError(
            f"{amount(report.unsupported, 'name')} of a kind that cannot be written yet (pipes, devices) left out",
            code="pull-incomplete",
            unsupported=report.unsupported,
        )
    return EXIT_OK
