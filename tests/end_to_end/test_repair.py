"""What is damaged comes back from another copy of the volume; what that copy does not prove is refused."""

import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from packetfs import api, kernel
from tests.end_to_end.conftest import Remote, Run, Start
from tests.end_to_end.kills import Kills
from tests.end_to_end.trees import Facts, change, difference, facts, grow

pytestmark = pytest.mark.slow

Harm = Callable[[Path], None]


def flip_bits(volume: Path) -> None:
    """A bit in each of a dozen places of all segments."""
    choice = random.Random(1)
    for data in volume.glob("segments/*.data"):
        content = bytearray(data.read_bytes())
        for _ in range(12):
            content[choice.randrange(len(content.rstrip(b"\0")))] ^= 1 << choice.randrange(8)
        data.write_bytes(content)


def zero_pages(volume: Path) -> None:
    """What a disk does that loses its cache."""
    for data in volume.glob("segments/*.data"):
        with open(data, "r+b") as file:
            for page in range(0, data.stat().st_size // 4096, 7):
                file.seek(4096 * page)
                file.write(bytes(4096))


def cut_data(volume: Path) -> None:
    for data in volume.glob("segments/*.data"):
        with open(data, "r+b") as file:
            file.truncate(data.stat().st_size // 3)


def lose_data(volume: Path) -> None:
    for data in volume.glob("segments/*.data"):
        data.unlink()


def cut_tables(volume: Path) -> None:
    for table in volume.glob("segments/*.chunks"):
        with open(table, "r+b") as file:
            file.truncate(table.stat().st_size - 100)


def flip_in_tables(volume: Path) -> None:
    for table in volume.glob("segments/*.chunks"):
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 16
        table.write_bytes(content)


def lose_tables_and_cut_data(volume: Path) -> None:
    cut_data(volume)
    for table in volume.glob("segments/*.chunks"):
        table.unlink()


HARMS = [flip_bits, zero_pages, cut_data, lose_data, cut_tables, flip_in_tables, lose_tables_and_cut_data]


_STATES: list[dict[bytes, Facts]] = []
"""What the two snapshots of the pair hold, once this process has made it."""


@dataclass(frozen=True)
class Pair:
    """An origin with a history, and a whole replica of it that was brought here over ssh."""

    origin: Path
    replica: Path
    states: list[dict[bytes, Facts]]
    run: Run

    def assert_exact(self, copy: Path) -> None:
        """Both snapshots of `copy`, byte for byte."""
        for place, expected in zip(("main@~1", "main"), self.states, strict=True):
            target = self.replica.parent / "target"
            self.run("pull", f"{copy}::{place}", target)
            assert difference(expected, facts(target)) == []
            shutil.rmtree(target)


@pytest.fixture
def pair(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, remote: Remote, run: Run) -> Pair:
    """Made once, then copied: it takes seven commands."""
    kept = tmp_path_factory.getbasetemp() / "pair"
    source = kept / "source"
    if not kept.exists():
        kept.mkdir()
        grow(source, 1)
        remote("push", source, "far:volume::main")
        states = [facts(source)]
        change(source, 1)
        remote("push", source, "far:volume::main")
        _STATES[:] = [*states, facts(source)]
        remote("clone", "--full", "far:volume", tmp_path / "replica")
        shutil.copytree(tmp_path / "far" / "volume", kept / "volume")
        shutil.copytree(tmp_path / "replica", kept / "replica")
    for name, place in (("volume", tmp_path / "far" / "volume"), ("replica", tmp_path / "replica")):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(kept / name, place)
    return Pair(tmp_path / "far" / "volume", tmp_path / "replica", _STATES, run)


def content(volume: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in volume.glob("segments/*")}


@pytest.mark.parametrize("harm", HARMS)
def test_an_origin_is_repaired_from_a_whole_replica_beside_it(harm: Harm, pair: Pair, run: Run) -> None:
    harm(pair.origin)
    run("verify", pair.origin, code=5)

    done = run("verify", "--repair-from", pair.replica, pair.origin, "--json").event("verify")

    assert done["damaged_ranges"] > 0
    assert done["repaired_bytes"] > 0
    assert (done["unrepaired_ranges"], done["damaged_paths"], done["reasons"]) == (0, 0, [])
    assert not (pair.origin / "damaged").exists()
    assert run("verify", pair.origin, "--json").event("verify")["damaged_ranges"] == 0
    pair.assert_exact(pair.origin)


@pytest.mark.parametrize("harm", HARMS)
def test_a_replica_is_repaired_from_its_origin_over_ssh(harm: Harm, pair: Pair, remote: Remote, run: Run) -> None:
    harm(pair.replica)

    done = remote("verify", "--repair-from", "far:volume", pair.replica, "--json").event("verify")

    assert done["repaired_bytes"] > 0
    assert run("verify", pair.replica, "--json").event("verify")["damaged_ranges"] == 0
    shutil.rmtree(pair.origin)
    pair.assert_exact(pair.replica)


@pytest.mark.parametrize("harm", [zero_pages, cut_tables])
def test_an_origin_is_repaired_from_a_replica_on_another_machine(
    harm: Harm, pair: Pair, tmp_path: Path, remote: Remote
) -> None:
    shutil.copytree(pair.replica, tmp_path / "far" / "replica")
    shutil.rmtree(pair.replica)
    harm(pair.origin)

    remote("verify", "--repair-from", "far:replica", pair.origin)

    pair.assert_exact(pair.origin)
    refused = remote("pull", "far:replica::main", tmp_path / "target", code=8)
    assert "is a replica" in refused.err


def test_a_push_after_a_repair_points_to_what_was_healed(pair: Pair, tmp_path: Path, run: Run) -> None:
    """What was remembered as damaged is forgotten, and the same source is not stored again."""
    zero_pages(pair.origin)
    run("verify", pair.origin, code=5)
    assert (pair.origin / "damaged").exists()
    run("verify", "--repair-from", pair.replica, pair.origin)

    run("pull", f"{pair.replica}::main", tmp_path / "source")
    again = run("push", tmp_path / "source", f"{pair.origin}::other", "--json").event("push")

    assert again["new_bytes"] == 0


def test_what_the_other_copy_has_damaged_itself_is_refused_and_the_rest_is_healed(pair: Pair, run: Run) -> None:
    zero_pages(pair.origin)
    damaged = sum(
        event["length"] for event in run("verify", pair.origin, "--json", code=5).events if event["event"] == "damage"
    )
    flip_bits(pair.replica)

    done = run("verify", "--repair-from", pair.replica, pair.origin, "--json", code=5)

    summary = done.event("verify")
    assert 0 < summary["unrepaired_bytes"] < damaged
    assert summary["repaired_bytes"] + summary["unrepaired_bytes"] == damaged
    assert summary["reasons"]
    assert summary["damaged_paths"] > 0
    assert done.events[-1]["code"] == "damaged"
    verified = run("verify", pair.origin, "--json", code=5)
    assert verified.event("verify")["unrepaired_bytes"] == summary["unrepaired_bytes"]


def forged(replica: Path) -> None:
    """A replica that lies: its longest chunks of content have other bytes, and its tables say that they are right.

    It knows the digest key, as every replica does, so it can make tables that hold by themselves.
    """
    with api.open_replica(replica) as opened:
        key = opened.identity.keys[:32]
    for table in replica.glob("segments/*.chunks"):
        data = table.with_suffix(".data")
        rows, stored = bytearray(table.read_bytes()), bytearray(data.read_bytes())
        chunks, at = [], 64
        while at < len(rows):
            start, count = struct.unpack_from("<II", rows, at)
            for record in range(at + 8, at + 8 + 37 * count, 37):
                end = int.from_bytes(rows[record : record + 4], "little")
                if rows[record + 4] == 0:
                    chunks.append((end - start, start, record))
                start = end
            at += 8 + 37 * count + 4
        for length, start, record in sorted(chunks)[-20:]:
            stored[start : start + length] = reversed(stored[start : start + length])
            rows[record + 5 : record + 37] = kernel.keyed_digest(key, bytes(stored[start : start + length]))
        table.write_bytes(with_checks(rows))
        data.write_bytes(stored)


def with_checks(table: bytearray) -> bytes:
    """The same chunk table with CRCs that hold."""
    at = 64
    while at < len(table):
        end = at + 8 + 37 * int.from_bytes(table[at + 4 : at + 8], "little")
        table[end : end + 4] = struct.pack("<I", kernel.crc32c(bytes(table[at:end])))
        at = end + 4
    return bytes(table)


@pytest.mark.parametrize("harm", [zero_pages, cut_tables, lose_tables_and_cut_data])
def test_a_copy_that_lies_is_found_out_and_changes_nothing_for_the_worse(harm: Harm, pair: Pair, run: Run) -> None:
    forged(pair.replica)
    assert run("verify", pair.replica, code=None).code == 0  # by itself it is sound
    harm(pair.origin)
    before = run("verify", pair.origin, "--json", code=5).event("verify")
    files = content(pair.origin)

    done = run("verify", "--repair-from", pair.replica, pair.origin, "--json", code=5).event("verify")

    assert 0 < done["unrepaired_bytes"] <= before["unrepaired_bytes"]
    assert done["damaged_paths"] <= before["damaged_paths"]
    if harm is not zero_pages:
        assert content(pair.origin) == files
    verified = run("verify", pair.origin, "--json", code=5).event("verify")
    assert verified["unrepaired_bytes"] == done["unrepaired_bytes"]


def test_another_volume_or_the_volume_itself_is_no_copy_of_it(pair: Pair, tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("file")
    run("push", tmp_path / "file", f"{tmp_path}/stranger::main")
    flip_bits(pair.origin)
    files = content(pair.origin)

    other = run("verify", "--repair-from", tmp_path / "stranger", pair.origin, "--json", code=8)
    itself = run("verify", "--repair-from", pair.origin, pair.origin, code=2)

    assert other.events[-1]["code"] == "different-volumes"
    assert "itself" in itself.err or "to be repaired" in itself.err
    assert content(pair.origin) == files


def test_a_journal_entry_whose_chunk_is_damaged_comes_back_from_the_journal(pair: Pair, run: Run) -> None:
    """No replica has those; a rebuild needs them."""
    database = apsw.Connection(str(pair.origin / "journal.db"))
    entries = [row[0] for row in database.execute("SELECT entry FROM journal")]
    database.close()
    (data,) = pair.origin.glob("segments/*.data")
    stored = bytearray(data.read_bytes())
    for entry in entries:
        stored[stored.index(entry) + 20] ^= 1
    data.write_bytes(stored)

    run("verify", "--repair-from", pair.replica, pair.origin)

    (pair.origin / "journal.db").unlink()
    run("rebuild", pair.origin)
    pair.assert_exact(pair.origin)


@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("harm", [zero_pages, cut_tables])
def test_a_repair_killed_at_any_instant_is_finished_by_running_it_again(
    harm: Harm, pair: Pair, tmp_path: Path, run: Run, start: Start, many: Callable[[int, int], int]
) -> None:
    pristine = tmp_path / "pristine"
    harm(pair.origin)
    shutil.copytree(pair.origin, pristine)
    kills = Kills(many(4, 200), harm.__name__, 1.0)
    for _ in kills:
        process = start("verify", "--repair-from", pair.replica, pair.origin)
        assert "Traceback" not in kills.within(process, process.kill)

        run("verify", "--repair-from", pair.replica, pair.origin)
        assert not (pair.origin / "mending").exists()
        shutil.rmtree(pair.origin)
        shutil.copytree(pristine, pair.origin)


def test_a_rate_is_kept(pair: Pair, run: Run) -> None:
    full = run("verify", pair.origin, "--json").event("verify")

    slow = run("verify", "--rate", str(full["checked_bytes"] // 2), pair.origin, "--json").event("verify")

    assert slow["checked_bytes"] == full["checked_bytes"]
    assert slow["seconds"] >= 1.0
    assert slow["bytes_per_s"] <= full["checked_bytes"]
    run("verify", "--rate", "0", pair.origin, code=2)
