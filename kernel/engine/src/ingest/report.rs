//! What ingest is asked, what it may ask its host, and what it answers. Values only.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::address::{Address, Extent};
use crate::checkout::Change;
pub use crate::ingest::owners::Owner;
use crate::keys::Digest;
use crate::lease::Lease;
use crate::page::{PageRef, decode_root};
use crate::select::Selection;
use crate::space::Space;
use crate::tree::{self, PageBytes, PageSource};
use crate::{Result, itemize};

/// One thing to store.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is now.
    pub path: PathBuf,
    /// The name it gets in the root directory. `None`: the contents of this directory, symlink or not, *are* the
    /// root; then it is the only source.
    pub name: Option<Vec<u8>>,
}

/// How to ingest.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stat cache of the last committed ingest of these sources. Missing, foreign or damaged: as if absent.
    pub prior: Option<PathBuf>,
    /// Where the stat cache of this ingest is written, plainly and without syncs; it counts only after the commit, so
    /// the host renames it over `prior` then. **Not written when nothing changed** (then `prior` stays right) nor in
    /// a dry run. `None`: no stat cache is kept.
    pub next: Option<PathBuf>,
    /// The root directory that the ref has now: pages equal in meaning keep its bytes where there is no stat cache.
    pub previous: Option<PageRef>,
    /// Files and directories whose mtime or ctime is not older than this may change again without showing it: they are
    /// read again next time. The source file system's own clock, taken before this call, less a granule.
    pub clean_before_ns: i64,
    /// The device of the file system that this clock is of; 0 for none. What lies on another one has to be 2 s older
    /// than our own time as well.
    pub clean_device: u64,
    /// What of the sources is stored. `prior` is of the same selection, or `None`.
    pub selection: Selection,
    /// Keep the pages that a dry run would write in memory, so that [`Ingested::changes`] can be told.
    pub keep_pages: bool,
    /// Count only: nothing is written, `root` holds addresses that mean nothing, `root_digest` is right.
    pub dry_run: bool,
}

/// A lease as host and engine share it; the host may sync a full one in another thread.
pub type LeaseHandle = Arc<Mutex<Lease>>;

/// What the engine needs of its host while it works. Called from the thread that called the engine, and from no other.
pub trait Host {
    /// A lease with room. `full` is the one that has none left for what comes next; its `sync` is now the host's
    /// business.
    fn grant(&mut self, full: Option<LeaseHandle>) -> Result<LeaseHandle>;

    /// Called at least every 100 ms or so. An error stops the work, which then returns it.
    fn progress(&mut self, progress: &Progress) -> Result<()>;

    /// What this machine calls a user or a group; empty if it has no name. Asked once for each.
    fn owner_name(&mut self, _owner: Owner) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// The other machine that can be asked for chunks, if `space` is a replica. Always the same answer.
    fn origin(&mut self) -> Option<&mut dyn Origin> {
        None
    }
}

/// The origin of a replica, as an ingest into the replica needs it. Its answers are checked like anything from a peer.
pub trait Origin {
    /// Sends the question which of the chunks of these tags are there, and does not wait. The ticket is for the answer;
    /// several questions may be on their way, and are ended in the order in which they began. If the work fails, some
    /// are never ended.
    fn begin(&mut self, tags: &[u64]) -> Result<u64>;

    /// Waits for the answer: [`encode_answers`](crate::space::encode_answers) of one for each tag.
    fn end(&mut self, ticket: u64) -> Result<Vec<u8>>;

    /// A sparse lease of `segment`, where bytes are put that the origin has there. The same one each time, and the one
    /// that [`Host::grant`] gave if that fills this segment. Its `sync` is the host's business.
    fn lease_for(&mut self, segment: u64) -> Result<LeaseHandle>;
}

/// How far it is. Every count only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files settled, unchanged ones, fifos and devices included.
    pub files: u64,
    /// Directories entered.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes of the files settled, unchanged ones included and a hard-linked one once; a large file counts as it is
    /// read.
    pub logical_bytes: u64,
    /// Of these, bytes that the volume did not have.
    pub new_bytes: u64,
    /// Bytes that were read and found in the volume.
    pub known_bytes: u64,
    /// Of these, bytes that only the origin had.
    pub asked_known_bytes: u64,
    /// Files that the stat cache vouched for; they were not opened.
    pub unchanged_files: u64,
    /// Their bytes.
    pub unchanged_bytes: u64,
    /// Bytes of new pages and extent lists.
    pub page_bytes: u64,
    /// Names that were met and not selected; in directories whose names are trusted nobody meets any.
    pub excluded: u64,
    /// Problems found, those beyond [`PROBLEMS_MAX`] included.
    pub problems: u64,
}

/// What is wrong with one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It was listed and then gone. It is not in the snapshot.
    Vanished,
    /// It changed during each of three readings, or ended before its size. What the last one read is stored,
    /// consistent in itself, with an mtime one nanosecond too early so that no tool takes it for the file.
    Changed,
    /// The system refused to open or read it. It is not in the snapshot.
    Unreadable,
    /// It was asked for by name and is not there.
    Missing,
    /// A socket, or the volume itself. It is not in the snapshot.
    Unsupported,
    /// Its extended attributes could not be read, or are more than an entry can have. It is stored without any.
    Attributes,
}

/// One path that is not in the snapshot as it was on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Relative to the root of the snapshot.
    pub path: Vec<u8>,
    /// What is wrong.
    pub kind: ProblemKind,
    /// The system's error number, 0 if it gave none.
    pub errno: i32,
}

/// Problems listed; beyond this they are only counted: an unreadable tree must not fill the memory.
pub const PROBLEMS_MAX: usize = 1 << 16;

/// What an ingest made.
pub struct Ingested {
    /// The root entry, encoded; its pages are in the volume, durable once the leases are synced.
    pub root: Vec<u8>,
    /// Digest of the root entry; equal to the ref's and not `repaired`: nothing to commit.
    pub root_digest: Digest,
    /// The lease that was filled last and has not been given back; `None`: nothing had to be written.
    pub lease: Option<LeaseHandle>,
    /// What was done.
    pub stats: Progress,
    /// What is missing or doubtful, in the order of the walk.
    pub problems: Vec<Problem>,
    /// Whether a new stat cache was written to `Options::next`.
    pub cache_written: bool,
    /// The tree of `Options::previous` is damaged, and this one does not point at what is: to be committed even if
    /// the root digests are equal, because they tell what a tree means and not where it is.
    pub repaired: bool,
    /// Pages of a dry run, by their address that means nothing.
    pub(crate) pages: KeptPages,
}

/// Pages that are in memory only.
pub(crate) type KeptPages = HashMap<Address, Arc<[u8]>>;

impl Ingested {
    /// Tells `visit` in what the tree differs from the directory `old`; see [`itemize::changes`]. Unless it was a dry
    /// run, its pages must be committed.
    pub fn changes(
        &self,
        space: &Space,
        old: Option<PageRef>,
        visit: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        let new = decode_root(&self.root)?.page();
        itemize::changes(&Kept { space, pages: &self.pages }, old, new, visit)
    }
}

/// A space, and pages that are in memory only.
struct Kept<'k> {
    space: &'k Space,
    pages: &'k KeptPages,
}

impl PageSource for Kept<'_> {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        match self.pages.get(&page.address) {
            Some(bytes) => tree::verified(PageBytes::new(Arc::clone(bytes)), page, self.space.keys()),
            None => self.space.page(page),
        }
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        self.space.bytes(extent)
    }
}
