"""Directories that a server exports: who may do what with them, and that nobody gets out of them."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from packetfs.errors import PacketFSError, RefusedError, UsageError
from packetfs.format import trust
from packetfs.sync import mirror, serve
from packetfs.sync.access import AsPeer
from packetfs.sync.checkout import NO_CARE, Care
from packetfs.sync.exports import Export, Exports, parse_export
from packetfs.sync.root import Root
from packetfs.sync.session import Session
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from tests.end_to_end.trees import difference, facts
from tests.sync.conftest import Origin
from tests.volume.conftest import grown

DEVICE = bytes(range(32))
OUTSIDE: dict[str, bytes | None] = {"precious": b"precious", "d/other": b"other"}


class Site:
    """A server's export `site`, and `docs`, which is the same for reading only, with one machine that may use them."""

    def __init__(self, place: Path) -> None:
        (place / "root").mkdir()
        self.path = grown(place / "site", {"sub/old": b"old", "top": b"top"})
        self.root = Root(str(place / "root"))
        self.exports = Exports([Export("site", str(self.path)), Export("docs", str(self.path), read_only=True)])
        self.environment = {"XDG_DATA_HOME": str(place / "data")}
        self.kept = place / "data" / "packetfs" / "sync"
        self._replicas = place / "replicas"
        self._origins: list[Origin] = []
        self.grant("write")

    def grant(self, role: trust.Role | None, name: str = "site") -> None:
        grants: dict[str, trust.Role] = {} if role is None else {name: role}
        peers = [trust.Peer(DEVICE.hex(), "laptop", grants, 1)]
        self.root.book.change(lambda book: (replace(book, peers=peers), None))

    def access(self, *, public_read: bool = False) -> AsPeer:
        return AsPeer(
            self.root,
            DEVICE,
            "192.0.2.1:1",
            exports=self.exports,
            public_read=public_read,
            environment=self.environment,
        )

    def session(self, place: str, care: Care = NO_CARE, *, fetches: bool = False) -> Session:
        def answer(connection: Connection) -> None:
            serve.serve(connection, lock_wait_s=5, access=self.access())

        origin = Origin(Path(place), self._replicas / place.replace("/", "%"))
        self._origins.append(origin)
        return origin.connect(ref="sent", ingest=mirror.question(care, may_be_missing=not fetches), serve=answer)

    def send(self, source: Path, place: str, care: Care = NO_CARE, *, delete: bool = False) -> mirror.Synced:
        with self.session(place, care) as session:
            return mirror.send(session, str(source), care=care, delete=delete)

    def fetch(self, place: str, target: Path) -> mirror.Synced:
        with self.session(place, fetches=True) as session:
            return mirror.fetch(session, str(target))

    def refusal(self, place: str, intent: str = "write") -> str:
        """The code of the error that answers HELLO, and what no answer to it may have left; empty: it is answered."""
        access = self.access()
        try:
            access.check(hello := protocol.Hello(1, "x", b"\0" + os.fsencode(place), intent))  # type: ignore[arg-type]
            access.directory(hello)
        except PacketFSError as error:
            assert not self.kept.exists()
            return access.told(error).code
        return ""

    def close(self) -> None:
        for origin in self._origins:
            origin.close()
        self.exports.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What no peer may see or touch."""
    made = grown(tmp_path / "outside", OUTSIDE)
    before = facts(made)
    yield made
    assert difference(before, facts(made)) == []


def test_a_directory_in_an_export_ends_as_the_one_here_and_the_other_way_round(
    site: Site, source: Path, tmp_path: Path
) -> None:
    site.send(source, "site:/sub", delete=True)
    again = site.send(source, "site:/sub", delete=True)
    site.fetch("site:/", tmp_path / "target")

    assert difference(facts(source), facts(site.path / "sub")) == []
    assert (again.created, again.replaced, again.deleted) == (0, 0, 0)
    assert difference(facts(site.path), facts(tmp_path / "target")) == []
    assert (site.path / "top").read_bytes() == b"top"


def test_what_is_missing_in_an_export_is_made_beneath_it(site: Site, source: Path) -> None:
    site.send(source, "site:/new/er")

    assert difference(facts(source), facts(site.path / "new" / "er")) == []


def test_what_is_in_an_export_need_not_travel(site: Site, tmp_path: Path) -> None:
    data = random.Random(5).randbytes(2 << 20)
    (site.path / "sub" / "seen").write_bytes(data)

    done = site.send(grown(tmp_path / "source", {"moved": data}), "site:/sub")

    assert done.traffic.sent_bytes < 100_000


@pytest.mark.parametrize(
    ("role", "granted", "place", "code"),
    [
        ("read", "site", "site:/", ""),
        ("read", "*", "site:/sub", ""),
        ("write", "site", "site:/new", ""),
        ("read", "site", "site:/new", "file-not-found"),
        ("write", "docs", "docs:/new", "file-not-found"),
        ("admin", "docs", "site:/", "role-too-low"),
        ("admin", "docs", "none:/", "role-too-low"),
        ("admin", "*", "none:/", "export-not-found"),
        ("admin", "*", "", "export-not-found"),
        ("admin", "*", "/etc", "export-not-found"),
        ("admin", "*", "../site:/", "export-not-found"),
        ("admin", "*", "site:/..", "outside-root"),
        ("admin", "*", "site:/sub/../../outside", "outside-root"),
        ("admin", "*", "site:/link", "outside-root"),
        ("admin", "*", "site:/link/d", "outside-root"),
        ("admin", "*", "site:/loop/x", "outside-root"),
        ("admin", "*", "site:/top", "outside-root"),
        ("admin", "*", "site:/a\0b", "bad-location"),
        ("admin", "*", "site:/" + "n" * 256, "bad-location"),
        (None, "", "site:/", "role-too-low"),
    ],
)
@pytest.mark.parametrize("intent", ["read", "write"])
def test_roles_are_for_exports_and_paths_lead_nowhere_else(
    role: trust.Role | None, granted: str, place: str, code: str, intent: str, site: Site, outside: Path
) -> None:
    (site.path / "link").symlink_to(outside)
    (site.path / "loop").symlink_to("loop")
    site.grant(role, granted)

    assert site.refusal(place, intent) == code


@given(
    said=st.lists(st.sampled_from([b"..", b".", b"", b"sub", b"link", b"/", b"\0", b"n" * 300, b"\xff"]), max_size=6)
)
def test_whatever_is_said_means_a_directory_in_the_export_or_nothing(
    said: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = tmp_path_factory.mktemp("site")
    grown(top, {"export/sub/old": b"old", "outside/x": b"x"})
    (top / "export" / "link").symlink_to("../outside")
    with Exports([Export("site", str(top / "export"))]) as exports:
        try:
            with exports.find("site", b"/".join(said)).opened(make=True) as place:
                assert place is not None
                found = Path(os.path.realpath(place))
        except PacketFSError:
            found = top / "export"

    assert found.is_relative_to(top / "export")
    assert sorted(os.listdir(top)) == ["export", "outside"]
    assert os.listdir(top / "outside") == ["x"]


@pytest.mark.parametrize("place", ["site:/sub", "docs:/sub"])
def test_who_may_read_changes_nothing_whatever_it_says(place: str, site: Site, source: Path, tmp_path: Path) -> None:
    site.grant("read", "*") if place.startswith("site") else site.grant("write", "*")
    before = facts(site.path)

    with site.session(place) as session, pytest.raises(RefusedError) as caught:
        mirror.send(session, str(source), delete=True)
    access = site.access()
    access.directory(protocol.Hello(1, "x", b"\0" + os.fsencode(place), "write", create=True))
    keys = access.keys(bytes(64))
    for message in (protocol.Checkout(bytes(16)), protocol.Lease(), protocol.Begin(), protocol.Commit("x", bytes(16))):
        with pytest.raises(RefusedError):
            access.check(message)
    site.fetch(place, tmp_path / "target")

    assert caught.value.code == "role-too-low"
    assert len(keys) == 32  # not the one that cuts chunks
    assert difference(before, facts(site.path)) == []
    assert difference(facts(site.path / "sub"), facts(tmp_path / "target")) == []


def test_what_everybody_may_read_is_volumes_and_no_directories(site: Site) -> None:
    site.grant(None)
    access = site.access(public_read=True)

    with pytest.raises(RefusedError) as caught:
        access.directory(protocol.Hello(1, "x", b"\0site:/", "read"))

    assert caught.value.code == "role-too-low"


def test_a_role_that_is_lowered_while_a_directory_is_open_is_lower(site: Site) -> None:
    access = site.access()
    access.directory(protocol.Hello(1, "x", b"\0site:/", "write"))
    site.grant("read")

    with pytest.raises(RefusedError):
        access.check(protocol.Checkout(bytes(16)))
    assert not access.still_holds


@pytest.mark.parametrize("swapped", ["sub", "sub/deep"])
def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(
    swapped: str, site: Site, source: Path, outside: Path
) -> None:
    """Another peer can do that, too: it may write links."""
    (site.path / "sub" / "deep" / "d").mkdir(parents=True)
    with site.session("site:/sub/deep/d") as session:
        session.status()  # greeted, and looked at
        os.rename(site.path / swapped, site.path / "away")
        (site.path / swapped).symlink_to(outside)
        with pytest.raises(RefusedError) as caught:
            mirror.send(session, str(source), delete=True)

    assert caught.value.code == "outside-root"


@pytest.mark.parametrize(
    ("backup", "kept"),
    [("bk", "sub/bk/old"), ("/bk", "bk/old"), ("./a//b", "sub/a/b/old"), ("link", ""), ("/link/x", ""), ("../x", "")],
)
def test_backups_stay_in_the_export(backup: str, kept: str, site: Site, tmp_path: Path, outside: Path) -> None:
    (site.path / "sub" / "link").symlink_to(outside)
    (site.path / "link").symlink_to(outside)
    source = grown(tmp_path / "new", {"old": b"newer"})
    care = Care(backup=backup)

    if kept:
        site.send(source, "site:/sub", care)
        assert (site.path / kept).read_bytes() == b"old"
    else:
        with pytest.raises(RefusedError) as caught:
            site.send(source, "site:/sub", care)
        assert caught.value.code == "outside-root"
        assert (site.path / "sub" / "old").read_bytes() == b"old"


def test_links_that_are_sent_are_links_and_nothing_is_written_through_them(
    site: Site, tmp_path: Path, outside: Path
) -> None:
    source = grown(tmp_path / "links", {"plain": b"x"})
    (source / "out").symlink_to(outside)
    site.send(source, "site:/sub", delete=True)
    (source / "out").unlink()
    grown(source, {"out/precious": b"overwritten"})

    site.send(source, "site:/sub", delete=True)

    assert difference(facts(source), facts(site.path / "sub")) == []


@pytest.mark.parametrize("text", ["", "site", "site=", "=/srv", ".x=/srv", "a/b=/srv", "a:b=/srv", "-x=/srv", "s=:ro"])
def test_what_exports_nothing_is_told(text: str) -> None:
    with pytest.raises(UsageError):
        parse_export(text)


def test_an_export_is_a_name_and_a_directory(tmp_path: Path) -> None:
    assert parse_export("a=/b=c:ro") == Export("a", "/b=c", read_only=True)
    with pytest.raises(UsageError):
        Exports([Export("a", str(tmp_path / "none"))])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        Exports([Export("a", str(tmp_path / "file"))])
    with pytest.raises(UsageError):
        Exports([Export("a", str(tmp_path)), Export("a", str(tmp_path))])


def test_what_the_server_stands_on_is_not_exported(tmp_path: Path) -> None:
    """Who could write there could let himself in, who could read there would have its key."""
    (tmp_path / "data" / "sync").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for path in (tmp_path, tmp_path / "data", tmp_path / "data" / "sync", tmp_path / "link"):
        with pytest.raises(RefusedError):
            Exports([Export("a", str(path), read_only=True)], spared=[str(tmp_path / "data")])
