//! Ingest: files and directories become extents and pages of a volume. It moves no ref and commits nothing.
//!
//! To read, start at [`ingest`]. Two sides work at once: the *scout* (walk.rs, read.rs) walks, compares with the stat
//! cache, reads and scans; the calling thread *settles* (settle.rs, store.rs) what it sends, in the order of the
//! walk. A channel of one message between them bounds the memory, whatever the tree's size.

mod asking;
mod clean;
mod owners;
mod read;
mod report;
mod settle;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

pub(crate) use clean::Clean;
pub use report::{
    Host, Ingested, LeaseHandle, Options, Origin, Owner, PROBLEMS_MAX, Problem, ProblemKind, Progress, Source,
};

use rustix::process::{getegid, geteuid};

use crate::address::Extent;
use crate::chunker::Profile;
use crate::error::{Error, Result};
use crate::page::{self, Content, EncodedPage, Entry, EntryKind, PageRef};
use crate::space::Space;
use crate::stat_cache::StatCache;
use crate::tree::{self, DirectoryBuilder, OldPages};
use crate::walk::{Batch, Event, Walk, Work};
use asking::Asking;
use owners::Owners;
use read::{End, Group, Outcome, Reader, Window, attempts};
use report::KeptPages;
use settle::{Before, Settle, Settled};
use store::Store;

/// The host hears about this often how far it is, also while nothing arrives: that is how it stops us.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(80);

/// What the scout sends.
enum Message {
    /// A stretch of the walk, its small files read.
    Batch(Batch, Vec<Group>),
    /// A stretch of the large file that the batch before ended with.
    Window(Window),
    /// That file ends.
    End(End),
}

/// Stores `sources` in `space` and answers their root entry.
///
/// The bytes are in leases that the host granted, and durable when it has synced them; until then the root means
/// nothing. If this fails, what was written counts for nothing and the next ingest stores it again.
pub fn ingest(space: &Arc<Space>, sources: &[Source], options: &Options, host: &mut dyn Host) -> Result<Ingested> {
    let mut store = Store::new(space, host, options.dry_run);
    if options.keep_pages {
        store.keep_pages();
    }
    let cache = options.prior.as_ref().and_then(|path| StatCache::open(path, &space.volume_id()));
    let cache = cache.filter(|cache| names_stored_pages(space, cache));
    // What an old tree says of its bytes is of no use once they are damaged: all is read again, and what cannot be
    // pointed at any more is stored again. The ref's own tree is kept, whatever else is given up.
    let root = cache.as_ref().and_then(|cache| cache.directory(cache.root())).map(|root| root.record.page);
    let gone = if root.is_none() || root == options.previous { Vec::new() } else { space.gone() };
    let cache = match &cache {
        Some(_) if touches(space, &root, &[gone, space.distrusted()].concat())? => None,
        cache => cache.as_ref(),
    };
    let page = if touches(space, &options.previous, &space.distrusted())? { None } else { options.previous };
    let before = Before { cache, page };
    match attempt(space, sources, options, before, &mut store) {
        // A damaged stat cache, or a damaged page of the old tree: both only save work.
        Err(Error::Damaged(_)) if before.cache.is_some() || before.page.is_some() => {
            let nothing = Before { cache: None, page: None };
            attempt(space, sources, options, nothing, &mut store)
        }
        result => result,
    }
}

/// Whether any of the bytes that the tree at `page` needs are among `extents`.
fn touches(space: &Space, page: &Option<PageRef>, extents: &[Extent]) -> Result<bool> {
    match page {
        Some(page) if !extents.is_empty() => Ok(!tree::files_touching(space, page, extents)?.is_empty()),
        _ => Ok(false),
    }
}

/// Stores what `input` gives until its end as the only file of a directory. File and directory belong to whoever runs
/// this.
pub fn ingest_stream(
    space: &Arc<Space>,
    input: BorrowedFd<'_>,
    name: &[u8],
    mode: u32,
    mtime_ns: i64,
    dry_run: bool,
    host: &mut dyn Host,
) -> Result<Ingested> {
    let mut store = Store::new(space, host, dry_run);
    let mut content = store.begin_file();
    let mut counts = Progress { directories: 1, ..Progress::default() };
    let reader = Arc::new(reader(space));
    let input = input.try_clone_to_owned().map_err(|e| Error::io("open", "-", e))?;
    let (sender, receiver) = sync_channel(1);
    let scouting = Arc::clone(&reader);
    // Not waited for when settling fails: it may sit in a read of a pipe that never ends. It stops at its next window.
    let scout = std::thread::spawn(move || {
        scouting.read_windows(input.as_fd(), u64::MAX, &mut |window: Window| sender.send(window).is_ok())
    });
    let mut asking = Asking::new();
    let mut told = Instant::now();
    let mut arrives = true;
    loop {
        let due = match arrives {
            true => asking.next_due(&mut store)?,
            false => asking.next(&mut store)?,
        };
        match due {
            Some(window) => {
                store.place_window(&mut content, &window)?;
                counts.logical_bytes += window.length();
                reader.give_back(window.bytes);
            }
            None if !arrives => break,
            None => match receiver.recv_timeout(PROGRESS_INTERVAL) {
                Ok(window) => asking.take(window, &mut store)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => arrives = false,
            },
        }
        if told.elapsed() >= PROGRESS_INTERVAL {
            store.progress(&counts_of(&store, counts))?;
            told = Instant::now();
        }
    }
    match scout.join() {
        Ok(read) => read.map_err(|errno| Error::io("read", "-", errno))?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    counts.files = 1;
    let (size, digest, content) = store.end_file(content)?;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let mut owners = Owners::default();
    let (user, group) = (owners.name(Owner::User(uid), &mut store)?, owners.name(Owner::Group(gid), &mut store)?);
    let owned = Entry { uid, gid, user, group, mtime_ns, ..Entry::default() };
    let file = Entry { name: name.to_vec(), mode: mode & 0o7777, size, digest, content, ..owned.clone() };
    let mut builder = DirectoryBuilder::new(space.keys(), OldPages::none());
    builder.push(file, &mut store)?;
    let page = builder.finish(&mut store)?;
    let content = Content::Directory(page);
    let root = Entry { kind: EntryKind::Directory, mode: 0o755, content, ..owned };
    store.progress(&counts_of(&store, counts))?;
    let stats = counts_of(&store, counts);
    finished(space, &store, &root, stats)
}

/// The counts with what the store knows better.
fn counts_of(store: &Store<'_>, counts: Progress) -> Progress {
    Progress {
        new_bytes: store.new_bytes,
        known_bytes: store.known_bytes,
        asked_known_bytes: store.asked_known_bytes,
        page_bytes: store.page_bytes,
        ..counts
    }
}

fn reader(space: &Space) -> Reader {
    Reader::new(space.keys(), Profile::new(&space.keys().cut, *space.params()))
}

fn attempt(
    space: &Arc<Space>,
    sources: &[Source],
    options: &Options,
    before: Before<'_>,
    store: &mut Store<'_>,
) -> Result<Ingested> {
    let volume = space.data_path(1);
    let volume = volume.parent().and_then(std::path::Path::parent).unwrap_or(&volume);
    let clean = Clean::new(options.clean_before_ns, options.clean_device);
    let mut walk = Walk::new(sources, &options.selection, before.cache, &space.keys().link, clean, volume)?;
    let reader = reader(space);
    let next = options.next.as_deref().filter(|_| !options.dry_run);
    let mut problems = Vec::new();
    let mut settle = Settle::new(space, store, &reader, before, next, clean, &mut problems);
    let (sender, receiver) = sync_channel(1);
    std::thread::scope(|scope| {
        let scout = scope.spawn(|| scout(&mut walk, &reader, sender));
        let settled = settle_all(&mut settle, &reader, receiver);
        let scouted = match scout.join() {
            Ok(scouted) => scouted,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // If settling failed the scout only stopped; if the scout failed there was nothing more to settle.
        settled.and(scouted)
    })?;
    settle.tell()?;
    let stats = settle.progress();
    let Some(Settled { root, cache_written }) = settle.finish() else {
        return Err(Error::Invalid("the walk ended before its root did".into()));
    };
    // The same tree without its old pages: if it came to rest elsewhere, something in the old place is damaged.
    let is_elsewhere = |old: PageRef| root.page().is_some_and(|page| page.address != old.address);
    let repaired = before.page.is_none() && options.previous.is_some_and(is_elsewhere);
    let made = finished(space, store, &root, stats)?;
    Ok(Ingested { problems, cache_written, repaired, pages: store.take_pages(), ..made })
}

fn finished(space: &Space, store: &Store<'_>, root: &Entry, stats: Progress) -> Result<Ingested> {
    let EncodedPage { bytes, digest } = page::encode_root(root, space.keys())?;
    Ok(Ingested {
        root: bytes,
        root_digest: digest,
        lease: store.lease(),
        stats,
        problems: Vec::new(),
        cache_written: false,
        repaired: false,
        pages: KeptPages::default(),
    })
}

/// The first side: walks, reads, scans. Stops without a word when nobody listens any more.
fn scout(walk: &mut Walk<'_>, reader: &Reader, sender: SyncSender<Message>) -> Result<()> {
    loop {
        let mut batch = Batch::default();
        let more = walk.next(&mut batch)?;
        let large = match batch.events.last() {
            Some(Event::Large { index }) => batch.work.get(*index as usize).cloned(),
            _ => None,
        };
        let large = large.map(|work| (batch.c_str(work.at).to_owned(), work));
        let groups = reader.read_batch(&batch);
        let outcomes = groups.iter().flat_map(|group| &group.files);
        batch.close_directories(outcomes.map(|outcome| matches!(outcome, Outcome::Grown)));
        if sender.send(Message::Batch(batch, groups)).is_err() {
            return Ok(());
        }
        if let Some((at, work)) = large
            && !scout_large(reader, &at, &work, &sender)
        {
            return Ok(());
        }
        if !more {
            return Ok(());
        }
    }
}

/// Reads one large file, again if it changed meanwhile. `false`: nobody listens.
fn scout_large(reader: &Reader, at: &CStr, work: &Work, sender: &SyncSender<Message>) -> bool {
    for last_attempt in attempts() {
        let mut take = |window| sender.send(Message::Window(window)).is_ok();
        let Some(end) = reader.read_large(at, work, last_attempt, &mut take) else { return false };
        let again = matches!(end, End::Again);
        if sender.send(Message::End(end)).is_err() {
            return false;
        }
        if !again {
            break;
        }
    }
    true
}

/// The other side: asks about what arrives, stores it, and tells the host.
fn settle_all(settle: &mut Settle<'_, '_, '_>, reader: &Reader, receiver: Receiver<Message>) -> Result<()> {
    let mut asking = Asking::new();
    let mut told = Instant::now();
    let mut arrives = true;
    loop {
        let due = match arrives {
            true => asking.next_due(settle.store())?,
            false => asking.next(settle.store())?,
        };
        match due {
            Some(message) => settle_one(settle, reader, message)?,
            None if !arrives => return Ok(()),
            None => match receiver.recv_timeout(PROGRESS_INTERVAL) {
                Ok(message) => asking.take(message, settle.store())?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => arrives = false,
            },
        }
        if told.elapsed() >= PROGRESS_INTERVAL {
            settle.tell()?;
            told = Instant::now();
        }
    }
}

fn settle_one(settle: &mut Settle<'_, '_, '_>, reader: &Reader, message: Message) -> Result<()> {
    match message {
        Message::Batch(batch, groups) => {
            settle.batch(&batch, &groups)?;
            groups.into_iter().for_each(|group| reader.give_back(group.bytes));
        }
        Message::Window(window) => {
            settle.window(&window)?;
            reader.give_back(window.bytes);
        }
        Message::End(end) => settle.end_large(&end)?,
    }
    Ok(())
}

/// Whether the root that the stat cache names is in this volume: then so is all beneath it, because they were
/// committed together. A volume restored from a backup may be older than its stat cache.
fn names_stored_pages(space: &Space, cache: &StatCache) -> bool {
    use crate::tree::PageSource;
    cache.directory(cache.root()).is_some_and(|root| space.page(&root.record.page).is_ok())
}
