"""The promises: verdicts and reductions are reckoned rightly, a row that is not kept is shown, every case is whole."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from bench import latency, promises, reads, sustained
from bench.harness import Reading
from bench.movers import everyone
from bench.promises import PLAIN, RSYNC_Z, WIRE, Promise, endless, judged, report, rows, workloads
from bench.quantities import amount, less, seconds
from bench.transfer import Measured, Run

OURS = "packetfs sync, TLS"
PROMISE = Promise("network", "next numpy", WIRE, 0.99, (OURS, "packetfs push"), "zstd --patch-from")


def run(subject: str, reading: Reading, *, case: str = "next numpy", number: int = 0) -> Run:
    return Run(case, subject, number, source_bytes=100_000_000, source_files=9, reading=reading)


def sent(subject: str, *counts: int) -> list[Run]:
    return [run(subject, Reading(sent_bytes=count), number=n) for n, count in enumerate(counts)]


def test_a_promise_is_kept_up_to_its_last_byte_and_not_beyond_it() -> None:
    plain = sent(PLAIN, 100_000)

    assert judged(PROMISE, [*plain, *sent(OURS, 1_000)]).kept is True
    assert judged(PROMISE, [*plain, *sent(OURS, 1_001)]).kept is False


def test_the_worst_of_ours_decides() -> None:
    row = judged(PROMISE, [*sent(PLAIN, 100_000), *sent(OURS, 500), *sent("packetfs push", 2_000)])

    assert row.kept is False
    assert row.ours == "sync, TLS 500 B; push 2 KB"
    assert row.worst == "packetfs push"


def test_what_was_not_measured_has_no_verdict() -> None:
    assert judged(PROMISE, sent(OURS, 1)).kept is None
    assert judged(PROMISE, sent(PLAIN, 1)).kept is None
    assert rows([]) == []


def test_reductions_are_shares_of_the_others_medians() -> None:
    row = judged(PROMISE, [*sent(PLAIN, 100, 1_000, 9_999), *sent(RSYNC_Z, 200), *sent(OURS, 400)])

    assert row.less == pytest.approx(0.6)
    assert row.less_than_rsync == -1
    assert row.rounds == 1


def test_the_best_of_the_rest_is_neither_ours_nor_a_bound_nor_whom_it_is_judged_by() -> None:
    bounds = [*sent("zstd --patch-from", 2), *sent("find, here", 0)]
    runs = [*sent(PLAIN, 9), *sent(OURS, 1), *sent("restic", 7), *sent("unison", 8), *bounds]

    row = judged(PROMISE, runs)

    assert row.best_peer == "restic 7 B"
    assert row.limit == "zstd --patch-from 2 B"
    assert "find, here" not in row.values  # which is the bound of another figure


def test_what_may_take_somewhat_longer_is_judged_by_how_much() -> None:
    def kept(wall_s: float) -> bool | None:
        timed = {reads.HELD: wall_s, reads.MEMORY: 1.0}
        runs = [run(name, Reading(wall_s=value), case=reads.WHOLE) for name, value in timed.items()]
        return next(row.kept for row in rows(runs) if row.pitch == promises.POINTERS)

    assert kept(1.25) is True
    assert kept(1.26) is False


def parts(walls_s: Sequence[float], anon: Sequence[int]) -> Run:
    notes: dict[str, object] = {"part_bytes": 100_000_000, "walls_s": list(walls_s), "far_anon_bytes": list(anon)}
    return run("packetfs push, TLS", Reading(notes=notes), case=sustained.NAME)


@pytest.mark.parametrize(
    ("walls_s", "anon", "kept"),
    [
        ((1.0, 1.0, 1.0), (50, 50, 50), True),
        ((1.0, 1.0, 1.2), (50, 50, 50), False),  # slower and slower
        ((1.0, 4.1, 1.0), (50, 50, 50), False),  # too slow once
        ((1.0, 1.0, 1.0), (50, 50, 70), False),  # more and more memory
    ],
)
def test_a_rate_is_sustained_if_it_neither_falls_nor_takes_more_memory(
    walls_s: Sequence[float], anon: Sequence[int], kept: bool
) -> None:
    assert endless(parts(walls_s, anon)).kept is kept


def test_a_promise_that_is_not_kept_is_printed_like_the_others() -> None:
    runs = [*sent(PLAIN, 100_000_000), *sent(OURS, 2_000_000)]

    table = report(
        Measured(workloads(quick=True, full=False), [], {"restic": "not installed"}, {"database": "no root"}, runs)
    )

    (line,) = [line for line in table.splitlines() if line.startswith("| network")]
    assert "sync, TLS 2 MB | tar over TCP 100 MB |" in line
    assert "| 98\u00a0% less | 99\u00a0% less than tar over TCP | **NOT KEPT** |" in line
    assert "- restic: not measured, not installed" in table
    assert "- database: not measured, no root" in table


def test_every_promise_is_measured_by_somebody_who_exists() -> None:
    for full in (False, True):
        cases = {case.name: case for case in workloads(quick=True, full=full)}
        movers = {subject.name for subject in everyone()}
        known = movers | {subject.name for subject in (*latency.subjects(), *reads.subjects())}

        assert {name for case in cases.values() for name in case.subjects} <= known
        assert {name for case in cases.values() if case.by is None for name in case.subjects} <= movers
        for promise in promises.PROMISES:
            assert {*promise.ours, promise.beside} <= set(cases[promise.case].subjects)


def test_the_parts_without_end_are_twenty_gigabytes_where_all_is_asked_for() -> None:
    (case,) = [case for case in workloads(quick=False, full=True) if case.name == sustained.NAME]

    assert isinstance(case.by, partial)
    assert case.by.keywords["parts"] * case.by.keywords["part_mib"] << 20 >= 20_000_000_000


def test_thirds_are_means_and_one_value_is_both() -> None:
    assert sustained.thirds([1.0, 3.0, 9.0, 9.0, 9.0, 5.0, 7.0]) == (2.0, 6.0)
    assert sustained.thirds([4.0]) == (4.0, 4.0)


def test_every_way_to_read_brings_the_bytes_that_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "FILES", 3)
    monkeypatch.setattr(reads, "WHOLE_BYTES", 1 << 20)

    for case in reads.cases():
        for subject in reads.subjects():
            if subject.name in case.subjects:
                assert reads.measure(None, case, subject, tmp_path, 0).reading.wall_s > 0


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (less(0.9), "90\u00a0% less"),
        (less(0.9974), "99.7\u00a0% less"),
        (less(0.0), "0\u00a0% less"),
        (less(-1.5), "2.5 x"),
        (amount(999), "999 B"),
        (amount(123_456_789), "123 MB"),
        (amount(999_499), "999 KB"),
        (amount(999_999), "1 MB"),
        (amount(2e12), "2,000 GB"),
        (seconds(0.000_004_95), "4.95 µs"),
        (seconds(0.0), "0 ms"),
        (seconds(0.000_999_9), "1 ms"),
        (seconds(0.9999), "1 s"),
        (seconds(12_345), "12,345 s"),
        (seconds(0.05), "50 ms"),
        (seconds(1.5), "1.5 s"),
    ],
)
def test_quantities_have_three_digits_and_a_unit(shown: str, text: str) -> None:
    assert shown == text
