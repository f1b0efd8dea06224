"""Full replicas by the real commands over TLS: followed, promoted, and the old origin back again."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packetfs.sync import scrub
from packetfs.volume import Volume, forget, gc
from tests.end_to_end.conftest import COMMAND, SSH, environment
from tests.end_to_end.faults import Commands, Ended, Fault, commands
from tests.end_to_end.served import Served
from tests.end_to_end.test_crash_points import read_back
from tests.end_to_end.trees import change, difference, facts, grow

Many = Callable[[int, int], int]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def position(volume: Path) -> tuple[int, str]:
    with Volume.open(volume) as opened:
        at = opened.position
        return at.seq, at.hash.hex()


def pulled(served: Served, place: str, target: Path) -> Path:
    served("writer", "pull", "--delete", place, target)
    return target


def test_a_replica_follows_serves_reads_and_takes_over(served: Served, tmp_path: Path) -> None:
    source, replica = tmp_path / "source", tmp_path / "replica"
    grow(source, 1, files=20, large_bytes=1 << 20)
    served.start()
    served.pair("writer", "--role", "admin", "--volume", "*")
    served.pair("standby", "--role", "admin", "--volume", "photos")
    served("writer", "push", source, served.url("photos:main"))

    made = served("standby", "replicate", "--once", "--json", served.url("photos"), replica)

    assert made.event("replicate")["created"] is True
    assert made.event("followed") | {"lag_bytes": 0, "lag_s": 0.0, "entries": 1} == made.event("followed")
    assert difference(facts(source), facts(pulled(served, f"{replica}::main", tmp_path / "read"))) == []
    assert position(replica) == position(served.root / "photos")

    following = served.begin("standby", "replicate", "--json", served.url("photos"), replica)
    assert following.stdout is not None
    change(source, 1)
    served("writer", "push", source, served.url("photos:main"))
    while (line := json.loads(following.stdout.readline()))["event"] != "followed" or not line["entries"]:
        pass
    assert line["position_seq"] == 2
    status = served("standby", "status", "--json", replica).event("status")
    assert (status["role"], status["lag_bytes"], status["lag_s"]) == ("replica", 0, 0.0)
    busy = served("standby", "promote", replica, code=6)
    assert "brings this replica up to date" in busy.err
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=60)
    assert following.returncode == 130

    refused = served("standby", "push", source, f"{replica}::main", code=8)
    assert "is a replica of" in refused.err
    served.stop()
    promoted = served("standby", "promote", "--json", replica)
    assert "could not be told" in promoted.event("notice")["message"]
    done = promoted.event("promote")
    assert done["continued_seq"] == 2
    assert done["epoch"] > 0
    change(source, 2)
    served("standby", "push", source, f"{replica}::main")
    served("standby", "verify", replica)
    assert difference(facts(source), facts(pulled(served, f"{replica}::main", tmp_path / "read"))) == []


def test_it_goes_on_after_an_outage_and_only_an_admin_may_have_one(served: Served, tmp_path: Path) -> None:
    source, replica = tmp_path / "source", tmp_path / "replica"
    grow(source, 3, files=20)
    served.start()
    served.pair("writer", "--role", "admin", "--volume", "*")
    served("writer", "push", source, served.url("v:main"))
    for role in ("read", "write"):
        served.pair(role, "--role", role, "--volume", "v")
        refused = served(role, "replicate", "--once", served.url("v"), tmp_path / f"at-{role}", code=8)
        assert "`admin`" in refused.err
        assert not (tmp_path / f"at-{role}").exists()
    following = served.begin("writer", "replicate", "--json", served.url("v"), replica)
    assert following.stdout is not None
    while json.loads(following.stdout.readline())["event"] != "followed":
        pass

    served.kill()
    warned = json.loads(following.stdout.readline())
    while warned["event"] == "followed":
        warned = json.loads(following.stdout.readline())
    assert warned["event"] == "notice"
    served.start(port=served.port)
    change(source, 3)
    served("writer", "push", source, served.url("v:main"))

    while True:
        line = json.loads(following.stdout.readline())
        if line["event"] == "followed" and line["position_seq"] == 2:
            break
    following.send_signal(signal.SIGTERM)
    following.communicate(timeout=60)
    assert position(replica) == position(served.root / "v")
    assert os.path.exists(replica / "replica")


class Pair:
    """Two machines and a pipe that stands in for ssh, in memory; commands of the first can be made to die anywhere."""

    def __init__(self, place: Path, run: Commands, ssh: Path) -> None:
        self.place = place
        self.run = run
        self._options = ("-e", str(ssh), "--remote-packetfs", str(COMMAND))

    def replicate(self, origin: str, directory: Path, fault: Fault | None = None) -> Ended:
        return self.run("replicate", "--once", *self._options, f"far:{origin}", directory, fault=fault, code=None)

    def restore(self, **volumes: Path) -> None:
        for name, saved in volumes.items():
            shutil.rmtree(self.place / name, ignore_errors=True)
            if saved.exists():
                shutil.copytree(saved, self.place / name)


@pytest.fixture
def pair(memory: Path) -> Iterator[Pair]:
    script = memory / "ssh"
    script.write_text(SSH)
    script.chmod(0o755)
    (memory / "far").mkdir()
    with commands(environment(memory) | {"PACKETFS_TEST_HOME": str(memory / "far")}) as run:
        yield Pair(memory, run, script)


def died(ended: Ended) -> bool:
    assert ended.code in (0, -signal.SIGKILL), ended.err
    return ended.code != 0


def checked(volume: Path) -> tuple[int, str]:
    """Its position; all that it names is whole."""
    with Volume.open(volume) as opened:
        assert opened.check_journal() == opened.position
        assert scrub.verify(opened, restart=True).sound
        for ref in opened.refs():
            read_back(opened, ref.name)
    return position(volume)


def steps(many: Many) -> Iterator[int]:
    """The n of the n-th sync, rename or removal: some of them, or all."""
    n = 1
    while True:
        yield n
        n += many(3, 1)


def test_a_replica_that_dies_at_any_sync_is_at_a_position_of_its_origin_and_goes_on(pair: Pair, many: Many) -> None:
    place = pair.place
    source, origin, replica, before = place / "source", place / "far" / "v", place / "replica", place / "before"
    grow(source, 7, files=20, large_bytes=300_000)
    positions = {(0, "")}
    for number in range(4):
        change(source, number) if number else None
        pair.run("push", source, f"{origin}::main")
        positions.add(position(origin))
        if number == 1:
            assert not died(pair.replicate("v", before))
    with Volume.open(origin) as volume:
        forget.forget(volume, "main", [next(iter(volume.snapshots()))[1]])
        gc.collect(volume, grace_s=0)
        positions |= {(seq, at.hash.hex()) for seq in range(1, 9) if (at := volume.at(seq)) is not None}
    for begun in (before, place / "nothing"):
        count = 0
        for n in steps(many):
            pair.restore(replica=begun)
            if not died(pair.replicate("v", replica, Fault(n))):
                break
            count += 1
            if replica.exists():
                found = checked(replica)
                assert found in positions or found[0] == 0
            assert not died(pair.replicate("v", replica))
            assert checked(replica) == position(origin)
        assert count > 2, "there are more syncs than that"


def test_a_promotion_that_dies_at_any_sync_has_happened_or_not(pair: Pair) -> None:
    place = pair.place
    source, replica, before = place / "source", place / "replica", place / "before"
    grow(source, 8, files=20)
    pair.run("push", source, f"{place / 'far' / 'v'}::main")
    pair.replicate("v", before)
    n = 0
    while True:
        n += 1
        pair.restore(replica=before)
        if not died(pair.run("promote", replica, fault=Fault(n), code=None)):
            break
        checked(replica)
        again = pair.run("promote", replica, code=None)
        # At the very end it is done, and nothing is left that says so.
        assert again.code == 0 or "but the origin of its volume" in again.err
        assert position(replica)[0] == 2
        pair.run("push", "--always", source, f"{replica}::main")
        assert not (replica / "replica").exists()
        checked(replica)
    assert n > 3


def test_coming_back_can_die_at_any_sync_and_loses_nothing(pair: Pair, many: Many) -> None:
    """At each of them what the old origin has alone is there: in it, or at the new one."""
    place = pair.place
    source, old, new = place / "source", place / "old", place / "far" / "new"
    grow(source, 9, files=20, large_bytes=200_000)
    pair.run("push", source, f"{place / 'far' / 'v'}::main")
    pair.replicate("v", place / "replica")
    pair.run("promote", place / "replica")
    change(source, 1)
    pair.run("push", source, f"{place / 'replica'}::main")
    for seed in (2, 3):
        change(source, seed)
        pair.run("push", source, f"{place / 'far' / 'v'}::main")
    with Volume.open(place / "far" / "v") as volume:
        alone = [tree_at(volume, "main", number) for number in (0, 1)]
    saved_old, saved_new = place / "saved-old", place / "saved-new"
    shutil.move(place / "far" / "v", saved_old)
    shutil.move(place / "replica", saved_new)
    count = 0
    for n in steps(many):
        pair.restore(old=saved_old)
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(saved_new, new)
        if not died(pair.replicate("new", old, Fault(n))):
            break
        count += 1
        with Volume.open(old) as volume:
            assert scrub.verify(volume, restart=True).sound
        checked(new)
        assert not died(pair.replicate("new", old))
        assert checked(old) == checked(new)
        with Volume.open(old) as volume:
            (conflict,) = [ref.name for ref in volume.refs() if ".conflict-0-" in ref.name]
            assert [tree_at(volume, conflict, number) for number in (0, 1)] == alone
            assert len(list(volume.log(conflict))) == 2
    assert count > 4, "there are more syncs than that"


def tree_at(volume: Volume, ref: str, back: int) -> dict[bytes, bytes]:
    """Every file of a snapshot."""
    snapshot = list(volume.log(ref))[back]
    found: dict[bytes, bytes] = {}
    waiting = [(b"", volume.root(snapshot))]
    while waiting:
        path, entry = waiting.pop()
        if entry.page is not None:
            waiting += [(path + b"/" + inner.name, inner) for inner in volume.entries(entry)]
        else:
            found[path] = b"".join(volume.read(entry)) if entry.kind == "file" else entry.target
    return found


def test_an_old_origin_back_again_is_told_and_rejoins(served: Served, tmp_path: Path) -> None:
    """Written on both sides of a partition; what only the old one had is pulled back from the new one, equal."""
    source, standby = tmp_path / "source", tmp_path / "served" / "standby"
    grow(source, 4, files=20, large_bytes=1 << 20)
    served.start()
    for machine in ("writer", "standby", "old"):
        served.pair(machine, "--role", "admin", "--volume", "*")
    served("writer", "push", source, served.url("v:main"))
    served("standby", "replicate", "--once", served.url("v"), standby)
    old = tmp_path / "old-volume"
    shutil.move(served.root / "v", old)  # the machine is cut off, and goes on by itself
    change(source, 5)
    served("old", "push", source, f"{old}::main")
    alone = tmp_path / "alone"
    subprocess.run(["cp", "-a", source, alone], check=True)
    served("standby", "promote", standby)
    change(source, 6)
    served("writer", "push", source, served.url("standby:main"))

    done = served("old", "replicate", "--once", "--json", served.url("standby"), old)

    line = done.event("rejoined")
    assert line["fork_seq"] == 1
    (kept,) = line["conflicts"]
    assert (kept["ref"], kept["snapshots"]) == ("main", 1)
    assert position(old) == position(standby)
    for place in (f"{old}::{kept['conflict']}", served.url(f"standby:{kept['conflict']}")):
        assert difference(facts(alone), facts(pulled(served, place, tmp_path / "read-alone"))) == []
    assert difference(facts(source), facts(pulled(served, f"{old}::main", tmp_path / "read"))) == []
    refused = served("old", "push", source, f"{old}::main", code=8)
    assert "is a replica of" in refused.err
    assert served("old", "status", "--json", old).event("status")["role"] == "replica"
    change(source, 7)
    served("writer", "push", source, served.url("standby:main"))
    served("old", "replicate", "--once", served.url("standby"), old)
    assert position(old) == position(standby)
    served("old", "verify", old)


def test_a_promotion_tells_an_old_origin_that_can_be_reached(served: Served, tmp_path: Path) -> None:
    """From then on it commits nothing, and still answers who reads."""
    source, replica = tmp_path / "source", tmp_path / "replica"
    grow(source, 11, files=20)
    served.start()
    served.pair("writer", "--role", "admin", "--volume", "*")
    served("writer", "push", source, served.url("v:main"))
    served("writer", "replicate", "--once", served.url("v"), replica)

    done = served("writer", "promote", replica)

    assert "the old origin was told" in done.err
    change(source, 1)
    refused = served("writer", "push", source, served.url("v:main"), code=8)
    assert "is fenced" in refused.err
    assert served("server", "status", "--json", served.root / "v").event("status")["role"] == "fenced"
    served("writer", "ls", served.url("v:main"))


def test_a_clone_is_not_promoted(served: Served, tmp_path: Path) -> None:
    grow(tmp_path / "source", 1)
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", tmp_path / "source", served.url("v:main"))
    served("ada", "clone", "--full", served.url("v"), tmp_path / "clone")

    refused = served("ada", "promote", tmp_path / "clone", "--json", code=8).event("error")

    assert refused["code"] == "not-a-replica"
    assert "packetfs replicate" in refused["hint"]
