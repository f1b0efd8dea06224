"""Tokens, peers and servers: read back as written, the same bytes in every version, and no rights from nothing."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.errors import DamagedError, NotFoundError, PacketFSError, RefusedError, UsageError
from packetfs.format import trust
from packetfs.format.token import Token, decode_token, encode_token
from packetfs.format.trust import Book, Invitation, Peer, Server, Servers

GOLDEN = Path(__file__).parents[1] / "golden"
SECRET = bytes(range(16))
LAPTOP, PHONE = "aa" * 32, "bb" * 32
HOUR_NS = 3600 * 10**9
TOKEN = Token(bytes(range(32)), SECRET, ["nas.example:20550", "[2001:db8::7]:443"])
BOOK = Book(
    device="cc" * 32,
    peers=[Peer(LAPTOP, "laptop", {"*": "read", "photos": "write"}, 1_795_349_107_123_456_789)],
    invitations=[Invitation(trust.digest_of(SECRET), "write", "photos", 1_795_349_107_000_000_000, LAPTOP)],
)
SERVERS = Servers(servers={"nas.example:20550": Server("cc" * 32, "nas")})


def invited(role: trust.Role = "read", volume: str = "*") -> Book:
    return trust.invited(Book(), SECRET, role, volume, expires_ns=HOUR_NS, now_ns=0)


def redeem(book: Book, device: str = LAPTOP, name: str = "laptop", now_ns: int = 1) -> Book:
    return trust.redeemed(book, SECRET, device, name, now_ns=now_ns)[0]


def refusal(work: Callable[..., object], *arguments: object) -> PacketFSError | None:
    """What it raises, if anything."""
    try:
        work(*arguments)
    except PacketFSError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("token-v1.txt", encode_token(TOKEN).encode() + b"\n"),
        ("peers-v1.json", trust.encode(BOOK)),
        ("servers-v1.json", trust.encode(SERVERS)),
    ],
)
def test_bytes_are_those_of_version_1(name: str, data: bytes) -> None:
    assert data == (GOLDEN / name).read_bytes()


def test_what_is_written_is_read_back() -> None:
    assert decode_token(encode_token(TOKEN)) == TOKEN
    assert trust.decode_book(trust.encode(BOOK), "p") == BOOK
    assert trust.decode_servers(trust.encode(SERVERS), "p") == SERVERS


def test_a_token_that_a_mail_has_broken_into_lines_is_read() -> None:
    text = encode_token(TOKEN)

    assert decode_token(f"  {text[:40]}\n{text[40:]}\r\n") == TOKEN


@given(st.integers(0, 10_000), st.sampled_from("abXY_-0"))
def test_a_token_with_a_wrong_character_is_refused(place: int, character: str) -> None:
    text = encode_token(TOKEN)
    place %= len(text)
    wrong = text[:place] + character + text[place + 1 :]

    if wrong == text:
        return
    error = refusal(decode_token, wrong)
    if error is None:
        assert place == len(text) - 1  # the last character has bits that mean nothing
        assert decode_token(wrong) == TOKEN
    else:
        assert error.code == "bad-token"
        assert text[10:] not in error.message


@given(st.text() | st.text().map("pfs1-".__add__) | st.binary().map(lambda data: "pfs1-" + data.hex()))
def test_any_text_is_a_token_or_an_error(text: str) -> None:
    error = refusal(decode_token, text)

    assert error is None or error.code == "bad-token"


@given(st.binary())
def test_any_bytes_are_a_book_or_an_error(data: bytes) -> None:
    for decode in (trust.decode_book, trust.decode_servers):
        error = refusal(decode, data, "p")

        assert error is None or error.code == "trust-damaged"


@pytest.mark.parametrize(
    "spoilt",
    [
        {"version": 2},
        {"peers": [{"device": "aa", "name": "x", "grants": {}, "paired_ns": 0}]},
        {"peers": [{"device": LAPTOP, "name": "x", "grants": {"*": "owner"}, "paired_ns": 0}]},
        {"surprise": 1},
    ],
)
def test_a_book_that_says_what_no_version_says_is_damaged(spoilt: dict[str, object]) -> None:
    data = msgspec.json.encode({"version": 1, "device": "", "peers": [], "invitations": [], **spoilt})

    with pytest.raises(DamagedError):
        trust.decode_book(data, "p")


def test_a_token_makes_a_peer_with_its_role() -> None:
    (peer,) = redeem(invited("write", "photos")).peers

    assert (peer.device, peer.name) == (LAPTOP, "laptop")
    assert (peer.role("photos"), peer.role("letters")) == ("write", None)


def test_a_second_token_adds_to_what_one_may() -> None:
    book = redeem(invited("read", "*"))
    book = trust.invited(book, b"x" * 16, "write", "photos", expires_ns=HOUR_NS, now_ns=0)

    book, peer, _ = trust.redeemed(book, b"x" * 16, LAPTOP, "other name", now_ns=1)

    assert len(book.peers) == 1
    assert (peer.name, peer.role("photos"), peer.role("letters")) == ("laptop", "write", "read")


def test_a_weaker_token_takes_nothing_away() -> None:
    book = trust.invited(redeem(invited("admin")), b"x" * 16, "read", "*", expires_ns=HOUR_NS, now_ns=0)

    assert trust.redeemed(book, b"x" * 16, LAPTOP, "laptop", now_ns=1)[1].role("any") == "admin"


@pytest.mark.parametrize(
    ("device", "now_ns", "book", "code"),
    [
        (PHONE, 1, redeem(invited()), "token-used"),
        (LAPTOP, HOUR_NS, invited(), "token-expired"),
        (LAPTOP, 1, Book(), "token-unknown"),
        (LAPTOP, 1, trust.revoked(redeem(invited()), redeem(invited()).peers[0]), "token-used"),
    ],
    ids=["by another", "late", "unknown", "after revocation"],
)
def test_a_token_is_refused(device: str, now_ns: int, book: Book, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        redeem(book, device, now_ns=now_ns)

    assert caught.value.code == code


def test_who_did_not_hear_the_answer_may_ask_again() -> None:
    book = redeem(invited())

    assert redeem(book, now_ns=2 * HOUR_NS) == book


def test_two_machines_of_one_name_are_told_apart() -> None:
    book = redeem(invited())
    book = trust.invited(book, b"x" * 16, "read", "*", expires_ns=HOUR_NS, now_ns=0)

    book = trust.redeemed(book, b"x" * 16, PHONE, "laptop", now_ns=1)[0]

    assert {peer.name for peer in book.peers} == {"laptop", "laptop-2"}


def test_an_invitation_can_be_taken_back_until_it_is_used() -> None:
    book = invited()
    digest = book.invitations[0].digest

    done = trust.cancelled(book, digest[:8], now_ns=1)

    assert done is not None
    assert done[0].invitations == []
    assert trust.open_invitations(book, 1) == book.invitations
    assert trust.cancelled(book, digest[:7], now_ns=1) is None
    assert trust.cancelled(redeem(book), digest[:8], now_ns=1) is None
    assert trust.cancelled(book, digest[:8], now_ns=HOUR_NS) is None


def test_old_invitations_are_forgotten_and_young_ones_are_not() -> None:
    book = trust.invited(redeem(invited()), b"x" * 16, "read", "*", expires_ns=1, now_ns=40 * 24 * HOUR_NS)

    assert len(book.invitations) == 1
    assert len(trust.invited(invited(), b"x" * 16, "read", "*", expires_ns=1, now_ns=1).invitations) == 2


def test_peers_are_found_by_name_or_by_the_beginning_of_their_id() -> None:
    book = redeem(invited())

    assert trust.find_peer(book, "laptop") == trust.find_peer(book, LAPTOP[:8])
    for wrong in ("lap", LAPTOP[:7], "f" * 8):
        with pytest.raises(NotFoundError):
            trust.find_peer(book, wrong)


def test_a_name_is_not_given_twice() -> None:
    book = redeem(trust.invited(redeem(invited()), b"x" * 16, "read", "*", expires_ns=HOUR_NS, now_ns=0))
    book = trust.redeemed(book, b"x" * 16, PHONE, "phone", now_ns=1)[0]
    phone = trust.find_peer(book, "phone")

    with pytest.raises(UsageError):
        trust.renamed(book, phone, "laptop")
    assert trust.find_peer(trust.renamed(book, phone, "pocket"), "pocket").device == PHONE


@given(st.text(max_size=80))
def test_whatever_a_machine_calls_itself_becomes_a_name(text: str) -> None:
    assert trust.check_name(trust.name_from(text))


@pytest.mark.parametrize("name", [b"photos", b"team/site", b"a" * 255, "größe".encode(), b"a b", b"\xff"])
def test_names_of_volumes(name: bytes) -> None:
    assert b"/".join(trust.check_volume(name)) == name


@pytest.mark.parametrize(
    "name", [b"", b"/", b"/etc", b"..", b"a/../b", b".", b"a//b", b"a/", b".packetfs", b"a/.git", b"a\0b", b"a" * 256]
)
def test_what_could_lead_elsewhere_is_no_name_of_a_volume(name: bytes) -> None:
    with pytest.raises(PacketFSError) as caught:
        trust.check_volume(name)
    assert caught.value.code == "bad-location"
