//! Reads files and cuts them into chunks with their digests, in threads; looks nothing up and stores nothing.
//!
//! Bytes are read into private memory, never mapped: a source that changes or shrinks under us can then neither fault
//! nor tear a digest, because digests are of the very bytes that will be stored (ADR 0005). Whether those bytes were
//! the file at one instant is told by its stat before and after.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, CWD, FileType, Mode, OFlags, SeekFrom, fadvise, openat, seek};
use rustix::io::{Errno, pread, read, retry_on_intr};

use crate::chunker::Profile;
use crate::ingest::ProblemKind;
use crate::keys::Keys;
use crate::scan::{Chunk, scan, scan_wide};
use crate::stat_cache::Stat;
use crate::walk::{Batch, SMALL_FILE_BYTES, Work, problem_kind, stat_fd};
use crate::xattr::{self, Holder, Xattrs};

/// A file that changed while it was read is read so often before that is reported.
const ATTEMPTS: u32 = 3;
/// Large files are read in windows of this size: both cores have work, and three of them fit the memory budget.
pub const WINDOW_BYTES: usize = 4 << 20;
/// A small file that turns out to be longer than this is read again as a large one.
const GROWN_BYTES_MAX: usize = (SMALL_FILE_BYTES as usize) * 2;
/// Files of a batch are shared out in groups of at most this many files or about this many bytes.
const GROUP_FILES: usize = 32;
const GROUP_BYTES: u64 = 512 << 10;
/// A window shorter than this is scanned by one core.
const WIDE_BYTES_MIN: usize = 1 << 20;
/// Stretches of a sparse file up to this length travel several in a window, longer ones by themselves.
const JOINED_BYTES_MAX: u64 = WINDOW_BYTES as u64;
/// Extended attributes of a group's files. A file with more than is left is read by whoever settles it: all groups of
/// three batches are in memory.
const GROUP_ATTRIBUTE_BYTES: usize = 128 << 10;
/// Buffers kept for use again.
const POOL_BUFFERS: usize = 32;
/// A buffer larger than this is not kept: one big window must not stay for ever.
const POOL_BUFFER_BYTES: usize = 8 << 20;

/// Some files of a batch, read.
#[derive(Default)]
pub struct Group {
    /// Their bytes, one after the other.
    pub bytes: Vec<u8>,
    /// Their chunks; ends count from the file's first byte.
    pub chunks: Vec<Chunk>,
    /// What became of each.
    pub files: Vec<Outcome>,
    attribute_bytes: usize,
}

impl Group {
    /// What it holds in memory.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len() + self.attribute_bytes
    }
}

/// What became of a file.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was read.
    Read {
        /// Its bytes in the group.
        bytes: Range<usize>,
        /// Its chunks in the group.
        chunks: Range<usize>,
        /// Its stat after the reading.
        stat: Stat,
        /// Whether that was its stat before the reading too.
        consistent: bool,
        /// Its extended attributes, or why they could not be read.
        xattrs: rustix::io::Result<Xattrs>,
    },
    /// It is not small any more, or has holes, or many attributes: whoever settles it reads it in windows.
    Grown,
    /// It could not be read.
    Failed {
        /// Why.
        kind: ProblemKind,
        /// The system's error number or 0.
        errno: i32,
    },
}

impl Outcome {
    fn failed(errno: Errno) -> Outcome {
        Outcome::Failed { kind: problem_kind(errno), errno: errno.raw_os_error() }
    }
}

/// A stretch of a large file that consists of whole chunks.
#[derive(Default)]
pub struct Window {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its chunks; ends count from the window's first byte.
    pub chunks: Vec<Chunk>,
    /// Where in the bytes holes lie, ascending.
    pub holes: Vec<Hole>,
}

/// A hole in a file: it lies before `bytes[at]` of its window, and at the end of a chunk if there is one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Bytes of the window before it.
    pub at: usize,
    /// How long it is.
    pub length: u64,
}

impl Window {
    /// How much of the file it is.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64 + self.holes.iter().map(|hole| hole.length).sum::<u64>()
    }
}

/// How the reading of a large file ended.
pub enum End {
    /// All of it was sent.
    Read {
        /// Its stat after the reading.
        stat: Stat,
        /// Whether that was its stat before the reading too.
        consistent: bool,
        /// Its extended attributes, or why they could not be read.
        xattrs: rustix::io::Result<Xattrs>,
    },
    /// It changed: what was sent counts for nothing, and it follows again.
    Again,
    /// It could not be read.
    Failed {
        /// Why.
        kind: ProblemKind,
        /// The system's error number or 0.
        errno: i32,
    },
}

/// Reads and scans; shared by the threads that do so.
pub struct Reader {
    profile: Profile,
    digest_key: [u8; 32],
    pool: Mutex<Vec<Vec<u8>>>,
    /// Threads of its own, begun when they are first needed: after a fork nothing is left of rayon's global ones, and who
    /// waits for them waits for ever. `None`: the system gives no threads.
    threads: OnceLock<Option<ThreadPool>>,
}

impl Reader {
    /// A reader for a volume.
    pub fn new(keys: &Keys, profile: Profile) -> Reader {
        Reader { profile, digest_key: keys.digest, pool: Mutex::default(), threads: OnceLock::new() }
    }

    /// Takes a buffer back for use again.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < POOL_BUFFERS && buffer.capacity() <= POOL_BUFFER_BYTES {
            pool.push(buffer);
        }
    }

    /// Does `wide` in the threads, or `narrow` here if there are none.
    fn on_all_cores<T: Send>(&self, wide: impl FnOnce() -> T + Send, narrow: impl FnOnce() -> T) -> T {
        match self.threads.get_or_init(|| ThreadPoolBuilder::new().build().ok()) {
            Some(threads) => threads.install(wide),
            None => narrow(),
        }
    }

    fn buffer(&self) -> Vec<u8> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Reads the small files of a batch; the groups' files together are in the order of its work.
    pub fn read_batch(&self, batch: &Batch) -> Vec<Group> {
        let groups = share_out(&batch.work);
        match &groups[..] {
            [] => Vec::new(),
            [one] => vec![self.read_group(batch, one.clone())],
            several => {
                let read = |group: &Range<usize>| self.read_group(batch, group.clone());
                self.on_all_cores(|| several.par_iter().map(read).collect(), || several.iter().map(read).collect())
            }
        }
    }

    fn read_group(&self, batch: &Batch, files: Range<usize>) -> Group {
        let work = &batch.work[files];
        let expected: u64 = work.iter().map(|work| work.stat.size).sum();
        let mut group = Group { bytes: self.buffer(), ..Group::default() };
        group.bytes.reserve(expected as usize + 1);
        for work in work {
            let outcome = self.read_small(batch, work, &mut group);
            group.files.push(outcome);
        }
        group
    }

    fn read_small(&self, batch: &Batch, work: &Work, group: &mut Group) -> Outcome {
        let first = group.bytes.len();
        let mut before = work.stat;
        let mut attempt = 1;
        let (stat, consistent, xattrs) = loop {
            group.bytes.truncate(first);
            let opened = open(batch.c_str(work.at), work).and_then(|fd| {
                if attempt > 1 {
                    before = stat_fd(fd.as_fd())?;
                }
                if before.may_have_holes() && has_holes(fd.as_fd(), before.size)? {
                    return Ok((stat_fd(fd.as_fd())?, false, Ok(Xattrs::new())));
                }
                let ended = read_whole(fd.as_fd(), before.size, &mut group.bytes)?;
                let xattrs = xattr::read(&Holder::Open(fd.as_fd()));
                let few = xattrs.as_ref().map_or(0, xattr::bytes) <= GROUP_ATTRIBUTE_BYTES - group.attribute_bytes;
                Ok((stat_fd(fd.as_fd())?, ended && few, xattrs))
            });
            let read = (group.bytes.len() - first) as u64;
            match opened {
                Ok((after, ..)) if !is_file(&after) => {
                    group.bytes.truncate(first);
                    return Outcome::failed(Errno::NOENT);
                }
                Ok((_, false, _)) => {
                    group.bytes.truncate(first);
                    return Outcome::Grown;
                }
                Ok((after, _, xattrs)) if is_whole(&before, &after, read) => break (after, true, xattrs),
                Ok((after, _, xattrs)) if attempt == ATTEMPTS => break (after, false, xattrs),
                Ok(_) => attempt += 1,
                Err(errno) => {
                    group.bytes.truncate(first);
                    return Outcome::failed(errno);
                }
            }
        };
        let first_chunk = group.chunks.len();
        scan(&group.bytes[first..], &self.profile, &self.digest_key, true, &mut group.chunks);
        let (bytes, chunks) = (first..group.bytes.len(), first_chunk..group.chunks.len());
        group.attribute_bytes += xattrs.as_ref().map_or(0, xattr::bytes);
        Outcome::Read { bytes, chunks, stat, consistent, xattrs }
    }

    /// Reads a large file and hands its windows to `take`, which answers whether to go on. `None`: it did not.
    pub fn read_large(
        &self,
        at: &CStr,
        work: &Work,
        last_attempt: bool,
        take: &mut dyn FnMut(Window) -> bool,
    ) -> Option<End> {
        let failed = |errno: Errno| Some(End::Failed { kind: problem_kind(errno), errno: errno.raw_os_error() });
        let fd = match open(at, work) {
            Ok(fd) => fd,
            Err(errno) => return failed(errno),
        };
        // Advice: no file system has to take it.
        let _ = fadvise(&fd, 0, None, Advice::Sequential);
        let before = match stat_fd(fd.as_fd()) {
            Ok(stat) => stat,
            Err(errno) => return failed(errno),
        };
        if !is_file(&before) {
            return failed(Errno::NOENT);
        }
        // A file that grows as fast as it is read ends somewhere all the same. One byte more shows that it has grown,
        // and files of the kernel's own have bytes and a size of 0.
        let limit = if before.size == 0 { u64::MAX } else { before.size.saturating_add(1) };
        let mut read = 0;
        let mut count = |window: Window| {
            read += window.length();
            take(window)
        };
        let done = match before.may_have_holes() {
            true => self.read_sparse(fd.as_fd(), before.size, &mut count),
            false => self.read_windows(fd.as_fd(), limit, &mut count),
        };
        match done {
            Ok(true) => {}
            Ok(false) => return None,
            Err(errno) => return failed(errno),
        }
        let xattrs = xattr::read(&Holder::Open(fd.as_fd()));
        match stat_fd(fd.as_fd()) {
            Ok(after) if is_whole(&before, &after, read) => Some(End::Read { stat: after, consistent: true, xattrs }),
            Ok(after) if last_attempt => Some(End::Read { stat: after, consistent: false, xattrs }),
            Ok(_) => Some(End::Again),
            Err(errno) => failed(errno),
        }
    }

    /// Reads what `fd` has of `size` bytes and passes over its holes. `false`: `take` did not go on.
    ///
    /// A file that changes meanwhile gives a mixture of both, as any reading does; its stat tells afterwards.
    fn read_sparse(
        &self,
        fd: BorrowedFd<'_>,
        size: u64,
        take: &mut dyn FnMut(Window) -> bool,
    ) -> rustix::io::Result<bool> {
        let mut window = Window { bytes: self.buffer(), ..Window::default() };
        let mut offset = 0;
        while offset < size {
            let data = next_data(fd, offset, size)?;
            if data > offset {
                window.holes.push(Hole { at: window.bytes.len(), length: data - offset });
            }
            if data == size {
                break;
            }
            let end = seek(fd, SeekFrom::Hole(data))?.min(size);
            let joins = end - data <= JOINED_BYTES_MAX;
            if !joins || window.bytes.len() as u64 + (end - data) > JOINED_BYTES_MAX {
                let next = Window { bytes: self.buffer(), ..Window::default() };
                if !take(std::mem::replace(&mut window, next)) {
                    return Ok(false);
                }
            }
            if joins {
                self.join(fd, data..end, &mut window)?;
            } else {
                seek(fd, SeekFrom::Start(data))?;
                if !self.read_windows(fd, end - data, take)? {
                    return Ok(false);
                }
            }
            offset = end;
        }
        let is_empty = window.bytes.is_empty() && window.holes.is_empty();
        Ok(is_empty || take(window))
    }

    /// Reads a stretch between two holes into a window that may have others.
    fn join(&self, fd: BorrowedFd<'_>, stretch: Range<u64>, window: &mut Window) -> rustix::io::Result<()> {
        let start = window.bytes.len();
        let mut end = start;
        window.bytes.resize(start + (stretch.end - stretch.start) as usize, 0);
        while end < window.bytes.len() {
            let at = stretch.start + (end - start) as u64;
            match retry_on_intr(|| pread(fd, &mut window.bytes[end..], at))? {
                0 => break, // it became shorter
                got => end += got,
            }
        }
        window.bytes.truncate(end);
        let chunks = self.scan_window(&window.bytes[start..], true);
        window.chunks.extend(chunks.iter().map(|chunk| Chunk { end: chunk.end + start as u32, ..*chunk }));
        Ok(())
    }

    /// Reads from `fd` to its end, or up to `limit` bytes, and hands windows to `take`. `false`: it did not go on.
    pub fn read_windows(
        &self,
        fd: BorrowedFd<'_>,
        limit: u64,
        take: &mut dyn FnMut(Window) -> bool,
    ) -> rustix::io::Result<bool> {
        let (mut left, mut ended) = (limit, false);
        let mut bytes = self.buffer();
        while !ended {
            let full = bytes.len() + WINDOW_BYTES;
            while bytes.len() < full && !ended {
                bytes.reserve_exact(full - bytes.len());
                let got = retry_on_intr(|| read(fd, spare_capacity(&mut bytes)))? as u64;
                bytes.truncate(bytes.len() - got.saturating_sub(left) as usize);
                ended = got == 0 || got >= left;
                left = left.saturating_sub(got);
            }
            let chunks = self.scan_window(&bytes, ended);
            let whole = chunks.last().map_or(0, |chunk| chunk.end as usize);
            if whole == 0 {
                continue;
            }
            let mut next = self.buffer();
            next.extend_from_slice(&bytes[whole..]);
            bytes.truncate(whole);
            if !take(Window { bytes: std::mem::replace(&mut bytes, next), chunks, holes: Vec::new() }) {
                return Ok(false);
            }
        }
        self.give_back(bytes);
        Ok(true)
    }

    fn scan_window(&self, bytes: &[u8], last: bool) -> Vec<Chunk> {
        let scan_with = |scan: ScanFunction| {
            let mut found = Vec::new();
            scan(bytes, &self.profile, &self.digest_key, last, &mut found);
            found
        };
        match bytes.len() {
            ..WIDE_BYTES_MIN => scan_with(scan),
            _ => self.on_all_cores(|| scan_with(scan_wide), || scan_with(scan)),
        }
    }
}

type ScanFunction = fn(&[u8], &Profile, &[u8; 32], bool, &mut Vec<Chunk>);

/// How often a changing file is read.
pub fn attempts() -> impl Iterator<Item = bool> {
    (1..=ATTEMPTS).map(|attempt| attempt == ATTEMPTS)
}

fn share_out(work: &[Work]) -> Vec<Range<usize>> {
    let small = |work: &Work| work.stat.size <= SMALL_FILE_BYTES;
    // A large file is the last of its batch and read by itself.
    let count = if work.last().is_some_and(|last| !small(last)) { work.len() - 1 } else { work.len() };
    let (mut groups, mut first, mut bytes) = (Vec::new(), 0, 0);
    for (index, work) in work[..count].iter().enumerate() {
        bytes += work.stat.size;
        if index + 1 - first >= GROUP_FILES || bytes >= GROUP_BYTES || index + 1 == count {
            groups.push(first..index + 1);
            (first, bytes) = (index + 1, 0);
        }
    }
    groups
}

fn open(at: &CStr, work: &Work) -> rustix::io::Result<OwnedFd> {
    let directory = work.directory.as_ref().map_or(CWD, |fd| fd.as_fd());
    // NONBLOCK: what was a file when it was listed may be a fifo by now, and opening that would wait for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(directory, at, flags, Mode::empty())
}

/// Where data begins at or after `offset`, or `size` if none does.
fn next_data(fd: BorrowedFd<'_>, offset: u64, size: u64) -> rustix::io::Result<u64> {
    match seek(fd, SeekFrom::Data(offset)) {
        Ok(data) => Ok(data.min(size)),
        Err(Errno::NXIO) => Ok(size),
        // A file system that cannot tell has no holes to tell of.
        Err(Errno::INVAL) => Ok(offset),
        Err(errno) => Err(errno),
    }
}

/// Whether a file of `size` bytes has a hole, and back to its beginning.
fn has_holes(fd: BorrowedFd<'_>, size: u64) -> rustix::io::Result<bool> {
    let hole = match seek(fd, SeekFrom::Hole(0)) {
        Err(Errno::INVAL | Errno::NXIO) => size,
        answer => answer?,
    };
    seek(fd, SeekFrom::Start(0))?;
    Ok(hole < size)
}

/// Whether it still is what the walk found; a name can be given to anything else meanwhile.
fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.mode.into()) == FileType::RegularFile
}

/// Whether `read` bytes are the file as it was both before and after. Files of the kernel's own have bytes and a size
/// of 0; any other that ends before its size was not read whole, whatever its times say.
fn is_whole(before: &Stat, after: &Stat, read: u64) -> bool {
    after.same(before) && (read == after.size || after.size == 0)
}

/// Appends what `fd` holds, about `expected` bytes; false if it holds more than a small file does.
fn read_whole(fd: BorrowedFd<'_>, expected: u64, bytes: &mut Vec<u8>) -> rustix::io::Result<bool> {
    let first = bytes.len();
    // One byte more than expected: an answer of just that length then shows the end without a second call.
    bytes.reserve(expected.min(GROWN_BYTES_MAX as u64) as usize + 1);
    while bytes.len() - first <= GROWN_BYTES_MAX {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(64 << 10);
        }
        let asked = bytes.capacity() - bytes.len();
        let got = retry_on_intr(|| read(fd, spare_capacity(bytes)))?;
        // Any other short answer is no end: a server gives what it has, and a disk what lies before a bad block.
        let complete = got < asked && expected > 0 && (bytes.len() - first) as u64 == expected;
        if got == 0 || complete {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_short_answer_is_no_end() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        // A pipe of packets: each read answers one of them, however much it asks for.
        rustix::fs::fcntl_setfl(&writer, OFlags::DIRECT).unwrap();
        writer.write_all(b"before the bad block, ").unwrap();
        writer.write_all(b"and after it").unwrap();
        drop(writer);
        let mut bytes = b"given ".to_vec();

        assert!(read_whole(reader.as_fd(), 100, &mut bytes).unwrap());

        assert_eq!(bytes, b"given before the bad block, and after it");
    }

    #[test]
    fn what_ends_before_its_size_was_not_read_whole() {
        let stat = |size, mtime_ns| Stat { size, mtime_ns, ..Stat::default() };

        assert!(is_whole(&stat(10, 1), &stat(10, 1), 10));
        assert!(!is_whole(&stat(10, 1), &stat(10, 1), 9));
        assert!(!is_whole(&stat(10, 1), &stat(10, 1), 11));
        assert!(!is_whole(&stat(10, 1), &stat(10, 2), 10));
        assert!(is_whole(&stat(0, 1), &stat(0, 1), 120), "a file of the kernel's own");
    }
}
