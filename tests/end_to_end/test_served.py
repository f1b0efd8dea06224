"""The real server and the real commands over TLS: everyday work, rights, and those who have none."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from packetfs.errors import PacketFSError
from packetfs.release import VERSION
from packetfs.sync.link import Link
from packetfs.sync.listen import HANDSHAKES_MAX
from packetfs.sync.root import Root
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.frames import FrameType, encode
from tests.end_to_end.served import Counting, Served
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    grow(tmp_path / "source", 11)
    return tmp_path / "source"


def codes(served: Served, event: str) -> list[str]:
    return [line["result"] for line in served.audit() if line["event"] == event]


def has_more(served: Served, event: str, count: int) -> bool:
    return len(codes(served, event)) > count


# -- everyday work -----------------------------------------------------------------------------------------------------


def test_everyday_work_on_a_server(served: Served, source: Path, tmp_path: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served.pair("bob", "--role", "read")
    main = served.url("work:main")

    first = served("ada", "push", source, main, "--json")
    again = served("ada", "push", source, main, "--json")
    change(source, 11)
    served("ada", "push", source, main)
    served("bob", "pull", main, tmp_path / "target")
    assert difference(facts(source), facts(tmp_path / "target")) == []
    listed = served("bob", "ls", "-R", served.url("work:main@~1"))
    log = served("bob", "log", main, "--json")
    diff = served("bob", "diff", served.url("work:main@~1"), main, "--json")
    cat = served("bob", "cat", served.url("work:main/large"))
    status = served("bob", "status", served.url("work"), "--json")
    refs = served("bob", "refs", served.url("work"), "--json")
    found = served("bob", "find", "large", main, "--json")
    streamed = served("ada", "push", "-", "--name", "x", served.url("work:stream"), "--json", stdin=b"x" * 100_000)
    served("bob", "clone", "--full", served.url("work"), tmp_path / "clone")
    assert served.stop() == 0

    assert first.event("push")["created"] is True
    assert again.event("push")["created"] is False
    assert again.event("transfer")["round_trips"] == 1
    assert b"large\n" in listed.out
    assert len(log.events) == 2
    assert {event["change"] for event in diff.events if event["event"] == "difference"} >= {"added", "changed"}
    assert cat.out == (source / "large").read_bytes()
    assert status.event("status")["snapshots"] == 2
    assert refs.event("ref")["ref"] == "main"
    assert found.event("find")["paths"] == 1
    assert streamed.event("push")["created"] is True
    shutil.rmtree(tmp_path / "target")
    served("carol", "pull", f"{tmp_path}/clone::main", tmp_path / "target")
    assert difference(facts(source), facts(tmp_path / "target")) == []
    served("server", "verify", served.root / "work")


def test_nothing_to_do_costs_three_round_trips_and_four_kilobytes_with_all_that_tls_says(
    served: Served, source: Path
) -> None:
    """A new process, a new connection, a handshake with both certificates, the question, the answer, the farewell."""
    served.start()
    counting = Counting(served.port)
    token = served.invite("--role", "admin")
    served("ada", "pair", "--address", f"127.0.0.1:{counting.port}", token)
    place = f"pfs://127.0.0.1:{counting.port}/work:main"
    served("ada", "push", source, place)
    counting.reset()

    pushed = served("ada", "push", source, place, "--json")
    counting.close()
    bytes_, turns = counting.bytes, counting.turns

    print(f"cold no-op: {bytes_} bytes, {turns + 1} round trips")
    assert pushed.event("push")["created"] is False
    assert turns + 1 <= 3
    assert bytes_ <= 4096


def test_a_damaged_volume_is_repaired_from_a_server(served: Served, source: Path, tmp_path: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    served("ada", "clone", "--full", served.url("work"), tmp_path / "clone")
    for path in (tmp_path / "clone" / "segments").glob("*.data"):
        with path.open("r+b") as file:
            file.seek(20_000)
            file.write(bytes(3000))

    damaged = served("ada", "verify", tmp_path / "clone", code=5)
    served("ada", "verify", "--repair-from", served.url("work"), tmp_path / "clone")

    assert "damaged" in damaged.err
    served("ada", "verify", tmp_path / "clone")


def test_a_server_ends_in_good_order_while_it_is_used(served: Served, tmp_path: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "noise").write_bytes(os.urandom(100 << 20))
    push = served.begin("ada", "push", tmp_path / "source", served.url("work:main"))
    served.until(lambda: "hello" in {line["event"] for line in served.audit()}, "the push did not begin", 20_000)

    assert served.stop(signal.SIGINT) == 0
    _, err = push.communicate(timeout=60)
    served.start(port=served.port)
    served("ada", "push", tmp_path / "source", served.url("work:main"))

    assert push.returncode in (0, 7), err
    served("server", "verify", served.root / "work")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", ["client", "server"])
def test_a_push_that_is_killed_on_either_side_is_finished_by_running_it_again(
    served: Served, tmp_path: Path, victim: str, many: Callable[[int, int], int]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    grow(source, 4)
    served.start()
    served.pair("ada", "--role", "admin")
    main = served.url("work:main")
    served("ada", "push", source, main)
    committed = facts(source)
    for seed in range(many(3, 100)):
        change(source, seed)
        (source / "noise").write_bytes(os.urandom(20 << 20))
        hellos = codes(served, "hello")
        push = served.begin("ada", "push", source, main)
        served.until(partial(has_more, served, "hello", len(hellos)), "the push did not begin", 20_000)

        if victim == "client":
            push.kill()
        else:
            served.kill()
            served.start(port=served.port)
        _, err = push.communicate(timeout=120)

        assert b"Traceback" not in err
        served("server", "verify", served.root / "work")
        served("ada", "pull", "--delete", main, target)
        assert facts(target) in (committed, facts(source))
        served("ada", "push", source, main)
        served("ada", "pull", "--delete", main, target)
        assert difference(facts(source), facts(target)) == []
        committed = facts(source)


# -- who is let in -----------------------------------------------------------------------------------------------------


def test_a_machine_that_has_not_paired_says_nothing_to_a_server(served: Served, source: Path) -> None:
    served.start()

    pushed = served("mallory", "push", source, served.url("work:main"), code=8)

    assert "packetfs pair" in pushed.err
    assert [line["event"] for line in served.audit()] == ["start"]


def test_a_machine_that_only_knows_the_server_is_not_let_in(served: Served, source: Path, tmp_path: Path) -> None:
    """It has the list of servers of one that is paired, and a key of its own."""
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    served("mallory", "pair", "x", code=1)
    (tmp_path / "mallory" / "packetfs").mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "ada/packetfs/servers.json", tmp_path / "mallory/packetfs/servers.json")

    pulled = served("mallory", "pull", served.url("work:main"), tmp_path / "target", "--json", code=8)
    made = served("mallory", "push", source, served.url("new:main"), "--json", code=8)

    assert pulled.event("error")["code"] == made.event("error")["code"] == "not-paired"
    assert not (served.root / "new").exists()
    assert codes(served, "refused") == ["not-paired", "not-paired"]


def test_a_token_is_used_once_and_not_too_late(served: Served) -> None:
    served.start()
    token, late = served.invite(), served.invite("--expires", "0.001")

    served("ada", "pair", token)
    served("ada", "pair", token)  # it may not have heard the first answer
    replayed = served("mallory", "pair", token, "--json", code=8)
    expired = served("mallory", "pair", late, "--json", code=8)
    broken = served("mallory", "pair", token[:-5], "--json", code=1)

    assert replayed.event("error")["code"] == "token-used"
    assert expired.event("error")["code"] == "token-expired"
    assert broken.event("error")["code"] == "bad-token"
    assert not (served.place / "mallory/packetfs/servers.json").exists()
    assert codes(served, "refused") == ["token-used", "token-expired"]


def test_a_token_is_not_shown_to_a_machine_with_another_key(served: Served, tmp_path: Path) -> None:
    served.start()
    token = served.invite()
    served.stop()
    (tmp_path / "other").mkdir()
    other = Served(tmp_path / "other")
    try:
        other.start(port=served.port)
        refused = served("ada", "pair", token, "--json", code=8)
    finally:
        other.kill()

    assert refused.event("error")["code"] == "server-changed"
    assert "pair" not in {line["event"] for line in other.audit()}


def test_the_wrong_role_and_the_wrong_volume_are_refused(served: Served, source: Path, tmp_path: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("photos:main"))
    served("ada", "push", source, served.url("letters:main"))
    served.pair("bob", "--role", "write", "--volume", "photos")
    served.pair("eve", "--role", "read")

    allowed = served("bob", "push", source, served.url("photos:bob"))
    refusals = [
        served("bob", "pull", served.url("letters:main"), tmp_path / "target", "--json", code=8),
        served("bob", "refs", served.url("missing"), "--json", code=8),  # nor is it told that there is none
        served("bob", "push", source, served.url("mine:main"), "--json", code=8),
        served("eve", "push", source, served.url("photos:main"), "--json", code=8),
        served("eve", "push", "-n", source, served.url("photos:main"), "--json", code=8),
        served("eve", "push", source, served.url("new:main"), "--json", code=8),
    ]

    assert allowed.code == 0
    assert [refused.event("error")["code"] for refused in refusals] == ["role-too-low"] * 6
    assert codes(served, "hello").count("role-too-low") == 6
    assert sorted(path.name for path in served.root.iterdir()) == [".packetfs", "letters", "photos"]


def test_who_may_read_is_not_given_the_key_that_cuts_chunks(served: Served, source: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served.pair("bob", "--role", "read")
    served("ada", "push", source, served.url("work:main"))

    found = {}
    for machine in ("ada", "bob"):
        with Connection(served.tls(machine), patience_s=20) as connection:
            hello = protocol.Hello(protocol.PROTOCOL, VERSION, b"work", "read")
            found[machine] = Link(connection).ask(hello, protocol.Welcome).keys

    assert (len(found["ada"]), len(found["bob"])) == (64, 32)
    assert found["ada"].startswith(found["bob"])


def test_a_reader_that_may_write_one_day_does(served: Served, source: Path, tmp_path: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    served.pair("bob", "--role", "read")
    served("bob", "pull", served.url("work:main"), tmp_path / "target")
    served.pair("bob", "--role", "write")
    change(source, 3)

    served("bob", "push", source, served.url("work:main"))
    served("ada", "pull", "--delete", served.url("work:main"), tmp_path / "target")

    assert difference(facts(source), facts(tmp_path / "target")) == []


@pytest.mark.parametrize("name", ["../outside", "/etc", "%2e%2e/outside", "link", "work/segments", ".packetfs", "file"])
def test_no_name_leads_out_of_the_root(served: Served, source: Path, tmp_path: Path, name: str) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    served("server", "push", source, f"{tmp_path}/outside::main")
    (served.root / "link").symlink_to(tmp_path / "outside")
    (served.root / "file").write_bytes(b"")
    before = sorted(os.listdir(tmp_path / "outside"))

    pull = ("pull", served.url(f"{name}:main"), str(tmp_path / "target"))
    for command in (pull, ("push", str(source), served.url(f"{name}:new"))):
        refused = served("ada", *command, "--json", code=None)
        assert refused.code in (1, 2, 7, 8)
        assert refused.event("error")["code"] in ("bad-location", "outside-root", "volume-not-found")

    assert sorted(os.listdir(tmp_path / "outside")) == before
    assert not (tmp_path / "target").exists() or not os.listdir(tmp_path / "target")


def test_errors_do_not_tell_where_the_server_keeps_its_volumes(served: Served, tmp_path: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")

    missing = served("ada", "pull", served.url("none:main"), tmp_path / "target", "--json", code=1)

    assert missing.event("error")["code"] == "volume-not-found"
    assert str(served.root).encode() not in missing.out


def test_what_is_public_is_read_by_everybody_and_written_by_nobody(
    served: Served, source: Path, tmp_path: Path
) -> None:
    served.start("--public-read")
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))

    served("eve", "pair", served.lines[1]["token"])
    served("eve", "pull", served.url("work:main"), tmp_path / "target")
    pushed = served("eve", "push", source, served.url("work:main"), "--json", code=8)

    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert pushed.event("error")["code"] == "role-too-low"


# -- peers -------------------------------------------------------------------------------------------------------------


def test_peers_are_listed_and_renamed(served: Served) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served.pair("bob", "--volume", "photos")

    served("server", "peers", "--root", served.root, "rename", "bob", "robert")
    listed = served("server", "peers", "--root", served.root, "--json").events

    assert [(line["name"], line["grants"]) for line in listed] == [
        ("ada", {"*": "admin"}),
        ("robert", {"photos": "read"}),
    ]


def test_a_token_that_was_given_away_is_taken_back(served: Served) -> None:
    served.start()
    token = served.invite("--role", "write", "--volume", "photos")
    (line,) = (
        event
        for event in served("server", "peers", "--root", served.root, "--json").events
        if event["event"] == "invitation"
    )

    served("server", "peers", "--root", served.root, "revoke", line["digest"][:12])
    refused = served("ada", "pair", "-", "--json", code=8, stdin=token.encode() + b"\n")

    assert (line["role"], line["volume"]) == ("write", "photos")
    assert refused.event("error")["code"] == "token-unknown"


def test_a_revoked_machine_is_out_at_once_and_its_token_does_not_help(served: Served, source: Path) -> None:
    served.start()
    token = served.invite("--role", "admin")
    served("ada", "pair", token, "--name", "ada")
    served("ada", "push", source, served.url("work:main"))
    with Connection(served.tls("ada"), patience_s=20) as connection:
        link = Link(connection)
        link.ask(protocol.Hello(protocol.PROTOCOL, VERSION, b"work", "read"), protocol.Welcome)

        served("server", "peers", "--root", served.root, "revoke", "ada")
        with pytest.raises(PacketFSError) as caught:
            link.ask(protocol.Check("main"), protocol.State)

    assert caught.value.code in ("not-paired", "peer-gone")  # whichever is first: the answer, or the server by itself
    refused = served("ada", "push", source, served.url("work:main"), "--json", code=8)
    again = served("ada", "pair", token, "--json", code=8)
    assert refused.event("error")["code"] == "not-paired"
    assert again.event("error")["code"] == "token-used"


def test_a_session_that_asks_for_nothing_ends_when_its_peer_is_revoked(served: Served, source: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    with Connection(served.tls("ada"), patience_s=20) as connection:
        link = Link(connection)
        link.ask(protocol.Hello(protocol.PROTOCOL, VERSION, b"work", "read"), protocol.Welcome)

        served("server", "peers", "--root", served.root, "revoke", "ada")

        with pytest.raises(PacketFSError) as caught:
            connection.receive()
    assert caught.value.code == "peer-gone"
    assert "ended" in {line["event"] for line in served.audit()}


def test_all_who_were_revoked_are_thrown_out_also_when_no_line_of_the_log_can_be_written(
    served: Served, source: Path
) -> None:
    served.start()
    for machine in ("ada", "bob"):
        served.pair(machine, "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    log = served.root / ".packetfs" / "audit.jsonl"
    with Connection(served.tls("ada"), patience_s=20) as ada, Connection(served.tls("bob"), patience_s=20) as bob:
        for connection in (ada, bob):
            Link(connection).ask(protocol.Hello(protocol.PROTOCOL, VERSION, b"work", "read"), protocol.Welcome)
        log.rename(log.with_suffix(".kept"))
        log.mkdir()

        Root(str(served.root)).book.change(lambda book: (replace(book, peers=[]), None))

        for connection in (ada, bob):
            with pytest.raises(PacketFSError, match="ended"):
                connection.receive()


def test_when_the_list_of_peers_is_damaged_nobody_is_trusted(served: Served, source: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    book = served.root / ".packetfs" / "peers.json"
    good = book.read_bytes()

    book.write_bytes(good[:-20])
    refused = served("ada", "push", source, served.url("work:main"), "--json", code=5)
    book.write_bytes(good)
    served("ada", "push", source, served.url("work:main"))

    assert refused.event("error")["code"] == "trust-damaged"


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_peer_has_so_many_sessions_and_others_are_not_kept_out(served: Served, source: Path) -> None:
    served.start("--max-sessions", "2")
    served.pair("ada", "--role", "admin")
    served.pair("bob", "--role", "read")
    served("ada", "push", source, served.url("work:main"))
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(Connection(served.tls("ada"), patience_s=20))
            hello = protocol.Hello(protocol.PROTOCOL, VERSION, b"work", "read")
            Link(connection).ask(hello, protocol.Welcome)

        refused = served("ada", "refs", served.url("work"), "--json", code=6)
        served("bob", "refs", served.url("work"))

    assert refused.event("error")["code"] == "too-many-sessions"


def test_a_volume_takes_no_more_than_its_quota(served: Served, tmp_path: Path) -> None:
    served.start("--quota", "20M")
    served.pair("ada", "--role", "admin")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "small").write_bytes(os.urandom(1 << 20))
    served("ada", "push", tmp_path / "source", served.url("work:main"))
    (tmp_path / "source" / "large").write_bytes(os.urandom(60 << 20))

    refused = served("ada", "push", tmp_path / "source", served.url("work:main"), "--json", code=7)

    assert refused.event("error")["code"] == "quota-exceeded"
    assert served("ada", "log", served.url("work:main"), "--json").events[0]["files"] == 1
    used = sum(path.stat().st_blocks * 512 for path in (served.root / "work").rglob("*") if path.is_file())
    assert used < 40 << 20  # what is noticed with a frame of literals is noticed when that frame has come


def test_machines_that_push_at_once_exceed_a_quota_by_no_more_than_one_frame(served: Served, tmp_path: Path) -> None:
    served.start("--quota", "24M")
    machines = ["ada", "bob", "eve", "zoe"]
    (tmp_path / "small").write_bytes(b"small")
    for machine in machines:
        served.pair(machine, "--role", "admin")
        (tmp_path / f"of-{machine}").write_bytes(os.urandom(40 << 20))
        served(machine, "push", tmp_path / "small", served.url(f"work:{machine}"))

    running = [served.begin(m, "push", tmp_path / f"of-{m}", served.url(f"work:{m}"), "--json") for m in machines]
    ended = [process.communicate(timeout=120) for process in running]

    assert [process.returncode for process in running] == [7] * 4, ended
    assert all(b"quota-exceeded" in out for out, _ in ended)
    used = sum(path.stat().st_blocks * 512 for path in (served.root / "work").rglob("*") if path.is_file())
    assert used < 44 << 20  # each of the four could add a frame of 16 MiB when each counted for itself


def test_a_peer_is_as_fast_as_it_may_be(served: Served, tmp_path: Path) -> None:
    served.start("--max-bytes-per-s", "4M")
    served.pair("ada", "--role", "admin")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "noise").write_bytes(os.urandom(8 << 20))

    pushed = served("ada", "push", tmp_path / "source", served.url("work:main"), "--json")

    assert pushed.event("transfer")["seconds"] > 1.5


# -- those who knock ---------------------------------------------------------------------------------------------------


def knock(port: int, said: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    with suppress(OSError):
        connection.sendall(said)
    return connection


def test_ten_thousand_connections_disturb_nobody(
    served: Served, source: Path, tmp_path: Path, many: Callable[[int, int], int]
) -> None:
    """Half-open ones, ones that begin a handshake and wait, garbage: meanwhile one who is paired works."""
    served.start()
    served.pair("ada", "--role", "admin")
    served("ada", "push", source, served.url("work:main"))
    said = [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.0\r\n\r\n", os.urandom(300)]
    count, open_ = many(1500, 10_000), []
    ended = threading.Event()

    def flood() -> None:
        for number in range(count):
            with suppress(OSError):
                open_.append(knock(served.port, said[number % len(said)]))
            if len(open_) > 400:
                open_.pop(0).close()
        ended.set()

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    pulls = 0
    while not ended.is_set() or not pulls:
        served("ada", "pull", "--delete", served.url("work:main"), tmp_path / "target")
        pulls += 1
    thread.join()
    for connection in open_:
        connection.close()

    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert len((served.root / ".packetfs" / "audit.jsonl").read_bytes()) < 200_000  # knocking does not fill the disk
    handles = len(os.listdir(f"/proc/{served.pid}/fd"))
    assert handles < 300
    served("ada", "refs", served.url("work"))  # whoever knocked before has been met by now
    assert served.stop() == 0
    refused = [line for line in served.audit() if line["event"] == "refused"]
    assert sum(line.get("more", 1) for line in refused) >= count - 10


def test_a_stranger_cannot_make_the_server_keep_much(served: Served) -> None:
    """A frame that is longer than any greeting ends it, before it has come."""
    served.start()
    served.pair("ada")
    served("mallory", "pair", "x", code=1)
    served("mallory", "pair", served.invite("--expires", "0.001"), code=8)  # now it has a key
    header = b"".join(bytes(part) for part in encode(FrameType.LITERALS, 0, bytes(300_000)))

    with served.tls("mallory") as transport:
        with suppress(PacketFSError):
            transport.send([header])
        assert transport.receive() == b""

    served.until(lambda: "bad-frame" in codes(served, "refused"), "it was not written down", 20_000)


def test_a_second_server_of_a_root_needs_the_same_key(served: Served) -> None:
    served.start()
    served.stop()

    refused = served("another user", "serve", "--root", served.root, "--invite", "--json", code=8)

    assert refused.event("error")["code"] == "server-changed"


def test_a_key_that_others_can_read_is_not_used(served: Served) -> None:
    served.start()
    served.pair("ada")
    os.chmod(served.identity("ada"), 0o644)

    refused = served("ada", "refs", served.url("work"), "--json", code=8)

    assert refused.event("error")["code"] == "identity-mode"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--stdio", "--root", "."],
        ["--stdio", "--quota", "1G"],
        ["--root", ".", "--role", "write"],
        ["--root", ".", "--invite", "--public-read"],
        ["--root", ".", "--quota", "0"],
        ["--root", ".", "--invite", "--volume", "../x"],
        ["--root", "missing"],
        ["--root", ".", "--listen", "nowhere:port"],
    ],
)
def test_options_that_would_do_nothing_are_refused(served: Served, options: list[str]) -> None:
    refused = served("server", "serve", *options, "--json", code=None)

    assert refused.code in (1, 2)
    assert refused.event("error")["hint"]


def test_one_who_knocks_without_end_takes_only_his_own_places(served: Served) -> None:
    """From one address there come more connections than the server keeps; who comes from another is let in."""
    served.start()
    served.pair("ada", "--role", "admin")
    is_over = threading.Event()
    knocked: list[socket.socket] = []

    def knock() -> None:
        while not is_over.is_set():
            with suppress(OSError):
                knocked.append(socket.create_connection(("127.0.0.1", served.port), source_address=("127.0.0.2", 0)))
            if len(knocked) > 2 * HANDSHAKES_MAX:
                knocked.pop(0).close()

    thread = threading.Thread(target=knock)
    thread.start()
    served.until(lambda: len(knocked) > HANDSHAKES_MAX, "nobody could knock", 20_000)
    try:
        answers = [served("ada", "refs", served.url("work"), "--json", code=1) for _ in range(5)]
    finally:
        is_over.set()
        thread.join()
        for one in knocked:
            one.close()

    assert [answer.event("error")["code"] for answer in answers] == ["volume-not-found"] * 5


def test_a_port_that_is_taken_is_told(served: Served) -> None:
    served.start()

    refused = served("server", "serve", "--root", served.root, "--listen", f"127.0.0.1:{served.port}", "--json", code=2)

    assert refused.event("error")["code"] == "cannot-listen"


@pytest.mark.parametrize("option", ["--listen", "--metrics"])
def test_what_keeps_a_server_from_listening_is_told_with_what_to_do(option: str, served: Served) -> None:
    served.start()

    def refused(address: str) -> tuple[str, str]:
        where = ("--listen", address) if option == "--listen" else ("--listen", "127.0.0.1:0", option, address)
        error = served("server", "serve", "--root", served.root, *where, "--json", code=2).event("error")
        assert error["code"] == "cannot-listen"
        return error["message"], error["hint"]

    taken, elsewhere = refused(f"127.0.0.1:{served.port}"), refused("192.0.2.77:20560")

    assert taken == (
        f"cannot listen at 127.0.0.1:{served.port}: Address already in use",
        f"another program listens there, perhaps another `packetfs serve`; {option} chooses",
    )
    assert elsewhere == (
        "cannot listen at 192.0.2.77:20560: Cannot assign requested address",
        f"write an address of this machine (`ip address` lists them); {option} chooses",
    )


def test_names_that_a_server_does_not_know_are_shown_as_they_were_written(served: Served, tmp_path: Path) -> None:
    served.start()
    served.pair("ada", "--role", "admin")

    missing = served("ada", "pull", served.url("nothere:main"), tmp_path / "out", "--json", code=1).event("error")
    above = served("ada", "refs", served.url("../photos"), "--json", code=1).event("error")

    assert missing["message"] == "the server has no volume 'nothere'"
    assert "admin" in missing["hint"]
    assert above["message"] == "'../photos' cannot be the name of a volume on a server"
