//! Walks sources and compares them with their stat cache. It says what is there and what may have changed; it reads
//! no file and stores nothing.
//!
//! The walk goes depth first, names ascending bytewise, and answers in batches of events. What it does not mention is
//! as it was: an unchanged directory is [`Event::Enter`] and [`Event::Leave`]. Directories are held open and named
//! relative to their parents, so neither a long path nor a moved ancestor leads astray; symlinks are never followed.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::ingest::{Clean, ProblemKind, Source};
use crate::keys::{keyed, tag};
use crate::select::{Entered, Scope, Selection};
use crate::stat_cache::{BlockRef, Directory, Row, Stat, StatCache};
use crate::xattr::{self, Holder, Xattrs};

/// Files up to this size are read as part of a batch, larger ones by themselves.
pub const SMALL_FILE_BYTES: u64 = 2 << 20;
/// A batch ends when its files have this many bytes: three of them are in memory at a time.
const BATCH_FILE_BYTES: u64 = 4 << 20;
/// A batch ends when its directories, links and devices have this many bytes of extended attributes.
const BATCH_ATTRIBUTE_BYTES: usize = 1 << 20;
/// A batch ends at this many files to read: enough for two threads, few enough to be quick.
const BATCH_FILES: usize = 1024;
/// A batch ends at this many directories with files to read: each is an open descriptor.
const BATCH_DIRECTORIES: usize = 64;
/// A batch ends at this many events or names looked at, so that progress is shown.
const BATCH_EVENTS: usize = 8192;
const BATCH_LOOKED_AT: usize = 32768;
/// Directories on the way to the current one that are held open; those above are reopened from below when they are
/// needed.
const OPEN_DEPTH: usize = 128;
/// Files remembered while names of them are still to come (20 MB). Beyond, each further name counts as a file of its
/// own and is read: a backup kept with hard links has millions of files whose other names are never met.
pub const LINK_GROUPS_MAX: usize = 100_000;
/// Room for names per `getdents64`: a directory of a thousand entries in one call.
const LISTING_BYTES: usize = 64 << 10;

/// A name or symlink target inside its batch; a NUL follows it there.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    start: u32,
    length: u32,
}

/// Extended attributes of what an event is about.
#[derive(Clone, Copy, Debug)]
pub enum Attributes {
    /// They were not looked at: the stat cache vouches for them.
    AsCached,
    /// It has none.
    None,
    /// `attributes[index]` of the batch.
    Read {
        /// Index in `Batch::attributes`.
        index: u32,
    },
}

/// Something that is there, changed, or gone. Between `Enter` and `Leave`, names ascend.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A directory begins; the first one is the root, its name empty.
    Enter {
        /// Its name.
        name: Text,
        /// Its stat, taken before it was listed.
        stat: Stat,
        /// What is cached of it.
        old: Option<BlockRef>,
        /// Its own stat is as cached, and all that is not mentioned before `Leave` is so too. Its attributes may differ
        /// all the same, if they are not `AsCached`.
        same: bool,
        /// Its extended attributes.
        attributes: Attributes,
    },
    /// The directory ends.
    Leave,
    /// A file to be read in this batch: `work[index]`.
    File {
        /// Index in `Batch::work`.
        index: u32,
    },
    /// A large file, `work[index]`; it is the last event of its batch.
    Large {
        /// Index in `Batch::work`.
        index: u32,
    },
    /// Another name of a file that was, or will be, read earlier in this walk: `linked[index]`.
    Linked {
        /// Index in `Batch::linked`.
        index: u32,
    },
    /// An unchanged file whose first name is another one now.
    Relinked {
        /// Its name.
        name: Text,
        /// Identity of the link from now on.
        link_id: u64,
    },
    /// A symlink.
    Symlink {
        /// Its name.
        name: Text,
        /// Its stat.
        stat: Stat,
        /// Where it leads.
        target: Text,
        /// Identity of its hard links.
        link_id: u64,
        /// Its extended attributes.
        attributes: Attributes,
    },
    /// A fifo or a device.
    Special {
        /// Its name.
        name: Text,
        /// Its stat.
        stat: Stat,
        /// Identity of its hard links.
        link_id: u64,
        /// Its extended attributes.
        attributes: Attributes,
    },
    /// A cached name that is not there any more.
    Gone {
        /// The name.
        name: Text,
    },
    /// A name that is not selected now, and may be the next time though its directory is as it was.
    Excluded {
        /// The name.
        name: Text,
    },
    /// A name that cannot be stored.
    Problem {
        /// The name.
        name: Text,
        /// Why.
        kind: ProblemKind,
        /// The system's error number or 0.
        errno: i32,
    },
}

/// A file that has to be read.
#[derive(Clone, Debug)]
pub struct Work {
    /// The directory that `at` is relative to; `None`: the working directory.
    pub directory: Option<Arc<OwnedFd>>,
    /// The path to open.
    pub at: Text,
    /// Its name in the snapshot.
    pub name: Text,
    /// Its stat when it was found.
    pub stat: Stat,
    /// Identity of its hard links, 0 for none.
    pub link_id: u64,
}

/// What a stretch of the walk found.
#[derive(Default)]
pub struct Batch {
    text: Vec<u8>,
    /// What was found, in order.
    pub events: Vec<Event>,
    /// The files that have to be read.
    pub work: Vec<Work>,
    /// Other names of files; each is read only if the first name turns out to be gone.
    pub linked: Vec<Work>,
    /// Extended attributes of directories, symlinks, fifos and devices, or why they could not be read.
    pub attributes: Vec<rustix::io::Result<Xattrs>>,
    attribute_bytes: usize,
    /// Bytes of the files to be read, by their stat; a large one not included.
    pub file_bytes: u64,
    /// Files that the stat cache vouches for.
    pub unchanged_files: u64,
    /// Their bytes.
    pub unchanged_bytes: u64,
    /// Symlinks that the stat cache vouches for.
    pub unchanged_symlinks: u64,
    /// Names that were met and are not selected.
    pub excluded: u64,
    looked_at: usize,
    directories: usize,
}

impl Batch {
    /// The bytes of a text.
    pub fn bytes(&self, text: Text) -> &[u8] {
        &self.text[text.start as usize..][..text.length as usize]
    }

    /// A text for a system call.
    pub fn c_str(&self, text: Text) -> &CStr {
        let start = text.start as usize;
        CStr::from_bytes_with_nul(&self.text[start..start + text.length as usize + 1]).unwrap_or_default()
    }

    /// Lets go of the directories of the files that have been read. `keep` says for each whether it is needed again.
    pub fn close_directories(&mut self, keep: impl Iterator<Item = bool>) {
        let read = self.work.iter_mut().zip(keep.chain(std::iter::repeat(false)));
        read.filter(|(_, keep)| !keep).for_each(|(work, _)| work.directory = None);
    }

    fn push_text(&mut self, bytes: &[u8]) -> Text {
        let start = self.text.len() as u32;
        self.text.extend_from_slice(bytes);
        self.text.push(0);
        Text { start, length: bytes.len() as u32 }
    }

    /// Extended attributes of an event; `None` if they were not looked at.
    pub fn attributes(&self, found: Attributes) -> Option<rustix::io::Result<Xattrs>> {
        match found {
            Attributes::AsCached => None,
            Attributes::None => Some(Ok(Xattrs::new())),
            Attributes::Read { index } => self.attributes.get(index as usize).cloned(),
        }
    }

    /// Reads and remembers the attributes of something.
    fn read_attributes(&mut self, holder: &Holder<'_>) -> Attributes {
        let found = xattr::read(holder);
        match &found {
            Ok(found) if found.is_empty() => return Attributes::None,
            Ok(found) => self.attribute_bytes += xattr::bytes(found),
            Err(_) => {}
        }
        self.attributes.push(found);
        Attributes::Read { index: self.attributes.len() as u32 - 1 }
    }

    fn is_full(&self) -> bool {
        self.work.len() >= BATCH_FILES
            || self.attribute_bytes >= BATCH_ATTRIBUTE_BYTES
            || self.file_bytes >= BATCH_FILE_BYTES
            || self.directories >= BATCH_DIRECTORIES
            || self.events.len() >= BATCH_EVENTS
            || self.looked_at >= BATCH_LOOKED_AT
            || matches!(self.events.last(), Some(Event::Large { .. }))
    }
}

/// The names in a directory, sorted.
#[derive(Default)]
struct Listing {
    text: Vec<u8>,
    names: Vec<ListedName>,
    next: usize,
}

#[derive(Clone, Copy)]
struct ListedName {
    start: u32,
    length: u8,
    is_directory: bool,
    /// The file system did not say what it is.
    is_unknown: bool,
}

impl Listing {
    /// What was asked for by name, there or not; each with whether it can only be a directory.
    fn asked<'n>(asked: impl Iterator<Item = (&'n [u8], bool)>) -> rustix::io::Result<Listing> {
        let mut listing = Listing::default();
        for (name, is_directory) in asked {
            listing.push(name, is_directory, !is_directory)?;
        }
        Ok(listing)
    }

    fn push(&mut self, name: &[u8], is_directory: bool, is_unknown: bool) -> rustix::io::Result<()> {
        // No file system has longer names; one that claims to cannot be stored or checked out.
        let length = u8::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let start = u32::try_from(self.text.len()).map_err(|_| Errno::NOMEM)?;
        self.text.extend_from_slice(name);
        self.names.push(ListedName { start, length, is_directory, is_unknown });
        Ok(())
    }

    /// Leaves out what is not selected of the directory at `path`, and counts it.
    fn choose(&mut self, fd: BorrowedFd<'_>, selection: &Selection, scope: &Scope, path: &[u8]) -> u64 {
        let Listing { text, names, .. } = self;
        let before = names.len();
        let mut whole = path.to_vec();
        names.retain(|listed| {
            let name = slice(text, listed);
            whole.truncate(path.len());
            whole.extend_from_slice(name);
            let is_directory = listed.is_directory || listed.is_unknown && is_directory(fd, name);
            !selection.excludes(scope, &whole, name, is_directory)
        });
        (before - names.len()) as u64
    }

    fn of(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> rustix::io::Result<Listing> {
        let mut listing = Listing::default();
        buffer.clear();
        buffer.reserve(LISTING_BYTES);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = entry.file_type();
            listing.push(name, kind == FileType::Directory, kind == FileType::Unknown)?;
        }
        let Listing { text, names, .. } = &mut listing;
        names.sort_unstable_by(|a, b| slice(text, a).cmp(slice(text, b)));
        Ok(listing)
    }

    fn peek(&self) -> Option<(&[u8], bool)> {
        let name = self.names.get(self.next)?;
        Some((slice(&self.text, name), name.is_directory))
    }
}

fn slice<'a>(text: &'a [u8], name: &ListedName) -> &'a [u8] {
    &text[name.start as usize..][..usize::from(name.length)]
}

/// Where a directory's names come from.
enum Names {
    /// The cached rows name them all.
    Cached,
    /// From the directory itself.
    Listed(Listing),
    /// The sources, which take the place of a directory.
    Sources(usize),
}

struct Frame<'a> {
    fd: Option<Arc<OwnedFd>>,
    id: (u64, u64),
    path_length: usize,
    old: Option<Directory<'a>>,
    names: Names,
    /// What is selected in it; `None`: the sources themselves, all of them.
    scope: Option<Scope>,
    has_work: bool,
}

/// Why a name could not be looked at.
enum Failure {
    /// The system said no; the walk goes on without the name.
    System(Errno),
    /// The walk cannot go on.
    Final(Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::System(errno)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

/// The files of which some names are still to be met, by device and inode.
struct Links {
    key: [u8; 32],
    groups: HashMap<(u64, u64), LinkGroup>,
    groups_max: usize,
}

/// The names of one inode met so far.
struct LinkGroup {
    link_id: u64,
    /// Its stat when the first was met. Another one under the same inode may be another file's: it is a group anew.
    stat: Stat,
    /// Its first name was, or will be, read in this walk.
    is_read: bool,
    /// Names not met yet.
    left: u32,
}

/// What is known of a file when one more name of it is met.
struct Met {
    /// It is the first name; the file's bytes are counted with it, and with no other.
    is_first: bool,
    /// An earlier name was, or will be, read in this walk.
    was_read: bool,
}

/// A name to be looked at.
struct Item {
    name: Text,
    at: Text,
    row: Option<Row>,
    maybe_directory: bool,
}

/// A walk over sources.
pub struct Walk<'a> {
    cache: Option<&'a StatCache>,
    selection: &'a Selection,
    clean: Clean,
    /// Named sources, names ascending.
    sources: Vec<(Vec<u8>, CString)>,
    /// The one source whose contents are the root.
    root: Option<PathBuf>,
    /// The volume's own directory: what is written while it is read never ends.
    excluded: Option<(u64, u64)>,
    frames: Vec<Frame<'a>>,
    started: bool,
    /// Path of the current directory in the snapshot, a slash after every name.
    path: Vec<u8>,
    links: Links,
    buffer: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// A walk over what is selected of `sources`. `excluded` is a directory to leave out. Nothing is opened yet.
    pub fn new(
        sources: &[Source],
        selection: &'a Selection,
        cache: Option<&'a StatCache>,
        link_key: &[u8; 32],
        clean: Clean,
        excluded: &Path,
    ) -> Result<Walk<'a>> {
        let mut named = Vec::new();
        for source in sources {
            let Some(name) = &source.name else { continue };
            check_name(name)?;
            named.push((name.clone(), c_string(&source.path)?));
        }
        named.sort();
        let root = match sources {
            [Source { path, name: None }] => Some(path.clone()),
            _ if named.len() == sources.len() => None,
            _ => return Err(Error::Invalid("a source without a name must be the only one".into())),
        };
        if root.is_none() && selection.wanted.is_some() {
            return Err(Error::Invalid("a list of names is relative to one directory".into()));
        }
        if let Some(pair) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = String::from_utf8_lossy(&pair[0].0).into_owned();
            return Err(Error::Invalid(format!("two sources would both be called {name:?}")));
        }
        let excluded = statx(CWD, excluded, AtFlags::empty(), StatxFlags::BASIC_STATS).ok();
        Ok(Walk {
            cache,
            selection,
            clean,
            sources: named,
            root,
            excluded: excluded.map(|found| stat_of(&found)).map(|stat| (stat.dev, stat.ino)),
            frames: Vec::new(),
            started: false,
            path: Vec::new(),
            links: Links { key: *link_key, groups: HashMap::new(), groups_max: LINK_GROUPS_MAX },
            buffer: Vec::new(),
        })
    }

    /// Walks on until `batch` is full or all is walked; `false`: all is walked. Fails if a source itself cannot be
    /// opened.
    pub fn next(&mut self, batch: &mut Batch) -> Result<bool> {
        if !self.started {
            self.started = true;
            self.begin(batch)?;
        }
        while !batch.is_full() {
            if self.frames.is_empty() {
                return Ok(false);
            }
            self.pass_unchanged(batch);
            if batch.is_full() {
                break;
            }
            match self.next_item(batch) {
                Some(item) => self.look_at(item, batch)?,
                None => self.leave(batch)?,
            }
        }
        Ok(true)
    }

    /// Path of `name` in the current directory of the snapshot.
    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        [&self.path, name].concat()
    }

    fn begin(&mut self, batch: &mut Batch) -> Result<()> {
        let old = self.cache.and_then(|cache| cache.directory(cache.root()));
        let Some(path) = self.root.take() else {
            let same = old.as_ref().is_some_and(|old| old.record.stat == Stat::default());
            let name = batch.push_text(b"");
            let block = old.as_ref().map(Directory::block);
            let attributes = Attributes::None;
            batch.events.push(Event::Enter { name, stat: Stat::default(), old: block, same, attributes });
            let names = Names::Sources(0);
            self.frames.push(Frame { fd: None, id: (0, 0), path_length: 0, old, names, scope: None, has_work: false });
            return Ok(());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, &path, flags, Mode::empty()).map_err(|errno| Error::io("open", &path, errno))?;
        let name = batch.push_text(b"");
        self.enter(fd, name, old, batch).map_err(|failure| match failure {
            Failure::System(errno) => Error::io("list", &path, errno),
            Failure::Final(error) => error,
        })
    }

    /// Takes an opened directory as the current one.
    fn enter(
        &mut self,
        fd: OwnedFd,
        name: Text,
        old: Option<Directory<'a>>,
        batch: &mut Batch,
    ) -> std::result::Result<(), Failure> {
        let stat = stat_fd(fd.as_fd())?;
        let equal = old.as_ref().is_some_and(|old| old.record.stat.same(&stat));
        let trusted = equal && old.as_ref().is_some_and(|old| old.record.trusted);
        let block = old.as_ref().map(Directory::block);
        // The root has no entry that they could be taken from.
        let attributes = match trusted && !self.frames.is_empty() {
            true => Attributes::AsCached,
            false => batch.read_attributes(&Holder::Open(fd.as_fd())),
        };
        let length = self.path.len();
        if !self.frames.is_empty() {
            self.path.extend_from_slice(batch.bytes(name));
            self.path.push(b'/');
        }
        let entered = Entered {
            fd: fd.as_fd(),
            stat: &stat,
            name: batch.bytes(name),
            path: &self.path,
            old: self.cache.zip(block),
            same_names: trusted,
        };
        let scope = self.selection.enter(self.frames.last().and_then(|frame| frame.scope.as_ref()), &entered)?;
        let (names, excluded) =
            self.names_in(fd.as_fd(), &scope, trusted).inspect_err(|_| self.path.truncate(length))?;
        batch.excluded += excluded;
        // A record that could be trusted from now on is worth being written again.
        let same = trusted || (equal && !self.clean.is_clean(&stat));
        batch.events.push(Event::Enter { name, stat, old: block, same, attributes });
        let path_length = self.path.len();
        let (id, scope) = ((stat.dev, stat.ino), Some(scope));
        self.frames.push(Frame { fd: Some(Arc::new(fd)), id, path_length, old, names, scope, has_work: false });
        if let Some(above) = self.frames.len().checked_sub(OPEN_DEPTH + 1) {
            self.frames[above].fd = None;
        }
        Ok(())
    }

    /// Where the names of a directory come from, those selected, and how many others were met.
    fn names_in(&mut self, fd: BorrowedFd<'_>, scope: &Scope, trusted: bool) -> rustix::io::Result<(Names, u64)> {
        let mut listing = match self.selection.wanted(scope) {
            _ if scope.is_empty() => Listing::default(),
            Some(asked) => Listing::asked(asked)?,
            None if trusted && !scope.relists => return Ok((Names::Cached, 0)),
            None => Listing::of(fd, &mut self.buffer)?,
        };
        let excluded = listing.choose(fd, self.selection, scope, &self.path);
        Ok((Names::Listed(listing), excluded))
    }

    fn leave(&mut self, batch: &mut Batch) -> Result<()> {
        batch.events.push(Event::Leave);
        let Some(left) = self.frames.pop() else { return Ok(()) };
        if left.old.as_ref().is_some_and(Directory::is_damaged) {
            return Err(Error::Damaged("the stat cache cannot be read".into()));
        }
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        self.path.truncate(frame.path_length);
        frame.has_work = false;
        if frame.fd.is_some() || matches!(frame.names, Names::Sources(_)) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = left.fd.as_ref().ok_or(Errno::BADF).and_then(|fd| {
            let above = openat(fd, c"..", flags, Mode::empty())?;
            let stat = stat_fd(above.as_fd())?;
            if (stat.dev, stat.ino) == frame.id { Ok(above) } else { Err(Errno::NOENT) }
        });
        let path = || Path::new(OsStr::from_bytes(&self.path)).to_path_buf();
        // Only if someone moves a directory far down while it is walked; what remains of its old place is unknown.
        frame.fd = Some(Arc::new(above.map_err(|errno| Error::io("return to", path(), errno))?));
        Ok(())
    }

    /// Passes over the entries of the current directory that are as cached: the path of a push that changes little.
    fn pass_unchanged(&mut self, batch: &mut Batch) {
        let Walk { frames, links, path, .. } = self;
        let Some(Frame { fd: Some(fd), old: Some(old), names: Names::Cached, .. }) = frames.last_mut() else { return };
        while batch.looked_at < BATCH_LOOKED_AT {
            let Some((name, row)) = old.peek() else { return };
            if row.child.is_some() || !row.trusted {
                return;
            }
            let Ok(stat) = stat_at(fd.as_fd(), name) else { return };
            if !stat.same(&row.stat) {
                return;
            }
            let mut bytes = stat.size;
            if stat.nlink > 1 {
                if links.identity(path, name.to_bytes(), &stat) != row.link_id {
                    return;
                }
                if !links.meet(row.link_id, &stat, false).is_first {
                    bytes = 0;
                }
            }
            count_unchanged(batch, &stat, bytes);
            old.advance();
        }
    }

    /// The next name of the current directory; `Gone` events for cached names before it.
    fn next_item(&mut self, batch: &mut Batch) -> Option<Item> {
        let frame = self.frames.last_mut()?;
        loop {
            let row = frame.old.as_mut().and_then(Directory::peek);
            let listed = match &frame.names {
                Names::Cached => row.map(|(name, row)| (name.to_bytes(), row.child.is_some())),
                Names::Listed(listing) => listing.peek(),
                // What a source is shows when it is looked at.
                Names::Sources(next) => self.sources.get(*next).map(|(name, _)| (&name[..], false)),
            };
            let order = match (row, listed) {
                (None, None) => return None,
                (Some((old, _)), Some((name, _))) => old.to_bytes().cmp(name),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            if let (Ordering::Less, Some((name, _))) = (order, row) {
                let name = batch.push_text(name.to_bytes());
                batch.events.push(Event::Gone { name });
                advance(&mut frame.old);
                continue;
            }
            let (name, maybe_directory) = listed?;
            let name = batch.push_text(name);
            let mut item = Item { name, at: name, row: None, maybe_directory };
            if let (Ordering::Equal, Some((_, row))) = (order, row) {
                item.row = Some(row);
                item.maybe_directory |= row.child.is_some();
                advance(&mut frame.old);
            }
            match &mut frame.names {
                Names::Cached => {}
                Names::Listed(listing) => listing.next += 1,
                Names::Sources(next) => {
                    item.at = batch.push_text(self.sources[*next].1.as_bytes());
                    *next += 1;
                }
            }
            batch.looked_at += 1;
            return Some(item);
        }
    }

    fn look_at(&mut self, item: Item, batch: &mut Batch) -> Result<()> {
        match self.try_look_at(&item, batch) {
            Ok(()) => Ok(()),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::System(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::BADF)) => {
                let path = PathBuf::from(OsStr::from_bytes(&self.path_of(batch.bytes(item.name))));
                Err(Error::io("open", path, Errno::MFILE))
            }
            Err(Failure::System(errno))
                if matches!(self.frames.last(), Some(Frame { names: Names::Sources(_), .. })) =>
            {
                // A source that is not there is a mistake of the caller, not an accident on the way.
                Err(Error::io("open", Path::new(OsStr::from_bytes(batch.bytes(item.at))), errno))
            }
            Err(Failure::System(errno)) => {
                let asked = self.frames.last().and_then(|frame| frame.scope.as_ref()).is_some_and(Scope::is_asked);
                let kind = match problem_kind(errno) {
                    ProblemKind::Vanished if asked => ProblemKind::Missing,
                    kind => kind,
                };
                let (name, errno) = (item.name, errno.raw_os_error());
                batch.events.push(Event::Problem { name, kind, errno });
                Ok(())
            }
        }
    }

    fn try_look_at(&mut self, item: &Item, batch: &mut Batch) -> std::result::Result<(), Failure> {
        let directory = self.frames.last().and_then(|frame| frame.fd.clone());
        let at = batch.c_str(item.at);
        let fd = directory.as_ref().map_or(CWD, |fd| fd.as_fd());
        let open = |at: &CStr| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(fd, at, flags, Mode::empty())
        };
        if item.maybe_directory {
            match open(at) {
                Ok(opened) => return self.look_into(opened, item, batch),
                Err(errno @ (Errno::NOTDIR | Errno::LOOP)) if self.must_be_directory(batch.bytes(item.name)) => {
                    return Err(errno.into());
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let stat = stat_at(fd, at)?;
        match FileType::from_raw_mode(stat.mode.into()) {
            FileType::RegularFile => self.file(item, stat, directory, batch),
            FileType::Symlink => self.symlink(item, stat, directory.as_deref(), batch)?,
            FileType::Directory => return self.look_into(open(at)?, item, batch),
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                self.special(item, stat, directory.as_deref(), batch)?;
            }
            _ => batch.events.push(Event::Problem { name: item.name, kind: ProblemKind::Unsupported, errno: 0 }),
        }
        Ok(())
    }

    fn must_be_directory(&self, name: &[u8]) -> bool {
        let scope = self.frames.last().and_then(|frame| frame.scope.as_ref());
        scope.is_some_and(|scope| self.selection.must_be_directory(scope, name))
    }

    fn look_into(&mut self, opened: OwnedFd, item: &Item, batch: &mut Batch) -> std::result::Result<(), Failure> {
        if self.excluded.is_some() {
            let stat = stat_fd(opened.as_fd())?;
            if self.excluded == Some((stat.dev, stat.ino)) {
                batch.events.push(Event::Problem { name: item.name, kind: ProblemKind::Unsupported, errno: 0 });
                return Ok(());
            }
        }
        let block = item.row.and_then(|row| row.child);
        let old = self.cache.zip(block).and_then(|(cache, block)| cache.directory(block));
        self.enter(opened, item.name, old, batch)
    }

    fn file(&mut self, item: &Item, stat: Stat, directory: Option<Arc<OwnedFd>>, batch: &mut Batch) {
        if self.selection.is_too_large(batch.bytes(item.name), stat.size) {
            batch.excluded += 1;
            batch.events.push(Event::Excluded { name: item.name });
            return;
        }
        let equal = item.row.filter(|row| row.child.is_none() && row.trusted && row.stat.same(&stat));
        let (mut link_id, mut already_read, mut bytes) = (0, false, stat.size);
        if stat.nlink > 1 {
            link_id = self.links.identity(&self.path, batch.bytes(item.name), &stat);
            let met = self.links.meet(link_id, &stat, equal.is_none());
            already_read = met.was_read;
            bytes = if met.is_first { bytes } else { 0 };
        }
        let name = item.name;
        match equal {
            Some(row) if row.link_id == link_id => count_unchanged(batch, &stat, bytes),
            Some(_) => {
                count_unchanged(batch, &stat, bytes);
                batch.events.push(Event::Relinked { name, link_id });
            }
            None => {
                let work = Work { directory, at: item.at, name, stat, link_id };
                if already_read {
                    batch.events.push(Event::Linked { index: batch.linked.len() as u32 });
                    batch.linked.push(work);
                } else {
                    let index = batch.work.len() as u32;
                    batch.work.push(work);
                    if stat.size > SMALL_FILE_BYTES {
                        batch.events.push(Event::Large { index });
                    } else {
                        batch.events.push(Event::File { index });
                        batch.file_bytes += stat.size;
                    }
                }
                if let Some(frame) = self.frames.last_mut() {
                    batch.directories += usize::from(!std::mem::replace(&mut frame.has_work, true));
                }
            }
        }
    }

    fn symlink(
        &mut self,
        item: &Item,
        stat: Stat,
        directory: Option<&OwnedFd>,
        batch: &mut Batch,
    ) -> rustix::io::Result<()> {
        let Some(link_id) = self.changed_other(item, &stat, batch) else { return Ok(()) };
        let fd = directory.map_or(CWD, |fd| fd.as_fd());
        let target = readlinkat(fd, batch.c_str(item.at), Vec::new())?;
        let target = batch.push_text(target.as_bytes());
        let attributes = attributes_of(item, directory, batch)?;
        batch.events.push(Event::Symlink { name: item.name, stat, target, link_id, attributes });
        Ok(())
    }

    fn special(
        &mut self,
        item: &Item,
        stat: Stat,
        directory: Option<&OwnedFd>,
        batch: &mut Batch,
    ) -> rustix::io::Result<()> {
        let Some(link_id) = self.changed_other(item, &stat, batch) else { return Ok(()) };
        let attributes = attributes_of(item, directory, batch)?;
        batch.events.push(Event::Special { name: item.name, stat, link_id, attributes });
        Ok(())
    }

    /// The link identity of what is neither file nor directory; `None`, and counted, if it is as cached.
    fn changed_other(&mut self, item: &Item, stat: &Stat, batch: &mut Batch) -> Option<u64> {
        let mut link_id = 0;
        if stat.nlink > 1 {
            link_id = self.links.identity(&self.path, batch.bytes(item.name), stat);
            self.links.meet(link_id, stat, false);
        }
        let equal = |row: Row| row.child.is_none() && row.trusted && row.stat.same(stat) && row.link_id == link_id;
        if item.row.is_some_and(equal) {
            count_unchanged(batch, stat, 0);
            return None;
        }
        Some(link_id)
    }
}

/// Reads the attributes of a name that cannot be opened.
fn attributes_of(item: &Item, directory: Option<&OwnedFd>, batch: &mut Batch) -> rustix::io::Result<Attributes> {
    let holder = Holder::beneath(directory.map(|fd| fd.as_fd()), batch.bytes(item.at))?;
    Ok(batch.read_attributes(&holder))
}

fn is_directory(fd: BorrowedFd<'_>, name: &[u8]) -> bool {
    let stat = CString::new(name).ok().and_then(|name| stat_at(fd, &name).ok());
    stat.is_some_and(|stat| FileType::from_raw_mode(stat.mode.into()) == FileType::Directory)
}

fn advance(old: &mut Option<Directory<'_>>) {
    if let Some(old) = old {
        old.advance();
    }
}

/// Counts a name that the stat cache vouches for, and `bytes` of content with it.
fn count_unchanged(batch: &mut Batch, stat: &Stat, bytes: u64) {
    batch.looked_at += 1;
    if FileType::from_raw_mode(stat.mode.into()) == FileType::Symlink {
        batch.unchanged_symlinks += 1;
    } else {
        batch.unchanged_files += 1;
        batch.unchanged_bytes += bytes;
    }
}

impl Links {
    /// The identity of the file that has the name `path` `name`: it is called after the path of the first name met.
    fn identity(&self, path: &[u8], name: &[u8], stat: &Stat) -> u64 {
        match self.groups.get(&(stat.dev, stat.ino)) {
            Some(group) if group.stat.same(stat) => group.link_id,
            // 0 means no link; a path that hashes to it is as likely as any other 64-bit accident.
            _ => tag(&keyed(&self.key, &[path, name].concat())).max(1),
        }
    }

    /// Notes that one more name of a file was met, and whether it is going to be read. A file whose names are all met
    /// is forgotten.
    fn meet(&mut self, link_id: u64, stat: &Stat, reads: bool) -> Met {
        let id = (stat.dev, stat.ino);
        if self.groups.len() >= self.groups_max && !self.groups.contains_key(&id) {
            return Met { is_first: true, was_read: false };
        }
        let fresh = || LinkGroup { link_id, stat: *stat, is_read: false, left: stat.nlink };
        let group = self.groups.entry(id).or_insert_with(fresh);
        if !group.stat.same(stat) {
            *group = fresh();
        }
        let met = Met { is_first: group.left == stat.nlink, was_read: group.is_read };
        group.is_read |= reads;
        group.left = group.left.saturating_sub(1);
        if group.left == 0 {
            self.groups.remove(&id);
        }
        met
    }
}

/// What an error on one path means for the snapshot.
pub fn problem_kind(errno: Errno) -> ProblemKind {
    match errno {
        Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NXIO => ProblemKind::Vanished,
        _ => ProblemKind::Unreadable,
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name == b"." || name == b".." || name.len() > 255 || name.contains(&b'/') || name.contains(&0)
    {
        return Err(Error::Invalid(format!("{:?} cannot be the name of a source", String::from_utf8_lossy(name))));
    }
    Ok(())
}

fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Invalid("a path contains a NUL".into()))
}

/// The stat of an open file.
pub fn stat_fd(fd: BorrowedFd<'_>) -> rustix::io::Result<Stat> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(|found| stat_of(&found))
}

/// The stat of what `at` names, a symlink itself.
pub fn stat_at(fd: BorrowedFd<'_>, at: &CStr) -> rustix::io::Result<Stat> {
    statx(fd, at, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).map(|found| stat_of(&found))
}

fn stat_of(found: &rustix::fs::Statx) -> Stat {
    let ns = |time: rustix::fs::StatxTimestamp| {
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
    };
    Stat {
        mode: found.stx_mode,
        uid: found.stx_uid,
        gid: found.stx_gid,
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        size: found.stx_size,
        mtime_ns: ns(found.stx_mtime),
        ctime_ns: ns(found.stx_ctime),
        nlink: found.stx_nlink,
        rdev: rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
        blocks: found.stx_blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(groups_max: usize) -> Links {
        Links { key: [1; 32], groups: HashMap::new(), groups_max }
    }

    fn stat(ino: u64, ctime_ns: i64, nlink: u32) -> Stat {
        Stat { ino, ctime_ns, nlink, ..Stat::default() }
    }

    #[test]
    fn an_inode_number_that_another_file_got_during_the_walk_is_another_file() {
        let mut links = links(10);
        let (old, new) = (stat(5, 1, 2), stat(5, 2, 2));
        let first = links.identity(b"", b"a", &old);
        assert!(!links.meet(first, &old, true).was_read);

        let second = links.identity(b"z/", b"n", &new);

        assert_ne!(second, first);
        let met = links.meet(second, &new, true);
        assert!(met.is_first && !met.was_read, "it has to be read");
        assert_eq!(links.identity(b"z/", b"o", &new), second);
        let met = links.meet(second, &new, true);
        assert!(!met.is_first && met.was_read);
        assert!(links.groups.is_empty());
    }

    #[test]
    fn beyond_the_limit_a_name_is_a_file_of_its_own_and_is_read() {
        let mut links = links(2);
        for ino in 1..=3 {
            let (stat, name) = (stat(ino, 1, 9), [ino as u8]);
            let id = links.identity(b"", &name, &stat);
            assert!(!links.meet(id, &stat, true).was_read);
        }

        let known = links.identity(b"", b"again", &stat(2, 1, 9));
        let unknown = links.identity(b"", b"again", &stat(3, 1, 9));

        assert!(links.meet(known, &stat(2, 1, 9), true).was_read);
        assert!(!links.meet(unknown, &stat(3, 1, 9), true).was_read);
        assert_eq!((links.groups.len(), known == unknown), (2, false));
    }
}
