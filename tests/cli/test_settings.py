"""Flag before environment before file before default: the one place where that is tested."""

from pathlib import Path
from typing import Any

import platformdirs
import pytest

from packetfs.cli.config import LOCK_WAIT_S, Settings, _default_path, settings
from packetfs.errors import UsageError

# field, (flag value), (environment variable, text, value), (file line, value), default
LADDER: list[tuple[str, Any, tuple[str, str, Any], tuple[str, Any], Any]] = [
    ("volume", "/flag", ("PACKETFS_VOLUME", "/env", "/env"), ('volume = "/file"', "/file"), None),
    ("lock_wait_s", 1.0, ("PACKETFS_LOCK_WAIT", "2m", 120.0), ("lock-wait = 3", 3.0), LOCK_WAIT_S),
    ("lock_wait_s", 1.0, ("PACKETFS_LOCK_WAIT", "2", 2.0), ('lock-wait = "1h"', 3600.0), LOCK_WAIT_S),
    ("lock_wait_s", 1.0, ("PACKETFS_LOCK_WAIT", "7d", 604_800.0), ('lock-wait = "0.5w"', 302_400.0), LOCK_WAIT_S),
    ("progress", True, ("PACKETFS_PROGRESS", "0", False), ("progress = false", False), True),
    ("json", False, ("PACKETFS_JSON", "yes", True), ("json = true", True), False),
    ("ssh", "ssh -4", ("PACKETFS_SSH", "ssh -p 1", "ssh -p 1"), ('ssh = "ssh -v"', "ssh -v"), "ssh"),
    ("remote_packetfs", "/a", ("PACKETFS_REMOTE", "/b", "/b"), ('remote-packetfs = "/c"', "/c"), "packetfs"),
    ("cache_bytes", 1, ("PACKETFS_CACHE_SIZE", "1.5K", 1536), ('cache-size = "2G"', 2 << 30), None),
    ("cache_bytes", 1, ("PACKETFS_CACHE_SIZE", "7", 7), ("cache-size = 5", 5), None),
    ("rate_bytes_s", 1, ("PACKETFS_BWLIMIT", "1.5M", 3 << 19), ("bwlimit = 100", 100 << 10), None),
    ("verbosity", 1, ("PACKETFS_VERBOSITY", "-1", -1), ("verbosity = -1", -1), 0),
]


@pytest.mark.parametrize(("field", "flag", "variable", "line", "default"), LADDER)
def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    tmp_path: Path, field: str, flag: Any, variable: tuple[str, str, Any], line: tuple[str, Any], default: Any
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(line[0])
    with_file = {"PACKETFS_CONFIG": str(file)}
    with_variable = with_file | {variable[0]: variable[1]}

    assert getattr(settings({field: flag}, with_variable), field) == flag
    assert getattr(settings({}, with_variable), field) == variable[2]
    assert getattr(settings({}, with_file), field) == line[1]
    assert getattr(settings({}, {"XDG_CONFIG_HOME": str(tmp_path / "none")}), field) == default


def test_the_ladder_above_has_every_setting() -> None:
    assert {row[0] for row in LADDER} == set(Settings.__struct_fields__)


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path) -> None:
    assert settings({}, {"XDG_CONFIG_HOME": str(tmp_path), "PACKETFS_VOLUME": ""}).volume is None


def test_the_file_is_where_platformdirs_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for environment in ({"HOME": str(tmp_path)}, {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "conf")}):
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        expected = platformdirs.user_config_path("packetfs", appauthor=False) / "config.toml"

        assert _default_path(environment) == str(expected)


@pytest.mark.parametrize(
    "text", ["volum = 1", "lock-wait = []", "not toml", 'lock-wait = "soon"', "lock-wait = -1", 'cache-size = "much"']
)
def test_a_file_that_says_nonsense_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)

    with pytest.raises(UsageError, match=r"config\.toml") as caught:
        settings({}, {"PACKETFS_CONFIG": str(file)})

    assert caught.value.hint


@pytest.mark.parametrize(
    ("variable", "text"), [("PACKETFS_LOCK_WAIT", "soon"), ("PACKETFS_JSON", "maybe"), ("PACKETFS_VERBOSITY", "high")]
)
def test_a_variable_that_says_nonsense_is_an_error_that_names_it(tmp_path: Path, variable: str, text: str) -> None:
    with pytest.raises(UsageError, match=variable):
        settings({}, {"XDG_CONFIG_HOME": str(tmp_path), variable: text})


@pytest.mark.parametrize("variable", ["PACKETFS_CONFIG", "XDG_CONFIG_HOME"])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, variable: str) -> None:
    (tmp_path / "packetfs" / "config.toml").mkdir(parents=True)
    at = tmp_path / "packetfs" / "config.toml" if variable == "PACKETFS_CONFIG" else tmp_path

    with pytest.raises(UsageError, match=r"config\.toml.*Is a directory") as caught:
        settings({}, {variable: str(at)})

    assert (caught.value.code, bool(caught.value.hint)) == ("bad-config", True)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        settings({}, {"PACKETFS_CONFIG": str(tmp_path / "none.toml")})
