"""The options that select what a push stores and what a pull leaves alone, and the lines that tell what changed.

It selects nothing itself.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from packetfs.cli.app import given_in_order, paths
from packetfs.cli.names import shown
from packetfs.cli.output import Output
from packetfs.errors import UsageError, disk_error
from packetfs.events import Change
from packetfs.volume.selection import Pattern, lines_of

_OPTIONS: Final = (
    click.option(
        "--exclude",
        metavar="PATTERN",
        multiple=True,
        help="Leave out what matches, as a line of .gitignore would; the last pattern that matches decides.",
    ),
    click.option(
        "--include", metavar="PATTERN", multiple=True, help="Keep what matches: the same as --exclude '!PATTERN'."
    ),
    click.option(
        "--exclude-from",
        metavar="FILE",
        multiple=True,
        shell_complete=paths,
        help="Patterns from a file, one a line.",
    ),
)


def pattern_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options for patterns; `patterns` makes one list of what they are given."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def patterns(exclude: Sequence[str], include: Sequence[str], exclude_from: Sequence[str]) -> tuple[Pattern, ...]:
    """The patterns in the order of the command line."""
    found: list[Pattern] = []
    for name, value in given_in_order(exclude=exclude, include=include, exclude_from=exclude_from):
        if name == "exclude_from":
            found += lines_of(_content(value), value)
        else:
            line = os.fsencode(value)
            if not line:
                raise UsageError(f"--{name}: the pattern is empty", hint="leave it out, or write what is meant")
            found.append(Pattern(f"--{name}", b"!" + line if name == "include" else line))
    return tuple(found)


def names(files_from: str | None, *, from0: bool) -> tuple[bytes, ...] | None:
    """The names in a list; None without one."""
    if files_from is None:
        if from0:
            raise UsageError("--from0 tells how a list of names is written", hint="give the list with --files-from")
        return None
    content = sys.stdin.buffer.read() if files_from == "-" else _content(files_from)
    return tuple(name for name in content.split(b"\0" if from0 else b"\n") if name)


def tell_changes(output: Output, changes: Sequence[Change]) -> None:
    """Print changes in rsync's letters, one name a line."""
    for change in changes:
        end = "/" if change.kind == "directory" else ""
        output.data(change, f"{change.letters} {shown(change.path)}{end}")


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        failure = disk_error("read", path, error.errno or 0)
        raise UsageError(failure.message, code=failure.code, hint="check its name", path=path) from None
