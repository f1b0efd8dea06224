//! Stored bytes into files: an entry's extents, verified, written in large pieces.
//!
//! It writes to files it is handed and opens none. Nothing reaches a file before its digest has
//! been checked: a chunk against the chunk table, and a whole file's chunks against its entry.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;

use crate::address::{Extent, offset_of};
use crate::digest::{ContentDigest, digest};
use crate::fault::{self, Step};
use crate::keys::Keys;
use crate::map::Slice;
use crate::page::Entry;
use crate::space::Space;
use crate::table::{ChunkRef, Kind};
use crate::tree::{self, Extents, PageSource};
use crate::{Error, Result};

/// Bytes verified, then written while they are still in the cache. Larger writes make the kernel look for larger free
/// blocks of memory, which under pressure costs more than the calls do.
const RUN_BYTES: usize = 256 << 10;
/// Slices written with one call; IOV_MAX is 1024, and 64 are already at memory speed.
const RUN_SLICES: usize = 64;
/// Bytes of one piece of a large file: what one thread takes at a time.
pub const PIECE_BYTES: u64 = 8 << 20;

/// Where content comes from: a [`Space`], or a stand-in for it.
pub trait Source: PageSource + Sync {
    /// The keys of the volume.
    fn keys(&self) -> &Keys;
    /// The directory that it is in: nothing is written there.
    fn directory(&self) -> Option<&Path>;
    /// The chunks of an extent, which is whole chunks.
    fn chunks(&self, extent: Extent) -> Result<Vec<ChunkRef>>;
    /// The bytes of an extent, unverified.
    fn slice(&self, extent: Extent) -> Result<Slice>;
    /// The bytes of an extent, verified; where they are damaged, the error names the place.
    fn read(&self, extent: Extent) -> Result<Slice>;
    /// Whether its chunk digests prove the content digests of entries. They do, unless the volume's keys are lost.
    fn proves_content(&self) -> bool {
        true
    }
}

impl Source for Space {
    fn keys(&self) -> &Keys {
        self.keys()
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.directory())
    }

    fn chunks(&self, extent: Extent) -> Result<Vec<ChunkRef>> {
        self.chunks(extent)
    }

    fn slice(&self, extent: Extent) -> Result<Slice> {
        self.slice(extent)
    }

    fn read(&self, extent: Extent) -> Result<Slice> {
        self.read(extent)
    }
}

/// Consecutive bytes of a file, and where they are stored.
#[derive(Debug)]
pub struct Piece {
    /// Where they begin in the file.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
    parts: Vec<(Extent, Vec<ChunkRef>)>,
}

/// The pieces of a file in order, holes left out. The last answer is an error unless the chunks are those
/// that the entry's content digest was made from, so a caller who shows the file only at the end shows it whole.
pub struct Pieces<'s, S: Source> {
    source: &'s S,
    extents: Option<Extents<&'s S>>,
    content: ContentDigest,
    expected: [u8; 32],
    hole: u64,
    offset: u64,
    size: u64,
}

impl<'s, S: Source> Pieces<'s, S> {
    /// The pieces of the file `entry`.
    pub fn of(source: &'s S, entry: &Entry) -> Self {
        Pieces {
            source,
            extents: Some(tree::extents(source, entry)),
            content: ContentDigest::new(&source.keys().content),
            expected: entry.digest,
            hole: 0,
            offset: 0,
            size: entry.size,
        }
    }

    fn next_piece(&mut self) -> Result<Option<Piece>> {
        let mut piece = Piece { offset: self.offset, bytes: 0, parts: Vec::new() };
        while piece.bytes < PIECE_BYTES {
            let Some(extent) = self.extents.as_mut().and_then(Iterator::next) else {
                self.extents = None;
                break;
            };
            let extent = extent?;
            if extent.is_hole() {
                self.hole += extent.length;
                self.offset += extent.length;
                if !piece.parts.is_empty() {
                    return Ok(Some(piece));
                }
                piece.offset = self.offset;
                continue;
            }
            if self.hole > 0 {
                self.content.hole(std::mem::take(&mut self.hole));
            }
            let chunks = self.source.chunks(extent)?;
            for chunk in &chunks {
                if chunk.kind != Kind::Data {
                    return Err(Error::Invalid(format!("the file points at {:#x}, which is no data", extent.address)));
                }
                self.content.chunk(&chunk.digest);
            }
            self.offset += extent.length;
            piece.bytes += extent.length;
            piece.parts.push((extent, chunks));
        }
        if self.extents.is_none() {
            self.check()?;
        }
        Ok(Some(piece).filter(|piece| !piece.parts.is_empty()))
    }

    fn check(&mut self) -> Result<()> {
        if self.hole > 0 {
            self.content.hole(std::mem::take(&mut self.hole));
        }
        if self.offset != self.size {
            return Err(Error::Damaged(format!("its extents hold {} bytes, it has {}", self.offset, self.size)));
        }
        if self.source.proves_content() && self.content.finish() != self.expected {
            return Err(Error::Damaged("its chunks are not those that its content digest was made from".into()));
        }
        Ok(())
    }
}

impl<S: Source> Iterator for Pieces<'_, S> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        self.extents.as_ref()?;
        self.next_piece().transpose()
    }
}

/// Writes a piece at its place in `file`, each chunk verified before it is written. The caller has faults caught
/// ([`crate::map::watch`]).
///
/// `Damaged` names the place of the first bytes that are not what they should be; some may have been written.
pub fn write<S: Source>(source: &S, file: impl AsFd, piece: &Piece) -> Result<()> {
    let key = &source.keys().digest;
    let mut run = Run { file, offset: piece.offset, slices: Vec::new(), bytes: 0 };
    for (extent, chunks) in &piece.parts {
        let slice = source.slice(*extent)?;
        let base = offset_of(extent.address);
        let mut from = 0;
        for chunk in chunks {
            let range = (chunk.start - base) as usize..(chunk.end - base) as usize;
            let bytes = slice.get(range.clone()).ok_or_else(|| Error::Damaged("a chunk leaves its extent".into()))?;
            if digest(key, bytes) != chunk.digest {
                source.read(*extent)?; // names the place
                return Err(Error::Damaged(format!("the bytes at {:#x} changed while they were read", extent.address)));
            }
            if run.bytes + (range.end - from) >= RUN_BYTES {
                run.add(&slice, from..range.end)?;
                run.write()?;
                from = range.end;
            }
        }
        run.add(&slice, from..slice.len())?;
    }
    run.write()
}

/// Whether `file` holds what `entry` says. The digests of its chunks tell: nothing that is stored is read.
pub fn holds<S: Source>(source: &S, file: impl AsFd, entry: &Entry) -> Result<bool> {
    let key = &source.keys().digest;
    let mut bytes = Vec::new();
    let mut offset = 0;
    for piece in Pieces::of(source, entry) {
        let piece = piece?;
        if !is_zero(&file, offset..piece.offset, &mut bytes)? {
            return Ok(false);
        }
        offset = piece.offset;
        for chunk in piece.parts.iter().flat_map(|(_, chunks)| chunks) {
            let length = (chunk.end - chunk.start) as usize;
            if !read_at(&file, offset, length, &mut bytes)? || digest(key, &bytes) != chunk.digest {
                return Ok(false);
            }
            offset += length as u64;
        }
    }
    is_zero(&file, offset..entry.size, &mut bytes)
}

fn is_zero(file: impl AsFd, range: std::ops::Range<u64>, bytes: &mut Vec<u8>) -> Result<bool> {
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(RUN_BYTES as u64);
        if !read_at(&file, offset, length as usize, bytes)? || bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        offset += length;
    }
    Ok(true)
}

/// Reads just so many bytes; false if there are fewer.
fn read_at(file: impl AsFd, offset: u64, length: usize, bytes: &mut Vec<u8>) -> Result<bool> {
    bytes.resize(length, 0);
    let mut done = 0;
    while done < length {
        match rustix::io::pread(&file, &mut bytes[done..], offset + done as u64) {
            Ok(0) => return Ok(false),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::io("read", "", errno)),
        }
    }
    Ok(true)
}

fn unreadable() -> Error {
    Error::Damaged("stored bytes could not be read: a disk error, or a segment was cut short".into())
}

/// Slices that are verified and go to one place in a file, in order.
struct Run<F> {
    file: F,
    offset: u64,
    slices: Vec<Slice>,
    bytes: usize,
}

impl<F: AsFd> Run<F> {
    fn add(&mut self, slice: &Slice, range: std::ops::Range<usize>) -> Result<()> {
        if let Some(part) = slice.part(range).filter(|part| !part.is_empty()) {
            self.bytes += part.len();
            self.slices.push(part);
        }
        if self.slices.len() >= RUN_SLICES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let mut done = 0;
        while done < self.bytes {
            let mut skip = done;
            let mut vectors = Vec::with_capacity(self.slices.len());
            for slice in &self.slices {
                if skip < slice.len() {
                    vectors.push(IoSlice::new(&slice[skip..]));
                    skip = 0;
                } else {
                    skip -= slice.len();
                }
            }
            let at = self.offset + done as u64;
            let written = fault::before(Step::Write).and_then(|()| match vectors.as_slice() {
                [one] => rustix::io::pwrite(&self.file, one, at),
                many => rustix::io::pwritev(&self.file, many, at),
            });
            match written {
                Ok(0) => return Err(Error::io("write", "", std::io::ErrorKind::WriteZero)),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                // The kernel met a page of the segment that it could not read.
                Err(Errno::FAULT) => return Err(unreadable()),
                Err(error) => return Err(Error::io("write", "", error)),
            }
        }
        // A page that failed after it was verified was written as zeros.
        if self.slices.iter().any(Slice::faulted) {
            return Err(unreadable());
        }
        self.offset += self.bytes as u64;
        self.bytes = 0;
        self.slices.clear();
        Ok(())
    }
}
