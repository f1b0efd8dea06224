//! Chunk and digest in one pass. Looks nothing up and stores nothing.
//!
//! Each chunk is digested right after its end is found, while its bytes are still in the second-level cache.

use std::sync::{Mutex, PoisonError};

use crate::chunker::{Cutter, Profile, within_offsets};
use crate::digest::digest;
use crate::keys::Digest;

/// A chunk: it begins where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Offset of its end in the scanned data.
    pub end: u32,
    /// Keyed BLAKE3-256 of its bytes.
    pub digest: Digest,
}

/// Appends the chunks of `data` to `out`, on this thread. `last` and the 4 GiB bound are those of
/// [`cuts`](crate::chunker::cuts).
pub fn scan(data: &[u8], profile: &Profile, digest_key: &[u8; 32], last: bool, out: &mut Vec<Chunk>) {
    let (data, last) = within_offsets(data, last);
    out.reserve(data.len() / profile.params().avg as usize + 1);
    let mut cutter = Cutter::new(profile);
    let mut start = 0;
    while let Some(end) = cutter.next_end(data, start, last) {
        out.push(Chunk { end: end as u32, digest: digest(digest_key, &data[start..end]) });
        start = end;
    }
}

/// Bytes of chunks handed to another thread at once: under 0.1 ms of digesting, far above the cost of a hand-over.
const BATCH_BYTES: usize = 512 << 10;

/// The same answer as [`scan`] from all cores: one thread finds ends, the others digest behind it.
///
/// Worth it for windows of 4 MiB and more; below, it is [`scan`]. Must not be called with locks held that a rayon
/// worker could want.
pub fn scan_wide(data: &[u8], profile: &Profile, digest_key: &[u8; 32], last: bool, out: &mut Vec<Chunk>) {
    if data.len() < WIDE_BYTES_MIN {
        return scan(data, profile, digest_key, last, out);
    }
    let (data, last) = within_offsets(data, last);
    let batches = Mutex::new(Vec::new());
    rayon::scope(|scope| {
        let batches = &batches;
        let hand_over = |start: usize, ends: Vec<u32>| {
            scope.spawn(move |_| {
                let chunks = digest_batch(data, digest_key, start, &ends);
                batches.lock().unwrap_or_else(PoisonError::into_inner).push((start, chunks));
            });
        };
        let mut cutter = Cutter::new(profile);
        let (mut first, mut start, mut ends) = (0, 0, Vec::new());
        while let Some(end) = cutter.next_end(data, start, last) {
            ends.push(end as u32);
            start = end;
            if start - first >= BATCH_BYTES {
                hand_over(first, std::mem::take(&mut ends));
                first = start;
            }
        }
        hand_over(first, ends);
    });
    let mut batches = batches.into_inner().unwrap_or_else(PoisonError::into_inner);
    batches.sort_unstable_by_key(|&(start, _)| start);
    out.extend(batches.into_iter().flat_map(|(_, chunks)| chunks));
}

/// Below this the hand-over costs more than the second core gives.
const WIDE_BYTES_MIN: usize = 1 << 20;

fn digest_batch(data: &[u8], digest_key: &[u8; 32], start: usize, ends: &[u32]) -> Vec<Chunk> {
    let mut start = start;
    let chunk = |&end: &u32| {
        let bytes = &data[start..end as usize];
        start = end as usize;
        Chunk { end, digest: digest(digest_key, bytes) }
    };
    ends.iter().map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::{Params, cuts};
    use crate::keys::keyed;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn scanning_gives_the_cuts_and_the_keyed_digest_of_each_chunk() {
        let data = noise(1 << 20);
        let profile = Profile::new(&[1; 32], Params::DEFAULT);
        for last in [false, true] {
            let (mut ends, mut chunks) = (Vec::new(), Vec::new());
            cuts(&data, &profile, last, &mut ends);
            scan(&data, &profile, &[2; 32], last, &mut chunks);

            let mut start = 0;
            assert_eq!(chunks.iter().map(|chunk| chunk.end).collect::<Vec<_>>(), ends);
            for chunk in &chunks {
                assert_eq!(chunk.digest, keyed(&[2; 32], &data[start..chunk.end as usize]));
                start = chunk.end as usize;
            }
        }
    }

    #[test]
    fn a_wide_scan_answers_like_a_narrow_one() {
        let data = noise(5 << 20);
        for params in [Params::DEFAULT, Params { min: 64, avg: 1024, max: 8192, normalisation: 1 }] {
            let profile = Profile::new(&[3; 32], params);
            for (length, last) in
                [(data.len(), true), (data.len(), false), (WIDE_BYTES_MIN, true), (100, true), (0, true)]
            {
                let (mut narrow, mut wide) = (Vec::new(), Vec::new());
                scan(&data[..length], &profile, &[4; 32], last, &mut narrow);
                scan_wide(&data[..length], &profile, &[4; 32], last, &mut wide);
                assert_eq!(narrow, wide);
            }
        }
    }
}
