//! Every committed byte against its digest, a bounded piece at a time; and chunk tables against the trees that need
//! them. It finds damage and names it; it repairs nothing. What was reclaimed is not there to be checked.

use crate::address::{Extent, segment_of, segment_start};
use crate::error::{Error, Result};
use crate::gather::{Pieces, Source};
use crate::keys::Keys;
use crate::keys::keyed;
use crate::map::Slice;
use crate::map::guarded;
use crate::page::{Entry, EntryKind, PageRef};
use crate::space::Space;
use crate::table::ChunkRef;
use crate::tree::{Entries, PageBytes, PageSource, extents};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

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

/// Whether a committed chunk is not what the chunk table says, or cannot be read.
pub(crate) fn is_damaged(space: &Space, segment: u64, chunk: &ChunkRef) -> Result<bool> {
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

/// Those of the segments `doubted` whose chunk tables cannot be proved by the tree at `root`: something in it needs them,
/// and a page is not what its parent says, or the chunks of a file are not those of its content digest.
///
/// No content is read, only pages and chunk tables. Where a file that cannot be proved lies in several of them, none of
/// those is proved.
pub fn unproved(space: &Space, root: &Entry, doubted: &[u64]) -> Result<Vec<u64>> {
    let failed = Mutex::new(BTreeSet::new());
    let source = Doubting { space, doubted, failed: &failed };
    source.prove(root)?;
    let mut waiting: Vec<PageRef> = root.page().into_iter().collect();
    while let Some(page) = waiting.pop() {
        let mut entries = Entries::new(&source, &page);
        loop {
            match entries.next_page() {
                Ok(None) => break,
                Ok(Some(page)) => {
                    for entry in page {
                        match entry.page() {
                            Some(page) => waiting.push(page),
                            None => source.prove(&entry)?,
                        }
                    }
                }
                // Its segment was noted.
                Err(Error::Damaged(_) | Error::Invalid(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(failed.into_iter().collect())
}

/// A space that notes which of the doubted segments did not have what was asked for.
struct Doubting<'a> {
    space: &'a Space,
    doubted: &'a [u64],
    failed: &'a Mutex<BTreeSet<u64>>,
}

impl Doubting<'_> {
    fn prove(&self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::File {
            return Ok(());
        }
        let touched: Vec<Extent> = extents(self, entry)
            .filter_map(Result::ok)
            .filter(|extent| self.doubted.contains(&segment_of(extent.address)))
            .collect();
        if touched.is_empty() {
            return Ok(());
        }
        match Pieces::of(self, entry).try_for_each(|piece| piece.map(drop)) {
            Err(Error::Damaged(_) | Error::Invalid(_)) => {
                touched.iter().for_each(|extent| self.note(*extent));
                Ok(())
            }
            proved => proved,
        }
    }

    fn note(&self, extent: Extent) {
        let segment = segment_of(extent.address);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match self.doubted.contains(&segment) {
            true => failed.extend([segment]),
            // What lies behind it cannot be looked at, and may need any of them.
            false => failed.extend(self.doubted),
        }
    }

    fn noted<T>(&self, extent: Extent, found: Result<T>) -> Result<T> {
        if found.is_err() {
            self.note(extent);
        }
        found
    }
}

impl PageSource for Doubting<'_> {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        self.noted(page.extent(), self.space.page(page))
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        self.noted(extent, self.space.bytes(extent))
    }
}

impl Source for Doubting<'_> {
    fn keys(&self) -> &Keys {
        self.space.keys()
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.space.directory())
    }

    fn chunks(&self, extent: Extent) -> Result<Vec<ChunkRef>> {
        self.space.chunks(extent)
    }

    fn slice(&self, extent: Extent) -> Result<Slice> {
        self.space.slice(extent)
    }

    fn read(&self, extent: Extent) -> Result<Slice> {
        self.space.read(extent)
    }
}
