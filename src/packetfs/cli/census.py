"""Count what a push has before it, beside the push itself, so that it can be told how long the rest takes.

As the push counts: each name, and the bytes of a file once however many names it has. Only for telling: nothing is
decided from these numbers, and what cannot be read is left out.
"""

import os
import stat
import threading
from collections.abc import Sequence


class Census:
    """Files and bytes beneath some paths, counted in a thread of its own once somebody asks."""

    def __init__(self, paths: Sequence[bytes]) -> None:
        self._paths = paths
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._total: tuple[int, int] | None = None

    def total(self) -> tuple[int, int] | None:
        """(files, bytes), or None as long as the counting goes on. The first question starts it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._count, name="census", daemon=True)
            self._thread.start()
        return self._total

    def counted(self) -> tuple[int, int]:
        """(files, bytes), counted while one waits."""
        self._count()
        assert self._total is not None, "it was not stopped"
        return self._total

    def stop(self) -> None:
        """End the counting, finished or not."""
        self._stop.set()

    def _count(self) -> None:
        files = size = 0
        directories: list[bytes] = []
        linked: set[tuple[int, int]] = set()

        def fresh(found: os.stat_result) -> int:
            """Bytes that are not counted yet under another name."""
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in linked:
                    return 0
                linked.add((found.st_dev, found.st_ino))
            return found.st_size

        for path in self._paths:
            try:
                found = os.stat(path)
            except OSError:
                continue
            if stat.S_ISDIR(found.st_mode):
                directories.append(path)
            elif stat.S_ISREG(found.st_mode):
                files, size = files + 1, size + fresh(found)
        while directories and not self._stop.is_set():
            try:
                with os.scandir(directories.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            directories.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            files, size = files + 1, size + fresh(entry.stat(follow_symlinks=False))
            except OSError:
                continue
        if not directories:
            self._total = files, size
