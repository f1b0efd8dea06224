//! Pages: some hundred entries of a directory as packed columns (docs/formats/tree-page.md).
//!
//! Values to bytes and back. A page from disk or from a peer is hostile until [`decode`] has returned: every count is
//! bounded by the bytes that are there, names ascend and stay in their directory, lengths add up. There is no I/O here,
//! and where pages are cut and how they hang together is `tree.rs`.
//!
//! A page has one spelling: bytes that decode are the bytes that encoding gives. Its digest covers the prefix that
//! ends before the last column; only that column knows addresses.

mod decode;
mod encode;
#[cfg(test)]
pub(crate) mod tests;

use crate::address::{Address, Extent};
use crate::keys::{Digest, Keys, keyed};
use crate::varint::Reader;
use crate::{Error, Result, extent};

pub use decode::{decode, decode_root};
pub use encode::{encode_leaf, encode_node, encode_root};

/// First bytes of every page.
pub const MAGIC: [u8; 4] = *b"PFSP";
/// Version of the layout.
pub const VERSION: u8 = 1;
/// Magic 4, version 1, level 1, form 1, reserved 1, entries u32, body bytes u32, digests u32; little-endian.
pub const HEADER_BYTES: usize = 20;
/// A directory has at most this many levels of pages above its leaves: 32 children and more each, so 2^60 pages.
pub const LEVEL_MAX: u8 = 12;
/// Entries of a page; a page is cut here whatever its names are.
pub const PAGE_ENTRIES_MAX: usize = 1024;
/// A page is cut after the entry that brings its names, targets and extended attributes to this.
pub const PAGE_TEXT_BYTES: usize = 32 << 10;
/// No page is longer: 1024 files of 256 scattered extents take 4 MiB.
pub const PAGE_BYTES_MAX: usize = 8 << 20;
/// Longest name; what Linux file systems take.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest name of a user or group.
pub const OWNER_BYTES_MAX: usize = 255;
/// Longest target of a symlink (PATH_MAX without its NUL).
pub const TARGET_BYTES_MAX: usize = 4095;
/// Names and values of one entry's extended attributes together.
pub const XATTR_BYTES_MAX: usize = 1 << 20;
/// Names of one entry's extended attributes, each with its NUL: what Linux lists (XATTR_LIST_MAX).
pub const XATTR_NAMES_BYTES_MAX: usize = 64 << 10;
/// All text of a page: what comes before the cut and the longest last entry.
const TEXT_BYTES_MAX: usize = PAGE_TEXT_BYTES + NAME_BYTES_MAX + TARGET_BYTES_MAX + XATTR_BYTES_MAX;
/// A file of more extents keeps them in a list object of its own.
pub const INLINE_EXTENTS_MAX: usize = 256;

/// A stored page: `length` bytes at `address`, in one segment, and the digest of what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRef {
    /// Where its bytes begin.
    pub address: Address,
    /// How many they are.
    pub length: u32,
    /// The page digest (not the digest of the bytes: addresses are left out).
    pub digest: Digest,
}

impl PageRef {
    /// The bytes of the page as an extent.
    pub fn extent(&self) -> Extent {
        Extent { address: self.address, length: u64::from(self.length) }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let length = self.length as usize;
        if self.address == 0 || !(HEADER_BYTES..=PAGE_BYTES_MAX).contains(&length) {
            return Err(Error::Invalid(format!("no page can be {length} bytes at address {:#x}", self.address)));
        }
        extent::check(self.extent())
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// A regular file.
    #[default]
    File = 0,
    /// A directory.
    Directory = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A named pipe.
    Fifo = 3,
    /// A character device.
    CharDevice = 4,
    /// A block device.
    BlockDevice = 5,
}

impl EntryKind {
    pub(crate) fn from_byte(byte: u8) -> Result<Self> {
        Ok(match byte {
            0 => EntryKind::File,
            1 => EntryKind::Directory,
            2 => EntryKind::Symlink,
            3 => EntryKind::Fifo,
            4 => EntryKind::CharDevice,
            5 => EntryKind::BlockDevice,
            _ => return Err(Error::Invalid(format!("no kind of entry has the number {byte}"))),
        })
    }

    /// Whether it has a device number.
    pub fn is_device(self) -> bool {
        matches!(self, EntryKind::CharDevice | EntryKind::BlockDevice)
    }

    /// Whether it points to something that has a digest.
    fn has_digest(self) -> bool {
        matches!(self, EntryKind::File | EntryKind::Directory)
    }
}

/// What an entry's bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Symlinks, fifos, devices.
    #[default]
    None,
    /// A file of at most [`INLINE_EXTENTS_MAX`] extents, holes included; an empty file has none. Their lengths add up
    /// to its size.
    Extents(Vec<Extent>),
    /// A file of more extents.
    Listed {
        /// Where the list object is (`extent::encode`), in order; no holes.
        list: Vec<Extent>,
        /// Extents in the list.
        count: u64,
    },
    /// The root page of a directory.
    Directory(PageRef),
}

/// One name in a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Any bytes but `/` and NUL; not empty but at a snapshot's root.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Name of the owner; empty if unknown.
    pub user: Vec<u8>,
    /// Name of the group; empty if unknown.
    pub group: Vec<u8>,
    /// Time of the last change of content, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Bytes of a file; 0 for everything else.
    pub size: u64,
    /// Extended attributes, names ascending.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where a symlink leads; empty for everything else.
    pub target: Vec<u8>,
    /// A device's number; 0 for everything else.
    pub rdev: u64,
    /// The same for all names of one file; 0 if this is its only one. Never set for directories.
    pub link_id: u64,
    /// Content digest of a file; zero for everything else (a directory's is in its [`PageRef`]).
    pub digest: Digest,
    /// Its bytes.
    pub content: Content,
}

impl Entry {
    /// The root page of a directory.
    pub fn page(&self) -> Option<PageRef> {
        match self.content {
            Content::Directory(page) => Some(page),
            _ => None,
        }
    }

    /// What it counts towards [`PAGE_TEXT_BYTES`].
    pub(crate) fn text_bytes(&self) -> usize {
        self.name.len()
            + self.target.len()
            + self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// A child of a node page: the first name beneath it, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The first name of its first leaf.
    pub first: Vec<u8>,
    /// A page one level lower.
    pub page: PageRef,
}

/// A page, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Entries, names ascending. Only a directory's single page can be empty.
    Leaf(Vec<Entry>),
    /// Pages of the level below, first names ascending.
    Node {
        /// Height above the leaves; 1 and more.
        level: u8,
        /// At least one.
        children: Vec<Child>,
    },
}

impl Page {
    /// Height above the leaves; every child is one lower, so no chain of pages can be a circle.
    pub fn level(&self) -> u8 {
        match self {
            Page::Leaf(_) => 0,
            Page::Node { level, .. } => *level,
        }
    }
}

/// A page ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPage {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they mean, addresses left out.
    pub digest: Digest,
}

/// What a page is for; a byte of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Part of a directory.
    Directory = 0,
    /// A snapshot's root: one entry, which may have an empty name.
    Root = 1,
}

/// The header of a page and where its parts lie. Checked against the length of the page, not against its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Height above the leaves.
    pub level: u8,
    /// Entries or children.
    pub count: usize,
    /// Digests in the digest column.
    pub digests: usize,
    form: Form,
    body_bytes: usize,
}

impl Layout {
    /// Reads the header of a page.
    pub fn of(bytes: &[u8]) -> Result<Layout> {
        let mut header = Reader::new(bytes);
        let magic: [u8; 4] = header.array()?;
        let [version, level, form, reserved] = header.array()?;
        let counts = [header.array()?, header.array()?, header.array()?];
        let [count, body_bytes, digests] = counts.map(|field| u32::from_le_bytes(field) as usize);
        if magic != MAGIC {
            return Err(Error::Invalid("this is not a page: it does not begin with PFSP".into()));
        }
        if version != VERSION {
            return Err(Error::Invalid(format!("a page of version {version}; this program reads version {VERSION}")));
        }
        let form = match form {
            0 => Form::Directory,
            1 if level == 0 && count == 1 => Form::Root,
            _ => {
                return Err(Error::Invalid(format!("a page of level {level} with {count} entries has no form {form}")));
            }
        };
        if level > LEVEL_MAX
            || reserved != 0
            || count > PAGE_ENTRIES_MAX
            || digests > count
            || bytes.len() > PAGE_BYTES_MAX
        {
            return Err(Error::Invalid(format!(
                "a page cannot have level {level}, {count} entries, {digests} digests, {} bytes",
                bytes.len()
            )));
        }
        let layout = Layout { level, count, digests, form, body_bytes };
        match body_bytes <= bytes.len() && layout.pointers_start() <= bytes.len() {
            true => Ok(layout),
            false => Err(Error::Invalid(format!("a page of {} bytes is shorter than its columns", bytes.len()))),
        }
    }

    /// Where the digest column begins: names and metadata lie before it.
    pub fn digests_start(&self) -> usize {
        HEADER_BYTES + self.body_bytes
    }

    /// Where the column of extents and page addresses begins; it goes to the end of the page. The page digest covers
    /// all before.
    pub fn pointers_start(&self) -> usize {
        self.digests_start() + self.digests * size_of::<Digest>()
    }
}

/// The digest of a page: keyed BLAKE3 of everything before the column that knows addresses.
pub fn digest(bytes: &[u8], keys: &Keys) -> Result<Digest> {
    Ok(keyed(&keys.page, &bytes[..Layout::of(bytes)?.pointers_start()]))
}

/// Fails unless `name` can be one component of a path and nothing more.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Error::Invalid(format!("a name of {} bytes; 1 to {NAME_BYTES_MAX} are possible", name.len())));
    }
    match name == b"." || name == b".." || name.iter().any(|&byte| byte == b'/' || byte == 0) {
        true => Err(Error::Refused(format!("the name {} leaves its directory", name.escape_ascii()))),
        false => Ok(()),
    }
}
