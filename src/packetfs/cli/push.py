"""`packetfs push`: store directories, files or a stream as a new snapshot of a ref."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.census import Census
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.output import Output
from packetfs.cli.quantities import amount, bytes_text, duration
from packetfs.cli.traffic import tell_traffic
from packetfs.errors import EXIT_OK, NotFoundError, PartialError, UsageError
from packetfs.events import Problem, ProblemKind, VolumeCreated
from packetfs.format.location import Location
from packetfs.format.when import LATEST

if TYPE_CHECKING:
    from packetfs.sync.session import Traffic
    from packetfs.volume import PushReport, Volume

_PROBLEMS: "Final[dict[ProblemKind, str]]" = {
    "vanished": "vanished before it was read",
    "changed": "changed during each of three readings; what the last one found is stored",
    "unreadable": "cannot be read",
    "unsupported": "is of a kind that is not stored",
    "attributes": "is stored without its extended attributes",
}
_LOSSES: "Final[dict[ProblemKind, str]]" = {
    "unreadable": "could not be read and is missing",
    "changed": "kept changing and may be stored half old, half new",
    "attributes": "has extended attributes that are not stored",
}


@command(
    "push",
    examples="""
packetfs push ~/project /srv/volume::main
packetfs push -m "before the upgrade" /etc /srv /backup/volume::host
packetfs push -n ~/project /srv/volume::main
pg_dump shop | packetfs push - --name shop.sql /srv/volume::dumps
packetfs push ~/project ada@host:/srv/volume::main
PACKETFS_VOLUME=/srv/volume packetfs push ~/project main
""",
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, shell_complete=paths)
@click.argument("location", metavar="VOLUME::REF", shell_complete=paths)
@click.option("--name", metavar="NAME", help="The name of the file that is made of standard input.  [default: stdin]")
@click.option("-n", "--dry-run", is_flag=True, help="Read and compare, store nothing.")
@click.option("--always", is_flag=True, help="Make a snapshot even when nothing has changed.")
@click.option("-m", "--message", metavar="TEXT", default="", help="What this snapshot is, for `packetfs log`.")
@remote_options
def push(
    invocation: Invocation,
    *,
    sources: tuple[str, ...],
    location: str,
    name: str | None,
    dry_run: bool,
    always: bool,
    message: str,
) -> int:
    """Store directories and files as a new snapshot of a ref.

    One directory: its contents become the snapshot's root, whether or not it ends with a slash. Several sources, or a
    file: each appears under its base name. `-` is standard input. A missing volume is created. If nothing has changed
    since the ref's last snapshot, there is no new one.
    """
    output = invocation.output
    place = _target(invocation.location(location, remote=True), location)
    stream = _is_stream(sources, name)
    from packetfs.volume import sources_of

    found = [] if stream else sources_of(sources)
    census = Census([source.path for source in found]) if found else None
    from packetfs.volume.replica import is_replica

    if place.endpoint is not None or is_replica(place.volume):
        from packetfs.sync.transfer import Stream

        what = Stream(0, os.fsencode(name or "stdin")) if stream else found
        with invocation.session(place, writes=True, create=not dry_run) as session:
            if session.created:
                event = VolumeCreated(path=session.origin, volume_id=session.replica.identity.volume_id.hex())
                output.notice(event, f"created the volume {shown(session.origin)}")
            with output.meter("push", census=census) as meter:
                pushed = session.push(what, place.line, always=always, dry_run=dry_run, message=message, progress=meter)
        return _conclude(output, place, pushed.report, pushed.traffic)
    with _volume(invocation, place, dry_run=dry_run) as volume, output.meter("push", census=census) as meter:
        if stream:
            report = volume.push_stream(
                0,
                os.fsencode(name or "stdin"),
                place.line,
                dry_run=dry_run,
                always=always,
                message=message,
                progress=meter,
            )
        else:
            report = volume.push(found, place.line, dry_run=dry_run, always=always, message=message, progress=meter)
    return _conclude(output, place, report)


def _target(place: Location, text: str) -> Location:
    if place.path or place.when != LATEST:
        raise UsageError(
            f"cannot push to {text!r}: a push makes the newest snapshot of a ref, as a whole",
            code="bad-location",
            hint="leave @WHEN and :/PATH out",
        )
    return place


def _is_stream(sources: tuple[str, ...], name: str | None) -> bool:
    if "-" not in sources:
        if name is not None:
            raise UsageError("--name names what comes from standard input", hint="give - as the source")
        return False
    if len(sources) > 1:
        raise UsageError(
            "standard input (-) cannot be pushed together with other sources", hint="write ./- for a file of that name"
        )
    return True


@contextmanager
def _volume(invocation: Invocation, place: Location, *, dry_run: bool) -> "Iterator[Volume]":
    """The volume, made if it is missing; for a dry run an empty one stands in for it."""
    from packetfs import api

    output, wait_s = invocation.output, invocation.settings.lock_wait_s
    if not dry_run:
        with api.open(place.volume, create=True, lock_wait_s=wait_s) as volume:
            if volume.created:
                event = VolumeCreated(path=place.volume, volume_id=volume.descriptor.volume_id.hex())
                output.notice(event, f"created the volume {shown(place.volume)}")
            invocation.tell_of_index(volume)
            yield volume
        return
    try:
        volume = api.open(place.volume, lock_wait_s=wait_s)
    except NotFoundError:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="packetfs-") as directory, api.create(f"{directory}/volume") as volume:
            text = f"there is no volume {shown(place.volume)} yet; it would be created"
            output.notice(lines.Notice(code="volume-not-found", message=text), text)
            yield volume
        return
    with volume:
        invocation.tell_of_index(volume)
        yield volume


def _conclude(output: Output, place: Location, report: "PushReport", traffic: "Traffic | None" = None) -> int:
    """Say what was done; PartialError if something is missing from the snapshot."""
    for problem in report.problems:
        _tell(output, problem)
    counted = report.statistics
    snapshot = report.snapshot
    summary = lines.Pushed(
        volume=place.volume,
        ref=report.ref,
        snapshot=None if snapshot is None else snapshot.name,
        created=report.changed and not report.dry_run,
        changed=report.changed,
        dry_run=report.dry_run,
        files=counted.files,
        directories=counted.directories,
        symlinks=counted.symlinks,
        logical_bytes=counted.logical_bytes,
        unchanged_files=counted.unchanged_files,
        unchanged_bytes=counted.unchanged_bytes,
        known_bytes=counted.known_bytes,
        new_bytes=counted.new_bytes,
        page_bytes=counted.page_bytes,
        problems=max(counted.problems, len(report.problems)),
        seconds=round(report.seconds, 3),
    )
    output.notice(summary, _summary(report))
    if traffic is not None:
        tell_traffic(output, traffic, counted.logical_bytes)
    counts = Counter(problem.kind for problem in report.problems)
    lost = {kind: counts[kind] for kind in _LOSSES if counts[kind]}
    if lost:
        raise PartialError(
            ", ".join(f"{amount(count, 'name')} {_LOSSES[kind]}" for kind, count in lost.items()),
            hint="everything else is stored; run the same command again when these can be read",
            unreadable=counts["unreadable"],
            changed=counts["changed"],
            attributes=counts["attributes"],
        )
    return EXIT_OK


def _tell(output: Output, problem: Problem) -> None:
    text = f"{shown(problem.path)}: {_PROBLEMS[problem.kind]}"
    if problem.errno:
        text += f": {os.strerror(problem.errno)}"
    if problem.kind in _LOSSES:
        output.warning(problem, text)
    else:
        output.notice(problem, text)


def _summary(report: "PushReport") -> str:
    counted = report.statistics
    if report.dry_run:
        head = f"{report.ref}: would store" if report.changed else f"{report.ref}: nothing has changed,"
    elif report.changed and report.snapshot is not None:
        head = f"{report.ref}@{report.snapshot.short}: stored"
    else:
        head = f"{report.ref}: nothing has changed,"
    size = f"{amount(counted.files, 'file')} in {amount(counted.directories, 'directory')}, "
    size += bytes_text(counted.logical_bytes)
    parts = [
        f"{bytes_text(count)} {word}"
        for count, word in (
            (counted.new_bytes, "new"),
            (counted.known_bytes, "known"),
            (counted.unchanged_bytes, "not read"),
        )
        if count
    ]
    if parts:
        size += f" ({', '.join(parts)})"
    return f"{head} {size} in {duration(report.seconds)}"
