"""`packetfs push`: store directories, files or a stream as a new snapshot of a ref."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.census import Census
from packetfs.cli.config import size
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.output import Output
from packetfs.cli.problems import raise_if_lost, tell_problems
from packetfs.cli.quantities import amount, bytes_text, duration
from packetfs.cli.selection import names, pattern_options, patterns, tell_changes
from packetfs.cli.traffic import tell_traffic
from packetfs.cli.watched import retry_time, tell_of_retry, told_in_part, watch_options
from packetfs.errors import EXIT_OK, NotFoundError, UsageError
from packetfs.events import VolumeCreated
from packetfs.format.location import Location
from packetfs.format.snapshot import Labels, check_labels
from packetfs.format.when import LATEST, AtTime, parse_when

if TYPE_CHECKING:
    from packetfs.sync.session import Session, Traffic
    from packetfs.volume import PushReport, Source, Volume
    from packetfs.volume.selection import Selection


@command(
    "push",
    examples="""
packetfs push ~/project /srv/volume::main
packetfs push -m "before the upgrade" /etc /srv /backup/volume::host
packetfs push -n ~/project /srv/volume::main
packetfs push --exclude '*.o' --exclude /build/ --exclude-caches ~/project /srv/volume::main
pg_dump shop | packetfs push - --name shop.sql /srv/volume::dumps
packetfs push ~/project ada@host:/srv/volume::main
packetfs push --watch ~/project ada@host:/srv/volume::main
PACKETFS_VOLUME=/srv/volume packetfs push ~/project main
""",
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, shell_complete=paths)
@click.argument("location", metavar="VOLUME::REF", shell_complete=paths)
@click.option("--name", metavar="NAME", help="The name of the file that is made of standard input.  [default: stdin]")
@click.option("-n", "--dry-run", is_flag=True, help="Read and compare, store nothing.")
@pattern_options
@click.option(
    "--filter-file",
    metavar="NAME",
    help="Files of this name, in any directory, hold patterns for what is beneath them, like .gitignore.",
)
@click.option("--exclude-caches", is_flag=True, help="Of a directory with a valid CACHEDIR.TAG store only that file.")
@click.option("-x", "--one-file-system", is_flag=True, help="Store directories on other file systems empty.")
@click.option(
    "--files-from",
    metavar="FILE",
    shell_complete=paths,
    help="Store only the paths in this list, relative to SOURCE, and what is beneath them. `-`: standard input.",
)
@click.option("-0", "--from0", is_flag=True, help="The names in that list end with a NUL byte, not a line.")
@click.option("--max-size", metavar="SIZE", help="Leave larger files out: 500K, 2G.")
@click.option("-c", "--checksum", is_flag=True, help="Read every file, also where nothing of it seems to have changed.")
@click.option(
    "-i", "--itemize-changes", is_flag=True, help="Print what differs from the last snapshot, in rsync's letters."
)
@watch_options("push")
@click.option("--always", is_flag=True, help="Make a snapshot even when nothing has changed.")
@click.option("-m", "--message", metavar="TEXT", default="", help="What this snapshot is, for `packetfs log`.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="A word to find the snapshot by; may be repeated.")
@click.option("--host", metavar="NAME", default="", help="The machine that the source is from.  [default: this one]")
@click.option("--time", "source_time", metavar="WHEN", help="Of when the source is.  [default: now]")
@remote_options
def push(
    invocation: Invocation,
    *,
    sources: tuple[str, ...],
    location: str,
    name: str | None,
    dry_run: bool,
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    exclude_from: tuple[str, ...],
    filter_file: str | None,
    exclude_caches: bool,
    one_file_system: bool,
    files_from: str | None,
    from0: bool,
    max_size: str | None,
    checksum: bool,
    itemize_changes: bool,
    watch: bool,
    retry: str | None,
    always: bool,
    message: str,
    tags: tuple[str, ...],
    host: str,
    source_time: str | None,
) -> int:
    """Store directories and files as a new snapshot of a ref.

    One directory: its contents become the snapshot's root, whether or not it ends with a slash. Several sources, or a
    file: each appears under its base name. `-` is standard input. A missing volume is created. If nothing has changed
    since the ref's last snapshot, there is no new one. --host and --time are remembered for people and for `forget`:
    snapshots are ordered by when they were pushed.
    """
    output = invocation.output
    labels = _labels(tags, host, source_time)
    place = _target(invocation.location(location, remote=True), location)
    stream = _is_stream(sources, name)
    from packetfs.volume.selection import ALL, Selection

    selection = Selection(
        exclude=patterns(exclude, include, exclude_from),
        filter_file=filter_file,
        exclude_caches=exclude_caches,
        one_file_system=one_file_system,
        names=names(files_from, from0=from0),
        size_max=None if max_size is None else size(max_size, "--max-size"),
    )
    if stream and (selection != ALL or checksum or itemize_changes):
        raise UsageError("there is nothing to select of standard input (-)", hint="select from directories")
    from packetfs.volume import sources_of

    found = [] if stream else sources_of(sources)
    # What is left out would be counted, too, and then be missing.
    census = Census([source.path for source in found]) if found and selection == ALL else None
    from packetfs.volume import Volume

    show = partial(tell_changes, output) if itemize_changes else None
    streamed = os.fsencode(name or "stdin") if stream else None

    def store(opened: "Volume | Session") -> "tuple[PushReport, Traffic | None]":
        with output.meter("push", prints_data=itemize_changes, census=census) as meter:
            if not isinstance(opened, Volume):
                from packetfs.sync.transfer import Stream

                pushed = opened.push(
                    found if streamed is None else Stream(0, streamed),
                    place.line,
                    selection=selection,
                    checksum=checksum,
                    always=always,
                    dry_run=dry_run,
                    message=message,
                    labels=labels,
                    progress=meter,
                    report=show,
                )
                return pushed.report, pushed.traffic
            if streamed is not None:
                report = opened.push_stream(
                    0,
                    streamed,
                    place.line,
                    dry_run=dry_run,
                    always=always,
                    message=message,
                    labels=labels,
                    progress=meter,
                )
            else:
                report = opened.push(
                    found,
                    place.line,
                    selection=selection,
                    checksum=checksum,
                    dry_run=dry_run,
                    always=always,
                    message=message,
                    labels=labels,
                    progress=meter,
                    report=show,
                )
            return report, None

    opening = partial(_opened, invocation, place, dry_run=dry_run)
    retry_s = retry_time(retry, watch=watch)
    if watch:
        if stream or dry_run or always:
            raise UsageError("--watch goes with directories, and with neither --dry-run nor --always")
        _follow(output, place, found, selection, opening, store, retry_s)
    with opening() as opened:
        report, traffic = store(opened)
    return _conclude(output, place, report, traffic)


def _follow(
    output: Output,
    place: Location,
    sources: "Sequence[Source]",
    selection: "Selection",
    opening: "Callable[[], AbstractContextManager[Volume | Session]]",
    store: "Callable[[Volume | Session], tuple[PushReport, Traffic | None]]",
    retry_s: float | None,
) -> NoReturn:
    """Push again whenever something has changed, over one connection as long as it lasts."""
    from packetfs.sync import watching
    from packetfs.volume import Volume
    from packetfs.volume.selection import patterns_of

    told = False

    def push_once(opened: "Volume | Session") -> None:
        nonlocal told
        if isinstance(opened, Volume):
            opened.renew()
        report, traffic = store(opened)
        if isinstance(opened, Volume):
            opened.rest()
        if report.changed or not told:
            told = True
            with told_in_part(output):
                _conclude(output, place, report, traffic)

    watching.follow_with(
        opening,
        push_once,
        directories=[source.path for source in sources],
        excluded=patterns_of(selection.exclude),
        retry_s=retry_s,
        failed=partial(tell_of_retry, output),
    )


def _labels(tags: tuple[str, ...], host: str, source_time: str | None) -> Labels:
    moment = parse_when(source_time) if source_time is not None else None
    if moment is not None and not isinstance(moment, AtTime):
        raise UsageError(
            f"{source_time!r} is not a time",
            code="bad-when",
            hint="times look like 2026-11-20, 2026-11-20T10:05 or 2026-11-20T10:05:07Z",
        )
    return check_labels(Labels(tags=tags, host=host, source_time_ns=moment.time_ns if moment is not None else None))


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
def _opened(invocation: Invocation, place: Location, *, dry_run: bool) -> "Iterator[Volume | Session]":
    """What is pushed to: a volume here, or a session with its origin."""
    from packetfs.volume.replica import is_replica

    if place.endpoint is None and not is_replica(place.volume):
        with _volume(invocation, place, dry_run=dry_run) as volume:
            yield volume
        return
    with invocation.session(place, writes=True, create=not dry_run) as session:
        if session.created:
            event = VolumeCreated(path=session.origin, volume_id=session.replica.identity.volume_id.hex())
            invocation.output.notice(event, f"created the volume {shown(session.origin)}")
        yield session


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
    tell_problems(output, report.problems)
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
        excluded=report.excluded,
        problems=max(counted.problems, len(report.problems)),
        seconds=round(report.seconds, 3),
    )
    output.notice(summary, _summary(report))
    if traffic is not None:
        tell_traffic(output, traffic, counted.logical_bytes)
    raise_if_lost(report.problems, done="everything else is stored")
    return EXIT_OK


def _summary(report: "PushReport") -> str:
    counted = report.statistics
    if report.dry_run:
        head = f"{report.ref}: would store" if report.changed else f"{report.ref}: nothing has changed,"
    elif report.changed and report.snapshot is not None:
        head = f"{report.ref}@{report.snapshot.short}: stored"
    else:
        head = f"{report.ref}: nothing has changed,"
    size_text = f"{amount(counted.files, 'file')} in {amount(counted.directories, 'directory')}, "
    size_text += bytes_text(counted.logical_bytes)
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
        size_text += f" ({', '.join(parts)})"
    if report.excluded:
        size_text += f", {amount(report.excluded, 'name')} excluded"
    return f"{head} {size_text} in {duration(report.seconds)}"
