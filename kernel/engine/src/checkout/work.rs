//! Files written by several threads at once: many small ones, or the pieces of a large one.
//!
//! It knows nothing of names that a user sees: a job says in which open directory a file is made
//! and under which name, and when the pool is idle every job given to it is done or the first failure known.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{self, Gid, Mode, Uid};

use super::Missed;
use super::act::{Home, NOBODY};
use super::plan::Attributes;
use crate::beneath::{Name, times};
use crate::fault::{self, Step};
use crate::gather::{self, PIECE_BYTES, Piece, Pieces, Source};
use crate::map::watch;
use crate::page::Entry;
use crate::xattr::{self, Holder};
use crate::{Error, Result};

/// Jobs that travel together: at 20 us a small file, the lock is taken every half millisecond.
const BATCH_JOBS: usize = 32;
/// Bytes that travel together.
const BATCH_BYTES: u64 = PIECE_BYTES;
/// Batches that wait; beyond it, who brings more works itself. Bounds the memory: 64 MiB of mapped bytes.
const WAITING_MAX: usize = 8;

/// A file to be made.
pub struct FileJob {
    /// Where.
    pub home: Arc<Home>,
    /// Under which name.
    pub name: Vec<u8>,
    /// Already open, if it was made before.
    pub file: Option<OwnedFd>,
    /// What is to be in it.
    pub entry: Entry,
    /// Its mode, owner and time.
    pub attributes: Attributes,
    /// Its path in the target, for messages.
    pub path: Vec<u8>,
}

/// A large file that several threads fill.
pub struct Large {
    job: FileJob,
    file: OwnedFd,
    /// Pieces not yet written, and one for the planner while it makes more.
    left: AtomicUsize,
    /// Where the last piece so far ends; what the entry has beyond it is a hole.
    end: AtomicU64,
}

enum Job {
    Whole(Box<FileJob>),
    Piece(Arc<Large>, Piece),
}

/// Threads that write files, and the queue between them and the planner.
pub struct Pool<'s, S> {
    source: &'s S,
    /// What a new file's mode loses: the umask, or what a default ACL takes away.
    mask: AtomicU32,
    state: Mutex<State>,
    changed: Condvar,
    bytes: AtomicU64,
    /// Files that did not get all their extended attributes.
    missed: Mutex<Missed>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<Job>>,
    running: usize,
    failure: Option<Error>,
    closed: bool,
}

/// The planner's end of the pool: collects jobs into batches.
pub struct Feeder<'p, 's, S> {
    pool: &'p Pool<'s, S>,
    batch: Vec<Job>,
    batch_bytes: u64,
}

/// A batch being done. When it is dropped, the pool knows how it went.
struct Running<'p, 's, S> {
    pool: &'p Pool<'s, S>,
    answer: Result<()>,
}

impl<S> Drop for Running<'_, '_, S> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running -= 1;
        if let Err(error) = std::mem::replace(&mut self.answer, Ok(())) {
            state.failure.get_or_insert(error);
            state.waiting.clear();
        }
        if state.running == 0 || state.failure.is_some() {
            self.pool.changed.notify_all();
        }
    }
}

impl<'s, S: Source> Pool<'s, S> {
    /// A pool without threads.
    pub fn new(source: &'s S) -> Self {
        // Until it is known that less is taken: all.
        let mask = AtomicU32::new(0o777);
        Pool {
            source,
            mask,
            state: Mutex::default(),
            changed: Condvar::new(),
            bytes: AtomicU64::new(0),
            missed: Mutex::default(),
        }
    }

    /// What creation takes from a mode.
    pub fn set_mask(&self, mask: u32) {
        self.mask.store(mask, Ordering::Release);
    }

    /// Bytes of content written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Files that did not get all their extended attributes, so far.
    pub fn missed(&self) -> Missed {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does jobs until the pool is closed: the body of a thread.
    pub fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(batch) = state.waiting.pop_front() {
                state = self.run(state, batch);
            } else if state.closed {
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Lets the threads go when they have done what waits; what waits after a failure is not done.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one batch outside the lock and notes how it went.
    fn run<'g>(&'g self, mut state: MutexGuard<'g, State>, batch: Vec<Job>) -> MutexGuard<'g, State> {
        state.running += 1;
        let failed = state.failure.is_some();
        drop(state);
        // Whatever happens in there, nobody waits for it in vain.
        let mut running = Running { pool: self, answer: Err(Error::Invalid("a thread that writes panicked".into())) };
        running.answer = if failed { Ok(()) } else { self.perform_all(batch) };
        drop(running);
        self.lock()
    }

    fn perform_all(&self, batch: Vec<Job>) -> Result<()> {
        watch()?;
        batch.into_iter().try_for_each(|job| self.perform(job))
    }

    fn perform(&self, job: Job) -> Result<()> {
        match job {
            Job::Whole(job) => self.write_whole(&job).map_err(|error| at(&job.path, error)),
            Job::Piece(large, piece) => {
                gather::write(self.source, &large.file, &piece).map_err(|error| at(&large.job.path, error))?;
                self.bytes.fetch_add(piece.bytes, Ordering::Relaxed);
                self.piece_done(&large)
            }
        }
    }

    fn write_whole(&self, job: &FileJob) -> Result<()> {
        let made;
        let file = match &job.file {
            Some(file) => file,
            None => {
                made = create(&job.home, &job.name, &job.entry, &job.attributes)?;
                &made
            }
        };
        let mut end = 0;
        for piece in Pieces::of(self.source, &job.entry) {
            let piece = piece?;
            gather::write(self.source, file, &piece)?;
            end = piece.offset + piece.bytes;
            self.bytes.fetch_add(piece.bytes, Ordering::Relaxed);
        }
        self.finish(file, job, end)
    }

    /// One part of a large file is done; the last one gives it its length, mode and time.
    fn piece_done(&self, large: &Large) -> Result<()> {
        if large.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let end = large.end.load(Ordering::Acquire);
        self.finish(&large.file, &large.job, end).map_err(|error| at(&large.job.path, error))
    }

    fn finish(&self, file: &OwnedFd, job: &FileJob, end: u64) -> Result<()> {
        let Attributes { mode, uid, gid, mtime_ns, .. } = job.attributes;
        // A hole at the end is length without bytes.
        if end < job.entry.size {
            fault::before(Step::Resize).map_err(|e| Error::io("set the length of", "", e))?;
            fs::ftruncate(file, job.entry.size).map_err(|e| Error::io("set the length of", "", e))?;
        }
        let chowned = job.attributes.gives_away(job.home.creator);
        if chowned {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            fs::fchown(file, uid, gid).map_err(|e| Error::io("set the owner of", "", e))?;
        }
        // On other mounts nobody knows what creation gave or took.
        let elsewhere = job.home.creator == NOBODY;
        // After the owner, because a change of owner takes capabilities and set-id bits away.
        if elsewhere || !job.entry.xattrs.is_empty() {
            let set = if elsewhere { xattr::replace } else { xattr::set };
            let all = set(&Holder::Open(file.as_fd()), &job.entry.xattrs);
            if !all.map_err(|e| Error::io("set the attributes of", "", e))? {
                self.missed.lock().unwrap_or_else(PoisonError::into_inner).add(&job.path);
            }
        }
        // Last, because a list of access rights changes the mode. Not needed where creation set it all.
        let plain = !chowned && !elsewhere && job.entry.xattrs.is_empty();
        if !plain || mode & (self.mask.load(Ordering::Acquire) | 0o7000) != 0 {
            fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(|e| Error::io("set the mode of", "", e))?;
        }
        fs::futimens(file, &times(mtime_ns)).map_err(|e| Error::io("set the time of", "", e))
    }
}

impl<'p, 's, S: Source> Feeder<'p, 's, S> {
    /// A feeder of `pool`; there is one.
    pub fn new(pool: &'p Pool<'s, S>) -> Self {
        Feeder { pool, batch: Vec::new(), batch_bytes: 0 }
    }

    /// Has a file written; `tick` is called for each piece of a large one. `Err` is the first failure of any job so far.
    pub fn add(&mut self, mut job: FileJob, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        if job.entry.size <= PIECE_BYTES {
            self.batch_bytes += job.entry.size;
            self.batch.push(Job::Whole(Box::new(job)));
            let full = self.batch.len() >= BATCH_JOBS || self.batch_bytes >= BATCH_BYTES;
            return if full { self.send() } else { Ok(()) };
        }
        self.send()?;
        let named = |path: &[u8], error| at(path, error);
        let file = match job.file.take() {
            Some(file) => file,
            None => create(&job.home, &job.name, &job.entry, &job.attributes).map_err(|e| named(&job.path, e))?,
        };
        let large = Arc::new(Large { job, file, left: AtomicUsize::new(1), end: AtomicU64::new(0) });
        for piece in Pieces::of(self.pool.source, &large.job.entry) {
            let piece = piece.map_err(|error| named(&large.job.path, error))?;
            large.left.fetch_add(1, Ordering::AcqRel);
            large.end.store(piece.offset + piece.bytes, Ordering::Release);
            self.batch.push(Job::Piece(Arc::clone(&large), piece));
            self.send()?;
            tick()?;
        }
        self.pool.piece_done(&large)
    }

    /// Hands over what has been collected, and helps if much is waiting.
    fn send(&mut self) -> Result<()> {
        self.batch_bytes = 0;
        let pool = self.pool;
        let mut state = pool.lock();
        if !self.batch.is_empty() {
            state.waiting.push_back(std::mem::take(&mut self.batch));
            pool.changed.notify_one();
        }
        while state.failure.is_none() && state.waiting.len() >= WAITING_MAX {
            match state.waiting.pop_front() {
                Some(batch) => state = pool.run(state, batch),
                None => break,
            }
        }
        match state.failure.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Forgets all jobs that nobody has begun, and waits for the others: then nothing is made any more.
    pub fn abandon(&mut self) {
        self.batch.clear();
        let mut state = self.pool.lock();
        state.waiting.clear();
        while state.running > 0 {
            state = self.pool.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all jobs are done, helping; `tick` is called ten times a second while it only waits.
    pub fn drain(&mut self, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.send()?;
        let pool = self.pool;
        loop {
            let mut state = pool.lock();
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            if let Some(batch) = state.waiting.pop_front() {
                drop(pool.run(state, batch));
            } else if state.running == 0 {
                return Ok(());
            } else {
                let waited = pool.changed.wait_timeout(state, Duration::from_millis(100));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                drop(state);
            }
            tick()?;
        }
    }
}

/// A new file for content. It has its final mode from the start, so that only who made it can reach it; one that gets
/// attributes is its owner's to write until it has them.
pub fn create(home: &Home, name: &[u8], entry: &Entry, attributes: &Attributes) -> Result<OwnedFd> {
    let mode = if entry.xattrs.is_empty() { attributes.mode & 0o777 } else { 0o600 };
    home.dir.create(Name::new(name)?, mode).map_err(|e| Error::io("create", "", e))
}

/// The error with the path of the file that it is about.
pub fn at(path: &[u8], error: Error) -> Error {
    use std::os::unix::ffi::OsStrExt;
    let shown = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
    match error {
        Error::Io { action, source, .. } => Error::Io { action, path: shown.to_path_buf(), source },
        Error::Damaged(what) => Error::Damaged(format!("{}: {what}", shown.display())),
        Error::Invalid(what) => Error::Invalid(format!("{}: {what}", shown.display())),
        Error::Refused(what) => Error::Refused(format!("{}: {what}", shown.display())),
        host => host,
    }
}
