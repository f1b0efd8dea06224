"""The lines of `--json`: one object each, `event` first. docs/formats/json-events.md is their description for users.

Events that operations report come from `packetfs.events`; the rest, what commands answer, is defined here. Fields are
only ever added.
"""

from typing import Any, Literal

import msgspec

from packetfs.cli.names import exact


class Line(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    """One line; the subclass's tag is its `event`."""


class Pushed(Line, frozen=True, tag="push", kw_only=True):
    """A push is done. `snapshot` is what the ref names now, `created` whether this push made it.

    `changed` is whether anything differs: in a dry run, whether a snapshot would be made. `excluded` counts names that
    were met and not selected; in a directory that is as it was nobody meets any.
    """

    volume: str
    ref: str
    snapshot: str | None
    created: bool
    changed: bool
    dry_run: bool
    files: int
    directories: int
    symlinks: int
    logical_bytes: int
    unchanged_files: int
    unchanged_bytes: int
    known_bytes: int
    new_bytes: int
    page_bytes: int
    excluded: int
    problems: int
    seconds: float


class Pulled(Line, frozen=True, tag="pull", kw_only=True):
    """A pull is done: how many names were touched in what way.

    `unsupported` counts devices that could not be made; the first ten names of each thing missed are `problem` lines.
    """

    volume: str
    ref: str
    snapshot: str
    target: bytes
    dry_run: bool
    created: int
    replaced: int
    metadata: int
    deleted: int
    not_deleted: int
    unchanged: int
    unsupported: int
    owner_not_set: int
    attributes_not_set: int
    written_bytes: int
    seconds: float


class Transferred(Line, frozen=True, tag="transfer", kw_only=True):
    """What a push to, a pull from or a sync with another machine moved and took.

    `literal_bytes` is content that had to travel, `delta_bytes` the part of it coded against what both sides held,
    `coded_bytes` what all of it took; `pointers` counts the extents that were pointed at instead. Bytes sent and
    received are those of the protocol, without what ssh adds. Memory is anonymous memory, the most that was seen.
    """

    logical_bytes: int
    literal_bytes: int
    delta_bytes: int
    coded_bytes: int
    pointers: int
    sent_bytes: int
    received_bytes: int
    round_trips: int
    seconds: float
    cpu_s: float
    peer_cpu_s: float
    anonymous_bytes: int
    peer_anonymous_bytes: int
    disk_bytes: int


class Synced(Line, frozen=True, tag="sync", kw_only=True):
    """A sync is done: what was done to the directory `target`, in names.

    `unchanged` is None in a dry run that sends. `unread` counts names of the source that could not be read: then
    nothing is deleted. `far_disk_bytes` is what the volume on the other machine takes, 0 where it was not asked.
    """

    source: bytes
    target: bytes
    dry_run: bool
    created: int
    replaced: int
    metadata: int
    deleted: int
    not_deleted: int
    unchanged: int | None
    unsupported: int
    owner_not_set: int
    attributes_not_set: int
    unread: int
    written_bytes: int
    far_disk_bytes: int
    seconds: float


class Replicating(Line, frozen=True, tag="replicate", kw_only=True):
    """A full replica is in touch with its origin. `created`: it was made just now."""

    replica: str
    origin: str
    volume_id: str
    created: bool


class Followed(Line, frozen=True, tag="followed", kw_only=True):
    """Where a full replica is, durable, and how far its origin was ahead at its last word.

    `entries` were entered since the line before; the last of them was durable here `took_s` after its commit there.
    `lag_bytes` is content of commits that are missing, `lag_s` how long ago the oldest of them was.
    """

    replica: str
    position_seq: int
    position_hash: str
    entries: int
    lag_bytes: int
    lag_s: float
    took_s: float


class Rejoined(Line, frozen=True, tag="rejoined", kw_only=True):
    """An old origin was fenced and is a replica of the new one, from the last position on that both have, `fork`.

    `conflicts` has a `{ref, conflict, snapshots}` for each ref of which only it had something: so many snapshots, now
    the history of `conflict`.
    """

    replica: str
    origin: str
    epoch: int
    fork_seq: int
    fork_hash: str
    conflicts: list[dict[str, str | int]]


class Promoted(Line, frozen=True, tag="promote", kw_only=True):
    """A full replica is the origin of its volume, whose history goes on from the position `continued`."""

    volume: str
    epoch: int
    position_seq: int
    position_hash: str
    continued_seq: int
    continued_hash: str
    old_origin: str


class Cloned(Line, frozen=True, tag="clone", kw_only=True):
    """A replica was made or brought up to date. `whole` is whether it holds everything and can be read by itself."""

    replica: str
    origin: str
    volume_id: str
    refs: int
    snapshots: int
    whole: bool
    received_bytes: int
    disk_bytes: int
    seconds: float


class Listed(Line, frozen=True, tag="entry", kw_only=True):
    """One name of a snapshot. `path` is relative to what was listed."""

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    user: bytes
    group: bytes
    size: int
    mtime_ns: int
    target: bytes | None
    link_id: str | None
    digest: str | None
    rdev: str | None = None
    """`major:minor` of a device."""
    xattrs: dict[str, str] | None = None
    """Extended attributes by name, values in base64; absent without any."""


class Content(Line, frozen=True, tag="content", kw_only=True):
    """A piece of a file: `data` is base64, pieces come in order, the last one has `last` set."""

    path: bytes
    offset: int
    data: str
    last: bool


class SnapshotLine(Line, frozen=True, tag="snapshot", kw_only=True):
    """One snapshot of a ref's history."""

    ref: str
    snapshot: str
    parent: str | None
    time_ns: int
    time: str
    host: str
    user: str
    message: str
    tags: list[str]
    source_time_ns: int | None
    sources: list[bytes]
    root_is_source: bool
    root_digest: str
    files: int
    directories: int
    symlinks: int
    logical_bytes: int
    new_bytes: int


class RefLine(Line, frozen=True, tag="ref", kw_only=True):
    """One ref and the snapshot that it names. `visited` is when it was last pushed to, changed or not."""

    ref: str
    snapshot: str
    time_ns: int
    time: str
    visited: str
    seq: int


class DifferenceLine(Line, frozen=True, tag="difference", kw_only=True):
    """One path that differs."""

    path: bytes
    change: str
    kind: str
    old_size: int
    new_size: int
    old_path: bytes | None


class Compared(Line, frozen=True, tag="diff", kw_only=True):
    """A comparison is done: how many paths differ in what way."""

    old: str
    new: str
    added: int
    removed: int
    changed: int
    metadata: int
    renamed: int


class FoundLine(Line, frozen=True, tag="found", kw_only=True):
    """A path that matches, and the first and last snapshot of the ref that have it; `snapshots` have it in all."""

    ref: str
    path: bytes
    kind: str
    size: int
    mtime_ns: int
    first: str
    last: str
    snapshots: int


class FoundAll(Line, frozen=True, tag="find", kw_only=True):
    """A search is done: how many paths were found."""

    paths: int


class StatusLine(Line, frozen=True, tag="status", kw_only=True):
    """How large a volume is and where its journal stands.

    `role` is "origin", "replica" (of `origin`) or "fenced" (by an epoch that began elsewhere). `lag_bytes`
    and `lag_s` are how far a replica was behind when it last `heard` of its origin.
    """

    volume: str
    volume_id: str
    created: str
    epoch: int
    position_seq: int
    position_hash: str
    refs: int
    snapshots: int
    logical_bytes: int
    latest_bytes: int
    unique_bytes: int
    stored_bytes: int
    disk_bytes: int
    dedup_ratio: float
    segments: int
    open_segments: int
    reclaimed_bytes: int
    role: str = "origin"
    origin: str = ""
    lag_bytes: int = 0
    lag_s: float = 0.0
    heard: str = ""
    fenced_by_epoch: int | None = None


class Verdict(Line, frozen=True, tag="verdict", kw_only=True):
    """What `forget` decides of one snapshot; `reasons` say why it is kept."""

    ref: str
    snapshot: str
    time_ns: int
    time: str
    tags: list[str]
    kept: bool
    reasons: list[str]


class Forgotten(Line, frozen=True, tag="forget", kw_only=True):
    """Snapshots are not kept any more; or, in a dry run, would not be."""

    volume: str
    dry_run: bool
    refs: int
    kept: int
    forgotten: int


class Removing(Line, frozen=True, tag="removing", kw_only=True):
    """What will go with a ref."""

    ref: str
    snapshot: str
    snapshots: int


class Removed(Line, frozen=True, tag="rm", kw_only=True):
    """Refs are gone; or, in a dry run, would be.

    `freed_bytes`: what nothing else needs, and `gc` may give back; None if damage keeps that from being known.
    """

    volume: str
    dry_run: bool
    refs: list[str]
    snapshots: int
    freed_bytes: int | None


class Collected(Line, frozen=True, tag="gc", kw_only=True):
    """Space was given back. `unreached_bytes` nothing needs (in a dry run they are still there)."""

    volume: str
    dry_run: bool
    snapshots: int
    reached_bytes: int
    unreached_bytes: int
    young_bytes: int
    freed_bytes: int
    ranges: int
    seconds: float


class Damage(Line, frozen=True, tag="damage", kw_only=True):
    """A damaged range: where it is in the volume and on disk."""

    address: int
    length: int
    file: str
    offset: int
    reason: str


class DamagedFile(Line, frozen=True, tag="damaged-path", kw_only=True):
    """A file, or a directory's own list of names, that needs a damaged range, and the snapshots in which it does."""

    path: bytes
    snapshots: list[dict[str, str]]


class Verified(Line, frozen=True, tag="verify", kw_only=True):
    """A verification is done. `resumed_bytes` were checked by an earlier run that did not finish.

    `damaged_ranges` were found, `repaired_ranges` of them written anew, `unrepaired_ranges` are damaged still, and
    `damaged_paths` need those. `reasons` tell why they could not be repaired, if there was another copy.
    """

    volume: str
    segments: int
    checked_bytes: int
    resumed_bytes: int
    damaged_ranges: int
    damaged_paths: int
    repaired_ranges: int
    repaired_bytes: int
    unrepaired_ranges: int
    unrepaired_bytes: int
    reasons: list[str]
    journal: str
    seconds: float
    bytes_per_s: int


class Salvaged(Line, frozen=True, tag="salvaged", kw_only=True):
    """Unverified files of one ref were written by `rebuild --without-secret`; `reason` is why they may not be whole."""

    ref: str
    snapshot: str
    target: bytes
    files: int
    written_bytes: int
    reason: str


class Rebuilt(Line, frozen=True, tag="rebuild", kw_only=True):
    """A journal was recovered up to `recovered`, and stands at `position` now. `kept` is where the old one is."""

    volume: str
    position_seq: int
    position_hash: str
    recovered_seq: int
    recovered_hash: str
    epoch: int
    segments: int
    kept: str


class BenchRow(Line, frozen=True, tag="bench-row", kw_only=True):
    """What one step took one subject. Of one that could not be had all figures are null, and `why` says the reason;
    if there are figures as well, they are not of all that there was.

    `wire_bytes` are both ways, without what ssh or TLS add; `seconds` and `cpu_s` of both sides, as measured here;
    `round_trips` is null where nobody has counted them, and they count as none in `links`.
    """

    step: str
    subject: str
    wire_bytes: int | None
    round_trips: int | None
    seconds: float | None
    cpu_s: float | None
    links: list[dict[str, float]]
    why: str


class Benched(Line, frozen=True, tag="bench", kw_only=True):
    """All rows are out. `formula` is how the seconds of `links` were reckoned, `rsync` what calls itself so here."""

    workload: str
    old: bytes
    new: bytes
    old_files: int
    old_bytes: int
    new_files: int
    new_bytes: int
    problems: int
    rsync: str | None
    formula: str


class Listening(Line, frozen=True, tag="listening", kw_only=True):
    """A server is ready; it runs until it is told to end."""

    root: str
    host: str
    port: int
    device: str


class Measuring(Line, frozen=True, tag="metrics", kw_only=True):
    """Where a server tells its numbers, after `listening`."""

    host: str
    port: int


class Exported(Line, frozen=True, tag="export", kw_only=True):
    """A directory that a server exports, after `listening`."""

    name: str
    path: bytes
    read_only: bool


class PublicToken(Line, frozen=True, tag="public-token", kw_only=True):
    """With this token a machine can read what is public; it is no secret."""

    token: str


class Invited(Line, frozen=True, tag="invite", kw_only=True):
    """A token that one machine can use, once."""

    token: str
    addresses: list[str]
    role: str
    volume: str
    expires: str


class Paired(Line, frozen=True, tag="pair", kw_only=True):
    """This machine has paired with a server. `name` is what it is called there."""

    server: str
    device: str
    addresses: list[str]
    name: str
    role: str
    volume: str


class PeerLine(Line, frozen=True, tag="peer", kw_only=True):
    """A machine that a server lets in."""

    name: str
    device: str
    grants: dict[str, str]
    paired: str


class OpenInvitation(Line, frozen=True, tag="invitation", kw_only=True):
    """A token that nobody has used yet; `digest` is that of its secret, and names it to `revoke`."""

    digest: str
    role: str
    volume: str
    expires: str


class PeerChanged(Line, frozen=True, tag="peers", kw_only=True):
    """A machine was renamed or revoked; `name` is what it is called now. Of a token, name and device are empty."""

    action: Literal["rename", "revoke"]
    name: str
    device: str


class Notice(Line, frozen=True, tag="notice", kw_only=True):
    """Something worth knowing that changes nothing about the outcome."""

    code: str
    message: str


class Failure(Line, frozen=True, tag="error", kw_only=True):
    """The command failed: the last line of its output. `exit` is its exit code."""

    code: str
    message: str
    hint: str
    exit: int
    values: dict[str, Any]


class Script(Line, frozen=True, tag="completion", kw_only=True):
    """The script that completes `packetfs` in a shell."""

    shell: Literal["bash", "zsh", "fish"]
    script: str


class Versions(Line, frozen=True, tag="version", kw_only=True):
    """What is running."""

    packetfs: str
    python: str
    sqlite: str
    platform: str


def encode(event: msgspec.Struct) -> bytes:
    """`event` as one JSON line.

    A bytes field is a name: it becomes text under its own name, and if it is not UTF-8, its exact bytes in base64
    under `<name>_b64` as well. A list of bytes likewise: `<name>_b64` is then as long, with null for names in UTF-8.
    """
    config = event.__struct_config__
    line: dict[str, Any] = {str(config.tag_field): config.tag}
    for field in event.__struct_fields__:
        value = getattr(event, field)
        if isinstance(value, bytes):
            value, encoded = exact(value)
            if encoded is not None:
                line[f"{field}_b64"] = encoded
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            pairs = [exact(name) for name in value]
            value = [text for text, _ in pairs]
            if any(encoded is not None for _, encoded in pairs):
                line[f"{field}_b64"] = [encoded for _, encoded in pairs]
        line[field] = value
    try:
        return msgspec.json.encode(line, enc_hook=_text) + b"\n"
    except UnicodeEncodeError:  # a path of the command line that is not UTF-8, carried as surrogates
        return msgspec.json.encode(_without_surrogates(line), enc_hook=_text) + b"\n"


def _without_surrogates(line: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field, value in line.items():
        if isinstance(value, str) and not value.isprintable():
            value, encoded = exact(_bytes(value))
            if encoded is not None:
                plain[f"{field}_b64"] = encoded
        plain[field] = _without_surrogates(value) if isinstance(value, dict) else value
    return plain


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "replace")


def _text(value: object) -> object:
    if isinstance(value, bytes):
        return exact(value)[0]
    return str(value)
