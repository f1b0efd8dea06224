"""`packetfs diff`: what is different between two snapshots, or two paths in them."""

import os
from collections import Counter
from typing import TYPE_CHECKING, Final

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import bytes_text
from packetfs.errors import UsageError

if TYPE_CHECKING:
    from packetfs.sync.difference import Difference

_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "renamed": ">", "metadata": "m"}
_WORDS: Final = {"metadata": "with other metadata only"}


@command(
    "diff",
    examples="""
packetfs diff /srv/volume::main@~1 /srv/volume::main
packetfs diff -v /srv/volume::main@~1 /srv/volume::host
packetfs diff /srv/volume::main@2026-11-20:/etc /srv/volume::main:/etc
PACKETFS_VOLUME=/srv/volume packetfs diff main@~1 main
""",
)
@click.argument("old", metavar="OLD", shell_complete=paths)
@click.argument("new", metavar="NEW", shell_complete=paths)
@remote_options
def diff(invocation: Invocation, old: str, new: str) -> None:
    """Compare two snapshots, or two paths in them.

    OLD and NEW are locations in one volume. Each line begins with `+` added, `-` removed, `~` changed, or `>` renamed.
    Where only mode, owner or time differ, paths are counted, and listed with -v (`m`).
    """
    output = invocation.output
    before, after = invocation.location(old, remote=True), invocation.location(new, remote=True)
    if os.path.realpath(before.volume) != os.path.realpath(after.volume):
        raise UsageError(
            f"{before.volume!r} and {after.volume!r} are different volumes, whose digests cannot be compared",
            code="different-volumes",
            hint="push both trees into one volume, under two refs",
        )
    from packetfs.sync.difference import compare

    counts: Counter[str] = Counter()
    with invocation.open(before) as volume:
        places = [(volume.resolve(place.line, place.when), place.path) for place in (before, after)]
        for found in compare(volume.trees, places[0], places[1]):
            counts[found.change] += 1
            line = lines.DifferenceLine(
                path=found.path,
                change=found.change,
                kind=found.kind,
                old_size=found.old_size,
                new_size=found.new_size,
                old_path=found.old_path,
            )
            if found.change != "metadata" or output.json or output.verbosity > 0:
                output.data(line, _text(found))
    summary = lines.Compared(
        old=places[0][0].name,
        new=places[1][0].name,
        added=counts["added"],
        removed=counts["removed"],
        changed=counts["changed"],
        metadata=counts["metadata"],
        renamed=counts["renamed"],
    )
    words = [f"{counts[change]:,} {_WORDS.get(change, change)}" for change in _SIGNS if counts[change]]
    output.notice(summary, ", ".join(words) or "no difference")


def _text(found: "Difference") -> str:
    text = f"{_SIGNS[found.change]} "
    if found.old_path is not None:
        text += f"{shown(found.old_path)} -> "
    text += shown(found.path) + ("/" if found.kind == "directory" else "")
    if found.kind != "file":
        return text
    if found.change == "changed":
        return f"{text}  {bytes_text(found.old_size)} -> {bytes_text(found.new_size)}"
    return f"{text}  {bytes_text(max(found.old_size, found.new_size))}"
