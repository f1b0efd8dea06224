"""Damage at rest: derived data is rebuilt, the rest ends in exit 5 with names, and damaged bytes are never shown."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run
from tests.end_to_end.trees import change, difference, facts, grow

Harm = Callable[[Path, random.Random], None]


def flip_a_bit(path: Path, choice: random.Random) -> None:
    """One bit of the first half of the file: in a sparse tail nothing would notice, rightly."""
    content = bytearray(path.read_bytes())
    used = len(bytes(content).rstrip(b"\0"))
    content[choice.randrange(max(1, used))] ^= 1 << choice.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, choice: random.Random) -> None:
    """Keep less than half of what is used."""
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: choice.randrange(len(content) // 2 + 1)])


def remove(path: Path, choice: random.Random) -> None:
    """The whole file is gone."""
    path.unlink()


@pytest.fixture
def pushed(tmp_path: Path, run: Run) -> tuple[Path, Path]:
    """A source and a volume with two snapshots of it."""
    source, volume = tmp_path / "source", tmp_path / "volume"
    grow(source, 5)
    run("push", source, f"{volume}::main")
    change(source, 5)
    run("push", source, f"{volume}::main")
    return source, volume


@pytest.mark.slow
@pytest.mark.parametrize("harm", [flip_a_bit, truncate, remove])
@pytest.mark.parametrize("what", ["segments/*.data", "segments/*.chunks", "journal.db"])
@pytest.mark.parametrize("seed", range(3))
def test_damaged_truth_is_never_served(
    what: str, harm: Harm, seed: int, pushed: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    """A pull gives exact files or stops with exit 5; verify finds the damage. Nobody sees a traceback."""
    source, volume = pushed
    choice = random.Random(seed)
    harm(choice.choice(sorted(volume.glob(what))), choice)
    target = tmp_path / "target"

    verified = run("verify", volume, code=None)
    pulled = run("pull", f"{volume}::main", target, code=None)

    assert pulled.code in (0, 5), pulled.err
    expected = facts(source)
    if pulled.code == 0:
        assert difference(expected, facts(target)) == []
    elif target.exists():
        wrong = [path for path, fact in facts(target).items() if fact.content not in (b"", expected[path].content)]
        assert wrong == []
    if what != "journal.db":  # SQLite does not check every bit of a page that nobody asks for
        assert verified.code == 5, verified.err
    assert verified.code in (0, 5), verified.err


@pytest.mark.slow
def test_what_verify_found_is_stored_anew_by_the_next_push(tmp_path: Path, run: Run) -> None:
    """The very same files: their times vouch for nothing any more, and the damaged copies are not pointed to again."""
    source, volume = tmp_path / "source", tmp_path / "volume"
    grow(source, 5)
    victim = random.Random(6).randbytes(400_000)
    (source / "victim").write_bytes(victim)
    old = run("push", source, f"{volume}::main", "--json").event("push")
    (data,) = (volume / "segments").glob("*.data")
    content = bytearray(data.read_bytes())
    content[content.index(victim[:1000]) + 200_000] ^= 4
    data.write_bytes(content)
    run("push", source, f"{volume}::main")  # nothing has changed, and nobody has looked yet

    assert run("verify", volume, "--json", code=5).event("damaged-path")["path"] == "victim"
    run("pull", f"{volume}::main", tmp_path / "damaged", code=5)
    healed = run("push", source, f"{volume}::main", "--json").event("push")
    again = run("push", source, f"{volume}::main", "--json").event("push")
    run("pull", f"{volume}::main", tmp_path / "target")

    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert (healed["changed"], again["changed"]) == (True, False)
    assert healed["snapshot"] != old["snapshot"]
    assert 0 < healed["new_bytes"] < len(victim)
    assert again["unchanged_files"] == healed["files"]
    named = run("verify", volume, "--json", code=5).event("damaged-path")
    assert named["snapshots"] == [{"ref": "main", "snapshot": old["snapshot"]}]


@pytest.mark.slow
@pytest.mark.parametrize("harm", [flip_a_bit, truncate, remove])
@pytest.mark.parametrize("what", ["segments/*.data", "segments/*.chunks"])
def test_any_damage_of_a_segment_is_healed_by_verify_and_push(
    what: str, harm: Harm, pushed: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    source, volume = pushed
    for path in sorted(volume.glob(what)):
        harm(path, random.Random(8))

    run("verify", volume, code=5)
    run("push", source, f"{volume}::main")
    run("pull", f"{volume}::main", tmp_path / "target")

    assert difference(facts(source), facts(tmp_path / "target")) == []


@pytest.mark.parametrize("harm", [flip_a_bit, truncate, remove])
@pytest.mark.parametrize("what", ["index/*", "cache/*", "cache.db"])
def test_damaged_derived_data_is_rebuilt(
    what: str, harm: Harm, pushed: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    """Index and caches may be lost at any time: push finds nothing new, pull is exact, verify is clean."""
    source, volume = pushed
    for path in sorted(volume.glob(what)):
        if path.is_file() and path.stat().st_size:
            harm(path, random.Random(1))

    again = run("push", source, f"{volume}::main", "--json").event("push")

    assert again["new_bytes"] == 0
    run("verify", volume)
    run("pull", f"{volume}::main", tmp_path / "target")
    assert difference(facts(source), facts(tmp_path / "target")) == []


def test_a_volume_whose_caches_are_gone_works(pushed: tuple[Path, Path], tmp_path: Path, run: Run) -> None:
    """The directories themselves may be deleted."""
    source, volume = pushed
    shutil.rmtree(volume / "index")
    shutil.rmtree(volume / "cache", ignore_errors=True)
    (volume / "cache.db").unlink(missing_ok=True)

    run("push", source, f"{volume}::main")
    run("pull", f"{volume}::main", tmp_path / "target")

    assert difference(facts(source), facts(tmp_path / "target")) == []
