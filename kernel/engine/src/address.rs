//! Addresses: where a byte is in a volume, for ever. Arithmetic only.
//!
//! `address = epoch (12 bits) | counter (26) | offset in the segment (26)`; a segment's number is
//! the upper 38 bits. Segment 0 of every epoch is never granted, so address 0 is a hole.

/// A position in a volume.
pub type Address = u64;

/// Bits of the offset inside a segment.
pub const OFFSET_BITS: u32 = 26;
/// Bits of the counter inside an epoch.
pub const COUNTER_BITS: u32 = 26;
/// Bits of the epoch.
pub const EPOCH_BITS: u32 = 12;
/// Addresses in a segment: 64 MiB.
pub const SEGMENT_BYTES: u64 = 1 << OFFSET_BITS;
/// Bits of a segment number.
pub const SEGMENT_BITS: u32 = COUNTER_BITS + EPOCH_BITS;

/// A run of addresses. It never crosses a segment, because no chunk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// First address; 0 is a hole.
    pub address: Address,
    /// Length in bytes.
    pub length: u64,
}

impl Extent {
    /// The address after the last.
    pub fn end(&self) -> Address {
        self.address + self.length
    }

    /// Whether it stands for bytes that are all zero and stored nowhere.
    pub fn is_hole(&self) -> bool {
        self.address == 0
    }
}

/// The number of the segment that holds `address`.
pub fn segment_of(address: Address) -> u64 {
    address >> OFFSET_BITS
}

/// The offset of `address` inside its segment.
pub fn offset_of(address: Address) -> u32 {
    (address & (SEGMENT_BYTES - 1)) as u32
}

/// The first address of a segment.
pub fn segment_start(segment: u64) -> Address {
    segment << OFFSET_BITS
}
