"""Full replicas in one process: the real origin, the real replica, over memory, and some of it over TLS."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from packetfs.errors import ConflictError, DamagedError, PacketFSError, RefusedError, UnavailableError
from packetfs.format.entry import decode_entry, encode_entry
from packetfs.sync import feed, rejoin, replicate, scrub, serve
from packetfs.sync.replicate import Lag
from packetfs.testing.faults import Damage, Faults, Faulty
from packetfs.volume import Volume, fencing, forget, gc, sources_of
from packetfs.volume.promote import promote
from packetfs.volume.rebuild import rebuild
from packetfs.volume.standing import NUMBERS, ORIGIN_NUMBER, next_epoch
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.transports import Transport
from tests.sync import channel
from tests.sync.conftest import Origin, answer_honestly
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
    def reached(self, at: Path | None = None, **reaching: Any) -> Iterator[replicate.Origin]:
        path = at or self.origin
        with replicate.reach(self.connection(path, **reaching), str(path), f"test:{path}") as origin:
            yield origin

    def connection(
        self,
        path: Path,
        *,
        wrap: Callable[[Transport], Transport] = lambda transport: transport,
        serve: Callable[[Connection], None] | None = None,
        patience_s: float = 60,
    ) -> Connection:
        """To the server of the copy at `path`; `wrap` is the network between, `serve` the far side."""
        near, far = channel.current.pair()

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
        return Connection(wrap(near), patience_s=patience_s)

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


def test_two_replicas_of_one_origin_never_begin_the_same_epoch(copies: Copies) -> None:
    copies.push({"a": b"1"})

    taken = {number: [next_epoch(number, latest) for latest in range(300)] for number in range(NUMBERS)}

    for number, epochs in taken.items():
        assert all(epoch % NUMBERS == number for epoch in epochs)
        assert all(latest < epoch <= latest + NUMBERS for latest, epoch in enumerate(epochs))
    assert next_epoch(ORIGIN_NUMBER, 0) == 1
    with copies.reached() as origin, Volume.open(copies.origin) as volume:
        given = [origin.link.ask(protocol.Join(), protocol.Joined).number for _ in range(NUMBERS - 3)]
        given.append(volume.new_number())
        assert sorted(given) == list(range(2, NUMBERS))
        assert volume.new_number() in given
    assert Volume.open(copies.origin).check_journal().seq == 1
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


def committing(**fields: Any) -> Callable[[protocol.Message], protocol.Message | None]:
    """An entry that is whole, and says something else."""
    from msgspec.structs import replace

    def lie(message: protocol.Message) -> protocol.Message | None:
        if not isinstance(message, protocol.Entry):
            return message
        entry = decode_entry(message.data)
        return replace(message, data=encode_entry(replace(entry, body=replace(entry.body, **fields))))

    return lie


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
    "a ref that is no name": committing(ref="../\x1b[31m"),
    "a snapshot of another id": committing(snapshot_id=bytes(32)),
    "a snapshot with another parent": committing(expected=bytes(32)),
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


def come_back(copies: Copies) -> rejoin.Rejoined:
    """The old origin becomes a replica of the new one, which is where the replica was, and follows."""
    said: list[str] = []
    with copies.reached(copies.replica) as new:
        with Volume.open(copies.origin) as volume:
            done = rejoin.rejoin(
                new, volume, lambda: copies.connection(copies.replica), str(copies.replica), told=said.append
            )
        assert "fenced" in said[0]
        with Volume.open(copies.origin) as volume:
            replicate.follow(new, volume, waits=False, told=lambda _: None)
    return done


def split(copies: Copies) -> dict[str, list[dict[bytes, bytes]]]:
    """Both go on: the replica is promoted, and the old origin does not know. What only the old one has, by ref."""
    copies.push({"a": data(1, 100_000), "b": b"common"})
    copies.push({"a": data(1, 100_000), "b": b"common"}, "side")
    copies.catch_up()
    with Volume.open(copies.replica) as volume:
        promote(volume)
    copies.push({"a": data(1, 100_000), "n": data(5, 40_000)}, at=copies.replica)
    copies.push({"a": data(1, 100_000) + data(2, 60_000), "b": b"alone"})
    copies.push({"a": data(1, 90_000), "c": data(3, 30_000)})
    copies.push({"only": data(4, 50_000)}, "new")
    with Volume.open(copies.origin) as volume:
        return {
            "main": [tree_of(volume, "main"), tree_of(volume, "main", "~1")],
            "new": [tree_of(volume, "new")],
        }


@pytest.mark.usefixtures("over")
def test_an_old_origin_comes_back_as_a_replica_and_what_only_it_had_is_kept(copies: Copies) -> None:
    alone = split(copies)
    with Volume.open(copies.origin) as volume:
        ahead = volume.position

    done = come_back(copies)

    assert {ref: (conflict, count) for ref, conflict, count in done.conflicts} == {
        "main": (rejoin.conflict_ref("main", 0, ahead), 2),
        "new": (rejoin.conflict_ref("new", 0, ahead), 1),
    }
    with Volume.open(copies.origin) as old, Volume.open(copies.replica) as new:
        assert old.position == new.position
        assert old.check_journal() == new.check_journal()
        for volume in (old, new):
            assert scrub.verify(volume, restart=True).sound
            for ref, conflict, _ in done.conflicts:
                assert [tree_of(volume, conflict, f"~{n}") for n in range(len(alone[ref]))] == alone[ref]
            assert b"/n" in tree_of(volume, "main")
        standing = old.standing
        assert standing is not None
        assert standing.role == "replica"
        with pytest.raises(RefusedError, match="is a replica"):
            old.push(sources_of([copies.origin.parent / "source-new"]), "main")


def test_what_comes_back_can_take_over_again(copies: Copies) -> None:
    split(copies)
    come_back(copies)
    with Volume.open(copies.origin) as volume:
        assert promote(volume).epoch % 64 == 1
    copies.push({"a": b"third"})

    with pytest.raises(RefusedError, match="no replica"):
        copies.catch_up()
    copies.origin, copies.replica = copies.replica, copies.origin
    done = come_back(copies)

    assert done.conflicts == ()
    copies.check_same()


def test_a_replica_tells_an_old_origin_that_it_is_none_any_more(copies: Copies, tmp_path: Path) -> None:
    split(copies)
    other = tmp_path / "other"
    with copies.reached(copies.replica) as new:
        replicate.ensure(new, str(other))
        with Volume.open(other) as volume:
            replicate.follow(new, volume, waits=False, told=lambda _: None)
    with Volume.open(copies.origin) as begun_before:
        assert begun_before.standing is None
        with copies.reached() as old, Volume.open(other) as volume, pytest.raises(RefusedError) as caught:
            replicate.follow(old, volume, waits=False, told=lambda _: None)

        assert caught.value.code == "fenced"
        with pytest.raises(RefusedError, match="epoch") as refused:
            begun_before.push(sources_of([tmp_path / "source-main"]), "main")
        assert refused.value.code == "fenced"
    with pytest.raises(RefusedError, match="fenced"):
        copies.push({"a": b"late"})
    come_back(copies)
    with copies.reached(copies.replica) as new, Volume.open(other) as volume:
        replicate.follow(new, volume, waits=False, told=lambda _: None)
        assert len(volume.refs()) == 4


def test_a_push_that_is_running_when_its_origin_is_fenced_commits_nothing(copies: Copies, tmp_path: Path) -> None:
    split(copies)
    with Volume.open(copies.replica) as new:
        proof, epoch = new.epoch_proof(), new.epoch

    def fence_now(_: object) -> None:
        with Volume.open(copies.origin) as volume:
            fencing.fence(volume, epoch, "elsewhere")

    with Volume.open(copies.origin) as volume:
        before = volume.position
        with pytest.raises(RefusedError) as caught:
            volume.push(
                sources_of([grown(tmp_path / "more", {f"f{n}": data(n, 9000) for n in range(40)})]),
                "main",
                progress=fence_now,
            )
        assert caught.value.code == "fenced"
        assert volume.position == before
        assert fencing.check_proof(volume, proof).epoch == epoch


def test_nobody_is_fenced_by_what_proves_nothing(copies: Copies) -> None:
    split(copies)
    with Volume.open(copies.replica) as new, Volume.open(copies.origin) as old:
        proof, commit = new.epoch_proof(), old.journal_entry(1)
        assert commit is not None
        sealed_commit = old.keys.sealed(commit[0])
        own = old.epoch_proof()
    assert own == b""
    for wrong in (b"", proof[:-1] + bytes([proof[-1] ^ 1]), b"x" + proof[1:], sealed_commit, proof[:-32]):
        with copies.reached() as origin, pytest.raises(PacketFSError):
            origin.link.ask(protocol.Fence(wrong), protocol.Fenced)
    with Volume.open(copies.origin) as old:
        assert old.standing is None
    with copies.reached(copies.replica) as new_origin, pytest.raises(RefusedError) as caught:
        new_origin.link.ask(protocol.Fence(proof), protocol.Fenced)
    assert caught.value.code == "not-fenced"

    with copies.reached() as origin:
        assert origin.link.ask(protocol.Fence(proof, "pfs://new/volume"), protocol.Fenced).epoch > 0
    with Volume.open(copies.origin) as old:
        standing = old.standing
        assert standing is not None
        assert (standing.role, standing.origin) == ("fenced", "pfs://new/volume")


def test_an_origin_is_no_replica_of_an_older_one(copies: Copies) -> None:
    copies.push({"a": b"1"})
    copies.catch_up()
    with copies.reached(copies.replica) as other, Volume.open(copies.origin) as volume:
        with pytest.raises(RefusedError) as caught:
            rejoin.rejoin(other, volume, lambda: copies.connection(copies.replica), "x", told=lambda _: None)
        assert caught.value.code == "not-a-replica"
        assert volume.standing is None


def test_what_was_reclaimed_alone_is_known_to_be_missing_and_mended(copies: Copies) -> None:
    copies.push({"a": data(1, 200_000), "b": b"stays"})
    copies.push({"a": b"short", "b": b"stays"})
    copies.catch_up()
    with Volume.open(copies.replica) as volume:
        promote(volume)
    with Volume.open(copies.origin) as volume:
        first = next(iter(volume.snapshots()))[1]
        forget.forget(volume, "main", [first])
        assert gc.collect(volume, grace_s=0).freed_bytes > 100_000

    done = come_back(copies)

    assert done.conflicts == ()
    with Volume.open(copies.origin) as volume:
        assert scrub.verify(volume, restart=True).sound
        assert volume.damaged == ()
        assert tree_of(volume, "main", "~1") == {b"/a": data(1, 200_000), b"/b": b"stays"}


def test_coming_back_over_a_line_that_is_cut_anywhere_goes_on_and_loses_nothing(copies: Copies) -> None:
    alone = split(copies)
    saved = {path: path.parent / f"saved-{path.name}" for path in (copies.origin, copies.replica)}
    for path, copy in saved.items():
        shutil.copytree(path, copy)
    cuts = 0
    for way in ("up", "down"):
        for at in (*range(100, 1200, 180), *range(2000, 400_000, 23_000)):
            for path, copy in saved.items():
                shutil.rmtree(path)
                shutil.copytree(copy, path)
            damage = Faults(up=Damage(cut=at)) if way == "up" else Faults(down=Damage(cut=at))
            try:
                with copies.reached(copies.replica) as new, Volume.open(copies.origin) as volume:
                    rejoin.rejoin(
                        new,
                        volume,
                        lambda: copies.connection(copies.replica, wrap=lambda line: Faulty(line, damage)),  # noqa: B023
                        str(copies.replica),
                        told=lambda _: None,
                    )
            except UnavailableError:
                cuts += 1
            else:
                break
            with Volume.open(copies.origin) as volume:
                assert volume.standing is not None
                assert tree_of(volume, "main") == alone["main"][0]
                assert scrub.verify(volume, restart=True).sound
            with Volume.open(copies.replica) as volume:
                assert scrub.verify(volume, restart=True).sound

            done = come_back(copies)

            for path in (copies.origin, copies.replica):
                with Volume.open(path) as volume:
                    for ref, conflict, count in done.conflicts:
                        assert len(list(volume.log(conflict))) == count
                        assert [tree_of(volume, conflict, f"~{n}") for n in range(count)] == alone[ref]
    assert cuts > 4


def test_a_client_of_the_old_origin_is_never_wrong_at_the_new_one(copies: Copies, tmp_path: Path) -> None:
    """Its cache is of use where the histories are one, and emptied where it has seen what only the old one had."""
    clients = Origin(copies.origin, tmp_path / "clients")
    source = grown(tmp_path / "source", {"a": data(1, 300_000), "b": b"common"})
    with clients.connect("early") as session:
        session.push(sources_of([source]), "main")
    copies.catch_up()
    with Volume.open(copies.replica) as volume:
        promote(volume)
    with clients.connect("late") as session:
        session.push(sources_of([grown(source, {"b": b"alone"})]), "main")
    copies.push({"c": data(2, 50_000)}, "other", at=copies.replica)
    clients.path = copies.replica
    for client in ("early", "late"):
        target = tmp_path / f"target-{client}"
        with Volume.open(copies.replica) as volume:
            expected = tree_of(volume, "main")

        with clients.connect(client, writes=False) as session:
            session.pull("main", str(target))
            received = session.link.counters()[1]

        assert {b"/" + os.fsencode(path.name): path.read_bytes() for path in target.iterdir()} == expected
        assert (received < 10_000) == (client == "early")
        with clients.connect(client) as session:
            session.push(sources_of([grown(source, {"b": client.encode()})]), "main")
    with Volume.open(copies.replica) as volume:
        assert tree_of(volume, "main")[b"/b"] == b"late"
        assert scrub.verify(volume, restart=True).sound
    clients.close()


def test_a_new_epoch_is_lost_by_no_rebuild(copies: Copies) -> None:
    """Entries that an old origin committed alone lie in its segments still; they are not believed again."""
    split(copies)
    come_back(copies)
    with Volume.open(copies.origin) as volume:
        promoted = promote(volume)
        refs = [(ref.name, ref.snapshot.id) for ref in volume.refs()]
    (copies.origin / "journal.db").unlink()

    rebuilt = rebuild(copies.origin)

    assert rebuilt.recovered == promoted.position
    with Volume.open(copies.origin) as volume:
        assert [(ref.name, ref.snapshot.id) for ref in volume.refs()] == refs
        assert scrub.verify(volume, restart=True).sound


def test_a_replica_without_its_journal_is_not_made_an_origin(copies: Copies) -> None:
    copies.push({"a": b"1"})
    copies.catch_up()
    (copies.replica / "journal.db").unlink()

    with pytest.raises(RefusedError) as caught:
        rebuild(copies.replica)

    assert caught.value.code == "is-replica"
    with pytest.raises(DamagedError):
        copies.catch_up()
    (copies.replica / "replica").unlink()
    assert rebuild(copies.replica).recovered.seq == 1
