//! Puts chunks and pages into the volume: what it has becomes a pointer, what it does not goes into a lease.
//!
//! It knows nothing of files and directories beyond the list of extents that it fills. Nothing is durable before the
//! host syncs the leases.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::address::{Address, Extent, SEGMENT_BYTES, offset_of, segment_of, segment_start};
use crate::digest::{ContentDigest, digest};
use crate::error::{Error, Result};
use crate::extent::ListEncoder;
use crate::ingest::read::{Hole, Window};
use crate::ingest::report::KeptPages;
use crate::ingest::{Host, LeaseHandle, Origin, Owner, Progress};
use crate::keys::{Digest, tag};
use crate::lease::{ALIGNED_RUN_BYTES, ALIGNMENT, Lease};
use crate::page::{Content, INLINE_EXTENTS_MAX};
use crate::scan::Chunk;
use crate::space::{Space, Tagged, decode_answers};
use crate::table::Kind;
use crate::tree::PageSink;

/// A list of extents is stored in pieces of this size at first.
const LIST_PIECE_BYTES: usize = 1 << 20;
/// After so many parts pieces are twice as long, three times in all: an entry has room for 256 parts, which then hold
/// the list of any file that is shorter than some hundred TB.
const LIST_PARTS: usize = 64;
/// Digests that a dry run remembers to count a repeated chunk once (16 MiB); beyond, repeats count as new.
const DRY_DIGESTS_MAX: usize = 1 << 20;
/// Where a dry run pretends to write: the last segments there can be.
const DRY_SEGMENT: u64 = (1 << 38) - (1 << 26) + 1;

/// The way into a volume.
pub struct Store<'h> {
    space: Arc<Space>,
    host: &'h mut dyn Host,
    lease: Option<LeaseHandle>,
    dry: Option<Dry>,
    /// Bytes of content that were new, and that were known.
    pub new_bytes: u64,
    /// Bytes of content that the volume had.
    pub known_bytes: u64,
    /// Of these, bytes that only the origin had.
    pub asked_known_bytes: u64,
    /// Bytes of new pages and lists.
    pub page_bytes: u64,
    /// Chunks of the run being gathered, for the lease.
    pieces: Vec<(u32, Kind, Digest)>,
    /// Tags of the run being gathered: a chunk that repeats inside it is found once the run is stored.
    run_tags: HashSet<u64, std::hash::BuildHasherDefault<TagHasher>>,
    /// What the origin last said that it has, by tag.
    answers: HashMap<u64, Tagged, std::hash::BuildHasherDefault<TagHasher>>,
}

/// What a dry run has instead of a lease.
struct Dry {
    /// Pages, if they are kept.
    pages: Option<KeptPages>,
    seen: HashSet<u64, std::hash::BuildHasherDefault<TagHasher>>,
    head: Address,
}

/// Tags are the output of a keyed hash; hashing them again gains nothing.
#[derive(Default)]
pub struct TagHasher(u64);

impl std::hash::Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }
}

/// A file while its chunks arrive.
pub struct FileContent {
    digest: ContentDigest,
    size: u64,
    extents: Vec<Extent>,
    /// The last extent was in the volume before: the next chunk is first looked for behind it.
    at_known: bool,
    /// Bytes of a hole at its end so far.
    hole: u64,
    list: Option<List>,
}

/// Extents beyond what an entry holds, already encoded.
struct List {
    encoder: ListEncoder,
    bytes: Vec<u8>,
    stored: Vec<Extent>,
    count: u64,
}

impl<'h> Store<'h> {
    /// A way into `space`. With `dry_run` nothing is written, and addresses mean nothing.
    pub fn new(space: &Arc<Space>, host: &'h mut dyn Host, dry_run: bool) -> Store<'h> {
        let dry = Dry { pages: None, seen: HashSet::default(), head: segment_start(DRY_SEGMENT) };
        Store {
            space: Arc::clone(space),
            host,
            lease: None,
            dry: dry_run.then_some(dry),
            new_bytes: 0,
            known_bytes: 0,
            asked_known_bytes: 0,
            page_bytes: 0,
            pieces: Vec::new(),
            run_tags: HashSet::default(),
            answers: HashMap::default(),
        }
    }

    /// Has the pages of a dry run kept.
    pub fn keep_pages(&mut self) {
        if let Some(dry) = &mut self.dry {
            dry.pages = Some(KeptPages::new());
        }
    }

    /// The pages that were kept.
    pub fn take_pages(&mut self) -> KeptPages {
        self.dry.as_mut().and_then(|dry| dry.pages.take()).unwrap_or_default()
    }

    /// Whether there is an origin to ask.
    pub fn asks(&mut self) -> bool {
        self.host.origin().is_some()
    }

    /// Whether the space has a chunk of data.
    pub fn has(&self, digest: &Digest, length: u32) -> Result<bool> {
        Ok(self.space.find(digest, length, Kind::Data)?.is_some())
    }

    /// Sends the question about `tags` to the origin; the ticket is for the answer.
    pub fn begin_asking(&mut self, tags: &[u64]) -> Result<u64> {
        self.origin()?.begin(tags)
    }

    /// Waits for an answer, which holds until the next one.
    pub fn end_asking(&mut self, ticket: u64, tags: &[u64]) -> Result<()> {
        let answers = decode_answers(&self.origin()?.end(ticket)?, tags)?;
        self.answers.clear();
        self.answers.extend(answers.into_iter().flatten().map(|answer| (tag(&answer.2), answer)));
        Ok(())
    }

    fn origin(&mut self) -> Result<&mut dyn Origin> {
        self.host.origin().ok_or_else(|| Error::Invalid("there is no origin to ask".into()))
    }

    /// What the host calls an owner.
    pub fn owner_name(&mut self, owner: Owner) -> Result<Vec<u8>> {
        self.host.owner_name(owner)
    }

    /// Tells the host how far it is.
    pub fn progress(&mut self, progress: &Progress) -> Result<()> {
        self.host.progress(progress)
    }

    /// The lease that is being filled.
    pub fn lease(&self) -> Option<LeaseHandle> {
        self.lease.clone()
    }

    /// A file without bytes so far.
    pub fn begin_file(&self) -> FileContent {
        let digest = ContentDigest::new(&self.space.keys().content);
        FileContent { digest, size: 0, extents: Vec::new(), at_known: false, hole: 0, list: None }
    }

    /// Appends a window to `file`.
    pub fn place_window(&mut self, file: &mut FileContent, window: &Window) -> Result<()> {
        if window.holes.is_empty() {
            return self.place(file, &window.bytes, &window.chunks);
        }
        let (mut from, mut first) = (0, 0);
        let end = Hole { at: window.bytes.len(), length: 0 };
        for hole in window.holes.iter().chain([&end]) {
            let behind = first + window.chunks[first..].partition_point(|chunk| chunk.end as usize <= hole.at);
            let moved = |chunk: &Chunk| Chunk { end: chunk.end - from as u32, ..*chunk };
            let chunks: Vec<Chunk> = window.chunks[first..behind].iter().map(moved).collect();
            self.place(file, &window.bytes[from..hole.at], &chunks)?;
            file.hole += hole.length;
            (from, first) = (hole.at, behind);
        }
        Ok(())
    }

    /// Appends the hole before what comes next, if there is one.
    fn place_hole(&mut self, file: &mut FileContent) -> Result<()> {
        let length = std::mem::take(&mut file.hole);
        if length == 0 {
            return Ok(());
        }
        file.digest.hole(length);
        self.push(file, Extent { address: 0, length }, false)
    }

    /// Appends `bytes`, which consist of `chunks`, to `file`.
    pub fn place(&mut self, file: &mut FileContent, bytes: &[u8], chunks: &[Chunk]) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.place_hole(file)?;
        // Chunks first..index are a run of new ones; it begins at `from` in `bytes` and at `offset` in the file.
        let (mut first, mut from, mut start) = (0, 0, 0);
        let mut offset = file.size;
        self.run_tags.clear();
        for (index, chunk) in chunks.iter().enumerate() {
            let end = chunk.end as usize;
            let length = (end - start) as u32;
            file.digest.chunk(&chunk.digest);
            if self.run_tags.contains(&tag(&chunk.digest)) {
                self.append_run(file, &bytes[from..start], &chunks[first..index], from, offset)?;
                (first, from, offset) = (index, start, file.size);
            }
            let follows = if first == index { file.known_end() } else { None };
            let mut known = self.find(follows, &chunk.digest, length, Kind::Data)?;
            if known.is_none() {
                known = self.find_at_origin(&chunk.digest, &bytes[start..end])?;
            }
            if let Some(address) = known {
                self.append_run(file, &bytes[from..start], &chunks[first..index], from, offset)?;
                self.known_bytes += u64::from(length);
                self.push(file, Extent { address, length: length.into() }, true)?;
                (first, from, offset) = (index + 1, end, file.size);
            } else {
                self.run_tags.insert(tag(&chunk.digest));
            }
            start = end;
        }
        self.append_run(file, &bytes[from..start], &chunks[first..], from, offset)
    }

    /// Ends a file: its size, content digest and content.
    pub fn end_file(&mut self, mut file: FileContent) -> Result<(u64, Digest, Content)> {
        self.place_hole(&mut file)?;
        let digest = file.digest.finish();
        let Some(mut list) = file.list.take() else { return Ok((file.size, digest, Content::Extents(file.extents))) };
        for &extent in &file.extents {
            list.encoder.push(extent, &mut list.bytes)?;
            list.count += 1;
        }
        self.store_list(&mut list)?;
        Ok((file.size, digest, Content::Listed { list: list.stored, count: list.count }))
    }

    /// Where a chunk is in the volume.
    fn find(&mut self, follows: Option<Address>, digest: &Digest, length: u32, kind: Kind) -> Result<Option<Address>> {
        if let Some(address) = follows
            && self.space.follows(address, digest, length, kind)
        {
            return Ok(Some(address));
        }
        if let Some(address) = self.space.find(digest, length, kind)? {
            return Ok(Some(address));
        }
        // The same bytes of another kind are another chunk.
        let seen = tag(digest) ^ kind as u64;
        match &mut self.dry {
            Some(dry) if dry.seen.contains(&seen) => Ok(Some(dry.take(length))),
            Some(dry) if dry.seen.len() < DRY_DIGESTS_MAX => {
                dry.seen.insert(seen);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Where a chunk of data is at the origin, by its last answer: then the bytes are put there here as well.
    fn find_at_origin(&mut self, digest: &Digest, bytes: &[u8]) -> Result<Option<Address>> {
        let known = self.answers.get(&tag(digest)).filter(|known| known.2 == *digest);
        let Some(&(address, length, _)) = known else { return Ok(None) };
        if length as usize != bytes.len() {
            let what = format!("the origin says that {length} bytes at {address:#x} are {} that we have", bytes.len());
            return Err(Error::Refused(what));
        }
        if self.dry.is_none() {
            let segment = segment_of(address);
            let handle = self.origin()?.lease_for(segment)?;
            let mut lease = lock(&handle);
            if lease.segment() != segment {
                return Err(Error::Invalid(format!("asked for segment {segment}, was given {}", lease.segment())));
            }
            lease.put(offset_of(address), bytes, &[(length, Kind::Data, *digest)])?;
        }
        self.asked_known_bytes += u64::from(length);
        Ok(Some(address))
    }

    /// Where a chunk of kind tree is in the volume, its bytes verified: pages are read on the way to everything else,
    /// so a damaged one is never pointed at.
    fn find_tree(&mut self, digest: &Digest, length: u32) -> Result<Option<Address>> {
        loop {
            let Some(address) = self.find(None, digest, length, Kind::Tree)? else { return Ok(None) };
            let head = self.space.committed(segment_of(address)).map_or(0, |committed| committed.head);
            if offset_of(address) >= head {
                return Ok(Some(address)); // of a lease of this process, which may not have written it yet; or dry
            }
            match self.space.read(Extent { address, length: length.into() }) {
                Ok(_) => return Ok(Some(address)),
                // It is distrusted now, so this is not found again.
                Err(Error::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Stores a run of new chunks of a file. `from` is what has to be taken off the chunks' ends.
    fn append_run(
        &mut self,
        file: &mut FileContent,
        mut bytes: &[u8],
        mut chunks: &[Chunk],
        mut from: usize,
        mut offset: u64,
    ) -> Result<()> {
        self.run_tags.clear();
        self.new_bytes += bytes.len() as u64;
        while let Some(head) = chunks.first() {
            let least = head.end as usize - from;
            if self.dry.is_some() {
                self.push_dry(file, chunks, from)?;
                return Ok(());
            }
            let handle = self.lease_for(least)?;
            let mut lease = lock(&handle);
            let goes_on = file.stored_end() == Some(lease.next_address());
            if bytes.len() >= ALIGNED_RUN_BYTES && !goes_on && lease.room() >= least as u64 + ALIGNMENT {
                lease.align(offset)?;
            }
            let room = lease.room();
            let fits = chunks.partition_point(|chunk| (chunk.end as usize - from) as u64 <= room);
            self.pieces.clear();
            let mut start = from;
            for chunk in &chunks[..fits] {
                self.pieces.push(((chunk.end as usize - start) as u32, Kind::Data, chunk.digest));
                start = chunk.end as usize;
            }
            if fits == 0 {
                // Closing a batch for the alignment filled the chunk table.
                drop(lease);
                continue;
            }
            let (now, later) = bytes.split_at(start - from);
            let address = lease.append(now, &self.pieces)?;
            drop(lease);
            self.push(file, Extent { address, length: now.len() as u64 }, false)?;
            offset += now.len() as u64;
            (bytes, chunks, from) = (later, &chunks[fits..], start);
        }
        Ok(())
    }

    fn push_dry(&mut self, file: &mut FileContent, chunks: &[Chunk], from: usize) -> Result<()> {
        let mut start = from;
        for chunk in chunks {
            let length = (chunk.end as usize - start) as u32;
            start = chunk.end as usize;
            if let Some(dry) = &mut self.dry {
                let address = dry.take(length);
                self.push(file, Extent { address, length: length.into() }, false)?;
            }
        }
        Ok(())
    }

    /// Adds an extent to a file; one that continues the last one joins it.
    fn push(&mut self, file: &mut FileContent, extent: Extent, known: bool) -> Result<()> {
        file.size += extent.length;
        file.at_known = known;
        // An extent lies in one segment, also where the next one follows without a gap.
        if offset_of(extent.address) != 0
            && file.stored_end() == Some(extent.address)
            && let Some(last) = file.extents.last_mut()
        {
            last.length += extent.length;
            return Ok(());
        }
        if file.extents.len() == INLINE_EXTENTS_MAX {
            let mut list = file.list.take().unwrap_or_else(List::new);
            for extent in file.extents.drain(..) {
                list.encoder.push(extent, &mut list.bytes)?;
            }
            list.count += INLINE_EXTENTS_MAX as u64;
            if list.bytes.len() >= piece_bytes(list.stored.len()) {
                self.store_list(&mut list)?;
            }
            file.list = Some(list);
        }
        file.extents.push(extent);
        Ok(())
    }

    /// Stores what is encoded of a list.
    fn store_list(&mut self, list: &mut List) -> Result<()> {
        if list.bytes.is_empty() {
            return Ok(());
        }
        let address = self.store_tree(&list.bytes)?;
        let length = list.bytes.len() as u64;
        list.bytes.clear();
        match list.stored.last_mut() {
            Some(last) if last.end() == address && offset_of(address) != 0 => last.length += length,
            _ => list.stored.push(Extent { address, length }),
        }
        Ok(())
    }

    /// Stores a chunk of kind tree, unless the volume has it.
    fn store_tree(&mut self, bytes: &[u8]) -> Result<Address> {
        let length = u32::try_from(bytes.len()).map_err(|_| Error::Invalid("a page is longer than 4 GiB".into()))?;
        let digest = digest(&self.space.keys().digest, bytes);
        if let Some(address) = self.find_tree(&digest, length)? {
            return Ok(address);
        }
        self.page_bytes += u64::from(length);
        if let Some(dry) = &mut self.dry {
            return Ok(dry.take(length));
        }
        let handle = self.lease_for(bytes.len())?;
        let address = lock(&handle).append(bytes, &[(length, Kind::Tree, digest)])?;
        Ok(address)
    }

    /// The current lease if `length` bytes fit, or the next.
    fn lease_for(&mut self, length: usize) -> Result<LeaseHandle> {
        if length as u64 > SEGMENT_BYTES {
            return Err(Error::Invalid(format!("a chunk of {length} bytes fits into no segment")));
        }
        loop {
            if let Some(handle) = &self.lease
                && lock(handle).room() >= length as u64
            {
                return Ok(Arc::clone(handle));
            }
            let full = self.lease.take();
            self.lease = Some(self.host.grant(full)?);
        }
    }
}

impl PageSink for Store<'_> {
    fn store(&mut self, bytes: &[u8], _digest: &Digest) -> Result<(Address, u32)> {
        let address = self.store_tree(bytes)?;
        if let Some(Dry { pages: Some(pages), .. }) = &mut self.dry {
            pages.insert(address, bytes.into());
        }
        Ok((address, bytes.len() as u32))
    }
}

impl Dry {
    fn take(&mut self, length: u32) -> Address {
        let room = SEGMENT_BYTES - u64::from(offset_of(self.head));
        if room < u64::from(length) {
            self.head += room;
        }
        let address = self.head;
        self.head += u64::from(length);
        address
    }
}

impl FileContent {
    /// Where the last extent ends; a hole lies nowhere.
    fn stored_end(&self) -> Option<Address> {
        self.extents.last().filter(|last| !last.is_hole()).map(Extent::end)
    }

    /// Where the next chunk is if the last one was known and the same extent goes on.
    fn known_end(&self) -> Option<Address> {
        self.stored_end().filter(|&end| self.at_known && offset_of(end) != 0)
    }
}

/// How long the next piece of a list is that has so many parts.
fn piece_bytes(parts: usize) -> usize {
    LIST_PIECE_BYTES << (parts / LIST_PARTS).min(3)
}

impl List {
    fn new() -> List {
        List { encoder: ListEncoder::new(), bytes: Vec::new(), stored: Vec::new(), count: 0 }
    }
}

/// A panic of another holder leaves a lease that either works or refuses; it says so itself.
fn lock(handle: &LeaseHandle) -> MutexGuard<'_, Lease> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::tests::empty_space;
    use crate::lease::TABLE_BYTES_MAX;
    use crate::table::{BATCH_OVERHEAD_BYTES, RECORD_BYTES};
    use std::sync::Mutex;

    struct Granter {
        space: Arc<Space>,
        segment: u64,
    }

    impl Host for Granter {
        fn grant(&mut self, _full: Option<LeaseHandle>) -> Result<LeaseHandle> {
            self.segment += 1;
            let lease = Lease::open(&self.space, self.segment, 0, 0, true, false)?.expect("nobody else has it");
            Ok(Arc::new(Mutex::new(lease)))
        }

        fn progress(&mut self, _progress: &Progress) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_chunk_table_that_alignment_fills_leaves_no_extent_without_bytes() {
        let (_directory, space) = empty_space();
        let mut host = Granter { space: Arc::clone(&space), segment: 0 };
        let mut store = Store::new(&space, &mut host, false);
        let handle = store.lease_for(1).unwrap();
        // Until closing the batch that is being filled takes the table over its limit.
        let mut lease = lock(&handle);
        let mut waiting = 64;
        for number in 0u64.. {
            if waiting + (RECORD_BYTES + BATCH_OVERHEAD_BYTES) as u64 >= TABLE_BYTES_MAX {
                break;
            }
            lease.append(b"x", &[(1, Kind::Data, digest(&[1; 32], &number.to_le_bytes()))]).unwrap();
            waiting += RECORD_BYTES as u64 + if (number + 1) % 8192 == 0 { BATCH_OVERHEAD_BYTES as u64 } else { 0 };
        }
        while lease.room() > 0 && waiting + (BATCH_OVERHEAD_BYTES as u64) < TABLE_BYTES_MAX {
            lease.append(b"x", &[(1, Kind::Data, digest(&[1; 32], &waiting.to_le_bytes()))]).unwrap();
            waiting += RECORD_BYTES as u64;
        }
        assert!(lease.room() > 0 && !lease.next_address().is_multiple_of(ALIGNMENT));
        drop(lease);
        let bytes = vec![7; ALIGNED_RUN_BYTES];
        let chunks = [Chunk { end: bytes.len() as u32, digest: digest(&space.keys().digest, &bytes) }];

        let mut file = store.begin_file();
        store.place(&mut file, &bytes, &chunks).unwrap();

        assert_eq!(file.extents, [Extent { address: segment_start(2), length: bytes.len() as u64 }]);
    }

    #[test]
    fn the_parts_of_a_list_hold_that_of_any_file() {
        let bytes: usize = (0..256).map(piece_bytes).sum();

        assert!(bytes >= 900 << 20);
        assert!((0..1000).map(piece_bytes).all(|bytes| bytes <= 8 << 20), "a piece is in memory");
    }
}
