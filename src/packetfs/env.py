"""The clock, chance and the machine's name: the only door to them, passed in so that tests decide.

Nothing else in the package asks the time, sleeps or draws random bytes.
"""

import os
import pwd
import time
from typing import Final, Protocol

__all__ = ["SYSTEM", "Env", "SystemEnv"]


class Env(Protocol):
    """What a program gets from outside apart from its files."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since 1970 UTC. May jump."""

    def monotonic_s(self) -> float:
        """Seconds that only grow, for deadlines and rates."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def random_bytes(self, count: int) -> bytes:
        """Bytes nobody can guess."""

    def host(self) -> str:
        """The name of this machine, as snapshots record it."""

    def user(self) -> str:
        """The name of the user, as snapshots record it."""


class SystemEnv:
    """The real thing."""

    def now_ns(self) -> int:  # noqa: D102 - see Env
        return time.time_ns()

    def monotonic_s(self) -> float:  # noqa: D102 - see Env
        return time.monotonic()

    def sleep(self, seconds: float) -> None:  # noqa: D102 - see Env
        time.sleep(seconds)

    def random_bytes(self, count: int) -> bytes:  # noqa: D102 - see Env
        return os.urandom(count)

    def host(self) -> str:  # noqa: D102 - see Env
        return os.uname().nodename

    def user(self) -> str:  # noqa: D102 - see Env
        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a uid without a name, as in many containers
            return str(os.getuid())


SYSTEM: Final[Env] = SystemEnv()
