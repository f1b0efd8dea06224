//! Settles what the walk found: contents become extents, directories become pages, stats become the next stat cache.
//!
//! One thread does this, in the order of the walk, so the same tree always gives the same pages. A directory that has
//! nothing new costs nothing here: it is opened for writing ("soiled"), with all that are above it, when the first
//! thing in it turns out to differ, and then catches up from its cached rows and its old pages.

use std::collections::{HashMap, VecDeque};
use std::iter::Peekable;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::error::{Error, Result};
use crate::ingest::owners::{Owner, Owners};
use crate::ingest::read::{End, Group, Outcome, Reader, Window, attempts};
use crate::ingest::store::{FileContent, Store};
use crate::ingest::{Clean, PROBLEMS_MAX, Problem, ProblemKind, Progress};
use crate::keys::Digest;
use crate::page::{Content, Entry, EntryKind, PageRef};
use crate::space::Space;
use crate::stat_cache::{BlockRef, Directory, OpenDirectory, Record, Row, Stat, StatCache, Writer};
use crate::tree::{self, DirectoryBuilder, Entries, OldPages};
use crate::walk::{Attributes, Batch, Event, LINK_GROUPS_MAX, Text, Work};
use crate::xattr::{self, Xattrs};

/// A file with more extended attributes than this is read again under its other names: so many wait for them.
const LINKED_ATTRIBUTE_BYTES_MAX: usize = 1 << 10;

/// What is known of the sources from before.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    /// The stat cache.
    pub cache: Option<&'a StatCache>,
    /// The root directory without one.
    pub page: Option<PageRef>,
}

/// What is left when all is settled.
pub struct Settled {
    /// The root directory's entry.
    pub root: Entry,
    /// Whether a stat cache was written.
    pub cache_written: bool,
}

/// The settling of one walk.
pub struct Settle<'a, 's, 'h> {
    space: &'a Arc<Space>,
    store: &'s mut Store<'h>,
    reader: &'a Reader,
    before: Before<'a>,
    next: Option<&'a Path>,
    clean: Clean,
    writer: Option<Writer>,
    frames: Vec<Frame<'a>>,
    /// Path of the current directory, a slash after every name.
    path: Vec<u8>,
    owners: Owners,
    links: HashMap<(u64, u64), Linked>,
    large: Option<Large>,
    root: Option<Entry>,
    cache_written: bool,
    counts: Progress,
    problems: &'s mut Vec<Problem>,
}

/// A directory between its `Enter` and its `Leave`.
struct Frame<'a> {
    name: Vec<u8>,
    path_length: usize,
    stat: Stat,
    /// Its extended attributes; `None`: as before.
    xattrs: Option<Xattrs>,
    old: Option<BlockRef>,
    /// Its pages in the old tree, for one that has nothing cached.
    old_page: Option<PageRef>,
    /// Something in it is not in the snapshot as it is on disk: it must be listed again next time.
    has_problem: bool,
    /// Unchanged directories in it, while it is unchanged itself.
    unchanged: VecDeque<BlockRef>,
    soiled: Option<Box<Soiled<'a>>>,
}

/// What a directory needs once something in it has changed.
struct Soiled<'a> {
    builder: DirectoryBuilder,
    rows: Option<OpenDirectory>,
    old_rows: Option<Directory<'a>>,
    old_entries: Option<Peekable<Entries<&'a Space>>>,
    /// Owner and newest time of what is in it: the root of several sources has no stat of its own.
    newest: Option<Stat>,
}

/// The content of a file that has other names.
struct Linked {
    link_id: u64,
    stat: Stat,
    size: u64,
    digest: Digest,
    content: Content,
    consistent: bool,
    xattrs: Xattrs,
    left: u32,
}

/// A large file whose windows arrive.
struct Large {
    name: Vec<u8>,
    /// Its stat in the walk.
    seen_as: Stat,
    link_id: u64,
    content: FileContent,
    /// Bytes already counted: a second reading counts only what goes beyond the first.
    counted: u64,
    seen: u64,
}

/// A file's content and how far it can be believed.
struct Found {
    stat: Stat,
    link_id: u64,
    size: u64,
    digest: Digest,
    content: Content,
    consistent: bool,
    /// Its extended attributes, or why they could not be read.
    xattrs: rustix::io::Result<Xattrs>,
}

impl<'a, 's, 'h> Settle<'a, 's, 'h> {
    /// Nothing settled yet. `reader` is for files that have to be read after all; `next` is where a stat cache is to be written.
    pub fn new(
        space: &'a Arc<Space>,
        store: &'s mut Store<'h>,
        reader: &'a Reader,
        before: Before<'a>,
        next: Option<&'a Path>,
        clean: Clean,
        problems: &'s mut Vec<Problem>,
    ) -> Self {
        Settle {
            space,
            store,
            reader,
            before,
            next,
            clean,
            writer: None,
            frames: Vec::new(),
            path: Vec::new(),
            owners: Owners::default(),
            links: HashMap::new(),
            large: None,
            root: None,
            cache_written: false,
            counts: Progress::default(),
            problems,
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            new_bytes: self.store.new_bytes,
            known_bytes: self.store.known_bytes,
            asked_known_bytes: self.store.asked_known_bytes,
            page_bytes: self.store.page_bytes,
            ..self.counts
        }
    }

    /// The way into the volume.
    pub fn store(&mut self) -> &mut Store<'h> {
        self.store
    }

    /// Tells the host.
    pub fn tell(&mut self) -> Result<()> {
        let progress = self.progress();
        self.store.progress(&progress)
    }

    /// What came out, once the root has ended; `None` before.
    pub fn finish(self) -> Option<Settled> {
        Some(Settled { root: self.root?, cache_written: self.cache_written })
    }

    /// Settles a batch whose small files are in `groups`.
    pub fn batch(&mut self, batch: &Batch, groups: &[Group]) -> Result<()> {
        self.counts.files += batch.unchanged_files;
        self.counts.unchanged_files += batch.unchanged_files;
        self.counts.unchanged_bytes += batch.unchanged_bytes;
        self.counts.logical_bytes += batch.unchanged_bytes;
        self.counts.symlinks += batch.unchanged_symlinks;
        self.counts.excluded += batch.excluded;
        let mut read = groups.iter().flat_map(|group| group.files.iter().map(move |file| (group, file)));
        for event in &batch.events {
            match *event {
                Event::Enter { name, stat, old, same, attributes } => {
                    self.enter(batch, name, stat, old, same, attributes)?;
                }
                Event::Leave => self.leave()?,
                Event::File { index } => {
                    let Some((group, outcome)) = read.next() else {
                        return Err(Error::Invalid("a file of the batch was not read".into()));
                    };
                    self.small(batch, &batch.work[index as usize], group, outcome)?;
                }
                Event::Large { index } => {
                    self.begin_large(batch, &batch.work[index as usize]);
                }
                Event::Linked { index } => self.linked(batch, &batch.linked[index as usize])?,
                Event::Relinked { name, link_id } => self.relinked(batch.bytes(name), link_id)?,
                Event::Symlink { name, stat, target, link_id, attributes } => {
                    self.counts.symlinks += 1;
                    let entry = Entry { target: batch.bytes(target).to_vec(), link_id, ..Entry::default() };
                    self.other(batch, name, stat, attributes, entry)?;
                }
                Event::Special { name, stat, link_id, attributes } => {
                    self.counts.files += 1;
                    self.other(batch, name, stat, attributes, Entry { link_id, ..Entry::default() })?;
                }
                Event::Gone { name } => {
                    self.arrive(batch.bytes(name))?;
                }
                Event::Excluded { name } => {
                    self.arrive(batch.bytes(name))?;
                    self.list_again();
                }
                Event::Problem { name, kind, errno } => self.absent(batch.bytes(name), kind, errno)?,
            }
        }
        Ok(())
    }

    fn begin_large(&mut self, batch: &Batch, work: &Work) {
        self.large = Some(Large {
            name: batch.bytes(work.name).to_vec(),
            seen_as: work.stat,
            link_id: work.link_id,
            content: self.store.begin_file(),
            counted: 0,
            seen: 0,
        });
    }

    /// Reads a file here and now: one that has outgrown its batch, or another name of one that is gone.
    fn read_now(&mut self, batch: &Batch, work: &Work) -> Result<()> {
        let reader = self.reader;
        self.begin_large(batch, work);
        for last_attempt in attempts() {
            let mut settled = Ok(());
            let mut take = |window: Window| {
                settled = self.window(&window).and_then(|()| self.tell());
                reader.give_back(window.bytes);
                settled.is_ok()
            };
            let end = reader.read_large(batch.c_str(work.at), work, last_attempt, &mut take);
            settled?;
            let Some(end) = end else { break };
            self.end_large(&end)?;
            if !matches!(end, End::Again) {
                break;
            }
        }
        Ok(())
    }

    /// Settles a window of the large file that the last batch ended with.
    pub fn window(&mut self, window: &Window) -> Result<()> {
        let Some(mut large) = self.large.take() else {
            return Err(Error::Invalid("a window without a file".into()));
        };
        self.store.place_window(&mut large.content, window)?;
        large.seen += window.length();
        self.counts.logical_bytes += large.seen.saturating_sub(large.counted);
        large.counted = large.counted.max(large.seen);
        self.large = Some(large);
        Ok(())
    }

    /// Settles the end of that file, or one of its readings.
    pub fn end_large(&mut self, end: &End) -> Result<()> {
        let Some(mut large) = self.large.take() else {
            return Err(Error::Invalid("the end of a file that did not begin".into()));
        };
        match end {
            End::Again => {
                (large.content, large.seen) = (self.store.begin_file(), 0);
                self.large = Some(large);
                Ok(())
            }
            End::Failed { kind, errno } => self.absent(&large.name, *kind, *errno),
            End::Read { stat, consistent, xattrs } => {
                let (size, digest, content) = self.store.end_file(large.content)?;
                let (stat, consistent, xattrs) = (*stat, *consistent, xattrs.clone());
                let found = Found { stat, link_id: large.link_id, size, digest, content, consistent, xattrs };
                self.file(&large.name, &large.seen_as, found)
            }
        }
    }

    fn small(&mut self, batch: &Batch, work: &Work, group: &Group, outcome: &Outcome) -> Result<()> {
        let name = batch.bytes(work.name);
        match outcome {
            Outcome::Failed { kind, errno } => self.absent(name, *kind, *errno),
            Outcome::Grown => self.read_now(batch, work),
            Outcome::Read { bytes, chunks, stat, consistent, xattrs } => {
                let mut content = self.store.begin_file();
                self.store.place(&mut content, &group.bytes[bytes.clone()], &group.chunks[chunks.clone()])?;
                let (size, digest, content) = self.store.end_file(content)?;
                self.counts.logical_bytes += size;
                let (stat, consistent, xattrs) = (*stat, *consistent, xattrs.clone());
                let found = Found { stat, link_id: work.link_id, size, digest, content, consistent, xattrs };
                self.file(name, &work.stat, found)
            }
        }
    }

    /// A file that was read. `seen_as` is its stat in the walk, which decided what it is linked with.
    fn file(&mut self, name: &[u8], seen_as: &Stat, mut found: Found) -> Result<()> {
        if !found.consistent {
            self.problem(name, ProblemKind::Changed, 0);
        }
        let id = (found.stat.dev, found.stat.ino);
        let differs = |linked: &Linked| linked.link_id == found.link_id && linked.digest != found.digest;
        if id != (seen_as.dev, seen_as.ino) || self.links.get(&id).is_some_and(differs) {
            // The name was given to another file, or the file got another content between its names: a checkout that
            // took them for one would show one content under both.
            found.link_id = 0;
        }
        if let Found { stat, link_id, size, digest, content, consistent, xattrs: Ok(xattrs) } = &found
            && *link_id != 0
            && stat.nlink > 1
            && self.links.len() < LINK_GROUPS_MAX
            && xattr::bytes(xattrs) <= LINKED_ATTRIBUTE_BYTES_MAX
        {
            let linked = Linked {
                link_id: *link_id,
                stat: *stat,
                size: *size,
                digest: *digest,
                content: content.clone(),
                consistent: *consistent,
                xattrs: xattrs.clone(),
                left: stat.nlink - 1,
            };
            self.links.entry(id).or_insert(linked);
        }
        self.push_file(name, found)
    }

    /// Another name of a file, which is read only if the first one was not, or no longer is that file.
    fn linked(&mut self, batch: &Batch, work: &Work) -> Result<()> {
        let (name, stat, link_id) = (batch.bytes(work.name), work.stat, work.link_id);
        let id = (stat.dev, stat.ino);
        // One that changed while it was read is one problem, not as many as it has names.
        let is_it = |linked: &&mut Linked| linked.link_id == link_id && (linked.stat.same(&stat) || !linked.consistent);
        let Some(linked) = self.links.get_mut(&id).filter(is_it) else { return self.read_now(batch, work) };
        let (size, digest, consistent, xattrs) = (linked.size, linked.digest, linked.consistent, linked.xattrs.clone());
        linked.left = linked.left.saturating_sub(1);
        let content = if linked.left == 0 { std::mem::take(&mut linked.content) } else { linked.content.clone() };
        if linked.left == 0 {
            self.links.remove(&id);
        }
        // Its bytes were counted with the first name.
        self.push_file(name, Found { stat, link_id, size, digest, content, consistent, xattrs: Ok(xattrs) })
    }

    fn push_file(&mut self, name: &[u8], found: Found) -> Result<()> {
        self.counts.files += 1;
        let (xattrs, all) = self.attributes(name, found.xattrs);
        let trusted = found.consistent && all && self.clean.is_clean(&found.stat);
        let row = Row { child: None, stat: found.stat, link_id: found.link_id, trusted };
        let mut stat = found.stat;
        if !found.consistent {
            // Size and mtime are what tools compare. Nobody shall take what is stored for the file that has this one.
            stat.mtime_ns = stat.mtime_ns.saturating_sub(1);
        }
        let entry = Entry {
            size: found.size,
            link_id: found.link_id,
            digest: found.digest,
            content: found.content,
            xattrs,
            ..self.entry(name, EntryKind::File, &stat)?
        };
        self.arrive(name)?;
        self.push(entry, &stat, Some(row))
    }

    /// An unchanged file under another link identity.
    fn relinked(&mut self, name: &[u8], link_id: u64) -> Result<()> {
        let (row, entry) = self.arrive(name)?;
        let (Some(row), Some(entry)) = (row, entry) else { return Err(mismatch()) };
        self.push(Entry { link_id, ..entry }, &row.stat, Some(Row { link_id, ..row }))
    }

    /// What is neither file nor directory: `special` says what its kind has of its own.
    fn other(&mut self, batch: &Batch, name: Text, stat: Stat, attributes: Attributes, special: Entry) -> Result<()> {
        let name = batch.bytes(name);
        let (xattrs, all) = self.attributes(name, batch.attributes(attributes).unwrap_or(Ok(Xattrs::new())));
        let kind = match FileType::from_raw_mode(stat.mode.into()) {
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            _ => EntryKind::Fifo,
        };
        let rdev = if kind.is_device() { stat.rdev } else { 0 };
        let Entry { target, link_id, .. } = special;
        let entry = Entry { target, link_id, rdev, xattrs, ..self.entry(name, kind, &stat)? };
        let row = Row { child: None, stat, link_id, trusted: all && self.clean.is_clean(&stat) };
        self.arrive(name)?;
        self.push(entry, &stat, Some(row))
    }

    /// The extended attributes of a name, and whether these are all.
    fn attributes(&mut self, name: &[u8], found: rustix::io::Result<Xattrs>) -> (Xattrs, bool) {
        match found {
            Ok(xattrs) => (xattrs, true),
            Err(errno) => {
                self.problem(name, ProblemKind::Attributes, errno.raw_os_error());
                (Xattrs::new(), false)
            }
        }
    }

    /// A name that is not stored.
    fn absent(&mut self, name: &[u8], kind: ProblemKind, errno: i32) -> Result<()> {
        self.problem(name, kind, errno);
        self.arrive(name)?;
        self.list_again();
        Ok(())
    }

    /// Has the current directory listed again next time.
    fn list_again(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.has_problem = true;
        }
    }

    fn problem(&mut self, name: &[u8], kind: ProblemKind, errno: i32) {
        self.counts.problems += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { path: [&self.path, name].concat(), kind, errno });
        }
    }

    fn enter(
        &mut self,
        batch: &Batch,
        name: Text,
        stat: Stat,
        old: Option<BlockRef>,
        same: bool,
        attributes: Attributes,
    ) -> Result<()> {
        self.counts.directories += 1;
        let name = batch.bytes(name);
        let (mut xattrs, mut all) = (None, true);
        if let Some(found) = batch.attributes(attributes) {
            let (found, whole) = self.attributes(name, found);
            (xattrs, all) = (Some(found), whole);
        }
        // A change within its timestamp: the stat does not tell.
        let same = match &xattrs {
            Some(xattrs) if same && !self.frames.is_empty() => self.cached_attributes(name)? == *xattrs,
            _ => same,
        };
        let mut old_page = None;
        if self.frames.is_empty() {
            old_page = self.before.page;
        } else {
            if !same {
                self.soil()?;
                self.catch_up(self.frames.len() - 1, Some(name))?;
                old_page = self.peek_old_page(name)?;
            }
            self.path.extend_from_slice(name);
            self.path.push(b'/');
        }
        self.frames.push(Frame {
            name: name.to_vec(),
            path_length: self.path.len(),
            stat,
            xattrs,
            old,
            old_page,
            has_problem: !all,
            unchanged: VecDeque::new(),
            soiled: None,
        });
        if same { Ok(()) } else { self.soil() }
    }

    /// The attributes that the directory `name` in the current one has in the tree of the stat cache.
    fn cached_attributes(&self, name: &[u8]) -> Result<Xattrs> {
        let above = self.frames.last().and_then(|frame| frame.old).ok_or_else(mismatch)?;
        let page = self.cached(above)?.record.page;
        Ok(tree::lookup(&**self.space, &page, name)?.ok_or_else(mismatch)?.xattrs)
    }

    fn leave(&mut self) -> Result<()> {
        let index = self.frames.len().saturating_sub(1);
        if self.frames.last().is_some_and(|frame| frame.soiled.is_some()) {
            self.catch_up(index, None)?;
        }
        let Some(frame) = self.frames.pop() else { return Err(Error::Invalid("left more than entered".into())) };
        self.path.truncate(self.frames.last().map_or(0, |frame| frame.path_length));
        match frame.soiled {
            None => self.leave_unchanged(&frame.name, frame.stat, frame.old, frame.xattrs),
            Some(soiled) => {
                let Soiled { builder, rows, newest, .. } = *soiled;
                let page = builder.finish(self.store)?;
                let mut stat = frame.stat;
                let trusted = !frame.has_problem && self.clean.is_clean(&stat);
                let mut block = None;
                if let (Some(writer), Some(rows)) = (&mut self.writer, rows) {
                    block = Some(writer.end(rows, &Record { stat, page, trusted })?);
                }
                if stat == Stat::default() {
                    stat = Stat { mode: 0o755, ..newest.unwrap_or_default() };
                }
                let content = Content::Directory(page);
                let mut entry = Entry { content, ..self.entry(&frame.name, EntryKind::Directory, &stat)? };
                let row =
                    block.map(|block| Row { child: Some(block), stat: Stat::default(), link_id: 0, trusted: true });
                if self.frames.is_empty() {
                    entry.xattrs = frame.xattrs.unwrap_or_default();
                    return self.end_root(entry, block);
                }
                let (_, old) = self.arrive(&frame.name)?;
                entry.xattrs = match frame.xattrs {
                    Some(xattrs) => xattrs,
                    None => old.ok_or_else(mismatch)?.xattrs,
                };
                self.push(entry, &stat, row)
            }
        }
    }

    fn leave_unchanged(
        &mut self,
        name: &[u8],
        stat: Stat,
        old: Option<BlockRef>,
        xattrs: Option<Xattrs>,
    ) -> Result<()> {
        let old = old.ok_or_else(mismatch)?;
        match self.frames.last_mut() {
            None => {
                let page = self.cached(old)?.record.page;
                let content = Content::Directory(page);
                let stat = if stat == Stat::default() { self.newest_of_cached(&page)? } else { stat };
                let xattrs = xattrs.unwrap_or_default();
                self.root = Some(Entry { content, xattrs, ..self.entry(b"", EntryKind::Directory, &stat)? });
                Ok(())
            }
            Some(Frame { soiled: None, unchanged, .. }) => {
                unchanged.push_back(old);
                Ok(())
            }
            Some(_) => {
                let (_, entry) = self.arrive(name)?;
                let row = self.copy(old)?;
                self.push(entry.ok_or_else(mismatch)?, &stat, row)
            }
        }
    }

    /// The stat that an unchanged root of several sources has: none of its own, so that of what is in it.
    fn newest_of_cached(&self, page: &PageRef) -> Result<Stat> {
        let mut newest = None;
        for entry in Entries::new(&**self.space, page) {
            let entry = entry?;
            let stat = Stat { uid: entry.uid, gid: entry.gid, mtime_ns: entry.mtime_ns, ..Stat::default() };
            take_newest(&mut newest, &stat);
        }
        Ok(Stat { mode: 0o755, ..newest.unwrap_or_default() })
    }

    fn end_root(&mut self, entry: Entry, block: Option<BlockRef>) -> Result<()> {
        self.root = Some(entry);
        if let (Some(writer), Some(block)) = (self.writer.take(), block) {
            writer.finish(block)?;
            self.cache_written = true;
        }
        Ok(())
    }

    /// Opens all directories on the way to the current one for writing, the root first, so that what belongs to one
    /// lies together in the stat cache.
    fn soil(&mut self) -> Result<()> {
        let first = self.frames.iter().take_while(|frame| frame.soiled.is_some()).count();
        if self.writer.is_none()
            && first == 0
            && let Some(next) = self.next
        {
            self.writer = Some(Writer::create(next, &self.space.volume_id())?);
        }
        for index in first..self.frames.len() {
            let frame = &self.frames[index];
            let old_rows = frame.old.map(|block| self.cached(block)).transpose()?;
            let old_page = old_rows.as_ref().map(|old| old.record.page).or(frame.old_page);
            let pages = match &old_page {
                Some(page) => OldPages::of(&**self.space, page)?,
                None => OldPages::none(),
            };
            let old_entries = old_page.map(|page| Entries::new(&**self.space, &page).peekable());
            let builder = DirectoryBuilder::new(self.space.keys(), pages);
            let rows = self.writer.as_ref().map(|writer| writer.begin(frame.stat.dev));
            let soiled = Soiled { builder, rows, old_rows, old_entries, newest: None };
            let frame = &mut self.frames[index];
            frame.soiled = Some(Box::new(soiled));
            if let Some(below) = self.frames.get(index + 1) {
                let name = below.name.clone();
                self.catch_up(index, Some(&name))?;
            }
        }
        Ok(())
    }

    /// A directory of the stat cache that the walk has read already.
    fn cached(&self, block: BlockRef) -> Result<Directory<'a>> {
        self.before.cache.and_then(|cache| cache.directory(block)).ok_or_else(mismatch)
    }

    /// Takes over what the walk did not mention, up to the name `limit`: it is as it was.
    fn catch_up(&mut self, index: usize, limit: Option<&[u8]>) -> Result<()> {
        loop {
            let frame = &mut self.frames[index];
            let Some(soiled) = &mut frame.soiled else { return Ok(()) };
            let Some(old_rows) = &mut soiled.old_rows else { return Ok(()) };
            let Some((name, row)) = old_rows.peek() else {
                return if old_rows.is_damaged() { Err(mismatch()) } else { Ok(()) };
            };
            let name = name.to_bytes();
            if limit.is_some_and(|limit| name >= limit) {
                return Ok(());
            }
            let entry = take_entry(&mut soiled.old_entries, name)?.ok_or_else(mismatch)?;
            old_rows.advance();
            let stat = Stat { uid: entry.uid, gid: entry.gid, mtime_ns: entry.mtime_ns, ..Stat::default() };
            let row = match row.child {
                None => Some(row),
                Some(_) => {
                    let block = frame.unchanged.pop_front().ok_or_else(mismatch)?;
                    self.copy(block)?
                }
            };
            self.push_to(index, entry, &stat, row)?;
        }
    }

    /// Catches up to `name` in the current directory and takes what was there under that name.
    fn arrive(&mut self, name: &[u8]) -> Result<(Option<Row>, Option<Entry>)> {
        self.soil()?;
        let Some(index) = self.frames.len().checked_sub(1) else { return Ok((None, None)) };
        self.catch_up(index, Some(name))?;
        let Some(soiled) = &mut self.frames[index].soiled else { return Ok((None, None)) };
        let old = soiled.old_rows.as_mut().and_then(Directory::peek);
        let row = old.filter(|(found, _)| found.to_bytes() == name).map(|(_, row)| row);
        if row.is_some()
            && let Some(old) = &mut soiled.old_rows
        {
            old.advance();
        }
        // Without a stat cache old entries only say where the pages of directories were; see `peek_old_page`.
        let entry = if row.is_some() { take_entry(&mut soiled.old_entries, name)? } else { None };
        Ok((row, entry))
    }

    /// The pages that the directory `name` in the current one had in the old tree.
    fn peek_old_page(&mut self, name: &[u8]) -> Result<Option<PageRef>> {
        let Some(Frame { soiled: Some(soiled), .. }) = self.frames.last_mut() else { return Ok(None) };
        Ok(peek_entry(&mut soiled.old_entries, name)?.and_then(Entry::page))
    }

    /// Copies an unchanged directory into the next stat cache, if there is one, and answers its row.
    fn copy(&mut self, block: BlockRef) -> Result<Option<Row>> {
        let (Some(writer), Some(cache)) = (&mut self.writer, self.before.cache) else { return Ok(None) };
        let child = writer.copy(cache, block)?.ok_or_else(mismatch)?;
        Ok(Some(Row { child: Some(child), stat: Stat::default(), link_id: 0, trusted: true }))
    }

    fn push(&mut self, entry: Entry, stat: &Stat, row: Option<Row>) -> Result<()> {
        let index = self.frames.len().saturating_sub(1);
        self.push_to(index, entry, stat, row)
    }

    fn push_to(&mut self, index: usize, entry: Entry, stat: &Stat, row: Option<Row>) -> Result<()> {
        let Some(Frame { soiled: Some(soiled), .. }) = self.frames.get_mut(index) else { return Err(mismatch()) };
        take_newest(&mut soiled.newest, stat);
        if let (Some(writer), Some(rows), Some(row)) = (&mut self.writer, &mut soiled.rows, row) {
            writer.row(rows, &entry.name, &row)?;
        }
        soiled.builder.push(entry, self.store)
    }

    fn entry(&mut self, name: &[u8], kind: EntryKind, stat: &Stat) -> Result<Entry> {
        let user = self.owners.name(Owner::User(stat.uid), self.store)?;
        let group = self.owners.name(Owner::Group(stat.gid), self.store)?;
        Ok(Entry {
            name: name.to_vec(),
            kind,
            mode: u32::from(stat.mode) & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            user,
            group,
            mtime_ns: stat.mtime_ns,
            ..Entry::default()
        })
    }
}

/// The root of several sources belongs to the owner of the first and is as old as the newest.
fn take_newest(newest: &mut Option<Stat>, stat: &Stat) {
    let newest = newest.get_or_insert(*stat);
    newest.mtime_ns = newest.mtime_ns.max(stat.mtime_ns);
}

type OldEntries<'a> = Option<Peekable<Entries<&'a Space>>>;

/// The entry `name` of a directory read in order; entries before it are passed.
fn peek_entry<'e>(entries: &'e mut OldEntries<'_>, name: &[u8]) -> Result<Option<&'e Entry>> {
    let Some(entries) = entries else { return Ok(None) };
    while entries.next_if(|entry| entry.as_ref().is_ok_and(|entry| entry.name[..] < *name)).is_some() {}
    if let Some(Err(error)) = entries.next_if(Result::is_err) {
        return Err(error);
    }
    Ok(entries.peek().and_then(|entry| entry.as_ref().ok()).filter(|entry| entry.name == name))
}

fn take_entry(entries: &mut OldEntries<'_>, name: &[u8]) -> Result<Option<Entry>> {
    if peek_entry(entries, name)?.is_none() {
        return Ok(None);
    }
    entries.as_mut().and_then(Iterator::next).transpose()
}

/// The stat cache names something that the pages do not have. The caller starts over without it.
fn mismatch() -> Error {
    Error::Damaged("the stat cache does not belong to the tree it names".into())
}
