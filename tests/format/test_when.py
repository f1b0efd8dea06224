"""WHEN: what it may look like, and which instant it stands for."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.errors import UsageError
from packetfs.format.when import LATEST, AtTime, Back, ById, parse_when

SECOND_NS = 1_000_000_000
BERLIN_WINTER = timezone(timedelta(hours=1))


def instant(*fields: int) -> int:
    return int(datetime(*fields, tzinfo=UTC).timestamp()) * SECOND_NS  # type: ignore[misc,arg-type]


def at(text: str) -> int:
    when = parse_when(text, zone=BERLIN_WINTER)
    assert isinstance(when, AtTime)
    return when.time_ns


def test_latest_is_zero_steps_back() -> None:
    assert parse_when("latest") == LATEST == Back(0) == parse_when("~0")
    assert parse_when("~12") == Back(12)


def test_an_id_is_at_least_eight_hex_digits_in_either_case() -> None:
    assert parse_when("3F9C2AB1") == ById("3f9c2ab1")
    assert parse_when("20261120") == ById("20261120")
    assert parse_when("a" * 64) == ById("a" * 64)


def test_a_day_stands_for_its_last_instant_in_the_zone_it_is_read_in() -> None:
    assert at("2026-11-20") == instant(2026, 11, 20, 23) - 1
    assert at("2026-11-20Z") == instant(2026, 11, 21) - 1


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2026-11-20T10:05", instant(2026, 11, 20, 9, 6) - 1),
        ("2026-11-20 10:05:07", instant(2026, 11, 20, 9, 5, 8) - 1),
        ("2026-11-20T10:05:07Z", instant(2026, 11, 20, 10, 5, 8) - 1),
        ("2026-11-20T10:05:07-03:30", instant(2026, 11, 20, 13, 35, 8) - 1),
        ("2026-11-20T10:05:07+0100", instant(2026, 11, 20, 9, 5, 8) - 1),
        ("2026-11-20T10:05:07.25Z", instant(2026, 11, 20, 10, 5, 7) + 259_999_999),
        ("1969-12-31T23:59:59Z", -1),
    ],
)
def test_a_time_stands_for_its_last_instant_as_precisely_as_it_is_written(text: str, end: int) -> None:
    assert at(text) == end


@pytest.mark.parametrize(
    "text",
    ["", "newest", "~", "~-1", "abc", "3f9c2ab", "g" * 8, "a" * 65, "2026-02-30", "2026-11-20T25:00", "2026-11",
     "2026-11-20T10:05+25:00", "2026-11-20T10:05+01:60", "0000-01-01", "9999-12-31", "~1~1", "latest ", "٢٠٢٦-11-20"],
)  # fmt: skip
def test_anything_else_is_a_usage_error_that_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_when(text)

    assert caught.value.code == "bad-when"
    assert "2026-11-20" in caught.value.hint


def test_a_time_that_no_journal_can_say_is_the_first_or_the_last_one_that_it_can() -> None:
    assert at("0001-01-01") == -((1 << 63) - 1)
    assert at("9998-12-31") == (1 << 63) - 1


@given(
    st.builds(Back, st.integers(0, 999_999_999))
    | st.builds(ById, st.text("0123456789abcdef", min_size=8, max_size=64))
    | st.builds(AtTime, st.integers(-(10**18), 4 * 10**18))
)
def test_what_is_printed_is_parsed_back(when: Back | ById | AtTime) -> None:
    assert parse_when(str(when)) == when


@given(st.text())
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    try:
        parse_when(text)
    except UsageError:
        pass
