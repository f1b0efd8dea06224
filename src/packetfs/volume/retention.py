"""Decide which snapshots of a ref are kept, and why; forget none. The words mean what they mean in restic.

Snapshots are looked at from the newest to the oldest by the time of their source, where one was given, else by journal
time; hours, days, weeks (ISO), months and years are those of a zone, by default the machine's own.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from packetfs.errors import UsageError

__all__ = ["Candidate", "Rules", "Verdict", "Within", "decide", "parse_within"]

_WITHIN: Final = re.compile(r"(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,6})d)?(?:(\d{1,7})h)?")
_NS: Final = 1_000_000_000
_TIME_NS_MAX: Final = (1 << 63) - 1


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
            if self.days:  # else it stays in the hour that it is in, of two that are called the same
                at -= timedelta(days=self.days)
            # Days are those of the calendar, an hour is an hour: also on the day on which clocks change.
            return datetime.fromtimestamp(at.timestamp() - 3600 * self.hours, at.tzinfo) if self.hours else at
        except (OverflowError, ValueError, OSError):
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
    """Everything not older by more than that than the newest snapshot that is not of the future."""
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


def decide(
    candidates: Sequence[Candidate], rules: Rules, zone: tzinfo | None = None, *, now_ns: int = _TIME_NS_MAX
) -> list[Verdict]:
    """A verdict on each, newest first. The one with the greatest seq, which the ref names, is always kept."""
    ordered = sorted(candidates, key=lambda one: (one.time_ns, one.seq), reverse=True)
    if not ordered:
        return []
    current = max(one.seq for one in ordered)
    moments = [_moment(one.time_ns, zone) for one in ordered]
    since_s = _since_s(ordered, rules.within, zone, now_ns) if rules.within is not None else math.inf
    buckets = [_Bucket(word, count, key) for word, count, key in _buckets(rules) if count]
    verdicts = []
    for number, (one, moment) in enumerate(zip(ordered, moments, strict=True)):
        reasons = ["newest"] if one.seq == current else []
        reasons += [f"tags {', '.join(sorted(tags))}" for tags in rules.tags if tags <= one.tags]
        if one.time_ns // _NS >= since_s:
            reasons.append("within")
        is_oldest = number == len(ordered) - 1
        reasons += [bucket.word for bucket in buckets if bucket.takes(number, moment, is_oldest=is_oldest)]
        verdicts.append(Verdict(one.seq, tuple(reasons)))
    return verdicts


def parse_within(text: str) -> Within:
    """`2y5m7d3h`: years, months, days, hours, each at most once, in this order."""
    found = _WITHIN.fullmatch(text.strip())
    within = Within(*(int(group or 0) for group in found.groups())) if found is not None else Within()
    if within == Within():
        raise UsageError(
            f"{text!r} is no length of time", code="bad-duration", hint="write 2y5m7d3h: years, months, days, hours"
        )
    return within


def _since_s(ordered: Sequence[Candidate], within: Within, zone: tzinfo | None, now_ns: int) -> float:
    """Where `within` begins. A clock that was wrong once must not make all that was stored since look old."""
    newest = next((one for one in ordered if one.time_ns <= now_ns), None)
    try:
        return -math.inf if newest is None else within.before(_moment(newest.time_ns, zone)).timestamp()
    except (OverflowError, ValueError, OSError):  # before all times that there are
        return -math.inf


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
