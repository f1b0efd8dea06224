"""What `--help`, `completion` and the start of the command promise."""

import os
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from packetfs import __version__
from packetfs.cli.app import COMMANDS, Command
from packetfs.cli.invocation import Invocation
from tests.cli.conftest import Cli


def command(name: str) -> Command:
    found = getattr(import_module(f"packetfs.cli.{COMMANDS[name][0]}"), name)
    assert isinstance(found, Command)
    return found


def test_the_list_of_commands_is_what_they_say_of_themselves() -> None:
    assert {name: command(name).get_short_help_str(200) for name in COMMANDS} == {
        name: summary for name, (_, summary) in COMMANDS.items()
    }
    assert {name: (command(name).help or "").splitlines()[0] for name in COMMANDS} == {
        name: summary for name, (_, summary) in COMMANDS.items()
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_examples_that_can_be_typed(name: str) -> None:
    examples = command(name).examples.strip().splitlines()
    assert examples
    for line in examples:
        for part in line.split(" | "):
            words = [word for word in shlex.split(part.partition(" > ")[0]) if not word.startswith("PACKETFS_VOLUME=")]
            if words[0] == "packetfs":
                assert words[1] == name
                command(name).make_context(name, words[2:], obj=Invocation(words, {}))  # raises if it cannot be parsed


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_terminal_and_ends_well(cli: Cli, name: str) -> None:
    shown = cli(*filter(None, [name]), "--help")

    assert max(map(len, shown.lines)) <= 100
    assert shown.err == ""


def test_bare_packetfs_is_help(cli: Cli) -> None:
    assert cli().out == cli("--help").out


def test_versions_agree(cli: Cli) -> None:
    assert cli("--version").lines == [f"packetfs {__version__}"]
    assert cli("version", "--json").event("version")["packetfs"] == __version__
    assert cli("version").lines[0].startswith(f"packetfs {__version__} ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_what_the_shell_understands(cli: Cli, shell: str) -> None:
    script = cli("completion", shell)

    assert b"packetfs" in script.out
    if shutil.which(shell):
        subprocess.run([shell, "-n", "/dev/stdin"], input=script.out, check=True, capture_output=True)


def test_words_are_completed(cli: Cli) -> None:
    asked = {"_PACKETFS_COMPLETE": "bash_complete", "COMP_CWORD": "1"}

    assert cli(env=asked | {"COMP_WORDS": "packetfs p"}).lines == [
        "plain,push",
        "plain,pull",
        "plain,promote",
        "plain,pair",
        "plain,peers",
    ]
    options = cli(env=asked | {"COMP_WORDS": "packetfs pull --de", "COMP_CWORD": "2"}).lines
    assert options == ["plain,--delete"]


def imported(cli: Cli, *arguments: str) -> set[str]:
    """The modules that a command loads."""
    script = "import sys\nfrom packetfs.cli import main\n"
    script += "try: main()\nfinally: open('loaded', 'w').write('\\n'.join(sys.modules))"
    cli.python(script, *arguments)
    return set((cli.home / "loaded").read_text().splitlines())


def test_a_command_loads_only_what_it_needs(cli: Cli, tmp_path: Path) -> None:
    """Loading is most of what an unchanged push costs."""
    (tmp_path / "source").mkdir()

    loaded = imported(cli, "push", "source", "volume::main")

    others = {f"packetfs.cli.{module}" for module, _ in COMMANDS.values()} - {"packetfs.cli.push"}
    assert "packetfs.cli.push" in loaded
    assert not loaded & (others | {"rich", "platformdirs", "asyncio", "packetfs.sync", "difflib", "unittest"})


def test_help_loads_no_command(cli: Cli) -> None:
    loaded = imported(cli, "--help")

    assert not loaded & ({f"packetfs.cli.{module}" for module, _ in COMMANDS.values()} | {"apsw", "packetfs.kernel"})


def test_python_m_packetfs_is_packetfs(cli: Cli) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "packetfs", "--help"], env=cli.environment(), capture_output=True, check=True
    )

    assert done.stdout == cli("--help").out
    assert os.linesep.encode() in done.stdout


def test_a_message_of_click_is_ours(cli: Cli) -> None:
    assert issubclass(click.UsageError, Exception)
    assert cli("ls", code=2).err.startswith("packetfs: Missing argument 'VOLUME::REF")
