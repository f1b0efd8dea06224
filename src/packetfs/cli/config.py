"""What the user has set, by flag, environment or file: one table, one order of precedence, applied in one place.

Flag before environment before file before default. The file is `config.toml` in the user's configuration directory
(`~/.config/packetfs/` on Linux), or what PACKETFS_CONFIG names; a key it does not know is an error, so that a
misspelt one never goes unnoticed.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from packetfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK_WAIT_S: Final = 10.0  # longer than any commit, shorter than a person's patience with a terminal that says nothing


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The values one command runs with."""

    volume: str | None = None
    """The volume that a location means when it names none."""
    lock_wait_s: float = LOCK_WAIT_S
    """How long a commit waits for another process before it gives up (exit code 6)."""
    progress: bool = True
    """Whether running operations tell how far they are."""
    json: bool = False
    """Whether standard output is events, one JSON object a line."""
    verbosity: int = 0
    """-1 only errors, 0 results and notices, 1 every change as well."""
    ssh: str = "ssh"
    """The command that reaches another machine, with its options."""
    remote_packetfs: str = "packetfs"
    """What PacketFS is called there."""
    cache_bytes: int | None = None
    """How much of another machine's volume is kept here between commands; None: a tenth of the free disk."""
    rate_bytes_s: int | None = None
    """How many bytes a second may go to and come from another machine; None: as many as there is room for."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The configuration file."""

    volume: str | None = None
    lock_wait: float | str | None = None
    progress: bool | None = None
    json: bool | None = None
    verbosity: int | None = None
    ssh: str | None = None
    remote_packetfs: str | None = None
    cache_size: int | str | None = None
    bwlimit: int | str | None = None


def settings(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """The settings in force: `flags` (those given, by field name) over `environment` over the file over defaults."""
    path = environment.get("PACKETFS_CONFIG") or _default_path(environment)
    chosen: dict[str, Any] = {**_from_file(path, named="PACKETFS_CONFIG" in environment), **_from(environment)}
    chosen.update((name, value) for name, value in flags.items() if value is not None)
    return Settings(**chosen)


def wants_json(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a failure should be a JSON line, asked when the settings as a whole cannot be had."""
    if "--json" in arguments:
        return True
    try:
        return bool(_switch(environment.get("PACKETFS_JSON") or "no", "PACKETFS_JSON"))
    except UsageError:
        return False


def seconds(text: str, origin: str) -> float:
    """A duration such as `10`, `1.5`, `30s`, `2m`, `1h` or `7d`; `origin` says in an error where it was written."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}.get(text[-1:], 0)
    try:
        value = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise UsageError(
            f"{origin}: {text!r} is not a duration",
            code="bad-config",
            hint="write seconds, or a number with s, m, h, d or w: 10, 30s, 7d",
        )
    return value


def size(text: str, origin: str) -> int:
    """A number of bytes such as `500M`, `2G` or `1048576`; units are powers of 1024."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(
            f"{origin}: {text!r} is not a size",
            code="bad-config",
            hint="write bytes, or a number with K, M, G or T: 500M, 2G",
        )
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def rate(text: str, origin: str) -> int | None:
    """Bytes a second, as rsync has them: `500K`, `2M`; a bare number counts KiB, and 0 is no limit."""
    bare = text.strip()[-1:].isdigit()
    return size(f"{text}K" if bare else text, origin) or None


def link(text: str, origin: str) -> tuple[float, float]:
    """(bits a second, round-trip time in seconds) of a link such as `100mbit,25ms`; without a time it has none."""
    found = re.fullmatch(
        r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([kmgt]?)bit(?:/s)?(?:\s*,\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)(us|ms|s))?",
        text.strip(),
        re.IGNORECASE,
    )
    bits_s = float(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " ") if found is not None else 0.0
    if found is None or bits_s == 0:
        raise UsageError(
            f"{origin}: {text!r} is not a link",
            code="bad-link",
            hint="write a rate, or a rate and a round-trip time: 1gbit, 100mbit,25ms",
        )
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    return bits_s, float(found[3]) * scale[found[4].lower()] if found[3] else 0.0


def _switch(text: str, origin: str) -> bool:
    answer = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return answer[text.lower()]
    except KeyError:
        raise UsageError(f"{origin}: {text!r} is neither yes nor no", code="bad-config", hint="write 1 or 0") from None


def _level(text: str, origin: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{origin}: {text!r} is not a number", code="bad-config", hint="write -1, 0 or 1") from None


_VARIABLES: "Final[dict[str, tuple[str, Callable[[str, str], Any]]]]" = {
    "PACKETFS_VOLUME": ("volume", lambda text, _: text),
    "PACKETFS_LOCK_WAIT": ("lock_wait_s", seconds),
    "PACKETFS_PROGRESS": ("progress", _switch),
    "PACKETFS_JSON": ("json", _switch),
    "PACKETFS_VERBOSITY": ("verbosity", _level),
    "PACKETFS_SSH": ("ssh", lambda text, _: text),
    "PACKETFS_REMOTE": ("remote_packetfs", lambda text, _: text),
    "PACKETFS_CACHE_SIZE": ("cache_bytes", size),
    "PACKETFS_BWLIMIT": ("rate_bytes_s", rate),
}


def _from(environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        field: read(environment[variable], variable)
        for variable, (field, read) in _VARIABLES.items()
        if environment.get(variable)  # set but empty is the shell's way to unset
    }


def _from_file(path: str, *, named: bool) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        if not named:
            return {}
        raise UsageError(
            f"the configuration file {path!r} does not exist",
            code="bad-config",
            hint="PACKETFS_CONFIG names it; create it or unset the variable",
        ) from None
    except OSError as error:
        raise UsageError(
            f"the configuration file {path!r} cannot be read: {error.strerror}",
            code="bad-config",
            hint="PACKETFS_CONFIG can name another one; /dev/null is an empty one",
        ) from None
    from msgspec import toml  # only with a file: it costs 15 ms

    try:
        read = toml.decode(text, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the configuration file {path!r} cannot be used: {error}",
            code="bad-config",
            hint=f"its keys are {', '.join(field.replace('_', '-') for field in _File.__struct_fields__)}",
        ) from None
    chosen = {field: value for field in _File.__struct_fields__ if (value := getattr(read, field)) is not None}
    if "lock_wait" in chosen:
        chosen["lock_wait_s"] = seconds(str(chosen.pop("lock_wait")), f"{path}: lock-wait")
    if "cache_size" in chosen:
        chosen["cache_bytes"] = size(str(chosen.pop("cache_size")), f"{path}: cache-size")
    if "bwlimit" in chosen:
        chosen["rate_bytes_s"] = rate(str(chosen.pop("bwlimit")), f"{path}: bwlimit")
    return chosen


def _default_path(environment: Mapping[str, str]) -> str:
    if sys.platform == "linux":  # what platformdirs answers, without the 10 ms of importing it at every start
        home = environment.get("XDG_CONFIG_HOME", "").strip() or os.path.expanduser("~/.config")
        return os.path.join(home, "packetfs", "config.toml")
    else:
        from platformdirs import user_config_path

        return os.fspath(user_config_path("packetfs", appauthor=False) / "config.toml")
