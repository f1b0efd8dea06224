"""WHEN: which snapshot of a ref is meant. Parsing and printing only; `volume.refs` finds the snapshot.

    latest              the newest
    ~2                  two before the newest
    3f9c2ab1...         the one whose id begins so (8 to 64 hex digits)
    2026-11-20T10:05    the newest one made at or before that time

A time stands for its last instant as precisely as it is written: `2026-11-20` is that day to its end, `10:05:07` that
second to its end. So a time copied from `packetfs log` finds the snapshot it was printed for. Without a zone
(`Z`, `+01:00`) it is local time.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final, TypeAlias

from packetfs.errors import UsageError

__all__ = ["LATEST", "AtTime", "Back", "ById", "When", "parse_when"]

_ID = re.compile(r"[0-9a-f]{8,64}")
_BACK = re.compile(r"~([0-9]{1,9})")
_TIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r"(Z|z|[+-]\d{2}:?\d{2})?",
    re.ASCII,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS: Final = 1_000_000_000
_TIME_NS_MAX: Final = (1 << 63) - 1  # the last that a journal can say, in the year 2262; nothing is later


@dataclass(frozen=True, slots=True)
class Back:
    """`count` snapshots before the newest; 0 is the newest itself."""

    count: int

    def __str__(self) -> str:
        return f"~{self.count}" if self.count else "latest"


@dataclass(frozen=True, slots=True)
class ById:
    """The snapshot whose id begins with `prefix`, lower-case hex digits."""

    prefix: str

    def __str__(self) -> str:
        return self.prefix


@dataclass(frozen=True, slots=True)
class AtTime:
    """The newest snapshot whose journal time is not after `time_ns`."""

    time_ns: int

    def __str__(self) -> str:
        seconds, rest_ns = divmod(self.time_ns, _SECOND_NS)
        moment = _EPOCH + timedelta(seconds=seconds)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"


When: TypeAlias = Back | ById | AtTime

LATEST: Final = Back(0)


def parse_when(text: str, *, zone: tzinfo | None = None) -> When:
    """The value of `text`; a time without a zone is read in `zone`, by default the machine's own."""
    if text == "latest":
        return LATEST
    if back := _BACK.fullmatch(text):
        return Back(int(back[1]))
    if _ID.fullmatch(text.lower()):
        return ById(text.lower())
    if moment := _TIME.fullmatch(text):
        try:
            return AtTime(_last_instant_ns(moment, zone))
        except (ValueError, OverflowError):
            pass  # it looks like a time, but there is no 30th of February
    raise UsageError(
        f"{text!r} is neither 'latest', '~N', a snapshot id nor a time",
        code="bad-when",
        hint="times look like 2026-11-20, 2026-11-20T10:05 or 2026-11-20T10:05:07Z; ids have at least 8 hex digits",
        when=text,
    )


def _last_instant_ns(found: re.Match[str], zone: tzinfo | None) -> int:
    """The last nanosecond that the time as written stands for."""
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    date = int(year), int(month), int(day)
    begin = datetime(*date, int(hour or 0), int(minute or 0), int(second or 0))  # noqa: DTZ001 - its zone comes last
    if fraction:
        end, rest_ns = begin, int(fraction.ljust(9, "9"))
    else:
        span = timedelta(days=1) if hour is None else timedelta(minutes=1) if second is None else timedelta(seconds=1)
        # Calendar arithmetic before the zone: a day on which clocks change ends at midnight all the same.
        end, rest_ns = begin + span, -1
    since = _with_zone(end, offset, zone) - _EPOCH
    since_ns = (since.days * 86_400 + since.seconds) * _SECOND_NS + rest_ns
    return min(max(since_ns, -_TIME_NS_MAX), _TIME_NS_MAX)


def _with_zone(moment: datetime, offset: str | None, zone: tzinfo | None) -> datetime:
    if offset is None:
        return moment.replace(tzinfo=zone) if zone is not None else moment.astimezone()
    if offset in "Zz":
        return moment.replace(tzinfo=UTC)
    digits = offset[1:].replace(":", "")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if minutes > 59:
        raise ValueError("minutes of a zone")
    distance = timedelta(hours=hours, minutes=minutes)
    return moment.replace(tzinfo=timezone(-distance if offset[0] == "-" else distance))
