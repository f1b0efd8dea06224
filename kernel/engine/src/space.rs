//! The address space of one volume on this machine: which bytes are where, which of them are durable, and what is
//! already held.
//!
//! It reads. Segments are filled by `lease.rs`, and what counts as durable is told by [`Space::admit`]: nothing that a
//! journal has not committed is ever handed out, and nothing whose digest is wrong passes [`Space::read`].

mod absent;
mod answers;
mod gone;

use crate::address::{
    Address, COUNTER_BITS, Extent, OFFSET_BITS, SEGMENT_BITS, SEGMENT_BYTES, offset_of, segment_of, segment_start,
};
use crate::chunker::Params;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::keys::{Digest, Keys, keyed, tag};
use crate::map::{Map, Slice, guarded, map_file};
use crate::slot::Slots;
use crate::table::{ChunkRef, HEADER_BYTES, Header, Kind, Record, SegmentTable, TableBytes, encode_batch};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Memory for parsed chunk tables: rows of about 1.4 million chunks, 40 GiB of data at the default average.
const TABLES_BYTES_MAX: usize = 16 << 20;
/// Chunk tables held at once.
const TABLES_MAX: usize = 1024;
/// Shorter chunk tables are read, not mapped: a server has a space for each session, each of them knows the segments of
/// all others, and the map watches over so many regions in all (64 clients that pushed at once had used up 4,096).
const MAPPED_TABLE_BYTES_MIN: u64 = 16 << 10;
/// While catching up, so many claims are held in memory (16 MiB) before they are published to a table.
const CATCH_UP_ENTRIES_MAX: u64 = 512 << 10;

/// What the journal says is durable in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The segment's number.
    pub segment: u64,
    /// Its data is durable below this offset.
    pub head: u32,
    /// So many bytes of its chunk table are durable.
    pub table_bytes: u64,
}

pub use answers::{ANSWER_BYTES, Tagged, decode_answers, encode_answers};
pub use gone::{SegmentRanges, decode_ranges, encode_ranges, merge_ranges};

/// A volume's bytes, shared by the threads of a process. Everything takes `&self`.
pub struct Space {
    directory: PathBuf,
    volume_id: [u8; 16],
    keys: Keys,
    params: Params,
    slots: Slots,
    slot_key_id: [u8; 8],
    map: Map,
    index: Index,
    committed: RwLock<HashMap<u64, Committed>>,
    /// Chunks in leases of this process, which no journal has committed yet.
    provisional: RwLock<HashMap<u64, SegmentTable>>,
    /// What is durable of segments of which more than that may have been admitted: by leases of this process that
    /// were flushed and not synced.
    unsynced: RwLock<HashMap<u64, Committed>>,
    tables: RwLock<Loaded>,
    /// Stored bytes that are known to be damaged: first address -> end. Apart, and never forgotten by this process.
    distrusted: RwLock<BTreeMap<Address, Address>>,
    /// What nothing that is kept needs any more.
    gone: RwLock<gone::Gone>,
    /// Segment -> bytes of its chunk table whose chunks are in `index`. Its lock is held while catching up, so that
    /// two threads do not read the same tables.
    indexed: Mutex<BTreeMap<u64, u64>>,
    /// Segments that have grown since the index was caught up with them, which is done when it is asked: most sessions
    /// of a server never ask, and there each knows the segments of all others.
    behind: Mutex<HashSet<u64>>,
    is_behind: AtomicBool,
}

/// Parsed chunk tables of committed segments, the least recently used dropped first.
#[derive(Default)]
struct Loaded {
    tables: HashMap<u64, Held>,
    bytes: usize,
    clock: AtomicU64,
}

struct Held {
    used: AtomicU64,
    /// The bytes of the chunk table that had been committed when it was read.
    table_bytes: u64,
    /// The table; or why it cannot be used, so that a damaged one is not read again for every question.
    table: std::result::Result<Arc<SegmentTable>, String>,
}

impl Space {
    /// Opens the space of the volume in `directory`. Nothing is committed before it is admitted, and nothing is
    /// written.
    pub fn open(directory: &Path, volume_id: [u8; 16], keys: Keys, params: Params) -> Result<Arc<Space>> {
        let index = Index::open(&directory.join("index"), volume_id);
        Ok(Arc::new(Space {
            directory: directory.to_path_buf(),
            volume_id,
            slots: Slots::new(&keys.placement),
            slot_key_id: Slots::key_id(&keys.placement),
            keys,
            params,
            map: Map::new(),
            indexed: Mutex::new(index.stamps()),
            behind: Mutex::default(),
            is_behind: AtomicBool::new(false),
            index,
            committed: RwLock::default(),
            provisional: RwLock::default(),
            unsynced: RwLock::default(),
            tables: RwLock::default(),
            distrusted: RwLock::default(),
            gone: RwLock::default(),
        }))
    }

    /// The volume's id.
    pub fn volume_id(&self) -> [u8; 16] {
        self.volume_id
    }

    /// The directory that the volume is in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The volume's keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The chunker's parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The name under which a segment rests: ten hexadecimal digits.
    pub fn slot(&self, segment: u64) -> String {
        self.slots.slot(segment)
    }

    /// Which placement key the slots are made with.
    pub fn slot_key_id(&self) -> [u8; 8] {
        self.slot_key_id
    }

    /// The file of a segment's bytes.
    pub fn data_path(&self, segment: u64) -> PathBuf {
        self.directory.join("segments").join(self.slot(segment) + ".data")
    }

    /// The file of a segment's chunk table.
    pub fn table_path(&self, segment: u64) -> PathBuf {
        self.directory.join("segments").join(self.slot(segment) + ".chunks")
    }

    /// The header that a segment's chunk table must have.
    pub fn table_header(&self, segment: u64) -> Header {
        Header { volume_id: self.volume_id, segment, slot_key_id: self.slot_key_id }
    }

    /// Takes the journal's word for what is durable. Rows that say less than what is
    /// already known are ignored: what was committed stays committed.
    ///
    /// The rows that [`Lease::flush_all`](crate::lease::Lease::flush_all) answers may be admitted too, so that this
    /// process can read them. They are taken back when the lease is dropped before it was synced.
    ///
    /// A damaged chunk table does not fail this: its segment is named when somebody reads from it or verifies it.
    pub fn admit(&self, rows: &[Committed]) -> Result<()> {
        for row in rows {
            let is_granted = row.segment >> SEGMENT_BITS == 0 && row.segment & ((1 << COUNTER_BITS) - 1) != 0;
            if !is_granted || u64::from(row.head) > SEGMENT_BYTES {
                return Err(Error::Invalid(format!("no segment can be committed as {row:?}")));
            }
        }
        let mut grown = Vec::new();
        {
            let mut committed = write(&self.committed);
            for row in rows {
                let known = committed.entry(row.segment).or_insert(Committed { head: 0, table_bytes: 0, ..*row });
                if row.head >= known.head && row.table_bytes >= known.table_bytes {
                    *known = *row;
                    grown.push(*row);
                }
            }
        }
        self.drop_committed(&grown);
        let mut indexed = lock(&self.indexed);
        for row in &grown {
            // An index from the future of a volume that was restored: read the whole table, however it goes on from here.
            if let Some(seen) = indexed.get_mut(&row.segment).filter(|seen| **seen > row.table_bytes) {
                *seen = 0;
            }
        }
        drop(indexed);
        let mut behind = lock(&self.behind);
        behind.extend(grown.iter().map(|row| row.segment));
        self.is_behind.store(!behind.is_empty(), Ordering::Release);
        Ok(())
    }

    /// What has been admitted of a segment.
    pub fn committed(&self, segment: u64) -> Option<Committed> {
        read(&self.committed).get(&segment).copied()
    }

    /// All that has been admitted, by segment.
    pub fn all_committed(&self) -> Vec<Committed> {
        let mut rows: Vec<_> = read(&self.committed).values().copied().collect();
        rows.sort_unstable_by_key(|row| row.segment);
        rows
    }

    /// The address of a chunk of this kind with this digest and length, committed or in a lease of this process. `None`
    /// may also mean that the index does not know yet, or that what is stored is distrusted: storing the bytes again
    /// is always right.
    pub fn find(&self, digest: &Digest, length: u32, kind: Kind) -> Result<Option<Address>> {
        let mut claims = Vec::new();
        self.catch_up_if_behind();
        self.index.find(tag(digest), &mut claims);
        for address in claims {
            if self.confirm(address, digest, length, kind)? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// Whether the chunk at `address` is the one with this kind, digest and length: asked for the end of the previous match,
    /// it answers "does the same extent go on?" without a look-up.
    pub fn follows(&self, address: Address, digest: &Digest, length: u32, kind: Kind) -> bool {
        // A table that cannot be read confirms nothing; the bytes are then stored again.
        self.confirm(address, digest, length, kind).unwrap_or(false)
    }

    /// For each tag a chunk of kind data whose digest begins with it: committed, durable as far as this process knows,
    /// and not distrusted. Whoever asked on behalf of another machine may point at it. `None` may also mean that the
    /// index does not know yet.
    pub fn find_tags(&self, tags: &[u64]) -> Vec<Option<Tagged>> {
        let mut claims = vec![0; tags.len()];
        self.catch_up_if_behind();
        self.index.find_batch(tags, &mut claims);
        let mut others = Vec::new();
        let mut find = |(&tag, claim): (&u64, Address)| {
            if claim == 0 {
                return None;
            }
            self.tagged(tag, claim).or_else(|| {
                others.clear();
                self.index.find(tag, &mut others);
                others.iter().find_map(|&address| self.tagged(tag, address))
            })
        };
        tags.iter().zip(claims).map(&mut find).collect()
    }

    fn tagged(&self, wanted: u64, address: Address) -> Option<Tagged> {
        let (segment, offset) = (segment_of(address), offset_of(address));
        let committed = self.committed(segment).filter(|segment| offset < segment.head)?;
        let durable = read(&self.unsynced).get(&segment).map_or(u64::MAX, |durable| durable.table_bytes);
        let chunk = self.table(segment).ok()?.chunk_within(offset, durable)?;
        let is_it = chunk.kind == Kind::Data && tag(&chunk.digest) == wanted && chunk.end <= committed.head;
        (is_it && !self.is_distrusted(address, chunk.length())).then(|| (address, chunk.length(), chunk.digest))
    }

    /// Says that these stored bytes are damaged: nothing new is pointed at them, so that a push of the same content
    /// stores it again. What fails in [`Space::read`] is distrusted without being said. It lasts as long as this process.
    pub fn distrust(&self, extents: &[Extent]) {
        let mut distrusted = write(&self.distrusted);
        for extent in extents.iter().filter(|extent| !extent.is_hole() && extent.length > 0) {
            let (mut start, mut end) = (extent.address, extent.address.saturating_add(extent.length));
            while let Some((&before, &until)) = distrusted.range(..=end).next_back().filter(|range| *range.1 >= start) {
                (start, end) = (start.min(before), end.max(until));
                distrusted.remove(&before);
            }
            distrusted.insert(start, end);
        }
    }

    /// What is distrusted, ascending and apart; a range of damaged bytes may go on over several segments.
    pub fn distrusted(&self) -> Vec<Extent> {
        let ranges = read(&self.distrusted);
        ranges.iter().map(|(&address, &end)| Extent { address, length: end - address }).collect()
    }

    fn is_distrusted(&self, address: Address, length: u32) -> bool {
        let end = address.saturating_add(length.into());
        read(&self.distrusted).range(..end).next_back().is_some_and(|(_, &until)| until > address)
            || self.has_gone(address, length.into())
    }

    /// Whether bytes of an extent are reclaimed.
    pub(crate) fn is_reclaimed(&self, extent: Extent) -> bool {
        let start = offset_of(extent.address);
        let end = start.saturating_add(extent.length.min(SEGMENT_BYTES) as u32);
        read(&self.gone).is_reclaimed(segment_of(extent.address), start, end)
    }

    /// The chunks of an extent, which must be whole chunks of the committed part of its segment.
    pub fn chunks(&self, extent: Extent) -> Result<Vec<ChunkRef>> {
        let (segment, start, end) = self.committed_range(extent)?;
        let table = self.table(segment)?;
        let chunks = table.chunks_in(start, end).map_err(|error| self.named(segment, error))?;
        Ok(chunks.collect())
    }

    /// Whether the bytes of an extent are here: committed, and whole chunks by the chunk table. It reads none of them,
    /// and says no where the chunk table cannot be read. A hole needs no bytes.
    pub fn holds(&self, extent: Extent) -> bool {
        let held = || {
            let (segment, start, end) = self.committed_range(extent)?;
            let table = self.table(segment)?;
            table.chunks_in(start, end).map(drop)
        };
        extent.is_hole() || held().is_ok()
    }

    /// The bytes of an extent of the committed part of its segment, as they are on disk: unverified.
    pub fn slice(&self, extent: Extent) -> Result<Slice> {
        let (segment, start, end) = self.committed_range(extent)?;
        self.map
            .slice(segment, || self.open_data(segment), start, end - start)
            .map_err(|error| self.named(segment, error))
    }

    /// The bytes of an extent, every chunk of them verified against its digest.
    ///
    /// `Damaged` names slot, segment and offset of the first chunk that is not what it should be; nothing is shown
    /// then, and what is damaged is distrusted from now on.
    pub fn read(&self, extent: Extent) -> Result<Slice> {
        let chunks = self.chunks(extent)?;
        let verified = self.slice(extent).and_then(|slice| {
            let damaged = guarded(|| self.damaged_chunks(&slice, &chunks))?;
            Ok((slice, damaged))
        });
        self.doubted(extent, verified)
    }

    /// The extent in pieces of whole chunks, of about `bytes` each and at least a chunk: what to [`Space::copy`] one
    /// after the other.
    pub fn pieces(&self, extent: Extent, bytes: u64) -> Result<Vec<Extent>> {
        let segment = segment_start(segment_of(extent.address));
        let mut pieces: Vec<Extent> = Vec::new();
        for chunk in self.chunks(extent)? {
            let length = u64::from(chunk.length());
            match pieces.last_mut().filter(|piece| piece.length + length <= bytes) {
                Some(piece) => piece.length += length,
                None => pieces.push(Extent { address: segment | u64::from(chunk.start), length }),
            }
        }
        Ok(pieces)
    }

    /// Fills `out` with the bytes of an extent, which is as long, and verifies them there: for a reader that goes on
    /// outside of [`guarded`], where a mapped page that cannot be read any more would turn to zeros under its eyes.
    /// What is damaged is distrusted, as in [`Space::read`].
    pub fn copy(&self, extent: Extent, out: &mut [u8]) -> Result<()> {
        let chunks = self.chunks(extent)?;
        if extent.length != out.len() as u64 {
            return Err(Error::Invalid(format!("{} bytes do not go into {}", extent.length, out.len())));
        }
        let copied = self.slice(extent).and_then(|slice| guarded(|| out.copy_from_slice(&slice)));
        let verified = copied.map(|()| ((), self.damaged_chunks(out, &chunks)));
        self.doubted(extent, verified)
    }

    /// What was read of an extent unless chunks of it are damaged, or all of it cannot be read: then that is
    /// distrusted.
    fn doubted<T>(&self, extent: Extent, verified: Result<(T, Vec<ChunkRef>)>) -> Result<T> {
        let segment = segment_of(extent.address);
        let place = |chunk: &ChunkRef| Extent {
            address: segment_start(segment) | u64::from(chunk.start),
            length: chunk.length().into(),
        };
        let (value, damaged) = verified.map_err(|error| {
            // Which of its bytes cannot be read is not known here.
            if matches!(error, Error::Damaged(_)) {
                self.distrust(&[extent]);
            }
            self.named(segment, error)
        })?;
        match damaged.first() {
            None => Ok(value),
            Some(first) => {
                self.distrust(&damaged.iter().map(place).collect::<Vec<_>>());
                let what = format!("the chunk {}..{} fails its digest", first.start, first.end);
                Err(self.damaged(segment, &what))
            }
        }
    }

    /// Makes chunks of an own lease findable in this process: contiguous, the first beginning at `start`. Refused as
    /// damage where they overlap registered ones.
    pub fn register(&self, segment: u64, start: u32, records: &[Record]) -> Result<()> {
        let mut batch = Vec::new();
        encode_batch(start, records, &mut batch);
        write(&self.provisional).entry(segment).or_insert_with(|| SegmentTable::empty(segment)).extend(&batch)?;
        let starts = std::iter::once(start).chain(records.iter().map(|record| record.end));
        let claim = |(record, start): (&Record, u32)| (tag(&record.digest), segment_start(segment) | u64::from(start));
        self.index.insert_all(records.iter().zip(starts).map(claim));
        Ok(())
    }

    /// Forgets the registered chunks of a segment, and takes back what was admitted of it without being durable: its
    /// lease ends, and whoever has it next may put other bytes there.
    pub fn forget(&self, segment: u64) {
        write(&self.provisional).remove(&segment);
        // Not in the condition: the lock would be held on.
        let durable = write(&self.unsynced).remove(&segment);
        if let Some(durable) = durable {
            self.take_back(durable);
        }
    }

    /// Says that a lease has written more than the `durable` part of its segment, which somebody may admit.
    pub(crate) fn set_unsynced(&self, durable: Committed) {
        write(&self.unsynced).entry(durable.segment).or_insert(durable);
    }

    /// Says that all that a lease has written is durable.
    pub(crate) fn set_synced(&self, segment: u64) {
        write(&self.unsynced).remove(&segment);
    }

    /// Forgets what was admitted beyond the `durable` part of a segment: it is going to be overwritten.
    pub(crate) fn take_back(&self, durable: Committed) {
        let Committed { segment, head, table_bytes } = durable;
        {
            let mut committed = write(&self.committed);
            let Some(known) = committed.get_mut(&segment) else { return };
            if known.head <= head && known.table_bytes <= table_bytes {
                return;
            }
            *known = Committed { segment, head: known.head.min(head), table_bytes: known.table_bytes.min(table_bytes) };
            if known.table_bytes <= HEADER_BYTES as u64 {
                committed.remove(&segment);
            }
        }
        write(&self.tables).forget(segment);
        if let Some(seen) = lock(&self.indexed).get_mut(&segment) {
            *seen = (*seen).min(table_bytes);
        }
    }

    /// How many claims of the index are in memory only. Publishing is worth it from some ten thousand.
    pub fn open_entries(&self) -> u64 {
        self.catch_up_if_behind();
        self.index.open_entries()
    }

    /// Why the index on disk could not be used, if so; it has been or will be built again from the chunk tables.
    pub fn index_discarded(&self) -> Option<String> {
        self.index.discarded()
    }

    /// Publishes the committed claims, for other processes and the next one. False if another process is at it.
    pub fn publish_index(&self) -> Result<bool> {
        self.catch_up_if_behind();
        let covered = lock(&self.indexed).clone();
        let published = self.index.publish(self.is_committed(), &covered)?;
        let mut indexed = lock(&self.indexed);
        if published && self.fall_back(&covered, &mut indexed) {
            self.catch_up(&self.all_committed(), &mut indexed);
        }
        Ok(published)
    }

    /// Whether a claim is of committed bytes, by what is admitted now.
    fn is_committed(&self) -> impl Fn(Address) -> bool + use<> {
        let committed = read(&self.committed).clone();
        move |address| committed.get(&segment_of(address)).is_some_and(|segment| offset_of(address) < segment.head)
    }

    /// If the index on disk was discarded, by us or by another process, its stamps say less than was `covered`: then
    /// what they say is all that the index has. Answers whether it is so.
    fn fall_back(&self, covered: &BTreeMap<u64, u64>, indexed: &mut BTreeMap<u64, u64>) -> bool {
        let stamps = self.index.stamps();
        let mut fallen = false;
        for (segment, bytes) in covered {
            let stamp = stamps.get(segment).copied().unwrap_or(0);
            if stamp < *bytes {
                indexed.insert(*segment, stamp);
                fallen = true;
            }
        }
        fallen
    }

    /// Sees to it that the index knows all that is admitted. Who comes while another thread is at it waits for that.
    fn catch_up_if_behind(&self) {
        if !self.is_behind.load(Ordering::Acquire) {
            return;
        }
        let mut indexed = lock(&self.indexed);
        let segments = std::mem::take(&mut *lock(&self.behind));
        let rows: Vec<Committed> = segments.iter().filter_map(|segment| self.committed(*segment)).collect();
        self.catch_up(&rows, &mut indexed);
        let behind = lock(&self.behind);
        self.is_behind.store(!behind.is_empty(), Ordering::Release);
    }

    /// Puts the chunks that the index has not seen into it. A chunk table that cannot be read is left for later.
    fn catch_up(&self, rows: &[Committed], indexed: &mut BTreeMap<u64, u64>) {
        if !self.catch_up_once(rows, indexed) {
            // The index shrank while we were at it. Once more, for all; if it shrinks again, the next admission goes
            // on.
            self.catch_up_once(&self.all_committed(), indexed);
        }
    }

    /// Answers whether the index only grew meanwhile.
    fn catch_up_once(&self, rows: &[Committed], indexed: &mut BTreeMap<u64, u64>) -> bool {
        let (mut may_publish, mut only_grew) = (true, true);
        for row in rows {
            let seen = indexed.get(&row.segment).copied().unwrap_or(0);
            // More than what is committed: the volume went back to an older state, or another process is ahead of the
            // journal rows we were given. Both are rare, and reading the whole table is right for both.
            let from = if seen > row.table_bytes { 0 } else { seen };
            if from == row.table_bytes {
                continue;
            }
            let Ok(table) = self.table(row.segment) else { continue };
            let claim = |chunk: ChunkRef| (tag(&chunk.digest), segment_start(row.segment) | u64::from(chunk.start));
            let insert = || {
                let gone = read(&self.gone);
                let is_here = |chunk: &ChunkRef| !gone.is_reclaimed(row.segment, chunk.start, chunk.end);
                self.index.insert_all(table.chunks_written_after(from).filter(is_here).map(claim));
            };
            if guarded(insert).is_err() {
                continue;
            }
            indexed.insert(row.segment, table.parsed_bytes());
            if may_publish && self.index.open_entries() >= CATCH_UP_ENTRIES_MAX {
                // On a volume that we may not write to, or while another process publishes, memory has to do.
                may_publish = self.index.publish(self.is_committed(), indexed).unwrap_or(false);
                let covered = indexed.clone();
                only_grew &= !(may_publish && self.fall_back(&covered, indexed));
            }
        }
        only_grew
    }

    /// Registered chunks that are committed now are read from the chunk table instead.
    fn drop_committed(&self, rows: &[Committed]) {
        for row in rows {
            if !read(&self.provisional).contains_key(&row.segment) {
                continue;
            }
            let file = self.table(row.segment);
            let mut provisional = write(&self.provisional);
            let Some(table) = provisional.get_mut(&row.segment) else { continue };
            match file {
                // A lease that fills gaps may have chunks below the head that are not in the file yet.
                Ok(file) => table.drop_known(&file),
                Err(_) => table.cut_front(row.head),
            }
            if table.is_empty() {
                provisional.remove(&row.segment);
            }
        }
    }

    fn confirm(&self, address: Address, digest: &Digest, length: u32, kind: Kind) -> Result<bool> {
        if self.is_distrusted(address, length) {
            return Ok(false);
        }
        let (segment, offset) = (segment_of(address), offset_of(address));
        let is_it = |chunk: ChunkRef| chunk.length() == length && chunk.kind == kind && chunk.digest == *digest;
        if let Some(chunk) = read(&self.provisional).get(&segment).and_then(|table| table.chunk_at(offset)) {
            return Ok(is_it(chunk));
        }
        let Some(committed) = self.committed(segment).filter(|segment| offset < segment.head) else { return Ok(false) };
        match self.table(segment) {
            Ok(table) => Ok(table.chunk_at(offset).is_some_and(|chunk| chunk.end <= committed.head && is_it(chunk))),
            Err(Error::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Segment, start and end of an extent that lies in the committed part of one segment.
    fn committed_range(&self, extent: Extent) -> Result<(u64, u32, u32)> {
        let segment = segment_of(extent.address);
        let start = offset_of(extent.address);
        let end = u64::from(start).checked_add(extent.length).filter(|&end| end <= SEGMENT_BYTES);
        let head = self.committed(segment).map_or(0, |committed| committed.head);
        match end {
            Some(end) if end <= u64::from(head) && extent.length > 0 => match self.is_reclaimed(extent) {
                true => Err(self.damaged(segment, &format!("{} bytes at {start} were reclaimed", extent.length))),
                false => Ok((segment, start, end as u32)),
            },
            _ => Err(self.damaged(segment, &format!("{} bytes at {start} are not all committed", extent.length))),
        }
    }

    /// The parsed chunk table of a committed segment, from memory if it is there.
    pub(crate) fn table(&self, segment: u64) -> Result<Arc<SegmentTable>> {
        let Some(committed) = self.committed(segment) else {
            return Err(self.damaged(segment, "nothing in it is committed"));
        };
        let old = {
            let loaded = read(&self.tables);
            match loaded.tables.get(&segment) {
                Some(held) if held.table_bytes == committed.table_bytes => {
                    held.used.store(loaded.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
                    return held.table.clone().map_err(Error::Damaged);
                }
                Some(held) => held.table.as_ref().ok().cloned(),
                None => None,
            }
        };
        let table = match self.load_table(&committed, old) {
            Ok(table) => Ok(Arc::new(table)),
            Err(Error::Damaged(what)) => Err(what),
            Err(error) => return Err(error),
        };
        let mut loaded = write(&self.tables);
        loaded.hold(segment, committed.table_bytes, table.clone());
        table.map_err(Error::Damaged)
    }

    fn load_table(&self, committed: &Committed, old: Option<Arc<SegmentTable>>) -> Result<SegmentTable> {
        let segment = committed.segment;
        let path = self.table_path(segment);
        let file = File::open(&path).map_err(|source| self.unreadable(segment, "open", &path, source))?;
        let bytes = match committed.table_bytes < MAPPED_TABLE_BYTES_MIN {
            true => {
                let mut bytes = Vec::with_capacity(committed.table_bytes as usize);
                let read = (&file).take(committed.table_bytes).read_to_end(&mut bytes);
                read.map_err(|source| self.unreadable(segment, "read", &path, source))?;
                TableBytes::Owned(bytes)
            }
            false => TableBytes::Mapped(map_file(&file)?),
        };
        let read = || match &old {
            Some(old) => old.grown(bytes, committed.table_bytes),
            None => SegmentTable::parse(bytes, committed.table_bytes, &self.table_header(segment)),
        };
        let table = guarded(read).and_then(|table| table).map_err(|error| self.named(segment, error))?;
        match table.end() <= committed.head {
            true => Ok(table),
            false => Err(self.damaged(segment, "its chunk table goes beyond what is committed")),
        }
    }

    fn open_data(&self, segment: u64) -> Result<File> {
        let path = self.data_path(segment);
        // A file shorter than its head still serves what it has: the map refuses ranges beyond its end.
        File::open(&path).map_err(|source| self.unreadable(segment, "open", &path, source))
    }

    /// A missing file and a failing disk are damage to the volume; that we have too many files open is not.
    fn unreadable(&self, segment: u64, action: &'static str, path: &Path, source: std::io::Error) -> Error {
        let gone = matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory);
        match gone || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
            true => self.damaged(segment, &format!("cannot {action} {}: {source}", path.display())),
            false => Error::io(action, path, source),
        }
    }

    fn damaged(&self, segment: u64, what: &str) -> Error {
        Error::Damaged(format!("slot {} (segment {segment}): {what}", self.slot(segment)))
    }

    fn named(&self, segment: u64, error: Error) -> Error {
        match error {
            Error::Damaged(what) if !what.starts_with("slot ") => self.damaged(segment, &what),
            error => error,
        }
    }

    /// Those of `chunks`, which lie in `bytes` one after the other, whose digest is wrong.
    fn damaged_chunks(&self, mut bytes: &[u8], chunks: &[ChunkRef]) -> Vec<ChunkRef> {
        let is_damaged = |chunk: &&ChunkRef| {
            let Some((this, rest)) = bytes.split_at_checked(chunk.length() as usize) else { return true };
            bytes = rest;
            keyed(&self.keys.digest, this) != chunk.digest
        };
        chunks.iter().filter(is_damaged).copied().collect()
    }
}

impl Loaded {
    fn forget(&mut self, segment: u64) {
        if let Some(Held { table: Ok(table), .. }) = self.tables.remove(&segment) {
            self.bytes -= table.anonymous_bytes();
        }
    }

    fn hold(&mut self, segment: u64, table_bytes: u64, table: std::result::Result<Arc<SegmentTable>, String>) {
        let cost = |held: &Held| held.table.as_ref().map_or(0, |table| table.anonymous_bytes());
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let held = Held { used: AtomicU64::new(now), table_bytes, table };
        self.bytes += cost(&held);
        if let Some(old) = self.tables.insert(segment, held) {
            self.bytes -= cost(&old);
        }
        if self.bytes <= TABLES_BYTES_MAX && self.tables.len() <= TABLES_MAX {
            return;
        }
        // An eighth at a time, so that the sort is paid once in many loads. The newest always stays.
        let mut by_use: Vec<_> =
            self.tables.iter().map(|(segment, held)| (held.used.load(Ordering::Relaxed), *segment)).collect();
        by_use.sort_unstable();
        by_use.pop();
        for (_, segment) in by_use {
            if self.bytes <= TABLES_BYTES_MAX / 8 * 7 && self.tables.len() <= TABLES_MAX / 8 * 7 {
                break;
            }
            if let Some(dropped) = self.tables.remove(&segment) {
                self.bytes -= cost(&dropped);
            }
        }
    }
}

// A panic in another thread leaves these maps whole: each change to them is one insertion or removal.
fn read<T>(guarded: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    guarded.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(guarded: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    guarded.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(OFFSET_BITS + SEGMENT_BITS == u64::BITS, "an address is a segment's number and an offset");

#[cfg(test)]
mod tests;
