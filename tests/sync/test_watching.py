"""When an operation is run again, against a clock of the test's own."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs import kernel
from packetfs.env import SystemEnv
from packetfs.errors import DamagedError, PacketFSError, UnavailableError
from packetfs.sync import watching


class _Clock(SystemEnv):
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic_s(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def random_bytes(self, count: int) -> bytes:
        return bytes(count)


def follow(top: Path, outcomes: list[PacketFSError | None], retry_s: float | None) -> list[float]:
    """Run an operation with these outcomes, and each time change what is watched; the pauses before it was tried again.

    It ends with the outcome that is not tried again, which is the last.
    """
    clock, told = _Clock(), list[float]()
    left = iter(outcomes)

    def operation() -> None:
        (top / "changed").write_bytes(b"")
        if (error := next(left)) is not None:
            raise error

    directories = [bytes(top)]
    with pytest.raises(PacketFSError) as caught:
        watching.follow(
            watching.watch(directories),
            operation,
            directories=directories,
            retry_s=retry_s,
            failed=lambda _, pause_s: told.append(pause_s),
            env=clock,
        )
    assert caught.value is outcomes[-1]
    assert list(left) == []
    assert told == clock.slept
    return told


GONE = UnavailableError("gone")


def test_what_time_may_mend_is_tried_again_ever_more_slowly(tmp_path: Path) -> None:
    assert follow(tmp_path, [None, GONE, GONE, GONE, None, GONE, DamagedError("")], None) == [0, 1, 2, 0]


def test_after_the_time_it_was_given_the_error_is_the_users(tmp_path: Path) -> None:
    assert follow(tmp_path, [None, GONE, GONE, GONE, GONE], 6) == [0, 1, 2]


def test_the_first_failure_is_not_tried_again(tmp_path: Path) -> None:
    assert follow(tmp_path, [UnavailableError("no such host")], None) == []


@given(attempt=st.integers(0, 10_000), dice=st.integers(0, 255))
def test_pauses_grow_to_a_minute_and_differ(attempt: int, dice: int) -> None:
    whole_s = watching.delay_s(attempt, 0)

    assert whole_s == (0 if attempt == 0 else min(60, 2 ** min(attempt - 1, 10)))
    assert whole_s / 2 <= watching.delay_s(attempt, dice) <= whole_s


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "max_user_watches"), (errno.EMFILE, "max_user_instances")])
def test_a_limit_of_the_system_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, hint: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "")

    monkeypatch.setattr(kernel, "Watch", refuse)

    with pytest.raises(UnavailableError, match="watch") as caught:
        watching.watch([bytes(tmp_path)])
    assert hint in caught.value.hint
    assert caught.value.code == "too-many-watches"
