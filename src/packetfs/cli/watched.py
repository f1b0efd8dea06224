"""What `--watch` means to a command that has it: its options, and what is said while it goes on. It watches nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from packetfs.cli import lines
from packetfs.cli.config import seconds
from packetfs.cli.quantities import duration
from packetfs.errors import PacketFSError, PartialError, UsageError

if TYPE_CHECKING:
    from packetfs.cli.output import Output

__all__ = ["retry_time", "tell_of_retry", "told_in_part", "watch_options"]


def watch_options(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `--watch` and `--retry`; what it does again is called `verb`."""
    options = (
        click.option(
            "--watch", is_flag=True, help=f"Go on: {verb} again whenever something changes, until interrupted."
        ),
        click.option(
            "--retry",
            metavar="TIME",
            help="With --watch: how long to try again when the other machine is out of reach.  [default: for ever]",
        ),
    )

    def give(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return give


def retry_time(retry: str | None, *, watch: bool) -> float | None:
    """For how many seconds to try again; None: for ever. UsageError if nothing is watched."""
    if retry is not None and not watch:
        raise UsageError("--retry is for --watch", hint="without it, run the command again: it continues")
    return None if retry is None else seconds(retry, "--retry")


def tell_of_retry(output: "Output", error: PacketFSError, pause_s: float) -> None:
    """Say what has failed and when it is tried again."""
    text = f"{error.message}; trying again {f'in {duration(pause_s)}' if pause_s else 'at once'}"
    output.warning(lines.Notice(code=error.code, message=text), text)
    output.flush()


@contextmanager
def told_in_part(output: "Output") -> Iterator[None]:
    """Within the block, what was done in part is a warning: the next change may mend it. All is written at the end."""
    try:
        yield
    except PartialError as error:
        output.warning(lines.Notice(code=error.code, message=error.message), error.message)
    output.flush()
