"""Names and messages made safe to show: a file's name never moves a cursor, paints a screen or hides another name.

Every string that came from a file system or a volume passes through here on its way to a person. The `--json` lines do
not: they carry names exactly, escaped by JSON.
"""

from typing import Final

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def shown(name: bytes | str) -> str:
    r"""`name` on one line, reversible: `\xNN` is a byte that is not UTF-8, `\uNNNN` a character that cannot be shown.

    Control characters, invisible ones and those that change the direction of writing are escaped, and so is the
    backslash itself, so that two different names never look alike because of this.
    """
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_SHORT.get(c) or (c if c.isprintable() else _escape(c)) for c in text)


def shown_message(text: str) -> str:
    """A message on one line: like `shown`, but a backslash stays, because names in it may be escaped already."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else (_SHORT.get(c) or _escape(c)) for c in text)


def exact(path: bytes) -> tuple[str, str | None]:
    """`path` for a JSON line: the text, and its base64 when the text had to replace bytes that are not UTF-8."""
    try:
        return path.decode("utf-8"), None
    except UnicodeDecodeError:
        from base64 import b64encode

        return path.decode("utf-8", "replace"), b64encode(path).decode("ascii")


def _escape(character: str) -> str:
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:  # a byte that surrogateescape carried
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"
