"""Which snapshot a name means, and who wins when two move one ref."""

from pathlib import Path

import pytest

from packetfs.errors import ConflictError, NotFoundError, UsageError
from packetfs.events import Progress
from packetfs.format.when import LATEST, AtTime, Back, ById
from packetfs.volume import PushReport, Snapshot, Volume, sources_of
from tests.volume.conftest import START_NS, TurnedEnv, stored

HOUR_NS = 3_600_000_000_000


def push(volume: Volume, source: Path, content: str, ref: str = "main") -> Snapshot:
    (source / "a/hello").write_text(content)
    snapshot = volume.push(sources_of([source]), ref).snapshot
    assert snapshot is not None
    return snapshot


def test_a_ref_counts_back_from_its_newest_snapshot(volume: Volume, source: Path) -> None:
    pushed = [push(volume, source, text) for text in ("one", "two", "three")]

    assert [volume.resolve("main", Back(count)) for count in range(3)] == pushed[::-1]
    assert volume.resolve("main") == pushed[-1]
    assert list(volume.log("main")) == pushed[::-1]
    assert [snapshot.parent for snapshot in pushed] == [b"", pushed[0].id, pushed[1].id]


def test_a_time_means_the_newest_snapshot_not_after_it(volume: Volume, source: Path, env: TurnedEnv) -> None:
    first = push(volume, source, "one")
    env.time_ns += HOUR_NS
    second = push(volume, source, "two")

    assert (first.time_ns, second.time_ns) == (START_NS, START_NS + HOUR_NS)
    assert volume.resolve("main", AtTime(START_NS + HOUR_NS - 1)) == first
    assert volume.resolve("main", AtTime(START_NS + HOUR_NS)) == second
    assert volume.resolve("main", AtTime(START_NS + 9 * HOUR_NS)) == second
    with pytest.raises(NotFoundError):
        volume.resolve("main", AtTime(START_NS - 1))


def test_journal_time_goes_on_when_the_clock_is_set_back(volume: Volume, source: Path, env: TurnedEnv) -> None:
    first = push(volume, source, "one")
    env.time_ns -= HOUR_NS

    second = push(volume, source, "two")

    assert second.time_ns == first.time_ns + 1
    assert volume.resolve("main", AtTime(first.time_ns)) == first


def test_an_id_is_found_by_its_first_digits_and_only_in_its_own_ref(volume: Volume, source: Path) -> None:
    first = push(volume, source, "one")
    other = push(volume, source, "two", ref="other")

    assert volume.resolve("main", ById(first.name)) == first
    assert volume.resolve("main", ById(first.name[:8])) == first
    with pytest.raises(NotFoundError, match="not one of ref") as caught:
        volume.resolve("main", ById(other.name[:12]))
    assert "'other'" in caught.value.hint


def test_digits_that_begin_two_ids_are_a_usage_error(volume: Volume, source: Path) -> None:
    ids = [push(volume, source, str(number)).name for number in range(20)]
    shared = next(i[0] for i in ids if sum(j[0] == i[0] for j in ids) > 1)  # 20 ids, 16 first digits

    with pytest.raises(UsageError) as caught:
        volume.resolve("main", ById(shared))

    assert caught.value.code == "ambiguous-id"


def test_what_is_not_there_is_said_together_with_what_is(volume: Volume, source: Path) -> None:
    push(volume, source, "one")

    with pytest.raises(NotFoundError) as no_ref:
        volume.resolve("mian")
    with pytest.raises(NotFoundError) as no_snapshot:
        volume.resolve("main", Back(1))
    with pytest.raises(NotFoundError):
        volume.log("mian")

    assert (no_ref.value.code, no_ref.value.hint) == ("ref-not-found", "it has main")
    assert no_snapshot.value.code == "snapshot-not-found"


def test_refs_are_listed_with_what_they_name(volume: Volume, source: Path) -> None:
    b, a = push(volume, source, "one", "b"), push(volume, source, "two", "a")

    assert [(ref.name, ref.snapshot, ref.seq) for ref in volume.refs()] == [("a", a, 2), ("b", b, 1)]
    assert list(volume.snapshots()) == [("b", 1, b), ("a", 2, a)]


def test_a_long_history_is_read_page_by_page(volume: Volume, source: Path) -> None:
    pushed = [volume.push(sources_of([source]), f"ref-{n % 2}", always=True).snapshot for n in range(12)]

    import packetfs.volume.refs as room

    page, room._PAGE = room._PAGE, 4  # type: ignore[misc]
    try:
        assert [found for _, _, found in volume.snapshots()] == pushed
        assert list(volume.log("ref-1")) == pushed[::-2]
        volume.check_journal()
    finally:
        room._PAGE = page  # type: ignore[misc]


def overtaken(volume: Volume, source: Path, by: Volume, content: str) -> PushReport:
    """Push from `volume` while `by` commits to the same ref, just before the first commits."""

    def watch(event: Progress) -> None:
        if event.phase == "committing":
            push(by, source, content)

    return volume.push(sources_of([source]), "main", progress=watch)


@pytest.mark.parametrize("existed", [False, True])
def test_a_push_whose_ref_moved_meanwhile_is_a_conflict(existed: bool, volume: Volume, source: Path) -> None:
    """The winner stands, the loser's data stays, and running it again stores nothing."""
    if existed:
        push(volume, source, "before")
    (source / "mine").write_bytes(b"mine" * 50_000)
    with Volume.open(volume.path) as other, pytest.raises(ConflictError) as caught:
        overtaken(volume, source, other, "theirs")

    assert caught.value.code == "ref-moved"
    assert volume.resolve("main") == Volume.open(volume.path).resolve("main")
    again = volume.push(sources_of([source]), "main")
    assert again.statistics.new_bytes == 0
    assert volume.resolve("main", LATEST) == again.snapshot or not again.changed
    assert stored(volume, volume.resolve("main"))["mine"] == b"mine" * 50_000
    volume.check_journal()


def test_pushes_to_different_refs_do_not_meet(volume: Volume, source: Path) -> None:
    def watch(event: Progress) -> None:
        if event.phase == "committing":
            with Volume.open(volume.path) as other:
                push(other, source, "theirs", "other")

    volume.push(sources_of([source]), "main", progress=watch)

    assert [ref.name for ref in volume.refs()] == ["main", "other"]
    assert volume.position.seq == 2
