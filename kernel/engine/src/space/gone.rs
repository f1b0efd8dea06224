//! What nothing that is kept needs any more. *Condemned* ranges are still there and nothing new is pointed at them;
//! *reclaimed* ones are gone, and what points to them is damaged. Which ranges these are is for the journal to say.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FallocateFlags, fallocate};

use crate::address::{Extent, SEGMENT_BYTES, offset_of, segment_of, segment_start};
use crate::error::{Error, Result};
use crate::fault::{self, Step};
use crate::space::{Space, read, write};

/// Ranges of offsets in one segment: ascending, apart.
pub type SegmentRanges = Vec<(u32, u32)>;

/// What file systems give back: whole blocks.
const BLOCK_BYTES: u32 = 4096;
const RANGE_BYTES: usize = 8;

/// The ranges of this space that are condemned or reclaimed, by segment.
#[derive(Default)]
pub(super) struct Gone {
    condemned: HashMap<u64, SegmentRanges>,
    reclaimed: HashMap<u64, SegmentRanges>,
}

impl Gone {
    pub(super) fn is_reclaimed(&self, segment: u64, start: u32, end: u32) -> bool {
        self.reclaimed.get(&segment).is_some_and(|ranges| touch(ranges, start, end))
    }

    pub(super) fn has(&self, segment: u64, start: u32, end: u32) -> bool {
        self.is_reclaimed(segment, start, end)
            || self.condemned.get(&segment).is_some_and(|ranges| touch(ranges, start, end))
    }
}

impl Space {
    /// Says which ranges are condemned: these and no others.
    pub fn condemn(&self, rows: Vec<(u64, SegmentRanges)>) {
        write(&self.gone).condemned = rows.into_iter().collect();
    }

    /// Says which ranges of these segments are reclaimed; of other segments what was said before still holds.
    pub fn reclaim(&self, rows: Vec<(u64, SegmentRanges)>) {
        write(&self.gone).reclaimed.extend(rows);
    }

    /// All that is condemned or reclaimed.
    pub fn gone(&self) -> Vec<Extent> {
        let gone = read(&self.gone);
        let extents = |(&segment, ranges): (&u64, &SegmentRanges)| {
            let start = segment_start(segment);
            let extent = move |&(from, to): &(u32, u32)| Extent {
                address: start | u64::from(from),
                length: u64::from(to - from),
            };
            ranges.iter().map(extent).collect::<Vec<_>>()
        };
        gone.condemned.iter().chain(&gone.reclaimed).flat_map(extents).collect()
    }

    /// Fails unless something new may point to the bytes of an extent: they are here, and here they stay.
    pub fn check_lasting(&self, extent: Extent) -> Result<()> {
        let segment = segment_of(extent.address);
        match !extent.is_hole() && self.has_gone(extent.address, extent.length) {
            true => Err(self
                .damaged(segment, &format!("{} bytes at {} are given up", extent.length, offset_of(extent.address)))),
            false => Ok(()),
        }
    }

    pub(super) fn has_gone(&self, address: u64, length: u64) -> bool {
        let start = offset_of(address);
        read(&self.gone).has(segment_of(address), start, start.saturating_add(length.min(SEGMENT_BYTES) as u32))
    }

    /// Gives the whole blocks of what is reclaimed of a segment back to the file system, and answers how many bytes that
    /// freed. Done again it frees nothing more. Bytes that are not reclaimed, and the file's length, stay as they are.
    pub fn punch(&self, segment: u64) -> Result<u64> {
        let Some(ranges) = read(&self.gone).reclaimed.get(&segment).cloned() else { return Ok(0) };
        let path = self.data_path(segment);
        let file = File::options().write(true).open(&path).map_err(|source| Error::io("open", &path, source))?;
        let blocks = || file.metadata().map(|found| found.blocks()).map_err(|source| Error::io("stat", &path, source));
        let before = blocks()?;
        for (start, end) in ranges {
            let (from, to) = (start.next_multiple_of(BLOCK_BYTES), end / BLOCK_BYTES * BLOCK_BYTES);
            if from < to {
                fault::before(Step::Resize).map_err(|source| Error::io("punch holes into", &path, source))?;
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, how, from.into(), u64::from(to - from))
                    .map_err(|source| Error::io("punch holes into", &path, source))?;
            }
        }
        fault::before(Step::Sync).map_err(|source| Error::io("sync", &path, source))?;
        file.sync_data().map_err(|source| Error::io("sync", &path, source))?;
        Ok(before.saturating_sub(blocks()?) * 512)
    }
}

/// Ranges from their bytes: start and end of each as u32, little-endian.
pub fn decode_ranges(bytes: &[u8]) -> Result<SegmentRanges> {
    let (words, []) = bytes.as_chunks::<RANGE_BYTES>() else {
        return Err(Error::Invalid(format!("{} bytes are no ranges of {RANGE_BYTES} bytes each", bytes.len())));
    };
    let ranges: SegmentRanges = words
        .iter()
        .map(|&[a, b, c, d, e, f, g, h]| (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
        .collect();
    let ascend = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
    match ascend && ranges.iter().all(|&(start, end)| start < end && u64::from(end) <= SEGMENT_BYTES) {
        true => Ok(ranges),
        false => Err(Error::Invalid("ranges of a segment do not ascend, touch, or go beyond it".into())),
    }
}

/// The bytes of ranges.
pub fn encode_ranges(ranges: &[(u32, u32)]) -> Vec<u8> {
    ranges.iter().flat_map(|(start, end)| [start.to_le_bytes(), end.to_le_bytes()]).flatten().collect()
}

/// What lies in either; ranges that touch become one.
pub fn merge_ranges(one: &[(u32, u32)], other: &[(u32, u32)]) -> SegmentRanges {
    let mut all = [one, other].concat();
    all.sort_unstable();
    all.dedup_by(|next, before| {
        let touches = next.0 <= before.1;
        if touches {
            before.1 = before.1.max(next.1);
        }
        touches
    });
    all
}

fn touch(ranges: &[(u32, u32)], start: u32, end: u32) -> bool {
    let after = ranges.partition_point(|range| range.1 <= start);
    ranges.get(after).is_some_and(|range| range.0 < end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = SegmentRanges> {
        vec((0u32..300, 1u32..30), 0..12).prop_map(|list| {
            merge_ranges(&[], &list.iter().map(|&(start, length)| (start, start + length)).collect::<Vec<_>>())
        })
    }

    fn bytes_of(ranges: &[(u32, u32)]) -> Vec<u32> {
        ranges.iter().flat_map(|&(start, end)| start..end).collect()
    }

    proptest! {
        #[test]
        fn merged_ranges_hold_the_bytes_of_both_and_survive_their_encoding(one in ranges(), other in ranges()) {
            let merged = merge_ranges(&one, &other);

            let mut expected = [bytes_of(&one), bytes_of(&other)].concat();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(bytes_of(&merged), expected);
            prop_assert_eq!(decode_ranges(&encode_ranges(&merged)).unwrap(), merged);
        }

        #[test]
        fn a_range_touches_where_it_has_a_byte_in_common(list in ranges(), start in 0u32..330, length in 1u32..40) {
            let common = bytes_of(&list).iter().any(|at| (start..start + length).contains(at));

            prop_assert_eq!(touch(&list, start, start + length), common);
        }

        #[test]
        fn arbitrary_bytes_are_ranges_or_an_error(bytes in vec(any::<u8>(), 0..64)) {
            if let Ok(found) = decode_ranges(&bytes) {
                prop_assert_eq!(encode_ranges(&found), bytes);
            }
        }
    }
}
