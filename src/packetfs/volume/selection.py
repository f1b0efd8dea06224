"""What a push stores of its sources, as a value. What it comes to, name by name, is decided in the kernel."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from packetfs import kernel
from packetfs.errors import UsageError

__all__ = ["ALL", "Pattern", "Selection", "leaves_out", "lines_of", "only", "patterns_of"]


class Pattern(NamedTuple):
    """A line as in .gitignore, and where it was written: an option, or `file:number`."""

    place: str
    line: bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """What a push stores of its sources; by default all of it."""

    exclude: Sequence[str | bytes | Pattern] = ()
    """Lines as in .gitignore: the last that matches a path, which is relative to its source, decides. `!` keeps."""
    filter_file: str | bytes | None = None
    """The name of files that hold such lines for what is beneath them; `exclude` has the last word."""
    exclude_caches: bool = False
    """Of a directory with a valid CACHEDIR.TAG, store only that file."""
    one_file_system: bool = False
    """Store directories on other file systems than their source empty."""
    names: Sequence[str | bytes] | None = None
    """Of a single directory store only these paths in it, with all that is beneath them."""
    size_max: int | None = None
    """Leave files out that have more bytes."""

    def kernel(self) -> kernel.Selection:
        """It, checked: UsageError names what is no pattern, or no name."""
        file = None if self.filter_file is None else os.fsencode(self.filter_file)
        if file is not None and (file in (b"", b".", b"..") or b"/" in file or b"\0" in file):
            raise UsageError(
                f"{os.fsdecode(file)!r} cannot be the name of filter files",
                hint="give a name without a slash: such a file is looked for in every directory",
            )
        if self.size_max is not None and not 0 <= self.size_max < 1 << 63:
            raise UsageError(f"no file is larger than {self.size_max} bytes", hint="give bytes from 0 to 2**63 - 1")
        return kernel.Selection(
            patterns=patterns_of(self.exclude),
            filter_file=file,
            exclude_caches=self.exclude_caches,
            one_file_system=self.one_file_system,
            names=None if self.names is None else [os.fsencode(name) for name in self.names],
            size_max=self.size_max,
        )

    def parts(self) -> list[bytes]:
        """What tells one selection from another; nothing for all."""
        if self == ALL:
            return []
        lines = [_pattern(given).line for given in self.exclude]
        names = [] if self.names is None else [os.fsencode(name) for name in self.names]
        flags = (
            f"{self.exclude_caches:d}{self.one_file_system:d}{self.names is not None:d} {self.size_max} {len(lines)}"
        )
        return [b"selection", flags.encode(), os.fsencode(self.filter_file or b""), *lines, *names]


def patterns_of(exclude: Sequence[str | bytes | Pattern]) -> kernel.Patterns | None:
    """The patterns of some lines; UsageError names the first that is none."""
    if isinstance(exclude, str | bytes):
        raise UsageError("patterns are a list of lines", hint=f"write [{exclude!r}]")
    return kernel.Patterns([_pattern(given) for given in exclude]) if exclude else None


def leaves_out(exclude: Sequence[str | bytes | Pattern], path: bytes) -> bool:
    """Whether patterns leave out the directory `path`, or one above it; relative to where they begin."""
    patterns = patterns_of(exclude)
    parts = path.split(b"/")
    return patterns is not None and any(
        patterns.excludes(b"/".join(parts[:count]), True) for count in range(1, len(parts) + 1)
    )


def only(name: bytes) -> tuple[Pattern, Pattern]:
    """The patterns that leave out everything but one name at the root."""
    quoted = re.sub(rb"([\\*?\[ ])", rb"\\\1", name)
    return Pattern("a single file", b"/*"), Pattern("a single file", b"!/" + quoted)


def lines_of(content: bytes, place: str) -> list[Pattern]:
    """The patterns in a file called `place`, without comments and empty lines."""
    return [Pattern(*line) for line in kernel.pattern_lines(content, place)]


def _pattern(given: str | bytes | Pattern) -> Pattern:
    return given if isinstance(given, Pattern) else Pattern("exclude", os.fsencode(given))


ALL = Selection()
