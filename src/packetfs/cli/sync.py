"""`packetfs sync`: make a directory on one machine hold what one on another machine holds."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.output import Output
from packetfs.cli.problems import raise_if_lost, tell_problems
from packetfs.cli.quantities import bytes_text, duration
from packetfs.cli.selection import pattern_options, patterns
from packetfs.cli.traffic import tell_traffic
from packetfs.cli.watched import retry_time, tell_of_retry, told_in_part, watch_options
from packetfs.cli.written import counts_text, missed_error, raise_if_not_deleted, teller
from packetfs.errors import EXIT_OK, UsageError
from packetfs.format.location import Location, directory_text

if TYPE_CHECKING:
    from packetfs.sync.checkout import Care
    from packetfs.sync.mirror import Synced
    from packetfs.sync.session import Session


class _Ends(NamedTuple):
    """What is made equal: a directory here and one on another machine, and which of them is written to."""

    here: str
    there: Location
    sends: bool
    file: bytes | None = None
    """The name of what is sent, if it is no directory."""


@command(
    "sync",
    examples="""
packetfs sync ~/project/ ada@host:/srv/project/
packetfs sync --delete --exclude '*.o' ~/project ada@host:/srv
packetfs sync -n -i --delete ~/project/ ada@host:/srv/project/
packetfs sync --delete --max-delete 100 --backup-dir /srv/old ~/project/ ada@host:/srv/project/
packetfs sync host:/srv/photos/ ~/photos/
packetfs sync ~/site/ pfs://host/site:/
packetfs sync --watch --delete ~/site/ pfs://host/site:/
packetfs sync -e 'ssh -p 2222' --bwlimit 2M ~/project/ host:/srv/project/
""",
)
@click.argument("source", metavar="SRC[/]", shell_complete=paths)
@click.argument("destination", metavar="DST[/]", shell_complete=paths)
@click.option("--delete", is_flag=True, help="Remove from DST what SRC does not have.")
@click.option("--max-delete", metavar="N", type=click.IntRange(min=0), help="Delete nothing if it would be more names.")
@pattern_options
@click.option(
    "--backup-dir",
    metavar="DIR",
    help="Move what is replaced or deleted to this directory beside DST or in it; relative: in DST.",
)
@click.option("-c", "--checksum", is_flag=True, help="Read every file on both sides, whatever size and time say.")
@click.option("-i", "--itemize-changes", is_flag=True, help="Print each change, in rsync's letters.")
@click.option("-n", "--dry-run", is_flag=True, help="List what would be written or removed; change neither directory.")
@watch_options("sync")
@click.option("--no-space-check", is_flag=True, help="Begin even if DST's disk has too little room for the end.")
@click.option("--numeric-ids", is_flag=True, help="Owners by their numbers, not by their names.")
@click.option("--no-owner", is_flag=True, help="Do not set owners: what is new belongs to who writes it.")
@remote_options
def sync(
    invocation: Invocation,
    *,
    source: str,
    destination: str,
    delete: bool,
    max_delete: int | None,
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    exclude_from: tuple[str, ...],
    backup_dir: str | None,
    checksum: bool,
    itemize_changes: bool,
    dry_run: bool,
    watch: bool,
    retry: str | None,
    no_space_check: bool,
    numeric_ids: bool,
    no_owner: bool,
) -> int:
    """Make a directory on one machine hold what one on another machine holds.

    SRC or DST is [USER@]HOST:DIR, reached over ssh, which needs packetfs there, too; or pfs://HOST/EXPORT:/DIR, at a
    server that exports it (`packetfs serve --export`). As with rsync, SRC/ means what is in SRC, and SRC alone appears
    as a directory in DST. What DST has already need not travel, whoever put it there. What is excluded is neither read
    nor written nor deleted. SRC may be a single file here; then DST ends with a slash and is where it shall be.

    With --watch it goes on when that is done: each change of SRC is one round trip from then on. What somebody else
    writes in DST meanwhile has to give way, unkept, when SRC changes next; --backup-dir keeps it.

    Both sides keep what they have seen, so that the next sync can point to it: HOST in a volume beside its other data,
    this machine in a replica of at most --cache-size. The summary tells how much of the disk that is.
    """
    output = invocation.output
    if max_delete is not None and not delete:
        raise UsageError("--max-delete bounds what --delete removes", hint="add --delete")
    if numeric_ids and no_owner:
        raise UsageError("--numeric-ids and --no-owner contradict each other", hint="leave one of them out")
    ends = _ends(invocation, source, destination)
    from packetfs.sync import mirror
    from packetfs.sync.checkout import Care, Ownership
    from packetfs.sync.directory import FOUND, SENT
    from packetfs.volume.selection import only

    if backup_dir is not None and not ends.sends:
        backup_dir = os.path.join(ends.here, backup_dir)
    if ends.file is not None and delete:
        raise UsageError(
            f"{source!r} is a single file: --delete would empty the directory around it", hint="leave --delete out"
        )
    # Of what is beside a single file nothing is read, and nothing touched.
    selected = (*(() if ends.file is None else only(ends.file)), *patterns(exclude, include, exclude_from))
    care = Care(exclude=selected, delete_max=max_delete, backup=backup_dir, checksum=checksum)
    tells = itemize_changes or dry_run or output.verbosity > 0
    show = teller(output, itemize=itemize_changes, dry_run=dry_run) if tells else None
    opening = partial(
        invocation.session_with_directory,
        ends.there,
        ref=SENT,
        ingest=mirror.question(care, may_be_missing=ends.sends),
        wants=None if ends.sends or dry_run else (FOUND, "latest", b""),
        # Of what is here already it is found out first what need not travel.
        wants_data=not ends.sends and not _has_names(ends.here),
    )

    def work(session: "Session") -> "tuple[Synced, float]":
        with output.meter("sync", prints_data=dry_run or itemize_changes) as meter:
            done = (mirror.send if ends.sends else mirror.fetch)(
                session,
                os.fsencode(ends.here),
                delete=delete,
                care=care,
                dry_run=dry_run,
                check_space=not no_space_check,
                ownership=Ownership(restore=not no_owner, numeric=numeric_ids),
                progress=meter,
                report=show,
            )
            return done, meter.elapsed_s

    conclude = partial(_conclude, output, ends, delete=delete, delete_max=max_delete)
    retry_s = retry_time(retry, watch=watch)
    if watch:
        if dry_run or not ends.sends:
            raise UsageError(
                "--watch goes with a directory on this machine as SRC, and not with --dry-run",
                hint="run it on the other machine, where SRC is" if not dry_run else "leave one of them out",
            )
        _follow(output, ends, care, opening, work, conclude, retry_s)
    with opening() as session:
        done, seconds = work(session)
    conclude(done, seconds)
    return EXIT_OK


def _follow(
    output: Output,
    ends: _Ends,
    care: "Care",
    opening: "Callable[[], Session]",
    work: "Callable[[Session], tuple[Synced, float]]",
    conclude: "Callable[[Synced, float], None]",
    retry_s: float | None,
) -> NoReturn:
    """Sync again whenever something has changed, over one connection as long as it lasts."""
    from packetfs.sync import watching
    from packetfs.volume.selection import patterns_of

    told = False

    def sync_once(session: "Session") -> None:
        nonlocal told
        done, seconds = work(session)
        if not told or done.changed:
            told = True
            with told_in_part(output):
                conclude(done, seconds)

    watching.follow_with(
        opening,
        sync_once,
        directories=[os.fsencode(ends.here)],
        excluded=patterns_of(care.exclude),
        retry_s=retry_s,
        failed=partial(tell_of_retry, output),
    )


def _conclude(
    output: Output, ends: _Ends, done: "Synced", seconds: float, *, delete: bool, delete_max: int | None
) -> None:
    """Say what was done; PartialError if something was not."""
    tell_problems(output, done.problems)
    _tell(output, ends, done, seconds)
    missed = missed_error(output, done, how="write there as root")
    raise_if_not_deleted(done, delete_max=delete_max, dry_run=done.dry_run)
    kept = ", and nothing was deleted" if delete and done.unread else ""
    raise_if_lost(done.problems, done=f"everything else is there{kept}", unread=done.unread)
    if missed is not None:
        raise missed


def _ends(invocation: Invocation, source: str, destination: str) -> _Ends:
    """Which two directories are meant: that of rsync's rule about the slash at the end of SRC."""
    first, second = invocation.directory(source), invocation.directory(destination)
    if (first.endpoint is None) == (second.endpoint is None):
        where = "this machine" if first.endpoint is None else "other machines"
        raise UsageError(
            f"both {source!r} and {destination!r} are on {where}",
            hint="push SRC into a volume and pull from it into DST, or use `rsync -a`"
            if first.endpoint is None
            else "run packetfs on one of the two",
        )
    name = _name(first.volume)
    first = replace(first, volume=_bare(first.volume))
    target = replace(second, volume=_bare(os.path.join(second.volume, name)))
    if first.endpoint is None:
        if os.path.isdir(first.volume):
            return _Ends(first.volume, target, sends=True)
        return _file_ends(source, first.volume, replace(second, volume=_bare(second.volume)), destination)
    return _Ends(target.volume, first, sends=False)


def _file_ends(source: str, here: str, there: Location, destination: str) -> _Ends:
    """A single file, and the directory in which it shall be."""
    if not os.path.lexists(here):
        raise UsageError(f"{source!r} does not exist", hint="name a directory or a file")
    if source.endswith("/"):
        raise UsageError(f"{source!r} is not a directory", hint="leave the slash at its end out")
    if not destination.endswith("/"):
        raise UsageError(
            f"{source!r} is a single file, and {destination!r} could be a directory or its new name",
            hint=f"write {destination}/ for the directory that it shall be in; a new name it cannot get",
        )
    return _Ends(here, there, sends=True, file=os.fsencode(os.path.basename(here)))


def _name(path: str) -> str:
    """The name under which SRC appears in DST; empty if its contents do."""
    last = path.rpartition("/")[2]
    return "" if last in ("", ".", "..") or (path.startswith("~") and "/" not in path) else last


def _bare(path: str) -> str:
    """`path` without slashes at its end, but for the one that is a root of this machine or (`site:/`) of an export."""
    bare = path.rstrip("/")
    return f"{bare}/" if bare == "" or (bare.endswith(":") and "/" not in bare and bare != path) else bare


def _has_names(path: str) -> bool:
    """Whether there is a directory with something in it; one that cannot be looked into is told of later."""
    try:
        return bool(os.listdir(path))
    except OSError:
        return False


def _tell(output: Output, ends: _Ends, done: "Synced", seconds: float) -> None:
    there = directory_text(ends.there.endpoint, ends.there.volume)
    source, target = (ends.here, there) if ends.sends else (there, ends.here)
    output.notice(
        lines.Synced(
            source=os.fsencode(source),
            target=os.fsencode(target),
            dry_run=done.dry_run,
            **done.counts(),
            unread=done.unread,
            far_disk_bytes=done.far_bytes,
            seconds=round(seconds, 3),
        ),
        f"{shown(os.fsencode(target))} {'would be' if done.dry_run else 'is'} as {shown(os.fsencode(source))}: "
        f"{counts_text(done) or 'nothing to do'} ({bytes_text(done.written_bytes)} "
        f"{'to write' if done.dry_run else 'written'}) in {duration(seconds)}",
    )
    tell_traffic(output, done.traffic, done.logical_bytes, far_bytes=done.far_bytes)
