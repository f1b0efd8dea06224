//! A stored tree becomes a directory: walked page by page against what is there, and only the difference is done.
//!
//! What it promises: a name beneath the target is old or new at any instant, never a mixture; bytes are verified before
//! a name shows them; nothing outside the target is read, written or removed, whatever the tree says; and running it
//! again continues. What it does not do: it does not read unchanged files (size and time tell), and it does not remove
//! what the tree does not have unless told to. What it may not set (an owner, a device, a capability) it counts and
//! leaves out.
//!
//! `plan` decides about one name, `act` makes groups of changes visible, `work` writes files; this file walks.

pub mod act;
pub mod plan;
pub mod room;
pub mod spare;
pub mod work;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::beneath::{Dir, Listed, Name};
use crate::gather::{self, Source};
use crate::itemize::Aspects;
use crate::keys::{Digest, keyed};
use crate::page::{Entry, EntryKind, PageRef};
use crate::space::Space;
use crate::tree::Entries;
use crate::xattr::{self, Holder, Xattrs};
use crate::{Error, Result};
use act::{Finish, Group, Home, Made, Move, Others, Parked, Staging};
pub use plan::Owners;
use plan::{Attributes, Found, FoundKind, Over, Rules, Step};
use room::Room;
use spare::{Backup, Care};
use work::{Feeder, FileJob, Pool, at};

/// Names in a group: with more, a kill would take back more work than a second's.
const GROUP_NAMES_MAX: usize = 4096;
/// Bytes of paths in a group, and in the changes not yet reported: a deep tree has more path than name.
const GROUP_PATH_BYTES_MAX: usize = 8 << 20;
/// Bytes in a group: what a disk writes in a second or two.
const GROUP_BYTES_MAX: u64 = 256 << 20;
/// Threads that write files, the walking one included: beyond it they wait for each other in the kernel.
const THREADS_MAX: usize = 4;
/// How often it is told how far it is, at least.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Changes reported at once.
const REPORT_MAX: usize = 4096;
/// Open directories above which those far from the walk are closed and found again later.
const OPEN_LEVELS: usize = 128;

/// What to write.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a checkout")]
pub enum Root {
    /// The contents of a stored directory.
    Directory(PageRef),
    /// The contents of a stored directory, and its own mode, owner and time for the target.
    Whole(Entry),
    /// Single entries, under their names.
    Entries(Vec<Entry>),
}

/// How to write it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Remove what the tree does not have.
    pub delete: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Whom things are to belong to.
    pub owners: Owners,
    /// What is spared.
    pub care: Care,
}

/// What is known of how the target was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// The stored directory that it was last written from.
    pub page: PageRef,
    /// The time of its file system then. What has not been changed since is as it was stored, attributes included.
    pub left_ns: i64,
    /// How it came to be as that directory, and what is promised of the time since.
    pub how: How,
}

/// How a target came to be as a stored directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was written from it.
    Written,
    /// It was written from it, and nobody but us writes there: a directory that stays the same, with all beneath it, is
    /// not looked into, unless its own mode, owner or time are others now.
    Alone,
    /// It was not written from it, but read and stored as it: so every file had its content then, and need not be
    /// written anew to get another time.
    Read,
}

/// An owner as a snapshot calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerName<'a> {
    /// A user.
    User(&'a [u8]),
    /// A group.
    Group(&'a [u8]),
}

/// Is told what happens. An error from it stops the checkout between two changes.
pub trait OnProgress {
    /// How far it is; at least ten times a second.
    fn progress(&mut self, progress: &Progress) -> Result<()>;
    /// What has become visible since the last call (with `dry_run`: what would).
    fn report(&mut self, batch: &[Change]) -> Result<()>;
    /// The number that an owner has on this machine, if there is one of that name. Asked once for each.
    fn owner_number(&mut self, _owner: OwnerName<'_>) -> Result<Option<u32>> {
        Ok(None)
    }
}

/// How far a checkout is. Both only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries of the tree that have been looked at.
    pub entries: u64,
    /// Bytes of content written; of a dry run, that would be.
    pub written_bytes: u64,
}

/// What was done to one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path beneath the target.
    pub path: Vec<u8>,
    /// What was done.
    pub action: Action,
    /// Kind of what is there now, or was.
    pub kind: EntryKind,
    /// Bytes of a file.
    pub size: u64,
    /// In what it differed.
    pub differs: Aspects,
}

/// What can be done to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was not there.
    Created,
    /// Something else was there.
    Replaced,
    /// Only its mode, owner or time was changed.
    Metadata,
    /// It is gone, with all that was beneath it.
    Deleted,
}

/// Names that are told of those that something was missed for.
const TOLD_MAX: usize = 10;

/// Names for which something could not be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// How many.
    pub count: u64,
    /// The first of them, at most ten.
    pub first: Vec<Vec<u8>>,
}

impl Missed {
    /// Counts one more.
    pub fn add(&mut self, path: &[u8]) {
        self.count += 1;
        if self.first.len() < TOLD_MAX {
            self.first.push(path.to_vec());
        }
    }

    fn join(&mut self, other: Missed) {
        self.count += other.count;
        self.first.extend(other.first);
        self.first.truncate(TOLD_MAX);
    }
}

/// What a checkout did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names that were not there.
    pub created: u64,
    /// Names that stood for something else.
    pub replaced: u64,
    /// Names of which only mode, owner, time or attributes were changed.
    pub metadata: u64,
    /// Names removed, each with all that was beneath it.
    pub deleted: u64,
    /// Names that would have been removed, but were more than [`Care::delete_max`].
    pub not_deleted: u64,
    /// Names left alone.
    pub unchanged: u64,
    /// Bytes of content written; of a dry run, that would be.
    pub written_bytes: u64,
    /// Names whose owner is another than was wished.
    pub owners: Missed,
    /// Devices that could not be made.
    pub devices: Missed,
    /// Names that do not have all their extended attributes.
    pub attributes: Missed,
    /// The time of the target's file system when all was done, for the next [`Before`]; `None` if nothing was written.
    pub left_ns: Option<i64>,
    /// Of a dry run: bytes that would be in use more on the target's file system, at least; `None` if that cannot be said.
    pub growth_bytes: Option<i64>,
}

/// Writes what is stored at `root` beneath `target`, which is made if it is missing.
///
/// When it fails, or is stopped by `on_progress`, every name is old or new, and running it again continues.
pub fn checkout(
    space: &Space,
    root: &Root,
    target: &Path,
    options: &Options,
    on_progress: &mut dyn OnProgress,
) -> Result<Report> {
    checkout_from(space, root, None, target, options, on_progress)
}

/// As [`checkout`], where it is known what `target` was last written from.
///
/// Size and time tell what somebody changed in the target; but two snapshots may hold files of equal size and time and
/// of other content (a build that sets all times alike). With `base`, what changed between the two is always written;
/// and the attributes of names that nobody has touched since need not be looked at. A base that cannot be read is as
/// none.
pub fn checkout_onto(
    space: &Space,
    root: &Root,
    base: &Before,
    target: &Path,
    options: &Options,
    on_progress: &mut dyn OnProgress,
) -> Result<Report> {
    checkout_from(space, root, Some(base), target, options, on_progress)
}

/// As [`checkout`] or [`checkout_onto`], from any source.
pub fn checkout_from<S: Source>(
    source: &S,
    root: &Root,
    base: Option<&Before>,
    target: &Path,
    options: &Options,
    on_progress: &mut dyn OnProgress,
) -> Result<Report> {
    let mut options = options.clone();
    let mut not_deleted = 0;
    if let (true, Some(most)) = (options.delete, options.care.delete_max) {
        let planned = count_deletions(source, root, target, &options, on_progress)?;
        if planned > most {
            (options.delete, not_deleted) = (false, planned);
        }
    }
    let report = checkout_with(source, root, base, target, &options, false, on_progress)?;
    Ok(Report { not_deleted, ..report })
}

/// How many names a checkout would remove, each one in a directory that goes counted.
fn count_deletions<S: Source>(
    source: &S,
    root: &Root,
    target: &Path,
    options: &Options,
    on_progress: &mut dyn OnProgress,
) -> Result<u64> {
    struct Quiet<'w>(&'w mut dyn OnProgress);
    impl OnProgress for Quiet<'_> {
        fn progress(&mut self, _: &Progress) -> Result<()> {
            self.0.progress(&Progress::default())
        }

        fn report(&mut self, _: &[Change]) -> Result<()> {
            Ok(())
        }

        fn owner_number(&mut self, owner: OwnerName<'_>) -> Result<Option<u32>> {
            self.0.owner_number(owner)
        }
    }
    let care = Care { checksum: false, ..options.care.clone() };
    let options = Options { dry_run: true, care, ..options.clone() };
    Ok(checkout_with(source, root, None, target, &options, true, &mut Quiet(on_progress))?.deleted)
}

fn checkout_with<S: Source>(
    source: &S,
    root: &Root,
    base: Option<&Before>,
    target: &Path,
    options: &Options,
    counts: bool,
    on_progress: &mut dyn OnProgress,
) -> Result<Report> {
    // Missing is fine: then nothing beneath the target can be it.
    let volume = source.directory().and_then(|path| Dir::open(path).ok());
    let places = match options.dry_run {
        true => Places::looked_at(target)?,
        false => Places::made(target)?,
    };
    let backup = match (&options.care.backup, &places.root) {
        (Some(path), Some(root)) => Backup::open(path, root, volume.as_ref(), options.dry_run)?.map(Arc::new),
        _ => None,
    };
    let pool = Pool::new(source);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 1..if options.dry_run { 1 } else { threads } {
            scope.spawn(|| pool.serve());
        }
        let mut checkout = Checkout::new(source, &pool, places, options, backup, on_progress);
        checkout.counts = counts;
        checkout.volume = volume.and_then(|dir| dir.stat_self().ok()).map(|stat| (stat.st_dev, stat.st_ino));
        let answer = checkout.run(root, base);
        pool.close();
        answer
    })
    .map_err(|error| beneath(target, error))
}

/// The error with its path beneath the target made a path of the user's.
fn beneath(target: &Path, error: Error) -> Error {
    match error {
        Error::Io { action, path, source } => Error::Io { action, path: target.join(path), source },
        other => other,
    }
}

/// Where things are.
struct Places {
    /// The target; `None` if it does not exist and nothing is to be made.
    root: Option<Arc<Home>>,
    /// The staging directories of other checkouts, which are no part of the target.
    others: Others,
}

impl Places {
    fn looked_at(target: &Path) -> Result<Places> {
        let root = match Dir::open(target) {
            Ok(dir) => Some(Arc::new(Home::target(dir, creator())?)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(Error::io("open", target, error)),
        };
        let others = root.as_ref().map_or(Ok(Others::default()), |root| act::others(&root.dir));
        Ok(Places { root, others: others.map_err(|error| beneath(target, error))? })
    }

    fn made(target: &Path) -> Result<Places> {
        allow_open_files();
        let root = Arc::new(Home::target(act::open_target(target)?, creator())?);
        let others = act::others(&root.dir).map_err(|error| beneath(target, error))?;
        act::remove_dead(&root.dir, &others).map_err(|error| beneath(target, error))?;
        Ok(Places { root: Some(root), others })
    }
}

/// The stored directory that a root is, if it is one.
fn root_page(root: &Root) -> Option<PageRef> {
    match root {
        Root::Directory(page) => Some(*page),
        Root::Whole(entry) => entry.page(),
        Root::Entries(_) => None,
    }
}

/// Whether a directory is to be what it was written as, and its own mode, owner and time do not say otherwise.
fn is_as_left(entry: &Entry, found: &Found, was: &Was, attributes: &Attributes) -> bool {
    let same = match was {
        Was::Same => true,
        Was::Other(was) => {
            was.page().map(|page| page.digest) == entry.page().map(|page| page.digest) && was.xattrs == entry.xattrs
        }
        Was::Unknown => false,
    };
    same && entry.page().is_some() && found.is_directory() && !Differs::of(found, attributes).any()
}

/// Owner and group of what this process creates, where no directory says otherwise.
fn creator() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Groups that this process belongs to.
fn groups(own: u32) -> Vec<u32> {
    let others = rustix::process::getgroups().unwrap_or_default();
    std::iter::once(own).chain(others.into_iter().map(rustix::process::Gid::as_raw)).collect()
}

/// As many open files as the system grants: a group holds the directories that it will finish.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Refused only where it is not allowed at all; then fewer directories are held.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Directories that a group may hold open: a part of what the process may, since two groups and the walk do.
fn held_max() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(4096);
    usize::try_from(limit / 6).unwrap_or(usize::MAX).clamp(16, 1024)
}

/// One directory of the walk.
struct Level<'s, S: Source> {
    /// The directory; `None` if it does not exist (a dry run), or is closed while the walk is far below.
    home: Option<Arc<Home>>,
    /// How to know it again when it is opened from below.
    parked: Option<Parked>,
    entries: Stored<'s, S>,
    next: Option<Entry>,
    /// What was stored of this directory when the target was last written.
    base: Base<'s, S>,
    /// What is there, ascending; nothing in a directory that is new.
    listed: std::iter::Peekable<std::vec::IntoIter<Listed>>,
    /// The last name, for the check that they ascend.
    last: Vec<u8>,
    path_length: usize,
    /// What it gets at the end; `None` leaves it alone.
    attributes: Option<Attributes>,
    differs: Differs,
    /// The extended attributes that it gets at the end; `None` leaves them alone.
    xattrs: Option<Xattrs>,
    /// Whether something in it changed, so that its time has to be set again.
    changed: bool,
}

/// In what a directory is not as it should be.
#[derive(Clone, Copy)]
struct Differs {
    mode_or_owner: bool,
    time: bool,
}

impl Differs {
    const NOTHING: Differs = Differs { mode_or_owner: false, time: false };
    const ALL: Differs = Differs { mode_or_owner: true, time: true };

    fn of(found: &Found, attributes: &Attributes) -> Differs {
        let foreign = attributes.gives_away((found.uid, found.gid));
        Differs { mode_or_owner: foreign || found.mode != attributes.mode, time: found.mtime_ns != attributes.mtime_ns }
    }

    fn any(self) -> bool {
        self.mode_or_owner || self.time
    }
}

/// The entries of one directory, or those that were asked for.
enum Stored<'s, S: Source> {
    Pages(Box<Entries<&'s S>>, std::vec::IntoIter<Entry>),
    Given(std::vec::IntoIter<Entry>),
}

impl<S: Source> Stored<'_, S> {
    fn next(&mut self) -> Result<Option<Entry>> {
        match self {
            Stored::Given(entries) => Ok(entries.next()),
            Stored::Pages(pages, page) => loop {
                if let Some(entry) = page.next() {
                    return Ok(Some(entry));
                }
                match pages.next_page()? {
                    Some(entries) => *page = entries.into_iter(),
                    None => return Ok(None),
                }
            },
        }
    }
}

/// What a directory was last written from.
enum Base<'s, S: Source> {
    /// Nobody knows.
    Unknown,
    /// The same pages as now.
    Same,
    /// Other ones.
    Other(Box<Other<'s, S>>),
}

/// The entries of another tree's directory, asked for in ascending order.
struct Other<'s, S: Source> {
    entries: Stored<'s, S>,
    next: Option<Entry>,
}

impl<S: Source> Other<'_, S> {
    fn find(&mut self, name: &[u8]) -> Result<Option<Entry>> {
        loop {
            match &self.next {
                Some(entry) if entry.name.as_slice() < name => {}
                Some(entry) if entry.name == name => return Ok(self.next.take()),
                Some(_) => return Ok(None),
                None => {}
            }
            self.next = self.entries.next()?;
            if self.next.is_none() {
                return Ok(None);
            }
        }
    }
}

/// What a name was last written from.
enum Was {
    /// Nobody knows, or from nothing.
    Unknown,
    /// The same entry as now.
    Same,
    /// Another one.
    Other(Box<Entry>),
}

impl Was {
    fn entry(&self) -> Option<&Entry> {
        match self {
            Was::Other(entry) => Some(entry),
            _ => None,
        }
    }
}

/// Where the file of a group of hard links is.
enum LinkHome {
    /// Waiting in the staging directory, to be linked from there.
    Staged(Arc<Home>, Vec<u8>, (u64, u64)),
    /// It was there already, at this path.
    Kept(Vec<u8>, (u64, u64)),
}

/// What makes names those of one file: the number alone is only what the tree says.
type LinkGroup = (u64, Digest, u64);

/// A group that is complete, and waits for the disk.
struct Pending {
    group: Group,
    changes: Vec<Change>,
    synced: Option<Receiver<Result<()>>>,
}

struct Checkout<'a, 's, S: Source> {
    source: &'s S,
    /// Device and number of the directory that the volume is in.
    volume: Option<(u64, u64)>,
    options: &'a Options,
    rules: Rules,
    on_progress: &'a mut dyn OnProgress,
    pool: &'a Pool<'s, S>,
    feeder: Feeder<'a, 's, S>,
    root: Option<Arc<Home>>,
    backup: Option<Arc<Backup>>,
    /// Names are only counted, in directories that go as well.
    counts: bool,
    /// In what the name that the walk is at differs.
    differs: Aspects,
    /// Made when the first thing has to wait in it, so that a checkout that changes nothing touches nothing.
    staging: Option<Staging>,
    others: Others,
    group: Group,
    /// The group before it: it is brought to disk while this one is written.
    pending: Option<Pending>,
    group_bytes: u64,
    group_files: usize,
    held_max: usize,
    root_finish: Option<Finish>,
    /// Names of owners on this machine, by what the snapshot calls them: users, then groups.
    owners: [HashMap<Vec<u8>, Option<u32>>; 2],
    /// When, and on which device, the target was last left; before all times if that is not known.
    left: (i64, u64),
    /// How it came to be as it was then.
    how: How,
    /// The target's own time, to be given back if nothing in the target itself changes.
    root_time: Option<i64>,
    levels: Vec<Level<'s, S>>,
    links: HashMap<LinkGroup, LinkHome>,
    /// Files in the target that a group of hard links has been found to be.
    claimed: HashMap<(u64, u64), LinkGroup>,
    path: Vec<u8>,
    changes: Vec<Change>,
    change_path_bytes: usize,
    report: Report,
    room: Room,
    entries: u64,
    told: Instant,
}

impl<'a, 's, S: Source> Checkout<'a, 's, S> {
    fn new(
        source: &'s S,
        pool: &'a Pool<'s, S>,
        places: Places,
        options: &'a Options,
        backup: Option<Arc<Backup>>,
        on_progress: &'a mut dyn OnProgress,
    ) -> Self {
        let Places { root, others } = places;
        let (uid, gid) = creator();
        let mut room = Room::default();
        if !others.dead.is_empty() {
            // They are removed first, and give back what nobody has counted.
            room.unknown();
        }
        Checkout {
            source,
            volume: None,
            options,
            rules: Rules {
                owners: options.owners,
                root: rustix::process::geteuid().is_root(),
                uid,
                gid,
                groups: groups(gid),
            },
            on_progress,
            pool,
            feeder: Feeder::new(pool),
            root,
            backup: backup.clone(),
            counts: false,
            differs: Aspects::default(),
            staging: None,
            others,
            group: Group::first(backup),
            pending: None,
            group_bytes: 0,
            group_files: 0,
            held_max: held_max(),
            root_finish: None,
            owners: Default::default(),
            left: (i64::MIN, 0),
            how: How::Written,
            root_time: None,
            levels: Vec::new(),
            links: HashMap::new(),
            claimed: HashMap::new(),
            path: Vec::new(),
            changes: Vec::new(),
            change_path_bytes: 0,
            report: Report::default(),
            room,
            entries: 0,
            told: Instant::now(),
        }
    }

    /// The whole story. Whatever happens, nothing of it stays in the staging directory.
    fn run(mut self, root: &Root, base: Option<&Before>) -> Result<Report> {
        let answer = self.walk(root, base);
        if answer.is_err() {
            // Threads still at work finish their batch: nothing is made any more after what they made is removed.
            self.feeder.abandon();
        }
        if answer.as_ref().is_err_and(|error| !matches!(error, Error::Host(_))) {
            // What is complete is shown; if that fails too, the first reason is the one to tell.
            let _ = self.show_pending();
        }
        // Unless it went well, there are still two.
        if let Some(pending) = self.pending.take() {
            pending.group.forget();
        }
        self.group.forget();
        self.links.clear();
        let removed = self.staging.take().map_or(Ok(()), Staging::remove);
        answer.and(removed)?;
        // Only now: the staging directory came and went in it.
        let root = self.root.take();
        let finish = self.root_finish.take();
        let all = match (&finish, &root, self.root_time) {
            (Some(finish), _, _) => act::finish_directory(finish)?,
            (None, Some(root), Some(mtime_ns)) => act::set_time(&root.dir, mtime_ns).map(|()| true)?,
            _ => true,
        };
        if !all {
            self.report.attributes.add(b".");
        }
        self.report.attributes.join(self.pool.missed());
        if let (Some(root), true) = (&root, finish.is_some() || self.root_time.is_some()) {
            let stat = root.dir.stat_self().map_err(|e| Error::io("look at", "", e))?;
            self.report.left_ns = Some(ns(stat.st_ctime, stat.st_ctime_nsec as i64));
        }
        if self.options.dry_run {
            self.report.growth_bytes = self.room.growth_bytes();
            self.report.written_bytes = self.room.content_bytes();
        }
        Ok(self.report)
    }

    fn walk(&mut self, root: &Root, base: Option<&Before>) -> Result<()> {
        self.enter_root(root, base)?;
        while let Some(level) = self.levels.last_mut() {
            if level.next.is_none() {
                level.next = level.entries.next()?;
            }
            let stored = level.next.as_ref().map(|entry| entry.name.as_slice());
            let there = level.listed.peek().map(|listed| &*listed.name);
            match (stored, there) {
                (None, None) => self.leave()?,
                (Some(stored), Some(there)) if there < stored => self.surplus()?,
                (None, Some(_)) => self.surplus()?,
                (Some(stored), there) => {
                    let both = there == Some(stored);
                    if let Some(entry) = level.next.take() {
                        self.entry(entry, both)?;
                    }
                }
            }
            self.tick()?;
        }
        self.show_all()
    }

    fn enter_root(&mut self, root: &Root, base: Option<&Before>) -> Result<()> {
        let (entries, attributes) = match root {
            Root::Directory(page) => (self.stored(page), None),
            Root::Whole(entry) => match entry.page() {
                Some(page) => (self.stored(&page), Some((self.attributes(entry)?, entry.xattrs.clone()))),
                None => return Err(Error::Invalid("the root of the tree is not a directory".into())),
            },
            Root::Entries(entries) => {
                let mut entries = entries.clone();
                entries.sort_by(|a, b| a.name.cmp(&b.name));
                (Stored::Given(entries.into_iter()), None)
            }
        };
        let home = self.root.clone();
        let (mut wanted, mut xattrs, mut differs) = (attributes, None, Differs::NOTHING);
        if let Some(home) = &home {
            let stat = home.dir.stat_self().map_err(|e| Error::io("look at", "", e))?;
            let found = found(&stat, Vec::new());
            self.refuse_volume(&found)?;
            if let Some(base) = base {
                self.left = (base.left_ns, stat.st_dev);
                self.how = match (base.how, root_page(root)) {
                    (How::Alone, Some(page)) if !self.options.care.checksum && !self.reaches_links(base.page, page) => {
                        How::Alone
                    }
                    (How::Alone, _) => How::Written,
                    (how, _) => how,
                };
            }
            if self.belongs_to_others(&found) && wanted.take().is_some() {
                self.report.owners.add(b".");
            }
            if let Some((attributes, own)) = wanted.as_ref() {
                differs = Differs::of(&found, attributes);
                if attributes.misses((found.uid, found.gid)) {
                    self.report.owners.add(b".");
                }
                xattrs = self.differing(&Holder::Open(home.dir.as_fd()), own, b".")?.map(|_| own.clone());
            }
        }
        let attributes = wanted.map(|(attributes, _)| attributes);
        let listed = list(home.as_deref())?;
        let base = root_page(root).map_or(Base::Unknown, |page| self.base(base.map(|base| base.page), &page));
        self.levels.push(Level {
            home,
            parked: None,
            entries,
            next: None,
            base,
            listed,
            last: Vec::new(),
            path_length: 0,
            attributes,
            differs,
            xattrs,
            changed: false,
        });
        Ok(())
    }

    /// What is known of a directory that was last written from the pages `was` and is to be written from `page`.
    fn base(&self, was: Option<PageRef>, page: &PageRef) -> Base<'s, S> {
        match was {
            None => Base::Unknown,
            Some(was) if was.digest == page.digest => Base::Same,
            Some(was) => Base::Other(Box::new(Other { entries: self.stored(&was), next: None })),
        }
    }

    /// Whether a hard link is in a directory that is not what it was: its other names may be anywhere. What cannot be
    /// read may hold one.
    fn reaches_links(&self, was: PageRef, page: PageRef) -> bool {
        let mut waiting = vec![(Some(was), page)];
        while let Some((was, page)) = waiting.pop() {
            if was.is_some_and(|was| was.digest == page.digest) {
                continue;
            }
            let mut other = was.map(|was| Other { entries: self.stored(&was), next: None });
            let mut entries = self.stored(&page);
            loop {
                let entry = match entries.next() {
                    Ok(None) => break,
                    Ok(Some(entry)) if entry.link_id == 0 => entry,
                    _ => return true,
                };
                let Some(page) = entry.page() else { continue };
                match other.as_mut().map_or(Ok(None), |other| other.find(&entry.name)) {
                    Ok(was) => waiting.push((was.and_then(|was| was.page()), page)),
                    Err(_) => return true,
                }
            }
        }
        false
    }

    /// What `name` in the current directory was last written from.
    fn was(&mut self, name: &[u8]) -> Was {
        let Some(level) = self.levels.last_mut() else { return Was::Unknown };
        match &mut level.base {
            Base::Unknown => Was::Unknown,
            Base::Same => Was::Same,
            Base::Other(other) => match other.find(name) {
                Ok(found) => found.map_or(Was::Unknown, |entry| Was::Other(Box::new(entry))),
                // It only saves work.
                Err(_) => {
                    level.base = Base::Unknown;
                    Was::Unknown
                }
            },
        }
    }

    /// Mode, owner and time that an entry gets here.
    fn attributes(&mut self, entry: &Entry) -> Result<Attributes> {
        let mut meant = (entry.uid, entry.gid);
        if !self.rules.owners.numeric {
            meant.0 = self.owner_number(OwnerName::User(&entry.user))?.unwrap_or(entry.uid);
            meant.1 = self.owner_number(OwnerName::Group(&entry.group))?.unwrap_or(entry.gid);
        }
        Ok(self.rules.attributes(entry, meant))
    }

    /// The number of an owner on this machine, if it has a name and that is known here.
    fn owner_number(&mut self, owner: OwnerName<'_>) -> Result<Option<u32>> {
        let [users, groups] = &mut self.owners;
        let (known, name) = match owner {
            OwnerName::User(name) => (users, name),
            OwnerName::Group(name) => (groups, name),
        };
        if name.is_empty() {
            return Ok(None);
        }
        if let Some(number) = known.get(name) {
            return Ok(*number);
        }
        let number = self.on_progress.owner_number(owner)?;
        known.insert(name.to_vec(), number);
        Ok(number)
    }

    /// The attributes that something has, if they are not those that it should have. What we may not set, or the file
    /// system does not keep, is counted and not compared.
    fn differing(&mut self, holder: &Holder<'_>, wanted: &Xattrs, path: &[u8]) -> Result<Option<Xattrs>> {
        let there = match xattr::look(holder) {
            Ok(Some(there)) => there,
            Ok(None) => {
                if !wanted.is_empty() {
                    self.report.attributes.add(path);
                }
                return Ok(None);
            }
            // Not ours to look at, or more than a snapshot holds; or there is no /proc to name it through.
            Err(Errno::ACCESS | Errno::PERM | Errno::TOOBIG | Errno::NOENT) => {
                self.report.attributes.add(path);
                return Ok(None);
            }
            Err(errno) => return Err(at(path, Error::io("look at the attributes of", "", errno))),
        };
        if there == *wanted {
            return Ok(None);
        }
        let settable = |set: &Xattrs| -> Xattrs {
            set.iter().filter(|(name, _)| self.rules.root || !xattr::is_roots(name)).cloned().collect()
        };
        if settable(&there) == settable(wanted) {
            self.report.attributes.add(path);
            return Ok(None);
        }
        Ok(Some(there))
    }

    /// Whether a name has the attributes of `entry` without being looked at: it was written from an entry with the same
    /// ones, and nothing about it has changed since.
    fn vouched(&self, entry: &Entry, found: &Found, was: &Was) -> bool {
        let same = match was {
            Was::Same => true,
            Was::Other(was) => was.xattrs == entry.xattrs,
            Was::Unknown => false,
        };
        same && self.untouched(found)
    }

    /// Whether a file has the content of `entry` without being read now: it was read before, and nothing about it has
    /// changed since.
    fn was_read_as(&self, entry: &Entry, found: &Found, was: Option<&Entry>) -> bool {
        let had = |was: &Entry| {
            (was.kind, entry.kind) == (EntryKind::File, EntryKind::File)
                && was.digest == entry.digest
                && (was.size, was.mtime_ns) == (found.size, found.mtime_ns)
        };
        self.how == How::Read && found.is_file() && was.is_some_and(had) && self.untouched(found)
    }

    /// Whether nothing about a name has changed since the target was left.
    fn untouched(&self, found: &Found) -> bool {
        found.ctime_ns < self.left.0 && found.identity.0 == self.left.1
    }

    fn stored(&self, page: &PageRef) -> Stored<'s, S> {
        Stored::Pages(Box::new(Entries::new(self.source, page)), Vec::new().into_iter())
    }

    /// One entry of the tree; `there` if its name was listed in the target.
    fn entry(&mut self, entry: Entry, there: bool) -> Result<()> {
        self.entries += 1;
        self.set_path(&entry.name);
        let name = Name::new(&entry.name).map_err(|error| at(&self.path, error))?;
        // Twice the same name could be a link first, and then be written through.
        if let Some(level) = self.levels.last_mut() {
            if level.last >= entry.name {
                return Err(at(
                    &self.path,
                    Error::Refused("the name is twice in its directory, or out of order".into()),
                ));
            }
            level.last.clone_from(&entry.name);
        }
        if self.levels.len() == 1 && self.others.living.contains(name.bytes()) {
            return Err(at(&self.path, Error::Refused("the name is in use by a running checkout".into())));
        }
        let is_directory = entry.kind == EntryKind::Directory;
        if self.options.care.excludes(&self.path, is_directory) {
            return Ok(()); // as if the tree did not have it: what is there under its name is surplus, or spared as well
        }
        if let (Some(level), true) = (self.levels.last_mut(), there) {
            level.listed.next();
        }
        let home = self.levels.last().and_then(|level| level.home.clone());
        let found = match &home {
            Some(home) if there => self.look(home, name, entry.kind)?,
            _ => None,
        };
        let stands_as_directory = found.as_ref().is_some_and(Found::is_directory);
        if stands_as_directory && !is_directory && self.options.care.excludes(&self.path, true) {
            return Ok(());
        }
        let was = self.was(&entry.name);
        let attributes = self.attributes(&entry)?;
        if let Some(found) = &found {
            self.refuse_volume(found)?;
            if self.backup.as_ref().is_some_and(|backup| backup.is(found.identity)) {
                let what = "the snapshot has it, and it is the directory for backups".into();
                return Err(at(&self.path, Error::Refused(what)));
            }
        }
        if let (How::Alone, Some(found)) = (self.how, &found)
            && is_as_left(&entry, found, &was, &attributes)
        {
            self.report.unchanged += 1;
            return Ok(());
        }
        let same_content = match (&home, &found) {
            (Some(home), Some(found)) if self.options.care.checksum => self.same_content(home, name, &entry, found)?,
            (_, Some(found)) if self.was_read_as(&entry, found, was.entry()) => Some(true),
            _ => None,
        };
        let other_content = same_content.map_or_else(
            || was.entry().is_some_and(|was| was.kind == EntryKind::File && was.digest != entry.digest),
            |same| !same,
        );
        self.differs =
            found.as_ref().map_or(Aspects::default(), |found| plan::differs(&entry, found, other_content, &attributes));
        let mut step = plan::decide(&entry, &attributes, found.as_ref(), was.entry(), same_content);
        let mut touches_xattrs = false;
        if let (Step::Keep | Step::Touch, Some(found), Some(home)) = (step, &found, &home)
            && !self.vouched(&entry, found, &was)
        {
            let holder = Holder::beneath(Some(home.dir.as_fd()), name.bytes());
            let holder = holder.map_err(|e| at(&self.path, Error::io("look at", "", e)))?;
            let path = self.path.clone();
            if let Some(there) = self.differing(&holder, &entry.xattrs, &path)? {
                step = plan::with_xattrs(step, &entry, found, &there);
                touches_xattrs = true;
                self.differs.xattrs = true;
            }
        }
        if self.options.dry_run {
            self.count_room(step, &entry, found.as_ref(), home.as_deref())?;
        }
        if let (true, Step::Make(Over::Unlike), Some(home), true) = (self.counts, step, &home, stands_as_directory) {
            return self.descend_surplus(&Arc::clone(home), &entry.name);
        }
        if matches!(step, Step::Keep | Step::Touch) && self.is_other_link(&entry, found.as_ref(), home.as_ref()) {
            step = Step::Make(Over::Same);
        }
        let owner = match (step, &found) {
            (Step::Make(_), _) | (_, None) => attributes.got,
            (_, Some(found)) => (found.uid, found.gid),
        };
        if attributes.misses(owner) {
            self.report.owners.add(&self.path);
        }
        match step {
            Step::Enter => self.enter(home, &entry, &attributes, found, was),
            Step::Make(over) => self.make(home, entry, attributes, over),
            Step::Touch => self.touch(home, entry, attributes, found, touches_xattrs),
            Step::Keep => {
                self.report.unchanged += 1;
                Ok(())
            }
        }
    }

    /// Whether a file holds what it should; `None` where its size says no already, or it is none.
    fn same_content(&self, home: &Home, name: Name<'_>, entry: &Entry, found: &Found) -> Result<Option<bool>> {
        if !found.is_file() || entry.kind != EntryKind::File || found.size != entry.size {
            return Ok(None);
        }
        match home.dir.read(name) {
            Ok(file) => gather::holds(self.source, file, entry).map(Some).map_err(|error| at(&self.path, error)),
            // Nobody may read it: it is written anew.
            Err(Errno::ACCESS) => Ok(Some(false)),
            Err(errno) => Err(at(&self.path, Error::io("read", "", errno))),
        }
    }

    /// What `step` takes of the room that the target's own file system has.
    fn count_room(&mut self, step: Step, entry: &Entry, found: Option<&Found>, home: Option<&Home>) -> Result<()> {
        let here = home.is_none_or(|home| self.root.as_ref().is_some_and(|root| root.mount == home.mount));
        match step {
            Step::Make(_) if entry.kind == EntryKind::File => {
                let group = self.link_group(entry);
                let counted = match here {
                    true => self.room.file(self.source, entry, group, found),
                    false => self.room.content(self.source, entry, group).map(|_| ()),
                };
                counted.map_err(|error| at(&self.path, error))?;
            }
            // What is made in a new directory is not told apart from what is made here.
            Step::Make(over) if entry.kind == EntryKind::Directory && (!here || over == Over::Unlike) => {
                self.room.unknown();
            }
            // A link, a pipe or a device takes nothing, and what was there gives back what it had.
            Step::Make(_) if here => found.into_iter().for_each(|found| self.room.removed(found)),
            Step::Keep | Step::Touch if entry.kind == EntryKind::File && entry.link_id != 0 && here => {
                let group = self.link_group(entry);
                self.room.kept(group);
            }
            _ => {}
        }
        Ok(())
    }

    fn make(&mut self, home: Option<Arc<Home>>, entry: Entry, attributes: Attributes, over: Over) -> Result<()> {
        match entry.kind {
            EntryKind::Directory => self.make_directory(home, &entry, attributes, over),
            EntryKind::File => self.make_file(home, entry, attributes, over),
            _ => self.make_other(home, entry, attributes, over),
        }
    }

    /// What a name stands for.
    fn look(&self, home: &Home, name: Name<'_>, wanted: EntryKind) -> Result<Option<Found>> {
        let failed = |e| at(&self.path, Error::io("look at", "", e));
        let Some(stat) = home.dir.stat(name).map_err(failed)? else { return Ok(None) };
        let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink && wanted == EntryKind::Symlink;
        let target = if link { home.dir.read_link(name).map_err(failed)? } else { Vec::new() };
        Ok(Some(found(&stat, target)))
    }

    /// Whether a directory is somebody else's, so that it can be filled perhaps, but not changed.
    fn belongs_to_others(&self, found: &Found) -> bool {
        found.uid != self.rules.uid && !self.rules.root
    }

    /// Nothing is written, and nothing removed, in the directory of the volume that is read.
    fn refuse_volume(&self, found: &Found) -> Result<()> {
        match found.kind == FoundKind::Known(EntryKind::Directory) && self.volume == Some(found.identity) {
            true => Err(at(&self.path, Error::Refused("it is the directory of the volume itself".into()))),
            false => Ok(()),
        }
    }

    /// Goes into a directory that is there.
    fn enter(
        &mut self,
        home: Option<Arc<Home>>,
        entry: &Entry,
        attributes: &Attributes,
        found: Option<Found>,
        was: Was,
    ) -> Result<()> {
        let (Some(home), Some(page), Some(found)) = (home, entry.page(), found) else {
            return Err(at(&self.path, Error::Invalid("it is a directory without a page".into())));
        };
        let failed = |e| at(&self.path, Error::io("open", "", e));
        let dir = home.dir.enter(Name::new(&entry.name)?).map_err(failed)?;
        let inner = Arc::new(Home::beneath(dir, &home).map_err(|error| at(&self.path, error))?);
        let foreign = self.belongs_to_others(&found);
        if foreign && !attributes.misses((found.uid, found.gid)) {
            self.report.owners.add(&self.path);
        }
        let attributes = Some(*attributes).filter(|_| !foreign);
        let mut differs = attributes.as_ref().map_or(Differs::NOTHING, |wanted| Differs::of(&found, wanted));
        let mut xattrs = None;
        if !foreign && !self.vouched(entry, &found, &was) {
            let path = self.path.clone();
            let there = self.differing(&Holder::Open(inner.dir.as_fd()), &entry.xattrs, &path)?;
            xattrs = there.map(|_| entry.xattrs.clone());
        }
        if differs.any() || xattrs.is_some() {
            self.change(Action::Metadata, entry);
        } else {
            self.report.unchanged += 1;
        }
        // Even its owner may change it only with permission. At the end it gets the mode that it should have.
        if !self.options.dry_run && found.mode & 0o300 != 0o300 && !self.rules.root {
            let mode = rustix::fs::Mode::from_raw_mode(found.mode | 0o700);
            differs.mode_or_owner |= rustix::fs::fchmod(&inner.dir, mode).is_ok();
        }
        let listed = list(Some(&inner)).map_err(|error| at(&self.path, error))?;
        let base = match was {
            Was::Unknown => Base::Unknown,
            Was::Same => Base::Same,
            Was::Other(was) => self.base(was.page(), &page),
        };
        self.descend(Some(inner), &page, listed, attributes, differs);
        if let Some(level) = self.levels.last_mut() {
            (level.base, level.xattrs) = (base, xattrs);
        }
        Ok(())
    }

    fn make_directory(
        &mut self,
        home: Option<Arc<Home>>,
        entry: &Entry,
        attributes: Attributes,
        over: Over,
    ) -> Result<()> {
        let Some(page) = entry.page() else {
            return Err(at(&self.path, Error::Invalid("it is a directory without a page".into())));
        };
        let inner = match home.filter(|_| !self.options.dry_run) {
            Some(home) => {
                let (from, waiting) = self.place_for(&home, &entry.name, EntryKind::Directory, over)?;
                Some(Arc::new(self.group.make_directory(&from, &waiting).map_err(|error| at(&self.path, error))?))
            }
            None => None,
        };
        self.change(if over == Over::Nothing { Action::Created } else { Action::Replaced }, entry);
        let elsewhere = inner.as_ref().is_some_and(|inner| inner.creator == act::NOBODY);
        self.descend(inner, &page, Vec::new().into_iter().peekable(), Some(attributes), Differs::ALL);
        if let Some(level) = self.levels.last_mut() {
            // On another mount it may have been given some.
            level.xattrs = Some(entry.xattrs.clone()).filter(|xattrs| elsewhere || !xattrs.is_empty());
        }
        Ok(())
    }

    fn descend(
        &mut self,
        home: Option<Arc<Home>>,
        page: &PageRef,
        listed: std::iter::Peekable<std::vec::IntoIter<Listed>>,
        attributes: Option<Attributes>,
        differs: Differs,
    ) {
        let entries = self.stored(page);
        self.push_level(home, entries, listed, attributes, differs);
    }

    fn push_level(
        &mut self,
        home: Option<Arc<Home>>,
        entries: Stored<'s, S>,
        listed: std::iter::Peekable<std::vec::IntoIter<Listed>>,
        attributes: Option<Attributes>,
        differs: Differs,
    ) {
        self.levels.push(Level {
            home,
            parked: None,
            entries,
            next: None,
            base: Base::Unknown,
            listed,
            last: Vec::new(),
            path_length: self.path.len(),
            attributes,
            differs,
            xattrs: None,
            changed: false,
        });
        self.park();
    }

    /// Closes a directory far above the walk: a tree may be deeper than a process may hold files open.
    fn park(&mut self) {
        let Some(far) = self.levels.len().checked_sub(OPEN_LEVELS) else { return };
        let Some(parked) = self.levels[far].home.as_ref().and_then(|home| home.park()) else { return };
        // The way back is `..` of the directory below. One that still waits in staging has another directory above
        // it, so what it will be moved to stays open: one descriptor for each such directory on the path.
        if self.levels.get(far + 1).and_then(|below| below.home.as_ref()).is_some_and(|below| below.leads_to(&parked)) {
            let level = &mut self.levels[far];
            level.home = None;
            level.parked = Some(parked);
        }
    }

    /// A symbolic link, a fifo or a device.
    fn make_other(&mut self, home: Option<Arc<Home>>, entry: Entry, attributes: Attributes, over: Over) -> Result<()> {
        let Some(home) = home else {
            self.change(made(over), &entry);
            return Ok(());
        };
        self.refuse_if_not_empty(&home, &entry.name, over)?;
        if self.options.dry_run {
            match entry.kind.is_device() && !self.rules.root {
                true => self.report.devices.add(&self.path),
                false => self.change(made(over), &entry),
            }
            return Ok(());
        }
        if self.linkable(&entry, &home) {
            return self.make_hard_link(&home, entry, attributes, over);
        }
        let hidden = self.group.hides(&home);
        let (from, waiting) = match hidden {
            true => (Arc::clone(&home), entry.name.clone()),
            false => self.staging()?.place_for(&home),
        };
        if self.write_other(&from, &waiting, &entry, &attributes)? {
            if !hidden {
                self.show_later(from, waiting, &home, &entry.name, entry.kind, over);
            }
            self.change(made(over), &entry);
        }
        Ok(())
    }

    /// Makes what is no file and no directory out of sight; `false`: it may not be made, and is counted.
    fn write_other(&mut self, from: &Home, waiting: &[u8], entry: &Entry, attributes: &Attributes) -> Result<bool> {
        let made = act::make_other(from, waiting, entry, attributes).map_err(|error| at(&self.path, error))?;
        match made {
            Made::Whole => {}
            Made::WithoutAttributes => self.report.attributes.add(&self.path),
            Made::Refused => self.report.devices.add(&self.path),
        }
        Ok(made != Made::Refused)
    }

    fn make_file(&mut self, home: Option<Arc<Home>>, entry: Entry, attributes: Attributes, over: Over) -> Result<()> {
        let Some(home) = home else {
            self.change(made(over), &entry);
            return Ok(());
        };
        self.refuse_if_not_empty(&home, &entry.name, over)?;
        if !self.options.dry_run && self.linkable(&entry, &home) {
            return self.make_hard_link(&home, entry, attributes, over);
        }
        self.change(made(over), &entry);
        if self.options.dry_run {
            return Ok(());
        }
        let (from, waiting) = self.place_for(&home, &entry.name, EntryKind::File, over)?;
        self.write_file(from, waiting, None, entry, attributes)
    }

    fn write_file(
        &mut self,
        home: Arc<Home>,
        name: Vec<u8>,
        file: Option<std::os::fd::OwnedFd>,
        entry: Entry,
        attributes: Attributes,
    ) -> Result<()> {
        self.group_files += 1;
        self.group_bytes += entry.size;
        let job = FileJob { home, name, file, entry, attributes, path: self.path.clone() };
        let Checkout { feeder, pool, on_progress, told, entries, .. } = self;
        feeder.add(job, &mut || tick(told, *on_progress, *entries, pool.bytes()))
    }

    /// One of several names of a file: the first is written, out of sight, and all are links to it.
    fn make_hard_link(&mut self, home: &Arc<Home>, entry: Entry, attributes: Attributes, over: Over) -> Result<()> {
        let (name, kind) = (entry.name.clone(), entry.kind);
        let group = self.link_group(&entry);
        let (staged, waiting) = match self.staged_link(&group)? {
            Some(staged) => staged,
            None => match self.write_linked(home, entry.clone(), attributes)? {
                Some(written) => written,
                None => return Ok(()),
            },
        };
        self.change(made(over), &entry);
        let (from, other) = self.place_for(home, &name, kind, over)?;
        match staged.dir.link(Name::new(&waiting)?, &from.dir, Name::new(&other)?) {
            // The file has as many names as it can have: a second file takes the rest.
            Err(Errno::MLINK) => match self.write_linked(home, entry, attributes)? {
                Some((staged, waiting)) => staged.dir.link(Name::new(&waiting)?, &from.dir, Name::new(&other)?),
                None => Err(Errno::MLINK),
            },
            answer => answer,
        }
        .map_err(|e| at(&self.path, Error::io("link", "", e)))
    }

    /// Writes the file of a group of hard links where its names are linked from; `None`: it may not be made.
    fn write_linked(
        &mut self,
        home: &Arc<Home>,
        entry: Entry,
        attributes: Attributes,
    ) -> Result<Option<(Arc<Home>, Vec<u8>)>> {
        let group = self.link_group(&entry);
        let (from, waiting) = self.staging()?.place_for(home);
        let failed = |path: &[u8], e| at(path, Error::io("look at", "", e));
        let mut file = None;
        let stat = if entry.kind == EntryKind::File {
            let made = work::create(&from, &waiting, &entry, &attributes).map_err(|error| at(&self.path, error))?;
            rustix::fs::fstat(file.insert(made)).map_err(|e| failed(&self.path, e))?
        } else {
            if !self.write_other(&from, &waiting, &entry, &attributes)? {
                return Ok(None);
            }
            let stat = from.dir.stat(Name::new(&waiting)?).map_err(|e| failed(&self.path, e))?;
            stat.ok_or_else(|| failed(&self.path, Errno::NOENT))?
        };
        let link = LinkHome::Staged(Arc::clone(&from), waiting.clone(), (stat.st_dev, stat.st_ino));
        self.links.insert(group, link);
        if let Some(file) = file {
            self.write_file(Arc::clone(&from), waiting.clone(), Some(file), entry, attributes)?;
        }
        Ok(Some((from, waiting)))
    }

    /// Where the file of a group of hard links can be linked from, if it is there at all.
    fn staged_link(&mut self, group: &LinkGroup) -> Result<Option<(Arc<Home>, Vec<u8>)>> {
        let (path, identity) = match self.links.get(group) {
            None => return Ok(None),
            Some(LinkHome::Staged(home, waiting, _)) => return Ok(Some((Arc::clone(home), waiting.clone()))),
            Some(LinkHome::Kept(path, identity)) => (path.clone(), *identity),
        };
        let Some(root) = self.root.clone() else { return Ok(None) };
        let (from, waiting) = self.staging()?.place_for(&root);
        let linked = link_from(&root, &path, &from, &waiting);
        // It has to be the file that was looked at; if somebody put another there, ours is written anew.
        let stat = from.dir.stat(Name::new(&waiting)?).map_err(|e| at(&self.path, Error::io("look at", "", e)))?;
        match (linked, stat) {
            (true, Some(stat)) if (stat.st_dev, stat.st_ino) == identity => {}
            _ => return Ok(None),
        }
        self.links.insert(*group, LinkHome::Staged(Arc::clone(&from), waiting.clone(), identity));
        Ok(Some((from, waiting)))
    }

    /// Whether a file that looks right is not the one that the other names of its group stand for.
    fn is_other_link(&mut self, entry: &Entry, found: Option<&Found>, home: Option<&Arc<Home>>) -> bool {
        let (Some(found), Some(home)) = (found, home) else { return false };
        if !self.linkable(entry, home) {
            return false;
        }
        let group = self.link_group(entry);
        match self.links.get(&group) {
            Some(LinkHome::Kept(_, identity) | LinkHome::Staged(_, _, identity)) => *identity != found.identity,
            // Two groups in the tree, one file here.
            None if *self.claimed.entry(found.identity).or_insert(group) != group => true,
            None => {
                self.links.insert(group, LinkHome::Kept(self.path.clone(), found.identity));
                false
            }
        }
    }

    /// Whether a name is one of several of its file. No link leads from one file system to another: names on others
    /// than the target's own are files of their own.
    fn linkable(&self, entry: &Entry, home: &Home) -> bool {
        let here = self.root.as_ref().is_some_and(|root| root.mount == home.mount);
        entry.kind != EntryKind::Directory && entry.link_id != 0 && here
    }

    fn staging(&mut self) -> Result<&mut Staging> {
        if self.staging.is_none() {
            let Some(root) = &self.root else { return Err(Error::Invalid("nothing is made in a dry run".into())) };
            let stat = root.dir.stat_self().map_err(|e| Error::io("look at", "", e))?;
            let found = found(&stat, Vec::new());
            self.root_time = (!self.belongs_to_others(&found)).then_some(found.mtime_ns);
            let staging = Staging::new(root)?;
            self.pool.set_mask(staging.mask);
            self.others.living.insert(staging.name().to_vec());
            self.staging = Some(staging);
        }
        self.staging.as_mut().ok_or_else(|| Error::Invalid("there is no staging directory".into()))
    }

    /// Where something for `name` in `home` is made: in its place if nobody can see that, else where it waits for its
    /// move. Not for dry runs.
    fn place_for(
        &mut self,
        home: &Arc<Home>,
        name: &[u8],
        kind: EntryKind,
        over: Over,
    ) -> Result<(Arc<Home>, Vec<u8>)> {
        if self.group.hides(home) {
            return Ok((Arc::clone(home), name.to_vec()));
        }
        let (from, waiting) = self.staging()?.place_for(home);
        self.show_later(Arc::clone(&from), waiting.clone(), home, name, kind, over);
        Ok((from, waiting))
    }

    /// Has what waits moved into its place with the group.
    fn show_later(
        &mut self,
        from: Arc<Home>,
        waiting: Vec<u8>,
        home: &Arc<Home>,
        name: &[u8],
        kind: EntryKind,
        over: Over,
    ) {
        let (to, name, path) = (Arc::clone(home), name.to_vec(), self.path.clone());
        self.group.add_move(Move { from, waiting, to, name, kind, over, delete: self.options.delete, path });
    }

    /// A directory with something in it gives way to a file only if that was asked for.
    fn refuse_if_not_empty(&self, home: &Home, name: &[u8], over: Over) -> Result<()> {
        if over != Over::Unlike {
            return Ok(());
        }
        self.refuse_mount(home, name)?;
        if self.options.delete {
            return match home.dir.enter(Name::new(name)?) {
                Ok(dir) if self.has_spared(&dir)? => Err(at(&self.path, holds_spared())),
                _ => Ok(()),
            };
        }
        let inner = home.dir.enter(Name::new(name)?).and_then(|dir| dir.list());
        match inner.map_err(|e| at(&self.path, Error::io("list", "", e)))?.is_empty() {
            true => Ok(()),
            false => Err(at(&self.path, act::not_empty())),
        }
    }

    /// Nothing is removed that another file system is mounted in: it would be found in the middle.
    fn refuse_mount(&self, home: &Home, name: &[u8]) -> Result<()> {
        let Some(point) = home.dir.mount_beneath(Name::new(name)?) else { return Ok(()) };
        let what = format!("a file system is mounted at {}: it is not removed", String::from_utf8_lossy(&point));
        Err(at(&self.path, Error::Refused(what)))
    }

    /// The mode, and if `xattrs` the extended attributes, of a file whose content is right.
    fn touch(
        &mut self,
        home: Option<Arc<Home>>,
        entry: Entry,
        attributes: Attributes,
        found: Option<Found>,
        xattrs: bool,
    ) -> Result<()> {
        let (Some(home), Some(found), false) = (home, found, self.options.dry_run) else {
            self.change(Action::Metadata, &entry);
            return Ok(());
        };
        let Attributes { mode, mtime_ns, .. } = attributes;
        let wanted = xattrs.then_some(&entry.xattrs);
        let mtime_ns = (mtime_ns != found.mtime_ns).then_some(mtime_ns);
        match act::touch_file(&home.dir, Name::new(&entry.name)?, found.identity, mode, wanted, mtime_ns) {
            // It is somebody else's, or its owner may not read it and so not open it, or it is not the file that was
            // looked at: it is written anew, and other names of its group are not linked to it.
            Err(Errno::ACCESS | Errno::PERM | Errno::STALE | Errno::LOOP | Errno::NOENT) => {
                let group = self.link_group(&entry);
                self.links.remove(&group);
                return self.make_file(Some(home), entry, attributes, Over::Same);
            }
            Ok(true) => {}
            Ok(false) => self.report.attributes.add(&self.path),
            Err(e) => return Err(at(&self.path, Error::io("set the mode of", "", e))),
        }
        self.change(Action::Metadata, &entry);
        Ok(())
    }

    fn link_group(&self, entry: &Entry) -> LinkGroup {
        let digest = match entry.kind {
            EntryKind::File => entry.digest,
            // What a link or device is instead of content.
            kind => {
                let own = [&[kind as u8][..], &entry.rdev.to_le_bytes(), &entry.target].concat();
                keyed(&self.source.keys().link, &own)
            }
        };
        (entry.link_id, digest, entry.size)
    }

    /// A name that the tree does not have.
    fn surplus(&mut self) -> Result<()> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let (Some(listed), Some(home)) = (level.listed.next(), level.home.clone()) else { return Ok(()) };
        self.set_path(&listed.name);
        let Others { living, dead } = &self.others;
        if depth == 1 && (living.contains(&*listed.name) || dead.contains(&*listed.name)) {
            return Ok(());
        }
        let left_behind = match act::waiting_name_of(&listed.name) {
            Some(owner) if living.contains(owner) => return Ok(()),
            Some(owner) => dead.contains(owner),
            None => false,
        };
        if !self.options.delete && !left_behind || act::is_alive(&home.dir, &listed.name)? {
            return Ok(());
        }
        let stat = home.dir.stat(Name::new(&listed.name)?).map_err(|e| at(&self.path, Error::io("look at", "", e)))?;
        let Some(stat) = stat else { return Ok(()) };
        let found = found(&stat, Vec::new());
        if self.options.care.excludes(&self.path, found.is_directory()) {
            return Ok(());
        }
        self.refuse_volume(&found)?;
        if found.is_directory() {
            if self.backup.as_ref().is_some_and(|it| it.is(found.identity)) {
                return Ok(());
            }
            let dir = home.dir.enter(Name::new(&listed.name)?).map_err(|e| at(&self.path, Error::io("open", "", e)))?;
            if !left_behind && self.has_spared(&dir)? {
                return self.descend_surplus(&home, &listed.name);
            }
            self.refuse_mount(&home, &listed.name)?;
        }
        self.differs = Aspects::default();
        if self.counts && found.is_directory() {
            self.change(Action::Deleted, &Entry::default());
            return self.descend_surplus(&home, &listed.name);
        }
        match self.options.dry_run {
            true => self.room.removed(&found),
            false => self.group.add_removal(home, listed.name.into_vec(), self.path.clone(), left_behind),
        }
        // The nearest kind that an entry can have; a socket is a pipe.
        let kind = kind_of(&stat).unwrap_or(EntryKind::Fifo);
        let size = if kind == EntryKind::File { stat.st_size.max(0).cast_unsigned() } else { 0 };
        self.change(Action::Deleted, &Entry { kind, size, ..Entry::default() });
        Ok(())
    }

    /// Whether there is something in a directory that stays whatever happens to it.
    fn has_spared(&self, dir: &Dir) -> Result<bool> {
        let failed = |errno| at(&self.path, Error::io("look into", "", errno));
        if let Some(backup) = &self.backup {
            let stat = dir.stat_self().map_err(failed)?;
            if backup.is_beneath((stat.st_dev, stat.st_ino)) {
                return Ok(true);
            }
        }
        self.options.care.excludes_beneath(dir, &self.path).map_err(failed)
    }

    /// Goes into a directory that the tree does not have: what is in it is surplus, and it stays itself.
    fn descend_surplus(&mut self, home: &Arc<Home>, name: &[u8]) -> Result<()> {
        let dir = home.dir.enter(Name::new(name)?).map_err(|e| at(&self.path, Error::io("open", "", e)))?;
        let inner = Arc::new(Home::beneath(dir, home).map_err(|error| at(&self.path, error))?);
        let listed = list(Some(&inner)).map_err(|error| at(&self.path, error))?;
        self.push_level(Some(inner), Stored::Given(Vec::new().into_iter()), listed, None, Differs::NOTHING);
        Ok(())
    }

    /// The walk is done with a directory.
    fn leave(&mut self) -> Result<()> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        self.path.truncate(level.path_length);
        if let Some(home) = &level.home {
            self.reopen_above(home)?;
        }
        if self.levels.is_empty() && level.changed {
            self.root_time = None;
        }
        let wanted = (level.differs.any() || level.xattrs.is_some() || level.changed) && !self.options.dry_run;
        if let (Some(home), Some(attributes), true) = (level.home, level.attributes, wanted) {
            let only_time = !level.differs.mode_or_owner;
            let finish = Finish { home, attributes, only_time, xattrs: level.xattrs, path: self.path.clone() };
            match self.levels.is_empty() {
                true => self.root_finish = Some(finish),
                false => self.group.add_finish(finish),
            }
        }
        Ok(())
    }

    /// Opens the directory above `home` again, if it was closed.
    fn reopen_above(&mut self, home: &Home) -> Result<()> {
        let Some(parked) = self.levels.last_mut().and_then(|above| above.parked.take()) else { return Ok(()) };
        let above = match home.unpark(&parked) {
            Ok(above) => above,
            // It may still wait for its move, and what is above it is the staging directory.
            Err(_) => {
                self.show_all()?;
                home.unpark(&parked).map_err(|error| at(&self.path, error))?
            }
        };
        if let Some(level) = self.levels.last_mut() {
            level.home = Some(Arc::new(above));
        }
        Ok(())
    }

    fn set_path(&mut self, name: &[u8]) {
        self.path.truncate(self.levels.last().map_or(0, |level| level.path_length));
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
    }

    /// Notes what was done to the name that the walk is at.
    fn change(&mut self, action: Action, entry: &Entry) {
        let count = match action {
            Action::Created => &mut self.report.created,
            Action::Replaced => &mut self.report.replaced,
            Action::Metadata => &mut self.report.metadata,
            Action::Deleted => &mut self.report.deleted,
        };
        *count += 1;
        if let (Some(level), true) = (self.levels.last_mut(), action != Action::Metadata) {
            level.changed = true;
        }
        self.change_path_bytes += self.path.len();
        let differs = self.differs;
        self.changes.push(Change { path: self.path.clone(), action, kind: entry.kind, size: entry.size, differs });
    }

    /// After each name: closes a group that is full, and tells how far it is in time.
    fn tick(&mut self) -> Result<()> {
        let full = self.group_files + self.group.names() >= GROUP_NAMES_MAX
            || self.group_bytes >= GROUP_BYTES_MAX
            || self.group.held() >= self.held_max
            || self.group.path_bytes() + self.change_path_bytes >= GROUP_PATH_BYTES_MAX
            || self.changes.len() >= REPORT_MAX;
        if full {
            return self.close();
        }
        if self.told.elapsed() >= TELL_EVERY {
            self.tell_progress()?;
        }
        Ok(())
    }

    /// Completes the group: waits for its files, shows the group before it, and has this one brought to disk while the
    /// next is written.
    fn close(&mut self) -> Result<()> {
        let Checkout { feeder, pool, on_progress, told, entries, .. } = self;
        feeder.drain(&mut || tick(told, *on_progress, *entries, pool.bytes()))?;
        self.show_pending()?;
        let next = self.group.next();
        let group = std::mem::replace(&mut self.group, next);
        let to_sync = group.to_sync(self.group_files);
        let synced = (!to_sync.is_empty()).then(|| act::sync(to_sync));
        self.pending = Some(Pending { group, changes: std::mem::take(&mut self.changes), synced });
        (self.group_files, self.group_bytes, self.change_path_bytes) = (0, 0, 0);
        Ok(())
    }

    /// Makes the group that waits for the disk visible, once it is there, and reports it.
    fn show_pending(&mut self) -> Result<()> {
        let Some(Pending { group, changes, synced }) = self.pending.take() else { return Ok(()) };
        while let Some(synced) = &synced {
            match synced.recv_timeout(TELL_EVERY) {
                Ok(answer) => {
                    answer?;
                    break;
                }
                Err(RecvTimeoutError::Timeout) => self.tell_progress()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::io("sync", "", std::io::Error::other("its thread could not run")));
                }
            }
        }
        let Checkout { pool, on_progress, told, entries, report, .. } = self;
        let mut missed = |path: &[u8]| report.attributes.add(path);
        group.show(&mut || tick(told, *on_progress, *entries, pool.bytes()), &mut missed)?;
        self.report.written_bytes = self.pool.bytes();
        if !changes.is_empty() {
            self.on_progress.report(&changes)?;
        }
        self.tell_progress()
    }

    /// Makes everything so far visible.
    fn show_all(&mut self) -> Result<()> {
        self.close()?;
        self.show_pending()
    }

    fn tell_progress(&mut self) -> Result<()> {
        self.told = Instant::now();
        self.on_progress.progress(&Progress { entries: self.entries, written_bytes: self.pool.bytes() })
    }
}

/// Tells how far it is, if that was not told for a while.
fn tick(told: &mut Instant, on_progress: &mut dyn OnProgress, entries: u64, written_bytes: u64) -> Result<()> {
    if told.elapsed() < TELL_EVERY {
        return Ok(());
    }
    *told = Instant::now();
    on_progress.progress(&Progress { entries, written_bytes })
}

fn holds_spared() -> Error {
    Error::Refused("something in it is excluded or is the backup, and the snapshot has no directory there".into())
}

fn made(over: Over) -> Action {
    if over == Over::Nothing { Action::Created } else { Action::Replaced }
}

/// Links the file at `path` beneath `root` to `waiting` in `from`; whether it worked.
fn link_from(root: &Arc<Home>, path: &[u8], from: &Home, waiting: &[u8]) -> bool {
    let mut inner: Option<Dir> = None;
    let mut names = path.split(|byte| *byte == b'/').peekable();
    while let Some(bytes) = names.next() {
        let dir = inner.as_ref().unwrap_or(&root.dir);
        let Ok(name) = Name::new(bytes) else { return false };
        if names.peek().is_none() {
            return Name::new(waiting).is_ok_and(|waiting| dir.link(name, &from.dir, waiting).is_ok());
        }
        match dir.enter(name) {
            Ok(next) => inner = Some(next),
            Err(_) => return false,
        }
    }
    false
}

/// What is in a directory, ascending.
fn list(home: Option<&Home>) -> Result<std::iter::Peekable<std::vec::IntoIter<Listed>>> {
    let listed = home.map_or(Ok(Vec::new()), |home| home.dir.list().map_err(|e| Error::io("list", "", e)))?;
    Ok(listed.into_iter().peekable())
}

fn found(stat: &Stat, target: Vec<u8>) -> Found {
    Found {
        kind: kind_of(stat).map_or(FoundKind::Socket, FoundKind::Known),
        size: stat.st_size.max(0).cast_unsigned(),
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec as i64),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec as i64),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        identity: (stat.st_dev, stat.st_ino),
        shared: stat.st_nlink > 1,
        target,
    }
}

fn ns(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// The kind that an entry of it has; `None` for a socket.
fn kind_of(stat: &Stat) -> Option<EntryKind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
