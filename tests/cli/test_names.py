"""Names on a terminal: harmless, and still told apart."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.cli.names import exact, shown, shown_message

NAMES = st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))


@given(NAMES)
def test_what_is_shown_of_a_name_is_printable(name: bytes) -> None:
    assert shown(name).isprintable()


@given(NAMES, NAMES)
def test_two_names_never_look_alike(one: bytes, other: bytes) -> None:
    assert (shown(one) == shown(other)) == (one == other)


@given(st.text(max_size=40))
def test_a_message_is_one_printable_line(text: str) -> None:
    assert shown_message(text).isprintable()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain.txt", "plain.txt"),
        ("grün.txt".encode(), "grün.txt"),
        (b"new\nline\ttab", r"new\nline\ttab"),
        (b"\x1b[2Jcleared", r"\x1b[2Jcleared"),
        ("invoice\u202egpj.exe".encode(), r"invoice\u202egpj.exe"),
        (b"latin-1 \xe9", r"latin-1 \xe9"),
        (rb"dev\x2dsda", r"dev\\x2dsda"),
        ("\U000e0041".encode(), r"\U000e0041"),
    ],
)
def test_what_could_mislead_is_escaped(name: bytes, text: str) -> None:
    assert shown(name) == text


@given(st.binary(max_size=40))
def test_a_json_line_carries_every_name_exactly(name: bytes) -> None:
    text, encoded = exact(name)

    assert (codecs.decode(encoded.encode(), "base64") if encoded else text.encode()) == name
