//! The bytes of a volume whose secret is lost. Digests are keyed, so nothing here can be verified, and nothing is: what
//! comes out is what lies there. For `rebuild --without-secret` alone; nobody else may read like this.
//!
//! Names of segments are keyed as well, but each chunk table says which segment it is of. Pages parse without keys. Where
//! bytes are missing zeros are read, and where a page cannot be parsed its directory is empty; both are counted. Bytes
//! that mean harm can make files that never were; they lead neither out of the target nor round in a circle.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::address::{Extent, offset_of, segment_of, segment_start};
use crate::digest::digest;
use crate::extent;
use crate::gather::Source;
use crate::keys::Keys;
use crate::map::{Map, Slice, guarded};
use crate::page::{self, PageRef};
use crate::table::{BATCH_OVERHEAD_BYTES, ChunkRef, HEADER_BYTES, Header, Kind, RECORD_BYTES, SegmentTable};
use crate::tree::{Entries, PageBytes, PageSource};
use crate::{Error, Result};

/// Entries of a tree at most. Without digests a few pages can name each other a thousand times each.
const ENTRIES_MAX: u64 = 1 << 28;

/// All segments of a directory, whoever they are of.
pub struct Unverified {
    directory: PathBuf,
    /// A secret that is none: digests made with it stand for nothing.
    keys: Keys,
    map: Map,
    segments: HashMap<u64, (PathBuf, SegmentTable)>,
    lost_bytes: AtomicU64,
    lost_pages: AtomicU64,
}

impl Unverified {
    /// Reads the chunk tables in `directory/segments`, each up to the first batch whose CRC fails. Those that are not of
    /// `volume_id`, or of no version that is known, are passed over.
    pub fn open(directory: &Path, volume_id: [u8; 16]) -> Result<Unverified> {
        let place = directory.join("segments");
        let mut segments = HashMap::new();
        for found in fs::read_dir(&place).map_err(|e| Error::io("list", &place, e))? {
            let path = found.map_err(|e| Error::io("list", &place, e))?.path();
            if path.extension().is_none_or(|extension| extension != "chunks") {
                continue;
            }
            let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            match Header::decode(&bytes) {
                Ok(header) if header.volume_id == volume_id => {
                    segments
                        .insert(header.segment, (path.with_extension("data"), whole_batches(header.segment, &bytes)));
                }
                _ => {}
            }
        }
        Ok(Unverified {
            directory: directory.to_path_buf(),
            keys: Keys::from_secret(&[0; 32]),
            map: Map::new(),
            segments,
            lost_bytes: AtomicU64::new(0),
            lost_pages: AtomicU64::new(0),
        })
    }

    /// The bytes of all chunks of kind journal, of at most `bytes_max` each: entries, if they can be parsed.
    pub fn journal(&self, bytes_max: u32) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for (&segment, (_, table)) in &self.segments {
            for chunk in table.chunks_from(0).filter(|chunk| chunk.kind == Kind::Journal && chunk.length() <= bytes_max)
            {
                let address = segment_start(segment) | u64::from(chunk.start);
                if let Ok(slice) = self.stored(Extent { address, length: chunk.length().into() }) {
                    found.extend(guarded(|| slice.to_vec()));
                }
            }
        }
        found
    }

    /// How many bytes were asked for and are not there, and how many pages could not be parsed.
    pub fn lost(&self) -> (u64, u64) {
        (self.lost_bytes.load(Ordering::Relaxed), self.lost_pages.load(Ordering::Relaxed))
    }

    /// Fails if the tree at `root` contains itself, or has more entries than a tree can be believed to have.
    pub fn check_tree(&self, root: &PageRef) -> Result<()> {
        let mut count = 0_u64;
        // The directories on the way down, and what of each is still to be entered.
        let mut way = vec![(root.address, self.directories(root, &mut count)?)];
        let mut above = HashSet::from([root.address]);
        while let Some((address, waiting)) = way.last_mut() {
            let Some(page) = waiting.pop() else {
                above.remove(address);
                way.pop();
                continue;
            };
            if !above.insert(page.address) {
                return Err(Error::Invalid(format!("the directory at address {:#x} lies within itself", page.address)));
            }
            let inside = self.directories(&page, &mut count)?;
            way.push((page.address, inside));
        }
        self.lost_pages.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn directories(&self, page: &PageRef, count: &mut u64) -> Result<Vec<PageRef>> {
        let mut found = Vec::new();
        for entry in Entries::new(self, page) {
            *count += 1;
            if *count > ENTRIES_MAX {
                return Err(Error::Invalid(format!("the tree has more than {ENTRIES_MAX} entries")));
            }
            found.extend(entry?.page());
        }
        Ok(found)
    }

    fn stored(&self, extent: Extent) -> Result<Slice> {
        extent::check(extent)?;
        let segment = segment_of(extent.address);
        let Some((path, _)) = self.segments.get(&segment) else {
            return Err(Error::Damaged(format!("there is no segment {segment}")));
        };
        let open = || File::open(path).map_err(|e| Error::io("open", path, e));
        self.map.slice(segment, open, offset_of(extent.address), extent.length as u32)
    }

    /// The bytes of an extent; zeros, which are counted, where they are not there.
    fn or_zeros(&self, extent: Extent) -> Result<Slice> {
        let copied = self.stored(extent).and_then(|slice| guarded(|| digest(&self.keys.digest, &slice)).map(|_| slice));
        match copied {
            Ok(slice) => Ok(slice),
            Err(Error::Invalid(what)) => Err(Error::Invalid(what)),
            Err(_) => {
                self.lost_bytes.fetch_add(extent.length, Ordering::Relaxed);
                Ok(Slice::from(vec![0; extent.length as usize]))
            }
        }
    }
}

/// The chunks of a table up to the first batch that is not whole.
fn whole_batches(segment: u64, bytes: &[u8]) -> SegmentTable {
    let mut table = SegmentTable::empty(segment);
    let mut at = HEADER_BYTES;
    while let Some(head) = bytes.get(at + 4..at + 8) {
        let count = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let end = count.checked_mul(RECORD_BYTES).and_then(|records| records.checked_add(at + BATCH_OVERHEAD_BYTES));
        match end.and_then(|end| bytes.get(at..end)) {
            Some(batch) if table.extend(batch).is_ok() => at += batch.len(),
            _ => break,
        }
    }
    table
}

impl PageSource for Unverified {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        page.check()?;
        let bytes = self.stored(page.extent()).and_then(|slice| guarded(|| slice.to_vec()));
        match bytes.and_then(|bytes| page::decode(&bytes).map(|_| bytes)) {
            Ok(bytes) => Ok(PageBytes::new(bytes)),
            Err(_) => {
                self.lost_pages.fetch_add(1, Ordering::Relaxed);
                Ok(PageBytes::new(page::encode_leaf(&[], &self.keys)?.bytes))
            }
        }
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        Ok(PageBytes::new(self.or_zeros(extent)?))
    }
}

impl Source for Unverified {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.directory)
    }

    /// One chunk, whose digest is made of what is there.
    fn chunks(&self, extent: Extent) -> Result<Vec<ChunkRef>> {
        let slice = self.or_zeros(extent)?;
        let start = offset_of(extent.address);
        let digest = guarded(|| digest(&self.keys.digest, &slice))?;
        Ok(vec![ChunkRef { start, end: start + extent.length as u32, kind: Kind::Data, digest }])
    }

    fn slice(&self, extent: Extent) -> Result<Slice> {
        match self.stored(extent) {
            Err(Error::Damaged(_) | Error::Io { .. }) => Ok(Slice::from(vec![0; extent.length as usize])),
            slice => slice,
        }
    }

    fn read(&self, extent: Extent) -> Result<Slice> {
        self.slice(extent)
    }

    fn proves_content(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::Params;
    use crate::lease::Lease;
    use crate::space::Space;
    use crate::tree::tests::{directory, file};
    use tempfile::TempDir;

    const SEGMENT: u64 = 3;

    /// A volume whose only segment holds `bytes` as a page at its beginning.
    fn holding(bytes: &[u8]) -> (TempDir, Unverified) {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("segments")).unwrap();
        let space = Space::open(place.path(), [4; 16], Keys::from_secret(&[9; 32]), Params::DEFAULT).unwrap();
        let mut lease = Lease::open(&space, SEGMENT, 0, 0, true, false).unwrap().unwrap();
        lease.append_chunk(bytes, Kind::Tree).unwrap();
        lease.sync().unwrap();
        let source = Unverified::open(place.path(), [4; 16]).unwrap();
        (place, source)
    }

    fn first(length: usize) -> PageRef {
        PageRef { address: segment_start(SEGMENT), length: length as u32, digest: [0; 32] }
    }

    #[test]
    fn a_directory_that_lies_within_itself_is_refused() {
        let keys = Keys::from_secret(&[9; 32]);
        // The length of a page that names itself is found by naming it.
        let mut bytes = Vec::new();
        for _ in 0..4 {
            let inner = directory(b"again", first(bytes.len().max(page::HEADER_BYTES)));
            bytes = page::encode_leaf(&[inner], &keys).unwrap().bytes;
        }
        let (_place, source) = holding(&bytes);

        let checked = source.check_tree(&first(bytes.len()));

        assert!(matches!(checked, Err(Error::Invalid(what)) if what.contains("within itself")));
    }

    #[test]
    fn what_is_no_page_or_not_there_is_empty_and_counted() {
        let bytes = b"as long as a page has to be, and none";
        let (_place, source) = holding(bytes);

        source.check_tree(&first(bytes.len())).unwrap();
        assert!(Entries::new(&source, &first(bytes.len())).next().is_none());
        assert_eq!(source.lost(), (0, 1));
        let absent = Extent { address: segment_start(SEGMENT + 1), length: 5 };
        assert_eq!(&*source.bytes(absent).unwrap(), &[0; 5]);
        assert_eq!(source.lost(), (5, 1));
    }

    #[test]
    fn a_page_is_read_without_its_key() {
        let keys = Keys::from_secret(&[9; 32]);
        let bytes = page::encode_leaf(&[file(b"name", 5)], &keys).unwrap().bytes;
        let (_place, source) = holding(&bytes);

        let names: Vec<_> = Entries::new(&source, &first(bytes.len())).map(|entry| entry.unwrap().name).collect();

        assert_eq!(names, [b"name"]);
    }
}
