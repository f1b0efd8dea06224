//! How much more room a checkout will need than there is in use: counted in a dry run, and never too much.
//!
//! It says the least that can come of it, so that nothing is refused that would have fitted: holes take nothing, names
//! of one file are one file, blocks are counted as their bytes, what is replaced or removed gives back all its bytes.
//! Where even that cannot be said, it says so. It looks at no disk but to ask how much is free.

use std::collections::HashSet;
use std::path::Path;

use rustix::fs::statfs;

use super::LinkGroup;
use super::plan::{Found, FoundKind};
use crate::page::{Entry, EntryKind};
use crate::tree::{self, PageSource};
use crate::{Error, Result};

/// File systems that keep bytes as they are given and say truly how many more they take. Others (btrfs, ZFS, anything
/// over a network) may compress or share them, or have a quota: there only trying tells.
const PLAIN: [u64; 7] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x0102_1994, // tmpfs
    0x4d44,      // FAT
    0x2011_BAB0, // exFAT
    0x5346_544e, // NTFS
    0x7366_746e, // NTFS by its newer driver
];

/// What a checkout will add to the target's own file system.
#[derive(Debug, Default)]
pub struct Room {
    growth_bytes: i64,
    content_bytes: u64,
    is_unknown: bool,
    counted: HashSet<LinkGroup>,
}

impl Room {
    /// A file will be made, where `found` is now.
    pub fn file<S: PageSource>(
        &mut self,
        source: S,
        entry: &Entry,
        group: LinkGroup,
        found: Option<&Found>,
    ) -> Result<()> {
        if let Some(found) = found {
            match found.kind {
                FoundKind::Known(EntryKind::Directory) => self.is_unknown = true,
                FoundKind::Known(EntryKind::File) if !found.shared => self.growth_bytes -= found.size.cast_signed(),
                _ => {}
            }
        }
        self.growth_bytes += self.content(source, entry, group)?.cast_signed();
        Ok(())
    }

    /// A file will be written, on whatever file system: its bytes without holes, 0 for another name of one.
    pub fn content<S: PageSource>(&mut self, source: S, entry: &Entry, group: LinkGroup) -> Result<u64> {
        if entry.link_id != 0 && !self.counted.insert(group) {
            return Ok(0);
        }
        let mut bytes = 0;
        for extent in tree::extents(source, entry) {
            let extent = extent?;
            if extent.address != 0 {
                bytes += extent.length;
            }
        }
        self.content_bytes += bytes;
        Ok(bytes)
    }

    /// A name of a file of several names stays as it is: those that come after it will be links to it.
    pub fn kept(&mut self, group: LinkGroup) {
        self.counted.insert(group);
    }

    /// Something will be removed.
    pub fn removed(&mut self, found: &Found) {
        match found.kind {
            FoundKind::Known(EntryKind::File) if !found.shared => self.growth_bytes -= found.size.cast_signed(),
            FoundKind::Known(EntryKind::Directory) => self.is_unknown = true,
            _ => {}
        }
    }

    /// Something will be made or removed whose share cannot be told.
    pub fn unknown(&mut self) {
        self.is_unknown = true;
    }

    /// Bytes that will be written.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Bytes that will be in use more than now, at least; `None` if that cannot be said.
    pub fn growth_bytes(&self) -> Option<i64> {
        (!self.is_unknown).then_some(self.growth_bytes)
    }
}

/// Bytes that can still be written to the file system of `path`; `None` where only trying tells.
pub fn free_bytes(path: &Path) -> Result<Option<u64>> {
    let found = statfs(path).map_err(|e| Error::io("look at", path, e))?;
    if !PLAIN.contains(&(found.f_type as u64 & 0xFFFF_FFFF)) {
        return Ok(None);
    }
    let blocks = if rustix::process::geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    Ok(Some(blocks.saturating_mul(found.f_bsize as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Extent;
    use crate::ingest::tests::empty_space;
    use crate::page::Content;

    fn file(extents: &[(u64, u64)], link_id: u64) -> Entry {
        let extents: Vec<_> = extents.iter().map(|&(address, length)| Extent { address, length }).collect();
        let size = extents.iter().map(|extent| extent.length).sum();
        Entry { kind: EntryKind::File, size, link_id, content: Content::Extents(extents), ..Entry::default() }
    }

    fn found(kind: FoundKind, size: u64, shared: bool) -> Found {
        let (mtime_ns, ctime_ns, mode, uid, gid, rdev) = (0, 0, 0, 0, 0, 0);
        Found { kind, size, mtime_ns, ctime_ns, mode, uid, gid, rdev, identity: (1, 2), shared, target: Vec::new() }
    }

    #[test]
    fn holes_and_second_names_take_nothing_and_what_goes_gives_back() {
        let (_directory, space) = empty_space();
        let mut room = Room::default();
        let mut add = |entry: &Entry, found: Option<&Found>| {
            room.file(&*space, entry, (entry.link_id, entry.digest, entry.size), found).unwrap();
            room.growth_bytes()
        };

        assert_eq!(add(&file(&[(1 << 26, 100), (0, 1 << 40), (1 << 27, 50)], 0), None), Some(150));
        assert_eq!(add(&file(&[(1 << 26, 1000)], 7), None), Some(1150));
        assert_eq!(add(&file(&[(1 << 26, 1000)], 7), None), Some(1150));
        assert_eq!(
            add(&file(&[(1 << 26, 10)], 0), Some(&found(FoundKind::Known(EntryKind::File), 60, false))),
            Some(1100)
        );
        assert_eq!(
            add(&file(&[(1 << 26, 10)], 0), Some(&found(FoundKind::Known(EntryKind::File), 60, true))),
            Some(1110)
        );
        room.removed(&found(FoundKind::Known(EntryKind::File), 2000, false));
        assert_eq!(room.growth_bytes(), Some(-890));
        let linked = file(&[(1 << 26, 1000)], 8);
        room.kept((linked.link_id, linked.digest, linked.size));
        room.file(&*space, &linked, (linked.link_id, linked.digest, linked.size), None).unwrap();
        assert_eq!(room.growth_bytes(), Some(-890));
        room.removed(&found(FoundKind::Known(EntryKind::Directory), 4096, true));
        assert_eq!(room.growth_bytes(), None);
        assert_eq!(room.content_bytes(), 1170);
    }
}
