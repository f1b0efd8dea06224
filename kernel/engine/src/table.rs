//! The chunk table of a segment: where its chunks end, what they are, and their digests.
//!
//! Bytes in, value or [`Error::Damaged`] out; no file is opened here. The layout is described in
//! docs/formats/chunk-table.md.

use crate::address::SEGMENT_BYTES;
use crate::error::{Error, Result};
use crate::keys::Digest;
use crate::map::MappedFile;
use std::ops::Deref;

/// The first bytes of every chunk table.
pub const MAGIC: [u8; 8] = *b"PFSCHUNK";
/// The version this code reads and writes.
pub const VERSION: u8 = 1;
/// Bytes of the header; the first batch begins here.
pub const HEADER_BYTES: usize = 64;
/// Bytes of one record on disk.
pub const RECORD_BYTES: usize = 37;
/// Bytes of a batch besides its records: start, count, CRC.
pub const BATCH_OVERHEAD_BYTES: usize = 12;

/// What a chunk table says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The volume it belongs to.
    pub volume_id: [u8; 16],
    /// The segment whose chunks it lists.
    pub segment: u64,
    /// Which placement key named the file.
    pub slot_key_id: [u8; 8],
}

impl Header {
    /// The 64 bytes that open the file.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = VERSION;
        bytes[16..32].copy_from_slice(&self.volume_id);
        bytes[32..40].copy_from_slice(&self.segment.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.slot_key_id);
        let check = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads a header from the beginning of `bytes`. The CRC is checked before any field is believed.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(Error::Damaged(format!("chunk table is {} bytes long, its header alone is 64", bytes.len())));
        };
        if bytes[..8] != MAGIC {
            return Err(Error::Damaged("chunk table does not begin with PFSCHUNK".into()));
        }
        if u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err(Error::Damaged("chunk table header fails its CRC".into()));
        }
        if bytes[8] != VERSION {
            return Err(Error::Damaged(format!("chunk table has version {}, this program reads {VERSION}", bytes[8])));
        }
        let (mut volume_id, mut slot_key_id) = ([0; 16], [0; 8]);
        volume_id.copy_from_slice(&bytes[16..32]);
        slot_key_id.copy_from_slice(&bytes[40..48]);
        Ok(Header { volume_id, segment: u64_at(bytes, 32), slot_key_id })
    }
}

/// What a chunk is. Only rebuilding a lost journal and reading pages care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Content of files.
    Data = 0,
    /// A page of a tree, or a listed extent list.
    Tree = 1,
    /// A journal entry with its MAC.
    Journal = 2,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Kind::Data),
            1 => Some(Kind::Tree),
            2 => Some(Kind::Journal),
            _ => None,
        }
    }
}

/// One chunk as it is written: it begins where the one before it in its batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Offset in the segment of the byte after the last.
    pub end: u32,
    /// What it is.
    pub kind: Kind,
    /// Keyed digest of its bytes.
    pub digest: Digest,
}

/// One chunk as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Offset in the segment of its first byte.
    pub start: u32,
    /// Offset in the segment of the byte after its last.
    pub end: u32,
    /// What it is.
    pub kind: Kind,
    /// Keyed digest of its bytes.
    pub digest: Digest,
}

impl ChunkRef {
    /// Its length in bytes.
    pub fn length(&self) -> u32 {
        self.end - self.start
    }
}

/// Appends one batch to `out`: contiguous chunks, the first beginning at `start`. No records, no batch.
pub fn encode_batch(start: u32, records: &[Record], out: &mut Vec<u8>) {
    if records.is_empty() {
        return;
    }
    let from = out.len();
    out.reserve(BATCH_OVERHEAD_BYTES + records.len() * RECORD_BYTES);
    out.extend_from_slice(&start.to_le_bytes());
    // A segment has 2^26 addresses and a chunk at least one of them, so the count fits.
    out.extend_from_slice(&(records.len() as u32).to_le_bytes());
    for record in records {
        out.extend_from_slice(&record.end.to_le_bytes());
        out.push(record.kind as u8);
        out.extend_from_slice(&record.digest);
    }
    let check = crc32c::crc32c(&out[from..]);
    out.extend_from_slice(&check.to_le_bytes());
}

/// Where the bytes of a table live.
pub enum TableBytes {
    /// In a mapped file: the page cache's memory, not ours.
    Mapped(MappedFile),
    /// In our own memory: a lease being filled.
    Owned(Vec<u8>),
}

impl Deref for TableBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            TableBytes::Mapped(file) => file,
            TableBytes::Owned(bytes) => bytes,
        }
    }
}

/// A chunk's place: 12 bytes; kind and digest stay in the table's own bytes.
#[derive(Clone, Copy)]
struct Row {
    start: u32,
    end: u32,
    position: u32,
}

/// The chunks of one segment, by their start.
pub struct SegmentTable {
    segment: u64,
    bytes: TableBytes,
    parsed: usize,
    rows: Vec<Row>,
}

impl SegmentTable {
    /// A table in memory that holds nothing yet: for a lease being filled.
    pub fn empty(segment: u64) -> Self {
        SegmentTable { segment, bytes: TableBytes::Owned(Vec::new()), parsed: 0, rows: Vec::new() }
    }

    /// Reads the first `length` bytes of a chunk table, which must be `expected`'s and end with a whole batch.
    pub fn parse(bytes: TableBytes, length: u64, expected: &Header) -> Result<Self> {
        let header = Header::decode(&bytes)?;
        if header != *expected {
            let what = if header.segment != expected.segment { "segment" } else { "volume or key" };
            return Err(Error::Damaged(format!("chunk table of segment {} is of another {what}", expected.segment)));
        }
        let nothing = TableBytes::Owned(Vec::new());
        SegmentTable { segment: header.segment, bytes: nothing, parsed: HEADER_BYTES, rows: Vec::new() }
            .grown(bytes, length)
    }

    /// The same table with the batches up to `length` too, read from a longer view of the same file.
    pub fn grown(&self, bytes: TableBytes, length: u64) -> Result<Self> {
        let parsed = usize::try_from(length)
            .ok()
            .filter(|&length| length <= bytes.len() && length >= self.parsed && u32::try_from(length).is_ok());
        let Some(parsed) = parsed else {
            return Err(self.damaged(format!("has {} bytes, {length} are committed", bytes.len())));
        };
        let mut rows = batches(&bytes[..parsed], self.parsed).map_err(|what| self.damaged(what))?;
        if !self.rows.is_empty() {
            let mut all = Vec::with_capacity(self.rows.len() + rows.len());
            all.extend_from_slice(&self.rows);
            append(&mut all, rows).map_err(|what| self.damaged(what))?;
            rows = all;
        } else {
            rows = sorted(rows).map_err(|what| self.damaged(what))?;
            rows.shrink_to_fit();
        }
        Ok(SegmentTable { segment: self.segment, bytes, parsed, rows })
    }

    /// Adds the batches in `more` to a table in memory. If this fails the table is as it was.
    pub fn extend(&mut self, more: &[u8]) -> Result<()> {
        let from = self.parsed;
        let TableBytes::Owned(bytes) = &mut self.bytes else {
            return Err(Error::Invalid(format!("chunk table of segment {} is a file's and grows there", self.segment)));
        };
        bytes.truncate(from);
        bytes.extend_from_slice(more);
        let rows = match u32::try_from(bytes.len()) {
            Ok(_) => batches(bytes, from).and_then(|rows| append(&mut self.rows, rows)),
            Err(_) => Err("is beyond 4 GiB".to_string()),
        };
        match rows {
            Ok(()) => {
                self.parsed = bytes.len();
                Ok(())
            }
            Err(what) => {
                bytes.truncate(from);
                Err(self.damaged(what))
            }
        }
    }

    /// Forgets, in a table in memory, the chunks that begin before `offset`: a file describes them now.
    pub fn cut_front(&mut self, offset: u32) {
        self.rows.drain(..self.rows.partition_point(|row| row.start < offset));
    }

    /// Forgets, in a table in memory, the chunks that `file` has as well.
    pub fn drop_known(&mut self, file: &SegmentTable) {
        let is_known = |row: &Row| {
            let found = file.rows.binary_search_by_key(&row.start, |row| row.start);
            found.is_ok_and(|at| file.rows[at].end == row.end)
        };
        self.rows.retain(|row| !is_known(row));
    }

    /// The offset after the last chunk.
    pub fn end(&self) -> u32 {
        self.rows.last().map_or(0, |row| row.end)
    }

    /// The segment it describes.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// How many bytes of the table have been read.
    pub fn parsed_bytes(&self) -> u64 {
        self.parsed as u64
    }

    /// How many chunks it knows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it knows no chunk.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The memory it holds that is not the page cache's.
    pub fn anonymous_bytes(&self) -> usize {
        let owned = match &self.bytes {
            TableBytes::Owned(bytes) => bytes.capacity(),
            TableBytes::Mapped(_) => 0,
        };
        owned + self.rows.capacity() * size_of::<Row>() + size_of::<Self>()
    }

    /// The chunk that begins at `start`.
    pub fn chunk_at(&self, start: u32) -> Option<ChunkRef> {
        self.chunk_within(start, u64::MAX)
    }

    /// The chunk that begins at `start`, if its record lies in the first `table_bytes` bytes of the table.
    pub fn chunk_within(&self, start: u32, table_bytes: u64) -> Option<ChunkRef> {
        let row = &self.rows[self.rows.binary_search_by_key(&start, |row| row.start).ok()?];
        (u64::from(row.position) < table_bytes).then(|| self.chunk(row))
    }

    /// Calls `gap` with start and end of each part of `start..end` that whole chunks of it do not cover, ascending.
    pub fn gaps(&self, start: u32, end: u32, gap: &mut dyn FnMut(u32, u32)) {
        let first = self.rows.partition_point(|row| row.start < start);
        let mut at = start;
        for row in self.rows[first..].iter().take_while(|row| row.end <= end) {
            if at < row.start {
                gap(at, row.start);
            }
            at = row.end;
        }
        if at < end {
            gap(at, end);
        }
    }

    /// All chunks that begin at or after `start`, ascending.
    pub fn chunks_from(&self, start: u32) -> impl Iterator<Item = ChunkRef> + '_ {
        let first = self.rows.partition_point(|row| row.start < start);
        self.rows[first..].iter().map(|row| self.chunk(row))
    }

    /// The chunks that have bytes in `start..end`, ascending.
    pub fn chunks_touching(&self, start: u32, end: u32) -> impl Iterator<Item = ChunkRef> + '_ {
        let first = self.rows.partition_point(|row| row.end <= start);
        self.rows[first..].iter().take_while(move |row| row.start < end).map(|row| self.chunk(row))
    }

    /// The chunks of the range `start..end`, which must be whole chunks without gaps. An empty range has none.
    pub fn chunks_in(&self, start: u32, end: u32) -> Result<impl Iterator<Item = ChunkRef> + '_> {
        let first = self.rows.partition_point(|row| row.start < start);
        let past = first + self.rows[first..].partition_point(|row| row.end <= end);
        let rows = &self.rows[first..past];
        let mut expected = start;
        for row in rows {
            if row.start != expected {
                break;
            }
            expected = row.end;
        }
        if expected != end {
            return Err(self.damaged(format!("has no whole chunks for {start}..{end}, they end at {expected}")));
        }
        Ok(rows.iter().map(|row| self.chunk(row)))
    }

    /// The chunks of the batches that lie at `from..` in the table's bytes, in the order written: what an index
    /// that has already seen the first `from` bytes still has to learn.
    pub fn chunks_written_after(&self, from: u64) -> impl Iterator<Item = ChunkRef> + '_ {
        self.rows.iter().filter(move |row| u64::from(row.position) >= from).map(|row| self.chunk(row))
    }

    fn chunk(&self, row: &Row) -> ChunkRef {
        let at = row.position as usize;
        let mut digest = [0; 32];
        // Both were checked when the row was made; a mapped file that shrank since cannot change its mapped length.
        digest.copy_from_slice(&self.bytes[at + 5..at + RECORD_BYTES]);
        let kind = Kind::from_byte(self.bytes[at + 4]).unwrap_or(Kind::Data);
        ChunkRef { start: row.start, end: row.end, kind, digest }
    }

    fn damaged(&self, what: impl AsRef<str>) -> Error {
        Error::Damaged(format!("chunk table of segment {} {}", self.segment, what.as_ref()))
    }
}

/// The rows of the batches in `bytes[from..]`, in the order written; or what is wrong.
fn batches(bytes: &[u8], from: usize) -> std::result::Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut at = from;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.len() < BATCH_OVERHEAD_BYTES {
            return Err(format!("is cut within the batch at byte {at}"));
        }
        let (mut start, count) = (u32_at(rest, 0), u32_at(rest, 4) as usize);
        // The records must be there before room for them is made: memory stays bounded by the input.
        let whole = count.checked_mul(RECORD_BYTES).and_then(|records| records.checked_add(BATCH_OVERHEAD_BYTES));
        let Some(whole) = whole.filter(|&whole| count > 0 && whole <= rest.len()) else {
            return Err(format!("claims {count} chunks in the batch at byte {at}, where {} bytes follow", rest.len()));
        };
        if u32_at(rest, whole - 4) != crc32c::crc32c(&rest[..whole - 4]) {
            return Err(format!("fails its CRC in the batch at byte {at}"));
        }
        rows.reserve(count);
        for i in 0..count {
            let position = 8 + i * RECORD_BYTES;
            let end = u32_at(rest, position);
            if end <= start || u64::from(end) > SEGMENT_BYTES {
                return Err(format!("has a chunk {start}..{end} in the batch at byte {at}"));
            }
            if Kind::from_byte(rest[position + 4]).is_none() {
                return Err(format!("has a chunk of kind {} in the batch at byte {at}", rest[position + 4]));
            }
            rows.push(Row { start, end, position: (at + position) as u32 });
            start = end;
        }
        at += whole;
    }
    Ok(rows)
}

/// `rows` ascending; or which of them overlap.
fn sorted(mut rows: Vec<Row>) -> std::result::Result<Vec<Row>, String> {
    // A lease fills its segment upwards, so nearly always they are.
    if !rows.is_sorted_by_key(|row| row.start) {
        rows.sort_by_key(|row| row.start);
    }
    match rows.windows(2).find(|pair| pair[0].end > pair[1].start) {
        Some(pair) => Err(overlap(&pair[0], &pair[1])),
        None => Ok(rows),
    }
}

fn overlap(a: &Row, b: &Row) -> String {
    format!("has chunks {}..{} and {}..{}, which overlap", a.start, a.end, b.start, b.end)
}

/// Adds `new` to the ascending `rows`. If chunks overlap, says which and leaves `rows` as it was.
fn append(rows: &mut Vec<Row>, new: Vec<Row>) -> std::result::Result<(), String> {
    let mut new = sorted(new)?;
    let follows = |before: Option<&Row>, after: Option<&Row>| match (before, after) {
        (Some(before), Some(after)) => before.end <= after.start,
        _ => true,
    };
    if follows(rows.last(), new.first()) {
        rows.append(&mut new);
        return Ok(());
    }
    // A run that fills a gap: moved rows cost less than compared ones.
    let at = new.first().map_or(0, |first| rows.partition_point(|row| row.start < first.start));
    if follows(at.checked_sub(1).map(|before| &rows[before]), new.first()) && follows(new.last(), rows.get(at)) {
        rows.splice(at..at, new);
        return Ok(());
    }
    let mut all = Vec::with_capacity(rows.len() + new.len());
    let (mut left, mut right) = (rows.iter().peekable(), new.iter().peekable());
    while let Some(row) = match (left.peek(), right.peek()) {
        (Some(a), Some(b)) if a.start <= b.start => left.next(),
        (Some(_), None) => left.next(),
        _ => right.next(),
    } {
        if let Some(before) = all.last().filter(|before| !follows(Some(before), Some(row))) {
            return Err(overlap(before, row));
        }
        all.push(*row);
    }
    *rows = all;
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: Header = Header { volume_id: [0x11; 16], segment: 0x0000_0010_0000_0002, slot_key_id: [0x22; 8] };

    fn record(end: u32, kind: Kind) -> Record {
        Record { end, kind, digest: [end as u8; 32] }
    }

    fn file(batches: &[(u32, Vec<Record>)]) -> Vec<u8> {
        let mut bytes = HEADER.encode().to_vec();
        for (start, records) in batches {
            encode_batch(*start, records, &mut bytes);
        }
        bytes
    }

    fn parse(bytes: Vec<u8>) -> Result<SegmentTable> {
        let length = bytes.len() as u64;
        SegmentTable::parse(TableBytes::Owned(bytes), length, &HEADER)
    }

    fn all(table: &SegmentTable) -> Vec<(u32, u32, Kind, u8)> {
        table.chunks_from(0).map(|chunk| (chunk.start, chunk.end, chunk.kind, chunk.digest[31])).collect()
    }

    /// Batches that a lease could write: disjoint, with and without gaps between them.
    fn batches_strategy() -> impl Strategy<Value = Vec<(u32, Vec<Record>)>> {
        let lengths = prop::collection::vec((1_u32..70_000, 0_u8..3, any::<[u8; 32]>()), 1..6);
        prop::collection::vec((0_u32..5000, lengths), 0..8).prop_map(|plan| {
            let mut at = 0;
            let batch = |(gap, lengths): (u32, Vec<(u32, u8, Digest)>)| {
                at += gap;
                let start = at;
                let records = lengths.into_iter().map(|(length, kind, digest)| {
                    at += length;
                    Record { end: at, kind: Kind::from_byte(kind).unwrap(), digest }
                });
                (start, records.collect())
            };
            plan.into_iter().map(batch).collect()
        })
    }

    fn expected(batches: &[(u32, Vec<Record>)]) -> Vec<ChunkRef> {
        let mut chunks = Vec::new();
        for (start, records) in batches {
            let mut start = *start;
            for record in records {
                chunks.push(ChunkRef { start, end: record.end, kind: record.kind, digest: record.digest });
                start = record.end;
            }
        }
        chunks.sort_by_key(|chunk| chunk.start);
        chunks
    }

    proptest! {
        #[test]
        fn what_was_written_is_found_in_whatever_order_the_batches_came(
            batches in batches_strategy().prop_shuffle(), split in any::<prop::sample::Index>()
        ) {
            let split = split.index(batches.len() + 1);
            let (whole, first) = (file(&batches), file(&batches[..split]));

            let table = parse(first).unwrap().grown(TableBytes::Owned(whole.clone()), whole.len() as u64).unwrap();

            let chunks = expected(&batches);
            prop_assert_eq!(table.chunks_from(0).collect::<Vec<_>>(), chunks.clone());
            prop_assert!(chunks.iter().all(|chunk| table.chunk_at(chunk.start) == Some(*chunk)));
            prop_assert_eq!(parse(whole).unwrap().len(), chunks.len());
        }

        #[test]
        fn only_the_batches_written_later_are_news(
            batches in batches_strategy(), split in any::<prop::sample::Index>()
        ) {
            let split = split.index(batches.len() + 1);
            let table = parse(file(&batches)).unwrap();

            let news: Vec<_> = table.chunks_written_after(file(&batches[..split]).len() as u64).collect();

            prop_assert_eq!(news, expected(&batches[split..]));
        }

        #[test]
        fn random_bytes_are_an_error_or_a_table(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut behind_a_header = HEADER.encode().to_vec();
            behind_a_header.extend_from_slice(&bytes);
            let mut in_memory = SegmentTable::empty(1);

            let _ = (parse(bytes.clone()), parse(behind_a_header), in_memory.extend(&bytes));
        }

        #[test]
        fn one_flipped_bit_or_a_cut_inside_a_batch_is_noticed(
            batches in batches_strategy(),
            at in any::<prop::sample::Index>(), bit in 0..8, cut in any::<prop::sample::Index>()
        ) {
            let whole = file(&batches);
            let boundaries: Vec<usize> = (0..=batches.len()).map(|n| file(&batches[..n]).len()).collect();
            let mut flipped = whole.clone();
            flipped[at.index(whole.len())] ^= 1_u8 << bit;
            let cut = cut.index(whole.len());

            prop_assert!(matches!(parse(flipped), Err(Error::Damaged(_))));
            prop_assert_eq!(parse(whole[..cut].to_vec()).is_ok(), boundaries.contains(&cut));
        }
    }

    #[test]
    fn chunks_that_overlap_or_leave_the_segment_are_refused_and_nothing_changes() {
        let mut table = SegmentTable::empty(7);
        let mut batch = |start, ends: &[u32]| {
            let mut bytes = Vec::new();
            encode_batch(start, &ends.iter().map(|end| record(*end, Kind::Data)).collect::<Vec<_>>(), &mut bytes);
            table.extend(&bytes).map(|()| all(&table).len()).map_err(|_| all(&table).len())
        };

        assert_eq!(batch(100, &[200, 300]), Ok(2));
        assert_eq!(batch(150, &[160]), Err(2));
        assert_eq!(batch(0, &[101]), Err(2));
        assert_eq!(batch(400, &[400]), Err(2));
        assert_eq!(batch(400, &[SEGMENT_BYTES as u32 + 1]), Err(2));
        assert_eq!(batch(0, &[100]), Ok(3));
        assert_eq!(batch(300, &[SEGMENT_BYTES as u32]), Ok(4));
    }

    #[test]
    fn a_range_must_be_whole_chunks_without_a_gap() {
        let table = parse(file(&[
            (0, vec![record(10, Kind::Data), record(30, Kind::Tree)]),
            (40, vec![record(50, Kind::Data)]),
        ]));
        let table = table.unwrap();
        let count = |start, end| table.chunks_in(start, end).map(Iterator::count).ok();

        assert_eq!((count(0, 30), count(10, 30), count(40, 50), count(20, 20)), (Some(2), Some(1), Some(1), Some(0)));
        assert_eq!(
            (count(0, 50), count(5, 30), count(0, 29), count(30, 40), count(60, 70)),
            (None, None, None, None, None)
        );
    }

    #[test]
    fn a_table_of_another_volume_segment_or_key_is_refused() {
        let others = [
            Header { volume_id: [0; 16], ..HEADER },
            Header { segment: 1, ..HEADER },
            Header { slot_key_id: [0; 8], ..HEADER },
        ];

        for other in others {
            assert!(SegmentTable::parse(TableBytes::Owned(other.encode().to_vec()), 64, &HEADER).is_err());
        }
    }

    #[test]
    fn a_run_fills_a_gap_and_what_a_file_has_too_leaves() {
        let mut table = SegmentTable::empty(7);
        let mut add = |start, ends: &[u32]| {
            let records: Vec<_> = ends.iter().map(|end| record(*end, Kind::Data)).collect();
            let mut bytes = Vec::new();
            encode_batch(start, &records, &mut bytes);
            table.extend(&bytes)
        };
        add(50, &[60]).unwrap();
        add(0, &[10]).unwrap();

        add(20, &[30, 50]).unwrap();
        assert!(add(9, &[15]).is_err() && add(15, &[21]).is_err() && add(10, &[70]).is_err());

        let places = |table: &SegmentTable| all(table).iter().map(|row| (row.0, row.1)).collect::<Vec<_>>();
        assert_eq!(places(&table), [(0, 10), (20, 30), (30, 50), (50, 60)]);
        let mut gaps = Vec::new();
        table.gaps(5, 55, &mut |start, end| gaps.push((start, end)));
        table.gaps(20, 50, &mut |start, end| gaps.push((start, end)));
        assert_eq!(gaps, [(5, 20), (50, 55)]);
        let touching: Vec<_> = table.chunks_touching(10, 31).map(|chunk| chunk.start).collect();
        assert_eq!(touching, [20, 30]);
        let mut file = SegmentTable::empty(7);
        let mut bytes = Vec::new();
        encode_batch(20, &[record(30, Kind::Data), record(45, Kind::Data)], &mut bytes);
        file.extend(&bytes).unwrap();
        table.drop_known(&file);
        table.cut_front(5);
        assert_eq!(places(&table), [(30, 50), (50, 60)]);
    }

    #[test]
    fn a_chunk_costs_twelve_bytes_of_memory_when_a_file_holds_the_rest() {
        let records: Vec<_> = (1..=10_000).map(|n| record(n * 6000, Kind::Data)).collect();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file(&[(0, records)])).unwrap();
        let mapped = crate::map::map_file(path.as_file()).unwrap();
        let length = mapped.len() as u64;

        let table = SegmentTable::parse(TableBytes::Mapped(mapped), length, &HEADER).unwrap();

        assert!(table.anonymous_bytes() < 10_000 * 12 + 200);
    }

    #[test]
    fn the_layout_is_the_golden_files() {
        let golden =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/chunk-table-v1.bin")).unwrap();
        let digest = |first: u8| std::array::from_fn(|i| first.wrapping_add(i as u8));
        let record = |end, kind, first| Record { end, kind, digest: digest(first) };
        let batches = [
            (0, vec![record(8192, Kind::Data, 0), record(40_960, Kind::Tree, 64), record(40_961, Kind::Journal, 128)]),
            (1 << 20, vec![record(1 << 26, Kind::Data, 192)]),
            (45_056, vec![record(1 << 20, Kind::Data, 7)]),
        ];

        assert_eq!(file(&batches), golden);
        assert_eq!(parse(golden).unwrap().chunks_from(0).collect::<Vec<_>>(), expected(&batches));
    }
}
