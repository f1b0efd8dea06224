"""`serve --export` and `sync` with `pfs://`: the real server and the real commands."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.served import Served
from tests.end_to_end.special import rsync_sees
from tests.end_to_end.trees import change, difference, facts, grow
from tests.volume.conftest import grown

pytestmark = pytest.mark.slow


@pytest.fixture
def served(served: Served, tmp_path: Path) -> Served:
    """With a directory to export."""
    (tmp_path / "site").mkdir()
    return served


def test_a_plain_directory_there_ends_as_the_one_here_and_the_other_way_round(served: Served, tmp_path: Path) -> None:
    here, there, copy = tmp_path / "here", tmp_path / "site" / "project", tmp_path / "copy"
    grow(here, 1)
    shutil.copytree(here, there, symlinks=True)  # as somebody else has left it
    (there / "stray").write_bytes(b"stray")
    served.start("--export", f"site={tmp_path / 'site'}")
    served.pair("ada", "--role", "write", "--volume", "site")
    served.pair("bob", "--role", "read", "--volume", "site")
    project = served.url("site:/project/")

    first = served("ada", "sync", "--delete", f"{here}/", project, "--json")
    again = served("ada", "sync", "--delete", f"{here}/", project, "--json")
    change(here, 1)
    dry = served("ada", "sync", "-n", "-i", "--delete", f"{here}/", project)
    served("ada", "sync", "--delete", here, served.url("site:/"), "--backup-dir", "/old")
    served("ada", "sync", "-i", "--delete", f"{here}/", project)
    served("bob", "sync", project, f"{copy}/")

    assert first.event("sync")["deleted"] == 1
    assert first.event("sync")["far_disk_bytes"] > 0
    assert first.event("transfer")["literal_bytes"] < 1 << 20
    assert again.event("transfer")["sent_bytes"] + again.event("transfer")["received_bytes"] < 1000
    assert not any(again.event("sync")[name] for name in ("created", "replaced", "metadata", "deleted"))
    assert dry.out
    for end in (there, tmp_path / "site" / "here", copy):
        assert difference(facts(here), facts(end)) == []
        assert rsync_sees(here, end) == []


def test_what_is_here_already_need_not_come(served: Served, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(4 << 20)
    (tmp_path / "site" / "big").write_bytes(data)
    here = grown(tmp_path / "here", {"under another name": data})
    served.start("--export", f"site={tmp_path / 'site'}")
    served.pair("ada", "--role", "write")

    done = served("ada", "sync", served.url("site:/"), f"{here}/", "--json")

    assert (here / "big").read_bytes() == data
    assert done.event("transfer")["received_bytes"] < 100_000


def test_what_a_machine_may_not_is_refused_and_written_down(served: Served, tmp_path: Path) -> None:
    here, site = grown(tmp_path / "here", {"a": b"a"}), grown(tmp_path / "site", {"b": b"b"})
    outside = grown(tmp_path / "outside", {"c": b"c"})
    (site / "link").symlink_to(outside)
    before = facts(site), facts(outside)
    served.start("--export", f"site={site}", "--export", f"docs={site}:ro")
    served.pair("ada", "--role", "write", "--volume", "docs")
    served.pair("bob", "--role", "read", "--volume", "site")
    served.pair("eve", "--role", "admin")

    for machine, place, code, exit_code in [
        ("ada", "docs:/", "role-too-low", 8),
        ("ada", "site:/", "role-too-low", 8),
        ("bob", "site:/", "role-too-low", 8),
        ("eve", "none:/", "export-not-found", 1),
        ("eve", "site:/link/", "outside-root", 8),
        ("eve", "site:/../x", "outside-root", 8),
        ("eve", "site", "bad-location", 2),
    ]:
        done = served(machine, "sync", "--delete", f"{here}/", served.url(place), "--json", code=exit_code)
        assert done.event("error")["code"] == code, (machine, place)
        assert str(tmp_path) not in done.event("error")["message"].replace(str(here), "")
    pushed = served("eve", "push", here, served.url("site:main"), "--json", code=8)
    listed = served("bob", "ls", served.url("site:found"), "--json", code=8)

    assert (facts(site), facts(outside)) == before
    assert pushed.event("error")["code"] == "outside-root"
    assert listed.event("error")["code"] == "outside-root"
    told = [line for line in served.audit() if line["result"] != "ok"]
    assert {line["result"] for line in told} >= {"role-too-low", "export-not-found", "outside-root"}
    assert all(line["peer"] for line in told)


def test_what_was_written_by_whom_is_written_down(served: Served, tmp_path: Path) -> None:
    served.start("--export", f"site={tmp_path / 'site'}")
    served.pair("ada", "--role", "write")

    served("ada", "sync", f"{grown(tmp_path / 'here', {'a': b'a'})}/", served.url("site:/x/"))

    told = {line["event"]: line for line in served.audit()}
    assert {"hello", "ingest", "commit", "checkout"} <= set(told)
    assert (told["hello"]["volume"], told["hello"]["directory"]) == ("site", "/x")
    assert told["checkout"]["peer"] == "ada"


def test_what_is_kept_of_a_directory_counts_for_the_quota_also_of_who_only_reads(
    served: Served, tmp_path: Path
) -> None:
    (tmp_path / "site" / "big").write_bytes(random.Random(4).randbytes(30 << 20))
    served.start("--export", f"site={tmp_path / 'site'}", "--quota", "20M")
    served.pair("bob", "--role", "read")
    served.pair("ada", "--role", "write")
    served("bob", "sync", served.url("site:/"), f"{tmp_path}/copy/")  # it is not known before it was read

    read = served("bob", "sync", served.url("site:/"), f"{tmp_path}/copy/", "--json", code=7)
    written = served("ada", "sync", f"{tmp_path}/copy/", served.url("site:/"), "--json", code=7)

    assert read.event("error")["code"] == written.event("error")["code"] == "quota-exceeded"


def test_without_volumes_a_server_has_its_own_place(served: Served, tmp_path: Path) -> None:
    here = grown(tmp_path / "here", {"a": b"a"})
    before = served("server", "serve", "--invite", "--json", code=2)
    process = served.begin(
        "server", "serve", "--export", f"site={tmp_path / 'site'}", "--listen", "127.0.0.1:0", "--json"
    )
    assert process.stdout is not None
    try:
        served.port = json.loads(process.stdout.readline())["port"]
        token = served("server", "serve", "--invite", "--role", "admin", "--json").event("invite")["token"]
        served("ada", "pair", token)
        served("ada", "sync", f"{here}/", served.url("site:/"))
        pushed = served("ada", "push", here, served.url("new:main"), "--json", code=1)
        listed = served("server", "peers", "--json")
    finally:
        process.terminate()
        process.communicate(timeout=60)

    assert "--root" in before.event("error")["message"]
    assert (tmp_path / "site" / "a").read_bytes() == b"a"
    assert pushed.event("error")["code"] == "volume-not-found"
    assert listed.event("peer")["grants"] == {"*": "admin"}
    assert process.returncode == 0


@pytest.mark.parametrize("clash", ["site", "site/x"])
def test_a_name_is_that_of_a_volume_or_of_an_export(clash: str, served: Served, tmp_path: Path) -> None:
    (served.root / clash).mkdir(parents=True)

    refused = served("server", "serve", "--root", served.root, "--export", f"site={tmp_path / 'site'}", code=2)

    assert "'site'" in refused.err


def test_nobody_is_given_what_the_server_stands_on(served: Served, tmp_path: Path) -> None:
    for path in (tmp_path, served.root, served.root / ".packetfs", tmp_path / "server"):
        os.makedirs(path, exist_ok=True)
        refused = served("server", "serve", "--root", served.root, "--export", f"a={path}:ro", "--json", code=8)
        assert "cannot be exported" in refused.event("error")["message"]


def test_a_directory_that_is_not_there_is_told_with_what_to_do(served: Served, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    refused = served("server", "serve", "--root", served.root, "--export", f"site={missing}", "--json", code=2)
    served.start("--export", f"site={tmp_path / 'site'}")
    served.pair("ada", "--role", "read")
    asked = served("ada", "sync", served.url("site:/nothere/"), tmp_path / "copy", "--json", code=1)

    assert refused.event("error")["message"] == f"{str(missing)!r} cannot be exported: there is no such directory"
    assert refused.event("error")["hint"]
    assert asked.event("error")["hint"] == "paths begin in the directory that the server exports as site"
