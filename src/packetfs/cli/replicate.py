"""`packetfs replicate`: a full replica of another machine's volume, kept up to date."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, ssh_options
from packetfs.cli.config import seconds
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown, shown_message
from packetfs.cli.output import Output
from packetfs.cli.quantities import amount, bytes_text, duration
from packetfs.errors import PacketFSError, RefusedError, UsageError

if TYPE_CHECKING:
    from packetfs.sync.replicate import Lag, Origin
    from packetfs.volume import Volume
    from packetfs.wire.connection import Connection

_TOLD_S = 1.0  # between two lines for people


@command(
    "replicate",
    examples="""
packetfs replicate pfs://host/photos /srv/replicas/photos
packetfs replicate --once ada@host:/srv/volume ~/replica
""",
)
@click.argument("location", metavar="LOCATION", shell_complete=paths)
@click.argument("directory", metavar="DIR", shell_complete=paths)
@click.option("--once", is_flag=True, help="Catch up with what there is, and end.")
@click.option(
    "--retry", metavar="TIME", help="How long to try again when the origin is out of reach.  [default: for ever]"
)
@ssh_options
def replicate(invocation: Invocation, *, location: str, directory: str, once: bool, retry: str | None) -> None:
    """Make DIR a full replica of another machine's volume, and keep it up to date.

    It goes on until it is interrupted. A full replica holds every snapshot, at the origin's addresses, and its
    journal: at one position the two are the same. It is read like any volume, also by `packetfs serve`, and written
    to by nobody else. After an outage of any length it goes on from where it was. It has the volume's keys: over
    pfs:// this takes the role `admin`. If the origin is lost, `packetfs promote DIR` makes DIR the origin.
    """
    from packetfs.sync.replicate import keep_following
    from packetfs.sync.usage import prepare_process

    prepare_process()
    place = invocation.location(location, remote=True)
    if place.endpoint is None:
        raise UsageError(f"{location!r} is on this machine", hint="a full replica is of a volume on another machine")
    if once and retry is not None:
        raise UsageError("--retry is for following; --once ends when the origin cannot be reached")
    _check_directory(directory)
    teller = _Teller(invocation.output, directory)

    def failed(error: PacketFSError, pause_s: float) -> None:
        text = f"{error.message}; trying again {f'in {duration(pause_s)}' if pause_s else 'at once'}"
        invocation.output.warning(lines.Notice(code=error.code, message=text), text)
        invocation.output.flush()

    def follow_once(in_touch: Callable[[], None]) -> None:
        from packetfs.sync import remote
        from packetfs.sync import replicate as following
        from packetfs.volume import Volume

        chosen = invocation.settings

        def connect() -> "Connection":
            return remote.reach(
                place, ssh=chosen.ssh, remote_packetfs=chosen.remote_packetfs, rate_bytes_s=chosen.rate_bytes_s
            )

        name = str(type(place)(place.volume, endpoint=place.endpoint))
        with following.reach(connect(), place.volume, name) as origin:
            made = following.ensure(origin, directory)
            with Volume.open(directory, lock_wait_s=chosen.lock_wait_s) as volume:
                if (found := volume.standing) is None or found.role == "fenced":
                    _rejoin(invocation.output, origin, volume, connect, place.volume)
            with Volume.open(directory, lock_wait_s=chosen.lock_wait_s) as volume:
                teller.begins(origin, volume.id, made=made)
                in_touch()
                following.follow(origin, volume, waits=not once, told=teller)

    if once:
        follow_once(lambda: None)
    else:
        keep_following(follow_once, retry_s=None if retry is None else seconds(retry, "--retry"), failed=failed)
    teller.finish()


class _Teller:
    """Says how far the replica is: every step as JSON, at most once a second for people."""

    def __init__(self, output: Output, directory: str) -> None:
        from packetfs.env import SYSTEM

        self._output = output
        self._directory = directory
        self._env = SYSTEM
        self._told_s = 0.0
        self._entries = 0
        self._last: Lag | None = None
        self._has_begun = False

    def begins(self, origin: "Origin", volume_id: bytes, *, made: bool) -> None:
        """The origin was reached."""
        if self._has_begun:
            return
        self._has_begun = True
        line = lines.Replicating(
            replica=self._directory, origin=origin.location, volume_id=volume_id.hex(), created=made
        )
        what = "is a new full replica of" if made else "follows"
        self._output.notice(line, f"{shown(self._directory)} {what} {shown(origin.location)}")
        self._output.flush()

    def __call__(self, lag: "Lag") -> None:
        """The replica is there."""
        self._last = lag
        self._entries += lag.entries
        if self._output.json:
            self._tell()
        elif self._entries and self._env.monotonic_s() - self._told_s >= _TOLD_S:
            self._told_s = self._env.monotonic_s()
            self._tell()

    def finish(self) -> None:
        """That was all."""
        if self._last is not None and (self._entries or self._told_s == 0) and not self._output.json:
            self._tell()

    def _tell(self) -> None:
        lag = self._last
        assert lag is not None, "there is something to tell"
        line = lines.Followed(
            replica=self._directory,
            position_seq=lag.position.seq,
            position_hash=lag.position.hash.hex(),
            entries=self._entries,
            lag_bytes=lag.bytes,
            lag_s=round(lag.seconds, 6),
            took_s=round(lag.took_s, 6),
        )
        behind = f"{bytes_text(lag.bytes)} and {duration(lag.seconds)} behind" if lag.seconds else "up to date"
        text = f"position {lag.position}, {amount(self._entries, 'entry')} more, {behind}"
        self._entries = 0
        self._output.notice(line, text)
        self._output.flush()


def _rejoin(output: Output, origin: "Origin", volume: "Volume", connect: "Callable[[], Connection]", name: str) -> None:
    """An old origin, back again."""
    from packetfs.sync.rejoin import rejoin

    def told(text: str) -> None:
        output.warning(lines.Notice(code="fenced", message=text), f"{shown(volume.path)} is {shown_message(text)}")

    done = rejoin(origin, volume, connect, name, told=told)
    line = lines.Rejoined(
        replica=volume.path,
        origin=origin.location,
        epoch=done.epoch,
        fork_seq=done.fork.seq,
        fork_hash=done.fork.hash.hex(),
        conflicts=[{"ref": ref, "conflict": kept, "snapshots": count} for ref, kept, count in done.conflicts],
    )
    text = f"{shown(volume.path)} is a replica of {shown(origin.location)} from position {done.fork} on"
    for ref, kept, count in done.conflicts:
        text += f"; {amount(count, 'snapshot')} of {ref} that only it had: {kept}"
    output.warning(line, text)
    output.flush()


def _check_directory(directory: str) -> None:
    from packetfs.volume.creation import is_volume

    if os.path.isdir(directory) and os.listdir(directory) and not is_volume(directory):
        raise RefusedError(
            f"{directory!r} is not empty and no volume",
            code="directory-not-empty",
            hint="name a new directory",
            path=directory,
        )
