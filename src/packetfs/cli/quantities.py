"""Numbers as people read them. Bytes are decimal (MB = 10^6), as on disks and in the figures of the documentation."""

from typing import Final

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB", "EB")


def bytes_text(count: int) -> str:
    """Three digits and a unit: `0 B`, `999 B`, `1.50 kB`, `12.3 MB`, `456 GB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            return (
                f"{value:.2f} {unit}"
                if value < 9.995
                else f"{value:.1f} {unit}"
                if value < 99.95
                else f"{value:.0f} {unit}"
            )
    raise AssertionError("the last unit takes every number")


def percent_text(share: float) -> str:
    """Two digits, or as many as stand before the point: `0.0034 %`, `2.5 %`, `100 %`."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"


def amount(count: int, noun: str) -> str:
    """`1 file`, `12,345 files`, `2 directories`."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"


def duration(seconds: float, *, digits: int = 1) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`; below ten seconds with so many `digits` after the point."""
    if seconds < 9.95:
        return f"{seconds:.{digits}f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def rate_text(bits_s: float) -> str:
    """What a link is sold as: `100 Mbit/s`, `2.5 Gbit/s`."""
    unit = "bit/s"
    for larger in ("kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"):
        if bits_s < 1000:
            break
        bits_s, unit = bits_s / 1000, larger
    return f"{bits_s:g} {unit}"


def time_text(time_ns: int) -> str:
    """A moment in local time, to the second: `2026-11-20 14:03:59`."""
    from datetime import datetime

    return datetime.fromtimestamp(time_ns // 1_000_000_000).strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ006 - local is meant


def time_json(time_ns: int) -> str:
    """A moment in UTC as RFC 3339 with microseconds."""
    from datetime import UTC, datetime, timedelta

    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
    return moment.isoformat().replace("+00:00", "Z")
