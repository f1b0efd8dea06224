//! A lease: one open segment, filled by one writer. It decides nothing about what is stored.
//!
//! A writer of new content appends at the head. Who is told the addresses by another machine puts chunks where they
//! belong; then a segment may have holes, where no chunk is, and a *sparse* one is filled below its head too. No byte
//! of a chunk is ever written twice.
//!
//! Bytes go to the data file in writes of a mebibyte or more; the chunk table follows them. Nothing is durable, and
//! nothing may be journalled, before [`Lease::sync`] has returned what it made durable. A lease that is dropped
//! without that loses only what was not synced: the next writer of the segment begins at the journalled head and
//! overwrites the rest.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::address::{Address, SEGMENT_BYTES, segment_start};
use crate::digest::digest;
use crate::error::{Error, Result};
use crate::fault::{self, Step};
use crate::keys::Digest;
use crate::space::{Committed, Space};
use crate::table::{
    BATCH_OVERHEAD_BYTES, HEADER_BYTES, Header, Kind, RECORD_BYTES, Record, SegmentTable, TableBytes, encode_batch,
};

/// Bytes gathered before a write: below this the system call costs more than the copy.
const WRITE_BYTES: usize = 1 << 20;
/// From this on the copy costs more than the system call.
const DIRECT_WRITE_BYTES: usize = 256 << 10;
/// A run of this length or more is worth a place congruent to its offset in the file, so that it can be reflinked.
pub const ALIGNED_RUN_BYTES: usize = 128 << 10;
/// What reflinks need: offsets congruent modulo this.
pub const ALIGNMENT: u64 = 4096;
/// Encoded batches are written once they are this long.
const TABLE_WRITE_BYTES: usize = 1 << 20;
/// Records in a batch at most, so that what waits in memory stays small (300 KB).
const BATCH_RECORDS: usize = 8192;

/// A segment takes no more once its chunk table is this long: 28,000 chunks. With files of 30 bytes it would otherwise
/// hold two million, and who reads one chunk of it parses the whole table. Its rows are a fortieth of the memory that
/// there is for parsed tables, so that look-ups in many such segments do not push each other out.
pub(crate) const TABLE_BYTES_MAX: u64 = 1 << 20;
/// What is put at given addresses may take a chunk table this far: all chunks of a segment that another writer filled,
/// each in a batch of its own (49 bytes instead of 37), and what that writer's last run took it beyond. A peer that
/// sends chunks of a byte gets no further.
const PUT_TABLE_BYTES_MAX: u64 = 2 * TABLE_BYTES_MAX;

/// An open segment with its head. Its chunk table is locked (flock) as long as it lives.
pub struct Lease {
    space: Arc<Space>,
    segment: u64,
    data: File,
    data_path: PathBuf,
    table: File,
    table_path: PathBuf,
    /// The names of the two files are not durable yet.
    fresh: bool,
    /// Something was appended since the last sync.
    dirty: bool,
    /// A write or sync failed; what is on disk is unknown.
    broken: bool,
    /// It has ended.
    released: bool,
    /// Offset of the next byte to be appended: behind all that the segment holds.
    head: u32,
    /// Nothing is put below this.
    floor: u32,
    /// What the journal recorded when it was opened, or a sync made durable since.
    durable: Committed,
    /// The bytes just below `head` that are not in the data file yet.
    buffer: Vec<u8>,
    /// The batch being filled, where it begins and where it goes on.
    batch: Vec<Record>,
    batch_start: u32,
    batch_end: u32,
    /// Encoded batches that are not in the table file yet.
    encoded: Vec<u8>,
    /// Length of the table file.
    table_bytes: u64,
    /// All chunks of the segment, once something was to be put below the head.
    filled: Option<SegmentTable>,
}

impl Lease {
    /// Opens `segment` to go on at `head`, its journalled state. `None`: another writer holds it.
    ///
    /// `fresh` says that the segment was granted for the first time: its files are made, and what a crash may have
    /// left of them is overwritten. The table file is cut to `table_bytes`; the data file is never cut, since someone
    /// may have it mapped.
    ///
    /// `sparse` is for a replica, whose segments hold parts of what the origin's hold: a data file shorter than `head`
    /// is extended, as a hole; a fresh segment begins at `head` too; and chunks may be [put](Lease::put) below it.
    pub fn open(
        space: &Arc<Space>,
        segment: u64,
        head: u32,
        table_bytes: u64,
        fresh: bool,
        sparse: bool,
    ) -> Result<Option<Lease>> {
        let (data_path, table_path) = (space.data_path(segment), space.table_path(segment));
        let table = open_file(&table_path, fresh)?;
        match flock(&table, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(Error::io("lock", &table_path, errno)),
        }
        let data = open_file(&data_path, fresh)?;
        let header = space.table_header(segment);
        let (head, table_bytes) = if fresh {
            cut(&table, &table_path, 0)?;
            write_at(&table, &header.encode(), 0).map_err(|e| Error::io("write", &table_path, e))?;
            (if sparse { head } else { 0 }, HEADER_BYTES as u64)
        } else {
            check_header(&table, &table_path, &header)?;
            check_length(&table, &table_path, table_bytes.max(HEADER_BYTES as u64))?;
            if !sparse {
                check_length(&data, &data_path, u64::from(head))?;
            }
            cut(&table, &table_path, table_bytes)?;
            (head, table_bytes)
        };
        if u64::from(head) > SEGMENT_BYTES {
            return Err(Error::Invalid(format!("no segment has its head at {head}")));
        }
        if sparse {
            extend(&data, &data_path, head.into())?;
        }
        let durable = Committed { segment, head, table_bytes };
        // Whatever this process was told before: from here on the rest is overwritten.
        space.take_back(durable);
        Ok(Some(Lease {
            space: Arc::clone(space),
            segment,
            data,
            data_path,
            table,
            table_path,
            fresh,
            dirty: false,
            broken: false,
            released: false,
            head,
            floor: if sparse { 0 } else { head },
            durable,
            buffer: Vec::new(),
            batch: Vec::new(),
            batch_start: head,
            batch_end: head,
            encoded: Vec::new(),
            table_bytes,
            filled: None,
        }))
    }

    /// The segment it fills.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// Offset of the next byte to be appended, behind all that the segment holds.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Where the next byte goes.
    pub fn next_address(&self) -> Address {
        segment_start(self.segment) + u64::from(self.head)
    }

    /// Bytes that still may be put into it; 0 as well once it has too many chunks.
    pub fn room(&self) -> u64 {
        let waiting = self.encoded.len() + self.batch.len() * RECORD_BYTES;
        if self.table_bytes + waiting as u64 >= TABLE_BYTES_MAX { 0 } else { self.left() }
    }

    /// Addresses left in the segment.
    fn left(&self) -> u64 {
        SEGMENT_BYTES - u64::from(self.head)
    }

    /// Moves the head up to the next address that is congruent to `offset` modulo 4096, if there is one.
    /// What is skipped is a gap: no chunk, zeros on disk.
    pub fn align(&mut self, offset: u64) -> Result<()> {
        let gap = offset.wrapping_sub(self.head.into()) % ALIGNMENT;
        if gap == 0 || gap > self.left() {
            return Ok(());
        }
        self.close_batch()?;
        self.write(&[0; ALIGNMENT as usize][..gap as usize])
    }

    /// Moves the head up to `head`, if it is below: a replica that has put what its origin holds of a segment is then
    /// granted the rest of it.
    pub fn advance(&mut self, head: u32) -> Result<()> {
        if head <= self.head {
            return Ok(());
        }
        if u64::from(head) > SEGMENT_BYTES {
            return Err(Error::Invalid(format!("no segment goes on at {head}")));
        }
        self.check_whole()?;
        self.close_batch()?;
        self.flush()?;
        extend(&self.data, &self.data_path, u64::from(head))?;
        self.head = head;
        self.dirty = true;
        Ok(())
    }

    /// Writes what waits in memory and gives that memory back: others are filled for a while.
    pub fn rest(&mut self) -> Result<()> {
        self.check_whole()?;
        self.flush()?;
        self.close_batch()?;
        self.write_table()?;
        self.shrink();
        Ok(())
    }

    /// Ends the lease now, though others may still hold it: it refuses everything from then on, and the segment can be
    /// leased again.
    pub fn release(&mut self) {
        if !self.released {
            self.released = true;
            self.broken = true;
            self.space.forget(self.segment);
            // Closing would do it as well, once nobody holds the lease any more. It cannot fail for a file that is open.
            let _unlocked = flock(&self.table, FlockOperation::Unlock);
        }
    }

    /// Appends the chunks that `bytes` consists of: `(length, kind, digest)` each, in order. Returns where the first
    /// one now is; the others follow it without gaps. They can be found in this process at once.
    ///
    /// The caller makes sure that they fit ([`Lease::room`]). Durable only after [`Lease::sync`].
    pub fn append(&mut self, bytes: &[u8], chunks: &[(u32, Kind, Digest)]) -> Result<Address> {
        check_chunks(bytes, chunks)?;
        if bytes.len() as u64 > self.left() {
            return Err(Error::Invalid(format!("{} bytes do not fit into the {} left", bytes.len(), self.left())));
        }
        let start = self.head;
        self.write(bytes)?;
        self.record(start, chunks)?;
        Ok(segment_start(self.segment) + u64::from(start))
    }

    /// Puts the chunks that `bytes` consists of at `offset`, in any order of offsets: not below the head that the
    /// lease began with, or anywhere if it is sparse. They can be found in this process at once; durable only after
    /// [`Lease::sync`].
    ///
    /// A chunk that is there already is left alone. Where another chunk has bytes in the range it is `Refused`, and
    /// nothing of the call is done. What is skipped beyond the head is a gap: no chunk.
    pub fn put(&mut self, offset: u32, bytes: &[u8], chunks: &[(u32, Kind, Digest)]) -> Result<()> {
        check_chunks(bytes, chunks)?;
        if u64::from(offset) + bytes.len() as u64 > SEGMENT_BYTES {
            let what = format!("{} bytes at {offset} do not lie in one segment", bytes.len());
            return Err(Error::Invalid(what));
        }
        if offset < self.floor {
            let what = format!("nothing may be put at {offset} of segment {}, below {}", self.segment, self.floor);
            return Err(Error::Refused(what));
        }
        self.check_whole()?;
        let is_new = if offset < self.head { self.which_are_new(offset, chunks)? } else { vec![true; chunks.len()] };
        let records = is_new.iter().filter(|new| **new).count() + self.batch.len();
        let waiting = self.encoded.len() + records * (RECORD_BYTES + BATCH_OVERHEAD_BYTES);
        if records > self.batch.len() && self.table_bytes + waiting as u64 > PUT_TABLE_BYTES_MAX {
            return Err(Error::Refused(format!("segment {} has too many chunks", self.segment)));
        }
        // Runs of new chunks between those that are there.
        let (mut at, mut from, mut index) = (offset, 0, 0);
        for run in is_new.chunk_by(|a, b| a == b) {
            let chunks = &chunks[index..index + run.len()];
            let length: usize = chunks.iter().map(|chunk| chunk.0 as usize).sum();
            if run[0] {
                self.put_run(at, &bytes[from..from + length], chunks)?;
            }
            (at, from, index) = (at + length as u32, from + length, index + run.len());
        }
        Ok(())
    }

    /// Which of the chunks at `offset` are not there; refused if another one has bytes there.
    fn which_are_new(&mut self, offset: u32, chunks: &[(u32, Kind, Digest)]) -> Result<Vec<bool>> {
        let segment = self.segment;
        let filled = self.filled()?;
        let mut end = offset;
        let is_new = |&(length, kind, digest): &(u32, Kind, Digest)| {
            let start = end;
            end += length;
            match filled.chunks_touching(start, end).next() {
                None => Ok(true),
                Some(found) if (found.start, found.end, found.kind, found.digest) == (start, end, kind, digest) => {
                    Ok(false)
                }
                Some(found) => Err(Error::Refused(format!(
                    "the chunk {start}..{end} of segment {segment} is not the one that is there, {}..{}",
                    found.start, found.end
                ))),
            }
        };
        chunks.iter().map(is_new).collect()
    }

    /// All chunks of the segment. The first time they are read from the table file: who only appends never needs them.
    fn filled(&mut self) -> Result<&SegmentTable> {
        if self.filled.is_none() {
            self.close_batch()?;
            self.write_table()?;
            let mut bytes = vec![0; self.table_bytes as usize];
            self.table.read_exact_at(&mut bytes, 0).map_err(|e| Error::io("read", &self.table_path, e))?;
            let header = self.space.table_header(self.segment);
            self.filled = Some(SegmentTable::parse(TableBytes::Owned(bytes), self.table_bytes, &header)?);
        }
        self.filled.as_ref().ok_or_else(|| Error::Invalid("a table that was just read is gone".into()))
    }

    /// Writes chunks where there are none.
    fn put_run(&mut self, start: u32, bytes: &[u8], chunks: &[(u32, Kind, Digest)]) -> Result<()> {
        match start.checked_sub(self.head) {
            Some(gap) if u64::from(gap) <= ALIGNMENT => {
                // A short gap costs less as zeros than a write of its own.
                self.write(&[0; ALIGNMENT as usize][..gap as usize])?;
                self.write(bytes)?;
            }
            Some(_) => {
                self.flush()?;
                self.head = start;
                self.write(bytes)?;
            }
            None => self.write_below(start, bytes)?,
        }
        self.record(start, chunks)
    }

    /// Takes bytes that begin below the head.
    fn write_below(&mut self, start: u32, bytes: &[u8]) -> Result<()> {
        self.check_whole()?;
        self.dirty = true;
        let end = start + bytes.len() as u32;
        let in_buffer = start.checked_sub(self.head - self.buffer.len() as u32).map(|at| at as usize);
        if let Some(at) = in_buffer
            && let Some(place) = self.buffer.get_mut(at..at + bytes.len())
        {
            place.copy_from_slice(bytes);
            return Ok(());
        }
        // What the buffer has of a gap here is zeros, and must not come after these bytes.
        self.flush()?;
        self.write_data(bytes, start.into())?;
        self.head = self.head.max(end);
        Ok(())
    }

    /// Notes chunks that were written at `start`, for the table and for this process.
    fn record(&mut self, start: u32, chunks: &[(u32, Kind, Digest)]) -> Result<()> {
        if start != self.batch_end {
            self.close_batch()?;
            (self.batch_start, self.batch_end) = (start, start);
        }
        let first = self.batch.len();
        for &(length, kind, digest) in chunks {
            self.batch_end += length;
            self.batch.push(Record { end: self.batch_end, kind, digest });
        }
        let records = &self.batch[first..];
        self.space.register(self.segment, start, records)?;
        if let Some(filled) = &mut self.filled {
            let mut encoded = Vec::new();
            encode_batch(start, records, &mut encoded);
            filled.extend(&encoded)?;
        }
        if self.batch.len() >= BATCH_RECORDS { self.close_batch() } else { Ok(()) }
    }

    /// Appends one chunk of `kind`; see [`Lease::append`].
    pub fn append_chunk(&mut self, bytes: &[u8], kind: Kind) -> Result<Address> {
        let length = u32::try_from(bytes.len()).map_err(|_| Error::Invalid("a chunk is longer than 4 GiB".into()))?;
        let digest = digest(&self.space.keys().digest, bytes);
        self.append(bytes, &[(length, kind, digest)])
    }

    /// Puts one chunk of `kind` at `offset`; see [`Lease::put`].
    pub fn put_chunk(&mut self, offset: u32, bytes: &[u8], kind: Kind) -> Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| Error::Invalid("a chunk is longer than 4 GiB".into()))?;
        let digest = digest(&self.space.keys().digest, bytes);
        self.put(offset, bytes, &[(length, kind, digest)])
    }

    /// Makes everything appended so far durable and says what the journal may now record.
    ///
    /// After an error it is unknown what is on disk: the lease refuses everything from then on, and the segment is
    /// good up to what an earlier sync returned.
    pub fn sync(&mut self) -> Result<Committed> {
        self.check_whole()?;
        if self.dirty || self.fresh {
            let synced = self.sync_files();
            self.broken = synced.is_err();
            synced?;
            self.durable = self.written();
            self.space.set_synced(self.segment);
        }
        Ok(self.written())
    }

    /// Everything appended or put so far is in the files: once what this answers is [admitted](Space::admit), this
    /// process can read it. It is **not durable**, the journal must not record it, and dropping the lease without a
    /// sync takes it back.
    pub fn flush_all(&mut self) -> Result<Committed> {
        self.check_whole()?;
        if self.dirty || self.fresh {
            self.space.set_unsynced(self.durable);
            self.flush()?;
            self.close_batch()?;
            self.write_table()?;
            self.shrink();
        }
        Ok(self.written())
    }

    /// The segment as it is in the files.
    fn written(&self) -> Committed {
        Committed { segment: self.segment, head: self.head, table_bytes: self.table_bytes }
    }

    fn sync_files(&mut self) -> Result<()> {
        self.flush()?;
        sync_bytes(&self.data).map_err(|e| Error::io("sync", &self.data_path, e))?;
        self.close_batch()?;
        self.write_table()?;
        sync_bytes(&self.table).map_err(|e| Error::io("sync", &self.table_path, e))?;
        if self.fresh {
            let directory = self.table_path.parent().unwrap_or(Path::new("."));
            let opened = File::open(directory).map_err(|e| Error::io("open", directory, e))?;
            fault::before(Step::Sync).map_err(|e| Error::io("sync", directory, e))?;
            opened.sync_all().map_err(|e| Error::io("sync", directory, e))?;
            self.fresh = false;
        }
        self.dirty = false;
        self.shrink();
        Ok(())
    }

    /// Takes `bytes` at the head: into the buffer, or straight to the file when they are long.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.check_whole()?;
        self.dirty = true;
        let is_direct = bytes.len() >= DIRECT_WRITE_BYTES;
        if is_direct || self.buffer.len() + bytes.len() >= WRITE_BYTES {
            self.flush()?;
        }
        if is_direct {
            self.write_data(bytes, u64::from(self.head))?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        // Fits: the callers have compared with `room`.
        self.head += bytes.len() as u32;
        Ok(())
    }

    /// Writes what the buffer holds.
    fn flush(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.write_data(&buffer, u64::from(self.head) - buffer.len() as u64)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    /// Gives the buffer's memory back: a session may hold a lease for each of a thousand segments.
    fn shrink(&mut self) {
        self.buffer = Vec::new();
        self.encoded = Vec::new();
    }

    fn write_data(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        write_at(&self.data, bytes, offset).map_err(|e| {
            self.broken = true;
            Error::io("write", &self.data_path, e)
        })
    }

    /// Encodes the batch being filled; the next one goes on there.
    fn close_batch(&mut self) -> Result<()> {
        encode_batch(self.batch_start, &self.batch, &mut self.encoded);
        self.batch.clear();
        self.batch_start = self.batch_end;
        if self.encoded.len() >= TABLE_WRITE_BYTES { self.write_table() } else { Ok(()) }
    }

    /// Writes encoded batches. That the table may reach the disk before the data does no harm: what lies beyond its
    /// journalled length is cut off before anyone reads it.
    fn write_table(&mut self) -> Result<()> {
        write_at(&self.table, &self.encoded, self.table_bytes).map_err(|e| {
            self.broken = true;
            Error::io("write", &self.table_path, e)
        })?;
        self.table_bytes += self.encoded.len() as u64;
        self.encoded.clear();
        Ok(())
    }

    fn check_whole(&self) -> Result<()> {
        if self.broken {
            let why = std::io::Error::other("an earlier write to this segment failed");
            return Err(Error::io("write", &self.data_path, why));
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What was appended and never journalled must not be pointed at: the next writer overwrites it.
        self.release();
    }
}

fn open_file(path: &Path, create: bool) -> Result<File> {
    if create {
        fault::before(Step::Create).map_err(|e| Error::io("create", path, e))?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("open", path, e))
}

fn cut(file: &File, path: &Path, length: u64) -> Result<()> {
    fault::before(Step::Resize).map_err(|e| Error::io("cut", path, e))?;
    file.set_len(length).map_err(|e| Error::io("cut", path, e))
}

fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    fault::before(Step::Write)?;
    file.write_all_at(bytes, offset)
}

fn sync_bytes(file: &File) -> std::io::Result<()> {
    fault::before(Step::Sync)?;
    file.sync_data()
}

/// Makes a file at least so long; what is added is a hole.
fn extend(file: &File, path: &Path, length: u64) -> Result<()> {
    let found = file.metadata().map_err(|e| Error::io("stat", path, e))?.len();
    if found >= length {
        return Ok(());
    }
    fault::before(Step::Resize).map_err(|e| Error::io("extend", path, e))?;
    file.set_len(length).map_err(|e| Error::io("extend", path, e))
}

/// Fails unless `bytes` are as long as `chunks`, none of them empty.
fn check_chunks(bytes: &[u8], chunks: &[(u32, Kind, Digest)]) -> Result<()> {
    let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.0)).sum();
    if total != bytes.len() as u64 || chunks.iter().any(|chunk| chunk.0 == 0) {
        return Err(Error::Invalid(format!("chunks of {total} bytes given for {} bytes", bytes.len())));
    }
    Ok(())
}

fn check_length(file: &File, path: &Path, least: u64) -> Result<()> {
    let length = file.metadata().map_err(|e| Error::io("stat", path, e))?.len();
    if length < least {
        let what = format!("{} is {length} bytes long, the journal knows of {least}", path.display());
        return Err(Error::Damaged(what));
    }
    Ok(())
}

fn check_header(file: &File, path: &Path, expected: &Header) -> Result<()> {
    check_length(file, path, HEADER_BYTES as u64)?;
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(|e| Error::io("read", path, e))?;
    if Header::decode(&bytes)? != *expected {
        return Err(Error::Damaged(format!("{} is the chunk table of another segment or volume", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Extent, offset_of};
    use crate::chunker::Params;
    use crate::ingest::tests::{empty_space, secret_keys};
    use crate::keys::keyed;

    fn digest(bytes: &[u8]) -> Digest {
        keyed(&secret_keys().digest, bytes)
    }

    fn append(lease: &mut Lease, bytes: &[u8]) -> Address {
        lease.append(bytes, &[(bytes.len() as u32, Kind::Data, digest(bytes))]).unwrap()
    }

    #[test]
    fn what_is_synced_is_on_disk_and_the_table_describes_it() {
        let (directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        let long = vec![7; 3 << 20];

        let first = append(&mut lease, b"short");
        let second = append(&mut lease, &long);
        let committed = lease.sync().unwrap();

        assert_eq!((offset_of(first), offset_of(second)), (0, 5));
        assert_eq!(committed.head as usize, 5 + long.len());
        let data = std::fs::read(space.data_path(1)).unwrap();
        assert_eq!(&data[..5], b"short");
        assert_eq!(&data[5..], &long[..]);
        let table = std::fs::read(space.table_path(1)).unwrap();
        assert_eq!(table.len() as u64, committed.table_bytes);
        drop(directory);
    }

    #[test]
    fn a_segment_held_by_another_writer_is_not_granted() {
        let (_directory, space) = empty_space();
        let lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();

        assert!(Lease::open(&space, 1, 0, 64, false, false).unwrap().is_none());
        drop(lease);
        assert!(Lease::open(&space, 1, 0, 64, false, false).unwrap().is_some());
    }

    #[test]
    fn reopening_goes_on_at_the_journalled_head_and_cuts_the_table() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        append(&mut lease, b"kept");
        let committed = lease.sync().unwrap();
        append(&mut lease, b"lost");
        lease.sync().unwrap();
        drop(lease);

        let mut lease = Lease::open(&space, 1, committed.head, committed.table_bytes, false, false).unwrap().unwrap();
        let table = std::fs::metadata(space.table_path(1)).unwrap().len();
        let address = append(&mut lease, b"next");
        lease.sync().unwrap();

        assert_eq!(table, committed.table_bytes);
        assert_eq!(offset_of(address), 4);
        assert_eq!(std::fs::read(space.data_path(1)).unwrap(), b"keptnext");
    }

    #[test]
    fn an_aligned_run_is_congruent_to_its_file_offset() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        append(&mut lease, b"five.");

        lease.align(100).unwrap();
        let run = append(&mut lease, &[1; 300]);
        lease.align(100 + 300).unwrap();
        let next = append(&mut lease, &[2; 300]);
        lease.sync().unwrap();

        assert_eq!(run % 4096, 100);
        assert_eq!(next, run + 300);
    }

    #[test]
    fn files_shorter_than_the_journal_says_are_damaged() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        append(&mut lease, b"12345678");
        let committed = lease.sync().unwrap();
        drop(lease);

        let longer = Lease::open(&space, 1, committed.head + 1, committed.table_bytes, false, false);
        let wider = Lease::open(&space, 1, committed.head, committed.table_bytes + 1, false, false);

        assert!(matches!(longer, Err(Error::Damaged(_))));
        assert!(matches!(wider, Err(Error::Damaged(_))));
    }

    #[test]
    fn a_segment_of_tiny_chunks_ends_before_its_addresses_do() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        let mut appended = 0u32;
        while lease.room() > 0 {
            let chunks: Vec<_> =
                (appended..appended + 10_000).map(|n| (1, Kind::Data, digest(&n.to_le_bytes()))).collect();
            lease.append(&[0; 10_000], &chunks).unwrap();
            appended += 10_000;
        }
        let committed = lease.sync().unwrap();
        drop(lease);

        let again = Lease::open(&space, 1, committed.head, committed.table_bytes, false, false).unwrap().unwrap();

        assert!((28_000..=30_000).contains(&appended));
        assert_eq!(again.room(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_the_head_stays() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        append(&mut lease, &vec![0; (SEGMENT_BYTES - 10) as usize]);

        let refused = lease.append(&[0; 11], &[(11, Kind::Data, [0; 32])]);

        assert!(matches!(refused, Err(Error::Invalid(_))));
        assert_eq!(lease.room(), 10);
    }

    fn put(lease: &mut Lease, offset: u32, bytes: &[u8]) -> Result<()> {
        lease.put(offset, bytes, &[(bytes.len() as u32, Kind::Data, digest(bytes))])
    }

    fn at(offset: u32, length: usize) -> Extent {
        Extent { address: segment_start(1) + u64::from(offset), length: length as u64 }
    }

    /// What holds everything that a journal would have recorded, read anew.
    fn reopened(space: &Arc<Space>, committed: Committed) -> Arc<Space> {
        let space = Space::open(space.directory(), space.volume_id(), secret_keys(), Params::DEFAULT).unwrap();
        space.admit(&[committed]).unwrap();
        space
    }

    #[test]
    fn puts_in_any_order_survive_a_sync_and_are_read_where_they_were_put() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        let chunk = |n: u32| vec![n as u8; 1000 + n as usize];
        // Offsets far apart, near, and inside what is buffered; each place once, in a shuffled order.
        let places: Vec<u32> = (0..64).map(|n| (n * 37) % 64).collect();
        for &n in &places {
            put(&mut lease, n * 3000, &chunk(n)).unwrap();
        }
        let appended = append(&mut lease, b"behind all of it");
        put(&mut lease, 2_000_000, &chunk(200)).unwrap();
        put(&mut lease, 1_500_000, &vec![9; 300_000]).unwrap();
        let committed = lease.sync().unwrap();
        drop(lease);

        let space = reopened(&space, committed);

        for &n in &places {
            assert_eq!(&space.read(at(n * 3000, chunk(n).len())).unwrap()[..], chunk(n), "{n}");
        }
        assert_eq!(offset_of(appended), 63 * 3000 + 1063);
        assert_eq!(&space.read(at(offset_of(appended), 16)).unwrap()[..], b"behind all of it");
        assert_eq!(&space.read(at(1_500_000, 300_000)).unwrap()[..], vec![9; 300_000]);
        assert_eq!(&space.read(at(2_000_000, 1200)).unwrap()[..], chunk(200));
        assert!(space.holds(at(3000, 1001)) && !space.holds(at(3000, 1002)) && !space.holds(at(1000, 1000)));
    }

    #[test]
    fn the_same_chunk_again_does_nothing_and_another_one_there_is_refused() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        put(&mut lease, 100, b"0123456789").unwrap();
        let before = lease.sync().unwrap();

        put(&mut lease, 100, b"0123456789").unwrap();
        assert_eq!(lease.sync().unwrap(), before);
        for (offset, bytes) in
            [(100, &b"012345678X"[..]), (95, b"xxxxxx"), (109, b"y"), (100, b"01234"), (90, &[1; 40])]
        {
            assert!(matches!(put(&mut lease, offset, bytes), Err(Error::Refused(_))), "{offset}");
        }
        let tree = lease.put(100, b"0123456789", &[(10, Kind::Tree, digest(b"0123456789"))]);
        assert!(matches!(tree, Err(Error::Refused(_))));
        // The first chunk is new, the second is there, the third is new.
        let whole = b"abcde0123456789fghij";
        let chunks: Vec<_> = [&whole[..5], &whole[5..15], &whole[15..]]
            .iter()
            .map(|bytes| (bytes.len() as u32, Kind::Data, digest(bytes)))
            .collect();
        lease.put(95, whole, &chunks).unwrap();
        let committed = lease.sync().unwrap();

        assert_eq!(&reopened(&space, committed).read(at(95, 20)).unwrap()[..], whole);
    }

    #[test]
    fn nothing_is_put_below_the_head_that_a_lease_began_with_unless_it_is_sparse() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        put(&mut lease, 100, b"kept").unwrap();
        let committed = lease.sync().unwrap();
        drop(lease);

        let mut lease = Lease::open(&space, 1, committed.head, committed.table_bytes, false, false).unwrap().unwrap();
        assert!(matches!(put(&mut lease, 10, b"low"), Err(Error::Refused(_))));
        assert!(matches!(put(&mut lease, (SEGMENT_BYTES - 1) as u32, b"12"), Err(Error::Invalid(_))));
        drop(lease);
        let mut lease = Lease::open(&space, 1, committed.head, committed.table_bytes, false, true).unwrap().unwrap();
        assert!(matches!(put(&mut lease, 102, b"kept"), Err(Error::Refused(_))));
        put(&mut lease, 100, b"kept").unwrap();
        put(&mut lease, 10, b"low").unwrap();
        let committed = lease.sync().unwrap();

        assert_eq!(committed.head, 104);
        assert_eq!(&reopened(&space, committed).read(at(10, 3)).unwrap()[..], b"low");
    }

    #[test]
    fn a_sparse_segment_is_a_hole_where_nothing_is_held() {
        let (_directory, space) = empty_space();
        let head = 32 << 20;
        let mut lease = Lease::open(&space, 1, head, 0, true, true).unwrap().unwrap();
        assert_eq!(lease.head(), head);

        let appended = append(&mut lease, b"first of ours");
        put(&mut lease, 16 << 20, b"of theirs").unwrap();
        let committed = lease.sync().unwrap();

        assert_eq!((offset_of(appended), committed.head), (head, head + 13));
        let metadata = std::fs::metadata(space.data_path(1)).unwrap();
        assert_eq!(metadata.len(), u64::from(head) + 13);
        assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 < 1 << 20);
        let space = reopened(&space, committed);
        assert_eq!(&space.read(at(16 << 20, 9)).unwrap()[..], b"of theirs");
        assert!(!space.holds(at(0, 9)) && !space.holds(at((16 << 20) + 9, 9)) && space.holds(at(head, 13)));
        drop(lease);
        // The origin's head went on meanwhile.
        let lease = Lease::open(&space, 1, head + 5000, committed.table_bytes, false, true).unwrap().unwrap();
        assert_eq!(std::fs::metadata(space.data_path(1)).unwrap().len(), u64::from(lease.head()));
    }

    #[test]
    fn what_is_flushed_can_be_read_once_admitted_and_is_taken_back_without_a_sync() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        append(&mut lease, b"durable");
        let durable = lease.sync().unwrap();
        space.admit(&[durable]).unwrap();
        append(&mut lease, b"flushed");
        put(&mut lease, 50, b"later").unwrap();

        let flushed = lease.flush_all().unwrap();
        space.admit(&[flushed]).unwrap();
        assert_eq!(&space.read(at(7, 7)).unwrap()[..], b"flushed");
        assert!(space.holds(at(50, 5)));
        put(&mut lease, 30, b"between").unwrap();
        assert_eq!(space.find(&digest(b"between"), 7, Kind::Data).unwrap(), Some(segment_start(1) + 30));
        drop(lease);

        assert_eq!(space.committed(1), Some(durable));
        assert!(space.holds(at(0, 7)) && !space.holds(at(7, 7)) && !space.holds(at(50, 5)));
        assert_eq!(space.find(&digest(b"flushed"), 7, Kind::Data).unwrap(), None);
        // The next writer puts other bytes there.
        let mut lease = Lease::open(&space, 1, durable.head, durable.table_bytes, false, false).unwrap().unwrap();
        append(&mut lease, b"another thing");
        let row = lease.sync().unwrap();
        space.admit(&[row]).unwrap();
        assert_eq!(&space.read(at(7, 13)).unwrap()[..], b"another thing");
        assert!(space.find(&digest(b"another thing"), 13, Kind::Data).unwrap().is_some());
    }

    #[test]
    fn what_is_synced_after_a_flush_stays_admitted() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        append(&mut lease, b"chunk");
        let flushed = lease.flush_all().unwrap();
        space.admit(&[flushed]).unwrap();

        assert_eq!(lease.sync().unwrap(), flushed);
        drop(lease);

        assert_eq!(&space.read(at(0, 5)).unwrap()[..], b"chunk");
    }

    #[test]
    fn a_peer_cannot_fill_a_chunk_table_with_chunks_of_a_byte() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        let chunks: Vec<_> = (0..10_000u32).map(|n| (1, Kind::Data, digest(&n.to_le_bytes()))).collect();

        let refused = (0..10u32).find_map(|n| lease.put(n * 10_001, &[0; 10_000], &chunks).err());

        assert!(matches!(refused, Some(Error::Refused(_))));
        put(&mut lease, 0, b"x").unwrap_err();
        assert!(lease.sync().unwrap().table_bytes <= PUT_TABLE_BYTES_MAX);
    }
}
