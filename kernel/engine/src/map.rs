//! Segments as memory: mapped on demand, read-only, neighbours side by side, and safe to read
//! even when the disk below them fails. It never writes, grows or shrinks a file.
//!
//! A volume's segments are mapped into *arenas*, 64 GiB of reserved addresses each, at the place
//! that their number gives them, so that an extent is one range of memory. A mapping lives while a
//! [`Slice`] of it does; idle ones are kept up to a cap, because mapping afresh halves the speed of
//! reading (7 GB/s against 13).
//!
//! Reading a mapped page can fail with SIGBUS: a media error, or a file that somebody cut short.
//! A handler then puts a page of zeros under the reader, records the fault, and lets it go on;
//! [`guarded`] turns the record into an error, and a segment with a fault in it is not handed out
//! again before it has been mapped afresh.
#![allow(unsafe_code)] // mmap, and the signal handler that makes it safe to read what it maps

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{MapFlags, ProtFlags};

use crate::address::{OFFSET_BITS, SEGMENT_BYTES};
use crate::{Error, Result};

/// Bits of a segment's number inside its arena: 1,024 segments, 64 GiB of addresses.
const ARENA_BITS: u32 = 10;
const ARENA_SEGMENTS: usize = 1 << ARENA_BITS;
const ARENA_BYTES: usize = ARENA_SEGMENTS << OFFSET_BITS;
/// Mappings kept although nobody reads them: 16 GiB, whose page tables cost at most 32 MiB.
const IDLE_MAPPINGS_MAX: usize = 256;

/// The mapped segments of one volume.
pub struct Map {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    arenas: HashMap<u64, Arc<Region>>,
    segments: HashMap<u64, Held>,
    clock: u64,
}

/// A mapped segment as the table knows it.
struct Held {
    mapping: Arc<Mapping>,
    /// How long the file was when last looked at; it only grows.
    length: u64,
    identity: (u64, u64),
    used: u64,
}

impl Map {
    /// A map with nothing in it; the first slice reserves the first arena.
    pub fn new() -> Self {
        Map { table: Mutex::default() }
    }

    /// The bytes `offset..offset + length` of a segment. `file` opens it and is called only when it
    /// is not mapped yet or was shorter when last looked at; it must not use this map.
    ///
    /// `Damaged` when the file is shorter than that, was replaced, or has a page that cannot be read.
    /// The range must be committed: nobody changes it any more.
    pub fn slice(&self, segment: u64, file: impl FnOnce() -> Result<File>, offset: u32, length: u32) -> Result<Slice> {
        let end = u64::from(offset) + u64::from(length);
        if end > SEGMENT_BYTES {
            return Err(Error::Invalid(format!("{length} bytes at {offset} do not lie in one segment")));
        }
        let mut table = lock(&self.table);
        table.clock += 1;
        let now = table.clock;
        table.drop_faulted(segment)?;
        let known = table.segments.get(&segment).map_or(0, |held| held.length);
        if !table.segments.contains_key(&segment) || known < end {
            table.look(segment, &file()?, now)?;
        }
        let Some(held) = table.segments.get_mut(&segment) else {
            return Err(Error::Damaged(format!("segment {segment} is not mapped")));
        };
        held.used = now;
        if held.length < end {
            let found = held.length;
            return Err(Error::Damaged(format!("segment {segment} holds {found} bytes where {end} are committed")));
        }
        let mapping = Arc::clone(&held.mapping);
        // The offset is inside the mapping, which is a whole segment long.
        let start = mapping.start.wrapping_add(offset as usize) as *const u8;
        Ok(Slice { start, length: length as usize, keep: Keep::Mapping(mapping) })
    }
}

impl Default for Map {
    fn default() -> Self {
        Map::new()
    }
}

impl Table {
    /// Forgets the mapping of a segment in which a page could not be read, so that it is mapped afresh.
    fn drop_faulted(&mut self, segment: u64) -> Result<()> {
        if FAULTS.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let Some(held) = self.segments.get(&segment) else { return Ok(()) };
        if !held.mapping.faulted() {
            return Ok(());
        }
        if Arc::strong_count(&held.mapping) > 1 {
            return Err(Error::Damaged(format!("segment {segment} has a page that cannot be read")));
        }
        self.segments.remove(&segment);
        Ok(())
    }

    /// Maps the segment if it is not, and notes how long its file is now.
    fn look(&mut self, segment: u64, file: &File, now: u64) -> Result<()> {
        let stat = rustix::fs::fstat(file).map_err(|e| Error::io("look at", format!("segment {segment}"), e))?;
        let identity = (stat.st_dev, stat.st_ino);
        let length = stat.st_size.max(0).cast_unsigned();
        if let Some(held) = self.segments.get_mut(&segment) {
            if held.identity != identity {
                return Err(Error::Damaged(format!("segment {segment} was replaced by another file")));
            }
            held.length = length;
            return Ok(());
        }
        self.evict();
        let number = segment >> ARENA_BITS;
        let arena = match self.arenas.get(&number) {
            Some(arena) => Arc::clone(arena),
            None => {
                let arena = Arc::new(Region::reserve()?);
                self.arenas.insert(number, Arc::clone(&arena));
                arena
            }
        };
        let mapping = Mapping::new(arena, (segment as usize) % ARENA_SEGMENTS, file)
            .map_err(|e| Error::io("map", format!("segment {segment}"), e))?;
        self.segments.insert(segment, Held { mapping: Arc::new(mapping), length, identity, used: now });
        Ok(())
    }

    /// Makes room for one more mapping. Those in use stay, whatever their number.
    fn evict(&mut self) {
        if self.segments.len() < IDLE_MAPPINGS_MAX {
            return;
        }
        let idle = |held: &Held| Arc::strong_count(&held.mapping) == 1;
        let mut candidates: Vec<(u64, u64)> =
            self.segments.iter().filter(|(_, held)| idle(held)).map(|(segment, held)| (held.used, *segment)).collect();
        candidates.sort_unstable();
        // An eighth at a time: the sort is then paid once in 32 mappings.
        for (_, segment) in candidates.into_iter().take(IDLE_MAPPINGS_MAX / 8) {
            self.segments.remove(&segment);
        }
    }
}

/// One segment mapped at its place in an arena.
struct Mapping {
    arena: Arc<Region>,
    place: usize,
    start: *mut u8,
}

// SAFETY: `start` points into the arena, which the mapping keeps alive; the memory is only ever read.
unsafe impl Send for Mapping {}
// SAFETY: as above; all methods take `&self` and only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(arena: Arc<Region>, place: usize, file: &File) -> io::Result<Mapping> {
        let start = arena.start.wrapping_add(place << OFFSET_BITS);
        // The whole segment, although the file may be shorter: what is appended later shows by itself,
        // and `Map::slice` hands out nothing beyond the file's end.
        // SAFETY: the range is one segment's place in an arena that this process reserved and keeps; nothing
        // else is mapped there, because a place is given to one `Mapping` at a time (the table's lock).
        unsafe {
            rustix::mm::mmap(
                start.cast(),
                SEGMENT_BYTES as usize,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::FIXED,
                file.as_fd(),
                0,
            )?;
        }
        Ok(Mapping { arena, place, start })
    }

    fn faulted(&self) -> bool {
        REGIONS[self.arena.entry].faulted(self.place)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's own place; no slice of it is left, for each holds the mapping.
        // If the system refuses, the file stays mapped until the place is used again: no harm but the memory.
        let _ = unsafe {
            rustix::mm::mmap_anonymous(
                self.start.cast(),
                SEGMENT_BYTES as usize,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
        };
        REGIONS[self.arena.entry].clear(self.place);
    }
}

/// Bytes of a volume, read-only. Cheap to clone; keeps what it shows mapped.
#[derive(Clone)]
pub struct Slice {
    start: *const u8,
    length: usize,
    keep: Keep,
}

/// What a slice keeps alive.
#[derive(Clone)]
enum Keep {
    Mapping(Arc<Mapping>),
    Bytes(#[expect(dead_code, reason = "held for its Drop")] Arc<Vec<u8>>),
}

// SAFETY: the bytes are only read, and what they lie in is kept alive by `keep`, which is Send and Sync.
unsafe impl Send for Slice {}
// SAFETY: as above.
unsafe impl Sync for Slice {}

impl Slice {
    /// A part of this slice; `None` if it is not within.
    pub fn part(&self, range: Range<usize>) -> Option<Slice> {
        let part = self.get(range)?;
        Some(Slice { start: part.as_ptr(), length: part.len(), keep: self.keep.clone() })
    }

    /// Whether zeros stand in its segment for a page that could not be read. Asked after bytes were verified and
    /// used, it tells whether what was used is what was verified.
    pub fn faulted(&self) -> bool {
        match &self.keep {
            Keep::Mapping(mapping) => mapping.faulted(),
            Keep::Bytes(_) => false,
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + length` lies in a live mapping or buffer that `keep` holds. The range is
        // committed, so no one of us writes to it; a page that cannot be read becomes zeros (see `bus_error`).
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Slice {
    /// Bytes that rest in memory, not in a segment.
    fn from(bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(bytes);
        Slice { start: bytes.as_ptr(), length: bytes.len(), keep: Keep::Bytes(bytes) }
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({} bytes)", self.length)
    }
}

/// A whole file mapped read-only, of the length that it had when it was mapped.
pub struct MappedFile {
    region: Option<Region>,
}

/// Maps all of `file`, which must not be changed while it is mapped. An empty file gives no bytes.
///
/// Faults are caught as for segments: zeros are read, and [`guarded`] and [`MappedFile::faulted`] say so.
pub fn map_file(file: &File) -> Result<MappedFile> {
    let named = |e| Error::io("map", "a file", e);
    let stat = rustix::fs::fstat(file).map_err(named)?;
    let length = usize::try_from(stat.st_size).unwrap_or(0);
    if length == 0 {
        return Ok(MappedFile { region: None });
    }
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let start = unsafe {
        rustix::mm::mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file.as_fd(), 0).map_err(named)?
    };
    Ok(MappedFile { region: Some(Region::register(start.cast(), length)?) })
}

impl MappedFile {
    /// Whether a page of it could not be read, so that zeros stand in its place.
    pub fn faulted(&self) -> bool {
        self.region.as_ref().is_some_and(|region| (0..ARENA_SEGMENTS).any(|place| REGIONS[region.entry].faulted(place)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.region {
            // SAFETY: the region is mapped readable for all its length until it is dropped.
            Some(region) => unsafe { std::slice::from_raw_parts(region.start, region.length) },
            None => &[],
        }
    }
}

/// A range of this process's addresses that is ours, and that the signal handler knows.
struct Region {
    start: *mut u8,
    length: usize,
    entry: usize,
}

// SAFETY: the pointer is to memory that the region owns and that is only ever read.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// An arena: addresses with nothing behind them.
    fn reserve() -> Result<Region> {
        // SAFETY: a fresh mapping at an address of the kernel's choice, without access.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                ARENA_BYTES,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|e| Error::io("reserve", "64 GiB of addresses (see ulimit -v)", e))?;
        Region::register(start.cast(), ARENA_BYTES)
    }

    /// Takes over a mapping, and tells the signal handler of it. Unmaps it if it cannot.
    fn register(start: *mut u8, length: usize) -> Result<Region> {
        let entry = install().and_then(|()| claim(start as usize, length));
        match entry {
            Ok(entry) => Ok(Region { start, length, entry }),
            Err(source) => {
                // SAFETY: the caller has just mapped exactly this range, and nothing points into it.
                let _ = unsafe { rustix::mm::munmap(start.cast(), length) };
                Err(Error::io("watch over", "mapped memory", source))
            }
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        release(self.entry);
        // SAFETY: the region owns the range; slices hold mappings, and mappings hold their region.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.length) };
    }
}

/// Runs `f`, which reads mapped memory, and fails with `Damaged` if this thread met a page that could not be read.
///
/// A page that another thread met before reads as zeros and tells nothing here: what is read must also be verified,
/// and what is used after it was verified must be asked for [`Slice::faulted`].
pub fn guarded<T>(f: impl FnOnce() -> T) -> Result<T> {
    watch()?;
    let before = FAULTS.load(Ordering::Acquire);
    let value = f();
    match met_since(before) {
        false => Ok(value),
        true => Err(Error::Damaged("stored bytes could not be read: a disk error, or a file was cut short".into())),
    }
}

/// Sees to it that faults are caught from now on, whoever has put a handler in front of ours.
pub fn watch() -> Result<()> {
    install().map_err(|e| Error::io("watch over", "mapped memory", e))
}

/// Whether this thread is among those that met a fault since there were `before`.
fn met_since(before: usize) -> bool {
    let now = FAULTS.load(Ordering::Acquire);
    if now == before {
        return false;
    }
    let this = rustix::thread::gettid().as_raw_nonzero().get();
    let known = now.wrapping_sub(before) <= FAULTS_KNOWN;
    !known || (before..now).any(|fault| FAULT_THREADS[fault % FAULTS_KNOWN].load(Ordering::Acquire) == this)
}

// ---- What the signal handler reads and writes: atomics in static memory, nothing else. ----

/// Regions that there can be at once: arenas, and files mapped whole. 5 MB of zeros, which take no memory before they
/// are used; the system itself maps no more than 65,530 by default.
const REGIONS_MAX: usize = 32 << 10;

/// One row of the handler's table. Free: `taken` is false. Matching: `start <= page < end`.
struct Row {
    taken: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    /// One bit for each 64 MiB in which a page of zeros stands for one that could not be read.
    faults: [AtomicU64; ARENA_SEGMENTS / 64],
}

impl Row {
    #[expect(clippy::declare_interior_mutable_const, reason = "copied into each row of a static table, never read")]
    const FREE: Row = Row {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        faults: [const { AtomicU64::new(0) }; ARENA_SEGMENTS / 64],
    };

    fn faulted(&self, place: usize) -> bool {
        self.faults[place / 64].load(Ordering::Acquire) & (1 << (place % 64)) != 0
    }

    fn clear(&self, place: usize) {
        self.faults[place / 64].fetch_and(!(1 << (place % 64)), Ordering::AcqRel);
    }

    /// Whether `page` is in this row's region. `end` is read on both sides of `start`, so that a row which
    /// is being given to another region matches neither.
    fn holds(&self, page: usize) -> bool {
        let end = self.end.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Acquire);
        page < end && page >= start && self.end.load(Ordering::Acquire) == end
    }
}

static REGIONS: [Row; REGIONS_MAX] = [Row::FREE; REGIONS_MAX];
/// Pages that could not be read since the process began.
static FAULTS: AtomicUsize = AtomicUsize::new(0);
/// Faults of which the thread is known; after more at once, everybody is told.
const FAULTS_KNOWN: usize = 256;
/// The threads that met the last faults.
static FAULT_THREADS: [AtomicI32; FAULTS_KNOWN] = [const { AtomicI32::new(0) }; FAULTS_KNOWN];
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
/// The disposition that was there before ours: handler address and flags.
static BEFORE_HANDLER: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static BEFORE_FLAGS: AtomicI32 = AtomicI32::new(0);
/// Whether a fault that was not ours has been passed on.
static PASSED_ON: AtomicBool = AtomicBool::new(false);
/// Serialises `install`; the handler does not take it.
static INSTALLING: Mutex<()> = Mutex::new(());

fn claim(start: usize, length: usize) -> io::Result<usize> {
    for (entry, row) in REGIONS.iter().enumerate() {
        if row.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            row.start.store(start, Ordering::Release);
            row.end.store(start + length, Ordering::Release);
            return Ok(entry);
        }
    }
    Err(io::Error::new(io::ErrorKind::OutOfMemory, "too many files are mapped at once"))
}

fn release(entry: usize) {
    let row = &REGIONS[entry];
    row.end.store(0, Ordering::Release);
    row.start.store(0, Ordering::Release);
    for bits in &row.faults {
        bits.store(0, Ordering::Release);
    }
    row.taken.store(false, Ordering::Release);
}

/// Puts our handler in front, unless it is there. Asked again on every use, because a library loaded later
/// (Python's faulthandler, for one) puts itself in front of us and would end the process.
fn install() -> io::Result<()> {
    let ours = bus_error as *const () as usize;
    let current = disposition(None)?;
    if current.sa_sigaction == ours {
        return Ok(());
    }
    let _one = lock(&INSTALLING);
    let current = disposition(None)?;
    if current.sa_sigaction == ours {
        return Ok(());
    }
    PAGE_BYTES.store(rustix::param::page_size(), Ordering::Release);
    BEFORE_FLAGS.store(current.sa_flags, Ordering::Release);
    BEFORE_HANDLER.store(current.sa_sigaction, Ordering::Release);
    let mut action = current;
    action.sa_sigaction = ours;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` came from the kernel, so its mask is initialised.
    unsafe { libc::sigemptyset(&raw mut action.sa_mask) };
    disposition(Some(&action)).map(|_| ())
}

/// The disposition of SIGBUS, and optionally another one in its place.
fn disposition(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    // SAFETY: all-zero is a valid `sigaction` (default handler, empty mask).
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values or null; a new handler is `bus_error`, which is signal-safe.
    let answer = unsafe { libc::sigaction(libc::SIGBUS, new.map_or(ptr::null(), ptr::from_ref), &raw mut old) };
    if answer == 0 { Ok(old) } else { Err(io::Error::last_os_error()) }
}

/// The handler. Only atomics and system calls: it may have interrupted anything, an allocation included.
extern "C" fn bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid `siginfo_t`.
    let code = unsafe { (*info).si_code };
    // An address comes only with a fault that the kernel saw (code > 0), not with a signal that was sent.
    if code > 0 {
        // SAFETY: as above, and SIGBUS raised by the kernel carries `si_addr`.
        let address = unsafe { (*info).si_addr() } as usize;
        if cover(address) {
            return;
        }
    }
    pass_on(signal, code, info, context);
}

/// If the address is in one of our regions: zeros under it, and a note that they are there.
fn cover(address: usize) -> bool {
    let page_bytes = PAGE_BYTES.load(Ordering::Acquire).max(4096);
    let page = address & !(page_bytes - 1);
    let Some(row) = REGIONS.iter().find(|row| row.holds(page)) else { return false };
    // Noted first: who sees the zeros must see the note.
    let place = ((page - row.start.load(Ordering::Acquire)) >> OFFSET_BITS).min(ARENA_SEGMENTS - 1);
    row.faults[place / 64].fetch_or(1 << (place % 64), Ordering::AcqRel);
    // `gettid` is a bare system call.
    let this = rustix::thread::gettid().as_raw_nonzero().get();
    FAULT_THREADS[FAULTS.fetch_add(1, Ordering::AcqRel) % FAULTS_KNOWN].store(this, Ordering::Release);
    // SAFETY: the page lies in a region of ours, where only this module maps, and nobody can read it anyway.
    // rustix calls the kernel directly: no errno is touched, nothing is allocated.
    let mapped = unsafe {
        rustix::mm::mmap_anonymous(
            page as *mut libc::c_void,
            page_bytes,
            ProtFlags::READ,
            MapFlags::PRIVATE | MapFlags::FIXED,
        )
    };
    mapped.is_ok()
}

/// Not our fault: what was to happen before we came happens.
fn pass_on(signal: libc::c_int, code: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let handler = BEFORE_HANDLER.load(Ordering::Acquire);
    let sent = code <= 0;
    // A handler that reports and then raises the signal again (faulthandler) may hold us as *its*
    // predecessor: the second time round, the default ends the process as it would have without us.
    let again = PASSED_ON.swap(true, Ordering::AcqRel) && sent;
    if again || handler == libc::SIG_DFL || (handler == libc::SIG_IGN && !sent) {
        // SAFETY: all-zero is the default disposition; `sigaction` and `raise` are signal-safe.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, &raw const default, ptr::null_mut());
            // A fault comes again by itself when we return; a signal that was sent does not.
            if sent {
                libc::raise(signal);
            }
        }
        return;
    }
    if handler == libc::SIG_IGN {
        return;
    }
    if BEFORE_FLAGS.load(Ordering::Acquire) & libc::SA_SIGINFO != 0 {
        // SAFETY: the disposition was registered with SA_SIGINFO, so it is a function of these three.
        let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(handler) };
        call(signal, info, context);
    } else {
        // SAFETY: the disposition was registered without SA_SIGINFO, so it is a function of the signal.
        let call: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
        call(signal);
    }
}

/// The lock, whoever panicked with it: the table is consistent between any two of its statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn opened(file: &File) -> impl FnOnce() -> Result<File> + '_ {
        || Ok(file.try_clone().unwrap())
    }

    #[test]
    fn a_slice_shows_the_committed_bytes_and_outlives_the_map() {
        let file = file_of(b"0123456789");
        let map = Map::new();

        let slice = map.slice(1, opened(&file), 3, 4).unwrap();
        drop(map);

        assert_eq!(&*slice, b"3456");
        assert_eq!(&*slice.part(1..3).unwrap(), b"45");
        assert!(slice.part(3..5).is_none());
    }

    #[test]
    fn neighbouring_segments_lie_side_by_side() {
        let map = Map::new();
        let files = [file_of(b"one"), file_of(b"two")];

        let one = map.slice(1025, opened(&files[0]), 0, 3).unwrap();
        let two = map.slice(1026, opened(&files[1]), 0, 3).unwrap();

        assert_eq!(two.as_ptr() as usize - one.as_ptr() as usize, SEGMENT_BYTES as usize);
        assert_eq!((&*one, &*two), (&b"one"[..], &b"two"[..]));
    }

    #[test]
    fn a_file_shorter_than_what_is_committed_is_damaged_and_one_that_grew_is_not() {
        let mut file = file_of(b"abc");
        let map = Map::new();

        assert!(matches!(map.slice(1, opened(&file), 1, 3), Err(Error::Damaged(_))));
        assert!(matches!(map.slice(1, opened(&file), u32::MAX, 1), Err(Error::Invalid(_))));
        file.write_all(b"def").unwrap();

        assert_eq!(&*map.slice(1, opened(&file), 1, 4).unwrap(), b"bcde");
    }

    #[test]
    fn another_file_under_a_mapped_segments_name_is_damaged() {
        let map = Map::new();
        let _held = map.slice(1, opened(&file_of(b"abc")), 0, 3).unwrap();

        let answer = map.slice(1, opened(&file_of(b"abcdef")), 0, 6);

        assert!(matches!(answer, Err(Error::Damaged(_))));
    }

    #[test]
    fn more_segments_than_the_cap_are_mapped_one_after_the_other() {
        let file = file_of(b"abc");
        let map = Map::new();
        let kept = map.slice(0, opened(&file), 0, 3).unwrap();

        for segment in 1..3 * IDLE_MAPPINGS_MAX as u64 {
            assert_eq!(&*map.slice(segment, opened(&file), 0, 3).unwrap(), b"abc");
        }

        assert!(lock(&map.table).segments.len() <= IDLE_MAPPINGS_MAX);
        assert_eq!(&*kept, b"abc");
    }

    #[test]
    fn a_segment_cut_short_under_a_reader_is_an_error_and_not_a_crash() {
        let bytes = vec![7; 3 << 20];
        let file = file_of(&bytes);
        let map = Map::new();
        let slice = map.slice(5, opened(&file), 0, 3 << 20).unwrap();
        assert_eq!(guarded(|| slice.iter().map(|b| u64::from(*b)).sum::<u64>()).unwrap(), 7 * (3 << 20));

        file.set_len(1 << 20).unwrap();
        let read = guarded(|| slice.iter().map(|b| u64::from(*b)).sum::<u64>());
        assert!(matches!(read, Err(Error::Damaged(_))));

        // While somebody still holds the faulted mapping it is not lent again; afterwards it is mapped afresh.
        assert!(matches!(map.slice(5, opened(&file), 0, 10), Err(Error::Damaged(_))));
        drop(slice);
        file.set_len(0).unwrap();
        (&file).write_all(&[]).unwrap();
        rustix::io::pwrite(&file, &bytes, 0).unwrap();
        let slice = map.slice(5, opened(&file), 0, 3 << 20).unwrap();
        assert_eq!(guarded(|| slice.to_vec()).unwrap(), bytes);
    }

    #[test]
    fn a_fault_of_one_thread_is_no_error_of_another_that_reads_elsewhere() {
        let (bad, good) = (file_of(&[1; 8192]), file_of(&[2; 8192]));
        let map = Map::new();
        let bad_slice = map.slice(1, opened(&bad), 0, 8192).unwrap();
        let good_slice = map.slice(2, opened(&good), 0, 8192).unwrap();
        bad.set_len(0).unwrap();

        let answer = guarded(|| {
            let other = std::thread::scope(|scope| scope.spawn(|| guarded(|| bad_slice[8191])).join().unwrap());
            assert!(other.is_err());
            good_slice[8191]
        });

        assert_eq!(answer.unwrap(), 2);
        assert!(bad_slice.faulted() && !good_slice.faulted());
    }

    #[test]
    fn a_whole_file_mapped_is_its_bytes_and_an_empty_one_is_none() {
        let file = file_of(&[3; 70_000]);

        let mapped = map_file(&file).unwrap();

        assert_eq!(&*mapped, &[3; 70_000][..]);
        assert!(map_file(&file_of(b"")).unwrap().is_empty());
        file.set_len(4096).unwrap();
        assert!(guarded(|| std::hint::black_box(mapped[69_999])).is_err());
        assert!(mapped.faulted());
    }

    #[test]
    fn threads_share_a_map() {
        let file = file_of(&[9; 4096]);
        let map = Map::new();

        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (map, file) = (&map, &file);
                scope.spawn(move || {
                    for turn in 0..200 {
                        let slice = map.slice((thread + turn) % 3, opened(file), 5, 100).unwrap();
                        assert_eq!(&*slice, &[9; 100]);
                    }
                });
            }
        });
    }

    /// Runs one ignored test in a process of its own and gives its exit signal.
    fn signal_of(test: &str) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", &format!("map::tests::{test}")])
            .output()
            .unwrap();
        output.status.signal()
    }

    #[test]
    #[ignore = "ends its process; run by the test below"]
    fn dies_of_a_foreign_fault() {
        let file = file_of(&[1; 8192]);
        // SAFETY: a fresh mapping, read below; it is outside our regions on purpose.
        let start = unsafe {
            rustix::mm::mmap(ptr::null_mut(), 8192, ProtFlags::READ, MapFlags::SHARED, file.as_fd(), 0).unwrap()
        };
        file.set_len(0).unwrap();
        install().unwrap();
        // SAFETY: mapped above; the read raises SIGBUS, which is what the test is about.
        let byte = unsafe { ptr::read_volatile(start.cast::<u8>()) };
        assert_eq!(byte, 0, "not reached");
    }

    #[test]
    #[ignore = "ends its process; run by the test below"]
    fn dies_of_a_signal_sent() {
        install().unwrap();
        // Rust's handler, before ours, answers the first by restoring the default, and loses the signal.
        for _ in 0..2 {
            // SAFETY: `raise` is always safe to call.
            unsafe { libc::raise(libc::SIGBUS) };
        }
    }

    #[test]
    fn a_fault_that_is_not_ours_ends_the_process_as_it_would_without_us() {
        // Rust's own handler stood here before ours, as Python's faulthandler does in a Python process.
        assert_eq!(signal_of("dies_of_a_foreign_fault"), Some(libc::SIGBUS));
        assert_eq!(signal_of("dies_of_a_signal_sent"), Some(libc::SIGBUS));
    }
}
