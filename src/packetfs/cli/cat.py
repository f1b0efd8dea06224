"""`packetfs cat`: the content of files in a snapshot, verified, on standard output."""

from typing import TYPE_CHECKING

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.output import Output
from packetfs.errors import UsageError
from packetfs.format.location import Location

if TYPE_CHECKING:
    from packetfs.cli.invocation import Opened
    from packetfs.volume import Entry

_PIECE_BYTES = 48 << 10  # of a JSON line; 64 KiB once it is base64


@command(
    "cat",
    examples="""
packetfs cat /srv/volume::main:/etc/hosts
packetfs cat /srv/volume::dumps@~1:/shop.sql | psql shop
""",
)
@click.argument("locations", metavar="VOLUME::REF[@WHEN]:/PATH...", nargs=-1, required=True, shell_complete=paths)
@remote_options
def cat(invocation: Invocation, locations: tuple[str, ...]) -> None:
    """Write files of a snapshot to standard output.

    Every byte is verified before it is written. With --json the content comes in `content` lines, as base64.
    """
    places = [invocation.location(text, remote=True) for text in locations]
    for text, place in zip(locations, places, strict=True):
        if not place.path:
            raise UsageError(f"{text!r} names no file", hint="add :/PATH; `packetfs ls` lists what there is")
    for place in places:
        with invocation.open(place) as volume:
            _write(invocation.output, volume, place)


def _write(output: Output, volume: "Opened", place: Location) -> None:
    entry = volume.entry(volume.resolve(place.line, place.when), place.path)
    if entry.kind != "file":
        what = f"a symlink to {entry.target!r}" if entry.kind == "symlink" else f"a {entry.kind}"
        raise UsageError(f"{str(place)!r} is {what}, not a file", code="not-a-file")
    if output.json:
        _write_lines(output, volume, entry, place.path)
        return
    for piece in volume.read(entry):
        output.content(piece)


def _write_lines(output: Output, volume: "Opened", entry: "Entry", path: bytes) -> None:
    from base64 import b64encode

    offset = 0
    for view in volume.read(entry):
        for begin in range(0, len(view), _PIECE_BYTES):
            piece = view[begin : begin + _PIECE_BYTES]
            last = offset + len(piece) >= entry.size
            output.event(lines.Content(path=path, offset=offset, data=b64encode(piece).decode("ascii"), last=last))
            offset += len(piece)
    if offset == 0:
        output.event(lines.Content(path=path, offset=0, data="", last=True))
