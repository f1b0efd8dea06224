"""A token: what one machine prints so that another can pair with it. One line of text that survives being copied.

    pfs1-BASE64URL of a msgpack array [device, secret, addresses] and its CRC-32C
    device      32 bytes, the device id of the server: nobody else is told the secret
    secret      16 random bytes; empty in a token that only tells whom one may read from
    addresses   HOST:PORT, as text; the first that answers is used

Nothing here asks whether a token is still good: only the server knows.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from packetfs.errors import InvalidError
from packetfs.kernel import crc32c

__all__ = ["SECRET_BYTES", "Token", "decode_token", "encode_token"]

SECRET_BYTES: Final = 16
_PREFIX: Final = "pfs1-"
_CHECK_BYTES: Final = 4
_CHARACTERS_MAX: Final = 4096  # sixteen long addresses, and then some
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|\w[\w.-]*):([0-9]{1,5})")


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What is in a token."""

    device: Annotated[bytes, Meta(min_length=32, max_length=32)]
    secret: Annotated[bytes, Meta(max_length=SECRET_BYTES)]
    addresses: Annotated[list[Annotated[str, Meta(max_length=255)]], Meta(min_length=1, max_length=16)]

    def __post_init__(self) -> None:
        if len(self.secret) not in (0, SECRET_BYTES):
            raise ValueError("its secret has a wrong length")
        for address in self.addresses:
            found = _ADDRESS.fullmatch(address)
            if found is None or not 0 < int(found[2]) < 1 << 16:
                raise ValueError(f"{address!r} is no HOST:PORT")


_decoder = msgspec.msgpack.Decoder(Token)


def encode_token(token: Token) -> str:
    """The text of a token."""
    data = msgspec.msgpack.encode(token)
    data += crc32c(data).to_bytes(_CHECK_BYTES, "little")
    return _PREFIX + urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_token(text: str) -> Token:
    """What `text` says; InvalidError `bad-token` when it is no token, or not all of one."""
    text = "".join(text.split())  # a terminal or a mail may have broken the line
    if not text.startswith(_PREFIX) or len(text) > _CHARACTERS_MAX:
        raise _bad(f"it does not begin with {_PREFIX!r}" if len(text) <= _CHARACTERS_MAX else "it is too long")
    code = text.removeprefix(_PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", code):
        raise _bad("it has characters that no token has")
    try:
        data = urlsafe_b64decode(code + "=" * (-len(code) % 4))
    except ValueError:
        raise _bad("a part of it is missing") from None
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if crc32c(body).to_bytes(_CHECK_BYTES, "little") != check:
        raise _bad("a character is wrong, or a part of it is missing")
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(str(error)) from None


def _bad(why: str) -> InvalidError:
    # The token itself is not in the message: it may be good but for one character, and messages end up in logs.
    return InvalidError(
        f"this is no token: {why}", code="bad-token", hint="copy all of the line that `packetfs serve --invite` prints"
    )
