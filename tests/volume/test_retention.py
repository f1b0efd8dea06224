"""Which snapshots are kept, against an oracle that takes its time, and the words of restic by example."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.errors import UsageError
from packetfs.volume.retention import Candidate, Rules, Within, decide, parse_within

HOUR_NS = 3_600_000_000_000
START = datetime(2026, 2, 27, 12, tzinfo=UTC)
PERIODS: dict[str, Callable[[datetime], str]] = {
    "hourly": lambda at: at.strftime("%Y-%m-%d %H"),
    "daily": lambda at: at.strftime("%Y-%m-%d"),
    "weekly": lambda at: at.strftime("%G %V"),
    "monthly": lambda at: at.strftime("%Y-%m"),
    "yearly": lambda at: at.strftime("%Y"),
}

candidates = st.lists(
    st.tuples(
        st.integers(0, 20_000) | st.integers(0, 60),
        st.frozensets(st.sampled_from(["a", "b", "c"])),
    ),
    max_size=25,
).map(
    lambda rows: [
        Candidate(seq, int(START.timestamp() * 1e9) - hours * HOUR_NS, tags)
        for seq, (hours, tags) in enumerate(rows, 1)
    ]
)
counts = st.integers(0, 4)
rules = st.builds(
    Rules,
    last=counts,
    hourly=counts,
    daily=counts,
    weekly=counts,
    monthly=counts,
    yearly=counts,
    within=st.none() | st.builds(Within, st.integers(0, 2), st.integers(0, 13), st.integers(0, 40), st.integers(0, 50)),
    tags=st.lists(st.frozensets(st.sampled_from(["a", "b"]), min_size=1), max_size=2).map(tuple),
)


def moment(one: Candidate) -> datetime:
    return datetime.fromtimestamp(one.time_ns / 1e9, UTC)


def kept_slowly(found: list[Candidate], wanted: Rules) -> set[int]:
    """One rule after the other, each by its own words."""
    newest_first = sorted(found, key=lambda one: (one.time_ns, one.seq), reverse=True)
    kept = {max(one.seq for one in found)} if found else set()
    kept |= {one.seq for one in newest_first[: wanted.last]}
    for tags in wanted.tags:
        kept |= {one.seq for one in found if tags <= one.tags}
    for word, period in PERIODS.items():
        count = getattr(wanted, word)
        names: list[str] = []
        for one in newest_first:
            if period(moment(one)) not in names:
                names.append(period(moment(one)))
        for name in names[:count]:
            kept.add(next(one.seq for one in newest_first if period(moment(one)) == name))
        if len(names) < count and newest_first:
            kept.add(newest_first[-1].seq)
    if wanted.last > len(found) and found:
        kept.add(newest_first[-1].seq)
    if wanted.within is not None and found:
        since = wanted.within.before(moment(newest_first[0]))
        kept |= {one.seq for one in found if moment(one) >= since}
    return kept


@given(candidates, rules)
def test_what_is_kept_is_what_each_rule_keeps_by_itself(found: list[Candidate], wanted: Rules) -> None:
    verdicts = decide(found, wanted, UTC)

    assert sorted(one.seq for one in verdicts) == sorted(one.seq for one in found)
    assert {one.seq for one in verdicts if one.reasons} == kept_slowly(found, wanted)


@given(candidates, rules)
def test_the_newest_by_the_journal_is_always_kept(found: list[Candidate], wanted: Rules) -> None:
    verdicts = decide(found, wanted, UTC)

    assert not found or "newest" in next(one.reasons for one in verdicts if one.seq == len(found))


def test_a_week_of_hourly_snapshots_by_days() -> None:
    found = [Candidate(hour, int((START + timedelta(hours=hour)).timestamp() * 1e9)) for hour in range(1, 169)]

    verdicts = decide(found, Rules(daily=3, hourly=2), UTC)

    kept = {one.seq: one.reasons for one in verdicts if one.reasons}
    assert kept == {168: ("newest", "hourly", "daily"), 167: ("hourly",), 155: ("daily",), 131: ("daily",)}


def test_a_rule_that_has_room_left_keeps_the_oldest() -> None:
    found = [Candidate(seq, int((START + timedelta(hours=seq)).timestamp() * 1e9)) for seq in range(4)]

    assert [one.reasons for one in decide(found, Rules(yearly=2), UTC)][-1] == ("yearly",)
    assert [one.reasons for one in decide(found, Rules(yearly=1), UTC)][-1] == ()


def test_a_month_before_the_end_of_march_is_the_end_of_february() -> None:
    assert Within(months=1).before(datetime(2026, 3, 31, tzinfo=UTC)) == datetime(2026, 2, 28, tzinfo=UTC)
    assert Within(years=1, months=2).before(datetime(2026, 1, 5, tzinfo=UTC)) == datetime(2024, 11, 5, tzinfo=UTC)
    assert Within(years=9999).before(datetime(2026, 1, 5, tzinfo=UTC)).year == 1


def test_lengths_of_time_are_written_as_in_restic() -> None:
    assert parse_within("2y5m7d3h") == Within(2, 5, 7, 3)
    assert parse_within("90d") == Within(days=90)
    for wrong in ("", "5", "3h2d", "1w", "-1d", "1.5d", "0d", "0y0h"):
        with pytest.raises(UsageError):
            parse_within(wrong)


@pytest.mark.parametrize(
    "newest",
    [
        datetime(2026, 3, 29, 2, tzinfo=UTC),  # clocks went from 2 to 3 at 1:00 UTC
        datetime(2026, 10, 25, 2, tzinfo=UTC),  # and back from 3 to 2
        datetime(2026, 10, 25, 1, tzinfo=UTC),  # in the hour that there is twice
        datetime(2026, 10, 25, 0, tzinfo=UTC),
    ],
)
def test_an_hour_is_an_hour_when_clocks_change(monkeypatch: pytest.MonkeyPatch, newest: datetime) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        found = [Candidate(9 - hours, int((newest - timedelta(hours=hours)).timestamp()) * 10**9) for hours in range(8)]

        verdicts = decide(found, Rules(within=Within(hours=2)))
    finally:
        monkeypatch.undo()
        time.tzset()

    assert [one.seq for one in verdicts if one.reasons] == [9, 8, 7]


def test_a_snapshot_of_the_future_makes_no_other_one_old() -> None:
    """A clock was wrong once, or --time was: restic looks at the newest that is not of the future, too."""
    now_ns = int(START.timestamp()) * 10**9
    days = [Candidate(seq, now_ns - (9 - seq) * 24 * HOUR_NS) for seq in range(1, 10)]
    future = Candidate(5, now_ns + 10_000 * HOUR_NS)

    verdicts = decide([*days[:4], future, *days[5:]], Rules(within=Within(days=3)), UTC, now_ns=now_ns)

    assert {one.seq: one.reasons for one in verdicts if one.reasons} == {
        5: ("within",),
        6: ("within",),
        7: ("within",),
        8: ("within",),
        9: ("newest", "within"),
    }
    assert all(one.reasons for one in decide([future], Rules(within=Within(days=3)), UTC, now_ns=now_ns))
