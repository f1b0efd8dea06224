//! A lease: one open segment, filled from its head by one writer. It decides nothing about what is stored.
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
use crate::fault;
use crate::keys::Digest;
use crate::space::{Committed, Space};
use crate::table::{HEADER_BYTES, Header, Kind, RECORD_BYTES, Record, encode_batch};

/// Bytes gathered before a write: below this the system call costs more than the copy.
const WRITE_BYTES: usize = 1 << 20;
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
    /// Offset of the next byte.
    head: u32,
    /// The bytes just below `head` that are not in the data file yet.
    buffer: Vec<u8>,
    /// The batch being filled, and where it begins.
    batch: Vec<Record>,
    batch_start: u32,
    /// Encoded batches that are not in the table file yet.
    encoded: Vec<u8>,
    /// Length of the table file.
    table_bytes: u64,
}

impl Lease {
    /// Opens `segment` to go on at `head`, its journalled state. `None`: another writer holds it.
    ///
    /// `fresh` says that the segment was granted for the first time: its files are made, and what a crash may have
    /// left of them is overwritten. The table file is cut to `table_bytes`; the data file is never cut, since someone
    /// may have it mapped.
    pub fn open(space: &Arc<Space>, segment: u64, head: u32, table_bytes: u64, fresh: bool) -> Result<Option<Lease>> {
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
            table.write_all_at(&header.encode(), 0).map_err(|e| Error::io("write", &table_path, e))?;
            (0, HEADER_BYTES as u64)
        } else {
            check_header(&table, &table_path, &header)?;
            check_length(&table, &table_path, table_bytes.max(HEADER_BYTES as u64))?;
            check_length(&data, &data_path, u64::from(head))?;
            cut(&table, &table_path, table_bytes)?;
            (head, table_bytes)
        };
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
            head,
            buffer: Vec::new(),
            batch: Vec::new(),
            batch_start: head,
            encoded: Vec::new(),
            table_bytes,
        }))
    }

    /// The segment it fills.
    pub fn segment(&self) -> u64 {
        self.segment
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
        self.write(&[0; ALIGNMENT as usize][..gap as usize])?;
        self.batch_start = self.head;
        Ok(())
    }

    /// Appends the chunks that `bytes` consists of: `(length, kind, digest)` each, in order. Returns where the first
    /// one now is; the others follow it without gaps. They can be found in this process at once.
    ///
    /// The caller makes sure that they fit ([`Lease::room`]). Durable only after [`Lease::sync`].
    pub fn append(&mut self, bytes: &[u8], chunks: &[(u32, Kind, Digest)]) -> Result<Address> {
        let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.0)).sum();
        if total != bytes.len() as u64 || chunks.iter().any(|chunk| chunk.0 == 0) {
            return Err(Error::Invalid(format!("chunks of {total} bytes given for {} bytes", bytes.len())));
        }
        if total > self.left() {
            return Err(Error::Invalid(format!("{total} bytes do not fit into the {} left", self.left())));
        }
        let start = self.head;
        self.write(bytes)?;
        let first = self.batch.len();
        let mut end = start;
        for &(length, kind, digest) in chunks {
            end += length;
            self.batch.push(Record { end, kind, digest });
        }
        self.space.register(self.segment, start, &self.batch[first..])?;
        if self.batch.len() >= BATCH_RECORDS {
            self.close_batch()?;
        }
        Ok(segment_start(self.segment) + u64::from(start))
    }

    /// Appends one chunk of `kind`; see [`Lease::append`].
    pub fn append_chunk(&mut self, bytes: &[u8], kind: Kind) -> Result<Address> {
        let length = u32::try_from(bytes.len()).map_err(|_| Error::Invalid("a chunk is longer than 4 GiB".into()))?;
        let digest = digest(&self.space.keys().digest, bytes);
        self.append(bytes, &[(length, kind, digest)])
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
        }
        Ok(Committed { segment: self.segment, head: self.head, table_bytes: self.table_bytes })
    }

    fn sync_files(&mut self) -> Result<()> {
        self.flush()?;
        fault::point();
        self.data.sync_data().map_err(|e| Error::io("sync", &self.data_path, e))?;
        self.close_batch()?;
        self.write_table()?;
        fault::point();
        self.table.sync_data().map_err(|e| Error::io("sync", &self.table_path, e))?;
        if self.fresh {
            let directory = self.table_path.parent().unwrap_or(Path::new("."));
            let opened = File::open(directory).map_err(|e| Error::io("open", directory, e))?;
            fault::point();
            opened.sync_all().map_err(|e| Error::io("sync", directory, e))?;
            self.fresh = false;
        }
        self.dirty = false;
        Ok(())
    }

    /// Takes `bytes` at the head: into the buffer, or straight to the file when they are long.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.check_whole()?;
        self.dirty = true;
        if self.buffer.len() + bytes.len() >= WRITE_BYTES {
            self.flush()?;
        }
        if bytes.len() >= WRITE_BYTES {
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

    fn write_data(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.data.write_all_at(bytes, offset).map_err(|e| {
            self.broken = true;
            Error::io("write", &self.data_path, e)
        })
    }

    /// Encodes the batch being filled; the next one begins at the head.
    fn close_batch(&mut self) -> Result<()> {
        encode_batch(self.batch_start, &self.batch, &mut self.encoded);
        self.batch.clear();
        self.batch_start = self.head;
        if self.encoded.len() >= TABLE_WRITE_BYTES { self.write_table() } else { Ok(()) }
    }

    /// Writes encoded batches. That the table may reach the disk before the data does no harm: what lies beyond its
    /// journalled length is cut off before anyone reads it.
    fn write_table(&mut self) -> Result<()> {
        self.table.write_all_at(&self.encoded, self.table_bytes).map_err(|e| {
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
        self.space.forget(self.segment);
    }
}

fn open_file(path: &Path, create: bool) -> Result<File> {
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
    file.set_len(length).map_err(|e| Error::io("cut", path, e))
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
    use crate::address::offset_of;
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
        let mut lease = Lease::open(&space, 1, 0, 0, true).unwrap().unwrap();
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
        let lease = Lease::open(&space, 1, 0, 0, true).unwrap().unwrap();

        assert!(Lease::open(&space, 1, 0, 64, false).unwrap().is_none());
        drop(lease);
        assert!(Lease::open(&space, 1, 0, 64, false).unwrap().is_some());
    }

    #[test]
    fn reopening_goes_on_at_the_journalled_head_and_cuts_the_table() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true).unwrap().unwrap();
        append(&mut lease, b"kept");
        let committed = lease.sync().unwrap();
        append(&mut lease, b"lost");
        lease.sync().unwrap();
        drop(lease);

        let mut lease = Lease::open(&space, 1, committed.head, committed.table_bytes, false).unwrap().unwrap();
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
        let mut lease = Lease::open(&space, 1, 0, 0, true).unwrap().unwrap();
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
        let mut lease = Lease::open(&space, 1, 0, 0, true).unwrap().unwrap();
        append(&mut lease, b"12345678");
        let committed = lease.sync().unwrap();
        drop(lease);

        let longer = Lease::open(&space, 1, committed.head + 1, committed.table_bytes, false);
        let wider = Lease::open(&space, 1, committed.head, committed.table_bytes + 1, false);

        assert!(matches!(longer, Err(Error::Damaged(_))));
        assert!(matches!(wider, Err(Error::Damaged(_))));
    }

    #[test]
    fn a_segment_of_tiny_chunks_ends_before_its_addresses_do() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true).unwrap().unwrap();
        let mut appended = 0u32;
        while lease.room() > 0 {
            let chunks: Vec<_> =
                (appended..appended + 10_000).map(|n| (1, Kind::Data, digest(&n.to_le_bytes()))).collect();
            lease.append(&[0; 10_000], &chunks).unwrap();
            appended += 10_000;
        }
        let committed = lease.sync().unwrap();
        drop(lease);

        let again = Lease::open(&space, 1, committed.head, committed.table_bytes, false).unwrap().unwrap();

        assert!((28_000..=30_000).contains(&appended));
        assert_eq!(again.room(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_the_head_stays() {
        let (_directory, space) = empty_space();
        let mut lease = Lease::open(&space, 1, 0, 0, true).unwrap().unwrap();
        append(&mut lease, &vec![0; (SEGMENT_BYTES - 10) as usize]);

        let refused = lease.append(&[0; 11], &[(11, Kind::Data, [0; 32])]);

        assert!(matches!(refused, Err(Error::Invalid(_))));
        assert_eq!(lease.room(), 10);
    }
}
