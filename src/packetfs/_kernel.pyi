"""The compiled half of PacketFS, as Python sees it. Import it through `packetfs.kernel` only.

A call takes and gives *batches*; the GIL is released while the engine works. What goes wrong is raised as a class of
`packetfs.errors`; an exception raised by a callback passes through untouched and stops the operation cleanly.

`Page` is `(address, length, digest)`: where a page of a stored directory rests, and what it means.
`Extent` is `(address, length)`. Names and paths are bytes, exactly as the file system gave them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias, final, type_check_only

from typing_extensions import Buffer

__all__ = [
    "Checkout",
    "Chunker",
    "Difference",
    "Entry",
    "Incoming",
    "Ingested",
    "Lease",
    "Mark",
    "Mender",
    "Outgoing",
    "Patterns",
    "Selection",
    "Space",
    "Unverified",
    "Watch",
    "checkout",
    "crash_at",
    "crc32c",
    "decode_root",
    "derive_key",
    "fail_at",
    "fault_met",
    "fault_point",
    "free_bytes",
    "give_back_memory",
    "ingest",
    "ingest_stream",
    "keyed_digest",
    "merge_ranges",
    "pattern_lines",
    "ranges_bytes",
]

Page: TypeAlias = tuple[int, int, bytes]
Extent: TypeAlias = tuple[int, int]
_Change: TypeAlias = tuple[bytes, str, str, int, str]

def derive_key(context: str, key: bytes) -> bytes:
    """The 32-byte key for `context`, from `key` (BLAKE3 key derivation)."""

def keyed_digest(key: bytes, data: Buffer) -> bytes:
    """Keyed BLAKE3-256 of `data`; `key` is 32 bytes."""

def crc32c(data: Buffer, seed: int = 0) -> int:
    """CRC-32C of what `seed` is the checksum of, followed by `data`. `bytes` are read without a copy."""

def crash_at(n: int) -> None:
    """Arm a crash, for tests: the process dies by SIGKILL before the n-th sync, rename or removal from now."""

def fail_at(n: int, errno: int, lasting: bool) -> None:
    """Arm a failure, for tests: the n-th step from now that changes a disk is not taken and fails with `errno`; if it
    is `lasting`, so do all that follow.
    """

def give_back_memory() -> None:
    """Have memory that was freed given back to the system, in this whole process: for programs of our own to call."""

def fault_met() -> str | None:
    """The step that was made to fail and where, if the counter has come to it."""

def fault_point(step: str) -> None:
    """Called right before a step that changes a disk; it is where an armed fault happens. OSError if it is to fail.

    A step is "write", "resize", "create", "mkdir", "sync", "rename" or "remove".
    """

@final
class Chunker:
    """The chunker and the fused scan by themselves, for tests and benchmarks.

    `path` is "auto", "avx512", "avx2" or "portable"; a path this processor lacks is a ValueError, never replaced.
    """

    def __new__(
        cls, cut_key: bytes, digest_key: bytes, min: int, avg: int, max: int, normalisation: int, path: str = "auto"
    ) -> Chunker: ...
    @property
    def path(self) -> str: ...
    def cuts(self, data: Buffer, last: bool = True) -> list[int]:
        """Ends of the chunks of `data`, ascending. Without `last` the undecided tail gets none."""
    def scan(self, data: Buffer, last: bool = True, wide: bool = False) -> list[tuple[int, bytes]]:
        """(end, digest) of each chunk. `wide` uses both cores."""

@final
class Space:
    """One volume's address space on this machine: segments, chunk tables, index. Safe to share between threads."""

    def __new__(
        cls,
        directory: bytes,
        volume_id: bytes,
        secret: bytes,
        min: int,
        avg: int,
        max: int,
        normalisation: int,
        peer_keys: bytes | None = None,
    ) -> Space:
        """Open a volume, or with the `peer_keys` of an origin a replica of it, whose `secret` is its own."""
    @property
    def peer_keys(self) -> bytes:
        """Digest key and cut key, 32 bytes each: what a replica shares with its origin. A secret."""
    def admit(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Say what the journal holds as durable: (segment, head, chunk-table bytes). Catches the index up.

        The rows of `Lease.flush` may be admitted too; they are taken back if that lease is closed without a sync.
        """
    def slot(self, segment: int) -> str:
        """The name under which `segment` rests: 10 hex digits."""
    def lease(self, segment: int, head: int, table_bytes: int, fresh: bool, sparse: bool = False) -> Lease | None:
        """Take `segment` to fill it from `head`; None while another live process (or lease) holds it.

        Cuts the chunk table to `table_bytes`. `fresh` creates the files. `sparse` is for a replica: the data file may
        end before `head` and have holes, a fresh one begins at `head` too, and gaps below it may be filled.
        """
    def view(self, address: int, length: int) -> memoryview:
        """Committed bytes, every chunk verified, without a copy. The range must be whole chunks.

        It shows the file itself: if the disk fails or the file is cut short *while the view is in use*, zeros take the
        place of what cannot be read, or a system call answers EFAULT. Whoever cannot live with that uses `read`, or
        asks for the same view again before it believes what it did with the first: that raises DamagedError then.
        """
    def read(self, address: int, length: int) -> Iterator[bytes]:
        """Committed bytes in pieces of whole chunks, about 1 MiB each. The range must be whole chunks.

        Each piece is a copy that was verified after it was made: nothing can happen to it any more.
        """
    def entries(self, page: Page) -> Iterator[Entry]:
        """The entries of a stored directory, names ascending, read page by page."""
    def lookup(self, page: Page, name: bytes) -> Entry | None: ...
    def extents(self, entry: Entry) -> list[Extent]:
        """Where the content of a file is, in order; a hole has address 0."""
    def find_tags(self, tags: Buffer) -> bytes:
        """Which chunks of kind data have digests that begin with these tags (8 bytes each, little-endian).

        44 bytes a tag: address u64, length u32, digest; all zeros when it is not known. Only what is committed, durable
        as far as this process knows, and not distrusted.
        """
    def holds(self, address: int, length: int) -> bool:
        """Whether a range is whole chunks that are here, as far as the chunk tables say."""
    def absent(self, root: bytes, within: bytes) -> list[Extent]:
        """What of the content of a tree, at and below the path `within` (empty: all), is not here.

        Ascending, joined, each byte once; nothing if there is no such path. The tree's pages must be here. Of a file
        whose list of extents is not here only the list is answered: ask again once it is.
        """
    def verify(self, segment: int, start: int, budget: int) -> tuple[int, int, list[Extent]]:
        """Check chunks of `segment` from offset `start`, about `budget` bytes.

        Returns (bytes checked, offset to go on from, damaged extents); done when that offset is the segment's head.
        """
    def unproved(self, root: bytes, doubted: Sequence[int]) -> list[int]:
        """Those of the segments `doubted` whose chunk tables a snapshot's `root` needs and does not prove.

        Pages and chunk tables are read, no content.
        """
    def distrust(self, extents: Sequence[Extent]) -> None:
        """Say which stored bytes are damaged: nothing new is pointed at them, so a push of the same content stores it
        again, also where nothing has changed. Lasts as long as this object; what `view` finds damaged is added.
        """
    def condemn(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Point nothing new at these ranges, (segment, ranges), and at none else that was condemned before."""

    def reclaim(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Say what of these segments is gone: all of it, for each. What points there is damaged from now on."""

    def punch(self, segment: int) -> int:
        """Give whole blocks of what is gone of a segment back to the file system; bytes that this freed. Durable."""

    def diff(self, old: Page | None, new: Page | None) -> list[Difference]: ...
    def find(
        self, lines: Sequence[Sequence[Page | None]], pattern: Patterns, by_path: bool
    ) -> list[list[tuple[bytes, str, int, int, int, int, int]]]:
        """What matches in lines of trees: (path, kind, size, mtime_ns, first, last, count), in order of path.

        Size and time are those in the last tree that has it; `first` and `last` are places in the line, `count` is how
        many trees have it. A directory that trees share is read once. `by_path` says that the pattern is one for paths.
        """
    def files_touching(self, page: Page, extents: Sequence[Extent]) -> list[bytes]:
        """Paths below `page` whose content or own page lies in one of `extents`."""
    @property
    def open_entries(self) -> int:
        """Index entries that are in memory only."""
    @property
    def index_discarded(self) -> str | None:
        """Why the index on disk could not be used, if so; what it knew is taken from the chunk tables instead."""
    def publish_index(self) -> bool:
        """Write open index entries of committed chunks to disk. False when another process is doing so."""

@final
class Lease:
    """The right to fill one segment. Dropping it gives the segment back."""

    @property
    def segment(self) -> int: ...
    @property
    def room(self) -> int:
        """Bytes that still fit."""
    @property
    def head(self) -> int:
        """Offset in the segment of the next byte to be appended."""
    def append_journal(self, data: bytes) -> int:
        """Append one chunk of kind journal; its address."""
    def put_journal(self, offset: int, data: bytes) -> None:
        """Put one chunk of kind journal where it is at the origin; one that is there already is left alone.

        RefusedError if another chunk has bytes there.
        """
    def flush(self) -> tuple[int, int, int]:
        """Put everything appended into the files, so that this process can read it once the answer is admitted.

        Not durable, not for the journal: closing the lease without a sync takes it back.
        """
    def sync(self) -> tuple[int, int, int]:
        """Make everything appended durable; (segment, head, chunk-table bytes) for the journal.

        After an error the lease is unusable: what was appended may be durable in part, and nothing refers to it.
        """
    def advance(self, head: int) -> None:
        """Move the head up to `head`, if it is below."""
    def close(self) -> None:
        """Give the segment back; idempotent. Whoever else still holds the lease can do nothing with it any more."""

@final
class Entry:
    """One name in a stored tree."""

    @property
    def name(self) -> bytes: ...
    @property
    def kind(self) -> str:
        """One of "file", "directory", "symlink", "fifo", "char-device" or "block-device"."""
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def user(self) -> bytes: ...
    @property
    def group(self) -> bytes: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def target(self) -> bytes:
        """Where a symlink points."""
    @property
    def rdev(self) -> int: ...
    @property
    def xattrs(self) -> list[tuple[bytes, bytes]]:
        """Extended attributes, access control lists among them; names ascending."""
    @property
    def link_id(self) -> int:
        """Equal for names of one file (hard links); 0 for a file with one name."""
    @property
    def digest(self) -> bytes:
        """Content digest of a file; page digest of a directory."""
    @property
    def page(self) -> Page | None:
        """A directory's first page."""

@final
class Difference:
    """One change between two trees."""

    @property
    def path(self) -> bytes: ...
    @property
    def change(self) -> str:
        """One of "added", "removed", "changed", "metadata" or "renamed"."""
    @property
    def kind(self) -> str: ...
    @property
    def old_size(self) -> int: ...
    @property
    def new_size(self) -> int: ...
    @property
    def old_path(self) -> bytes | None: ...

@final
class Mark:
    """Which bytes of a volume some trees reach. Ranges are packed: start and end as u32 each, little-endian."""

    def __new__(cls, space: Space) -> Mark: ...
    def trees(self, roots: Sequence[bytes]) -> None:
        """Mark all that these root entries need; a page that was seen is not read again.

        DamagedError if a page cannot be read: what it points to is not known then.
        """

    @property
    def reached_bytes(self) -> int:
        """Bytes that are marked, each once."""

    def unreached(self, rows: Sequence[tuple[int, int, int, int]]) -> tuple[list[tuple[int, bytes]], int]:
        """(segment, ranges) of whole chunks that nothing marked needs, and how many bytes were left out as too young.

        Of each (segment, head, chunk-table bytes, settled) only what lies below `settled` is told. Entries of the
        journal are always needed; what is reclaimed already is not told again.
        """

    def spared(self, rows: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """(segment, ranges) without what is marked."""

def merge_ranges(one: bytes, other: bytes) -> bytes:
    """Packed ranges of a segment that hold what either holds."""

def ranges_bytes(ranges: bytes) -> int:
    """How many bytes packed ranges hold."""

@final
class Outgoing:
    """One transfer, as the side sees it that sends: it plans what travels and gives it body by body.

    All that it is told of must be admitted in `space`. The other side feeds each kind of body to one `Incoming`, in
    order and without leaving one out; of each kind as it comes, literals before the tree.
    """

    def __new__(cls, space: Space, *, verified: bool = False) -> Outgoing:
        """With `verified`, all that will be sent was digested and put by this process: it is not verified once more."""
    def add(self, extents: Sequence[Extent], *, pages: bool) -> None:
        """Queue the data chunks of these ranges, and with `pages` those of trees as well, each address once."""
    def plan(
        self, root: bytes, base: bytes | None, *, fresh: Sequence[Extent] | None, within: bytes, data: bool
    ) -> None:
        """Queue what it takes to turn the tree `base`, which the other side holds with all its data, into `root`.

        Both are the bytes of a snapshot's root. `fresh` (a push): chunks in these ranges travel and nothing else. None
        (a pull): chunks that are not reachable from `base` do. Data travels only for files at or below the path
        `within` (empty: all), for none without `data`; the receiver's `begin_tree` then needs `sparse`. A chunk
        travels once, however often it is named.
        """
    def literals(self) -> tuple[bytes, Buffer] | None:
        """The next body of literals; None when nothing is queued. More may be queued then.

        It is in two parts: the second one may be mapped bytes of the space, so that nothing is copied.
        """
    def tree(self) -> bytes | None:
        """The next body of the planned tree's script; None at its end."""
    @property
    def literal_bytes(self) -> int:
        """Bytes of the literals given so far, uncoded."""
    @property
    def delta_bytes(self) -> int:
        """Of these, bytes that were coded against a base."""
    @property
    def coded_bytes(self) -> int:
        """Bytes of all bodies given so far, literals and tree."""
    @property
    def pointer_count(self) -> int:
        """Extents of planned files that the other side has."""
    @property
    def literal_chunks(self) -> int: ...

@final
class Incoming:
    """One transfer, as the side sees it that receives: it believes nothing and makes nothing durable.

    `lease_for(segment)` gives the lease of a segment that the peer may fill, or raises; it is called once a segment and
    must not use this object.
    After an error the transfer is over: drop the leases without having synced them.
    """

    def __new__(cls, space: Space, lease_for: Callable[[int], Lease]) -> Incoming: ...
    def literals(self, body: Buffer) -> int:
        """Check a body of literals and put its chunks in their place; how many bytes were not here before."""
    def begin_tree(self, base: bytes | None, *, sparse: bool = False) -> None:
        """Begin a tree's script from the snapshot root `base`. Literals received so far can be found from here on.

        `sparse` takes a tree without the data of all files; then its root digest must be one that is trusted.
        """
    def tree(self, body: Buffer) -> None:
        """Apply a body of the script and put the pages that it completes."""
    def finish_tree(self) -> tuple[bytes, bytes]:
        """The root that came out, and its digest, which the caller compares. InvalidError if the script goes on."""
    @property
    def segments(self) -> list[int]:
        """Segments that leases were asked for: to be synced before what was received is committed."""

@final
class Mender:
    """Writes over damaged committed bytes, and only bytes that have the digest in the chunk table.

    What is offered and is anything else, or lies where nothing is damaged, is passed over.
    """

    def __new__(cls, space: Space) -> Mender: ...
    def offer(self, address: int, data: bytes) -> None:
        """Offer the bytes of the one chunk at `address`."""
    def begin(self) -> None:
        """Say that the next body is the first of an answer: each is coded by itself."""
    def literals(self, body: Buffer) -> int:
        """Offer the chunks of a body of literals; how many bytes they are."""
    def chunks(self, extents: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The chunks that have bytes in `extents`, each by itself; none where the chunk table cannot be read."""
    def sync(self) -> list[tuple[int, int]]:
        """Make what was written durable, and say what that was since the last time."""

def decode_root(data: bytes) -> Entry:
    """A snapshot's root entry from its bytes; InvalidError when they are not one."""

def pattern_lines(data: bytes, place: str) -> list[tuple[str, bytes]]:
    """The patterns in a file called `place`, as `Patterns` takes them; comments and empty lines are none."""

@final
class Patterns:
    """Patterns as in .gitignore, in order: the last one that matches a path decides."""

    def __new__(cls, lines: Sequence[tuple[str, bytes]]) -> Patterns:
        """Patterns, each with the place where it was written; UsageError names the first that is none."""

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """Whether they leave a path out, relative to where they begin. What is beneath it they are not asked of."""

@final
class Selection:
    """What a push stores of its sources."""

    def __new__(
        cls,
        *,
        patterns: Patterns | None,
        filter_file: bytes | None,
        exclude_caches: bool,
        one_file_system: bool,
        names: Sequence[bytes] | None,
        size_max: int | None,
    ) -> Selection:
        """`filter_file` is the name of files that hold patterns for what is beneath them. Of one source's contents only
        `names` are stored, relative to it. See `packetfs.Selection` for what the rest means.
        """

@final
class Watch:
    """Directories and all beneath them, under watch by inotify: whether something has changed, not what.

    What changes from its making on is told, also after the system has dropped events. Not heard is what other machines
    change on a network file system. OSError: ENOSPC when no more directories may be watched, EMFILE when there are
    too many watchers.
    """

    def __new__(cls, roots: Sequence[bytes], *, excluded: Patterns | None) -> Watch:
        """Watch absolute `roots`, and not what `excluded` excludes by its path from its root."""

    @property
    def directories(self) -> int:
        """How many are watched."""

    def wait(self, *, patience_s: float | None, quiet_s: float, limit_s: float) -> bool:
        """Wait for a change: False after `patience_s`, or when a signal came.

        True once there has been none for `quiet_s`, or `limit_s` after the first: what is written together is told
        once.
        """

@final
class Ingested:
    """What an ingest found and stored. Nothing of it is durable until the lease is synced and the commit made."""

    @property
    def root(self) -> bytes: ...
    @property
    def root_digest(self) -> bytes: ...
    @property
    def lease(self) -> Lease | None:
        """The lease that was being filled, to be synced by the caller; None if nothing was granted."""
    @property
    def files(self) -> int: ...
    @property
    def directories(self) -> int: ...
    @property
    def symlinks(self) -> int: ...
    @property
    def logical_bytes(self) -> int: ...
    @property
    def unchanged_files(self) -> int: ...
    @property
    def unchanged_bytes(self) -> int:
        """Bytes of files that were not read because their stat row vouched for them."""
    @property
    def known_bytes(self) -> int:
        """Bytes that were read and found in the volume."""
    @property
    def asked_known_bytes(self) -> int:
        """Of these, bytes that only the origin had; they are here now as well."""
    @property
    def new_bytes(self) -> int:
        """Bytes that were read and stored."""
    @property
    def page_bytes(self) -> int:
        """Bytes of new tree pages."""
    @property
    def cache_written(self) -> bool:
        """Whether a stat cache was written to `next`; it is not when nothing changed, as `prior` stays right."""
    @property
    def repaired(self) -> bool:
        """Whether `previous` was damaged and this tree is not: commit it even if the root digests are equal."""
    def changes(self, space: Space, old: Page | None, report: Callable[[list[_Change]], None]) -> None:
        """Tell in what the tree differs from the directory `old`; it is committed, or of a dry run that kept pages."""
    @property
    def excluded(self) -> int:
        """Names that were met and not selected; in a directory whose names are trusted nobody meets any."""
    @property
    def problem_count(self) -> int:
        """Problems found; `problems` lists the first 65,536."""
    @property
    def problems(self) -> list[tuple[bytes, str, int]]:
        """(path, "vanished" | "changed" | "unreadable" | "unsupported" | "attributes", errno)."""

@type_check_only
class Ask(Protocol):
    """The way to a replica's origin, as `ingest` uses it. What it answers is checked."""

    def begin(self, tags: bytes, /) -> int:
        """Send the question about these tags, as `Space.find_tags` takes them, and do not wait; a ticket.

        Up to nine questions are on their way at once. If the ingest fails, some are never ended.
        """
    def end(self, ticket: int, /) -> bytes:
        """Wait for the answer, as `Space.find_tags` gives it. Tickets come in the order in which they began."""
    def lease_for(self, segment: int, /) -> Lease:
        """The sparse lease of a segment of the origin, where the bytes that are known there are put.

        The same one each time, and the one that `grant` gave if that fills this segment. The caller syncs it.
        """

def ingest(
    space: Space,
    sources: Sequence[tuple[bytes, bytes | None]],
    *,
    prior: bytes | None,
    next: bytes | None,
    previous: Page | None,
    clean_before_ns: int,
    clean_device: int,
    dry_run: bool,
    grant: Callable[[Lease | None], Lease],
    progress: Callable[[int, int, int, int, int], None],
    owner_name: Callable[[str, int], bytes],
    ask: Ask | None = None,
    selection: Selection | None = None,
    keep_pages: bool = False,
) -> Ingested:
    """Turn directories and files into extents and pages.

    `sources` are (path, name); one source with name None gives its contents as the root. `prior` is the stat cache to
    trust, one of the same `selection`. `clean_before_ns` is the time of the file system `clean_device` (0: of none)
    before which a file must have rested to be trusted; on others it must be 2 s older than our time as well. `next` is
    the path at which to write the stat cache for the next time.
    `grant(full)` gives the lease to fill after `full`.
    `progress(files, directories, bytes_done, bytes_new, bytes_unchanged)` runs about every 100 ms.
    `owner_name("user" | "group", number)` gives what this machine calls an owner, or nothing; once for each.

    With `ask`, `space` is a replica, and its origin is asked for chunks that are not here once there are 256 KiB of
    them. Everything is called from the calling thread. `keep_pages` lets `Ingested.changes` be asked of a dry run.
    """

def ingest_stream(
    space: Space,
    fd: int,
    *,
    name: bytes,
    mode: int,
    mtime_ns: int,
    dry_run: bool,
    grant: Callable[[Lease | None], Lease],
    progress: Callable[[int, int, int, int, int], None],
    owner_name: Callable[[str, int], bytes],
    ask: Ask | None = None,
) -> Ingested:
    """Like `ingest`, for what can be read from `fd`, stored as a file `name` in a root directory made for it."""

@final
class Checkout:
    """What a checkout did (or, dry, would do)."""

    @property
    def created(self) -> int: ...
    @property
    def replaced(self) -> int: ...
    @property
    def metadata(self) -> int: ...
    @property
    def deleted(self) -> int: ...
    @property
    def unchanged(self) -> int: ...
    @property
    def written_bytes(self) -> int: ...
    @property
    def owners(self) -> tuple[int, list[bytes]]:
        """How many names belong to another than was wished, and the first ten of them."""
    @property
    def devices(self) -> tuple[int, list[bytes]]:
        """Devices that may not be made."""
    @property
    def attributes(self) -> tuple[int, list[bytes]]:
        """Names that do not have all their extended attributes."""
    @property
    def left_ns(self) -> int | None:
        """The time of the target's file system when all was done; None if nothing was written."""
    @property
    def not_deleted(self) -> int:
        """Names that would have been deleted, but were more than `delete_max`."""
    @property
    def growth_bytes(self) -> int | None:
        """Of a dry run: what would be in use more on the target's file system, at least; None if that is not known."""

def free_bytes(path: bytes) -> int | None:
    """What can still be written to the file system of `path`; None where only trying tells."""

@final
class Unverified:
    """The segments of a volume whose secret is lost, read without it: nothing that comes out is verified."""

    def __new__(cls, directory: bytes, volume_id: bytes) -> Unverified: ...
    def journal(self, bytes_max: int) -> list[bytes]:
        """The chunks of kind journal of at most `bytes_max` each, in no order."""
    @property
    def lost(self) -> tuple[int, int]:
        """Bytes that were missing and came out as zeros, and pages whose directories came out empty."""
    def checkout(
        self,
        root: bytes,
        target: bytes,
        *,
        progress: Callable[[int, int], None],
        report: Callable[[list[_Change]], None],
    ) -> Checkout:
        """Write what lies at a snapshot's `root` beneath `target`; owners are not set."""

def checkout(
    space: Space,
    root: Page | Entry | Sequence[Entry],
    target: bytes,
    *,
    base: tuple[Page, int, Literal["written", "alone", "read"]] | None,
    delete: bool,
    dry_run: bool,
    owner: bool,
    numeric: bool,
    user: int | None,
    group: int | None,
    progress: Callable[[int, int], None],
    report: Callable[[list[_Change]], None],
    owner_number: Callable[[str, bytes], int | None],
    exclude: Patterns | None = None,
    backup: bytes | None = None,
    delete_max: int | None = None,
    checksum: bool = False,
) -> Checkout:
    """Write a stored directory or single entries beneath `target`, which is made if it is missing.

    A page stands for a directory's contents. An `Entry` stands for a directory, and `target` also gets its mode, time,
    attributes and (with `owner`) owner, at the end and by descriptor; a target of somebody else's is filled only, and
    counted in `owners`. A sequence stands for entries under their own names.

    `base` is the page that `target` was last written from, the `left_ns` of that checkout, and "written", or "alone" if
    nobody else writes there: then a directory that stays as it was with all beneath it is not looked into, unless its
    own mode, owner or time are others now. Or it is the page that `target` was read and stored as, a time before which
    nothing had changed since, and "read". With `owner`, owners are
    those that the entries name, as `owner_number("user" | "group", name)` knows them (asked once for each), or with
    `numeric` their numbers; `user` and `group` take their place.

    What `exclude` matches is neither written nor deleted nor touched. What is replaced or deleted is moved to the
    directory `backup`, with its path. If more than `delete_max` names would be deleted, none is. `checksum` compares
    files by content, not by size and time.

    `progress(entries_done, bytes_written)`; `report([(path, action, kind, size, letters)])` with action "created",
    "replaced", "metadata" or "deleted" and rsync's letters for it. Killed at any instant, every name beneath `target`
    is old or new, never a mixture.
    """
