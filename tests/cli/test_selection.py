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
        (["--max-size", "many"], "--max-size: 'many' is not a size"),
        (["--filter-file", "a/b"], "'a/b' cannot be the name of filter files"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(
    cli: Cli, tree: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "patterns").write_bytes(b"a\nb\\\n")

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
