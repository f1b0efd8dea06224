"""`packetfs find`: in which snapshots a file was."""

from typing import TYPE_CHECKING

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import amount, bytes_text, time_text
from packetfs.errors import UsageError
from packetfs.format.when import LATEST

if TYPE_CHECKING:
    from packetfs.sync.find import Found


@command(
    "find",
    examples="""
packetfs find guide.md /srv/volume::main
packetfs find '*.c' /srv/volume::main /srv/volume::other
packetfs find --all 'docs/**/*.md' /srv/volume
packetfs find '*.conf' /srv/volume::host:/etc
""",
)
@click.argument("pattern", metavar="PATTERN")
@click.argument("locations", metavar="VOLUME::REF[:/PATH]...", nargs=-1, required=True, shell_complete=paths)
@click.option("--all", "every", is_flag=True, help="Look through all refs of the volume.")
@remote_options
def find(invocation: Invocation, pattern: str, locations: tuple[str, ...], *, every: bool) -> None:
    """Find in which snapshots a file was.

    PATTERN is a glob as in .gitignore: for names, or with a slash in it for paths. Each path that matches in any
    snapshot of the ref is a line: the first and the last snapshot that have it, and size and time of its last version.
    """
    output = invocation.output
    from packetfs.sync.find import find

    count = 0
    places = [invocation.location(location, remote=True) for location in locations]
    if any(place.when != LATEST for place in places):
        raise UsageError("all snapshots of a ref are looked through", hint="leave @WHEN out")
    if every and any(place.ref is not None for place in places):
        raise UsageError("--all means every ref of a volume", hint="name the volume alone")
    for place in places:
        with invocation.open(place) as volume:
            refs = [ref.name for ref in volume.refs()] if every else [place.line]
            for found in find(volume, pattern, refs, place.path):
                count += 1
                output.data(_line(found), _text(found, with_ref=every or len(locations) > 1))
    output.notice(lines.FoundAll(paths=count), f"{amount(count, 'path')} found")


def _line(found: "Found") -> lines.FoundLine:
    return lines.FoundLine(
        ref=found.ref,
        path=found.path,
        kind=found.kind,
        size=found.size,
        mtime_ns=found.mtime_ns,
        first=found.first.name,
        last=found.last.name,
        snapshots=found.snapshots,
    )


def _text(found: "Found", *, with_ref: bool) -> str:
    span = found.first.short if found.snapshots == 1 else f"{found.first.short}..{found.last.short}"
    size = bytes_text(found.size) if found.kind == "file" else ""
    path = shown(found.path) + ("/" if found.kind == "directory" else "")
    ref = f"{found.ref}  " if with_ref else ""
    return f"{ref}{span:26}  {found.snapshots:>4}  {size:>10}  {time_text(found.mtime_ns)}  {path}"
