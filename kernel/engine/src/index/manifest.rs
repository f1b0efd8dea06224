//! Which tables make up the index, and how much of each chunk table they cover. Bytes to value and back.

use std::collections::BTreeMap;

const MAGIC: [u8; 8] = *b"PFSIMANI";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 48;
const PAIR_BYTES: usize = 16;

/// What `index/manifest` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The number the next table will have.
    pub(super) next: u64,
    /// Number and count of entries of each table, the largest first.
    pub(super) tables: Vec<(u64, u64)>,
    /// Segment -> bytes of its chunk table whose chunks are in the tables.
    pub(super) stamps: BTreeMap<u64, u64>,
}

impl Manifest {
    pub(super) fn encode(&self, volume_id: &[u8; 16]) -> Vec<u8> {
        let pairs = self.tables.iter().copied().chain(self.stamps.iter().map(|(segment, bytes)| (*segment, *bytes)));
        let mut bytes = Vec::with_capacity(HEADER_BYTES + (self.tables.len() + self.stamps.len()) * PAIR_BYTES + 4);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(volume_id);
        bytes.extend_from_slice(&self.next.to_le_bytes());
        bytes.extend_from_slice(&(self.tables.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.stamps.len() as u32).to_le_bytes());
        for (key, value) in pairs {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let check = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes
    }

    /// What the bytes say, or why they cannot be believed.
    pub(super) fn decode(bytes: &[u8], volume_id: &[u8; 16]) -> Result<Self, &'static str> {
        let Some((body, check)) = bytes.split_last_chunk::<4>().filter(|(body, _)| body.len() >= HEADER_BYTES) else {
            return Err("is cut short");
        };
        if crc32c::crc32c(body) != u32::from_le_bytes(*check) {
            return Err("fails its CRC");
        }
        if body[..8] != MAGIC || body[8] != VERSION {
            return Err("is of another format");
        }
        if body[16..32] != *volume_id {
            return Err("is of another volume");
        }
        let (pairs, rest) = body[HEADER_BYTES..].as_chunks::<PAIR_BYTES>();
        let count = |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]) as usize;
        let (tables, stamps) = (count(40), count(44));
        if !rest.is_empty() || tables.checked_add(stamps) != Some(pairs.len()) {
            return Err("has not the length it says");
        }
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let pair = |pair: &[u8; PAIR_BYTES]| (word(&pair[..8]), word(&pair[8..]));
        Ok(Manifest {
            next: word(&body[32..40]),
            tables: pairs[..tables].iter().map(pair).collect(),
            stamps: pairs[tables..].iter().map(pair).collect(),
        })
    }
}
