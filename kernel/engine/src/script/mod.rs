//! Tree scripts: what turns one tree into another on a machine that holds the first (docs/formats/tree-script.md).
//!
//! A script says which entries differ and how; pages, page digests and content digests do not travel, because the
//! receiver makes them. [`changes`] finds what differs, [`Encoder`] writes it down, [`Applier`] rebuilds the pages,
//! each at the address where the other side has it. Nothing here moves data or touches a lease.

mod apply;
mod changes;
mod encode;
#[cfg(test)]
mod tests;

pub use apply::{Applier, Place};
pub use changes::{Visit, changes};
pub use encode::Encoder;

use crate::address::{Address, Extent};
use crate::page::{Content, Entry, EntryKind};

/// A part is finished when it has this many bytes.
pub const PART_BYTES: usize = 256 << 10;
/// No part is longer: the last entry of a part may bring 1 MiB of attributes. A receiver refuses what is.
pub const PART_BYTES_MAX: usize = 2 << 20;

/// Classes and owners that are remembered; a number is a byte, and this one says that a new one follows.
const REMEMBERED_MAX: usize = 255;
const IS_NEW: u8 = 255;

const SECOND_NS: i64 = 1_000_000_000;

/// What is done next: the low three bits of a byte of the first column.
mod op {
    /// The next entries of the base stay.
    pub(super) const KEEP: u8 = 0;
    /// The next entries of the base go.
    pub(super) const SKIP: u8 = 1;
    /// The next entries of the base change.
    pub(super) const CHANGE: u8 = 2;
    /// Entries come.
    pub(super) const ADD: u8 = 3;
    /// The next entry of the base is a directory, and what follows happens in it.
    pub(super) const ENTER: u8 = 4;
    /// As [`ENTER`], and every page of the directory is placed, also one that the base has.
    pub(super) const ENTER_PLACING: u8 = 5;
    /// A directory comes, and what follows happens in it.
    pub(super) const ENTER_NEW: u8 = 6;
    /// The directory ends; what is left of its base stays.
    pub(super) const LEAVE: u8 = 7;

    pub(super) const BITS: u32 = 3;
    /// Counts up to this are in the byte itself; longer ones are what the second column says beyond it.
    pub(super) const SHORT_MAX: u64 = 31;
}

/// Which fields of an entry follow: those that differ from its base, or from the blank that an added one begins as.
mod field {
    pub(super) const MTIME: u8 = 1;
    pub(super) const CLASS: u8 = 2;
    pub(super) const SIZE: u8 = 4;
    /// Extents, target, device number, or where a directory that is not rebuilt has its root page.
    pub(super) const CONTENT: u8 = 8;
    pub(super) const LINK: u8 = 16;
    pub(super) const XATTRS: u8 = 32;
    /// The content digest, for a receiver that may not know the chunks. Only beside `CONTENT`, of files with bytes.
    pub(super) const DIGEST: u8 = 64;
    pub(super) const ALL: u8 = 127;
}

/// How an extent is said.
mod way {
    pub(super) const HOLE: u8 = 0;
    /// As a distance from the tip: what was put in place last.
    pub(super) const TIP: u8 = 1;
    /// As a distance from where the base of the file has the same bytes.
    pub(super) const BASE: u8 = 2;
    /// As a distance from the last extent that was said this way.
    pub(super) const ELSEWHERE: u8 = 3;
    pub(super) const MASK: u8 = 3;
    /// The last extent of the file; its length is what is left.
    pub(super) const LAST: u8 = 4;
    /// Not an extent: those of the list object follow.
    pub(super) const LISTED: u8 = 8;
}

/// The columns of a part, in order.
#[derive(Clone, Copy)]
enum Column {
    Ops,
    Counts,
    Shared,
    Lengths,
    Text,
    Fields,
    Classes,
    Seconds,
    Nanos,
    Growths,
    Sizes,
    Ways,
    Pointers,
    ExtentLengths,
    Places,
    Others,
    Links,
    Xattrs,
    Digests,
}

const COLUMNS: usize = Column::Digests as usize + 1;

#[derive(Clone, PartialEq, Eq, Default)]
struct Owner {
    uid: u32,
    gid: u32,
    user: Vec<u8>,
    group: Vec<u8>,
}

/// Kind, mode and owner: what most entries share with others.
#[derive(Clone, PartialEq, Eq, Default)]
struct Class {
    kind: EntryKind,
    mode: u32,
    owner: Owner,
}

impl Class {
    fn of(entry: &Entry) -> Class {
        let Entry { kind, mode, uid, gid, user, group, .. } = entry;
        let owner = Owner { uid: *uid, gid: *gid, user: user.clone(), group: group.clone() };
        Class { kind: *kind, mode: *mode, owner }
    }

    fn is_of(&self, entry: &Entry) -> bool {
        let Owner { uid, gid, user, group } = &self.owner;
        (self.kind, self.mode, *uid, *gid, user, group)
            == (entry.kind, entry.mode, entry.uid, entry.gid, &entry.user, &entry.group)
    }

    fn give(&self, entry: &mut Entry) {
        (entry.kind, entry.mode) = (self.kind, self.mode);
        let Owner { uid, gid, user, group } = self.owner.clone();
        (entry.uid, entry.gid, entry.user, entry.group) = (uid, gid, user, group);
    }
}

/// The values met last, by number. Both sides forget the same.
struct Remembered<T> {
    values: Vec<T>,
    next: usize,
}

impl<T> Remembered<T> {
    fn add(&mut self, value: T) {
        match self.values.get_mut(self.next) {
            Some(old) => *old = value,
            None => self.values.push(value),
        }
        self.next = (self.next + 1) % REMEMBERED_MAX;
    }
}

/// What both sides know at each point of a script: the values that the next ones are told by.
struct State {
    seconds: i64,
    nanos: i64,
    /// Where the next new bytes go if they follow the last: ingest puts data and pages one after the other.
    tip: Address,
    elsewhere: Address,
    classes: Remembered<Class>,
    owners: Remembered<Owner>,
    /// The class that an added entry begins with: of the last one added, and of the last directory.
    last_class: Class,
    last_directory: Class,
    /// The last name that was spelt.
    name: Vec<u8>,
}

impl State {
    fn new(base: Option<&Entry>) -> State {
        let root = base.map(Class::of).unwrap_or_default();
        let mtime_ns = base.map_or(0, |base| base.mtime_ns);
        let known = base.is_some();
        // A push ends with its root page: the next one often goes on right behind it.
        let end = base.and_then(Entry::page).map_or(0, |page| page.extent().end());
        State {
            seconds: mtime_ns.div_euclid(SECOND_NS),
            nanos: mtime_ns.rem_euclid(SECOND_NS),
            tip: end,
            elsewhere: end,
            owners: Remembered { values: known.then(|| root.owner.clone()).into_iter().collect(), next: known.into() },
            classes: Remembered { values: known.then(|| root.clone()).into_iter().collect(), next: known.into() },
            last_class: Class { kind: EntryKind::File, mode: root.mode & 0o666, owner: root.owner.clone() },
            last_directory: Class { kind: EntryKind::Directory, ..root },
            name: Vec::new(),
        }
    }

    /// What an added entry is before its fields are told.
    fn blank(&self, name: Vec<u8>, is_directory: bool) -> Entry {
        let class = if is_directory { &self.last_directory } else { &self.last_class };
        let mut entry = Entry { name, ..Entry::default() };
        class.give(&mut entry);
        entry.mtime_ns = self.seconds.saturating_mul(SECOND_NS).saturating_add(self.nanos);
        if entry.kind == EntryKind::File {
            entry.content = Content::Extents(Vec::new());
        }
        entry
    }

    fn class_told(&mut self, class: Class) {
        match class.kind {
            EntryKind::Directory => self.last_directory = class,
            _ => self.last_class = class,
        }
    }
}

/// Where the base of a file would have the next byte of the new one: as far behind the last extent that came from it
/// as this one is.
struct BaseFile<'a> {
    extents: &'a [Extent],
    offset: u64,
}

impl<'a> BaseFile<'a> {
    /// A file whose list is an object of its own is not looked into.
    fn of(entry: &'a Entry) -> Self {
        let extents = match &entry.content {
            Content::Extents(extents) => extents.as_slice(),
            _ => &[],
        };
        BaseFile { extents, offset: 0 }
    }

    fn expected(&self) -> Option<Address> {
        let mut left = self.offset;
        for extent in self.extents {
            if left < extent.length {
                return (!extent.is_hole()).then_some(extent.address.wrapping_add(left));
            }
            left -= extent.length;
        }
        None
    }

    fn pass(&mut self, extent: Extent, is_from_base: bool) {
        let mut start = 0u64;
        for old in self.extents.iter().take_while(|_| is_from_base) {
            let inside = extent.address.wrapping_sub(old.address);
            if !old.is_hole() && inside < old.length {
                self.offset = start + inside;
                break;
            }
            start += old.length;
        }
        self.offset = self.offset.saturating_add(extent.length);
    }
}
