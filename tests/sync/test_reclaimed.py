"""An origin reclaims what its clients still hold: none makes it commit a pointer into a hole, and none is stuck."""

from pathlib import Path

import pytest

from packetfs.errors import ConflictError, DamagedError
from packetfs.format.snapshot import Labels, Snapshot
from packetfs.sync import scrub
from packetfs.sync.clone import clone
from packetfs.sync.session import Session
from packetfs.volume import Volume, forget, gc, sources_of
from packetfs.wire import protocol
from tests.sync.conftest import Origin
from tests.volume.conftest import Tree, on_disk, rested, stored

pytestmark = pytest.mark.usefixtures("over")


def push(session: Session, source: Path, ref: str = "main") -> Snapshot:
    snapshot = session.push(sources_of([source]), ref).report.snapshot
    assert snapshot is not None
    return snapshot


def collect(origin: Origin, *refs: str) -> None:
    """At the origin: remove refs, and of the others keep the newest snapshot only."""
    with Volume.open(origin.path) as volume:
        for ref in refs:
            forget.remove(volume, ref)
        for name in [ref.name for ref in volume.refs()]:
            seqs = [seq for seq, _ in volume.log_page(name, 1 << 40, 100)[1:]]
            if seqs:
                forget.forget(volume, name, seqs)
        assert gc.collect(volume, grace_s=0).unreached_bytes > 0


def check(origin: Origin, expected: dict[str, Tree]) -> None:
    with Volume.open(origin.path) as volume:
        assert {ref.name: stored(volume, ref.snapshot) for ref in volume.refs()} == expected
        assert scrub.verify(volume).sound


@pytest.mark.parametrize("ref", ["main", "again"])
def test_old_content_is_pushed_again_from_a_warm_replica(origin: Origin, source: Path, ref: str) -> None:
    """Replica and stat cache know it all; the origin has punched it away since."""
    old = (source / "large").read_bytes()
    with origin.connect() as session:
        push(session, rested(source))
        (source / "large").write_bytes(old[::-1])
        push(session, rested(source))
    collect(origin)
    (source / "large").write_bytes(old)

    with origin.connect(ref=ref) as session:
        pushed = session.push(sources_of([rested(source)]), ref)

    assert pushed.traffic.literal_bytes >= len(old)
    assert pushed.traffic.literal_bytes < len(old) + 300_000, "the rest is still held"
    trees = {"main": on_disk(source)}
    if ref != "main":
        trees = {"again": on_disk(source), "main": on_disk(source) | {"large": old[::-1]}}
    check(origin, trees)


def test_a_tree_of_which_nothing_is_left_is_pushed_again(origin: Origin, source: Path) -> None:
    with origin.connect() as session:
        push(session, rested(source))
    collect(origin, "main")

    with origin.connect() as session:
        push(session, source)
    with origin.connect() as session:
        assert session.push(sources_of([source]), "main").report.changed is False

    check(origin, {"main": on_disk(source)})


def test_space_is_reclaimed_in_the_middle_of_a_session(origin: Origin, source: Path) -> None:
    """Nobody has told the client; the origin refuses what points to it, and the next session knows."""
    old = (source / "large").read_bytes()
    with origin.connect() as session:
        push(session, rested(source))
        (source / "large").write_bytes(old[::-1])
        push(session, rested(source))
        collect(origin)
        (source / "large").write_bytes(old)

        with pytest.raises(ConflictError) as caught:
            push(session, rested(source), "again")
    with origin.connect(ref="again") as session:
        push(session, rested(source), "again")

    assert caught.value.code == "reclaimed-meanwhile"
    with Volume.open(origin.path) as volume:
        assert stored(volume, volume.resolve("again")) == on_disk(source)
        assert scrub.verify(volume).sound


def test_an_idle_session_holds_nothing_up(origin: Origin, source: Path) -> None:
    with origin.connect() as session, origin.connect("reader", writes=False) as reader:
        push(session, source)
        (source / "large").write_bytes(b"other")
        push(session, source)
        reader.resolve("main")
        with Volume.open(origin.path) as volume:
            forget.forget(volume, "main", [seq for seq, _ in volume.log_page("main", 1 << 40, 9)[1:]])

            assert gc.collect(volume, grace_s=0, wait_s=60).unreached_bytes > 0


def test_a_pull_into_a_replica_that_holds_what_is_gone(origin: Origin, source: Path, tmp_path: Path) -> None:
    with origin.connect() as session:
        push(session, source)
    with origin.connect("other", writes=False) as session:
        session.pull("main", str(tmp_path / "target"))
    with origin.connect() as session:
        (source / "large").write_bytes(b"new")
        push(session, source)
    collect(origin)

    with origin.connect("other", writes=False) as session:
        session.pull("main", str(tmp_path / "target"), delete=True)

    assert on_disk(tmp_path / "target") == on_disk(source)


def test_a_clone_forgets_what_its_origin_has_forgotten(origin: Origin, source: Path) -> None:
    with origin.connect() as session:
        push(session, source)
        (source / "large").write_bytes(b"new")
        new = push(session, source)
        push(session, source, "side")
    with origin.connect("clone", writes=False, whole=True) as session:
        assert clone(session).snapshots == 3
    collect(origin, "side")

    with origin.connect("clone", writes=False, whole=True) as session:
        clone(session)
        replica = session.replica
        assert [ref.name for ref in replica.refs()] == ["main"]
        assert [snapshot.id for snapshot in replica.log("main")] == [new.id]
        assert stored(replica, new)["large"] == b"new"  # type: ignore[arg-type]


def test_who_was_away_for_too_long_begins_anew(origin: Origin, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with origin.connect() as session:
        push(session, rested(source))
    with Volume.open(origin.path) as volume:
        volume.push(sources_of([source]), "kept")
        (source / "large").write_bytes(b"new")
        volume.push(sources_of([source]), "kept")
    collect(origin, "main")
    monkeypatch.setattr(protocol, "RECLAIMED_BYTES_MAX", 0)

    with origin.connect() as session:
        push(session, source)

    with Volume.open(origin.path) as volume:
        assert stored(volume, volume.resolve("main")) == on_disk(source)
        assert scrub.verify(volume).sound


def test_what_is_gone_is_not_sent(origin: Origin, source: Path) -> None:
    with origin.connect() as session:
        push(session, source)
        (source / "large").write_bytes(b"new")
        push(session, source)
    collect(origin)
    with Volume.open(origin.path) as volume:
        holes = volume.reclaimed()

    with origin.connect("other", writes=False) as session, pytest.raises(DamagedError):
        session.fetch(holes[:1])


def test_tags_host_and_time_arrive_with_the_snapshot(origin: Origin, source: Path) -> None:
    labels = Labels(tags=("b", "a"), host="elsewhere", source_time_ns=1_700_000_000_000_000_000)
    with origin.connect() as session:
        pushed = session.push(sources_of([source]), "main", labels=labels).report.snapshot
        (listed,) = session.log("main")
    with origin.connect("other", writes=False) as session:
        pulled = session.resolve("main")

    assert pushed == listed == pulled
    assert (listed.tags, listed.host, listed.source_time_ns) == (("a", "b"), "elsewhere", 1_700_000_000_000_000_000)
