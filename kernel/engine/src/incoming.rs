//! What a side receives: literals, each put where it belongs, and the script of a tree whose pages are rebuilt. It
//! believes nothing that the peer says, makes nothing durable and moves no ref.
//!
//! Which segments the peer may fill is for the host to say: it gives a lease or refuses. What was received can be used
//! once the host has synced those leases and committed; that a tree is the one that was meant is shown by its root
//! digest, which the host compares.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::address::{Address, Extent, offset_of, segment_of};
use crate::coding::{Coding, Decoder, GROUP_BYTES};
use crate::digest::digest;
use crate::ingest::LeaseHandle;
use crate::keys::Digest;
use crate::lease::Lease;
use crate::literals::{self, Place, Run};
use crate::page::{self, EncodedPage, Entry};
use crate::script::{Applier, PART_BYTES_MAX};
use crate::space::Space;
use crate::table::Kind;
use crate::varint::Reader;
use crate::{Error, Result};

/// What the stream of a tree's script looks back: scripts are short, and so is what they repeat.
pub const TREE_WINDOW_LOG: u32 = 20;

/// Leases that keep what they are given in memory for a while, a mebibyte each. Four gigabytes fill 64 segments.
const AWAKE_MAX: usize = 8;

/// Memory that is kept for the next body; most are of a group's length.
const SCRATCH_BYTES_MAX: usize = 2 * GROUP_BYTES;

/// Gives the lease of a segment that the peer may fill, or refuses.
pub type LeaseFor = Box<dyn FnMut(u64) -> Result<LeaseHandle> + Send>;

/// One transfer, as the side sees it that receives.
pub struct Incoming {
    space: Arc<Space>,
    leases: Leases,
    opener: Opener,
    tree_decoder: Decoder,
    applier: Option<Applier>,
}

/// Opens bodies of literals, one after the other as they were sent.
pub(crate) struct Opener {
    space: Arc<Space>,
    decoder: Decoder,
    /// What a body was decoded to: its memory is used again.
    scratch: Vec<u8>,
    place: Place,
}

/// Takes a run of chunks: where it belongs, its bytes, and `(length, kind, digest)` of each chunk.
pub(crate) type TakeRun<'a> = dyn FnMut(&Run, &[u8], &[(u32, Kind, Digest)]) -> Result<()> + 'a;

/// The leases that were filled so far.
struct Leases {
    host: LeaseFor,
    held: BTreeMap<u64, LeaseHandle>,
    /// Those that were filled last, the newest at the end; the others rest.
    awake: VecDeque<u64>,
}

impl Incoming {
    /// Nothing received yet. `lease_for` is called once a segment.
    pub fn new(space: &Arc<Space>, lease_for: LeaseFor) -> Incoming {
        Incoming {
            space: Arc::clone(space),
            leases: Leases { host: lease_for, held: BTreeMap::new(), awake: VecDeque::new() },
            opener: Opener::new(space),
            tree_decoder: Decoder::with_window(TREE_WINDOW_LOG),
            applier: None,
        }
    }

    /// The segments that leases were asked for, ascending.
    pub fn segments(&self) -> Vec<u64> {
        self.leases.held.keys().copied().collect()
    }

    /// Takes one body of literals: decodes it, checks its digests, and puts its chunks where they belong. Answers how
    /// many bytes were put; chunks that are here already are left alone and need no lease.
    ///
    /// After an error some of the chunks may have been put, and the transfer is over.
    pub fn literals(&mut self, body: &[u8]) -> Result<u64> {
        let Incoming { space, leases, opener, .. } = self;
        let mut put = 0;
        opener.open(body, &mut |run, bytes, chunks| {
            if !is_here(space, run.address, bytes.len() as u64, chunks) {
                let handle = leases.lease_for(segment_of(run.address))?;
                lock(&handle).put(offset_of(run.address), bytes, chunks)?;
                put += bytes.len() as u64;
            }
            Ok(())
        })?;
        Ok(put)
    }

    /// Begins the script of a tree from `base`, which this side holds. What was received so far is written and can be
    /// found from here on, though it is not durable.
    ///
    /// A `sparse` receiver, a replica, may take a tree without the data of all files; what comes out is then what the
    /// peer says, and the host compares the root digest with one that it trusts.
    pub fn begin_tree(&mut self, base: Option<&Entry>, sparse: bool) -> Result<()> {
        let mut rows = Vec::new();
        for handle in self.leases.held.values() {
            rows.push(lock(handle).flush_all()?);
        }
        self.space.admit(&rows)?;
        let applier = Applier::new(&self.space, base)?;
        self.applier = Some(if sparse { applier.sparse() } else { applier });
        self.tree_decoder = Decoder::with_window(TREE_WINDOW_LOG);
        Ok(())
    }

    /// Takes one body of the script and puts the pages that it completes.
    pub fn tree(&mut self, body: &[u8]) -> Result<()> {
        let mut reader = Reader::new(body);
        let coding = match Coding::from_byte(reader.byte()?)? {
            Coding::Delta => return Err(Error::Invalid("the script of a tree has no base".into())),
            coding => coding,
        };
        let length = reader.count(PART_BYTES_MAX, "bytes of a part of a tree's script")?;
        let mut part = Vec::new();
        self.tree_decoder.decode(coding, reader.rest(), &[], length, &mut part)?;
        let Incoming { space, leases, applier, .. } = self;
        let applier = applier.as_mut().ok_or_else(not_begun)?;
        applier.part(&part, &mut |address, bytes, digest| {
            // The applier made the page: its length fits.
            let chunks = [(bytes.len() as u32, Kind::Tree, digest)];
            if is_here(space, address, bytes.len() as u64, &chunks) {
                return Ok(());
            }
            let handle = leases.lease_for(segment_of(address))?;
            lock(&handle).put(offset_of(address), bytes, &chunks)
        })
    }

    /// Ends the script: the bytes of the root entry and the root digest, which nobody but the host compares with what
    /// was promised. An error if the script is not complete.
    pub fn finish_tree(&mut self) -> Result<(Vec<u8>, Digest)> {
        let root = self.applier.take().ok_or_else(not_begun)?.finish()?;
        let EncodedPage { bytes, digest } = page::encode_root(&root, self.space.keys())?;
        Ok((bytes, digest))
    }
}

impl Opener {
    /// Has opened nothing yet.
    pub(crate) fn new(space: &Arc<Space>) -> Opener {
        Opener { space: Arc::clone(space), decoder: Decoder::new(), scratch: Vec::new(), place: Place::default() }
    }

    /// Decodes a body, checks its digests, and gives its runs to `take` in order; none of them if the check fails.
    pub(crate) fn open(&mut self, body: &[u8], take: &mut TakeRun<'_>) -> Result<()> {
        let (head, coded) = self.place.decode(body)?;
        let mut base = Vec::new();
        for extent in head.runs.iter().flat_map(|run| &run.bases) {
            // The sum was checked; that the bytes are here is checked before there is room made for them.
            self.space.chunks(*extent)?;
            let from = base.len();
            base.resize(from + extent.length as usize, 0);
            self.space.copy(*extent, &mut base[from..])?;
        }
        let total = head.runs.iter().map(Run::raw_bytes).sum::<u64>() as usize;
        let mut scratch = std::mem::take(&mut self.scratch);
        let raw = self.decoder.decoded(head.coding, coded, &base, total, &mut scratch)?;
        drop(base);
        let mut chunks = Vec::with_capacity(head.runs.len());
        let mut digests = Vec::new();
        let mut rest = raw;
        for run in &head.runs {
            let mut found = Vec::with_capacity(run.lengths.len());
            for &length in &run.lengths {
                let (chunk, others) = rest.split_at(length as usize);
                let digest = digest(&self.space.keys().digest, chunk);
                digests.extend_from_slice(&digest);
                found.push((length, run.kind, digest));
                rest = others;
            }
            chunks.push(found);
        }
        if literals::check(self.space.keys(), &digests) != head.check {
            return Err(Error::Invalid(format!("{total} bytes of literals are not those that were sent")));
        }
        let mut rest = raw;
        for (run, chunks) in head.runs.iter().zip(&chunks) {
            let (bytes, others) = rest.split_at(run.raw_bytes() as usize);
            rest = others;
            take(run, bytes, chunks)?;
        }
        if scratch.capacity() <= SCRATCH_BYTES_MAX {
            self.scratch = scratch;
        }
        Ok(())
    }
}

impl Leases {
    fn lease_for(&mut self, segment: u64) -> Result<LeaseHandle> {
        if self.awake.back() != Some(&segment) {
            self.awake.retain(|other| *other != segment);
            self.awake.push_back(segment);
            if self.awake.len() > AWAKE_MAX
                && let Some(resting) = self.awake.pop_front().and_then(|oldest| self.held.get(&oldest))
            {
                lock(resting).rest()?;
            }
        }
        if let Some(handle) = self.held.get(&segment) {
            return Ok(Arc::clone(handle));
        }
        let handle = (self.host)(segment)?;
        let granted = lock(&handle).segment();
        if granted != segment {
            return Err(Error::Invalid(format!("a lease of segment {granted} was given for segment {segment}")));
        }
        self.held.insert(segment, Arc::clone(&handle));
        Ok(handle)
    }
}

/// Whether exactly these chunks are committed there.
fn is_here(space: &Space, address: Address, length: u64, chunks: &[(u32, Kind, Digest)]) -> bool {
    let extent = Extent { address, length };
    let equal = |found: Vec<crate::table::ChunkRef>| {
        found.len() == chunks.len()
            && found.iter().zip(chunks).all(|(a, b)| (a.length(), a.kind, a.digest) == (b.0, b.1, b.2))
    };
    // Damaged bytes are never replaced under the same address, so being distrusted makes no difference.
    space.holds(extent) && space.chunks(extent).is_ok_and(equal)
}

fn not_begun() -> Error {
    Error::Invalid("no tree was begun".into())
}

/// A panic of another holder leaves a lease that either works or refuses; it says so itself.
fn lock(handle: &LeaseHandle) -> MutexGuard<'_, Lease> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}
