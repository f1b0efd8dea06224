"""The contract of `--json`: every event and field is documented, and none goes missing."""

import re
from pathlib import Path

import msgspec
import pytest

from packetfs import events
from packetfs.cli import lines

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


def test_a_name_that_is_not_utf8_comes_with_its_bytes() -> None:
    line = msgspec.json.decode(lines.encode(events.Change(path=b"a\xff", action="created", kind="file", size=1)))

    assert line == {
        "event": "change",
        "path": "a\ufffd",
        "path_b64": "Yf8=",
        "action": "created",
        "kind": "file",
        "size": 1,
    }
