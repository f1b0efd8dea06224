"""From a location on another machine to an open session. It decides where the replica is and how large it may get."""

import os
import shlex
from collections.abc import Callable, Mapping
from typing import Final

from packetfs.env import SYSTEM, Env
from packetfs.errors import InvalidError, RefusedError, UsageError
from packetfs.format.location import Endpoint, Location, directory_text, parse_location
from packetfs.sync.directory import named
from packetfs.sync.repair import FarSource
from packetfs.sync.session import Session, replica_path
from packetfs.volume.replica import Replica, is_replica
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.transports import Ssh, Transport

__all__ = ["PATIENCE_S", "connect", "far_source", "over", "reach"]

_CACHE_BYTES_MIN: Final = 256 << 20
_CACHE_SHARE: Final = 10  # of the free disk: a tenth is not missed
# Longer than an origin thinks or syncs about anything (a plan of ten million files: a minute), and shorter than the two
# hours after which TCP notices by itself that a machine is not there.
PATIENCE_S: Final = 600.0


def connect(
    location: Location,
    *,
    ref: str,
    wants: tuple[str, str, bytes] | None = None,
    ingest: protocol.Ingest | None = None,
    wants_data: bool = True,
    writes: bool,
    create: bool,
    ssh: str,
    remote_packetfs: str,
    cache_bytes: int | None,
    rate_bytes_s: int | None = None,
    replica: str | None,
    whole: bool,
    lock_wait_s: float,
    discarded: Callable[[str], None] | None,
    env: Env = SYSTEM,
) -> Session:
    """A session with the machine that `location` is on, or, if it is a replica here, with the replica's origin.

    With `ingest` the location names a directory there: see `over`.
    """
    if location.endpoint is None:
        if not is_replica(location.volume):
            raise UsageError(
                f"{location.volume!r} is no replica of a volume on another machine",
                hint="a volume on this machine is opened with `packetfs.open`",
            )
        replica = os.path.abspath(location.volume)
        origin, whole = _origin_of(replica, lock_wait_s, env)
        location = parse_location(origin)
    assert location.endpoint is not None, "a replica's origin is on another machine"
    return over(
        _paced(_transport(location.endpoint, ssh, remote_packetfs, env), rate_bytes_s, env),
        location,
        ref=ref,
        wants=wants,
        ingest=ingest,
        wants_data=wants_data,
        writes=writes,
        create=create,
        cache_bytes=cache_bytes,
        whole=whole,
        replica=replica,
        lock_wait_s=lock_wait_s,
        discarded=discarded,
        env=env,
    )


def reach(
    location: Location,
    *,
    ssh: str,
    remote_packetfs: str,
    rate_bytes_s: int | None = None,
    patience_s: float = PATIENCE_S,
    env: Env = SYSTEM,
) -> Connection:
    """A connection to the machine that `location` is on; nothing has been said."""
    assert location.endpoint is not None, "what is on this machine is opened here"
    transport = _paced(_transport(location.endpoint, ssh, remote_packetfs, env), rate_bytes_s, env)
    return Connection(transport, patience_s=patience_s)


def far_source(location: Location, *, ssh: str, remote_packetfs: str) -> FarSource:
    """What is at `location` on another machine, as the copy that a repair takes from; nothing is kept of it here."""
    connection = reach(location, ssh=ssh, remote_packetfs=remote_packetfs)
    try:
        return FarSource.greet(connection, location.volume)
    except BaseException:
        connection.close()
        raise


def over(
    transport: Transport,
    location: Location,
    *,
    ref: str = "",
    wants: tuple[str, str, bytes] | None = None,
    ingest: protocol.Ingest | None = None,
    wants_data: bool = True,
    writes: bool = True,
    create: bool = False,
    cache_bytes: int | None = None,
    whole: bool = False,
    replica: str | None = None,
    lock_wait_s: float = 10.0,
    discarded: Callable[[str], None] | None = None,
    patience_s: float = PATIENCE_S,
    environment: Mapping[str, str] = os.environ,
    env: Env = SYSTEM,
) -> Session:
    """A session over `transport` with the origin of the volume at `location`. With `whole`, nothing is evicted.

    An origin that owes an answer and says nothing for `patience_s` is taken for gone. With `ingest` the volume of
    `location` is a directory there, and the session is one of the volume in which the origin keeps what it holds.
    """
    origin = str(Location(location.volume, endpoint=location.endpoint))
    volume = location.volume
    if ingest is not None:
        # No volume has such a location, so its replica is nobody else's.
        origin, volume = f"sync {directory_text(location.endpoint, volume)}", named(volume)
    place = replica or replica_path(origin, environment)
    if ingest is not None:
        origin = os.fsencode(origin).decode("utf-8", "backslashreplace")  # from here on for people only
    limit = None if whole else (cache_bytes if cache_bytes is not None else _default_cache_bytes(place))
    connection = Connection(transport, patience_s=patience_s)
    try:
        return Session.open(
            connection,
            volume,
            origin=origin,
            place=place,
            writes=writes,
            create=create,
            ref=ref,
            wants=wants,
            ingest=ingest,
            wants_data=wants_data,
            cache_bytes=limit,
            lock_wait_s=lock_wait_s,
            env=env,
            discarded=discarded,
        )
    except InvalidError as error:
        connection.close()
        if ingest is None or error.code != "bad-location" or not protocol.said_by_peer(error):
            raise
        raise RefusedError(
            "packetfs on the other machine is too old to sync a directory",
            code="version-skew",
            hint="upgrade packetfs there, or push to a volume there and pull from it",
        ) from None
    except BaseException:
        connection.close()
        raise


def _transport(endpoint: Endpoint, ssh: str, remote_packetfs: str, env: Env) -> Transport:
    if endpoint.scheme == "pfs":
        from packetfs.sync.pairing import reach  # what it stands on takes longer to load than ssh to start

        return reach(endpoint, env=env)
    return Ssh(endpoint, ssh_command=shlex.split(ssh), remote_packetfs=remote_packetfs)


def _paced(transport: Transport, rate_bytes_s: int | None, env: Env) -> Transport:
    if rate_bytes_s is None:
        return transport
    from packetfs.wire.pace import Paced

    return Paced(transport, rate_bytes_s, env=env)


def _origin_of(replica: str, lock_wait_s: float, env: Env) -> tuple[str, bool]:
    opened = Replica.open(replica, lock_wait_s=lock_wait_s, env=env)
    if opened is None:
        raise UsageError(
            f"the replica {replica!r} cannot be used: its replica.db is damaged or of another version",
            hint="delete it and make it again with `packetfs clone`",
        )
    with opened:
        return opened.identity.origin, opened.identity.cache_bytes is None


def _default_cache_bytes(place: str) -> int:
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    found = os.statvfs(place)
    return max(_CACHE_BYTES_MIN, found.f_bavail * found.f_frsize // _CACHE_SHARE)
