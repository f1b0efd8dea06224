"""One run of one command: its settings, its output, and how the words of its arguments become locations.

It opens nothing by itself.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from packetfs.cli import lines
from packetfs.cli.config import Settings, settings, wants_json
from packetfs.cli.names import shown_message
from packetfs.cli.output import Output
from packetfs.errors import PacketFSError, RefusedError, UsageError
from packetfs.format.location import Location, parse_directory, parse_location, with_volume

if TYPE_CHECKING:
    from packetfs.sync.session import Session
    from packetfs.volume.replica import Replica
    from packetfs.volume.volume import Volume
    from packetfs.wire.protocol import Ingest

    Opened = Volume | Session | Replica
    """What a location can be opened as: all of them read alike."""


class Invocation:
    """What every command gets as its first argument."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.arguments = arguments
        self.environment = environment
        self.flags: dict[str, Any] = {}
        self.after_interrupt = "what was stored stays; run the same command again and it continues"
        """What to tell who has stopped it."""

    @cached_property
    def settings(self) -> Settings:
        """The settings in force; only read once the options are parsed."""
        return settings(self.flags, self.environment)

    @cached_property
    def output(self) -> Output:
        """Where this run's words go."""
        chosen = self.settings
        return Output(json=chosen.json, verbosity=chosen.verbosity, progress=chosen.progress)

    def check(self) -> None:
        """Find out whether the settings can be used before anything is done with them."""
        _ = self.settings

    def output_for_failure(self) -> Output:
        """The output, even when the settings themselves are what is wrong: then as far as they can be guessed."""
        try:
            return self.output
        except (PacketFSError, OSError):
            return Output(json=wants_json(self.arguments, self.environment), verbosity=0, progress=False)

    def location(self, text: str, *, remote: bool = False) -> Location:
        """The place that `text` means: on this machine, unless the command can reach another (`remote`).

        A text without a volume (`::REF`, and `REF` alone when a volume is configured) means the configured one.
        """
        default = self.settings.volume
        if default is not None and "::" not in text and "://" not in text:
            location = self._in_default(text)
        else:
            location = parse_location(text)
        if not location.volume:
            if default is None:
                raise UsageError(
                    f"{text!r} names no volume",
                    code="no-volume",
                    hint="write VOLUME::REF, or set PACKETFS_VOLUME or --volume",
                )
            configured = parse_location(default)
            location = with_volume(location, configured.volume, configured.endpoint)
        return _reachable(location) if remote else _local(location)

    def volume(self, text: str | None, *, remote: bool = False) -> Location:
        """The volume that `text` names (anything after `::` may stand there and is not used), or the configured one."""
        if text is None:
            return self.location("::", remote=remote)
        location = parse_location(text)
        if not location.volume:
            return self.location(text, remote=remote)
        return _reachable(location) if remote else _local(location)

    def open(self, location: Location, *, pulls: bool = False) -> "Opened":
        """The volume at `location`, open; one on another machine, or a replica of it, as a session with its origin."""
        from packetfs import api
        from packetfs.volume.replica import is_replica

        opened: Opened
        if location.endpoint is not None:
            opened = self.session(location, pulls=pulls)
        elif is_replica(location.volume):
            opened = api.open_replica(location.volume, lock_wait_s=self.settings.lock_wait_s)
            if not opened.is_whole:
                opened.close()
                opened = self.session(location, pulls=pulls)
        else:
            return self.volume_here(location)
        self.tell_of_index(opened)
        return opened

    def volume_here(self, location: Location) -> "Volume":
        """The volume at `location`, which is on this machine, open; RefusedError for a replica of one."""
        from packetfs import api
        from packetfs.volume.replica import is_replica

        if is_replica(location.volume):
            raise RefusedError(
                f"{location.volume!r} is a replica: this is done at the origin of its volume",
                code="not-origin",
                hint="run packetfs on that machine; the replica follows with its next pull or clone",
            )
        opened = api.open(location.volume, lock_wait_s=self.settings.lock_wait_s)
        self.tell_of_index(opened)
        return opened

    def session(
        self, location: Location, *, writes: bool = False, create: bool = False, pulls: bool = False
    ) -> "Session":
        """A session with the machine that `location` is on; one that `pulls` asks for what is there at once."""
        from packetfs import api
        from packetfs.sync.usage import prepare_process

        prepare_process()
        chosen = self.settings
        return api.connect(
            location,
            ref=location.line,
            wants=(location.line, str(location.when), location.path) if pulls else None,
            writes=writes,
            create=create,
            ssh=chosen.ssh,
            remote_packetfs=chosen.remote_packetfs,
            cache_bytes=chosen.cache_bytes,
            rate_bytes_s=chosen.rate_bytes_s,
            lock_wait_s=chosen.lock_wait_s,
            discarded=self.tell_of_replica,
        )

    def directory(self, text: str) -> Location:
        """The directory that `text` names, here, where ssh leads or at a server, in place of a location's volume."""
        endpoint, path = parse_directory(text)
        return Location(path, endpoint=endpoint)

    def session_with_directory(
        self, place: Location, *, ref: str, ingest: "Ingest", wants: tuple[str, str, bytes] | None, wants_data: bool
    ) -> "Session":
        """A session with the machine that the directory `place` is on, about that directory; see `sync.mirror`."""
        from packetfs.sync.remote import connect
        from packetfs.sync.usage import prepare_process

        prepare_process()
        chosen = self.settings
        return connect(
            place,
            ref=ref,
            ingest=ingest,
            wants=wants,
            wants_data=wants_data,
            writes=True,
            create=True,
            ssh=chosen.ssh,
            remote_packetfs=chosen.remote_packetfs,
            cache_bytes=chosen.cache_bytes,
            rate_bytes_s=chosen.rate_bytes_s,
            replica=None,
            whole=False,
            lock_wait_s=chosen.lock_wait_s,
            discarded=self.tell_of_replica,
        )

    def tell_of_replica(self, why: str) -> None:
        """Say that what was kept of a volume is of no use."""
        text = f"what was kept here of that volume is of no use and is fetched anew: {shown_message(why)}"
        self.output.notice(lines.Notice(code="replica-discarded", message=text), text)

    def tell_of_index(self, volume: "Opened") -> None:
        """Say that the volume's index could not be used, if so: why this takes longer than it should."""
        why = volume.index_discarded
        if why is not None:
            text = f"the index could not be used and is made anew from the chunk tables: {shown_message(why)}"
            self.output.notice(lines.Notice(code="index-discarded", message=text), text)

    def _in_default(self, text: str) -> Location:
        """`REF@WHEN:/PATH` in the configured volume, unless it can only be a path or a place on another machine."""
        try:
            return parse_location(f"::{text}")
        except UsageError as not_a_ref:
            try:
                location = parse_location(text)
            except UsageError:
                raise not_a_ref from None
            return location


def _local(location: Location) -> Location:
    if location.endpoint is None:
        return location
    _check_colons(location)
    raise UsageError(
        f"{str(location)!r} is on another machine, and this command works on local volumes only",
        code="remote-unsupported",
        hint="run packetfs on that machine; a local volume whose name has a colon is written ./NAME",
    )


def _reachable(location: Location) -> Location:
    """`location`; one that looks as if it were on another machine, and hardly is meant to be, is refused."""
    if location.endpoint is not None:
        _check_colons(location)
    return location


def _check_colons(location: Location) -> None:
    """`volume:main` has a colon too few, and is not the machine `volume`."""
    assert location.endpoint is not None
    if location.endpoint.scheme == "pfs":
        return
    if location.endpoint.port is None and not location.endpoint.user and os.path.isdir(location.endpoint.host):
        raise UsageError(
            f"{str(location)!r} would be on the machine {location.endpoint.host!r}, and that is a directory here",
            code="bad-location",
            hint=f"did you mean {location.endpoint.host}::{location.volume}?",
        )
