"""`packetfs bench`: what new versions of one's own data would cost to move. It shows; `sync/bench.py` measures."""

import os
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.census import Census
from packetfs.cli.config import link
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.problems import raise_if_lost, tell_problems
from packetfs.cli.quantities import amount, bytes_text, duration, rate_text
from packetfs.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from packetfs.cli.output import Output
    from packetfs.sync.bench import Ours, Versions
    from packetfs.sync.reckoning import Link, Row

_LINKS: Final = ("100mbit,25ms", "1gbit,1ms", "10mbit,80ms")
_RSYNC: Final = ("-az", "-a")
_NOTES: Final = (
    "wire: bytes both ways, without what ssh or TLS add. here, CPU: measured on this machine, both sides together.",
    "Seconds over a link are reckoned, not measured: the longer of the time here and wire / rate,",
    "plus round trips x round-trip time. Those of rsync and of a full copy are not known: none is counted.",
    "Full copy: the bytes of all files, and nothing for their names or for the work.",
)


@command(
    "bench",
    examples="""
packetfs bench
packetfs bench /srv/releases/1.4 /srv/releases/1.5
packetfs bench --link 50mbit,30ms --link 10gbit yesterday.sql today.sql
packetfs bench --json --scratch /var/tmp old new
""",
)
@click.argument("versions", metavar="[OLD NEW]", nargs=-1, shell_complete=paths)
@click.option(
    "--link",
    "links",
    metavar="RATE[,TIME]",
    multiple=True,
    default=_LINKS,
    show_default=" ".join(_LINKS),
    help="What lies between: a rate and a round-trip time. May be repeated.",
)
@click.option("--scratch", metavar="DIR", shell_complete=paths, help="Where to work.  [default: the system's, TMPDIR]")
def bench(invocation: Invocation, *, versions: tuple[str, ...], links: tuple[str, ...], scratch: str | None) -> int:
    """Tell what new versions of your data would cost to move, beside rsync and a full copy.

    OLD is what the other side holds, NEW what is here now: two directories or two files, which are only read. Without
    them a small built-in sample is made. Three steps: OLD to a side that has nothing, NEW to one that has OLD, and NEW
    again. Everything is really done, on this machine alone: PacketFS pushes through a pipe to `packetfs serve
    --stdio`, rsync through a pipe to rsync. What it needs is written beneath --scratch and removed.

    Bytes are counted, both ways, without what ssh or TLS add. Seconds over a link are reckoned, not measured: the
    longer of the time here and wire bytes / rate, plus round trips x round-trip time. How many round trips rsync and a
    full copy need is not known, and none is counted for them; of a full copy only the bytes of the files count.
    """
    from packetfs.sync.bench import measure_packetfs, rsync_version, scratch_directory, versions_of
    from packetfs.sync.reckoning import Link
    from packetfs.sync.sample import DESCRIPTION, SAMPLE_BYTES_MAX, write_sample
    from packetfs.sync.usage import prepare_process

    invocation.after_interrupt = "nothing was kept, and nothing of yours was written to"
    if len(versions) not in (0, 2):
        raise UsageError("give two versions, OLD and NEW, or none for the built-in sample")
    between = [Link(*link(text, "--link")) for text in links]
    given = versions_of(*versions) if versions else None
    if given is None:
        old_bytes = new_bytes = 2 * SAMPLE_BYTES_MAX  # it is made there itself
        outside = []
    else:
        old_bytes, new_bytes = (Census([path]).counted()[1] for path in (given.old, given.new))
        outside = [given.old, given.new]
    prepare_process()
    place = tempfile.gettempdir() if scratch is None else os.path.abspath(scratch)
    with scratch_directory(place, old_bytes=old_bytes, new_bytes=new_bytes, outside=outside) as directory:
        if given is None:
            write_sample(f"{directory}/old", f"{directory}/new")
        found = given or versions_of(f"{directory}/old", f"{directory}/new")
        with invocation.output.meter("bench") as meter:
            ours = measure_packetfs(
                found,
                directory,
                cache_bytes=invocation.settings.cache_bytes,
                lock_wait_s=invocation.settings.lock_wait_s,
                progress=meter,
            )
        version = rsync_version()
        rows = [*ours.rows, *_full_copies(ours), *_theirs(found, directory, version)]
    _tell_rows(invocation.output, rows, between, title=_title(given, ours, DESCRIPTION))
    _tell_end(invocation.output, given, ours, version)
    tell_problems(invocation.output, ours.problems)
    raise_if_lost(ours.problems, done="everything else was moved and counted")
    return EXIT_OK


def _full_copies(ours: "Ours") -> "list[Row]":
    from packetfs.sync.reckoning import STEPS, Moved, Row

    return [
        Row(step, "full copy", Moved(report.statistics.logical_bytes))
        for step, report in zip(STEPS, ours.reports, strict=True)
    ]


def _theirs(versions: "Versions", directory: str, version: str | None) -> "list[Row]":
    from packetfs.sync.bench import measure_rsync
    from packetfs.sync.reckoning import STEPS, Row

    if version is None:
        return [Row(step, "rsync", None, "not installed") for step in STEPS]
    return [row for options in _RSYNC for row in measure_rsync(versions, options, directory)]


def _title(given: "Versions | None", ours: "Ours", sample: str) -> str:
    sizes = [
        f"{amount(report.statistics.files, 'file')}, {bytes_text(report.statistics.logical_bytes)}"
        for report in ours.reports[:2]
    ]
    if given is None:
        return f"{sample}\nOLD: {sizes[0]}\nNEW: {sizes[1]}"
    return f"OLD: {shown(given.old)}, {sizes[0]}\nNEW: {shown(given.new)}, {sizes[1]}"


def _tell_rows(output: "Output", rows: "Sequence[Row]", links: "Sequence[Link]", *, title: str) -> None:
    """One line of JSON for each row, or one table of all."""
    from packetfs.sync.reckoning import STEPS

    ordered = [row for step in STEPS for row in rows if row.step == step]
    if output.json:
        for row in ordered:
            output.event(_line(row, links))
        return
    heads = ["wire", "round trips", "here", "CPU", *map(_link_text, links)]
    table = [
        one
        for step in STEPS
        for one in [(step, heads), *((_name(row), _cells(row, links)) for row in ordered if row.step == step)]
    ]
    left = max(len(name) for name, _ in table)
    full = [cells for _, cells in table if len(cells) == len(heads)]
    widths = [max(len(cells[column]) for cells in full) for column in range(len(heads))]
    text = [title]
    for name, cells in table:
        if cells is heads:
            text.append("")
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False))
        text.append(f"{name:<{left}}  {'  '.join(padded if len(cells) == len(heads) else cells)}")
    output.content("\n".join([*text, "", *_NOTES, ""]).encode("utf-8", "backslashreplace"))


def _name(row: "Row") -> str:
    return f"  {row.subject}{', in part' if row.moved is not None and row.why else ''}"


def _cells(row: "Row", links: "Sequence[Link]") -> list[str]:
    from packetfs.sync.reckoning import reckoned_s

    moved = row.moved
    if moved is None:
        return [row.why]
    return [
        bytes_text(moved.wire_bytes),
        "-" if moved.round_trips is None else str(moved.round_trips),
        "-" if moved.seconds is None else duration(moved.seconds, digits=2),
        "-" if moved.cpu_s is None else duration(moved.cpu_s, digits=2),
        *(duration(reckoned_s(moved, link), digits=2) for link in links),
    ]


def _link_text(link: "Link") -> str:
    return f"{rate_text(link.bits_s)}, {1000 * link.round_trip_s:g} ms"


def _line(row: "Row", links: "Sequence[Link]") -> lines.BenchRow:
    from packetfs.sync.reckoning import reckoned_s

    moved = row.moved
    return lines.BenchRow(
        step=row.step,
        subject=row.subject,
        wire_bytes=None if moved is None else moved.wire_bytes,
        round_trips=None if moved is None else moved.round_trips,
        seconds=None if moved is None else moved.seconds,
        cpu_s=None if moved is None else moved.cpu_s,
        links=[
            {"bits_s": one.bits_s, "round_trip_s": one.round_trip_s, "seconds": reckoned_s(moved, one)}
            for one in links
            if moved is not None
        ],
        why=row.why,
    )


def _tell_end(output: "Output", given: "Versions | None", ours: "Ours", version: str | None) -> None:
    from packetfs.sync.reckoning import FORMULA

    before, after = (report.statistics for report in ours.reports[:2])
    output.event(
        lines.Benched(
            workload="sample" if given is None else "given",
            old=given.old if given else b"",
            new=given.new if given else b"",
            old_files=before.files,
            old_bytes=before.logical_bytes,
            new_files=after.files,
            new_bytes=after.logical_bytes,
            problems=len(ours.problems),
            rsync=version,
            formula=FORMULA,
        )
    )
