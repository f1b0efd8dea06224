//! What of a tree's content is not in this space: what a sparse replica has to ask its origin for. It fetches nothing.

use crate::address::{Extent, offset_of, segment_of, segment_start};
use crate::error::{Error, Result};
use crate::page::{Content, Entry, EntryKind};
use crate::space::Space;
use crate::table::SegmentTable;
use crate::tree;
use std::sync::Arc;

/// So many ranges are gathered before they are joined for the first time (1 MiB): files share ranges, and what is
/// together in the space is often apart in the tree.
const RANGES_MIN: usize = 1 << 16;

impl Space {
    /// What of the content at and below the path `within` (empty: all) of the tree at `root` is not here by the chunk
    /// tables: ascending, joined, each byte once. Nothing if the tree has no such path.
    ///
    /// The pages of the tree must be here. Of a file whose list of extents is not here, only the list is answered:
    /// ask again once it is. Whether bytes that are here are damaged is not looked at.
    pub fn absent(&self, root: &Entry, within: &[u8]) -> Result<Vec<Extent>> {
        let names_nothing = within.iter().all(|&byte| byte == b'/');
        let top = match root.page() {
            Some(page) if !names_nothing => tree::lookup_path(self, &page, within)?,
            _ => names_nothing.then(|| root.clone()),
        };
        let mut absent = Absent { space: self, table: None, ranges: Vec::new(), joined_at: RANGES_MIN };
        match top.as_ref().map(|top| (top, top.page())) {
            None => {}
            Some((file, None)) => absent.entry(file)?,
            Some((_, Some(page))) => {
                for found in tree::Walk::new(self, &page) {
                    absent.entry(&found?.1)?;
                }
            }
        }
        absent.join();
        Ok(absent.ranges)
    }
}

struct Absent<'a> {
    space: &'a Space,
    /// The segment that was asked for last, and its table if there is one to believe.
    table: Option<(u64, Option<Arc<SegmentTable>>)>,
    ranges: Vec<Extent>,
    /// How many ranges there may be before they are joined.
    joined_at: usize,
}

impl Absent<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::File {
            return Ok(());
        }
        if let Content::Listed { list, .. } = &entry.content {
            list.iter().try_for_each(|&part| self.extent(part))?;
            if !list.iter().all(|&part| self.space.holds(part)) {
                return Ok(());
            }
        }
        tree::extents(self.space, entry).try_for_each(|extent| self.extent(extent?))
    }

    fn extent(&mut self, extent: Extent) -> Result<()> {
        if extent.is_hole() {
            return Ok(());
        }
        // The extents of a page that could be decoded lie in one segment each.
        let (segment, start) = (segment_of(extent.address), offset_of(extent.address));
        let end = start.saturating_add(extent.length as u32);
        if self.table.as_ref().is_none_or(|(known, _)| *known != segment) {
            let table = match self.space.committed(segment).map(|_| self.space.table(segment)) {
                Some(Ok(table)) => Some(table),
                None | Some(Err(Error::Damaged(_))) => None,
                Some(Err(error)) => return Err(error),
            };
            self.table = Some((segment, table));
        }
        let ranges = &mut self.ranges;
        let mut gap = |start: u32, end: u32| {
            let range = Extent { address: segment_start(segment) | u64::from(start), length: u64::from(end - start) };
            match ranges.last_mut() {
                Some(last) if joins(last, &range) && last.address <= range.address => take_in(last, &range),
                _ => ranges.push(range),
            }
        };
        match &self.table {
            Some((_, Some(table))) => table.gaps(start, end, &mut gap),
            _ => gap(start, end),
        }
        if self.ranges.len() >= self.joined_at {
            self.join();
            self.joined_at = RANGES_MIN.max(2 * self.ranges.len());
        }
        Ok(())
    }

    fn join(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, before| {
            let joins = joins(before, next);
            if joins {
                take_in(before, next);
            }
            joins
        });
    }
}

/// Whether `next`, which begins no earlier, begins in `before` or at its end. An extent lies in one segment.
fn joins(before: &Extent, next: &Extent) -> bool {
    next.address <= before.end() && segment_of(next.address) == segment_of(before.address)
}

fn take_in(before: &mut Extent, next: &Extent) {
    before.length = before.length.max(next.end() - before.address);
}
