//! The claims that no file has yet: open addressing in memory, small, and emptied by each publication.

use super::Entry;
use crate::address::Address;

/// Grown beyond three quarters: probes stay short, and an entry costs 21 to 43 bytes for the short time it is here.
const FULL_NUMERATOR: usize = 3;
const FULL_DENOMINATOR: usize = 4;
const SLOTS_MIN: usize = 1024;

/// A set of entries, found by tag. An address of 0 marks an empty place; no chunk is at address 0.
#[derive(Default)]
pub(super) struct OpenTable {
    places: Vec<Entry>,
    count: usize,
}

impl OpenTable {
    /// How many entries it holds.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// All entries, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.places.iter().copied().filter(|place| place.address != 0)
    }

    /// Adds an entry unless it is there. Several addresses may share a tag.
    pub(super) fn insert(&mut self, entry: Entry) {
        if entry.address == 0 {
            return;
        }
        if (self.count + 1) * FULL_DENOMINATOR > self.places.len() * FULL_NUMERATOR {
            self.rehash();
        }
        let mask = self.places.len() - 1;
        // Tags are keyed digests: their bits are as good as any hash of them.
        let mut at = entry.tag as usize & mask;
        while self.places[at].address != 0 {
            if self.places[at] == entry {
                return;
            }
            at = (at + 1) & mask;
        }
        self.places[at] = entry;
        self.count += 1;
    }

    /// Calls `claim` with each address for `tag` until it answers false.
    pub(super) fn find(&self, tag: u64, mut claim: impl FnMut(Address) -> bool) {
        if self.places.is_empty() {
            return;
        }
        let mask = self.places.len() - 1;
        let mut at = tag as usize & mask;
        while self.places[at].address != 0 {
            if self.places[at].tag == tag && !claim(self.places[at].address) {
                return;
            }
            at = (at + 1) & mask;
        }
    }

    fn rehash(&mut self) {
        let slots = (self.places.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.places, vec![Entry { tag: 0, address: 0 }; slots]);
        self.count = 0;
        for entry in old {
            self.insert(entry);
        }
    }
}
