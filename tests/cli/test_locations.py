"""Which volume, ref and path an argument means."""

from pathlib import Path

import pytest

from packetfs.cli.invocation import Invocation
from packetfs.errors import UsageError
from packetfs.format.when import Back


def invocation(tmp_path: Path, volume: str | None) -> Invocation:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    return Invocation([], environment if volume is None else environment | {"PACKETFS_VOLUME": volume})


@pytest.mark.parametrize(
    ("text", "volume", "ref", "back", "path"),
    [
        ("::", "/vol", "main", 0, b""),
        ("::host", "/vol", "host", 0, b""),
        ("host", "/vol", "host", 0, b""),
        ("host@~2:/etc/fstab", "/vol", "host", 2, b"etc/fstab"),
        ("main:/etc", "/vol", "main", 0, b"etc"),
        ("other::host", "other", "host", 0, b""),
        ("./other", "./other", "main", 0, b""),
        ("file:///v/w:host@~1/etc", "/v/w", "host", 1, b"etc"),
    ],
)
def test_a_configured_volume_is_meant_where_none_is_named(
    tmp_path: Path, text: str, volume: str, ref: str, back: int, path: bytes
) -> None:
    found = invocation(tmp_path, "/vol").location(text)

    assert (found.volume, found.line, found.when, found.path) == (volume, ref, Back(back), path)


def test_a_configured_volume_may_be_spelled_as_a_location(tmp_path: Path) -> None:
    assert invocation(tmp_path, "file:///srv/vol").location("::x").volume == "/srv/vol"


def test_without_a_configured_volume_a_location_must_name_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        invocation(tmp_path, None).location("::main")

    assert caught.value.code == "no-volume"


@pytest.mark.parametrize("configured", [None, "/vol"])
@pytest.mark.parametrize(
    "text", ["host:vol::main", "me@host:vol::main", "ssh://host/dir/vol:main", "pfs://host:7000/vol:main"]
)
def test_a_place_on_another_machine_is_a_usage_error(tmp_path: Path, text: str, configured: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        invocation(tmp_path, configured).location(text)

    assert caught.value.code == "remote-unsupported"
    assert "local volumes" in caught.value.message


def test_a_configured_volume_on_another_machine_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        invocation(tmp_path, "host:vol").location("main")

    assert caught.value.code == "remote-unsupported"


def test_a_command_about_a_whole_volume_takes_the_configured_one(tmp_path: Path) -> None:
    assert invocation(tmp_path, "/vol").volume(None).volume == "/vol"
    assert invocation(tmp_path, "/vol").volume("./other").volume == "./other"
    assert invocation(tmp_path, "/vol").volume("other").volume == "other"
