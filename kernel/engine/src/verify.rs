//! Every committed byte against its digest, a bounded piece at a time. It finds damage and names it; it repairs
//! nothing. What was reclaimed is not there to be checked.

use crate::address::{Extent, segment_start};
use crate::error::{Error, Result};
use crate::keys::keyed;
use crate::map::guarded;
use crate::space::Space;
use crate::table::ChunkRef;
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

/// Less than this is checked by one thread: it takes no longer than beginning several.
const WIDE_BYTES_MIN: u64 = 1 << 20;

/// What one call of [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Bytes that were held against their digest, damaged ones included.
    pub checked_bytes: u64,
    /// Where to go on; the segment's head when nothing is left.
    pub next_start: u32,
    /// What is not what it should be, ascending, neighbours joined.
    pub damaged: Vec<Extent>,
}

/// Checks the chunks of a segment's committed part from `start` on, until about `budget_bytes` are checked.
///
/// A segment whose chunk table cannot be used is damaged as a whole: nothing in it can be trusted. Both cores are used.
pub fn verify(space: &Space, segment: u64, start: u32, budget_bytes: u64) -> Result<Verified> {
    let head = space.committed(segment).map_or(0, |committed| committed.head);
    if start >= head {
        return Ok(Verified { checked_bytes: 0, next_start: head, damaged: Vec::new() });
    }
    let table = match space.table(segment) {
        Err(Error::Damaged(_)) => {
            let whole = Extent { address: segment_start(segment) | u64::from(start), length: u64::from(head - start) };
            return Ok(Verified { checked_bytes: 0, next_start: head, damaged: vec![whole] });
        }
        table => table?,
    };
    let mut checked_bytes = 0;
    let within_budget = |chunk: &ChunkRef| {
        let before = checked_bytes;
        checked_bytes += u64::from(chunk.length());
        before < budget_bytes.max(1)
    };
    let is_here = |chunk: &ChunkRef| {
        let address = segment_start(segment) | u64::from(chunk.start);
        !space.is_reclaimed(Extent { address, length: chunk.length().into() })
    };
    let chunks: Vec<ChunkRef> = table.chunks_from(start).filter(is_here).take_while(within_budget).collect();
    let checked_bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.length())).sum();
    let next_start = match chunks.last() {
        Some(last) => table.chunks_from(last.end).next().map_or(head, |next| next.start),
        None => head,
    };
    let suspect = |chunk: &ChunkRef| is_damaged(space, segment, chunk);
    // Threads of its own: after a fork nothing is left of rayon's global ones, and who waits for them waits for ever.
    let threads = match checked_bytes {
        ..WIDE_BYTES_MIN => None,
        _ => ThreadPoolBuilder::new().build().ok(),
    };
    let suspected: Vec<bool> = match threads {
        Some(threads) => threads.install(|| chunks.par_iter().map(suspect).collect::<Result<_>>())?,
        None => chunks.iter().map(suspect).collect::<Result<_>>()?,
    };
    let mut damaged = Vec::new();
    for (chunk, _) in chunks.iter().zip(suspected).filter(|(_, suspected)| *suspected) {
        // A page that cannot be read makes every check in flight fail, so each suspect is heard alone.
        if is_damaged(space, segment, chunk)? {
            damaged.push(chunk);
        }
    }
    Ok(Verified { checked_bytes, next_start, damaged: join(segment, &damaged) })
}

fn is_damaged(space: &Space, segment: u64, chunk: &ChunkRef) -> Result<bool> {
    let address = segment_start(segment) | u64::from(chunk.start);
    let slice = space.slice(Extent { address, length: u64::from(chunk.length()) });
    match slice.and_then(|slice| guarded(|| keyed(&space.keys().digest, &slice) != chunk.digest)) {
        Err(Error::Damaged(_)) => Ok(true),
        answer => answer,
    }
}

fn join(segment: u64, chunks: &[&ChunkRef]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for chunk in chunks {
        let address = segment_start(segment) | u64::from(chunk.start);
        let length = u64::from(chunk.length());
        match extents.last_mut() {
            Some(last) if last.end() == address => last.length += length,
            _ => extents.push(Extent { address, length }),
        }
    }
    extents
}
