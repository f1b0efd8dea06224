"""The contract of `--json`: every event and field is documented, and none goes missing."""

import os
import re
from base64 import b64encode
from pathlib import Path

import msgspec
import pytest

import packetfs
from packetfs import events
from packetfs.cli import lines
from packetfs.cli.log import _line

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "json-events.md"
PRINTED = [
    kind
    for kind in (*vars(lines).values(), events.VolumeCreated, events.Progress, events.Problem, events.Change)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not lines.Line
]


@pytest.mark.parametrize("kind", PRINTED, ids=lambda kind: kind.__name__)
def test_every_event_and_its_fields_are_described(kind: type[msgspec.Struct]) -> None:
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{kind.__struct_config__.tag}`"))

    assert set(kind.__struct_fields__) <= set(re.findall(r"`([a-z_]+)`", row))


def test_a_line_is_one_object_that_begins_with_its_event() -> None:
    line = lines.encode(lines.Notice(code="x", message="two\nlines"))

    assert line == b'{"event":"notice","code":"x","message":"two\\nlines"}\n'


def test_a_list_of_names_comes_with_the_bytes_of_those_that_are_not_utf8(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / os.fsdecode(b"odd \xff")).mkdir()

    with packetfs.create(tmp_path / "volume") as volume:
        packetfs.push(volume, [source, os.fsencode(tmp_path) + b"/odd \xff"])
        odd = msgspec.json.decode(lines.encode(_line("main", volume.resolve("main"))))
        packetfs.push(volume, [source])
        plain = msgspec.json.decode(lines.encode(_line("main", volume.resolve("main"))))

    assert odd["sources"] == [str(source), f"{tmp_path}/odd \ufffd"]
    assert odd["sources_b64"] == [None, b64encode(os.fsencode(tmp_path) + b"/odd \xff").decode()]
    assert (plain["sources"], plain["root_is_source"]) == ([str(source)], True)
    assert "sources_b64" not in plain


def test_a_name_that_is_not_utf8_comes_with_its_bytes() -> None:
    line = msgspec.json.decode(lines.encode(events.Change(path=b"a\xff", action="created", kind="file", size=1)))

    assert line == {
        "event": "change",
        "path": "a\ufffd",
        "path_b64": "Yf8=",
        "action": "created",
        "kind": "file",
        "size": 1,
        "letters": "",
    }
