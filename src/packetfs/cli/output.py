"""Where words go: what was asked for to standard output, everything else to standard error, or all of it as JSON lines.

Nothing is decided here but the place and the form of a message.
"""

import errno
import os
import sys
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING

from packetfs.cli import lines
from packetfs.cli.names import shown_message

if TYPE_CHECKING:
    import msgspec

    from packetfs.cli.census import Census
    from packetfs.cli.progress import Meter
    from packetfs.errors import PacketFSError


class Output:
    """One command's two streams.

    Text is UTF-8 whatever the locale says: names are shown as they are stored, and what cannot be shown is escaped by
    `names.shown` before it gets here.
    """

    def __init__(
        self,
        *,
        json: bool,
        verbosity: int,
        progress: bool,
        stdout: IO[bytes] | None = None,
        stderr: IO[str] | None = None,
    ) -> None:
        self.json = json
        self.verbosity = verbosity
        self._progress = progress and verbosity >= 0
        self._stdout = stdout or sys.stdout.buffer
        self._stderr = stderr or sys.stderr
        self._meter: Meter | None = None

    def data(self, line: "msgspec.Struct", text: str) -> None:
        """What the command was asked for, e.g. one line of a listing."""
        self._write(lines.encode(line) if self.json else text.encode("utf-8", "backslashreplace") + b"\n")

    def content(self, piece: "bytes | memoryview") -> None:
        """Bytes of a file, as they are."""
        self._write(piece)

    def notice(self, line: "msgspec.Struct", text: str) -> None:
        """What a person wants to know, though it was not asked for; silenced by -q."""
        if self.json:
            self._event(line)
        elif self.verbosity >= 0:
            self._say(text)

    def detail(self, line: "msgspec.Struct", text: str) -> None:
        """What only -v shows; a JSON line needs it too, as there may be one for each of a million files."""
        if self.verbosity < 1:
            return
        self.notice(line, text)

    def warning(self, line: "msgspec.Struct", text: str) -> None:
        """Something is not as it should be, and the command goes on; -q does not silence it."""
        if self.json:
            self._event(line)
        else:
            self._say(f"packetfs: {text}")

    def error(self, error: "PacketFSError", *, exit_code: int | None = None) -> None:
        """Why the command ends."""
        code = error.exit_code if exit_code is None else exit_code
        if self.json:
            self._event(
                lines.Failure(
                    code=error.code, message=error.message, hint=error.hint, exit=code, values=dict(error.values)
                )
            )
            return
        self._say(f"packetfs: {_where(error)}{shown_message(error.message)}")
        if error.hint:
            self._say(f"hint: {shown_message(error.hint)}")

    def meter(
        self, verb: str, *, prints_data: bool = False, census: "Census | None" = None
    ) -> "AbstractContextManager[Meter]":
        """A meter to be told of progress; with `prints_data` nothing moves beneath the listing that is written.

        `census` counts what there is to do while it is being done, where that is not known beforehand.
        """
        from packetfs.cli import progress

        kind: type[Meter]
        if not self._progress or (prints_data and not self.json):
            kind = progress.Meter
        elif self.json:
            kind = progress.JsonMeter
        elif self._stderr.isatty():
            kind = progress.TerminalMeter
        else:
            kind = progress.LineMeter
        self._meter = kind(self, verb, census)
        return self._meter

    def flush(self) -> None:
        """Hand everything to the operating system; a broken pipe shows here at the latest."""
        self._stdout.flush()
        self._stderr.flush()

    def _write(self, piece: bytes | memoryview) -> None:
        """All of `piece`: with PYTHONUNBUFFERED the stream is a bare descriptor, which takes as much as fits."""
        left = memoryview(piece)
        while left:
            written: int | None = self._stdout.write(left)
            if written is None:  # how a bare descriptor says that it would block
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), "standard output")
            left = left[written:]

    def _event(self, line: "msgspec.Struct") -> None:
        self._write(lines.encode(line))
        self._stdout.flush()  # whoever reads events wants them as they happen

    def _say(self, text: str) -> None:
        if self._meter is not None and self._meter.say(text):
            return
        self._stderr.write(f"{text}\n")
        self._stderr.flush()

    def event(self, line: "msgspec.Struct") -> None:
        """A JSON line when JSON lines are wanted, else nothing."""
        if self.json:
            self._event(line)

    def line(self, text: str) -> None:
        """A line of standard error, e.g. of progress."""
        self._say(text)


def _where(error: "PacketFSError") -> str:
    """Whose disk it is that fails, where it is not that of this machine: the paths of both look alike."""
    if not hasattr(error, "__notes__"):
        return ""
    from packetfs.errors import UnavailableError
    from packetfs.wire.protocol import said_by_peer

    return "on the other machine: " if isinstance(error, UnavailableError) and said_by_peer(error) else ""
