"""Processes that are killed at random instants, until enough of them were."""

import random
import subprocess
import time
from collections.abc import Callable, Iterator

EARLIEST_S = 0.03  # before that the interpreter has not begun
TRIES_PER_KILL = 8


class Kills:
    """Iterating gives the number of each try until `wanted` processes were killed; a try is one call of `within`.

    The instants are spread over what the command lately took, so that a fast machine kills as often as a slow one.
    """

    def __init__(self, wanted: int, seed: str, lasts_s: float) -> None:
        self.done = 0
        self._wanted = wanted
        self._choice = random.Random(seed)
        self._lasts_s = lasts_s

    def __iter__(self) -> Iterator[int]:
        for number in range(self._wanted * TRIES_PER_KILL):
            if self.done == self._wanted:
                return
            yield number
        assert self.done == self._wanted, f"only {self.done} of {self._wanted} kills came before the command had ended"

    def within(self, process: subprocess.Popen[bytes], kill: Callable[[], None]) -> str:
        """Kill at a random instant unless the command ends before; what it wrote to standard error."""
        began_s = time.monotonic()
        try:
            _, err = process.communicate(timeout=self._choice.uniform(EARLIEST_S, max(self._lasts_s, 2 * EARLIEST_S)))
            self._lasts_s = min(self._lasts_s, time.monotonic() - began_s)
        except subprocess.TimeoutExpired:
            self.done += 1
            self._lasts_s *= 1.05
            kill()
            _, err = process.communicate()
        return err.decode("utf-8", "replace")
