"""A client that lies about a directory: it is not touched, and nothing beside it. See `test_hostile_client.py`."""

import os
from pathlib import Path

import pytest

from packetfs.volume import Volume
from packetfs.wire import protocol
from tests.end_to_end.trees import facts
from tests.sync.conftest import Origin
from tests.sync.test_hostile_client import Hostile, Message, file_at
from tests.volume.conftest import grown


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a hostile client is to sync into."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return grown(tmp_path / "directory", {"file": b"file", "d/other": b"other"})


@pytest.mark.parametrize("message", [protocol.Ingest(), protocol.Checkout(bytes(16))], ids=["INGEST", "CHECKOUT"])
def test_a_session_about_a_volume_touches_no_directory(message: protocol.Message, origin: Origin) -> None:
    Volume.create(origin.path).close()
    with Hostile(origin.path) as peer:
        peer.greet()

        assert peer.refused(message).code == "protocol-violation"


@pytest.mark.usefixtures("over")
def test_a_paired_machine_names_no_directory(origin: Origin, directory: Path, request: pytest.FixtureRequest) -> None:
    """A server has directories under names, and this one has none. Over ssh the login decides."""
    with Hostile(origin.path) as peer:
        hello = protocol.Hello(1, "hostile", b"\0" + os.fsencode(directory), "write", create=True)
        if "tls" in request.node.name:
            assert peer.refused(hello).code == "export-not-found"
        else:
            assert isinstance(peer.ask(hello), protocol.Welcome)
    assert (directory.parent / "data").exists() == ("tls" not in request.node.name)


@pytest.mark.parametrize("path", ["", "a\0b", "\0"])
def test_what_names_no_directory_is_refused(path: str, directory: Path) -> None:
    with Hostile(Path("/")) as peer:
        hello = protocol.Hello(1, "hostile", f"\0{path}".encode(), "write", create=True)

        assert peer.refused(hello).code == "bad-location"
    assert not (directory.parent / "data").exists()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (protocol.Checkout(bytes(16)), "snapshot-not-found"),
        (protocol.Ingest([b"["]), "usage"),
        (protocol.Ingest([b""]), "usage"),
        (protocol.Ingest([b"a\0b"]), "usage"),
    ],
)
def test_a_directory_is_not_touched_for_what_makes_no_sense(message: Message, code: str, directory: Path) -> None:
    before = facts(directory)
    with Hostile(directory) as peer:
        peer.ask(protocol.Hello(1, "hostile", b"\0" + os.fsencode(directory), "write", create=True))

        assert peer.refused(message).code == code
        assert isinstance(peer.ask(protocol.Ingest()), protocol.Ingested)  # the session goes on
    assert facts(directory) == before


@pytest.mark.parametrize("name", [b"../escaped", b"..", b"a/b", b"/etc/x"])
def test_a_tree_with_a_name_that_escapes_is_not_committed_so_it_is_not_checked_out(
    name: bytes, directory: Path
) -> None:
    before = facts(directory)
    with Hostile(directory) as peer:
        peer.ask(protocol.Hello(1, "hostile", b"\0" + os.fsencode(directory), "write", create=True))
        peer.ask(protocol.Ingest())
        peer.say(protocol.Begin())

        refused = peer.refused(protocol.Tree(file_at(0, 100, name=name)))

        assert refused.code in ("invalid", "damaged", "refused", "bad-frame")
    assert facts(directory) == before
    assert not list(directory.parent.rglob("*escaped*"))
