"""Full replicas in one process: the real origin, the real replica, over memory, and some of it over TLS."""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from packetfs.errors import ConflictError, DamagedError, PacketFSError, RefusedError, UnavailableError
from packetfs.sync import feed, replicate, scrub, serve
from packetfs.sync.replicate import Lag
from packetfs.testing.faults import Damage, Faults, Faulty
from packetfs.volume import Volume, forget, gc, sources_of
from packetfs.volume.promote import promote
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.transports import Transport
from tests.sync import channel
from tests.sync.conftest import answer_honestly
from tests.volume.conftest import grown


def tree_of(volume: Volume, ref: str, when: str = "latest") -> dict[bytes, bytes]:
    """Every file of a snapshot, verified."""
    from packetfs.format.when import parse_when

    found: dict[bytes, bytes] = {}
    waiting = [(b"", volume.root(volume.resolve(ref, parse_when(when))))]
    while waiting:
        path, entry = waiting.pop()
        if entry.page is not None:
            waiting += [(path + b"/" + inner.name, inner) for inner in volume.entries(entry)]
        else:
            found[path] = b"".join(volume.read(entry))
    return found


class Copies:
    """An origin and a full replica of it, each a volume here, and the network between."""

    def __init__(self, place: Path) -> None:
        self.origin = place / "origin"
        self.replica = place / "replica"
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    @contextmanager
    def reached(
        self,
        at: Path | None = None,
        *,
        wrap: Callable[[Transport], Transport] = lambda transport: transport,
        serve: Callable[[Connection], None] | None = None,
        patience_s: float = 60,
    ) -> Iterator[replicate.Origin]:
        near, far = channel.current.pair()
        path = at or self.origin

        def answer() -> None:
            connection = Connection(far)
            try:
                (serve or (lambda to: answer_honestly(to, path)))(connection)
            except BaseException as error:  # noqa: BLE001 - the test fails by it, in `settle`
                self.failures.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        self._threads.append(thread)
        with replicate.reach(Connection(wrap(near), patience_s=patience_s), str(path), f"test:{path}") as origin:
            yield origin

    def catch_up(self, at: Path | None = None, **reaching: Any) -> list[Lag]:
        """Bring the replica up to date, from whatever copy is at `at`."""
        told: list[Lag] = []
        with self.reached(at, **reaching) as origin:
            replicate.ensure(origin, str(self.replica))
            with Volume.open(self.replica) as volume:
                replicate.follow(origin, volume, waits=False, told=told.append)
        return told

    def push(self, tree: Mapping[str, bytes | None], ref: str = "main", at: Path | None = None) -> None:
        source = (at or self.origin).parent / f"source-{ref}"
        source.parent.mkdir(exist_ok=True)
        grown(source, dict(tree))
        with Volume.open(at or self.origin, create=True) as volume:
            volume.push(sources_of([source]), ref)

    def check_same(self) -> None:
        """Both are sound and at one position, and every snapshot reads alike."""
        with Volume.open(self.origin) as one, Volume.open(self.replica) as other:
            assert other.position == one.position
            assert other.check_journal() == one.check_journal()
            assert [(ref, seq, snapshot.id) for ref, seq, snapshot in other.snapshots()] == [
                (ref, seq, snapshot.id) for ref, seq, snapshot in one.snapshots()
            ]
            assert scrub.verify(other, restart=True).sound
            for ref in one.refs():
                for number, _ in enumerate(one.log(ref.name)):
                    assert tree_of(other, ref.name, f"~{number}") == tree_of(one, ref.name, f"~{number}")

    def settle(self) -> None:
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive(), "the origin does not end when its peer has left"
        assert self.failures == []


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Copies]:
    made = Copies(tmp_path)
    yield made
    made.settle()


def data(seed: int, length: int) -> bytes:
    import random

    return random.Random(seed).randbytes(length)


@pytest.mark.usefixtures("over")
def test_a_replica_holds_every_snapshot_at_the_same_position(copies: Copies) -> None:
    copies.push({"a": data(1, 100_000), "d/b": b"small", "empty": None})
    copies.push({"a": data(1, 100_000) + b"more", "d/b": b"small", "d/c": data(2, 30_000)})
    copies.push({"other": data(3, 50_000)}, "side")

    told = copies.catch_up()

    copies.check_same()
    assert sum(lag.entries for lag in told) == 3
    assert (told[-1].bytes, told[-1].seconds) == (0, 0)


def test_what_comes_later_is_followed_and_costs_what_is_new(copies: Copies) -> None:
    copies.push({"large": data(1, 3_000_000)})
    copies.catch_up()
    copies.push({"large": data(1, 3_000_000), "b": b"new"})

    with copies.reached() as origin, Volume.open(copies.replica) as volume:
        replicate.follow(origin, volume, waits=False, told=lambda _: None)
        assert origin.link.connection.received_bytes < 5000

    copies.check_same()


def test_a_replica_that_waits_is_told_of_commits_of_other_processes(copies: Copies) -> None:
    copies.push({"a": b"1"})
    copies.catch_up()
    followed, seen = threading.Event(), threading.Event()
    positions: list[int] = []

    class Enough(Exception):  # noqa: N818 - no error
        pass

    def told(lag: Lag) -> None:
        positions.append(lag.position.seq)
        followed.set()
        if lag.position.seq == 2:
            seen.set()
            raise Enough

    def follow() -> None:
        with copies.reached() as origin, Volume.open(copies.replica) as volume, pytest.raises(Enough):
            replicate.follow(origin, volume, waits=True, told=told)

    thread = threading.Thread(target=follow)
    thread.start()
    copies.push({"a": b"2"})
    assert seen.wait(60), "the commit was not followed"
    thread.join(60)
    copies.check_same()


def test_nobody_but_its_origin_writes_to_a_replica(copies: Copies, tmp_path: Path) -> None:
    copies.push({"a": b"1"})
    copies.catch_up()

    with Volume.open(copies.replica) as volume:
        for write in (
            lambda: volume.push(sources_of([grown(tmp_path / "more", {"b": b"2"})]), "main"),
            lambda: forget.remove(volume, "main"),
            lambda: gc.collect(volume, grace_s=0),
            lambda: promote_twice(copies.origin),
        ):
            with pytest.raises(RefusedError) as caught:
                write()
            assert caught.value.code in ("is-replica", "not-a-replica")
    copies.check_same()


def promote_twice(path: Path) -> None:
    with Volume.open(path) as volume:
        promote(volume)


def test_what_is_forgotten_and_reclaimed_is_gone_at_the_replica(copies: Copies) -> None:
    copies.push({"a": data(1, 200_000), "b": b"stays"})
    copies.push({"a": b"short", "b": b"stays"})
    copies.catch_up()
    with Volume.open(copies.replica) as volume:
        before = volume.status().disk_bytes
    with Volume.open(copies.origin) as volume:
        first = next(iter(volume.snapshots()))[1]
        forget.forget(volume, "main", [first])
        assert gc.collect(volume, grace_s=0).freed_bytes > 100_000

    copies.catch_up()

    copies.check_same()
    with Volume.open(copies.replica) as volume:
        assert volume.reclaimed()
        assert volume.status().disk_bytes < before - 100_000


def test_a_replica_that_was_away_for_longer_than_what_is_reclaimed_catches_up(copies: Copies) -> None:
    """Snapshots that were made and forgotten meanwhile are never sent; their bytes may be gone."""
    copies.push({"a": b"begin"})
    copies.catch_up()
    for number in range(4):
        copies.push({"a": data(number, 100_000), "b": data(9, 10_000)})
    copies.push({"x": data(77, 50_000)}, "gone")
    with Volume.open(copies.origin) as volume:
        seqs = [seq for ref, seq, _ in volume.snapshots() if ref == "main"]
        forget.forget(volume, "main", seqs[:-1])
        forget.remove(volume, "gone")
        gc.collect(volume, grace_s=0)
    copies.push({"a": b"after"})

    copies.catch_up()

    copies.check_same()


def test_a_new_replica_of_a_volume_of_which_much_is_gone_is_whole(copies: Copies) -> None:
    for number in range(3):
        copies.push({"a": data(number, 100_000)})
    with Volume.open(copies.origin) as volume:
        forget.forget(volume, "main", [seq for _, seq, _ in volume.snapshots()][:-1])
        gc.collect(volume, grace_s=0)

    copies.catch_up()

    copies.check_same()


def test_of_entries_that_belong_together_none_is_entered_alone() -> None:
    """A commit that is forgotten later goes bare; the group ends when the entry that forgets it has gone."""
    from packetfs.format.entry import Commit, Entry, Forget

    def entry(seq: int, body: Commit | Forget) -> tuple[Entry, bytes, int]:
        return Entry(seq=seq, epoch=0, time_ns=seq, previous=b"", body=body), b"", 0

    def commit(seq: int) -> tuple[Entry, bytes, int]:
        return entry(seq, Commit(ref="main", snapshot_id=b"", snapshot=b""))

    chain = [commit(1), commit(2), commit(3), entry(4, Forget(ref="main", seqs=[2])), commit(5)]

    steps = list(feed.groups(chain, frozenset({1, 3, 5}), frozenset({5}), set()))

    assert [step.carries for step in steps] == [True, False, True, False, False]
    assert [step.ends for step in steps] == [True, False, False, True, True]


def test_a_promoted_replica_is_written_to_and_its_old_origin_is_another_history(copies: Copies) -> None:
    copies.push({"a": b"1"})
    copies.catch_up()
    with Volume.open(copies.replica) as volume:
        done = promote(volume)
        assert volume.check_journal() == done.position
        again = volume.status()
    copies.push({"a": b"2"}, at=copies.replica)

    assert again.epoch == done.epoch > 0
    with Volume.open(copies.replica) as volume:
        assert tree_of(volume, "main") == {b"/a": b"2"}
        assert scrub.verify(volume, restart=True).sound
    with pytest.raises(RefusedError):
        copies.catch_up()


def test_two_replicas_of_one_origin_never_begin_the_same_epoch() -> None:
    from packetfs.volume.standing import NUMBERS, ORIGIN_NUMBER, next_epoch

    taken = {number: [next_epoch(number, latest) for latest in range(300)] for number in range(NUMBERS)}

    for number, epochs in taken.items():
        assert all(epoch % NUMBERS == number for epoch in epochs)
        assert all(latest < epoch <= latest + NUMBERS for latest, epoch in enumerate(epochs))
    assert next_epoch(ORIGIN_NUMBER, 0) == 1
    with pytest.raises(RefusedError, match="used up"):
        next_epoch(3, 4095)


def test_a_replica_of_another_volume_or_another_history_is_told_so_and_not_touched(copies: Copies) -> None:
    copies.push({"a": b"1"})
    shutil.copytree(copies.origin, copies.origin.parent / "backup")
    copies.push({"a": b"2"})
    copies.catch_up()
    with Volume.open(copies.replica) as volume:
        ahead = volume.position
    copies.push({"a": b"other"}, at=copies.origin.parent / "another" / "volume")

    with pytest.raises(RefusedError, match="no copy") as caught:
        copies.catch_up(copies.origin.parent / "another" / "volume")
    assert caught.value.code == "different-volumes"
    for more in ({}, {"a": b"3"}):
        if more:
            copies.push(more, at=copies.origin.parent / "backup")
        with pytest.raises(ConflictError) as diverged:
            copies.catch_up(copies.origin.parent / "backup")
        assert diverged.value.code == "diverged"
        assert str(ahead) in diverged.value.message

    with Volume.open(copies.replica) as volume:
        assert volume.position == ahead


def test_a_session_that_is_cut_anywhere_leaves_a_position_of_the_origin_and_goes_on(copies: Copies) -> None:
    for number in range(3):
        copies.push({"a": data(number, 60_000), f"f{number}": data(number, 5000)})
    with copies.reached() as origin:
        replicate.ensure(origin, str(copies.replica))
    with Volume.open(copies.origin) as volume:
        known = [volume.at(seq) for seq in range(4)]
    cuts = 0
    for at in range(200, 400_000, 9_000):
        try:
            copies.catch_up(wrap=lambda line: Faulty(line, Faults(down=Damage(cut=at))))  # noqa: B023 - used at once
        except UnavailableError:
            cuts += 1
        else:
            break
        with Volume.open(copies.replica) as volume:
            assert volume.position in known
            assert volume.check_journal() == volume.position
            assert scrub.verify(volume, restart=True).sound
            for ref in volume.refs():
                tree_of(volume, ref.name)

    assert cuts > 2
    copies.catch_up()
    copies.check_same()


def test_damage_on_the_way_is_found_before_anything_is_entered(copies: Copies) -> None:
    copies.push({"a": data(1, 200_000)})
    with copies.reached() as origin:
        replicate.ensure(origin, str(copies.replica))
    for at in (500, 30_000, 150_000):
        with pytest.raises(PacketFSError):
            copies.catch_up(wrap=lambda line: Faulty(line, Faults(down=Damage(corrupt=at))))  # noqa: B023
        with Volume.open(copies.replica) as volume:
            assert volume.position.seq == 0

    copies.catch_up()
    copies.check_same()


def lying(copies: Copies, lie: Callable[[protocol.Message], protocol.Message | None]) -> Callable[[Connection], None]:
    """The honest server, but for what `lie` makes of its messages to FOLLOW; None: it is left out."""

    def answer(connection: Connection) -> None:
        serving = serve.serve
        honest = feed.feed

        def dishonest(volume: Volume, said: protocol.Follow) -> Iterator[protocol.Message]:
            for message in honest(volume, said):
                changed = lie(message)
                if changed is not None:
                    yield changed

        feed.feed = dishonest
        try:
            serving(connection, lock_wait_s=5, access=channel.current.access(copies.origin))
        finally:
            feed.feed = honest

    return answer


def changed(**fields: Any) -> Callable[[protocol.Message], protocol.Message | None]:
    from msgspec.structs import replace

    return lambda message: replace(message, **fields) if isinstance(message, protocol.Entry) else message


LIES: dict[str, Callable[[protocol.Message], protocol.Message | None]] = {
    "an entry that carries nothing": changed(carries=False),
    "bytes that belong to no entry": lambda message: None if isinstance(message, protocol.Entry) else message,
    "a tree that is not sent": lambda message: None if isinstance(message, protocol.Tree) else message,
    "literals that are not sent": lambda message: None if isinstance(message, protocol.Literals) else message,
    "a base that is not here": changed(base=1),
    "an entry somewhere else": changed(address=(1 << 60) + 5),
    "an entry over other bytes": changed(address=1 << 26),
    "an entry at the end of a segment": changed(address=(2 << 26) - 10),
    "an entry of another kind of bytes": changed(data=b"PFSJ" + bytes(200)),
    "a group that never ends": changed(ends=False),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_hostile_origin_is_believed_nothing(copies: Copies, lie: str) -> None:
    copies.push({"a": data(1, 100_000), "b": data(2, 3_000)})
    with copies.reached() as origin:
        replicate.ensure(origin, str(copies.replica))

    with pytest.raises((DamagedError, PacketFSError)) as caught:
        copies.catch_up(serve=lying(copies, LIES[lie]))

    assert caught.value.code in ("transfer-damaged", "journal-damaged", "damaged", "protocol-violation", "invalid")
    with Volume.open(copies.replica) as volume:
        assert volume.position.seq == 0
        assert volume.refs() == []
    copies.catch_up()
    copies.check_same()
