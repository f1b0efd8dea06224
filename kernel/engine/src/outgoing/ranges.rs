//! Sets of addresses, as ranges. They know nothing of what lies there.

use std::collections::BTreeMap;

use crate::address::{Address, Extent, SEGMENT_BYTES};

/// Addresses; ranges never touch each other, but where a segment ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<Address, Address>);

impl Ranges {
    pub(super) fn of(extents: &[Extent]) -> Ranges {
        let mut ranges = Ranges::default();
        extents
            .iter()
            .filter(|extent| !extent.is_hole() && extent.length > 0)
            .for_each(|&extent| ranges.insert(extent));
        ranges
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a range that is no hole.
    pub(super) fn insert(&mut self, extent: Extent) {
        let (mut start, mut end) = (extent.address, extent.end());
        while let Some((&before, &until)) = self.0.range(..=end).next_back().filter(|range| *range.1 >= start) {
            // Nearly always the next range in order: then it is one look-up.
            (start, end) = (start.min(before), end.max(until));
            self.0.remove(&before);
        }
        self.0.insert(start, end);
    }

    /// The parts of `extent`, in order, and whether each lies in the set.
    pub(super) fn split(&self, extent: Extent) -> Vec<(Extent, bool)> {
        let (mut at, end) = (extent.address, extent.end());
        let mut parts = Vec::new();
        let mut part = |from: Address, to: Address, is_in| {
            if from < to {
                parts.push((Extent { address: from, length: to - from }, is_in));
            }
        };
        let first = self.0.range(..=at).next_back().map_or(at, |(&start, _)| start);
        for (&from, &to) in self.0.range(first..end) {
            if to <= at {
                continue;
            }
            part(at, from.clamp(at, end), false);
            part(from.max(at), to.min(end), true);
            at = to.min(end);
        }
        part(at, end, false);
        parts
    }

    pub(super) fn touches(&self, extent: Extent) -> bool {
        self.split(extent).iter().any(|part| part.1)
    }
}

/// Adds `extent` to a list, joined to its last one if it goes on there. An extent lies in one segment.
pub(super) fn join(list: &mut Vec<Extent>, extent: Extent) {
    match list.last_mut() {
        Some(last) if last.end() == extent.address && !extent.address.is_multiple_of(SEGMENT_BYTES) => {
            last.length += extent.length;
        }
        _ => list.push(extent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn extent() -> impl Strategy<Value = Extent> {
        (1u64..200, 1u64..40).prop_map(|(address, length)| Extent { address, length })
    }

    proptest! {
        #[test]
        fn a_range_is_split_where_the_set_begins_and_ends(list in vec(extent(), 0..12), asked in extent()) {
            let ranges = Ranges::of(&list);

            let parts = ranges.split(asked);

            let is_in = |address: u64| list.iter().any(|one| (one.address..one.end()).contains(&address));
            let found: Vec<(u64, bool)> =
                parts.iter().flat_map(|(part, is_in)| (part.address..part.end()).map(|at| (at, *is_in))).collect();
            let expected: Vec<_> = (asked.address..asked.end()).map(|at| (at, is_in(at))).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(parts.windows(2).all(|pair| pair[0].1 != pair[1].1));
        }
    }
}
