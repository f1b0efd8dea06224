"""Fresh data for as long as it takes: one part after the other into one volume on a server, each timed by itself.

A part is one incompressible file that was never there before. It is pushed by a new process to the same server, pulled
back there, compared, and removed with what was pulled; the volume keeps it. So all parts together may be larger than
what the disk could hold three times.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.cases import PUSH_TLS, SEED, Case
from bench.harness import NEW_DAY_NS, Link, Machines, Reading, Scene, Subject, check, made, staged
from bench.transfer import Run
from bench.workloads import MIB

NAME = "fresh data without end"
DECAY_MIN = 0.9  # the last third's rate, of the first third's
GROWTH_MAX = 1.25  # the last third's memory, of the first third's


def case(parts: int, part_mib: int) -> Case:
    """So many parts of that size, one after the other."""
    story = f"{parts} incompressible files of {part_mib:,} MiB, each pushed once it was made; a part's rate"
    by = partial(measure, parts=parts, part_mib=part_mib)
    return Case(NAME, story, None, lambda _: None, (), (PUSH_TLS,), link=Link(), by=by)


def measure(
    machines: Machines, case: Case, subject: Subject, place: Path, number: int, *, parts: int, part_mib: int
) -> Run:
    """All parts; the reading is of them together, and its notes are of each."""
    readings: list[Reading] = []
    with staged(machines, subject, place / "round", case.link) as scene:
        for part in range(parts):
            made(scene.source, partial(_write, part, part_mib), NEW_DAY_NS + part)
            readings.append(subject.run(scene))
            _check_and_remove(subject, scene)
    notes: dict[str, object] = {
        "part_bytes": part_mib * MIB,
        "walls_s": [reading.wall_s for reading in readings],
        "near_anon_bytes": [reading.near_anon_bytes for reading in readings],
        "far_anon_bytes": [reading.far_anon_bytes for reading in readings],
    }
    return Run(case.name, subject.name, number, parts * part_mib * MIB, parts, replace(_sum(readings), notes=notes))


def thirds(values: list[float]) -> tuple[float, float]:
    """The mean of the first third of some values, and that of the last."""
    count = max(1, len(values) // 3)
    return sum(values[:count]) / count, sum(values[-count:]) / count


def _write(part: int, mib: int, place: Path) -> None:
    dice = random.Random(SEED + part)
    with (place / f"part-{part}.bin").open("wb") as file:
        for _ in range(mib):
            file.write(dice.randbytes(MIB))


def _check_and_remove(subject: Subject, scene: Scene) -> None:
    check(subject, scene)
    shutil.rmtree(scene.far / "out")
    for path in scene.source.iterdir():
        path.unlink()


def _sum(readings: list[Reading]) -> Reading:
    return Reading(
        wall_s=sum(reading.wall_s for reading in readings),
        sync_s=sum(reading.sync_s for reading in readings),
        sent_bytes=sum(reading.sent_bytes for reading in readings),
        received_bytes=sum(reading.received_bytes for reading in readings),
        retransmitted_segments=sum(reading.retransmitted_segments for reading in readings),
        connections=sum(reading.connections for reading in readings),
        near_cpu_s=sum(reading.near_cpu_s for reading in readings),
        far_cpu_s=sum(reading.far_cpu_s for reading in readings),
        near_anon_bytes=max(reading.near_anon_bytes for reading in readings),
        far_anon_bytes=max(reading.far_anon_bytes for reading in readings),
    )
