"""The promises in short: every row is in the drawing and in the table, to scale, and nothing else of README changes."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.harness import Reading
from bench.promises import NETWORK, PLAIN, RSYNC_Z, WIRE, Promise, endless, judged
from bench.summary import BEGIN, DRAWING, END, LEFT, RIGHT, drawing, main, placed, summary
from bench.sustained import NAME
from bench.transfer import Run

OURS = "packetfs sync, TLS"
SVG = "{http://www.w3.org/2000/svg}"
MACHINE = {"cpu": "A <CPU>", "cores": 2, "load": [0.1, 0, 0]}


def row(case: str, ours: int | None, rsync: int | None, plain: int = 1_000_000) -> dict[str, Any]:
    taken = {OURS: ours, RSYNC_Z: rsync, PLAIN: plain}
    runs = [Run(case, name, 0, 1, 1, Reading(sent_bytes=sent)) for name, sent in taken.items() if sent is not None]
    return asdict(judged(Promise(NETWORK, case, WIRE, 0.99, (OURS,), "what is new"), runs))


def without_end() -> dict[str, Any]:
    notes = {"part_bytes": 100_000_000, "walls_s": [1.0, 1.0, 1.0], "far_anon_bytes": [1, 1, 1]}
    return asdict(endless(Run(NAME, "packetfs push, TLS", 0, 1, 1, Reading(notes=notes))))


def record(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"taken": "2026-01-02T03:04:05+00:00", "machine": MACHINE, "promises": list(rows)}


def widths(svg: str, kind: str) -> list[float]:
    """Of the bars; the first of them is in the legend."""
    found = [one for one in ET.fromstring(svg).iter(f"{SVG}rect") if one.get("class") == kind]
    return [float(one.attrib["width"]) for one in found[1:]]


def test_the_table_has_every_row_kept_or_not_with_whom_it_is_beside() -> None:
    text = summary(record(row("won", 10_000, 100_000), row("lost", 36_000_000, 6_000_000), row("left out", None, 5)))

    assert "| won: bytes on the wire, both ways | 10 KB (sync, TLS) | tar over TCP 1 MB | 100 KB |" in text
    assert "| 99\u00a0% less, 90\u00a0% less | 99\u00a0% less | kept |" in text
    assert "| 36 x as much, 6 x as much | 99\u00a0% less | **NOT KEPT** |" in text
    assert "| left out: bytes on the wire, both ways | not measured | tar over TCP 1 MB |" in text
    assert "Of 3 rows 1 kept, 1 not kept, 1 not judged." in text
    assert f"]({DRAWING})" in text


def test_a_step_of_the_axis_is_as_wide_as_any_other() -> None:
    svg = drawing([row("won", 10_000, 100_000), row("lost", 100_000_000, 10_000_000)])

    decade = (RIGHT - LEFT) / 4  # from a hundredth to a hundred times
    assert widths(svg, "ours") == pytest.approx([2 * decade, 2 * decade])
    assert widths(svg, "peer") == pytest.approx([decade, decade], abs=0.1)


def test_a_verdict_is_a_word_in_the_drawing_and_not_only_a_colour() -> None:
    svg = drawing([row("won", 1, 2), row("lost", 999_999, 2), row("left out", None, 2)])

    texts = [one.text for one in ET.fromstring(svg).iter(f"{SVG}text")]
    assert [text for text in texts if text in ("kept", "NOT KEPT", "not judged")] == ["kept", "NOT KEPT", "not judged"]


def test_a_rate_by_itself_is_told_in_words_in_both() -> None:
    told = "slowest part 100 MB/s, first third 100 MB/s, last 100 MB/s"

    assert told in summary(record(without_end()))
    assert told in drawing([without_end()])
    assert widths(drawing([without_end()]), "ours") == []


def test_everything_in_the_drawing_is_inside_of_it() -> None:
    root = ET.fromstring(drawing([row("won", 1, 2), row("lost", 36_000_000, 200), without_end()]))
    _, _, width, height = map(float, root.attrib["viewBox"].split())

    boxes = [
        {key: float(one.get(key, "0")) for key in ("x", "y", "width", "height")} for one in root.iter(f"{SVG}rect")
    ]

    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= height for box in boxes)
    assert all(0 < float(one.attrib["y"]) < height for one in root.iter(f"{SVG}text"))


def test_the_drawing_stands_alone_with_its_own_ground_and_colours_for_light_and_dark() -> None:
    svg = drawing([row("won", 1, 2)])

    light, dark = re.findall(r":root \{([^}]*)\}", svg)
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", svg))
    assert used <= set(re.findall(r"(--[a-z0-9-]+):", light))
    assert used <= set(re.findall(r"(--[a-z0-9-]+):", dark))
    assert 'fill="var(--paper)"' in svg
    assert "href" not in svg


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    text = f"# A\n\n{BEGIN}\nold\n{END}\n\n<!-- figures: other -->\n1\n{END}\n"

    assert placed(text, "new") == text.replace("\nold\n", "\n\nnew\n\n")
    assert placed(placed(text, "new"), "new") == placed(text, "new")


def test_the_command_writes_readme_and_the_drawing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    (tmp_path / "promises-1.json").write_text(json.dumps(record(row("won", 1, 2))))

    assert main(["--record", str(tmp_path / "promises-1.json"), "--readme", str(tmp_path / "README.md")]) == 0

    assert "won: bytes on the wire" in (tmp_path / "README.md").read_text()
    assert (tmp_path / DRAWING).read_text().startswith("<svg")


def test_without_a_record_or_a_place_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.summary.RESULTS", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("no marks")

    assert main(["--readme", str(readme)]) == 1
    (tmp_path / "promises-20260101T000000Z.json").write_text(json.dumps(record(row("won", 1, 2))))
    assert main(["--readme", str(readme)]) == 1

    assert readme.read_text() == "no marks"


def test_the_front_page_has_the_place_for_it() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()

    assert text.count(BEGIN) == 1
    assert END in text.partition(BEGIN)[2]
