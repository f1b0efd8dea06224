"""The page: every case is on it, bars are in proportion, the lost rows lead, and nothing is fetched from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.page import bars, curves, kind_of, main, newest, page, promises, stores, workloads
from bench.plots import Line, Plot, drawn

MACHINE = {
    "cpu": "A <CPU>",
    "cores": 2,
    "memory_bytes": 8 << 30,
    "kernel": "6.1",
    "python": "3.11",
    "load": [0.1, 0, 0],
}


def run(case: str, subject: str, sent: int, wall_s: float = 1.0, number: int = 0) -> dict[str, Any]:
    reading = {
        "wall_s": wall_s,
        "sent_bytes": sent,
        "received_bytes": 0,
        "near_cpu_s": 1.0,
        "far_cpu_s": 0.5,
        "near_anon_bytes": 1 << 20,
        "far_anon_bytes": 2 << 20,
        "round_trips": None,
    }
    where = {"case": case, "subject": subject, "round": number}
    return {**where, "source_bytes": 1000, "source_files": 3, "reading": reading}


def record(*runs: dict[str, Any], verdicts: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "taken": "2026-01-02T03:04:05+00:00",
        "machine": MACHINE,
        "subjects": {one["subject"]: {"version": "1", "promise": "durable"} for one in runs},
        "absent": {"unison": "is not installed"},
        "failures": {"no-op": {"scp": "exit 1\nbecause\nmore"}},
        "cases": {one["case"]: {"story": "a story", "link": "100 Mbit/s"} for one in runs},
        "verdicts": list(verdicts),
        "runs": list(runs),
    }


class Visible(HTMLParser):
    """What a reader sees, and which tags there were."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not {"src", "href"} & {name for name, _ in attrs if tag != "use"}, f"<{tag}> fetches something"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def seen(text: str) -> str:
    parser = Visible()
    parser.feed(text)
    assert not {"script", "link", "img"} & parser.tags
    return " ".join(" ".join(parser.text).split())


def test_a_bar_is_its_share_of_the_longest_and_the_least_competitor_is_marked() -> None:
    made = bars({"rsync -a": 400.0, "packetfs sync": 100.0, "ssh alone": 50.0}, str)

    assert [(bar.subject, bar.share, bar.kind, bar.least) for bar in made] == [
        ("ssh alone", 0.125, "bound", False),
        ("packetfs sync", 0.25, "ours", True),
        ("rsync -a", 1.0, "peer", False),
    ]


def test_bars_of_nought_have_no_length_and_do_not_divide_by_it() -> None:
    assert [bar.share for bar in bars({"a": 0.0, "b": 0.0}, str)] == [0.0, 0.0]


def test_a_figure_is_the_median_of_its_runs() -> None:
    (made,) = workloads(record(*(run("no-op", "rsync -a", sent, number=n) for n, sent in enumerate((10, 900, 20)))))

    assert (made.blocks[0].bars[0].value, made.blocks[0].rounds) == (20, 3)


def test_one_workload_over_several_links_is_shown_once_with_a_time_for_each() -> None:
    made = workloads(record(run("touch: plain", "rsync -a", 1), run("touch: 50 ms", "rsync -a", 1, wall_s=9.0)))

    assert [workload.name for workload in made] == ["touch"]
    assert [block.bars[0].text for block in made[0].blocks if block.title.startswith("time")] == ["1 s", "9 s"]


def test_every_version_pair_is_a_workload_of_its_own() -> None:
    made = workloads(record(run("pair: crates", "rsync -a", 1), run("pair: insert", "rsync -a", 1)))

    assert [workload.name for workload in made] == ["pair: crates", "pair: insert"]


def test_the_page_shows_what_was_lost_first_and_who_was_missing_and_what_failed() -> None:
    def verdict(case: str, met: bool | None) -> dict[str, Any]:
        return {"case": case, "must": "x <= 1", "ours": "1 B", "peers": "2 B", "met": met}

    text = seen(
        page(
            [("transfer", record(run("no-op", "rsync -a", 1), verdicts=(verdict("won", True), verdict("gone", False))))]
        )
    )

    assert text.index("gone") < text.index("won")
    assert "1 met, 1 lost" in text
    assert "unison : not measured, is not installed" in text
    assert "no-op, scp : no figure, exit 1 because" in text
    assert "because more" not in text


def test_what_was_measured_on_one_machine_is_shown_step_by_step() -> None:
    rows = [
        {"subject": name, "step": step, "wall_s": wall_s, "cpu_s": 2.0, "rss_anon_bytes": 3e6, "stored_bytes": 4e6}
        for name, wall_s in (("packetfs", 1.0), ("restic", 5.0))
        for step in ("cold", "pull")
    ]
    table = {"workload": "small files", "story": "a story", "size": {"files": 9, "bytes": 1e6}, "rows": rows}

    (made,) = stores({"tables": [table]})

    assert [block.title for block in made.blocks] == [
        "time, cold",
        "time, pull",
        "CPU, cold",
        "anonymous memory, cold",
        "size of the store, cold",
    ]
    assert [bar.text for bar in made.blocks[0].bars] == ["1 s", "5 s"]
    assert "small files" in seen(page([("compare", {**record(), "tables": [table]})]))


def promise(pitch: str, kept: bool | None, less: float | None = 0.5) -> dict[str, Any]:
    return {
        "pitch": pitch,
        "measured": "next release: bytes",
        "must": "99 % less than tar over TCP",
        "kept": kept,
        "rounds": 1,
        "ours": "sync 5 B",
        "beside": "tar over TCP",
        "limit": "patch 1 B",
        "best_peer": "restic 7 B",
        "less": less,
        "less_than_rsync": -1.0,
        "values": {"packetfs sync": [5.0, "5 B"], "tar over TCP": [10.0, "10 B"], "find, here": [1.0, "1 B"]},
    }


def test_the_promises_lead_with_their_verdicts_whether_kept_or_not() -> None:
    rows = [promise("network", True), promise("memory", False), promise("CPU", None, less=None)]

    text = seen(page([("promises", record() | {"promises": rows}), ("transfer", record(run("no-op", "rsync -a", 1)))]))

    assert "1 kept, 1 not kept, 1 not judged" in text
    assert text.index("kept network") < text.index("not kept memory") < text.index("not judged CPU")
    assert text.index("not judged CPU") < text.index("no-op")
    assert "50 % less than tar over TCP 2 x rsync -az" in text  # no-break spaces are spaces here


def test_a_promise_has_a_bar_for_everybody_with_the_figures_that_were_recorded() -> None:
    (made,) = promises({"promises": [promise("network", True)]})

    assert [(bar.subject, bar.share, bar.text, bar.kind) for bar in made.bars] == [
        ("find, here", 0.1, "1 B", "bound"),
        ("packetfs sync", 0.5, "5 B", "ours"),
        ("tar over TCP", 1.0, "10 B", "peer"),
    ]


def test_parts_stand_in_the_order_in_which_they_came() -> None:
    row = promise("sustained", True) | {"beside": "", "values": {"part 1": [9.0, "a"], "part 2": [5.0, "b"]}}

    (made,) = promises({"promises": [row]})

    assert [bar.subject for bar in made.bars] == ["part 1", "part 2"]


def test_two_promises_on_the_same_figures_share_their_bars() -> None:
    text = page([("promises", record() | {"promises": [promise("by address", True), promise("by name", False)]})])

    assert text.count("<h3>next release: bytes</h3>") == 1


def test_names_are_text_and_never_markup() -> None:
    assert "A <CPU>" in seen(page([("transfer", record(run("no-op", "<b>bold</b>", 1)))]))


def test_a_curve_has_a_line_for_each_subject_in_the_order_of_x() -> None:
    points = [
        run(f"bytes of data: {x}", name, x, number=n)
        for x in (100, 10)
        for n, name in enumerate(("packetfs sync", "rsync -a"))
    ]
    wire, _ = curves(record(*points))

    assert wire.lines == [
        Line("packetfs sync", [(10.0, 10), (100.0, 100)], ours=True),
        Line("rsync -a", [(10.0, 10), (100.0, 100)], ours=False),
    ]


def test_a_plot_takes_its_colours_from_the_page_and_is_the_same_every_time() -> None:
    plot = Plot(
        "t", "x", str, str, [Line("packetfs sync", [(1, 1), (10, 2)], ours=True), Line("b", [(1, 2)], ours=False)]
    )

    text = drawn(plot)

    assert text == drawn(plot)
    assert "var(--ours)" in text
    assert re.findall(r"#0[0-9a-f]{5}\b", text) == []


def test_an_axis_is_written_in_the_units_of_its_figure() -> None:
    wire, wall = curves(record(run("bytes of data: 1e6", "packetfs sync", 1)))
    (parts, _) = curves(record(run("part that changed: 0.001", "packetfs sync", 1)))

    assert (wire.x_text(2e6), wire.y_text(500.0), wall.y_text(0.5)) == ("2 MB", "500 B", "500 ms")
    assert parts.x_text(0.001) == "0.001"  # not a thousandth of a metre


def test_the_newest_record_of_each_kind_is_taken(tmp_path: Path) -> None:
    for name in (
        "sync-20260101T000000Z",
        "sync-20260201T000000Z",
        "transfer-20250101T000000Z",
        "packetfs sync, TLS-2026",
    ):
        (tmp_path / f"{name}.json").touch()

    assert [path.name for path in newest(tmp_path)] == ["sync-20260201T000000Z.json", "transfer-20250101T000000Z.json"]
    assert kind_of(tmp_path / "sync-20260201T000000Z.json") == "sync"


def test_without_a_record_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.page.RESULTS", tmp_path)

    assert main(["--to", str(tmp_path / "page.html")]) == 1
    assert "python -m bench.sync" in capsys.readouterr().err
