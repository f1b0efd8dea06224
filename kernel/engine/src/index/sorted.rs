//! An immutable table of claims, sorted by tag, looked up in its mapped file.
//!
//! Layout: docs/formats/index.md. Only header and lengths are checked on opening: an entry is a claim that somebody
//! else confirms, so a damaged one is a missed or a refused claim and never a wrong answer. Nothing here may panic on
//! it.

use super::Entry;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::fault::{self, Step};
use crate::map::{MappedFile, map_file};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: [u8; 8] = *b"PFSINDEX";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 64;
/// On disk an entry is its tag and its address, both little-endian, sorted.
pub(super) const ENTRY_BYTES: usize = 16;
/// Mean entries per bucket lie between this and its double: 4 keeps an entry under 17 bytes, fan-out included, and a
/// bucket within two cache lines.
const BUCKET_ENTRIES_MIN: u64 = 4;
/// 2^31 buckets need 8 GiB of fan-out; the count of entries is kept below 2^32 because the fan-out holds u32.
const FAN_BITS_MAX: u32 = 30;
/// So many look-ups go through each stage together: their cache misses overlap instead of queueing.
const GROUP: usize = 32;
/// A longer bucket than this can only be damage or a flood of one tag; it is searched by halves instead of in line.
const SCAN_MAX: usize = 64;

/// One mapped table.
pub(super) struct SortedTable {
    file: MappedFile,
    fan_bits: u32,
    count: usize,
    entries_at: usize,
}

fn fan_bits_for(count: u64) -> u32 {
    (count / BUCKET_ENTRIES_MIN).checked_ilog2().unwrap_or(0).min(FAN_BITS_MAX)
}

/// Where the entries begin: after header and fan-out, on a cache line.
fn entries_at(fan_bits: u32) -> usize {
    (HEADER_BYTES + 4 * ((1 << fan_bits) + 1)).next_multiple_of(64)
}

fn bucket(tag: u64, fan_bits: u32) -> usize {
    // In two steps, because a shift by 64 is no shift.
    (tag >> 1 >> (63 - fan_bits)) as usize
}

fn decode(entry: &[u8; ENTRY_BYTES]) -> Entry {
    let (mut tag, mut address) = ([0; 8], [0; 8]);
    tag.copy_from_slice(&entry[..8]);
    address.copy_from_slice(&entry[8..]);
    Entry { tag: u64::from_le_bytes(tag), address: u64::from_le_bytes(address) }
}

impl SortedTable {
    /// Opens a table that must be `volume_id`'s and hold `count` entries.
    pub(super) fn open(path: &Path, volume_id: &[u8; 16], count: u64) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
        let file = map_file(&file)?;
        let damaged = |what: &str| Error::Damaged(format!("index table {} {what}", path.display()));
        let header = file.first_chunk::<HEADER_BYTES>().ok_or_else(|| damaged("is shorter than its header"))?;
        if header[60..] != crc32c::crc32c(&header[..60]).to_le_bytes() {
            return Err(damaged("fails the CRC of its header"));
        }
        if header[..8] != MAGIC || header[8] != VERSION || header[16..32] != *volume_id {
            return Err(damaged("is of another format or volume"));
        }
        if header[32..40] != count.to_le_bytes() {
            return Err(damaged("has not the entries its manifest says"));
        }
        let fan_bits = u32::from(header[9]);
        let whole = |count: u64| {
            (fan_bits <= FAN_BITS_MAX && count <= u64::from(u32::MAX))
                .then(|| entries_at(fan_bits) as u64 + count * ENTRY_BYTES as u64)
        };
        if whole(count) != Some(file.len() as u64) {
            return Err(damaged("has not the length its header says"));
        }
        Ok(SortedTable { file, fan_bits, count: count as usize, entries_at: entries_at(fan_bits) })
    }

    /// How many entries it holds.
    pub(super) fn count(&self) -> u64 {
        self.count as u64
    }

    /// Bytes of its file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file.len() as u64
    }

    /// All entries in their order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.raw().iter().map(decode)
    }

    fn raw(&self) -> &[[u8; ENTRY_BYTES]] {
        self.file[self.entries_at..].as_chunks().0
    }

    fn fan(&self) -> &[[u8; 4]] {
        self.file[HEADER_BYTES..self.entries_at].as_chunks().0
    }

    /// Calls `claim` with each address for `tag` until it answers false.
    pub(super) fn find(&self, tag: u64, claim: impl FnMut(Address) -> bool) {
        let rows = self.bucket_rows(tag);
        let first = rows.partition_point(|row| decode(row).tag < tag);
        let claims = rows[first..].iter().map(decode).take_while(|row| row.tag == tag);
        claims.map(|row| row.address).all(claim);
    }

    /// Whether it has exactly this entry.
    pub(super) fn contains(&self, entry: Entry) -> bool {
        self.bucket_rows(entry.tag).binary_search_by_key(&entry, decode).is_ok()
    }

    fn bucket_rows(&self, tag: u64) -> &[[u8; ENTRY_BYTES]] {
        let raw = self.raw();
        let (low, high) = range(self.fan(), bucket(tag, self.fan_bits), raw.len());
        &raw[low..high]
    }

    /// Writes the first address claimed for each tag over the zeros in `claims`, which is as long; else they stay.
    ///
    /// Stage by stage over groups: each stage does one dependent load for every look-up of the group, so that the
    /// processor has a group's worth of misses in flight. That is what prefetching gives, in safe code.
    pub(super) fn find_batch(&self, tags: &[u64], claims: &mut [Address]) {
        let (fan, raw) = (self.fan(), self.raw());
        if raw.is_empty() {
            return;
        }
        for (tags, claims) in tags.chunks(GROUP).zip(claims.chunks_mut(GROUP)) {
            let mut ranges = [(0, 0); GROUP];
            for (range_, tag) in ranges.iter_mut().zip(tags) {
                *range_ = range(fan, bucket(*tag, self.fan_bits), raw.len());
            }
            let mut firsts = [Entry { tag: 0, address: 0 }; GROUP];
            for (first, (low, _)) in firsts.iter_mut().zip(&ranges[..tags.len()]) {
                *first = decode(&raw[(*low).min(raw.len() - 1)]);
            }
            for (((tag, claim), first), (low, high)) in tags.iter().zip(claims).zip(&firsts).zip(&ranges) {
                if low == high || first.tag > *tag {
                    continue;
                }
                let rows = &raw[*low..*high];
                let at = if rows.len() <= SCAN_MAX {
                    rows.iter().position(|row| decode(row).tag >= *tag).unwrap_or(rows.len())
                } else {
                    rows.partition_point(|row| decode(row).tag < *tag)
                };
                if let Some(row) = rows.get(at).map(decode).filter(|row| row.tag == *tag) {
                    *claim = row.address;
                }
            }
        }
    }
}

/// The entries of a bucket; whatever a damaged fan-out says, a range within the entries.
fn range(fan: &[[u8; 4]], bucket: usize, count: usize) -> (usize, usize) {
    let low = u32::from_le_bytes(fan[bucket]) as usize;
    let high = (u32::from_le_bytes(fan[bucket + 1]) as usize).min(count);
    (low.min(high), high)
}

/// Writes the union of ascending `sources` to the new file at `path`, synced, and returns how many entries it has.
///
/// Memory is two buffers, whatever the size. A source that turns out not to ascend is `Damaged`; the file is then
/// garbage that no manifest names.
pub(super) fn write(
    path: &Path,
    volume_id: &[u8; 16],
    sources: Vec<Box<dyn Iterator<Item = Entry> + '_>>,
    at_most: u64,
) -> Result<u64> {
    if at_most > u64::from(u32::MAX) {
        return Err(Error::Invalid(format!("an index table holds at most 2^32 - 1 entries, not {at_most}")));
    }
    let fan_bits = fan_bits_for(at_most);
    let failed = |source| Error::io("write", path, source);
    // Never in place: another process may still have an older file of this name mapped.
    fault::before(Step::Remove).map_err(|e| Error::io("write", path, e))?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fault::before(Step::Create).map_err(|e| Error::io("write", path, e))?;
    let file = File::options().write(true).create_new(true).open(path).map_err(failed)?;
    let mut fan = Region { file: &file, at: HEADER_BYTES as u64, buffer: Vec::with_capacity(REGION_BYTES) };
    let mut rows = Region { file: &file, at: entries_at(fan_bits) as u64, buffer: Vec::with_capacity(REGION_BYTES) };
    let (mut count, mut buckets) = (0_u32, 0);
    let mut last = None;
    let mut heads: Vec<_> = sources.into_iter().filter_map(|mut rest| rest.next().map(|head| (head, rest))).collect();
    while let Some(least) = heads.iter().enumerate().min_by_key(|(_, (head, _))| *head).map(|(at, _)| at) {
        let (head, rest) = &mut heads[least];
        let entry = *head;
        match rest.next() {
            Some(next) => *head = next,
            None => drop(heads.swap_remove(least)),
        }
        if last >= Some(entry) {
            if last == Some(entry) {
                continue;
            }
            return Err(Error::Damaged(format!("an index table merged into {} does not ascend", path.display())));
        }
        last = Some(entry);
        let bucket = bucket(entry.tag, fan_bits);
        while buckets <= bucket {
            fan.push(&count.to_le_bytes()).map_err(failed)?;
            buckets += 1;
        }
        rows.push(&entry.tag.to_le_bytes()).map_err(failed)?;
        rows.push(&entry.address.to_le_bytes()).map_err(failed)?;
        count = count.checked_add(1).ok_or_else(|| Error::Invalid("an index table is full".into()))?;
    }
    while buckets <= 1 << fan_bits {
        fan.push(&count.to_le_bytes()).map_err(failed)?;
        buckets += 1;
    }
    fan.flush().map_err(failed)?;
    rows.flush().map_err(failed)?;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8] = VERSION;
    header[9] = fan_bits as u8;
    header[16..32].copy_from_slice(volume_id);
    header[32..40].copy_from_slice(&u64::from(count).to_le_bytes());
    let check = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&check.to_le_bytes());
    fault::before(Step::Write).map_err(|e| Error::io("write", path, e))?;
    file.write_all_at(&header, 0).map_err(failed)?;
    // An empty table ends with its fan-out's padding.
    let length = entries_at(fan_bits) as u64 + u64::from(count) * ENTRY_BYTES as u64;
    fault::before(Step::Resize).map_err(|e| Error::io("write", path, e))?;
    file.set_len(length).map_err(failed)?;
    fault::before(Step::Sync).map_err(|e| Error::io("write", path, e))?;
    file.sync_data().map_err(failed)?;
    Ok(u64::from(count))
}

const REGION_BYTES: usize = 1 << 20; // one write per MiB: far below the cost of producing it

/// A part of a file that is written from its beginning to its end, beside other parts.
struct Region<'a> {
    file: &'a File,
    at: u64,
    buffer: Vec<u8>,
}

impl Region<'_> {
    fn push(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.buffer.len() + bytes.len() > REGION_BYTES {
            self.flush()?;
        }
        self.buffer.write_all(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        fault::before(Step::Write)?;
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
