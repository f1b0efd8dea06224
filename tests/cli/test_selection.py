"""What one leaves out, as a user types it."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

pytestmark = pytest.mark.slow


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("a.c", "a.o", "keep.o", "build/a", "docs/build/b"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def listed(cli: Cli, place: str = "volume::main") -> list[str]:
    return [event["path"] for event in cli("ls", "-R", place, "--json").events if event["kind"] == "file"]


def test_the_order_of_patterns_on_the_command_line_decides(cli: Cli, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "patterns").write_bytes(b"# objects\n*.o\n/build/\n")

    done = cli("push", "--exclude-from", "patterns", "--include", "keep.o", tree, "volume::main", "--json")
    cli("push", "--include=keep.o", "--exclude-from=patterns", tree, "volume::other")

    assert listed(cli) == ["a.c", "docs/build/b", "keep.o"]
    assert listed(cli, "volume::other") == ["a.c", "docs/build/b"]
    assert done.event("push")["excluded"] == 2
    assert "3 names excluded" in cli("push", "--exclude", "*.o", "--exclude", "a.?", tree, "volume::third").err


def test_a_list_may_come_from_standard_input_and_what_is_missing_in_it_is_told(cli: Cli, tree: Path) -> None:
    done = cli("push", "--files-from", "-", "-0", tree, "volume::main", stdin=b"a.c\0docs\0gone\0", code=3)

    assert listed(cli) == ["a.c", "docs/build/b"]
    assert "gone: was asked for and is not there" in done.err
    assert "1 name asked for and not there" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--exclude", "[a"], '--exclude: "[a" is no pattern'),
        (["--exclude", ""], "--exclude: the pattern is empty"),
        (["--exclude-from", "patterns"], 'patterns:2: "b\\" is no pattern: it ends with a backslash'),
        (["--exclude-from", "missing"], "cannot read 'missing'"),
        (["--files-from", "missing"], "cannot read 'missing'"),
        (["--from0"], "--from0 tells how a list"),
        (["--files-from", "long"], "has a name of 300 bytes"),
        (["--max-size", "many"], "--max-size: 'many' is not a size"),
        (["--filter-file", "a/b"], "'a/b' cannot be the name of filter files"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(
    cli: Cli, tree: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "patterns").write_bytes(b"a\nb\\\n")
    (tmp_path / "long").write_bytes(b"a.c\n" + b"x" * 300 + b"\n")

    done = cli("push", *arguments, tree, "volume::main", code=2)

    assert told in done.err
    assert not (tmp_path / "volume" / "refs").exists()


def test_a_bad_line_in_a_filter_file_is_told_with_its_place(cli: Cli, tree: Path) -> None:
    (tree / "docs" / ".pick").write_bytes(b"ok\n[a\n")

    done = cli("push", "--filter-file", ".pick", tree, "volume::main", code=2)

    assert 'docs/.pick:2: "[a" is no pattern: a [ has no ]' in done.err
    assert cli("refs", "volume").out == b""


def test_patterns_are_any_bytes(cli: Cli, tree: Path) -> None:
    with open(os.fsencode(tree) + b"/\xff.o", "wb") as file:
        file.write(b"odd")

    cli("push", b"--exclude=\xff*", tree, "volume::main")

    assert "a.o" in listed(cli)
    assert len(listed(cli)) == 5


def test_changes_are_itemized_in_the_letters_of_rsync(cli: Cli, tree: Path) -> None:
    cli("push", tree, "volume::main")
    (tree / "a.c").write_bytes(b"longer")
    (tree / "a.o").chmod(0o600)
    (tree / "build" / "a").unlink()
    (tree / "link").symlink_to("a.c")

    dry = cli("push", "-n", "-i", tree, "volume::main")
    done = cli("push", "-i", tree, "volume::main", "--json")

    assert dry.lines == [
        ">fcst...... a.c",
        ".f...p..... a.o",
        ".d..t...... build/",
        "*deleting   build/a",
        "cL+++++++++ link",
    ]
    changes = [event for event in done.events if event["event"] == "change"]
    assert [f"{change['letters']} {change['path']}".removesuffix("/") for change in changes] == [
        line.removesuffix("/") for line in dry.lines
    ]
    assert cli("push", "-i", tree, "volume::main").lines == []


def test_a_pull_that_would_delete_too_much_says_so_and_does_the_rest(cli: Cli, tree: Path, tmp_path: Path) -> None:
    cli("push", tree, "volume::main")
    (tmp_path / "target" / "surplus").mkdir(parents=True)
    (tmp_path / "target" / "kept.log").write_bytes(b"")
    options = ["--delete", "--max-delete", "0", "--exclude", "*.log", "-i"]

    done = cli("pull", *options, "volume::main", "target", code=3)

    assert "1 name had to be deleted, and --max-delete is 0: nothing was deleted" in done.err
    assert ">f+++++++++ a.c" in done.lines
    assert "*deleting   surplus/" in cli("pull", "--delete", *options[3:], "volume::main", "target").lines
    assert (tmp_path / "target" / "kept.log").exists()
    assert "--max-delete bounds" in cli("pull", "--max-delete", "1", "volume::main", "target", code=2).err


def test_a_file_is_found_in_the_snapshots_that_had_it(cli: Cli, tree: Path) -> None:
    cli("push", tree, "volume::main")
    (tree / "a.o").unlink()
    (tree / "a.c").write_bytes(b"longer")
    cli("push", tree, "volume::main")
    first, last = (event["snapshot"] for event in reversed(cli("log", "volume::main", "--json").events))

    found = {event["path"]: event for event in cli("find", "a.?", "volume::main", "--json").events[:-1]}

    assert {path: (event["first"], event["last"], event["size"]) for path, event in found.items()} == {
        "a.c": (first, last, 6),
        "a.o": (first, first, 3),
    }
    assert cli("find", "build/**", "volume::main", "--json").event("found")["path"] == "build/a"
    assert cli("find", "--all", "b", "volume").lines[0].startswith("main ")
    assert cli("find", "b", "volume::main@~1", code=2).out == b""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pull", "--numeric-ids", "--no-owner", "volume::main", "target"], "--numeric-ids and --no-owner contradict"),
        (["pull", "--backup-dir", "", "volume::main", "target"], "has an empty name"),
        (["pull", "--max-delete", "1", "volume::main", "target"], "--max-delete bounds what --delete removes"),
        (["find", "--all", "a.c", "volume::main"], "--all means every ref of a volume"),
        (["find", "a.c", "volume::main", "volume::main@~1"], "all snapshots of a ref are looked through"),
    ],
)
def test_what_contradicts_itself_is_refused_and_nothing_is_done(
    cli: Cli, tree: Path, arguments: list[str], told: str
) -> None:
    cli("push", tree, "volume::main")

    done = cli(*arguments, code=2)

    assert told in done.err
    assert done.out == b""
    assert not (cli.home / "target").exists()
