"""Counting beside a push."""

import os
from pathlib import Path

from packetfs.cli.census import Census


def test_files_and_their_bytes_are_counted_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "ten").write_bytes(b"x" * 10)
    (tmp_path / "five").write_bytes(b"x" * 5)
    (tmp_path / "link").symlink_to("five")
    os.mkfifo(tmp_path / "pipe")
    census = Census([os.fsencode(tmp_path), os.fsencode(tmp_path / "five"), b"/does/not/exist"])

    census.total()
    assert census._thread is not None
    census._thread.join()

    assert census.total() == (3, 20)


def test_a_file_of_several_names_has_its_bytes_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 7)
    os.link(tmp_path / "one", tmp_path / "two")
    census = Census([os.fsencode(tmp_path)])

    census.total()
    assert census._thread is not None
    census._thread.join()

    assert census.total() == (2, 7)


def test_a_stopped_census_tells_nothing(tmp_path: Path) -> None:
    census = Census([os.fsencode(tmp_path)])
    census.stop()

    census.total()
    assert census._thread is not None
    census._thread.join()

    assert census.total() is None
