"""Locations: two spellings, one value."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.errors import UsageError
from packetfs.format.location import (
    Endpoint,
    Location,
    check_ref,
    directory_text,
    parse_directory,
    parse_location,
    parse_path,
)
from packetfs.format.when import Back, ById, parse_when

SSH = Endpoint("ssh", "nas")


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("vol", Location("vol")),
        ("/srv/vol::main", Location("/srv/vol", "main")),
        ("vol::", Location("vol", "main")),
        ("vol::home@~2", Location("vol", "home", Back(2))),
        ("vol::@~2", Location("vol", "main", Back(2))),
        ("vol::home:/etc/hosts", Location("vol", "home", path=b"etc/hosts")),
        ("vol::home@3f9c2ab1:/a//b/", Location("vol", "home", ById("3f9c2ab1"), b"a/b")),
        ("vol::home@2026-11-20T10:05:07Z:/a:b", Location("vol", "home", parse_when("2026-11-20T10:05:07Z"), b"a:b")),
        ("vol::home:/", Location("vol", "home")),
        ("::home", Location("", "home")),
        ("nas:vol::main", Location("vol", "main", endpoint=SSH)),
        ("nas:/srv/vol", Location("/srv/vol", endpoint=SSH)),
        ("ann@nas:vol::main", Location("vol", "main", endpoint=Endpoint("ssh", "nas", "ann"))),
        ("[::1]:vol::main", Location("vol", "main", endpoint=Endpoint("ssh", "[::1]"))),
        ("./a:b::main", Location("./a:b", "main")),
        ("vol::main:/a::b", Location("vol", "main", path=b"a::b")),
        ("file:///srv/vol", Location("/srv/vol")),
        ("file:///srv/vol:main", Location("/srv/vol", "main")),
        ("file:///srv/a%3Ab:main@~1/etc/hosts", Location("/srv/a:b", "main", Back(1), b"etc/hosts")),
        ("file:///srv/vol:main@2026-11-20T10:05:07Z/a", parse_location("/srv/vol::main@2026-11-20T10:05:07Z:/a")),
        ("file:///srv/vol:main/%ff", Location("/srv/vol", "main", path=b"\xff")),
        ("ssh://ann@nas:2222/srv/vol:main", Location("/srv/vol", "main", endpoint=Endpoint("ssh", "nas", "ann", 2222))),
        ("pfs://nas/vol:main@~1/a", Location("vol", "main", Back(1), b"a", Endpoint("pfs", "nas"))),
        ("pfs://nas:7070/vol", Location("vol", endpoint=Endpoint("pfs", "nas", port=7070))),
    ],
)
def test_each_spelling_means_what_the_grammar_says(text: str, location: Location) -> None:
    assert parse_location(text) == location


@pytest.mark.parametrize(
    "text",
    [
        *("", "nas:", "a b:::", "vol\0", "vol::ref/x", "vol::a b", "vol::main@", "vol::main@/x", "vol::main@never"),
        *("vol::main:/../x", "vol::main:/a/./b", "vol::main:/\0", "vol::" + "r" * 256, "http://nas/vol"),
        *("file://nas/vol", "file://", "file:///", "file:///srv/vol:main@~1/%00", "ssh://nas", "ssh://na s/vol"),
        *("ssh://-oProxyCommand=x/vol", "ssh://-x@nas/vol", "pfs:///vol", "pfs://ann@nas/vol", "pfs://nas:99999/vol"),
        "pfs://nas:0/vol",
    ],
)
def test_anything_else_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_location(text)


def test_main_is_the_ref_when_none_is_named() -> None:
    assert parse_location("vol").ref is None
    assert parse_location("vol").line == "main"


def test_names_that_are_not_utf8_come_through_a_command_line() -> None:
    text = os.fsdecode(b"v\xffl::main:/\xfe")

    location = parse_location(text)

    assert os.fsencode(location.volume) == b"v\xffl"
    assert location.path == b"\xfe"
    assert parse_location(location.url() if location.volume.startswith("/") else str(location)) == location


names = st.text(st.characters(exclude_characters="\0/"), min_size=1).filter(
    lambda name: name not in (".", "..") and "\ud800" not in name and name.isprintable()
)
paths = st.lists(names.map(os.fsencode), max_size=3).map(b"/".join)
refs = st.text("abcXYZ019._-", min_size=1, max_size=20)
whens = st.builds(Back, st.integers(0, 99)) | st.builds(ById, st.text("0123456789abcdef", min_size=8, max_size=16))


@given(
    st.builds(
        Location, st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts)), refs, whens, paths
    )
)
def test_both_spellings_of_a_local_location_are_parsed_back(location: Location) -> None:
    assert parse_location(location.url()) == location
    assert parse_location(str(location)) == location


@given(st.text())
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    try:
        parse_location(text)
    except UsageError:
        pass


def test_a_path_inside_a_snapshot_never_climbs() -> None:
    assert parse_path("/a//b/") == b"a/b"
    assert parse_path("/") == parse_path("") == b""
    for text in ("..", "a/../b", "./a", "a/\0"):
        with pytest.raises(UsageError):
            parse_path(text)


def test_a_ref_has_only_characters_that_need_no_quoting() -> None:
    assert check_ref("Home-2.x_y") == "Home-2.x_y"
    for name in ("", "a b", "a/b", "a:b", "ä", "a\n", "r" * 256):
        with pytest.raises(UsageError):
            check_ref(name)


@pytest.mark.parametrize(
    ("text", "endpoint", "path"),
    [
        ("dir/", None, "dir/"),
        ("./a:b", None, "./a:b"),
        ("ann@nas:dir", Endpoint("ssh", "nas", "ann"), "dir"),
        ("ssh://nas:22/srv/a%20b", Endpoint("ssh", "nas", port=22), "/srv/a b"),
        ("pfs://nas/site:/", Endpoint("pfs", "nas"), "site:/"),
        ("pfs://nas:99/s.i-t_e:/a%20b/%FFc:d/", Endpoint("pfs", "nas", port=99), "s.i-t_e:/a b/\udcffc:d/"),
        ("pfs://[::1]/site:/x", Endpoint("pfs", "[::1]"), "site:/x"),
    ],
)
def test_a_directory_is_a_machine_and_a_path(text: str, endpoint: Endpoint | None, path: str) -> None:
    assert parse_directory(text) == (endpoint, path)
    assert parse_directory(directory_text(endpoint, path)) == (endpoint, path)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a\0b",
            "nas:",
            "nas::module",
            "ssh://nas",
            "pfs://nas",
            "pfs://nas/",
            "pfs://nas/site",
            "pfs://nas/site:",
        ),
        *("pfs://nas/site:x", "pfs://nas/a/b:/x", "pfs://nas/.a:/x", "pfs://ann@nas/site:/", "pfs://nas/site:/%00"),
    ],
)
def test_what_names_no_directory_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_directory(text)

    assert caught.value.code == "bad-location"
