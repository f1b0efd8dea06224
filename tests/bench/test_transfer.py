"""The table of transfers: goals are judged rightly, cases are whole, changes change what they say; without root."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import pytest

from bench import cases as rows
from bench import growth, harness, measure, parquet, sync
from bench.cases import Case, Goal, cases
from bench.harness import Reading, counted_round_trips
from bench.movers import everyone
from bench.movers.patches import times_column
from bench.transfer import Measured, Run, judge, left_out, report, shown
from bench.workloads import MIB


def case(*goals: Goal, subjects: tuple[str, ...] = ("packetfs push", "ssh alone", "rsync -a", "scp")) -> Case:
    def nothing(place: Path) -> None: ...

    return Case("row", "a story", nothing, nothing, goals, subjects)


def run(subject: str, reading: Reading, *, of: str = "row", number: int = 0) -> Run:
    return Run(of, subject, number, source_bytes=1_000_000, source_files=9, reading=reading)


def sent(count: int) -> Reading:
    return Reading(sent_bytes=count)


def test_a_budget_is_met_up_to_its_last_byte_and_lost_beyond_it() -> None:
    row = case(Goal(("packetfs push",), "wire_bytes", 100))

    assert [v.met for v in judge([row], [run("packetfs push", sent(100))])] == [True]
    assert [v.met for v in judge([row], [run("packetfs push", sent(101))])] == [False]


def test_what_was_not_measured_has_no_verdict() -> None:
    row = case(Goal(("packetfs push",), "wire_bytes", 1.0, beside=("rsync -a",)))

    assert [v.met for v in judge([row], [run("rsync -a", sent(1))])] == [None]
    assert [v.met for v in judge([row], [run("packetfs push", sent(1))])] == [None]


def test_the_worst_of_ours_decides() -> None:
    row = case(Goal(("packetfs push", "packetfs pull"), "wire_bytes", 100))
    runs = [run("packetfs push", sent(50)), run("packetfs pull", sent(150))]

    (verdict,) = judge([row], runs)

    assert verdict.met is False
    assert verdict.ours == "push 50 B, pull 150 B"


def test_the_best_of_the_peers_is_what_we_are_compared_with() -> None:
    row = case(Goal(("packetfs push",), "wire_bytes", 1.0, beside=("rsync -a", "scp")))
    runs = [run("packetfs push", sent(70)), run("rsync -a", sent(100)), run("scp", sent(60))]

    (verdict,) = judge([row], runs)

    assert verdict.met is False
    assert verdict.peers == "rsync -a 100 B, scp 60 B"


def test_the_channels_own_bytes_are_taken_off_only_where_the_goal_says_so() -> None:
    runs = [run("packetfs push", sent(7_900)), run("ssh alone", sent(7_200))]

    net = judge([case(Goal(("packetfs push",), "wire_bytes", 1_000, net_of_ssh=True))], runs)
    whole = judge([case(Goal(("packetfs push",), "wire_bytes", 1_000))], runs)

    assert [v.met for v in [*net, *whole]] == [True, False]
    assert net[0].ours == "push 700 B"


def test_a_session_that_is_open_already_has_no_channel_to_take_off() -> None:
    row = case(Goal(("packetfs session",), "wire_bytes", 1_000, net_of_ssh=True))
    runs = [run("packetfs session", sent(1_500)), run("ssh alone", sent(7_200))]

    assert [v.met for v in judge([row], runs)] == [False]


def test_over_another_case_takes_off_what_the_same_subject_took_there() -> None:
    row = case(Goal(("packetfs push",), "wire_bytes", 300, over="no-op"))
    runs = [run("packetfs push", sent(8_000), of="no-op"), run("packetfs push", sent(8_250))]

    assert [(v.met, v.ours) for v in judge([row], runs)] == [(True, "push 250 B")]
    assert [v.met for v in judge([row], runs[1:])] == [None]


def test_a_share_of_the_source_is_taken_of_its_bytes() -> None:
    row = case(Goal(("packetfs push",), "wire_bytes", 0.5, of_source=True))

    assert [v.met for v in judge([row], [run("packetfs push", sent(500_000))])] == [True]
    assert [v.met for v in judge([row], [run("packetfs push", sent(500_001))])] == [False]


def test_a_median_over_rounds_is_what_counts() -> None:
    row = case(Goal(("packetfs push",), "wall_s", 1.0))
    runs = [run("packetfs push", Reading(wall_s=wall), number=n) for n, wall in enumerate((9.0, 0.9, 0.8))]

    assert [v.met for v in judge([row], runs)] == [True]


def test_version_pairs_have_a_median_goal_together() -> None:
    goal = Goal(("packetfs push",), "wire_bytes", 1.02, beside=(rows.PATCH,))
    pairs = [replace(case(goal, subjects=("packetfs push", rows.PATCH)), name=f"pair {n}", pair=True) for n in range(3)]
    ours = [80, 85, 500]
    runs = [run("packetfs push", sent(count), of=p.name) for p, count in zip(pairs, ours, strict=True)]
    runs += [run(rows.PATCH, sent(100), of=p.name) for p in pairs]

    verdicts = judge(pairs, runs)

    assert [v.met for v in verdicts] == [True, True, False, True]
    assert verdicts[-1].ours == "push 0.85 x"


def test_a_lost_row_is_printed_like_the_others() -> None:
    row = case(Goal(("packetfs push",), "wire_bytes", 100))

    table = report(Measured([row], [], runs=[run("packetfs push", sent(20_000))]))

    assert "| row | bytes both ways <= 100 B | push 20.0 KB |  | **LOST** |" in table


@pytest.mark.parametrize(
    ("figure", "value", "cell"),
    [
        ("wire_bytes", 9_999, "9,999 B"),
        ("wire_bytes", 10_000, "10.0 KB"),
        ("anon_bytes", 96 * 2**20, "100.66 MB"),
        ("wall_s", 0.149, "0.15 s"),
        ("round_trips", 1, "1.0"),
    ],
)
def test_figures_are_shown_with_their_unit(figure: str, value: float, cell: str) -> None:
    assert shown(figure, value) == cell


def test_round_trips_are_what_a_slow_link_adds() -> None:
    counted = counted_round_trips(Reading(wall_s=0.5), Reading(wall_s=1.7), 100)

    assert counted.round_trips == pytest.approx(12)


def test_every_case_names_subjects_that_exist_and_figures_that_are_read() -> None:
    known = {subject.name for subject in everyone()}
    names = [row.name for row in cases()]

    assert len(set(names)) == len(names)
    for row in cases():
        assert set(row.subjects) <= known
        for goal in row.goals:
            assert hasattr(Reading(), goal.figure)
            assert set(goal.ours) | set(goal.beside) <= set(row.subjects)
            assert goal.over in {"", *names}
            assert not goal.net_of_ssh or "ssh alone" in row.subjects


def test_a_case_whose_data_cannot_be_made_here_is_left_out_with_what_is_missing() -> None:
    possible = replace(case(), here=True)
    without = replace(possible, name="other", missing=lambda: "apt-get install it")

    assert left_out([possible, without]) == {"other": "apt-get install it"}


@pytest.mark.parametrize(("commands", "code"), [("true true", 0), ("true false true", 1), ("false true", 1)])
def test_of_commands_that_run_at_once_one_that_fails_is_noticed(commands: str, code: int) -> None:
    script = growth.at_once([[command] for command in commands.split()])

    assert subprocess.run(["sh", "-c", script], check=False).returncode == code


def test_a_table_keeps_its_rows_but_for_one_in_a_hundred_and_gets_two_more_for_each(tmp_path: Path) -> None:
    tables = pytest.importorskip("pyarrow.parquet", reason=parquet.missing())
    old, new, again = (tmp_path / name for name in ("old", "new", "again"))

    parquet.write(old, changed=False, rows=10_000)
    for path in (new, again):
        parquet.write(path, changed=True, rows=10_000)

    before, after = (tables.read_table(path).to_pylist() for path in (old, new))
    assert len(after) - len(before) == 200
    assert [n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b] == list(range(5_000, 5_100))
    assert new.read_bytes() == again.read_bytes()


def test_there_are_at_least_eight_version_pairs() -> None:
    assert sum(row.pair for row in cases()) >= 8


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """1,200 small files, 1,000 of them below one directory."""
    place = tmp_path / "tree"
    for number in range(1_200):
        path = place / ("large" if number < 1_000 else "small") / f"{number % 7}" / f"{number:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    return place


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def named(name: str) -> Callable[[Path], None]:
    return next(row.new for row in cases() if row.name == name)


def test_90_files_are_changed_by_28_bytes_each(tree: Path) -> None:
    before = contents(tree)

    named("90 files")(tree)
    after = contents(tree)

    changed = [path for path in before if before[path] != after[path]]
    assert len(changed) == 90
    assert {len(after[path]) - len(before[path]) for path in changed} == {28}


def test_the_directory_that_is_renamed_has_a_thousand_files(tree: Path) -> None:
    before = contents(tree)

    named("directory renamed")(tree)
    after = contents(tree)

    assert len(before.keys() - after.keys()) == 1_000
    assert sorted(before.values()) == sorted(after.values())


def test_touch_changes_times_and_nothing_else(tree: Path) -> None:
    before = contents(tree)
    times = {path: path.stat().st_mtime_ns for path in tree.rglob("*") if path.is_file()}

    named("touch")(tree)

    assert contents(tree) == before
    assert all(path.stat().st_mtime_ns != moment for path, moment in times.items())


def test_times_of_a_run_increase_and_are_no_regular_step() -> None:
    times = list(islice(harness.ticking(harness.NEW_DAY_NS, files_per_tick=4), 9_000))

    assert times == sorted(times)
    assert 1_500 < len(set(times)) < 3_000
    assert len({after - before for before, after in pairwise(times)}) > 1_000


def test_a_hundred_places_are_overwritten_and_the_length_stays(tmp_path: Path) -> None:
    old = random.Random(0).randbytes(1 << 20)
    (tmp_path / "noise.bin").write_bytes(old)

    named("256 MiB, 100 x 16 B")(tmp_path)
    new = (tmp_path / "noise.bin").read_bytes()

    assert len(new) == len(old)
    assert 1_000 < sum(a != b for a, b in zip(old, new, strict=True)) <= 1_600


def test_small_files_are_changed_added_and_removed_in_the_numbers_that_the_case_says(tmp_path: Path) -> None:
    rows._small_noise(tmp_path, directories=3, files_each=100)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    rows.edit_small_files(tmp_path, changed=30, added=6, removed=7)

    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    both = before.keys() & after.keys()
    assert (len(after.keys() - before.keys()), len(before.keys() - after.keys())) == (6, 7)
    assert sum(before[path] != after[path] for path in both) == 30
    assert all(len(before[path]) == len(after[path]) for path in both)


def test_what_is_replaced_keeps_its_length_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "noise.bin"
    path.write_bytes(before := random.Random(1).randbytes(MIB + 100))

    rows._replace_with_noise(path)

    after = path.read_bytes()
    assert len(after) == len(before)
    assert not {before[at : at + 16] for at in range(0, len(before), 16)} & {
        after[at : at + 16] for at in range(len(after) - 15)
    }


def test_one_byte_is_inserted_at_the_front(tmp_path: Path) -> None:
    (tmp_path / "noise.bin").write_bytes(b"content")

    named("256 MiB, 1 B inserted")(tmp_path)

    assert (tmp_path / "noise.bin").read_bytes() == b"\x01content"


def test_what_is_written_just_now_gets_the_same_times_in_each_run(tmp_path: Path) -> None:
    def make(place: Path) -> None:
        (place / "fresh").write_bytes(b"")
        (place / "kept").write_bytes(b"")
        os.utime(place / "kept", ns=(5, 5))

    found = []
    for name in ("one", "other"):
        place = tmp_path / name
        place.mkdir()
        harness.made(place, make, harness.OLD_DAY_NS)
        found.append([path.stat().st_mtime_ns for path in (place, place / "fresh", place / "kept")])

    assert found[0] == found[1]
    assert found[0][0] >= harness.OLD_DAY_NS
    assert found[0][2] == 5


def test_without_root_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert "root" in harness.impossible()


def test_counters_of_tcp_are_read_by_name() -> None:
    snmp = "Ip: a b\nIp: 1 2\nTcp: ActiveOpens PassiveOpens RetransSegs\nTcp: 3 4 5\n"

    assert harness._tcp_counters(snmp) == {"ActiveOpens": 3, "PassiveOpens": 4, "RetransSegs": 5}


def test_cpu_of_a_process_includes_the_children_that_it_waited_for() -> None:
    program = (
        "import subprocess, sys, time\n"
        "subprocess.run([sys.executable, '-c', 'while __import__(\"time\").process_time() < 0.5: pass'])\n"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        used = measure.cpu_s([child.pid])
        child.communicate()

    assert used >= 0.4  # counted in ticks of 10 ms, of which each number may lack one


def test_the_bound_carries_the_time_of_every_entry(tree: Path) -> None:
    before = times_column(tree)

    os.utime(tree / "small/3/1004", ns=(1, 1))

    assert len(before) == 8 * (1 + sum(1 for _ in tree.rglob("*")))
    assert times_column(tree) != before


# -- sync --------------------------------------------------------------------------------------------------------------


def test_every_workload_of_sync_is_measured_over_every_link() -> None:
    rows = sync.rows()

    assert len({row.name for row in rows}) == len(sync.WORKLOADS) * len(sync.LINKS)
    assert {row.link for row in rows} == set(sync.LINKS.values())
    assert set(sync.SUBJECTS) <= {subject.name for subject in everyone()}


def test_the_table_of_sync_shows_a_lost_row_and_the_least_of_each_column_in_bold() -> None:
    readings = {"packetfs sync": Reading(wall_s=2.0, sent_bytes=700), "rsync -a": Reading(wall_s=1.0, sent_bytes=900)}
    runs = [run(name, reading, of="no change: plain") for name, reading in readings.items()]

    table = sync.report(Measured(sync.rows(), [], {"unison": "not installed"}, runs=runs))

    assert "| packetfs sync | **700 B** |  | 2.00 |" in table
    assert "| rsync -a | 900 B |  | **1.00** |" in table
    assert "- unison: not measured, not installed" in table


def test_round_trips_of_sync_are_what_its_slow_link_adds_and_one_for_each_connection() -> None:
    runs = [
        run("rsync -a", Reading(wall_s=1.0, connections=1), of="no change: plain"),
        run("rsync -a", Reading(wall_s=1.5), of="no change: 50 ms"),
    ]

    assert "| rsync -a | **0 B** | **11** |" in sync.report(Measured(sync.rows(), [], runs=runs))
