//! Damaged bytes made good again: the one place where committed bytes are written, and only with bytes that have the
//! digest in the chunk table, where what lies there has not. Where they come from is not known here.
//!
//! A byte that is what it should be is never touched, so who reads beside it sees no change; and killed in the middle,
//! a chunk is damaged as it was before.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use crate::address::{Address, Extent, offset_of, segment_of, segment_start};
use crate::error::{Error, Result};
use crate::fault::{self, Step};
use crate::incoming::Opener;
use crate::keys::keyed;
use crate::space::Space;
use crate::table::ChunkRef;
use crate::verify::is_damaged;

/// Mends one volume. What it wrote counts once it is [synced](Mender::sync).
pub struct Mender {
    space: Arc<Space>,
    opener: Opener,
    /// Data files that were written to, by segment, and what was written.
    files: BTreeMap<u64, File>,
    mended: Vec<Extent>,
}

impl Mender {
    /// Nothing mended yet.
    pub fn new(space: &Arc<Space>) -> Mender {
        Mender { space: Arc::clone(space), opener: Opener::new(space), files: BTreeMap::new(), mended: Vec::new() }
    }

    /// Offers the bytes of the chunk at `address`. They are written if they are what the chunk table says and what is
    /// stored is not; anything else is passed over.
    pub fn offer(&mut self, address: Address, bytes: &[u8]) -> Result<()> {
        let segment = segment_of(address);
        let chunks = match self.space.chunks(Extent { address, length: bytes.len() as u64 }) {
            // Without a chunk table nothing can be proved here.
            Err(Error::Damaged(_)) => return Ok(()),
            chunks => chunks?,
        };
        let [chunk] = chunks.as_slice() else { return Ok(()) };
        if keyed(&self.space.keys().digest, bytes) != chunk.digest || !is_damaged(&self.space, segment, chunk)? {
            return Ok(());
        }
        let path = self.space.data_path(segment);
        let file = match self.files.entry(segment) {
            std::collections::btree_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                fault::before(Step::Create).map_err(|e| Error::io("open", &path, e))?;
                let mut how = OpenOptions::new();
                how.write(true).create(true).truncate(false).mode(0o600);
                place.insert(how.open(&path).map_err(|e| Error::io("open", &path, e))?)
            }
        };
        fault::before(Step::Write).map_err(|e| Error::io("write", &path, e))?;
        file.write_all_at(bytes, offset_of(address).into()).map_err(|e| Error::io("write", &path, e))?;
        self.mended.push(Extent { address, length: bytes.len() as u64 });
        Ok(())
    }

    /// The next body of literals is the first of an answer, which is coded by itself.
    pub fn begin(&mut self) {
        self.opener = Opener::new(&self.space);
    }

    /// Offers the chunks of a body of literals from a peer, which is checked as in a transfer.
    pub fn literals(&mut self, body: &[u8]) -> Result<u64> {
        let mut opener = std::mem::replace(&mut self.opener, Opener::new(&self.space));
        let mut total = 0;
        let opened = opener.open(body, &mut |run, mut bytes, chunks| {
            let mut address = run.address;
            total += bytes.len() as u64;
            for &(length, ..) in chunks {
                let (chunk, rest) = bytes.split_at(length as usize);
                self.offer(address, chunk)?;
                (address, bytes) = (address + u64::from(length), rest);
            }
            Ok(())
        });
        self.opener = opener;
        opened.map(|()| total)
    }

    /// The chunks that have bytes in `extents`, each by itself; none where the chunk table cannot be read.
    pub fn chunks(&self, extents: &[Extent]) -> Result<Vec<Extent>> {
        let mut found = Vec::new();
        for extent in extents.iter().filter(|extent| !extent.is_hole()) {
            let segment = segment_of(extent.address);
            let table = match self.space.table(segment) {
                Err(Error::Damaged(_)) => continue,
                table => table?,
            };
            let start = offset_of(extent.address);
            let end = u64::from(start).saturating_add(extent.length).min(u64::from(u32::MAX)) as u32;
            let place = |chunk: ChunkRef| Extent {
                address: segment_start(segment) | u64::from(chunk.start),
                length: chunk.length().into(),
            };
            found.extend(table.chunks_touching(start, end).map(place));
        }
        Ok(found)
    }

    /// Makes what was written durable and answers what that was. After an error nothing is known of it.
    pub fn sync(&mut self) -> Result<Vec<Extent>> {
        for (segment, file) in std::mem::take(&mut self.files) {
            let path = self.space.data_path(segment);
            fault::before(Step::Sync).map_err(|e| Error::io("sync", &path, e))?;
            file.sync_all().map_err(|e| Error::io("sync", &path, e))?;
        }
        let directory = self.space.directory().join("segments");
        let opened = File::open(&directory).map_err(|e| Error::io("open", &directory, e))?;
        fault::before(Step::Sync).map_err(|e| Error::io("sync", &directory, e))?;
        opened.sync_all().map_err(|e| Error::io("sync", &directory, e))?;
        Ok(std::mem::take(&mut self.mended))
    }
}

#[cfg(test)]
mod tests;
