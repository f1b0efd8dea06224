"""Estimates: never backwards, and no promise that is not meant."""

from hypothesis import given
from hypothesis import strategies as st

from packetfs.cli.progress import Estimate
from packetfs.cli.quantities import amount, bytes_text, duration, time_json

STEPS = st.lists(
    st.tuples(st.floats(0, 30, allow_nan=False), st.integers(0, 10**12), st.none() | st.integers(0, 10**12)),
    max_size=40,
)


@given(STEPS)
def test_the_share_never_falls_and_time_never_runs_out_early(steps: list[tuple[float, int, int | None]]) -> None:
    estimate, now, before = Estimate(0.0), 0.0, 0.0
    for wait, done, total in steps:
        now += wait
        estimate.update(now, done, total)

        assert (estimate.share or 0.0) >= before
        assert estimate.remaining_s is None or estimate.remaining_s >= 0
        before = estimate.share or 0.0


def test_without_a_total_there_is_no_estimate() -> None:
    estimate = Estimate(0.0)
    for second in range(60):
        estimate.update(float(second), second * 1000, None)

    assert estimate.share is None
    assert estimate.remaining_s is None


def test_at_a_steady_pace_the_time_left_is_right_and_only_falls() -> None:
    estimate, shown = Estimate(0.0), []
    for tick in range(1, 1000):
        estimate.update(tick / 10, tick * 1000, 1_000_000)
        if estimate.remaining_s is not None:
            shown.append((estimate.remaining_s, (1000 - tick) / 10))

    assert all(abs(told - true) <= 0.05 * true + 0.1 for told, true in shown)
    assert [told for told, _ in shown] == sorted((told for told, _ in shown), reverse=True)


def test_a_pace_that_drops_to_a_tenth_is_told_within_seconds() -> None:
    estimate = Estimate(0.0)
    for tick in range(1, 300):
        estimate.update(tick / 10, tick * 1000, 1_000_000)
    promised = estimate.remaining_s
    for tick in range(100):
        estimate.update(30 + tick / 10, 300_000 + tick * 100, 1_000_000)

    assert promised is not None
    assert estimate.remaining_s is not None
    assert estimate.remaining_s > promised


def test_quantities_read_well() -> None:
    assert [bytes_text(count) for count in (0, 999, 1000, 9_996, 99_960, 999_499, 999_999, 10**18)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "10.0 kB",
        "100 kB",
        "999 kB",
        "1.00 MB",
        "1.00 EB",
    ]
    assert [amount(1, "directory"), amount(12_345, "directory"), amount(0, "file")] == [
        "1 directory",
        "12,345 directories",
        "0 files",
    ]
    assert [duration(seconds) for seconds in (0.04, 59.6, 200, 7500)] == [
        "0.0 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert time_json(1_763_800_000_123_456_789) == "2025-11-22T08:26:40.123456Z"
