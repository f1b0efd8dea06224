//! Which bytes of a volume its snapshots reach, and which nothing does. It decides nothing about them and frees none.
//!
//! A page, or a list of extents, that was seen once is not read again: an address means the same for ever, and
//! snapshots share nearly all of their trees.

use std::collections::HashSet;
use std::sync::Arc;

use crate::address::{Address, Extent, offset_of, segment_of, segment_start};
use crate::error::{Error, Result};
use crate::page::{Content, Entry, Page, PageRef};
use crate::space::{Committed, SegmentRanges, Space};
use crate::table::Kind;
use crate::tree;

/// So many ranges are gathered before they are joined for the first time (4 MiB).
const RANGES_MIN: usize = 1 << 18;

/// The bytes that some trees reach.
pub struct Mark {
    space: Arc<Space>,
    pages: HashSet<Address>,
    lists: HashSet<Vec<Extent>>,
    reached: Vec<Extent>,
    /// How many ranges there may be before they are joined.
    joined_at: usize,
}

impl Mark {
    /// Nothing is reached yet.
    pub fn new(space: &Arc<Space>) -> Mark {
        Mark {
            space: Arc::clone(space),
            pages: HashSet::new(),
            lists: HashSet::new(),
            reached: Vec::new(),
            joined_at: RANGES_MIN,
        }
    }

    /// Marks all that the tree of `root` needs. If this fails some of it is not marked: what a damaged page points to
    /// is not known.
    pub fn tree(&mut self, root: &Entry) -> Result<()> {
        let mut waiting = Vec::new();
        self.entry(root, &mut waiting)?;
        while let Some(page) = waiting.pop() {
            match tree::read(&*self.space, &page, None)? {
                Page::Node { children, .. } => {
                    children.iter().for_each(|child| self.page(child.page, &mut waiting));
                }
                Page::Leaf(entries) => entries.iter().try_for_each(|entry| self.entry(entry, &mut waiting))?,
            }
        }
        if self.reached.len() >= self.joined_at {
            self.join();
            self.joined_at = RANGES_MIN.max(2 * self.reached.len());
        }
        Ok(())
    }

    fn page(&mut self, page: PageRef, waiting: &mut Vec<PageRef>) {
        if self.pages.insert(page.address) {
            self.reached.push(page.extent());
            waiting.push(page);
        }
    }

    fn entry(&mut self, entry: &Entry, waiting: &mut Vec<PageRef>) -> Result<()> {
        match &entry.content {
            Content::None => {}
            Content::Directory(page) => self.page(*page, waiting),
            Content::Extents(extents) => self.reached.extend(extents.iter().filter(|extent| !extent.is_hole())),
            Content::Listed { list, .. } => {
                if self.lists.insert(list.clone()) {
                    self.reached.extend(list);
                    for extent in tree::extents(&*self.space, entry) {
                        self.reached.extend(Some(extent?).filter(|extent| !extent.is_hole()));
                    }
                }
            }
        }
        Ok(())
    }

    /// How many bytes are reached, each counted once.
    pub fn reached_bytes(&mut self) -> u64 {
        self.join();
        self.reached.iter().map(|extent| extent.length).sum()
    }

    /// The chunks of a committed segment below `settled` that are not reached, neighbours joined, and how many bytes
    /// from there on are not reached either. Entries of the journal are always needed, and what is reclaimed already is
    /// left out.
    pub fn unreached(&mut self, row: Committed, settled: u32) -> Result<(SegmentRanges, u64)> {
        self.join();
        let table = match self.space.table(row.segment) {
            // A damaged table says nothing of what lies there.
            Err(Error::Damaged(_)) => return Ok((Vec::new(), 0)),
            table => table?,
        };
        let start = segment_start(row.segment);
        let is_reached = |from: u32, to: u32| {
            let after = self.reached.partition_point(|extent| extent.end() <= start | u64::from(from));
            self.reached.get(after).is_some_and(|extent| extent.address < start + u64::from(to))
        };
        let (mut ranges, mut young_bytes): (SegmentRanges, u64) = (Vec::new(), 0);
        for chunk in table.chunks_from(0).take_while(|chunk| chunk.end <= row.head) {
            let extent = Extent { address: start | u64::from(chunk.start), length: chunk.length().into() };
            if chunk.kind == Kind::Journal || is_reached(chunk.start, chunk.end) || self.space.is_reclaimed(extent) {
                continue;
            }
            match ranges.last_mut() {
                _ if chunk.end > settled => young_bytes += extent.length,
                Some(before) if before.1 == chunk.start => before.1 = chunk.end,
                _ => ranges.push((chunk.start, chunk.end)),
            }
        }
        Ok((ranges, young_bytes))
    }

    /// What of the `ranges` of a segment is not reached.
    pub fn spared(&mut self, segment: u64, ranges: &[(u32, u32)]) -> SegmentRanges {
        self.join();
        let mut left = Vec::new();
        for &(start, end) in ranges {
            let (mut at, limit) = (segment_start(segment) | u64::from(start), segment_start(segment) + u64::from(end));
            let first = self.reached.partition_point(|extent| extent.end() <= at);
            let mut keep = |from: Address, to: Address| {
                if from < to {
                    left.push((offset_of(from), (to - segment_start(segment)) as u32));
                }
            };
            for extent in self.reached[first..].iter().take_while(|extent| extent.address < limit) {
                keep(at, extent.address.min(limit));
                at = at.max(extent.end().min(limit));
            }
            keep(at, limit);
        }
        left
    }

    fn join(&mut self) {
        self.reached.sort_unstable();
        self.reached.dedup_by(|next, before| {
            let joins = next.address <= before.end() && segment_of(next.address) == segment_of(before.address);
            if joins {
                before.length = before.length.max(next.end() - before.address);
            }
            joins
        });
    }
}
