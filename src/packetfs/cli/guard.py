"""The last line: whatever happens, a user sees one message and a script gets one exit code, never a traceback."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from packetfs.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    DamagedError,
    PacketFSError,
    UnavailableError,
    UsageError,
    disk_error,
)

if TYPE_CHECKING:
    from packetfs.cli.invocation import Invocation

EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE: what a program gets that leaves the signal alone


def run(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` call for; its exit code."""
    _occupy_streams()
    import click

    from packetfs.cli.app import app
    from packetfs.cli.invocation import Invocation

    invocation = Invocation(arguments, os.environ)
    try:
        if "_PACKETFS_COMPLETE" in os.environ:  # a shell asks for the words that fit; click answers and exits
            app.main(list(arguments), prog_name="packetfs", obj=invocation)
        # Not through `app.main`, which has its own idea of an interrupt and of a broken pipe.
        with app.make_context("packetfs", list(arguments), obj=invocation) as context:
            code = app.invoke(context)
        _flush(invocation)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except PacketFSError as error:
        return _tell(invocation, error)
    except click.UsageError as error:
        return _tell(invocation, _usage(error))
    except click.ClickException as error:
        return _tell(invocation, UsageError(error.format_message()))
    except (KeyboardInterrupt, click.Abort):
        interrupted = PacketFSError("interrupted", code="interrupted", hint=invocation.after_interrupt)
        return _tell(invocation, interrupted, exit_code=EXIT_INTERRUPTED)
    except BrokenPipeError:
        return _broken_pipe()
    except OSError as error:
        return _tell(invocation, _from_system(error))
    except MemoryError:
        return _tell(invocation, UnavailableError("the machine has no memory left", hint="end other programs"))
    except Exception as error:  # noqa: BLE001 - this is the place where a bug becomes a message
        return _bug(invocation, error)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how a panic of the kernel arrives
            raise
        return _bug(invocation, error)
    return code if isinstance(code, int) else EXIT_OK


def _occupy_streams() -> None:
    """Fill descriptors 0, 1 and 2 if we were started without them: the next file opened would get their number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY)  # takes the lowest free number; reading from it is an error
    if sys.stdout is None or sys.stderr is None:  # how Python tells that they were closed
        sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
        sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _flush(invocation: "Invocation") -> None:
    """Send what is still buffered, while a failure to do so can be told."""
    if "output" in vars(invocation):
        invocation.output.flush()
    sys.stdout.flush()


def _tell(invocation: "Invocation", error: PacketFSError, *, exit_code: int | None = None) -> int:
    """Say what went wrong. That nobody is left to hear it changes nothing about the exit code."""
    code = error.exit_code if exit_code is None else exit_code
    if isinstance(error, DamagedError) and not error.hint:
        error.hint = "`packetfs verify` names what is damaged and the files that need it; the rest is intact"
    try:
        output = invocation.output_for_failure()
        output.error(error, exit_code=code)
        output.flush()
    except OSError:
        _silence()
    return code


def _usage(error: "object") -> UsageError:
    import click

    assert isinstance(error, click.UsageError)
    command = error.ctx.command_path if error.ctx is not None else "packetfs"
    return UsageError(error.format_message().rstrip("."), hint=f"see `{command} --help`")


def _from_system(error: OSError) -> PacketFSError:
    """An error of the operating system that no room below gave a meaning to."""
    if error.errno is None:
        return UnavailableError(str(error))
    name = error.filename if isinstance(error.filename, (str, bytes)) else "a file or stream"
    found = disk_error("use", name, error.errno)
    if found.exit_code == UnavailableError("").exit_code:
        return found
    return UnavailableError(found.message, code=found.code, hint=found.hint, **found.values)


def _broken_pipe() -> int:
    """Whoever read our output has gone, as `packetfs log ... | head` does: nothing to say."""
    _silence()
    return EXIT_BROKEN_PIPE


def _silence() -> None:
    """Point both streams nowhere, so that the interpreter's own flush at exit does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def _bug(invocation: "Invocation", error: BaseException) -> int:
    from traceback import format_exception

    text = "".join(format_exception(error))
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if os.environ.get("PACKETFS_DEBUG"):
        sys.stderr.write(text)
        where = "the traceback is above"
    else:
        path = _write_report(invocation, text)
        where = f"the traceback is in {path}" if path else "run it again with PACKETFS_DEBUG=1 to see the traceback"
    return _tell(
        invocation, PacketFSError(f"this is a bug in PacketFS: {what}; {where}", code="bug", hint="please report it")
    )


def _write_report(invocation: "Invocation", text: str) -> str | None:
    """Keep the traceback where the user can find it; None if no place would take it."""
    import tempfile

    from platformdirs import user_state_dir

    from packetfs import __version__

    head = f"packetfs {__version__}, Python {sys.version}\narguments: {list(invocation.arguments)!r}\n\n"
    for directory in (user_state_dir("packetfs", appauthor=False), tempfile.gettempdir()):
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            descriptor, path = tempfile.mkstemp(prefix="packetfs-bug-", suffix=".txt", dir=directory)
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(head + text)
        except OSError:
            continue
        return path
    return None
