"""Many clients of one server at once, and a server that is killed meanwhile. How fast is for bench/load.py to say."""

import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import packetfs
from bench.load import at_once, sustained
from packetfs.errors import UnavailableError
from tests.end_to_end.served import Served
from tests.end_to_end.trees import difference, facts

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
@pytest.mark.parametrize("one_ref", [False, True], ids=["a ref each", "one ref"])
def test_all_clients_that_push_at_once_succeed(tmp_path: Path, one_ref: bool, many: Callable[[int, int], int]) -> None:
    """On one ref those that others overtake try again, with a pause that is drawn."""
    clients = many(12, 64)

    seen = at_once(tmp_path, clients, 1, one_ref=one_ref)

    assert seen.failed == 0
    assert one_ref or seen.retried == 0
    for volume in (tmp_path / "served").glob("load-*"):
        with packetfs.open(volume) as opened:
            assert packetfs.verify(opened).sound
            snapshots = {ref.name: len(list(opened.log(ref.name))) for ref in opened.refs()}
        if volume.name == "load-many":
            assert snapshots == ({"main": clients} if one_ref else {f"c{number}": 1 for number in range(clients)})


@pytest.mark.timeout(1200)
def test_small_pushes_beside_idle_sessions_all_succeed_and_memory_stays_flat(
    tmp_path: Path, many: Callable[[int, int], int]
) -> None:
    seconds = many(4, 600)

    seen = sustained(tmp_path, many(30, 1000), many(20, 200), seconds)

    print(seen)
    assert seen.failed == 0
    assert seen.pushes == many(20, 200) * seconds
    assert max(seen.anonymous_mib) <= 400
    if seconds >= 600:
        assert seen.anonymous_mib[-1] - seen.anonymous_mib[4] <= 32


class Pusher:
    """Pushes to a ref of its own until the server is gone; knows what it was told."""

    def __init__(self, place: Path, name: str) -> None:
        self.name = name
        self.told: list[str] = []
        self.tried: list[str] = []
        self.errors: list[BaseException] = []
        self._place = place / name
        (self._place / "source").mkdir(parents=True)

    def run(self, url: str) -> None:
        try:
            with packetfs.connect(url, create=True, replica=str(self._place / "replica")) as session:
                while True:
                    number = f"{len(self.tried)}"
                    (self._place / "source" / "file").write_text(f"{number} of {self.name}\n" * 50)
                    self.tried.append(number)
                    packetfs.push(session, [self._place / "source"], self.name, message=number)
                    self.told.append(number)
        except UnavailableError:
            return  # the server was killed
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            self.errors.append(error)

    def check(self, volume: packetfs.Volume, target: Path) -> None:
        """What it was told is there, in order; of what it was not told, each is there or is not."""
        found = [snapshot.message for snapshot in volume.log(self.name)][::-1]
        assert [number for number in self.told if number not in found] == []
        assert found == [number for number in self.tried if number in found]
        packetfs.pull(volume, self.name, target, delete=True)
        assert (target / "file").read_text() == f"{found[-1]} of {self.name}\n" * 50


def have_been_told(pushers: list[Pusher], count: int) -> bool:
    return sum(len(pusher.told) for pusher in pushers) >= count


@pytest.mark.timeout(3600)
def test_what_a_server_has_acknowledged_survives_that_it_is_killed_at_any_instant_under_load(
    served: Served, tmp_path: Path, many: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six clients commit in groups; after each kill the volume is whole, and the same clients go on with it."""
    served.start()
    served.pair("ada", "--role", "admin")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "ada"))
    choice = random.Random("server")
    pushers = [Pusher(tmp_path / "pushers", f"p{number}") for number in range(6)]
    for _ in range(many(20, 500)):
        told = sum(len(pusher.told) for pusher in pushers)
        threads = [threading.Thread(target=pusher.run, args=(served.url("work"),)) for pusher in pushers]
        for thread in threads:
            thread.start()
        served.until(partial(have_been_told, pushers, told + 1), "nobody was told", 20_000)
        served.kill_within(choice.uniform(0, 0.3))
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()

        assert [pusher.errors for pusher in pushers] == [[]] * len(pushers)
        with packetfs.open(served.root / "work") as volume:
            volume.check_journal()
            assert packetfs.verify(volume).sound
            for pusher in pushers:
                if pusher.told:
                    pusher.check(volume, tmp_path / "target" / pusher.name)
        served.start(port=served.port)
    assert all(pusher.told for pusher in pushers)
    served("ada", "pull", served.url("work:p0"), tmp_path / "last")
    assert difference(facts(tmp_path / "target" / "p0"), facts(tmp_path / "last")) == []
