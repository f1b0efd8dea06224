"""Several processes at one volume: every push that says it committed did, and readers see whole snapshots."""

from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run, Start
from tests.end_to_end.trees import difference, facts, grow

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("writers", [2, 8])
def test_pushes_to_different_refs_at_once_all_commit(writers: int, tmp_path: Path, run: Run, start: Start) -> None:
    """A reader pulls meanwhile; afterwards each ref pulls back exactly and verify is clean."""
    volume = tmp_path / "volume"
    grow(tmp_path / "base", 0)
    run("push", tmp_path / "base", f"{volume}::base")
    sources = [tmp_path / f"source-{number}" for number in range(writers)]
    for number, source in enumerate(sources):
        grow(source, number % 3)  # some share their content: they race for the same chunks

    pushes = [start("push", source, f"{volume}::ref-{source.name}") for source in sources]
    run("pull", f"{volume}::base", tmp_path / "meanwhile")
    ended = [(push.communicate(), push.returncode) for push in pushes]

    assert [code for _, code in ended] == [0] * writers, ended
    assert difference(facts(tmp_path / "base"), facts(tmp_path / "meanwhile")) == []
    for source in sources:
        target = tmp_path / f"pulled-{source.name}"
        run("pull", f"{volume}::ref-{source.name}", target)
        assert difference(facts(source), facts(target)) == []
    run("verify", volume)


@pytest.mark.parametrize("writers", [2, 8])
def test_pushes_to_one_ref_at_once_win_or_conflict(writers: int, tmp_path: Path, run: Run, start: Start) -> None:
    """Exit 0 or 4, at least one wins, the log holds exactly the winners, and a loser's re-run goes through."""
    volume = tmp_path / "volume"
    sources = [tmp_path / f"source-{number}" for number in range(writers)]
    for number, source in enumerate(sources):
        grow(source, number)
    grow(tmp_path / "base", 99)
    run("push", tmp_path / "base", f"{volume}::main")

    pushes = [start("push", source, f"{volume}::main") for source in sources]
    ended = [(push.communicate(), push.returncode) for push in pushes]

    codes = [code for _, code in ended]
    assert set(codes) <= {0, 4}, ended
    assert 0 in codes
    history = run("log", f"{volume}::main", "--json").events
    assert sum(event["event"] == "snapshot" for event in history) == 1 + codes.count(0)
    loser = sources[codes.index(4)] if 4 in codes else sources[0]
    run("push", loser, f"{volume}::main")
    run("pull", f"{volume}::main", tmp_path / "target")
    assert difference(facts(loser), facts(tmp_path / "target")) == []
    run("verify", volume)
