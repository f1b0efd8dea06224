//! What a side sends: which literals, coded against what, and the script of the tree. It plans and codes; it neither
//! knows who listens nor waits for an answer.
//!
//! To read, start at [`Outgoing::plan`], which queues runs of chunks, then [`Outgoing::literals`], which takes a group of
//! them from the queue and codes it.

mod align;
mod ranges;
mod renamed;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::address::{Address, Extent, segment_of, segment_start};
use crate::coding::{BASE_BYTES_MAX, Coding, Encoder, GROUP_BYTES, LARGE_RUN_BYTES, PIECE_BYTES};
use crate::incoming::TREE_WINDOW_LOG;
use crate::literals::{self, BODY_CHUNKS_MAX, Head, Place, Run};
use crate::map::{Slice, guarded};
use crate::page::{Content, Entry, EntryKind, PageRef};
use crate::script::{self, Visit, changes};
use crate::space::Space;
use crate::table::{ChunkRef, Kind};
use crate::tree::{self, Walk};
use crate::{Error, Result, varint};
use align::{Gap, Piece, cut, gaps};
use ranges::{Ranges, join};
use renamed::{Added, Gone};

/// A base is not cut to less than this, however short the run is.
const BASE_BYTES_MIN: u64 = 1 << 20;
/// How many times as long as its run a base is at most: indexing it takes time.
const BASE_FACTOR: u64 = 16;

/// What decides whether the other side holds a directory. Shared by two walks, of which one is resumed part by part.
type Holds = Box<dyn FnMut(&PageRef) -> Result<bool> + Send>;

/// Chunks that have to travel: whole ones without a gap, in one segment.
struct Queued {
    extent: Extent,
    /// What they are coded against.
    bases: Vec<Extent>,
}

/// One transfer, as the side sees it that sends.
pub struct Outgoing {
    space: Arc<Space>,
    encoder: Encoder,
    place: Place,
    /// Runs with a base, and runs without: a group is one or the other.
    based: VecDeque<Queued>,
    plain: VecDeque<Queued>,
    /// All that was ever queued.
    queued: Ranges,
    script: Option<script::Encoder<Arc<Space>, Holds>>,
    tree_encoder: Encoder,
    counts: Counts,
    is_verified: bool,
}

/// A body of literals: a head and the coded bytes behind it. They are apart so that what travels as it is can be sent
/// from where it lies.
pub struct Body {
    /// Where the chunks belong and how they are coded.
    pub head: Vec<u8>,
    /// Their bytes.
    pub coded: Coded,
}

/// Coded bytes.
pub enum Coded {
    /// Made for this body.
    Made(Vec<u8>),
    /// Stored bytes as they are.
    Stored(Slice),
}

/// Bytes that are to be coded: copied together, or mapped.
enum Raw {
    Copied(Vec<u8>),
    Stored(Slice),
}

/// What an [`Outgoing`] has planned and coded so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of the literals coded so far, as they are.
    pub literal_bytes: u64,
    /// Of these, what was coded against a base.
    pub delta_bytes: u64,
    /// Bytes of all bodies of literals and of the tree.
    pub coded_bytes: u64,
    /// Extents of changed files that did not have to travel.
    pub pointer_count: u64,
    /// Chunks of the literals coded so far.
    pub literal_chunks: u64,
}

impl Coded {
    /// How many bytes.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        match self {
            Coded::Made(bytes) => bytes.len(),
            Coded::Stored(bytes) => bytes.len(),
        }
    }
}

impl Outgoing {
    /// Nothing to send yet.
    pub fn new(space: &Arc<Space>) -> Outgoing {
        Outgoing {
            space: Arc::clone(space),
            encoder: Encoder::new(),
            place: Place::default(),
            based: VecDeque::new(),
            plain: VecDeque::new(),
            queued: Ranges::default(),
            script: None,
            tree_encoder: Encoder::with_window(TREE_WINDOW_LOG),
            counts: Counts::default(),
            is_verified: false,
        }
    }

    /// The same for bytes that this process has just digested and put: they are not verified once more before they
    /// travel. The other side does so in any case, so that what is damaged in between ends the transfer there.
    pub fn of_verified(space: &Arc<Space>) -> Outgoing {
        Outgoing { is_verified: true, ..Outgoing::new(space) }
    }

    /// What has been planned and coded.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Queues the chunks of kind data of these committed ranges, with `pages` those of kind tree as well, each address
    /// once; gaps count for nothing.
    pub fn add(&mut self, extents: &[Extent], pages: bool) -> Result<()> {
        for extent in extents.iter().filter(|extent| !extent.is_hole()) {
            let segment = segment_of(extent.address);
            let table = self.space.table(segment)?;
            let start = (extent.address - segment_start(segment)) as u32;
            let end = u64::from(start).saturating_add(extent.length);
            let mut found = Vec::new();
            for chunk in table.chunks_from(start).take_while(|chunk| u64::from(chunk.end) <= end) {
                if chunk.kind == Kind::Data || (pages && chunk.kind == Kind::Tree) {
                    join(&mut found, extent_of(segment, &chunk));
                }
            }
            for extent in found {
                self.queue(extent, &[]);
            }
        }
        Ok(())
    }

    /// Plans how the other side, which holds the tree `base` with all its data, gets the tree `new`.
    ///
    /// Literals are the chunks of added and changed files at or below the path `within` (empty: all), none of them if
    /// not `data`, and the lists of extents that are objects of their own, wherever they are.
    /// - A push says by `fresh` which ranges are new: what lies in them has to travel, nothing else.
    /// - A pull gives none: what is not reachable from `base` has to travel.
    ///   The script then tells the content digests of files whose data does not travel, and needs a receiver that is
    ///   sparse.
    ///
    /// Then [`tree`](Outgoing::tree) gives the script from `base` to `new`.
    pub fn plan(
        &mut self,
        new: &Entry,
        base: Option<&Entry>,
        fresh: Option<&[Extent]>,
        within: &[u8],
        data: bool,
    ) -> Result<()> {
        let within: Vec<&[u8]> = within.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
        let within = within.join(&b'/');
        let space = Arc::clone(&self.space);
        let known = match (fresh, base) {
            (Some(fresh), _) => Known::Fresh(Ranges::of(fresh)),
            (None, None) => Known::Held { ranges: Ranges::default(), pages: HashSet::new() },
            (None, Some(base)) => reachable(&space, new, base)?,
        };
        let known = Arc::new(known);
        let (mut gone, mut added) = (Gone::default(), Added::default());
        let mut holds = |page: &PageRef| Ok(known.holds(page));
        changes(&space, new, base, &mut holds, &mut |visit| {
            let (path, new, old) = match visit {
                Visit::File { path, new, old } => (path, new, old),
                Visit::Removed { path, old } => {
                    gone.push(path, old);
                    return Ok(());
                }
                _ => return Ok(()),
            };
            if old.is_some_and(|old| old.content == new.content) {
                return Ok(());
            }
            if let Content::Listed { list, .. } = &new.content {
                let before = match old.map(|old| &old.content) {
                    Some(Content::Listed { list, .. }) => list.as_slice(),
                    _ => &[],
                };
                self.plan_extents(&known, list.iter().map(|&part| Ok(part)), before)?;
            }
            if !data || !is_within(path, &within) {
                return Ok(());
            }
            // What it was before it was renamed may be met later.
            if old.is_none() && base.is_some() && !added.is_full() && travels(&space, &known, new)? {
                added.0.push((path.to_vec(), new.clone()));
                return Ok(());
            }
            self.plan_file(&known, new, old)
        })?;
        for ((_, new), old) in added.0.iter().zip(gone.bases(&space, &added)?) {
            self.plan_file(&known, new, old.as_ref())?;
        }
        let lacks_data = fresh.is_none() && !(data && within.is_empty());
        let holds: Holds = Box::new(move |page| Ok(known.holds(page)));
        let encoder = script::Encoder::new(space, new, base, holds);
        self.script = Some(match lacks_data {
            true => encoder.telling_digests(move |path, _| Ok(!(data && is_within(path, &within)))),
            false => encoder,
        });
        Ok(())
    }

    /// Queues what has to travel of the data of a file that was `old` before.
    fn plan_file(&mut self, known: &Known, new: &Entry, old: Option<&Entry>) -> Result<()> {
        let space = Arc::clone(&self.space);
        let before = match old {
            Some(old) => tree::extents(&space, old).collect::<Result<Vec<_>>>()?,
            None => Vec::new(),
        };
        self.plan_extents(known, tree::extents(&space, new), &before)
    }

    /// Queues what has to travel of a list of extents that was `old` before.
    fn plan_extents(&mut self, known: &Known, new: impl Iterator<Item = Result<Extent>>, old: &[Extent]) -> Result<()> {
        let before = Ranges::of(old);
        let mut pieces = Vec::new();
        for extent in new {
            let extent = extent?;
            if extent.is_hole() {
                continue;
            }
            for (extent, is_old) in before.split(extent) {
                if is_old && matches!(known, Known::Held { .. }) {
                    pieces.push(Piece { extent, is_literal: false });
                } else {
                    pieces.extend(known.split(extent).map(|(extent, is_literal)| Piece { extent, is_literal }));
                }
            }
        }
        self.counts.pointer_count += pieces.iter().filter(|piece| !piece.is_literal).count() as u64;
        for gap in gaps(&pieces, old) {
            self.queue_gap(&gap)?;
        }
        Ok(())
    }

    /// Queues the literals of a gap in pieces that can be coded at once, each with its part of the base.
    fn queue_gap(&mut self, gap: &Gap) -> Result<()> {
        let total: u64 = gap.literals.iter().map(|extent| extent.length).sum();
        // A replica may have given up what it once had: then it cannot be used.
        let mut bases = Vec::new();
        gap.bases.iter().filter(|base| self.space.holds(**base)).for_each(|&base| join(&mut bases, base));
        let mut offset = 0;
        for &extent in &gap.literals {
            for piece in self.space.pieces(extent, PIECE_BYTES as u64)? {
                let bases = self.part_of(&bases, offset, piece.length, total)?;
                self.queue(piece, &bases);
                offset += piece.length;
            }
        }
        Ok(())
    }

    /// What of `bases` lies where `length` bytes at `offset` of `total` lie, in whole chunks.
    fn part_of(&self, bases: &[Extent], offset: u64, length: u64, total: u64) -> Result<Vec<Extent>> {
        let whole: u64 = bases.iter().map(|base| base.length).sum();
        let most = (length * BASE_FACTOR).clamp(BASE_BYTES_MIN, BASE_BYTES_MAX as u64);
        if whole <= most {
            return Ok(bases.to_vec());
        }
        let centre = u128::from(2 * offset + length) * u128::from(whole) / u128::from(2 * total.max(1));
        let from = (centre as u64).saturating_sub(most / 2).min(whole - most);
        let mut found = Vec::new();
        for part in cut(bases, from, from + most) {
            // `part` may begin and end inside of chunks.
            let Some(base) = bases.iter().find(|base| base.address <= part.address && part.end() <= base.end()) else {
                continue;
            };
            for chunk in self.space.chunks(*base)? {
                let chunk = extent_of(segment_of(base.address), &chunk);
                if part.address <= chunk.address && chunk.end() <= part.end() {
                    join(&mut found, chunk);
                }
            }
        }
        Ok(found)
    }

    /// Queues what of a run is not queued yet.
    fn queue(&mut self, extent: Extent, bases: &[Extent]) {
        for (extent, is_queued) in self.queued.split(extent) {
            if is_queued {
                continue;
            }
            self.queued.insert(extent);
            let bases = bases.to_vec();
            if !bases.is_empty() {
                self.based.push_back(Queued { extent, bases });
                continue;
            }
            match self.plain.back_mut() {
                Some(last) if last.extent.end() == extent.address && is_one_segment(last.extent, extent) => {
                    last.extent.length += extent.length;
                }
                _ => self.plain.push_back(Queued { extent, bases }),
            }
        }
    }

    /// The next body of literals; `None` when all that was queued has been given.
    pub fn literals(&mut self) -> Result<Option<Body>> {
        let group = match self.based.is_empty() {
            false => self.next_based(),
            true => self.next_plain()?,
        };
        if group.is_empty() {
            return Ok(None);
        }
        let raw = self.raw_of(&group)?;
        let mut base = Vec::new();
        let (mut runs, mut digests) = (Vec::new(), Vec::<u8>::new());
        for Queued { extent, bases } in group {
            let chunks = self.space.chunks(extent)?;
            self.counts.literal_chunks += chunks.len() as u64;
            chunks.iter().for_each(|chunk| digests.extend_from_slice(&chunk.digest));
            runs_of(segment_of(extent.address), &chunks, bases, &mut runs);
        }
        // Damaged bytes are no base. What is wrong with them is found by who verifies.
        if !self.copy_bases(&runs, &mut base)? {
            base.clear();
        }
        let mut coded = Vec::new();
        let (total, coding) = match &raw {
            Raw::Copied(raw) => (raw.len(), self.encoder.encode_unless_raw(raw, &base, &mut coded)?),
            Raw::Stored(raw) => {
                (raw.len(), guarded(|| self.encoder.encode_unless_raw(raw, &base, &mut coded)).flatten()?)
            }
        };
        let coded = match raw {
            Raw::Copied(raw) if coding == Coding::Raw => Coded::Made(raw),
            Raw::Stored(raw) if coding == Coding::Raw => Coded::Stored(raw),
            _ => Coded::Made(coded),
        };
        let told = Head { coding, runs, check: literals::check(self.space.keys(), &digests) };
        let mut head = Vec::new();
        self.place.encode(&told, &mut head);
        self.counts.literal_bytes += total as u64;
        self.counts.delta_bytes += if coding == Coding::Delta { total as u64 } else { 0 };
        self.counts.coded_bytes += (head.len() + coded.len()) as u64;
        Ok(Some(Body { head, coded }))
    }

    /// The bytes of a group: from where they lie if it is one run.
    fn raw_of(&self, group: &[Queued]) -> Result<Raw> {
        if let [one] = group {
            return Ok(Raw::Stored(match self.is_verified {
                true => self.space.slice(one.extent)?,
                false => self.space.read(one.extent)?,
            }));
        }
        let mut raw = vec![0; group.iter().map(|one| one.extent.length as usize).sum()];
        let mut rest = raw.as_mut_slice();
        for one in group {
            let (part, others) = rest.split_at_mut(one.extent.length as usize);
            self.space.copy(one.extent, part)?;
            rest = others;
        }
        Ok(Raw::Copied(raw))
    }

    fn copy_bases(&self, runs: &[Run], base: &mut Vec<u8>) -> Result<bool> {
        for extent in runs.iter().flat_map(|run| &run.bases) {
            let from = base.len();
            base.resize(from + extent.length as usize, 0);
            match self.space.copy(*extent, &mut base[from..]) {
                Ok(()) => {}
                Err(Error::Damaged(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Runs that are short, until they are a group together; or one that is long.
    fn next_based(&mut self) -> Vec<Queued> {
        let mut group: Vec<Queued> = Vec::new();
        let (mut raw, mut based, mut bases) = (0, 0, 0);
        while let Some(next) = self.based.front_mut() {
            let length = next.extent.length as usize;
            // What lies between the same neighbours has the same base: once is enough.
            let repeats = group.iter().rfind(|before| !before.bases.is_empty());
            if repeats.is_some_and(|before| before.bases == next.bases) {
                next.bases.clear();
            }
            let base: u64 = next.bases.iter().map(|base| base.length).sum();
            let fits = length < LARGE_RUN_BYTES
                && raw + length <= GROUP_BYTES
                && based + base <= BASE_BYTES_MAX as u64
                && group.len().max(bases + next.bases.len()) < BODY_CHUNKS_MAX;
            if !group.is_empty() && !fits {
                // Its base was cleared because it is in this group; in the next one it has to be named again.
                if next.bases.is_empty()
                    && let Some(before) = repeats
                {
                    next.bases.clone_from(&before.bases);
                }
                break;
            }
            (raw, based, bases) = (raw + length, based + base, bases + next.bases.len());
            group.extend(self.based.pop_front());
            if length >= LARGE_RUN_BYTES {
                break;
            }
        }
        group
    }

    /// The next mebibyte, or the next chunk if that is longer.
    fn next_plain(&mut self) -> Result<Vec<Queued>> {
        let mut group = Vec::new();
        let (mut raw, mut count) = (0, 0);
        while let Some(next) = self.plain.front() {
            let segment = segment_of(next.extent.address);
            let mut taken = Extent { length: 0, ..next.extent };
            for chunk in self.space.chunks(next.extent)? {
                let length = extent_of(segment, &chunk).length;
                if (raw > 0 && raw + length > GROUP_BYTES as u64) || count == BODY_CHUNKS_MAX {
                    break;
                }
                taken.length += length;
                (raw, count) = (raw + length, count + 1);
            }
            let rest = Extent { address: taken.end(), length: next.extent.length - taken.length };
            if taken.length > 0 {
                group.push(Queued { extent: taken, bases: Vec::new() });
            }
            if rest.length == 0 {
                self.plain.pop_front();
                continue;
            }
            if let Some(next) = self.plain.front_mut() {
                next.extent = rest;
            }
            break;
        }
        Ok(group)
    }

    /// The next body of the tree's script; `None` after the last. There is none before [`plan`](Outgoing::plan).
    pub fn tree(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(script) = &mut self.script else { return Ok(None) };
        let Some(part) = script.next_part()? else {
            self.script = None;
            return Ok(None);
        };
        let mut coded = Vec::new();
        let coding = self.tree_encoder.encode(&part, &[], &mut coded)?;
        let mut body = vec![coding as u8];
        varint::put(part.len() as u64, &mut body);
        body.append(&mut coded);
        self.counts.coded_bytes += body.len() as u64;
        Ok(Some(body))
    }
}

/// What the other side has.
enum Known {
    /// All but these ranges.
    Fresh(Ranges),
    /// These ranges and directories.
    Held { ranges: Ranges, pages: HashSet<Address> },
}

impl Known {
    fn holds(&self, page: &PageRef) -> bool {
        match self {
            Known::Fresh(fresh) => !fresh.touches(page.extent()),
            Known::Held { pages, .. } => pages.contains(&page.address),
        }
    }

    /// The parts of `extent`, and whether each has to travel.
    fn split(&self, extent: Extent) -> impl Iterator<Item = (Extent, bool)> {
        let (parts, literal) = match self {
            Known::Fresh(fresh) => (fresh.split(extent), true),
            Known::Held { ranges, .. } => (ranges.split(extent), false),
        };
        parts.into_iter().map(move |(extent, is_in)| (extent, is_in == literal))
    }
}

/// Whether anything of a file has to travel.
fn travels(space: &Arc<Space>, known: &Known, file: &Entry) -> Result<bool> {
    for extent in tree::extents(space, file) {
        let extent = extent?;
        if !extent.is_hole() && known.split(extent).any(|part| part.1) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the tree `new` has that `base` does not have at the same place and yet has. The base is read whole only if
/// there is anything to look for.
fn reachable(space: &Arc<Space>, new: &Entry, base: &Entry) -> Result<Known> {
    let (mut wanted, mut wanted_pages) = (Ranges::default(), HashSet::new());
    changes(space, new, Some(base), &mut |_| Ok(false), &mut |visit| {
        match visit {
            Visit::Directory { new, old: None, .. } => wanted_pages.extend(new.page().map(|page| page.address)),
            Visit::File { new, old, .. } if old.is_none_or(|old| old.content != new.content) => {
                let before = match old {
                    Some(old) => stored(space, old)?,
                    None => Vec::new(),
                };
                let before = Ranges::of(&before);
                for extent in stored(space, new)? {
                    before.split(extent).iter().filter(|part| !part.1).for_each(|part| wanted.insert(part.0));
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    let (mut ranges, mut pages) = (Ranges::default(), HashSet::new());
    let root = base.page().filter(|_| !wanted.is_empty() || !wanted_pages.is_empty());
    for found in root.iter().flat_map(|page| Walk::new(space, page)) {
        let (_, entry) = found?;
        match entry.page() {
            Some(page) if wanted_pages.contains(&page.address) => {
                pages.insert(page.address);
            }
            None if entry.kind == EntryKind::File && !wanted.is_empty() => {
                for extent in stored(space, &entry)? {
                    let parts = wanted.split(extent);
                    parts.iter().filter(|part| part.1).for_each(|part| ranges.insert(part.0));
                }
            }
            _ => {}
        }
    }
    Ok(Known::Held { ranges, pages })
}

/// Where the content of a file is, and the list of that if it is an object.
fn stored(space: &Arc<Space>, entry: &Entry) -> Result<Vec<Extent>> {
    let mut found = match &entry.content {
        Content::Listed { list, .. } => list.clone(),
        _ => Vec::new(),
    };
    for extent in tree::extents(space, entry) {
        let extent = extent?;
        if !extent.is_hole() {
            found.push(extent);
        }
    }
    Ok(found)
}

fn is_within(path: &[u8], within: &[u8]) -> bool {
    within.is_empty() || path.strip_prefix(within).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn is_one_segment(a: Extent, b: Extent) -> bool {
    segment_of(a.address) == segment_of(b.address)
}

fn extent_of(segment: u64, chunk: &ChunkRef) -> Extent {
    Extent { address: segment_start(segment) | u64::from(chunk.start), length: chunk.length().into() }
}

/// Appends the runs that `chunks` are; the first has the base.
fn runs_of(segment: u64, chunks: &[ChunkRef], mut bases: Vec<Extent>, runs: &mut Vec<Run>) {
    for same in chunks.chunk_by(|a, b| a.kind == b.kind) {
        runs.push(Run {
            address: segment_start(segment) | u64::from(same[0].start),
            kind: same[0].kind,
            lengths: same.iter().map(ChunkRef::length).collect(),
            bases: std::mem::take(&mut bases),
        });
    }
}

#[cfg(test)]
mod tests;
