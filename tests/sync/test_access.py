"""What a machine may do on a server, message by message: the table once more, and whatever is not in it is refused."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from packetfs.errors import DamagedError, PacketFSError, RefusedError
from packetfs.format import trust
from packetfs.release import VERSION
from packetfs.sync.access import AsPeer
from packetfs.sync.exports import Export, Exports
from packetfs.sync.root import Root
from packetfs.volume import Volume
from packetfs.wire import protocol
from packetfs.wire.frames import FrameType
from tests.wire.talk import SAMPLES

DEVICE = bytes(range(32))
READS = {
    "HELLO",
    "PAIR",
    "CHECK",
    "RESOLVE",
    "ASK",
    "WANT",
    "FETCH",
    "REFS",
    "LOG",
    "STATUS",
    "FENCE",
}  # FENCE proves itself
WRITES = {"LEASE", "LITERALS", "BEGIN", "TREE", "COMMIT"}
FROM_CLIENT = [kind for kind in FrameType if kind < FrameType.WELCOME and kind is not FrameType.BYE]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    Volume.create(tmp_path / "photos").close()
    return Root(str(tmp_path))


def let_in(root: Root, role: trust.Role, volume: str = "*") -> AsPeer:
    peer = trust.Peer(DEVICE.hex(), "laptop", {volume: role}, 1)
    root.book.change(lambda book: (replace(book, peers=[peer]), None))
    return AsPeer(root, DEVICE, "192.0.2.1:1")


def revoke(root: Root) -> None:
    root.book.change(lambda book: (replace(book, peers=[]), None))


def hello(volume: bytes = b"photos", intent: str = "read", *, create: bool = False) -> protocol.Hello:
    return protocol.Hello(protocol.PROTOCOL, VERSION, volume, intent, create)  # type: ignore[arg-type]


def refusal(access: AsPeer, message: protocol.Message) -> str:
    """The code of the error that answers `message`; empty if it is answered."""
    try:
        access.check(message)
        if isinstance(message, protocol.Hello):
            access.place(message)
    except PacketFSError as error:
        return error.code
    return ""


@pytest.mark.parametrize("kind", FROM_CLIENT, ids=lambda kind: kind.name)
@pytest.mark.parametrize("intent", ["read", "write"])
def test_every_message_is_for_a_role(root: Root, kind: FrameType, intent: str) -> None:
    access = let_in(root, "write")
    assert refusal(access, hello(intent=intent)) == ""

    message = hello() if kind is FrameType.HELLO else SAMPLES[kind]
    allowed = READS | (WRITES if intent == "write" else set())
    assert refusal(access, message) == ("" if kind.name in allowed else "role-too-low")


@pytest.mark.parametrize("kind", FROM_CLIENT, ids=lambda kind: kind.name)
@pytest.mark.parametrize("role", ["read", "write"])
def test_every_message_about_an_exported_directory_is_for_a_role(
    root: Root, tmp_path: Path, kind: FrameType, role: trust.Role
) -> None:
    (tmp_path / "site").mkdir()
    with Exports([Export("site", str(tmp_path / "site"))]) as exports:
        let_in(root, role)
        environment = {"XDG_DATA_HOME": str(tmp_path / "data")}
        access = AsPeer(root, DEVICE, "192.0.2.1:1", exports=exports, environment=environment)
        assert access.directory(hello(b"\0site:/", "write", create=True)) is not None

        message = hello() if kind is FrameType.HELLO else SAMPLES[kind]
        allowed = READS | {"INGEST"} | (WRITES | {"CHECKOUT"} if role == "write" else set())
        assert refusal(access, message) == ("" if kind.name in allowed else "role-too-low")


@pytest.mark.parametrize("kind", [*FROM_CLIENT, None])
def test_nothing_is_answered_after_a_revocation_but_a_token(root: Root, kind: FrameType | None) -> None:
    access = let_in(root, "admin")
    assert refusal(access, hello(intent="write")) == ""
    revoke(root)

    message = hello() if kind in (FrameType.HELLO, None) else SAMPLES[kind]
    assert refusal(access, message) == ("" if kind is FrameType.PAIR else "not-paired")


@pytest.mark.parametrize(
    ("role", "granted", "asked", "code"),
    [
        ("read", "*", hello(), ""),
        ("read", "photos", hello(), ""),
        ("read", "letters", hello(), "role-too-low"),
        ("read", "*", hello(intent="write"), "role-too-low"),
        ("write", "*", hello(intent="write", create=True), ""),  # it is there
        ("write", "*", hello(b"new", "write", create=True), "role-too-low"),
        ("admin", "*", hello(b"new", "write", create=True), ""),
        ("admin", "photos", hello(b"new", "write", create=True), "role-too-low"),
        ("admin", "*", hello(b"\0/etc", "write"), "bad-location"),
        ("admin", "*", hello(b"../x", "write"), "bad-location"),
        ("admin", "*", hello(b"photos/segments/x", "write", create=True), "volume-not-found"),
        ("admin", "*", hello(b"no/such", "write", create=True), "volume-not-found"),
    ],
)
def test_roles_are_for_volumes(root: Root, role: trust.Role, granted: str, asked: protocol.Hello, code: str) -> None:
    assert refusal(let_in(root, role, granted), asked) == code


def test_a_role_that_is_lowered_while_a_session_is_open_is_lower(root: Root) -> None:
    access = let_in(root, "write")
    assert refusal(access, hello(intent="write")) == ""

    let_in(root, "read")

    assert refusal(access, SAMPLES[FrameType.COMMIT]) == "role-too-low"
    assert not access.still_holds


def test_a_list_that_cannot_be_read_trusts_nobody(root: Root) -> None:
    access = let_in(root, "admin")
    assert refusal(access, hello()) == ""
    Path(root.book.path).write_bytes(b"{}[]")

    with pytest.raises(DamagedError):
        access.check(SAMPLES[FrameType.CHECK])


def test_what_cannot_be_written_down_is_an_error(root: Root) -> None:
    access = let_in(root, "admin")
    (Path(root.state) / "audit.jsonl").mkdir()

    with pytest.raises(PacketFSError):
        access.answered(hello(), None)


def test_a_link_is_not_followed(root: Root, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "photos")

    with pytest.raises(RefusedError) as caught:
        let_in(root, "admin").place(hello(b"link"))

    assert caught.value.code == "outside-root"
