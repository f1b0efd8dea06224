"""`packetfs pull`: write a snapshot, or a part of it, into a directory."""

import os
from typing import TYPE_CHECKING

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import bytes_text, duration
from packetfs.cli.selection import pattern_options, patterns
from packetfs.cli.traffic import tell_traffic
from packetfs.cli.written import counts_text, missed_error, raise_if_not_deleted, teller
from packetfs.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from packetfs.sync.checkout import Ownership
    from packetfs.sync.session import Traffic


@command(
    "pull",
    examples="""
packetfs pull /srv/volume::main ~/restored
packetfs pull --delete /srv/volume::main@~1 ~/project
packetfs pull --delete --max-delete 100 --exclude /local/ /srv/volume::main ~/project
packetfs pull -n /srv/volume::main@2026-11-20 ~/project
packetfs pull /srv/volume::main:/docs/guide.md .
packetfs pull ada@host:/srv/volume::main ~/project
packetfs pull --no-owner /srv/volume::main ~/project
packetfs pull --chown www-data: /srv/volume::site /srv/www
""",
)
@click.argument("location", metavar="VOLUME::REF[@WHEN][:/PATH]", shell_complete=paths)
@click.argument("directory", metavar="DIR", shell_complete=paths)
@click.option("--delete", is_flag=True, help="Remove from DIR what the snapshot does not have.")
@click.option("--max-delete", metavar="N", type=click.IntRange(min=0), help="Delete nothing if it would be more names.")
@pattern_options
@click.option(
    "--backup-dir",
    metavar="DIR",
    shell_complete=paths,
    help="Move what is replaced or deleted to this directory, on the same file system, with its path.",
)
@click.option("-c", "--checksum", is_flag=True, help="Compare files by content, not by size and time.")
@click.option("-i", "--itemize-changes", is_flag=True, help="Print each change, in rsync's letters.")
@click.option("-n", "--dry-run", is_flag=True, help="List what would be written or removed; change nothing.")
@click.option("--no-space-check", is_flag=True, help="Begin even if DIR's disk has too little room for the end.")
@click.option("--numeric-ids", is_flag=True, help="Owners by the numbers of the snapshot, not by their names.")
@click.option("--chown", metavar="USER:GROUP", help="Give everything to this user, group or both (names or numbers).")
@click.option("--no-owner", is_flag=True, help="Do not restore owners: everything belongs to you.")
@remote_options
def pull(
    invocation: Invocation,
    *,
    location: str,
    directory: str,
    delete: bool,
    max_delete: int | None,
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    exclude_from: tuple[str, ...],
    backup_dir: str | None,
    checksum: bool,
    itemize_changes: bool,
    dry_run: bool,
    no_space_check: bool,
    numeric_ids: bool,
    chown: str | None,
    no_owner: bool,
) -> int:
    """Write a snapshot, or a part of it, into a directory.

    DIR is made if it is missing. A directory's contents land in DIR, a file under its own name. Files that are equal in
    size and time are not touched; others are replaced as a whole, so that killed at any instant each is old or new.
    What is excluded is neither written nor deleted nor touched.

    Modes, times, links, holes, extended attributes and access control lists come back, owners by their names. What only
    root may set (owners, devices, capabilities) is told and counted if it is missing (exit code 3).
    """
    output = invocation.output
    if max_delete is not None and not delete:
        raise UsageError("--max-delete bounds what --delete removes", hint="add --delete")
    place = invocation.location(location, remote=True)
    ownership = _ownership(numeric=numeric_ids, chown=chown, restore=not no_owner)
    from packetfs.sync.checkout import Care
    from packetfs.sync.checkout import pull as pull_into
    from packetfs.sync.session import Session
    from packetfs.sync.transfer import pull as pull_from

    care = Care(
        exclude=patterns(exclude, include, exclude_from),
        delete_max=max_delete,
        backup=backup_dir,
        checksum=checksum,
    )

    show = teller(output, itemize=itemize_changes, dry_run=dry_run)
    traffic: Traffic | None = None
    with (
        invocation.open(place, pulls=True) as volume,
        output.meter("pull", prints_data=dry_run or itemize_changes) as meter,
    ):
        if not isinstance(volume, Session):
            report = pull_into(
                volume,
                volume.resolve(place.line, place.when),
                place.path,
                os.fsencode(directory),
                delete=delete,
                care=care,
                dry_run=dry_run,
                check_space=not no_space_check,
                ownership=ownership,
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
                care=care,
                dry_run=dry_run,
                check_space=not no_space_check,
                ownership=ownership,
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
        **report.counts(),
        seconds=round(seconds, 3),
    )
    output.notice(
        summary,
        f"{place.line}@{snapshot.short} {'would go' if dry_run else 'is'} in {shown(os.fsencode(directory))}: "
        f"{counts_text(report) or 'nothing in it'} ({bytes_text(report.written_bytes)} "
        f"{'to write' if dry_run else 'written'}) in {duration(seconds)}",
    )
    if traffic is not None:
        tell_traffic(output, traffic, snapshot.statistics.logical_bytes)
    missed = missed_error(output, report, how="pull as root")
    raise_if_not_deleted(report, delete_max=max_delete, dry_run=dry_run)
    if missed is not None:
        raise missed
    return EXIT_OK


def _ownership(*, numeric: bool, chown: str | None, restore: bool) -> "Ownership":
    from packetfs.sync.checkout import Ownership
    from packetfs.volume.owners import named_or_numbered

    if numeric and not restore:
        raise UsageError("--numeric-ids and --no-owner contradict each other", hint="leave one of them out")
    if chown is None:
        return Ownership(restore=restore, numeric=numeric)
    if not restore:
        raise UsageError("--chown and --no-owner contradict each other", hint="leave one of them out")
    user, _, group = chown.partition(":")
    if not user and not group:
        raise UsageError(f"--chown {chown!r} names nobody", hint="write USER, USER:GROUP or :GROUP")
    return Ownership(
        numeric=numeric,
        user=named_or_numbered("user", user) if user else None,
        group=named_or_numbered("group", group) if group else None,
    )
