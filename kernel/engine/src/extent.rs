//! Lists of extents as bytes (docs/formats/extent-list.md). It checks what an extent may be; whether the bytes are
//! there is for the space to say.
//!
//! An extent is `(code, varint length)`. The code is the zigzag varint of `address - expected`, where expected is the
//! end of the previous stored extent (0 at first), with two codes exchanged so that a hole is always the single byte 1.

use crate::address::{self, Address, Extent, SEGMENT_BYTES};
use crate::varint::{self, VARINT_BYTES_MAX};
use crate::{Error, Result};

/// Bytes of the longest coded extent.
pub const EXTENT_BYTES_MAX: usize = 2 * VARINT_BYTES_MAX;

/// The longest file or hole: what a file offset can say.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Fails unless `extent` could exist: not empty, within one segment that may be granted, or a hole.
#[inline]
pub fn check(extent: Extent) -> Result<()> {
    let Extent { address, length } = extent;
    let sound = match address {
        0 => length <= FILE_BYTES_MAX,
        _ => is_granted(address) && length <= SEGMENT_BYTES - u64::from(address::offset_of(address)),
    };
    if length == 0 || !sound {
        return Err(Error::Invalid(format!("no extent can be {length} bytes at address {address:#x}")));
    }
    Ok(())
}

/// Segment 0 of an epoch is never granted: its addresses stand for nothing.
fn is_granted(address: Address) -> bool {
    address::segment_of(address) & ((1 << address::COUNTER_BITS) - 1) != 0
}

/// The running prediction of where the next extent begins.
#[derive(Clone, Copy, Default)]
pub(crate) struct Expected(Address);

impl Expected {
    #[inline]
    pub(crate) fn code(&mut self, extent: Extent) -> u64 {
        let natural = varint::zigzag(extent.address.wrapping_sub(self.0) as i64);
        let code = self.exchange(natural);
        self.advance(extent);
        code
    }

    /// The address that `code` names; [`advance`](Self::advance) once its length is known and checked.
    #[inline]
    pub(crate) fn address(&self, code: u64) -> Address {
        self.0.wrapping_add(varint::unzigzag(self.exchange(code)) as u64)
    }

    #[inline]
    pub(crate) fn advance(&mut self, extent: Extent) {
        if !extent.is_hole() {
            self.0 = extent.address.wrapping_add(extent.length);
        }
    }

    /// A hole's natural code is as long as an address; the distance -1 is never met. They change places.
    #[inline]
    fn exchange(&self, code: u64) -> u64 {
        let hole = varint::zigzag(0u64.wrapping_sub(self.0) as i64);
        match code {
            1 => hole,
            _ if code == hole => 1,
            _ => code,
        }
    }
}

/// Writes a list piece by piece, so that it need never be in memory whole.
#[derive(Default)]
pub struct ListEncoder {
    expected: Expected,
}

impl ListEncoder {
    /// An encoder at the beginning of a list.
    pub fn new() -> Self {
        ListEncoder::default()
    }

    /// Appends one extent to `out`, which may be emptied between calls.
    pub fn push(&mut self, extent: Extent, out: &mut Vec<u8>) -> Result<()> {
        check(extent)?;
        varint::put(self.expected.code(extent), out);
        varint::put(extent.length, out);
        Ok(())
    }
}

/// A whole list at once: `count` extents follow each other without anything around them.
pub fn encode(extents: &[Extent]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(4 * extents.len());
    let mut encoder = ListEncoder::new();
    extents.iter().try_for_each(|&extent| encoder.push(extent, &mut out))?;
    Ok(out)
}

/// Reads a list piece by piece.
#[derive(Default)]
pub struct ListDecoder {
    expected: Expected,
}

impl ListDecoder {
    /// A decoder at the beginning of a list.
    pub fn new() -> Self {
        ListDecoder::default()
    }

    /// The next extent and how many of `bytes` it took; `None` if `bytes` end inside it (the state is then as before).
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<(Extent, usize)>> {
        let Some((code, first)) = varint::get(bytes)? else { return Ok(None) };
        let Some((length, second)) = varint::get(&bytes[first..])? else { return Ok(None) };
        let extent = Extent { address: self.expected.address(code), length };
        check(extent)?;
        self.expected.advance(extent);
        Ok(Some((extent, first + second)))
    }
}

/// A whole list of exactly `count` extents.
pub fn decode(mut bytes: &[u8], count: u64) -> Result<Vec<Extent>> {
    // An extent takes two bytes at least: what is claimed is bounded by what is there.
    if count > bytes.len() as u64 / 2 {
        return Err(Error::Invalid(format!("{} bytes cannot list {count} extents", bytes.len())));
    }
    let mut extents = Vec::with_capacity(count as usize);
    let mut decoder = ListDecoder::new();
    while let Some((extent, used)) = decoder.next(bytes)? {
        extents.push(extent);
        bytes = &bytes[used..];
    }
    if !bytes.is_empty() || extents.len() as u64 != count {
        return Err(Error::Invalid(format!("a list of {count} extents holds {} or a part of one", extents.len())));
    }
    Ok(extents)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::address::segment_start;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Any extent that may exist: often neighbours, sometimes far, sometimes a hole.
    pub(crate) fn extents() -> impl Strategy<Value = Extent> {
        let stored = (any::<u16>(), prop_oneof![Just(1u64), 1..1u64 << 26], 0u64..(1 << 26), 1u64..300_000).prop_map(
            |(epoch, counter, offset, length)| {
                let address = segment_start((u64::from(epoch & 0xfff) << 26) | counter) + offset;
                Extent { address, length: length.min(SEGMENT_BYTES - offset) }
            },
        );
        prop_oneof![5 => stored, 1 => (1..=FILE_BYTES_MAX).prop_map(|length| Extent { address: 0, length })]
    }

    proptest! {
        #[test]
        fn a_list_comes_back_as_it_went(list in vec(extents(), 0..60)) {
            let bytes = encode(&list).unwrap();

            prop_assert_eq!(decode(&bytes, list.len() as u64).unwrap(), list);
        }

        #[test]
        fn any_bytes_are_a_list_with_one_spelling_or_an_error(bytes in vec(any::<u8>(), 0..80), count in 0u64..40) {
            if let Ok(list) = decode(&bytes, count) {
                prop_assert_eq!(encode(&list).unwrap(), bytes);
            }
        }

        #[test]
        fn a_list_read_in_pieces_is_the_list(list in vec(extents(), 1..40), piece in 1usize..30) {
            let bytes = encode(&list).unwrap();
            let (mut decoder, mut held, mut found) = (ListDecoder::new(), Vec::new(), Vec::new());

            for part in bytes.chunks(piece) {
                held.extend_from_slice(part);
                while let Some((extent, used)) = decoder.next(&held).unwrap() {
                    held.drain(..used);
                    found.push(extent);
                }
            }

            prop_assert_eq!(found, list);
        }
    }

    #[test]
    fn neighbours_and_holes_take_a_byte_for_their_place() {
        let start = segment_start(7) + 4096;
        let list = [
            Extent { address: start, length: 100 },
            Extent { address: 0, length: 50 },
            Extent { address: start + 100, length: 20 },
        ];

        let bytes = encode(&list).unwrap();

        assert_eq!(bytes[bytes.len() - 4..], [1, 50, 0, 20]);
    }

    /// tests/golden/extent-list-v1.json: never edited, read by every version after.
    #[test]
    fn a_list_of_version_1_is_the_golden_one() {
        let at = |offset| segment_start((3 << 26) | 9) + offset;
        let extent = |address, length| Extent { address, length };
        let list = [
            extent(at(4096), 1 << 20),
            extent(at(4096 + (1 << 20)), 100),
            extent(0, 1 << 30),
            extent(at(4196 + (1 << 20)), 1),
            extent(at(4196 + (1 << 20)), 7),
            extent(at(0), 65),
            extent(segment_start(1), 1 << 26),
            extent(segment_start(2), 3),
        ];

        let bytes = encode(&list).unwrap();

        let rows: Vec<_> = list.iter().map(|one| format!("[\"{}\", \"{}\"]", one.address, one.length)).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!("{{\n  \"bytes\": \"{hex}\",\n  \"extents\": [\n    {}\n  ]\n}}\n", rows.join(",\n    "));
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/extent-list-v1.json");
        assert_eq!(text, std::fs::read_to_string(golden).unwrap());
        assert_eq!(decode(&bytes, 8).unwrap(), list);
    }

    #[test]
    fn a_claimed_count_allocates_nothing() {
        assert!(decode(&[0, 1], u64::MAX).is_err());
    }

    #[test]
    fn an_extent_stays_in_its_segment_and_segment_zero_does_not_exist() {
        let last = segment_start(2) - 1;
        assert!(check(Extent { address: last, length: 1 }).is_ok());
        for wrong in [
            Extent { address: last, length: 2 },
            Extent { address: last, length: u64::MAX },
            Extent { address: last, length: 0 },
            Extent { address: 1, length: 1 },
            Extent { address: segment_start(1 << 26), length: 1 },
            Extent { address: 0, length: FILE_BYTES_MAX + 1 },
        ] {
            assert!(matches!(check(wrong), Err(Error::Invalid(_))), "{wrong:?}");
        }
    }
}
