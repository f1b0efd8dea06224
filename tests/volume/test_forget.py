"""What is forgotten is gone from every list, the rest stays as it was, and the journal can tell that it is so."""

import threading
from pathlib import Path

import pytest

from packetfs.errors import ConflictError, DamagedError, NotFoundError, RefusedError
from packetfs.format.when import AtTime, Back, ById
from packetfs.volume import Snapshot, Volume, forget, reserve, sources_of
from packetfs.volume.rebuild import rebuild
from packetfs.volume.retention import Rules
from tests.volume.conftest import TurnedEnv

HOUR_NS = 3_600_000_000_000


def push(volume: Volume, source: Path, content: str, ref: str = "main") -> Snapshot:
    (source / "a/hello").write_text(content)
    snapshot = volume.push(sources_of([source]), ref).snapshot
    assert snapshot is not None
    return snapshot


def seq_of(volume: Volume, snapshot: Snapshot) -> int:
    found = volume.snapshot(snapshot.id)
    assert found is not None
    return found[1]


def test_what_is_forgotten_is_not_found_by_any_name(volume: Volume, source: Path, env: TurnedEnv) -> None:
    pushed = []
    for text in ("one", "two", "three", "four"):
        pushed.append(push(volume, source, text))
        env.time_ns += HOUR_NS
    one, two, three, four = pushed

    forget.forget(volume, "main", [seq_of(volume, two), seq_of(volume, three)])

    assert list(volume.log("main")) == [four, one]
    assert volume.resolve("main", Back(1)) == one
    assert volume.resolve("main", AtTime(three.time_ns)) == one
    with pytest.raises(NotFoundError):
        volume.resolve("main", ById(two.name[:12]))
    assert volume.snapshot(two.id) is None
    assert [found for _, _, found in volume.snapshots()] == [one, four]
    assert four.parent == three.id  # it says so still
    volume.check_journal()


def test_the_history_is_listed_a_page_at_a_time_over_what_was_forgotten(volume: Volume, source: Path) -> None:
    pushed = [push(volume, source, str(number)) for number in range(12)]
    kept = [one for number, one in enumerate(pushed) if number % 4 == 3]
    forget.forget(volume, "main", [seq_of(volume, one) for one in pushed if one not in kept])

    pages = [volume.log_page("main", 1 << 40, 2)]
    while pages[-1]:
        pages.append(volume.log_page("main", pages[-1][-1][0], 2))

    assert [snapshot for page in pages for _, snapshot in page] == kept[::-1]


def test_a_lost_row_of_a_history_with_gaps_is_damage(volume: Volume, source: Path) -> None:
    pushed = [push(volume, source, text) for text in ("one", "two", "three", "four")]
    forget.forget(volume, "main", [seq_of(volume, pushed[1])])

    seq = seq_of(volume, pushed[2])
    with volume.journal.writing() as db:
        db.execute("DELETE FROM moves WHERE seq = ?", (seq,))

    with pytest.raises(DamagedError):
        list(volume.log("main"))
    with pytest.raises(DamagedError):
        volume.check_journal()


def test_a_lost_link_over_a_gap_is_damage(volume: Volume, source: Path) -> None:
    pushed = [push(volume, source, text) for text in ("one", "two", "three")]
    forget.forget(volume, "main", [seq_of(volume, pushed[1])])

    with volume.journal.writing() as db:
        db.execute("DELETE FROM relinked")

    with pytest.raises(DamagedError):
        list(volume.log("main"))
    with pytest.raises(DamagedError):
        volume.check_journal()


def test_the_newest_snapshot_is_not_forgotten(volume: Volume, source: Path) -> None:
    pushed = [push(volume, source, text) for text in ("one", "two")]
    before = volume.position

    with pytest.raises(RefusedError) as caught:
        forget.forget(volume, "main", [seq_of(volume, one) for one in pushed])

    assert caught.value.code == "newest-snapshot"
    assert volume.position == before


def test_a_ref_that_is_removed_can_begin_anew(volume: Volume, source: Path) -> None:
    push(volume, source, "one")
    push(volume, source, "two")
    other = push(volume, source, "three", "other")

    assert forget.remove(volume, "main") == 2

    assert [ref.name for ref in volume.refs()] == ["other"]
    with pytest.raises(NotFoundError):
        volume.resolve("main")
    again = push(volume, source, "four")
    assert again.parent == b""
    assert list(volume.log("main")) == [again]
    assert list(volume.log("other")) == [other]
    volume.check_journal()


def test_many_snapshots_are_removed_in_several_entries(
    volume: Volume, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget, "_SEQS_MAX", 3)
    pushed = [push(volume, source, str(number)) for number in range(12)]
    before = volume.position.seq

    forget.forget(volume, "main", [seq_of(volume, one) for one in pushed[:4]])
    assert list(volume.log("main")) == pushed[:3:-1]
    volume.check_journal()
    forget.remove(volume, "main")

    assert volume.position.seq == before + 2 + 3
    assert volume.refs() == []
    volume.check_journal()


def test_a_rebuilt_journal_has_forgotten_the_same(volume: Volume, source: Path) -> None:
    pushed = [push(volume, source, text) for text in ("one", "two", "three")]
    push(volume, source, "four", "other")
    forget.forget(volume, "main", [seq_of(volume, pushed[0])])
    forget.remove(volume, "other")
    (Path(volume.path) / "journal.db").write_bytes(b"")

    rebuild(volume.path)

    with Volume.open(volume.path) as again:
        assert [ref.name for ref in again.refs()] == ["main"]
        assert list(again.log("main")) == pushed[:0:-1]
        again.check_journal()


def test_what_only_the_going_need_is_counted_once(volume: Volume, source: Path) -> None:
    (source / "kept").write_bytes(b"k" * 200_000)
    push(volume, source, "one")
    for number in (1, 2):
        (source / "new").write_bytes(bytes([number]) * 300_000)
        push(volume, source, str(number), f"side{number}")
    choices = [choice for ref in ("side1", "side2") for choice in forget.choose(volume, ref, Rules())]

    freed_bytes = forget.freed_bytes(volume, [(choice.ref, choice.seq) for choice in choices])

    stored = 2 * min(300_000, 131_072)  # a run of equal bytes is stored as one chunk and the rest
    assert stored < freed_bytes < 620_000
    assert forget.freed_bytes(volume, []) == 0


def test_what_was_pushed_since_it_was_said_what_goes_is_not_removed(volume: Volume, source: Path) -> None:
    said = push(volume, source, "one")
    since = push(volume, source, "two")
    before = volume.position

    with pytest.raises(ConflictError):
        forget.remove(volume, "main", newest=seq_of(volume, said))

    assert volume.position == before
    assert forget.remove(volume, "main", newest=seq_of(volume, since)) == 2


def test_two_that_make_the_reserve_at_once_are_both_content(volume: Volume) -> None:
    """The rename of the one takes the file that both have made."""
    (Path(volume.path) / reserve.FILE_NAME).unlink()
    failed: list[BaseException] = []

    def making() -> None:
        try:
            for _ in range(200):
                reserve.keep(volume.path)
                reserve.give_up(volume.path)
        except BaseException as error:  # noqa: BLE001 - the test fails by it
            failed.append(error)

    threads = [threading.Thread(target=making) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
