"""What whoever runs a server can see of it: numbers, whether it is well, what it did, and what systemd is told."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.conftest import COMMAND
from tests.end_to_end.served import Served
from tests.end_to_end.trees import grow

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    grow(tmp_path / "source", 3)
    return tmp_path / "source"


def asked(served: Served, path: str) -> tuple[int, str]:
    """Status and body of what the server's HTTP answers."""
    url = f"http://127.0.0.1:{served.line('metrics')['port']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def numbers(served: Served) -> dict[str, float]:
    """What is told, by name and labels."""
    status, text = asked(served, "/metrics")
    assert status == 200
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_the_numbers_are_those_that_a_client_reports(served: Served, source: Path, tmp_path: Path) -> None:
    served.start("--metrics", "0")
    served.pair("ada", "--role", "admin")
    before = numbers(served)

    pushed = served("ada", "push", source, served.url("work:main"), "--json").event("transfer")
    after_push = numbers(served)
    served.pair("bob")
    pulled = served("bob", "pull", served.url("work:main"), tmp_path / "target", "--json").event("transfer")
    served("server", "peers", "--root", served.root, "revoke", "ada")
    served("ada", "pull", served.url("work:main"), tmp_path / "target", code=8)
    served.until(lambda: numbers(served)["packetfs_sessions"] == 0, "sessions stay open")
    after = numbers(served)

    def grew(name: str, then: dict[str, float] = before, now: dict[str, float] = after_push) -> float:
        return now[f"packetfs_{name}"] - then.get(f"packetfs_{name}", 0)

    farewell = 16 + 1  # the client counts before it says BYE
    assert pushed["sent_bytes"] <= grew("received_bytes_total") <= pushed["sent_bytes"] + farewell
    assert grew("sent_bytes_total") == pushed["received_bytes"]
    assert grew("received_coded_bytes_total") == pushed["coded_bytes"]
    assert grew("received_literal_bytes_total") == pushed["literal_bytes"]
    assert grew("round_trips_total") == pushed["round_trips"]
    assert grew("commit_seconds_count") == 1
    assert grew('requests_total{request="commit"}') == 1
    assert grew("sent_literal_bytes_total", after_push, after) == pulled["literal_bytes"]
    assert grew("sent_coded_bytes_total", after_push, after) == pulled["coded_bytes"]
    assert after['packetfs_errors_total{code="not-paired"}'] == 1
    assert after["packetfs_sessions_opened_total"] == 2
    assert after["process_resident_memory_bytes"] > 0


def test_names_end_in_their_units_and_each_number_says_what_it_is(served: Served) -> None:
    served.start("--metrics", "127.0.0.1:0")

    _, text = asked(served, "/metrics")

    told = re.findall(r"^# TYPE (packetfs_\w+) (\w+)", text, re.MULTILINE)
    assert len(told) >= 15
    for name, kind in told:
        assert re.search(rf"^# HELP {name} \w", text, re.MULTILINE)
        assert name.endswith("_total") == (kind == "counter")


def test_health_is_whether_a_machine_could_push_now(served: Served, source: Path) -> None:
    served.start("--metrics", "0")
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    well = asked(served, "/healthz")
    (served.root / "team").mkdir()
    shutil.move(served.root / "work", served.root / "team" / "work")
    journal = served.root / "team" / "work" / "journal.db"

    moved = journal.rename(journal.with_name("away"))
    ill = asked(served, "/healthz")
    moved.rename(journal)
    again = asked(served, "/healthz")
    (served.root / ".packetfs" / "peers.json").write_text("{")
    distrusted = asked(served, "/healthz")

    assert (well, again) == ((200, "ok\n"), (200, "ok\n"))
    assert ill[0] == 503
    assert "journal-missing" in ill[1]
    assert distrusted[0] == 503
    assert asked(served, "/else")[0] == 404


def test_without_being_asked_for_there_is_no_http_and_a_port_that_is_taken_is_told(served: Served) -> None:
    served.start("--metrics", "0")
    taken = served.line("metrics")["port"]

    refused = served(
        "server", "serve", "--root", served.root, "--listen", "127.0.0.1:0", "--metrics", str(taken), "--json", code=2
    )

    assert refused.event("error")["code"] == "cannot-listen"
    assert served.stop() == 0
    served.start()
    assert [line["event"] for line in served.lines] == ["listening"]


def test_who_asks_for_numbers_and_says_nothing_keeps_nobody_out(served: Served, source: Path) -> None:
    served.start("--metrics", "0")
    served.pair("ada", "--role", "admin")
    port = served.line("metrics")["port"]
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]

    assert asked(served, "/healthz") == (200, "ok\n")
    served("ada", "push", source, served.url("work:main"))
    assert served.stop() == 0

    for one in silent:
        one.close()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told_when_it_is_ready_and_when_it_ends(served: Served, tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"\0packetfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(60)
        served.start(environment={"NOTIFY_SOCKET": address.replace("\0", "@")})
        ready = systemd.recv(4096).decode().splitlines()
        assert served.stop() == 0
        ends = systemd.recv(4096).decode().splitlines()

    assert ready == ["READY=1", f"STATUS=listening at 127.0.0.1:{served.port}"]
    assert ends[0] == "STOPPING=1"


def test_that_nobody_wants_to_be_notified_is_no_reason_not_to_serve(served: Served, tmp_path: Path) -> None:
    served.start(environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")})

    assert served.stop() == 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_done_for_whom_is_logged_as_text_or_json(served: Served, source: Path, form: str) -> None:
    served.start("--log-format", form)
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    served("mallory", "push", source, served.url("work:main"), code=8)

    assert served.stop(signal.SIGTERM) == 0

    if form == "json":
        logged = [json.loads(line) for line in served.err.splitlines() if line.startswith("{")]
        assert logged == [line for line in served.audit() if line["event"] != "invite"]
    else:
        lines = served.err.splitlines()
        assert any(re.fullmatch(r"commit ok device=\w+ from=\S+ peer=ada volume=work ref=main", line) for line in lines)
        assert lines[0].startswith("start ok")


def test_a_server_listens_on_ipv6(served: Served, source: Path, tmp_path: Path) -> None:
    served.start(host="[::1]")
    served.pair("ada", "--role", "admin")

    served("ada", "push", source, f"pfs://[::1]:{served.port}/work:main")
    served("ada", "pull", f"pfs://[::1]:{served.port}/work:main", tmp_path / "target")

    assert sorted(os.listdir(tmp_path / "target")) == sorted(os.listdir(source))


@pytest.mark.parametrize("unit", ["packetfs.service", "packetfs-hardened.service"])
def test_systemd_takes_the_units(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    text = (Path(__file__).parents[2] / "contrib" / "systemd" / unit).read_text()
    (tmp_path / unit).write_text(text.replace("/usr/local/bin/packetfs", str(COMMAND)))

    seen = subprocess.run(["systemd-analyze", "verify", tmp_path / unit], capture_output=True, text=True, check=False)

    assert [line for line in seen.stderr.splitlines() if unit in line] == []
    assert seen.returncode == 0, seen.stderr
