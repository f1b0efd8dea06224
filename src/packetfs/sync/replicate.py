"""A full replica: made from another machine's volume, brought up to date, and kept so for as long as one likes.

What is taken in and proved is `volume/following.py`; what the origin sends is decided in `feed.py`. Here is the
conversation, and what to do when it ends.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from packetfs import kernel
from packetfs.env import SYSTEM, Env
from packetfs.errors import BusyError, DamagedError, InvalidError, PacketFSError, RefusedError, UnavailableError
from packetfs.format.address import segment_of
from packetfs.format.descriptor import ChunkProfile, Descriptor
from packetfs.format.entry import Position
from packetfs.release import VERSION
from packetfs.sync.link import Link
from packetfs.sync.repair import FarSource, repair
from packetfs.sync.watching import delay_s
from packetfs.volume import Volume
from packetfs.volume.creation import create_replica, is_volume
from packetfs.volume.following import Follower
from packetfs.volume.keys import Keys
from packetfs.volume.standing import ORIGIN_NUMBER, Standing
from packetfs.wire import protocol

if TYPE_CHECKING:
    from packetfs.format.entry import Entry
    from packetfs.wire.connection import Connection

__all__ = ["Lag", "Origin", "ensure", "follow", "keep_following", "make", "reach"]

_DIGEST_KEY_BYTES: Final = 32
_HEARD_S: Final = 10.0  # between two times that it is written down that the origin is there, while nothing happens


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a replica is behind its origin, as of the origin's last word."""

    position: Position
    """Where the replica is, durable."""
    entries: int
    """That were entered since the last of these."""
    bytes: int
    """Content of commits that the replica has not."""
    seconds: float
    """Since the oldest of them, by the origin's clock; 0 where there is none."""
    took_s: float
    """From the commit of the last entry at the origin until it was durable here; 0 if none was entered."""


class Origin:
    """An open conversation with the machine that a replica follows."""

    def __init__(self, connection: "Connection", volume: str, location: str) -> None:
        """Greet it. `volume` is what it calls the volume, `location` what we call both."""
        self.location = location
        self.link = Link(connection)
        hello = protocol.Hello(protocol=protocol.PROTOCOL, software=VERSION, volume=os.fsencode(volume), intent="read")
        self.welcome = self.link.ask(hello, protocol.Welcome)

    def close(self) -> None:
        """Take leave; idempotent."""
        self.link.connection.close()

    def check_same(self, volume: Volume) -> None:
        """RefusedError unless it is the volume of which `volume` is a copy."""
        if volume.id != self.welcome.volume_id or not volume.space.peer_keys.startswith(
            self.welcome.keys[:_DIGEST_KEY_BYTES]
        ):
            raise RefusedError(
                f"what is at {volume.path!r} is no copy of the volume at {self.location}",
                code="different-volumes",
                hint="name a new directory, or the location that it is a replica of",
            )


@contextmanager
def reach(connection: "Connection", volume: str, location: str) -> Iterator[Origin]:
    """The origin at the other end of `connection`, greeted."""
    try:
        origin = Origin(connection, volume, location)
        yield origin
    finally:
        connection.close()


def make(origin: Origin, place: str, *, env: Env = SYSTEM) -> None:
    """Make an empty full replica at `place`. Killed before the end there is nothing at `place`."""
    try:
        joined = origin.link.ask(protocol.Join(), protocol.Joined)
    except PacketFSError as error:
        if protocol.said_by_peer(error) and error.code == "bad-frame":
            raise RefusedError(
                f"packetfs {origin.welcome.software} on the other machine is too old to be replicated from",
                code="version-skew",
                hint="upgrade packetfs there",
            ) from None
        raise
    welcome, secret = origin.welcome, joined.secret
    if not welcome.keys.startswith(kernel.derive_key("packetfs v1 chunk digest", secret)):
        raise InvalidError("the secret from the peer is not that of its volume", code="protocol-violation")
    if joined.number in (0, ORIGIN_NUMBER):
        raise InvalidError("the peer gives a number that is the origin's", code="protocol-violation")
    smallest, average, largest, normalisation = welcome.chunks
    described = Descriptor(
        volume_id=welcome.volume_id,
        secret_id=Keys.secret_id(secret),
        created_ns=welcome.created_ns,
        chunks=ChunkProfile(min=smallest, avg=average, max=largest, normalisation=normalisation),
    )
    create_replica(place, secret, described, Standing("replica", origin.location, joined.number, 0), env)


def follow(
    origin: Origin,
    volume: Volume,
    *,
    waits: bool,
    told: Callable[[Lag], None],
    entered: "Callable[[Entry], None] | None" = None,
) -> None:
    """Bring a full replica up to date; with `waits`, go on until the conversation ends, which is raised.

    `told` hears after each answer how far behind the replica is. Killed at any instant the replica is at one position
    of its origin's journal, and running it again goes on from there. ConflictError `diverged` if its position is not
    in that journal.
    """
    origin.check_same(volume)
    count, last_ns = 0, 0

    def note(entry: "Entry") -> None:
        nonlocal count, last_ns
        count, last_ns = count + 1, entry.time_ns
        if entered is not None:
            entered(entry)

    with Follower(volume, note) as follower:
        _mend(origin, volume)
        lag = Lag(follower.position, 0, 0, 0.0, 0.0)
        conversation = _Conversation(origin, volume, follower, lambda: told(replace(lag, entries=0, took_s=0.0)))
        while True:
            count = last_ns = 0
            said, heard_s = conversation.ask(waits=waits)
            done_s = volume.env.monotonic_s()
            took_s = (said.now_ns - last_ns) / 1e9 + done_s - heard_s if last_ns else 0.0
            behind_s = (said.now_ns - said.oldest_ns) / 1e9 if said.oldest_ns else 0.0
            lag = Lag(follower.position, count, said.bytes, max(0.0, behind_s), max(0.0, took_s))
            told(lag)
            if said.oldest_ns == 0 and not waits:
                follower.punch()
                return


def _mend(origin: Origin, volume: Volume) -> None:
    """Make good what is known to be damaged here, as far as the origin has it."""
    if not volume.damaged:
        return
    chunks = kernel.Mender(volume.space).chunks(volume.damaged)
    done = set(repair(volume, volume.damaged, FarSource(origin.link, origin.welcome)).mended)
    readable = {segment_of(address) for address, _ in chunks}
    # Where a chunk table is what is damaged, `verify` says what became of it.
    left = [extent for extent in volume.damaged if segment_of(extent[0]) not in readable]
    volume.remember_damage(left + [chunk for chunk in chunks if chunk not in done], complete=True)


class _Conversation:
    """Asks for what follows, and hands it to the follower."""

    def __init__(self, origin: Origin, volume: Volume, follower: Follower, alive: Callable[[], None]) -> None:
        self._origin = origin
        self._told_alive = alive
        self._volume = volume
        self._follower = follower
        self._written_s = 0.0
        found = volume.standing
        assert found is not None, "a follower is of a replica"
        self._standing = replace(found, origin=origin.location)
        self._proof = volume.epoch_proof()

    def ask(self, *, waits: bool) -> tuple[protocol.Followed, float]:
        """One FOLLOW: what came is entered when this returns. The last word, and when it was heard."""
        follower, link = self._follower, self._origin.link
        at = follower.position
        arrived = b"".join(seq.to_bytes(8, "little") for seq in follower.arrived[: protocol.ARRIVED_MAX])
        request = link.say(protocol.Follow(seq=at.seq, hash=at.hash, waits=waits, arrived=arrived, proof=self._proof))
        try:
            may_enter = False
            while True:
                message = link.next(request)
                match message:
                    case protocol.Entry(address=address, data=data, carries=carries, base=base, ends=ends):
                        if may_enter:
                            follower.enter()
                        follower.entry(data, address, carries=carries, base=base)
                        may_enter = ends
                    case protocol.Literals(body=body):
                        follower.literals(body)
                    case protocol.Tree(body=body):
                        follower.tree(body)
                    case protocol.Progress():
                        self._alive()
                    case protocol.Followed():
                        heard_s = self._volume.env.monotonic_s()
                        self._done(message, may_enter=may_enter)
                        return message, heard_s
                    case _:
                        raise AssertionError("the protocol lets nothing else come here")
        except RefusedError as error:
            if protocol.said_by_peer(error):
                raise
            # Something else is where this belongs: one of the two is not from this volume's history.
            raise DamagedError(
                f"the replica and its origin contradict each other: {error.message}",
                code="transfer-damaged",
                hint="verify both: `packetfs verify`",
            ) from None
        finally:
            follower.forget_unless_whole()

    def _done(self, said: protocol.Followed, *, may_enter: bool) -> None:
        follower = self._follower
        if may_enter:
            follower.enter()
        elif follower.is_pending:
            raise DamagedError("the origin left out what belongs to its last entries", code="transfer-damaged")
        now_ns = self._volume.env.now_ns()
        seen = replace(self._standing, seq=said.seq, bytes=said.bytes, time_ns=said.oldest_ns, heard_ns=now_ns)
        self._write(seen)

    def _alive(self) -> None:
        """The origin is there and has nothing new; a moment in which nothing is lost by giving back what is gone."""
        self._told_alive()
        if self._volume.env.monotonic_s() - self._written_s >= _HEARD_S:
            self._write(replace(self._standing, heard_ns=self._volume.env.now_ns()))
            self._follower.punch()

    def _write(self, seen: Standing) -> None:
        self._standing = seen
        self._written_s = self._volume.env.monotonic_s()
        self._follower.heard(seen)


def keep_following(
    operation: Callable[[Callable[[], None]], None],
    *,
    retry_s: float | None,
    failed: Callable[[PacketFSError, float], None],
    env: Env = SYSTEM,
) -> None:
    """Run `operation` again whenever the origin was out of reach, for `retry_s` or for ever; not if it never was in.

    `operation` is given a function to call when it is in touch. `failed` hears why it ended, and after how many seconds
    the next try is.
    """
    attempt, since_s, was_in_touch = 0, env.monotonic_s(), False

    def in_touch() -> None:
        nonlocal attempt, since_s, was_in_touch
        attempt, since_s, was_in_touch = 0, env.monotonic_s(), True

    while True:
        try:
            operation(in_touch)
            return
        except (UnavailableError, BusyError) as error:
            if attempt == 0:
                since_s = env.monotonic_s()
            pause_s = delay_s(attempt, env.random_bytes(1)[0])
            if not was_in_touch or (retry_s is not None and env.monotonic_s() + pause_s - since_s > retry_s):
                raise
            failed(error, pause_s)
            env.sleep(pause_s)
            attempt += 1


def ensure(origin: Origin, place: str, *, env: Env = SYSTEM) -> bool:
    """Make the replica if there is none; whether that was done."""
    if is_volume(place):
        return False
    make(origin, place, env=env)
    return True
