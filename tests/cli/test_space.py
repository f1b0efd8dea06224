"""`forget`, `rm`, `gc` and the labels of `push`, as they are typed."""

import os
from pathlib import Path

import pytest

from packetfs.volume import Volume
from tests.cli.conftest import Cli


@pytest.fixture
def volume(cli: Cli) -> Path:
    """Three snapshots of main, the first with a tag, and one of side."""
    source = cli.home / "source"
    source.mkdir()
    for number in range(3):
        (source / "large").write_bytes(bytes([number]) * 10 + bytes(range(256)) * (400 + number))
        tags = ("--tag", "release", "--tag", "first") if number == 0 else ()
        cli("push", *tags, "--time", f"2026-01-0{number + 1}T12:00Z", source, "volume::main")
    (source / "large").write_bytes(b"of the side" * 10_000)
    cli("push", "--host", "laptop", source, "volume::side")
    return cli.home / "volume"


def ids(cli: Cli, ref: str) -> list[str]:
    return [event["snapshot"] for event in cli("log", "--json", f"volume::{ref}").events]


def test_tags_host_and_time_are_shown(cli: Cli, volume: Path) -> None:
    first = cli("log", "--json", "volume::main").events[-1]
    side = cli("log", "--json", "volume::side").events[0]

    assert first["tags"] == ["first", "release"]
    assert first["source_time_ns"] == 1_767_268_859_999_999_999
    assert (side["host"], side["tags"], side["source_time_ns"]) == ("laptop", [], None)
    assert "[first, release]" in cli("log", "volume::main").lines[-1]


def test_rules_say_why_each_is_kept_before_anything_goes(cli: Cli, volume: Path) -> None:
    dry = cli("forget", "-n", "--json", "--keep-daily", "1", "--keep-tag", "release,first", "volume::main")

    verdicts = [event for event in dry.events if event["event"] == "verdict"]
    assert [(one["kept"], one["reasons"]) for one in verdicts] == [
        (True, ["newest", "daily"]),
        (False, []),
        (True, ["tags first, release"]),
    ]
    assert dry.event("forget") == {
        "event": "forget", "volume": "volume", "dry_run": True, "refs": 1, "kept": 2, "forgotten": 1
    }  # fmt: skip
    assert len(ids(cli, "main")) == 3

    cli("forget", "--keep-daily", "1", "--keep-tag", "release", "volume::main")
    assert ids(cli, "main") == [verdicts[0]["snapshot"], verdicts[2]["snapshot"]]


def test_a_single_snapshot_is_forgotten_by_its_id(cli: Cli, volume: Path) -> None:
    newest, middle, oldest = ids(cli, "main")

    cli("forget", f"volume::main@{middle[:12]}")
    assert ids(cli, "main") == [newest, oldest]

    for words in (["-n"], [f"volume::main@{oldest[:12]}"]):
        refused = cli("forget", "--json", *words, f"volume::main@{newest[:12]}", code=8)
        assert refused.event("error")["code"] == "newest-snapshot"
    assert ids(cli, "main") == [newest, oldest]


@pytest.mark.parametrize(
    ("words", "code", "exit_"),
    [
        (["volume::main"], "usage", 2),
        (["--keep-tag", "nothing", "volume::main"], "keeps-nothing", 8),
        (["--keep-within", "5w", "volume::main"], "bad-duration", 2),
        (["--keep-within", "0h", "volume::main"], "bad-duration", 2),
        (["--keep-last", "1", "volume::main@~1"], "usage", 2),
        (["--all", "--keep-last", "1", "volume::main"], "usage", 2),
        (["--keep-last", "1", "volume::missing"], "ref-not-found", 1),
        (["--keep-last", "1", "volume::main:/large"], "usage", 2),
    ],
)
def test_what_is_not_meant_forgets_nothing(cli: Cli, volume: Path, words: list[str], code: str, exit_: int) -> None:
    assert cli("forget", "--json", *words, code=exit_).event("error")["code"] == code
    assert len(ids(cli, "main")) == 3


def test_every_ref_by_itself_down_to_the_newest(cli: Cli, volume: Path) -> None:
    cli("forget", "--all", "--only-newest", "volume")

    assert (len(ids(cli, "main")), len(ids(cli, "side"))) == (1, 1)


def test_a_ref_is_removed_after_it_was_said_what_goes(cli: Cli, volume: Path) -> None:
    planned = cli("rm", "-n", "--json", "volume::side").event("rm")
    assert ids(cli, "side")

    removed = cli("rm", "volume::side")

    assert "that nothing else needs" in removed.err.splitlines()[1]
    assert 0 < planned["freed_bytes"] < 120_000
    assert [event["ref"] for event in cli("refs", "--json", "volume").events] == ["main"]
    assert cli("rm", "--json", "volume::main@~1", code=2).event("error")["code"] == "bad-location"


def test_space_is_given_back_and_counted(cli: Cli, volume: Path) -> None:
    cli("rm", "volume::side")
    young = cli("gc", "--json", "volume").event("gc")
    dry = cli("gc", "-n", "--json", "--grace", "0", "volume").event("gc")
    done = cli("gc", "--json", "--grace", "0", "volume").event("gc")

    assert (young["unreached_bytes"], young["young_bytes"]) == (0, dry["unreached_bytes"])
    assert done["unreached_bytes"] == dry["unreached_bytes"] > 0
    assert done["freed_bytes"] > 0
    assert cli("status", "--json", "volume").event("status")["reclaimed_bytes"] == done["unreached_bytes"]
    assert "reclaimed" in cli("status", "volume").lines[-1]
    cli("verify", "volume")
    cli("pull", "volume::main@~2", "target")


def test_who_is_waited_for_is_named(cli: Cli, volume: Path) -> None:
    cli("rm", "volume::side")
    with Volume.open(volume):
        error = cli("gc", "--json", "--grace", "0", "--wait", "0", "volume", code=6).event("error")

    assert error["code"] == "volume-in-use"
    assert error["values"]["processes"] == [os.getpid()]
    assert str(os.getpid()) in error["message"]


def test_a_ref_whose_newest_tree_is_damaged_can_be_removed_and_then_its_space_is_given_back(
    cli: Cli, volume: Path
) -> None:
    """What verify and gc say to do: nothing else rids a volume of it."""
    for number in range(40):
        (cli.home / "source" / f"file {number}").write_bytes(b"%d" % number)
    pushed = cli("push", "--json", cli.home / "source", "volume::side").event("push")
    with Volume.open(volume) as opened:
        address, length, _ = opened.root(opened.resolve("side")).page or (0, 0, b"")
        slot = opened.space.slot(address >> 26)
    assert length > 1000
    with open(volume / f"segments/{slot}.data", "r+b") as file:
        file.seek(address % (1 << 26) + 500)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    cli("verify", "volume", code=5)
    assert cli("gc", "--json", "--grace", "0", "volume", code=5).event("error")["code"] == "damaged"

    planned = cli("rm", "-n", "--json", "volume::side")
    done = cli("rm", "volume::side")

    assert (planned.event("rm")["freed_bytes"], planned.event("rm")["snapshots"]) == (None, 2)
    assert planned.event("removing")["snapshot"] == pushed["snapshot"]
    assert "is not known" in done.err
    assert "removed 1 ref with 2 snapshots" in done.err
    assert cli("gc", "--json", "--grace", "0", "volume").event("gc")["freed_bytes"] > 0
    cli("verify", "volume")
