"""Several processes at one volume, and one that is killed in the middle of a large push."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from packetfs.volume import Volume, sources_of
from tests.volume.conftest import on_disk, stored

pytestmark = pytest.mark.slow

PUSHES = """
import os, sys
from packetfs.errors import ConflictError
from packetfs.volume import Volume, sources_of
path, source, ref, count = sys.argv[1:]
for number in range(int(count)):
    with open(os.path.join(source, "file"), "wb") as file:
        file.write(os.urandom(200_000))
    try:
        with Volume.open(path, create=True) as volume:
            print(volume.push(sources_of([source]), ref).snapshot.name)
    except ConflictError as error:
        print(error.code)
"""


@pytest.mark.parametrize("writers", [2, 8])
def test_every_push_commits_or_conflicts_and_readers_see_whole_snapshots(writers: int, tmp_path: Path) -> None:
    """They race to make the volume, for leases, and half of them for one ref."""
    path = tmp_path / "volume"
    running = []
    for number in range(writers):
        source = tmp_path / f"source-{number}"
        source.mkdir()
        ref = "same" if number % 2 else f"own-{number}"
        command = [sys.executable, "-c", PUSHES, str(path), str(source), ref, "6"]
        running.append((ref, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)))
    with Volume.open(path, create=True) as reader:
        while any(process.poll() is None for _, process in running):
            for found in reader.refs():
                assert [len(content or b"") for content in stored(reader, found.snapshot).values()] == [200_000]
    said: dict[str, list[str]] = {}
    for ref, process in running:
        out, err = process.communicate()
        assert process.returncode == 0, err
        said.setdefault(ref, []).extend(out.split())

    with Volume.open(path) as volume:
        for ref, answers in said.items():
            committed = [answer for answer in answers if answer != "ref-moved"]
            assert {snapshot.name for snapshot in volume.log(ref)} == set(committed)
            assert len(committed) == 6 if ref.startswith("own") else committed
        assert volume.check_journal().seq == sum(a != "ref-moved" for answers in said.values() for a in answers)
        for segment, head, _ in volume.segments():
            assert volume.space.verify(segment, 0, 1 << 30)[1:] == (head, [])


KILLED = """
import sys
from packetfs import kernel
from packetfs.volume import Volume, sources_of
with Volume.open(sys.argv[1]) as volume:
    kernel.crash_at(int(sys.argv[3]))
    volume.push(sources_of([sys.argv[2]]), "main")
"""


@pytest.mark.parametrize("point", [9, 12])
def test_what_a_killed_push_had_made_durable_is_not_stored_again(point: int, tmp_path: Path) -> None:
    """Points at which at least the first lease of 64 MiB has been recorded."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        (source / str(number)).write_bytes(random.Random(number).randbytes(36 << 20))
    with Volume.create(tmp_path / "volume") as volume:
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, volume.path, source, str(point)], capture_output=True, check=False
        )
        assert ended.returncode == -9, ended.stderr
        recorded = sum(head for _, head, _ in volume.segments())
        assert volume.refs() == []

        report = volume.push(sources_of([source]), "main")

        assert recorded > 60 << 20
        assert recorded - (1 << 20) <= report.statistics.known_bytes <= recorded
        assert report.statistics.known_bytes + report.statistics.new_bytes == 5 * (36 << 20)
        assert report.snapshot is not None
        assert stored(volume, report.snapshot) == on_disk(source)
