//! The stat cache: what a tree looked like to `stat` when it was last ingested, and which pages it became.
//!
//! One file per set of sources (docs/formats/stat-cache.md), written front to back in the order in which directories
//! are finished, read a directory at a time with `pread`. It is derived: whatever is wrong with it makes it count as
//! absent, as a whole or from one directory down, and nothing else. It does not decide whether a row may be
//! trusted; it keeps what the writer decided.
//!
//! Distances point backwards inside the file and never out of a directory's own stretch of it, so an unchanged
//! subtree is copied into the next stat cache as bytes.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fault::{self, Step};
use crate::page::PageRef;

const MAGIC: [u8; 8] = *b"PFSSTATC";
/// Version 1 vouched for entries that had neither extended attributes nor holes nor names for all owners.
const VERSION: u8 = 2;
/// Magic 8, version 1, zeros 7, volume id 16, zeros 28, CRC-32C 4.
const HEADER_BYTES: u64 = 64;
/// Tail bytes of the root u32, zeros 4, magic 8 reversed, CRC-32C 4.
const TRAILER_BYTES: u64 = 20;
/// Rows are written in groups of about this many bytes: a directory of a million entries needs no more memory.
const GROUP_BYTES: usize = 64 << 10;
/// No group or record is longer, whatever the file says: rows of `GROUP_BYTES` and one more, or 2^20 groups.
const PIECE_BYTES_MAX: usize = 32 << 20;
/// Buffered writes.
const WRITE_BYTES: usize = 256 << 10;

/// What `statx` says of a file, as far as it can tell that the file is still the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Type and permissions, as in `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device of the file system.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of the content.
    pub mtime_ns: i64,
    /// Time of the last change of content or metadata.
    pub ctime_ns: i64,
    /// Names of the inode. Not compared and not kept, as what follows: changing it changes the ctime.
    pub nlink: u32,
    /// A device's number.
    pub rdev: u64,
    /// Blocks of 512 bytes that it takes; fewer than it is long: it may have holes.
    pub blocks: u64,
}

impl Stat {
    /// Whether nothing that is compared differs.
    pub fn same(&self, other: &Stat) -> bool {
        let compared = |stat: &Stat| Stat { nlink: 0, rdev: 0, blocks: 0, ..*stat };
        compared(self) == compared(other)
    }

    /// Whether it may have holes, which then can be asked for.
    pub fn may_have_holes(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }

    /// Whether it may be believed later: it last changed before `clean_before_ns`, so that any change after the
    /// reading has another time.
    pub fn is_clean(&self, clean_before_ns: i64) -> bool {
        self.mtime_ns.max(self.ctime_ns) < clean_before_ns
    }
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// A directory: where its own record is; its `stat` is there too. Otherwise anything else.
    pub child: Option<BlockRef>,
    /// The stat under which it was read; nothing for a directory.
    pub stat: Stat,
    /// Identity of its hard links, 0 for none.
    pub link_id: u64,
    /// Whether an equal stat means an equal content.
    pub trusted: bool,
}

/// Where a directory's record ends in the file, and how many bytes before that are its last rows and the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    end: u64,
    tail_bytes: u32,
}

/// What is kept of a directory besides its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The directory's own stat, taken before it was listed.
    pub stat: Stat,
    /// The pages it became.
    pub page: PageRef,
    /// Whether an equal stat means that the rows name all that is in it.
    pub trusted: bool,
}

const TRUSTED: u8 = 1;
const LINKED: u8 = 2;
const DIRECTORY: u8 = 4;
const FOREIGN_DEVICE: u8 = 8;

/// Stat as it is in rows and records: mode 2, uid 4, gid 4, ino 8, size 8, mtime 8, ctime 8.
const STAT_BYTES: usize = 42;
/// Stat, dev 8, page address 8, length 4, digest 32, flags 1.
/// Then: subtree bytes 8, bytes of the last group 4, earlier groups 4, CRC-32C 4.
const RECORD_BYTES: usize = STAT_BYTES + 8 + 44 + 1 + 8 + 4 + 4 + 4;
/// Distance 8, length 4, CRC-32C 4.
const GROUP_REF_BYTES: usize = 16;

fn put_stat(stat: &Stat, out: &mut Vec<u8>) {
    out.extend_from_slice(&stat.mode.to_le_bytes());
    out.extend_from_slice(&stat.uid.to_le_bytes());
    out.extend_from_slice(&stat.gid.to_le_bytes());
    out.extend_from_slice(&stat.ino.to_le_bytes());
    out.extend_from_slice(&stat.size.to_le_bytes());
    out.extend_from_slice(&stat.mtime_ns.to_le_bytes());
    out.extend_from_slice(&stat.ctime_ns.to_le_bytes());
}

/// Takes values from the front of bytes that may end too early.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn stat(&mut self) -> Option<Stat> {
        Some(Stat {
            mode: self.u16()?,
            uid: self.u32()?,
            gid: self.u32()?,
            ino: self.u64()?,
            size: self.u64()?,
            mtime_ns: self.u64()? as i64,
            ctime_ns: self.u64()? as i64,
            ..Stat::default()
        })
    }
}

/// A stat cache that was written whole by this volume, open for reading.
pub struct StatCache {
    file: File,
    root: BlockRef,
}

impl StatCache {
    /// Opens the stat cache at `path`; `None` if there is none that can be used.
    pub fn open(path: &Path, volume_id: &[u8; 16]) -> Option<StatCache> {
        let file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let trailer_at = length.checked_sub(TRAILER_BYTES).filter(|&at| at >= HEADER_BYTES)?;
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut bytes, 0).ok()?;
        if bytes != header(volume_id) {
            return None;
        }
        let mut bytes = [0; TRAILER_BYTES as usize];
        file.read_exact_at(&mut bytes, trailer_at).ok()?;
        let tail_bytes = Cursor(&bytes).u32()?;
        (bytes == trailer(tail_bytes)).then_some(StatCache { file, root: BlockRef { end: trailer_at, tail_bytes } })
    }

    /// The root directory.
    pub fn root(&self) -> BlockRef {
        self.root
    }

    /// The directory at `block`, before its first row; `None` if it is damaged.
    pub fn directory(&self, block: BlockRef) -> Option<Directory<'_>> {
        let length = block.tail_bytes as usize;
        let start = block.end.checked_sub(length as u64).filter(|&start| start >= HEADER_BYTES)?;
        if !(RECORD_BYTES..=PIECE_BYTES_MAX).contains(&length) {
            return None;
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start).ok()?;
        let (checked, check) = bytes.split_at(length - 4);
        if crc32c::crc32c(checked).to_le_bytes() != *check {
            return None;
        }
        let mut cursor = Cursor(&bytes[length - RECORD_BYTES..]);
        let mut stat = cursor.stat()?;
        stat.dev = cursor.u64()?;
        let page = PageRef { address: cursor.u64()?, length: cursor.u32()?, digest: cursor.array()? };
        let trusted = cursor.bytes(1)?[0] & TRUSTED != 0;
        let subtree_bytes = cursor.u64()?;
        let last_bytes = cursor.u32()? as usize;
        let groups = cursor.u32()? as usize;
        if groups.checked_mul(GROUP_REF_BYTES)?.checked_add(last_bytes)? != length - RECORD_BYTES {
            return None;
        }
        if subtree_bytes < length as u64 || subtree_bytes > block.end - HEADER_BYTES {
            return None;
        }
        let (rows, tail) = if groups == 0 {
            bytes.truncate(last_bytes);
            (Rows { bytes, at: 0, start }, Vec::new())
        } else {
            (Rows::default(), bytes)
        };
        let record = Record { stat, page, trusted };
        let next_group = if groups == 0 { 1 } else { 0 };
        Some(Directory {
            cache: self,
            record,
            block,
            subtree_bytes,
            last_bytes,
            groups,
            next_group,
            tail,
            rows,
            seen: None,
            damaged: false,
        })
    }

    fn read(&self, offset: u64, length: usize, check: u32) -> Option<Vec<u8>> {
        if length > PIECE_BYTES_MAX || offset < HEADER_BYTES {
            return None;
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        (crc32c::crc32c(&bytes) == check).then_some(bytes)
    }
}

/// Rows that are in memory.
#[derive(Default)]
struct Rows {
    bytes: Vec<u8>,
    at: usize,
    /// Offset in the file of the first byte: distances to children count from here.
    start: u64,
}

/// A cached directory: its record, and its rows one after the other, names ascending.
pub struct Directory<'a> {
    cache: &'a StatCache,
    /// What is kept of the directory itself.
    pub record: Record,
    block: BlockRef,
    subtree_bytes: u64,
    last_bytes: usize,
    groups: usize,
    next_group: usize,
    /// The record with the group references and the last rows; empty if there is one group.
    tail: Vec<u8>,
    rows: Rows,
    /// The row at the front, once it was looked at.
    seen: Option<Seen>,
    /// Rows could not be read.
    damaged: bool,
}

#[derive(Clone, Copy)]
struct Seen {
    row: Row,
    /// Where the name begins and where, after its NUL, the next row does.
    name: usize,
    next: usize,
}

impl Directory<'_> {
    /// Where it is.
    pub fn block(&self) -> BlockRef {
        self.block
    }

    /// The next row without its being taken. `None` at the end, and where the file is damaged.
    pub fn peek(&mut self) -> Option<(&CStr, Row)> {
        let seen = match self.seen {
            Some(seen) => seen,
            None => {
                while self.rows.at == self.rows.bytes.len() {
                    if self.damaged || self.next_group > self.groups {
                        return None;
                    }
                    let rows = self.next_rows();
                    self.damaged = rows.is_none();
                    self.rows = rows?;
                    self.next_group += 1;
                }
                let seen = parse_row(&self.rows, &self.record.stat);
                self.damaged = seen.is_none();
                seen?
            }
        };
        self.seen = Some(seen);
        let name = CStr::from_bytes_with_nul(&self.rows.bytes[seen.name..seen.next]).ok()?;
        Some((name, seen.row))
    }

    /// Takes the row that `peek` shows.
    pub fn advance(&mut self) {
        if let Some(seen) = self.seen.take() {
            self.rows.at = seen.next;
        }
    }

    /// Whether the rows ended because they could not be read. Then nothing may be concluded from what was not seen.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    fn next_rows(&self) -> Option<Rows> {
        let index = self.next_group;
        let tail_start = self.block.end - u64::from(self.block.tail_bytes);
        if index == self.groups {
            return Some(Rows { bytes: self.tail[..self.last_bytes].to_vec(), at: 0, start: tail_start });
        }
        let mut cursor = Cursor(self.tail.get(self.last_bytes + index * GROUP_REF_BYTES..)?);
        let (distance, length, check) = (cursor.u64()?, cursor.u32()? as usize, cursor.u32()?);
        let start = tail_start.checked_sub(distance)?;
        Some(Rows { bytes: self.cache.read(start, length, check)?, at: 0, start })
    }
}

/// The row at the front of `rows`, which belong to a directory with the stat `directory`.
fn parse_row(rows: &Rows, directory: &Stat) -> Option<Seen> {
    let mut cursor = Cursor(&rows.bytes[rows.at..]);
    let [flags, name_bytes] = cursor.array()?;
    let mut row = Row { child: None, stat: Stat::default(), link_id: 0, trusted: flags & TRUSTED != 0 };
    if flags & DIRECTORY != 0 {
        let (distance, tail_bytes) = (cursor.u64()?, cursor.u32()?);
        row.child = Some(BlockRef { end: rows.start.checked_sub(distance)?, tail_bytes });
    } else {
        row.stat = cursor.stat()?;
        row.stat.dev = if flags & FOREIGN_DEVICE != 0 { cursor.u64()? } else { directory.dev };
        row.link_id = if flags & LINKED != 0 { cursor.u64()? } else { 0 };
    }
    let name = rows.bytes.len() - cursor.0.len();
    let next = name + usize::from(name_bytes) + 1;
    cursor.bytes(next - name)?;
    (name_bytes != 0).then_some(Seen { row, name, next })
}

fn header(volume_id: &[u8; 16]) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8] = VERSION;
    bytes[16..32].copy_from_slice(volume_id);
    let check = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&check.to_le_bytes());
    bytes
}

fn trailer(tail_bytes: u32) -> [u8; TRAILER_BYTES as usize] {
    let mut bytes = [0; TRAILER_BYTES as usize];
    bytes[..4].copy_from_slice(&tail_bytes.to_le_bytes());
    bytes[8..16].copy_from_slice(&MAGIC);
    bytes[8..16].reverse();
    let check = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// Writes a stat cache. Without [`Writer::finish`] the file is not one.
pub struct Writer {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// Bytes written, those in the buffer included.
    position: u64,
}

/// A directory while its rows are being written.
pub struct OpenDirectory {
    /// Where its subtree begins.
    begin: u64,
    device: u64,
    rows: Vec<u8>,
    /// Places in `rows` that wait for a distance, and the position to which it leads.
    children: Vec<(usize, u64)>,
    groups: Vec<(u64, u32, u32)>,
}

impl Writer {
    /// Begins a stat cache at `path`, which it replaces.
    pub fn create(path: &Path, volume_id: &[u8; 16]) -> Result<Writer> {
        // It names every file of the sources: nobody else's business.
        fault::before(Step::Create).map_err(|e| Error::io("create", path, e))?;
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = opened.map_err(|e| Error::io("create", path, e))?;
        let buffer = header(volume_id).to_vec();
        Ok(Writer { path: path.to_path_buf(), file, buffer, position: HEADER_BYTES })
    }

    /// Begins a directory on device `device`. Directories nest: what is begun later is finished earlier.
    pub fn begin(&self, device: u64) -> OpenDirectory {
        OpenDirectory { begin: self.position, device, rows: Vec::new(), children: Vec::new(), groups: Vec::new() }
    }

    /// Appends a row, its name greater than all before.
    pub fn row(&mut self, directory: &mut OpenDirectory, name: &[u8], row: &Row) -> Result<()> {
        if directory.rows.len() >= GROUP_BYTES {
            self.close_group(directory)?;
        }
        let mut flags = if row.trusted { TRUSTED } else { 0 };
        let out = &mut directory.rows;
        let length = u8::try_from(name.len()).map_err(|_| Error::Invalid("a name is longer than 255 bytes".into()))?;
        if let Some(child) = row.child {
            out.extend_from_slice(&[flags | DIRECTORY, length]);
            directory.children.push((out.len(), child.end));
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(&child.tail_bytes.to_le_bytes());
        } else {
            flags |= if row.link_id != 0 { LINKED } else { 0 };
            flags |= if row.stat.dev != directory.device { FOREIGN_DEVICE } else { 0 };
            out.extend_from_slice(&[flags, length]);
            put_stat(&row.stat, out);
            if flags & FOREIGN_DEVICE != 0 {
                out.extend_from_slice(&row.stat.dev.to_le_bytes());
            }
            if flags & LINKED != 0 {
                out.extend_from_slice(&row.link_id.to_le_bytes());
            }
        }
        out.extend_from_slice(name);
        out.push(0);
        Ok(())
    }

    /// Ends a directory.
    pub fn end(&mut self, mut directory: OpenDirectory, record: &Record) -> Result<BlockRef> {
        let start = self.position;
        directory.settle_children(start);
        let OpenDirectory { begin, rows, groups, .. } = directory;
        let mut bytes = rows;
        let last_bytes = bytes.len();
        for (position, length, check) in &groups {
            bytes.extend_from_slice(&(start - position).to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&check.to_le_bytes());
        }
        put_stat(&record.stat, &mut bytes);
        bytes.extend_from_slice(&record.stat.dev.to_le_bytes());
        bytes.extend_from_slice(&record.page.address.to_le_bytes());
        bytes.extend_from_slice(&record.page.length.to_le_bytes());
        bytes.extend_from_slice(&record.page.digest);
        bytes.push(if record.trusted { TRUSTED } else { 0 });
        // The CRC's own four bytes belong to the subtree.
        let subtree_bytes = start - begin + bytes.len() as u64 + 20;
        bytes.extend_from_slice(&subtree_bytes.to_le_bytes());
        bytes.extend_from_slice(&(last_bytes as u32).to_le_bytes());
        bytes.extend_from_slice(&(groups.len() as u32).to_le_bytes());
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        self.write(&bytes)?;
        Ok(BlockRef { end: self.position, tail_bytes: bytes.len() as u32 })
    }

    /// Copies the whole subtree of a directory of another stat cache. `None` if it cannot be read.
    pub fn copy(&mut self, from: &StatCache, block: BlockRef) -> Result<Option<BlockRef>> {
        let Some(directory) = from.directory(block) else { return Ok(None) };
        let mut left = directory.subtree_bytes;
        while left > 0 {
            let mut piece = vec![0; left.min(WRITE_BYTES as u64) as usize];
            if from.file.read_exact_at(&mut piece, block.end - left).is_err() {
                return Ok(None);
            }
            self.write(&piece)?;
            left -= piece.len() as u64;
        }
        Ok(Some(BlockRef { end: self.position, tail_bytes: block.tail_bytes }))
    }

    /// Ends the file; `root` is its last directory.
    pub fn finish(mut self, root: BlockRef) -> Result<()> {
        debug_assert_eq!(root.end, self.position);
        self.write(&trailer(root.tail_bytes))?;
        self.flush()
    }

    fn close_group(&mut self, directory: &mut OpenDirectory) -> Result<()> {
        let start = self.position;
        directory.settle_children(start);
        let check = crc32c::crc32c(&directory.rows);
        directory.groups.push((start, directory.rows.len() as u32, check));
        self.write(&directory.rows)?;
        directory.rows.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        fault::before(Step::Write).map_err(|e| Error::io("write", &self.path, e))?;
        self.file.write_all(&self.buffer).map_err(|e| Error::io("write", &self.path, e))?;
        self.buffer.clear();
        Ok(())
    }
}

impl OpenDirectory {
    /// The rows come to rest at `start`: says how far back the children are.
    fn settle_children(&mut self, start: u64) {
        for (at, position) in self.children.drain(..) {
            self.rows[at..at + 8].copy_from_slice(&(start - position).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const VOLUME: [u8; 16] = [5; 16];

    fn page(number: u64) -> PageRef {
        PageRef { address: number, length: number as u32, digest: [number as u8; 32] }
    }

    fn record(number: u64) -> Record {
        let stat = Stat { dev: 40, ino: number, mtime_ns: -(number as i64), ..Stat::default() };
        Record { stat, page: page(number), trusted: number.is_multiple_of(2) }
    }

    fn row(number: u64) -> Row {
        let stat = Stat {
            mode: 0o100_644,
            uid: number as u32,
            gid: 7,
            dev: 40 + number % 3 / 2,
            ino: number << 40,
            size: number * 1000,
            mtime_ns: i64::MIN + number as i64,
            ctime_ns: i64::MAX - number as i64,
            ..Stat::default()
        };
        let link_id = if number.is_multiple_of(4) { number } else { 0 };
        Row { child: None, stat, link_id, trusted: !number.is_multiple_of(5) }
    }

    /// A directory of `rows` files with a directory of one file after every 1,000th.
    fn write(path: &Path, rows: u64) -> BlockRef {
        let mut writer = Writer::create(path, &VOLUME).unwrap();
        let mut root = writer.begin(40);
        for number in 0..rows {
            writer.row(&mut root, format!("{number:08}").as_bytes(), &row(number)).unwrap();
            if number % 1000 == 999 {
                let mut below = writer.begin(40);
                writer.row(&mut below, b"only", &row(number)).unwrap();
                let child = Some(writer.end(below, &record(number)).unwrap());
                writer.row(&mut root, format!("{number:08}-d").as_bytes(), &Row { child, ..row(0) }).unwrap();
            }
        }
        let root = writer.end(root, &record(rows)).unwrap();
        writer.finish(root).unwrap();
        root
    }

    fn assert_whole(cache: &StatCache, block: BlockRef, rows: u64) {
        let mut directory = cache.directory(block).unwrap();
        assert_eq!(directory.record, record(rows));
        for number in 0..rows {
            let (name, found) = directory.peek().unwrap();
            assert_eq!((name.to_bytes(), found), (format!("{number:08}").as_bytes(), row(number)));
            directory.advance();
            if number % 1000 == 999 {
                let child = directory.peek().unwrap().1.child.unwrap();
                let mut below = cache.directory(child).unwrap();
                assert_eq!(below.record, record(number));
                assert_eq!(below.peek().unwrap().0, c"only");
                directory.advance();
            }
        }
        assert!(directory.peek().is_none() && !directory.is_damaged());
    }

    #[test]
    fn rows_and_records_come_back_from_directories_of_any_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        for rows in [0, 1, 999, 1001, 12_345] {
            write(&path, rows);

            let cache = StatCache::open(&path, &VOLUME).unwrap();

            assert_whole(&cache, cache.root(), rows);
        }
    }

    #[test]
    fn a_copied_subtree_reads_like_the_original_wherever_it_comes_to_rest() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        write(&old, 5000);
        let cache = StatCache::open(&old, &VOLUME).unwrap();
        let mut writer = Writer::create(&new, &VOLUME).unwrap();
        let mut root = writer.begin(40);
        writer.row(&mut root, b"a", &row(1)).unwrap();
        let child = writer.copy(&cache, cache.root()).unwrap();
        writer.row(&mut root, b"b", &Row { child, ..row(0) }).unwrap();
        let root = writer.end(root, &record(1)).unwrap();
        writer.finish(root).unwrap();

        let copied = StatCache::open(&new, &VOLUME).unwrap();

        let mut directory = copied.directory(copied.root()).unwrap();
        directory.advance();
        directory.peek();
        directory.advance();
        let block = directory.peek().unwrap().1.child.unwrap();
        assert_whole(&copied, block, 5000);
    }

    #[test]
    fn a_file_that_was_not_finished_or_is_another_volumes_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        assert!(StatCache::open(&path, &VOLUME).is_none());
        let mut writer = Writer::create(&path, &VOLUME).unwrap();
        let root = writer.begin(40);
        writer.end(root, &record(0)).unwrap();
        writer.flush().unwrap();
        assert!(StatCache::open(&path, &VOLUME).is_none());
        write(&path, 3);

        assert!(StatCache::open(&path, &[6; 16]).is_none());
        assert!(StatCache::open(&path, &VOLUME).is_some());
    }

    #[test]
    fn only_a_stat_older_than_the_clock_is_clean() {
        let stat = Stat { mtime_ns: 5, ctime_ns: 9, ..Stat::default() };

        assert!(stat.is_clean(10) && !stat.is_clean(9));
        assert!(!Stat { mtime_ns: 10, ..stat }.is_clean(10));
    }

    fn golden(version: u8) -> PathBuf {
        PathBuf::from(format!("{}/../../tests/golden/stat-cache-v{version}.bin", env!("CARGO_MANIFEST_DIR")))
    }

    /// The stat cache in tests/golden, never edited: 1,500 rows in two groups, one directory in them.
    #[test]
    fn a_stat_cache_of_version_2_is_the_golden_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");

        write(&path, 1500);

        assert!(std::fs::read(&path).unwrap() == std::fs::read(golden(2)).unwrap());
        let cache = StatCache::open(&golden(2), &VOLUME).unwrap();
        assert_whole(&cache, cache.root(), 1500);
    }

    /// What it vouches for was stored without extended attributes.
    #[test]
    fn a_stat_cache_of_version_1_is_none() {
        assert!(StatCache::open(&golden(1), &VOLUME).is_none());
    }

    /// Every row of a whole cache, as far as it can be read.
    fn read_all(cache: &StatCache, block: BlockRef, depth: u32) -> usize {
        let Some(mut directory) = cache.directory(block) else { return 0 };
        let mut rows = 0;
        while let Some((_, row)) = directory.peek() {
            rows += 1;
            if let Some(child) = row.child
                && depth < 4
            {
                rows += read_all(cache, child, depth + 1);
            }
            directory.advance();
        }
        rows
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("cache");
            write(&path, 2500);
            let mut bytes = std::fs::read(&path).unwrap();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            std::fs::write(&path, bytes).unwrap();

            if let Some(cache) = StatCache::open(&path, &VOLUME) {
                prop_assert!(read_all(&cache, cache.root(), 0) <= 2504);
            }
        }
    }
}
