"""Decide which snapshots of a ref are kept, and why; forget none. The words mean what they mean in restic.

Snapshots are looked at from the newest to the oldest by the time of their source, where one was given, else by journal
time; hours, days, weeks (ISO), months and years are those of a zone, by default the machine's own.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from packetfs.errors import UsageError

__all__ = ["Candidate", "Rules", "Verdict", "Within", "decide", "parse_within"]

_WITHIN: Final = re.compile(r"(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,6})d)?(?:(\d{1,7})h)?")
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Within:
    """A length of time in calendar units."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def before(self, moment: datetime) -> datetime:
        """The moment that much earlier; a day that its month does not have is the last one that it has."""
        month = moment.year * 12 + moment.month - 1 - 12 * self.years - self.months
        year = max(month // 12, 1)
        following = datetime(year + month % 12 // 11, (month + 1) % 12 + 1, 1, tzinfo=UTC)
        last = (following - timedelta(days=1)).day
        at = moment.replace(year=year, month=month % 12 + 1, day=min(moment.day, last))
        try:
            return at - timedelta(days=self.days, hours=self.hours)
        except OverflowError:
            return datetime(1, 1, 1, tzinfo=moment.tzinfo)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is to be kept. A snapshot that any of them keeps is kept."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Within | None = None
    """Everything not older than the newest snapshot by more than that."""
    tags: tuple[frozenset[str], ...] = ()
    """Snapshots that have all tags of any of these sets."""

    @property
    def are_empty(self) -> bool:
        """Whether they keep nothing."""
        return self == Rules()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot of a ref, as far as it matters here."""

    seq: int
    """The journal entry that committed it: a greater one is newer."""
    time_ns: int
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is decided of a snapshot."""

    seq: int
    reasons: tuple[str, ...]
    """Why it is kept; empty: it goes."""


def decide(candidates: Sequence[Candidate], rules: Rules, zone: tzinfo | None = None) -> list[Verdict]:
    """A verdict on each, newest first. The one with the greatest seq, which the ref names, is always kept."""
    ordered = sorted(candidates, key=lambda one: (one.time_ns, one.seq), reverse=True)
    if not ordered:
        return []
    current = max(one.seq for one in ordered)
    moments = [_moment(one.time_ns, zone) for one in ordered]
    since = rules.within.before(moments[0]) if rules.within is not None else None
    buckets = [_Bucket(word, count, key) for word, count, key in _buckets(rules) if count]
    verdicts = []
    for number, (one, moment) in enumerate(zip(ordered, moments, strict=True)):
        reasons = ["newest"] if one.seq == current else []
        reasons += [f"tags {', '.join(sorted(tags))}" for tags in rules.tags if tags <= one.tags]
        if since is not None and moment >= since:
            reasons.append("within")
        is_oldest = number == len(ordered) - 1
        reasons += [bucket.word for bucket in buckets if bucket.takes(number, moment, is_oldest=is_oldest)]
        verdicts.append(Verdict(one.seq, tuple(reasons)))
    return verdicts


def parse_within(text: str) -> Within:
    """`2y5m7d3h`: years, months, days, hours, each at most once, in this order."""
    found = _WITHIN.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise UsageError(
            f"{text!r} is no length of time", code="bad-duration", hint="write 2y5m7d3h: years, months, days, hours"
        )
    return Within(*(int(group or 0) for group in found.groups()))


_Key = Callable[[int, datetime], object]


def _buckets(rules: Rules) -> list[tuple[str, int, _Key]]:
    return [
        ("last", rules.last, lambda number, _: number),
        ("hourly", rules.hourly, lambda _, at: (at.year, at.month, at.day, at.hour)),
        ("daily", rules.daily, lambda _, at: (at.year, at.month, at.day)),
        ("weekly", rules.weekly, lambda _, at: tuple(at.isocalendar())[:2]),
        ("monthly", rules.monthly, lambda _, at: (at.year, at.month)),
        ("yearly", rules.yearly, lambda _, at: at.year),
    ]


class _Bucket:
    """One rule while the snapshots pass by."""

    def __init__(self, word: str, left: int, key: _Key) -> None:
        self.word = word
        self._left = left
        self._key = key
        self._last: object = None

    def takes(self, number: int, moment: datetime, *, is_oldest: bool) -> bool:
        """Whether it keeps the next one: the newest of its period; and while it is not full, the oldest of all."""
        if not self._left:
            return False
        period = self._key(number, moment)
        if period == self._last and not is_oldest:
            return False
        self._last = period
        self._left -= 1
        return True


def _moment(time_ns: int, zone: tzinfo | None) -> datetime:
    try:
        return datetime.fromtimestamp(time_ns // _NS, zone)
    except (OverflowError, ValueError, OSError):
        return datetime(9999 if time_ns > 0 else 1, 1, 1, tzinfo=zone)
