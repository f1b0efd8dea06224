"""Full replicas by the real commands over TLS: followed, promoted, and the old origin back again."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from packetfs.volume import Volume
from tests.end_to_end.served import Served
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.kill()


def position(volume: Path) -> tuple[int, str]:
    with Volume.open(volume) as opened:
        at = opened.position
        return at.seq, at.hash.hex()


def pulled(served: Served, place: str, target: Path) -> Path:
    served("reader", "pull", "--delete", place, target)
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
    done = served("standby", "promote", "--json", replica).event("promote")
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

    served.stop()
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
