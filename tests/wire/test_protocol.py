"""What may be said when, what bodies may hold, and that both sides always agree on where they are."""

from collections import deque
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs import errors
from packetfs.errors import ConflictError, InvalidError, PacketFSError, RefusedError, UnavailableError
from packetfs.wire import protocol
from packetfs.wire.frames import Buffers, Frame, FrameType
from packetfs.wire.protocol import (
    Ack,
    Ask,
    Client,
    Failure,
    Hello,
    Known,
    Message,
    Origin,
    Phase,
    Planned,
    State,
    Welcome,
    decode,
    said_by_peer,
)
from tests.wire.talk import (
    COMMIT,
    COMMITTED,
    HELLO,
    ID,
    SAMPLES,
    VERSION,
    WELCOME,
    Talk,
    explained,
    frame_of,
    session_follow,
    session_noop,
    session_push_small,
    session_sync,
)

ROOT = Path(__file__).parents[2]
WRITE_HELLO = msgspec.structs.replace(HELLO, intent="write")
UNANSWERED = {FrameType.BYE, FrameType.LITERALS, FrameType.TREE, FrameType.BEGIN}
REQUESTS = {kind for kind in FrameType if kind < FrameType.WELCOME} - UNANSWERED
NUMBERED = REQUESTS  # what bears a number when a client says it
COPYING = {"JOIN", "FOLLOW", "AT", "FENCE", "ADOPT"}
READING = {"CHECK", "RESOLVE", "ASK", "WANT", "FETCH", "REFS", "LOG", "STATUS", "BYE"}
# The protocol once more, as docs/design/wire-protocol.md tells it: what a client that writes may say.
CLIENT_MAY_SAY = {
    Phase.NEW: {"HELLO", "PAIR"},
    Phase.PAIRING: {"BYE"},
    Phase.GREETING: READING | {"INGEST"},
    Phase.READY: READING | {"LEASE", "LITERALS", "BEGIN", "TREE", "COMMIT", "INGEST", "CHECKOUT"} | COPYING,
    Phase.SENDING: {"ASK", "CHECK", "LEASE", "LITERALS", "BEGIN", "TREE", "COMMIT", "BYE"},
    Phase.WAITING: {"CHECKOUT", "BYE"},
    Phase.CLOSED: set[str](),
}
# And what an origin may, by the oldest request.
ORIGIN_MAY_SAY = {
    "HELLO": {"WELCOME"},
    "PAIR": {"PAIRED"},
    "CHECK": {"STATE"},
    "RESOLVE": {"STATE"},
    "ASK": {"KNOWN"},
    "LEASE": {"LEASED"},
    "COMMIT": {"COMMITTED"},
    "WANT": {"PLANNED"},
    "FETCH": {"LITERALS", "DONE"},
    "REFS": {"REF_LIST"},
    "LOG": {"LOG_PAGE"},
    "STATUS": {"STATUS_REPLY"},
    "INGEST": {"PROGRESS", "INGESTED"},
    "CHECKOUT": {"PROGRESS", "CHANGES", "CHECKED_OUT"},
    "JOIN": {"JOINED"},
    "FOLLOW": {"ENTRY", "LITERALS", "TREE", "PROGRESS", "FOLLOWED"},
    "AT": {"ENTRY"},
    "FENCE": {"FENCED"},
    "ADOPT": {"ADOPTED"},
}


def encoded(kind: FrameType, request: int) -> Frame:
    message = SAMPLES[kind]
    body = message.body if isinstance(message, protocol.Literals | protocol.Tree) else msgspec.msgpack.encode(message)
    return Frame(kind, request, bytes(body))


def talk_in(phase: Phase, intent: str = "write") -> Talk:
    talk = Talk()
    if phase is Phase.NEW:
        return talk
    if phase is Phase.PAIRING:
        talk.ask(talk.client.say(SAMPLES[FrameType.PAIR]))
        return talk
    talk.ask(talk.client.say(msgspec.structs.replace(HELLO, intent=intent)))
    if phase is Phase.GREETING:
        return talk
    talk.answer(talk.origin.say(WELCOME))
    if phase is Phase.SENDING:
        talk.ask(talk.client.say(protocol.Tree(b"tree")))
    elif phase is Phase.WAITING:
        talk.ask(talk.client.say(COMMIT))
    elif phase is Phase.CLOSED:
        talk.ask(talk.client.say(protocol.Bye()))
    assert talk.client.phase is talk.origin.phase is phase
    return talk


@pytest.mark.parametrize("kind", FrameType, ids=lambda kind: kind.name)
def test_every_message_is_read_back(kind: FrameType) -> None:
    assert decode(encoded(kind, 1)) == SAMPLES[kind]


@pytest.mark.parametrize("kind", FrameType, ids=lambda kind: kind.name)
def test_fields_of_a_later_version_are_ignored(kind: FrameType) -> None:
    frame = encoded(kind, 1)
    if kind in (FrameType.LITERALS, FrameType.TREE):
        return
    values = msgspec.msgpack.decode(frame.body)

    assert decode(frame._replace(body=msgspec.msgpack.encode([*values, {"later": [1]}]))) == SAMPLES[kind]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", FrameType, ids=lambda kind: kind.name)
def test_an_origin_hears_what_may_be_said_and_refuses_everything_else(phase: Phase, kind: FrameType) -> None:
    talk = talk_in(phase)
    frame = encoded(kind, talk.origin.request + 1 if kind in NUMBERED else 0)

    if kind.name in CLIENT_MAY_SAY[phase]:
        assert talk.origin.receive(frame).message == SAMPLES[kind]
    else:
        with pytest.raises(InvalidError, match=kind.name) as caught:
            talk.origin.receive(frame)
        assert caught.value.code == "protocol-violation"
        assert talk.origin.phase is Phase.CLOSED


@pytest.mark.parametrize("kind", ["LEASE", "LITERALS", "BEGIN", "TREE", "COMMIT", "INGEST", "CHECKOUT", "ADOPT"])
def test_who_came_to_read_does_not_write(kind: str) -> None:
    talk = talk_in(Phase.READY, "read")

    with pytest.raises(InvalidError, match=kind):
        talk.origin.receive(encoded(FrameType[kind], 2 if FrameType[kind] in NUMBERED else 0))


@pytest.mark.parametrize("asked", [*ORIGIN_MAY_SAY, None])
@pytest.mark.parametrize("kind", FrameType, ids=lambda kind: kind.name)
def test_a_client_hears_the_answer_to_its_request_and_refuses_everything_else(
    asked: str | None, kind: FrameType
) -> None:
    talk = talk_in(Phase.NEW if asked in ("HELLO", "PAIR") else Phase.READY)
    client = talk.client
    if asked:
        client.say(SAMPLES[FrameType[asked]] if asked != "HELLO" else WRITE_HELLO)
    frame = encoded(kind, 0 if kind is FrameType.ACK else client.request if asked else 0)

    if kind is FrameType.FAILURE:
        with pytest.raises(ConflictError):
            client.receive(frame)
    elif (asked and kind.name in ORIGIN_MAY_SAY[asked]) or (kind is FrameType.ACK and asked not in ("HELLO", "PAIR")):
        assert client.receive(frame).message == SAMPLES[kind]
    else:
        with pytest.raises(InvalidError, match=kind.name) as caught:
            client.receive(frame)
        assert caught.value.code == "protocol-violation"
        assert client.phase is Phase.CLOSED


@pytest.mark.parametrize("asked", ["INGEST", "CHECKOUT"])
def test_an_origin_that_only_ever_says_that_it_is_at_work_is_not_listened_to_for_ever(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PROGRESS_MAX", 100)
    client = talk_in(Phase.READY).client
    client.say(SAMPLES[FrameType[asked]])
    frame = encoded(FrameType.PROGRESS, client.request)
    for _ in range(100):
        client.receive(frame)

    with pytest.raises(InvalidError, match="PROGRESS"):
        client.receive(frame)
    assert client.phase is Phase.CLOSED


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", [kind for kind in FrameType if kind < FrameType.WELCOME], ids=lambda kind: kind.name)
def test_a_client_cannot_be_made_to_say_what_may_not_be_said(phase: Phase, kind: FrameType) -> None:
    client = talk_in(phase).client
    message = WRITE_HELLO if kind is FrameType.HELLO else SAMPLES[kind]

    if kind.name in CLIENT_MAY_SAY[phase]:
        assert client.say(message)
    else:
        with pytest.raises(AssertionError):
            client.say(message)


@given(st.data())
def test_whatever_a_client_may_say_an_origin_hears_whenever_the_answers_come(data: st.DataObject) -> None:
    """The two are never in doubt about each other, however much is on its way in either direction."""
    client, origin = Client(VERSION), Origin(VERSION)
    up: deque[Buffers] = deque([client.say(WRITE_HELLO)])
    down: deque[Buffers] = deque()
    failures = 0
    for _ in range(data.draw(st.integers(5, 40))):
        sayable = [kind for kind in FrameType if kind is not FrameType.HELLO and client._may_ask(kind)]
        # After BYE nobody listens any more: what was asked before it and not answered stays so.
        moves = ["say"] if sayable else []
        moves += ["hear at the origin"] if up and origin.phase is not Phase.CLOSED else []
        moves += ["answer"] if origin.asked and origin.phase is not Phase.CLOSED else []
        moves += ["hear at the client"] if down and client.phase is not Phase.CLOSED else []
        if not moves:
            break
        match data.draw(st.sampled_from(moves)):
            case "say":
                up.append(client.say(SAMPLES[data.draw(st.sampled_from(sayable))]))
            case "hear at the origin":
                origin.receive(frame_of(up.popleft()))
            case "answer":
                answers = [kind for kind in FrameType if origin._may_answer(kind)]
                kind = data.draw(st.sampled_from([*answers, FrameType.FAILURE]))
                fails = kind is FrameType.FAILURE
                down.append(origin.failure(ConflictError("no")) if fails else origin.say(SAMPLES[kind]))
                failures += fails
            case "hear at the client":
                failures -= heard_failure(client, frame_of(down.popleft()))

    assert failures >= 0
    if not up and not down:
        assert client.phase is origin.phase
        assert client.outstanding == origin.outstanding


def heard_failure(client: Client, frame: Frame) -> bool:
    try:
        client.receive(frame)
    except ConflictError:
        return True
    return False


def test_a_question_may_follow_the_greeting_at_once() -> None:
    talk = Talk()
    hello, check = talk.client.say(HELLO), talk.client.say(protocol.Check("main", ID[:16]))
    talk.origin.receive(frame_of(hello))
    talk.origin.receive(frame_of(check))

    talk.answer(talk.origin.say(WELCOME))

    assert talk.answer(talk.origin.say(State(7, ID))) == State(7, ID)


def test_answers_come_in_the_order_of_the_requests() -> None:
    talk = talk_in(Phase.READY)
    talk.client.say(protocol.Ask(bytes(8)))
    talk.client.say(protocol.Check("main"))
    state = encoded(FrameType.STATE, talk.client.request)

    with pytest.raises(InvalidError, match="ASK is the oldest"):
        talk.client.receive(state)


def test_a_request_that_skips_a_number_is_refused() -> None:
    talk = talk_in(Phase.READY)

    with pytest.raises(InvalidError, match="numbered 5 after request 1"):
        talk.origin.receive(encoded(FrameType.CHECK, 5))


def test_a_want_is_planned_then_streamed_then_done() -> None:
    talk = talk_in(Phase.READY, "read")
    talk.ask(talk.client.say(protocol.Want("main", base=ID[:16])))
    talk.answer(talk.origin.say(Planned(8, ID[:16], ID[:16])))
    talk.answer(talk.origin.say(protocol.Tree(b"tree")))
    talk.answer(talk.origin.say(protocol.Literals(b"literals")))
    with pytest.raises(AssertionError):
        talk.origin.say(Planned(8, ID[:16]))

    talk.answer(talk.origin.say(protocol.Done()))

    assert talk.client.outstanding == talk.origin.outstanding == 0


@pytest.mark.parametrize("kind", [FrameType.INGEST, FrameType.CHECKOUT])
def test_nothing_is_pushed_while_the_origin_is_at_work_on_a_directory(kind: FrameType) -> None:
    talk = talk_in(Phase.READY)
    talk.ask(talk.client.say(SAMPLES[kind]))

    with pytest.raises(AssertionError):
        talk.client.say(protocol.Tree(b"tree"))
    with pytest.raises(InvalidError):
        talk.origin.receive(Frame(FrameType.TREE, 0, b"tree"))


def test_nothing_is_pushed_while_a_pull_streams() -> None:
    talk = talk_in(Phase.READY)
    talk.ask(talk.client.say(protocol.Want("main")))

    with pytest.raises(AssertionError):
        talk.client.say(protocol.Literals(b"literals"))
    with pytest.raises(InvalidError):
        talk.origin.receive(Frame(FrameType.LITERALS, 0, b"literals"))


@pytest.mark.parametrize(
    ("asked", "answer", "says"),
    [
        (protocol.Ask(bytes(16)), Known(bytes(44)), "more or fewer records"),
        (protocol.Want("main", base=ID[:16]), Planned(8, ID[:16], bytes(16)), "base that was not offered"),
        (protocol.Want("main"), Planned(8, ID[:16], ID[:16]), "base that was not offered"),
    ],
)
def test_an_answer_that_does_not_fit_its_question_is_refused(asked: Message, answer: Message, says: str) -> None:
    talk = talk_in(Phase.READY)
    talk.ask(talk.client.say(asked))

    with pytest.raises(InvalidError, match=says):
        talk.answer(talk.origin.say(answer))


def test_a_failure_is_raised_as_what_it_is_and_the_session_goes_on() -> None:
    talk = talk_in(Phase.WAITING)
    moved = ConflictError("ref 'main' moved", code="ref-moved", hint="push again", ref="main", found=None, at=(7, HASH))

    with pytest.raises(ConflictError, match="ref 'main' moved") as caught:
        talk.answer(talk.origin.failure(moved))

    assert (caught.value.code, caught.value.hint) == ("ref-moved", "push again")
    assert dict(caught.value.values) == {"ref": "main", "found": None, "at": [7, HASH.hex()]}
    assert said_by_peer(caught.value)
    assert not said_by_peer(moved)
    assert talk.client.phase is talk.origin.phase is Phase.READY


def test_a_failure_of_what_has_no_answer_ends_the_session() -> None:
    talk = talk_in(Phase.SENDING)

    with pytest.raises(UnavailableError, match="full"):
        talk.answer(talk.origin.failure(UnavailableError("the disk is full", code="disk-full")))

    assert talk.client.phase is talk.origin.phase is Phase.CLOSED


def test_a_greeting_that_fails_ends_the_session_with_all_that_follows_it() -> None:
    talk = Talk()
    talk.ask(talk.client.say(HELLO))
    talk.ask(talk.client.say(protocol.Check("main")))

    with pytest.raises(PacketFSError):
        talk.answer(talk.origin.failure(errors.NotFoundError("no volume", code="volume-not-found")))

    assert talk.client.phase is talk.origin.phase is Phase.CLOSED
    assert talk.client.outstanding == 0


HOSTILE = [
    Failure("SystemExit", "x", "m"),
    Failure("PacketFSError", "Not A Code", "m"),
    Failure("ConflictError", "ref-moved", "\x1b[31m red", "\x1b]0;title\x07"),
    Failure("BusyError", "busy", "m", values={"code": "x", "message": "y", "hint": "z", "self": 1, "exit_code": 0}),
]


@pytest.mark.parametrize("failure", HOSTILE)
def test_a_failure_of_a_hostile_origin_is_an_error_like_any_other(failure: Failure) -> None:
    error = failure.error()

    assert isinstance(error, PacketFSError)
    assert error.exit_code in errors.EXIT_CODES.values()
    assert protocol._CODE.fullmatch(error.code)
    assert not {"code", "message", "hint", "self"} & error.values.keys()


def test_text_that_is_not_utf8_can_be_said() -> None:
    error = errors.NotFoundError("no caf\udce9", path="caf\udce9", raw=b"\xff")
    failure = cast("Failure", decode(Frame(FrameType.FAILURE, 0, msgspec.msgpack.encode(Failure.of(error)))))
    assert failure.message == "no caf\\udce9"
    assert failure.values == {"path": "caf\\udce9", "raw": "ff"}


@pytest.mark.parametrize(("ours", "older"), [(1, VERSION), (3, "9.9.9")])
def test_machines_of_two_protocols_say_which_is_to_be_upgraded(
    ours: int, older: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PROTOCOL", ours)
    origin, client = Origin(VERSION), Client(VERSION)
    client.say(msgspec.structs.replace(HELLO, protocol=ours))
    hello = Frame(
        FrameType.HELLO, 1, msgspec.msgpack.encode(msgspec.structs.replace(HELLO, protocol=2, software="9.9.9"))
    )

    with pytest.raises(RefusedError) as at_origin:
        origin.receive(hello)
    with pytest.raises(RefusedError) as told:
        client.receive(frame_of(origin.failure(at_origin.value)))

    assert at_origin.value.code == told.value.code == "version-skew"
    assert told.value.hint == f"upgrade packetfs {older}"
    assert {VERSION, "9.9.9"} <= set(told.value.message.split())


def test_a_welcome_of_another_protocol_is_refused() -> None:
    client = Client(VERSION)
    client.say(HELLO)
    welcome = msgspec.structs.replace(WELCOME, protocol=2, software="9.9.9")

    with pytest.raises(RefusedError, match=r"9\.9\.9"):
        client.receive(Frame(FrameType.WELCOME, 1, msgspec.msgpack.encode(welcome)))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FrameType.HELLO, [1, "0.1.0", b"/v", "admin"]),
        (FrameType.HELLO, [1, "0.1.0", b"/v", "read", True]),
        (FrameType.HELLO, [1, "0.1.0", b"/v" * 3000, "read"]),
        (FrameType.HELLO, [1, "0.1.0", b"/v", "read", False, "../main"]),
        (FrameType.HELLO, [1, "0.1.0", b"/v", "read", False, "main", b"", 7, b"short"]),
        (FrameType.BEGIN, [b"short"]),
        (FrameType.CHECK, ["ma\x1bin", b""]),
        (FrameType.CHECK, ["main", b"short"]),
        (FrameType.ASK, [b"1234567"]),
        (FrameType.ASK, [bytes(8 * (protocol.ASK_TAGS_MAX + 1))]),
        (FrameType.FETCH, [bytes(17)]),
        (FrameType.COMMIT, ["main", b"", b"no digest"]),
        (FrameType.LEASED, [0, 0]),
        (FrameType.LEASED, [1, (64 << 20) + 1]),
        (FrameType.STATE, [1, b"short"]),
        (FrameType.STATE, [-1, b""]),
        (FrameType.REF_LIST, [[["../x", 1, 1, ID, b""]]]),
        (FrameType.WELCOME, [1, "v", bytes(15), [1, 2, 3, 4], b"", 1, HASH := bytes(32)]),
        (FrameType.WELCOME, [1, "v", bytes(16), [1, 2, 3], b"", 1, bytes(32)]),
        (FrameType.INGEST, [[b"*"] * 4097]),
        (FrameType.INGEST, [[b"x" * 4097]]),
        (FrameType.CHECKOUT, [b"short"]),
        (FrameType.CHECKOUT, [bytes(16), [], True, -1]),
        (FrameType.INGESTED, [1, False, 0, [[b"x", "gone fishing", 0]]]),
        (FrameType.CHECKED_OUT, [-1, 0, 0, 0, 0]),
        (FrameType.CHANGES, [[[b"x", "painted", "file", 1, ">f"]]]),
        (FrameType.CHANGES, [[[b"x", "created", "socket", 1, ">f"]]]),
        (FrameType.CHANGES, [[[b"x", "created", "file", 1, "\x1b[31m"]]]),
        (FrameType.CHANGES, [[[b"x", "created", "file", 1, "f" * 17]]]),
        (FrameType.CHANGES, [[[b"x", "created", "file", 1, ">f\n"]]]),
        (FrameType.CHANGES, [[[b"", "created", "file", 1, ""]] * (protocol.CHANGES_MAX + 1)]),
        (FrameType.FOLLOW, [1, b"short"]),
        (FrameType.FOLLOW, [1, bytes(32), True, bytes(7)]),
        (FrameType.FOLLOW, [1, bytes(32), True, bytes(8 * (protocol.ARRIVED_MAX + 1))]),
        (FrameType.FOLLOW, [1, bytes(32), True, b"", bytes((64 << 10) + 1)]),
        (FrameType.ENTRY, [-1, b""]),
        (FrameType.ENTRY, [1, bytes((64 << 10) + 1)]),
        (FrameType.JOINED, [bytes(31), 2]),
        (FrameType.JOINED, [bytes(32), 64]),
        (FrameType.FOLLOWED, [1, b"short"]),
        (FrameType.FAILURE, ["X", "y", "z", "", {"deep": [[[[1]]]]}]),
        (FrameType.STATUS_REPLY, [{str(number): 1 for number in range(65)}]),
    ],
)
def test_a_body_of_the_wrong_shape_is_a_bad_frame(kind: FrameType, values: list[object]) -> None:
    with pytest.raises(InvalidError) as caught:
        decode(Frame(kind, 1, msgspec.msgpack.encode(values)))

    assert caught.value.code == "bad-frame"


@given(st.sampled_from(FrameType), st.binary(max_size=200))
def test_junk_in_a_body_is_a_message_or_an_error(kind: FrameType, body: bytes) -> None:
    _value_or_error(Frame(kind, 1, body))


@given(st.sampled_from(FrameType), st.integers(0, 1000), st.integers(0, 7))
def test_a_body_with_a_flipped_bit_is_a_message_or_an_error(kind: FrameType, position: int, bit: int) -> None:
    body = bytearray(encoded(kind, 1).body)
    body[position % len(body)] ^= 1 << bit

    _value_or_error(Frame(kind, 1, bytes(body)))


@pytest.mark.parametrize("kind", FrameType, ids=lambda kind: kind.name)
def test_a_body_that_is_nothing_but_depth_or_promises_is_an_error(kind: FrameType) -> None:
    depths = (b"\x91" * 60_000, b"\x81\xa0" * 30_000)
    promises = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
    for body in depths + promises:
        _value_or_error(Frame(kind, 1, body))


def _value_or_error(frame: Frame) -> None:
    code = "bad-frame"
    try:
        decode(frame)
    except InvalidError as error:
        code = error.code
    assert code == "bad-frame"


def test_an_unchanged_volume_costs_94_bytes_and_one_round_trip() -> None:
    _, _, check, state, _ = session_noop()

    assert len(check) + len(state) <= 94


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("session-noop-v1.bin", session_noop()),
        ("session-push-small-v1.bin", session_push_small()),
        ("session-sync-v1.bin", session_sync()),
        ("session-follow-v1.bin", session_follow()),
    ],
)
def test_sessions_are_those_of_the_golden_files(name: str, said: list[bytes]) -> None:
    """The files are never edited: a protocol that changes in another way than by added fields gets new ones."""
    assert b"".join(said) == (ROOT / "tests/golden" / name).read_bytes()


def test_the_session_that_the_page_explains_is_the_golden_one() -> None:
    page = (ROOT / "docs/design/wire-protocol.md").read_text()

    assert explained(session_noop()) in page


def test_every_frame_is_on_its_page() -> None:
    page = (ROOT / "docs/formats/frames.md").read_text()

    assert [kind.name for kind in FrameType if f"| {int(kind)} | {kind.name} |" not in page] == []


def test_what_is_said_can_be_compared_and_not_changed() -> None:
    assert Ack(1) == Ack(1)
    assert {type(message) for message in SAMPLES.values()} >= {Ask, Hello, Welcome, type(COMMITTED)}
    with pytest.raises(AttributeError):
        HELLO.ref = "other"  # type: ignore[misc]
