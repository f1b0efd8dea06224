//! Entries to bytes. The same entries are the same bytes on every machine.

use std::collections::HashMap;

use super::{
    Child, Content, EncodedPage, Entry, EntryKind, Form, HEADER_BYTES, INLINE_EXTENTS_MAX, LEVEL_MAX, MAGIC,
    NAME_BYTES_MAX, OWNER_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_TEXT_BYTES, PageRef, TARGET_BYTES_MAX,
    VERSION, XATTR_BYTES_MAX, XATTR_NAMES_BYTES_MAX, check_name,
};
use crate::address::Extent;
use crate::extent::{self, Expected, FILE_BYTES_MAX};
use crate::keys::{Digest, Keys, keyed};
use crate::varint::{put, zigzag};
use crate::{Error, Result};

/// Bits of the body's first byte: which of the rare columns are there.
pub(super) const HAS_XATTRS: u8 = 1;
pub(super) const HAS_LINKS: u8 = 2;

/// What all times of a page may be multiples of: archives keep seconds, some file systems less than nanoseconds.
pub(super) const TIME_UNITS: [i64; 4] = [1_000_000_000, 1_000_000, 1_000, 1];

/// A leaf of a directory. Names ascend; at most [`PAGE_ENTRIES_MAX`] entries; only the last may reach
/// [`PAGE_TEXT_BYTES`].
pub fn encode_leaf(entries: &[Entry], keys: &Keys) -> Result<EncodedPage> {
    entries.iter().try_for_each(|entry| check_name(&entry.name))?;
    encode(entries, Form::Directory, keys)
}

/// A snapshot's root entry: a page of one entry, whose name may be empty.
pub fn encode_root(root: &Entry, keys: &Keys) -> Result<EncodedPage> {
    if !root.name.is_empty() {
        check_name(&root.name)?;
    }
    encode(std::slice::from_ref(root), Form::Root, keys)
}

/// A page of pages, `level` above the leaves.
pub fn encode_node(level: u8, children: &[Child], keys: &Keys) -> Result<EncodedPage> {
    let text: usize = children.iter().rev().skip(1).map(|child| child.first.len()).sum();
    if level == 0
        || level > LEVEL_MAX
        || children.is_empty()
        || children.len() > PAGE_ENTRIES_MAX
        || text >= PAGE_TEXT_BYTES
    {
        return Err(Error::Invalid(format!("a page of level {level} cannot have {} children", children.len())));
    }
    children.iter().try_for_each(|child| check_name(&child.first).and_then(|()| child.page.check()))?;
    let mut page = Draft::new();
    page.names(children.iter().map(|child| child.first.as_slice()))?;
    page.body_ends();
    children.iter().for_each(|child| page.bytes.extend_from_slice(&child.page.digest));
    page.pointers_begin(Form::Directory, level, children.len(), children.len());
    children.iter().for_each(|child| page.page_ref(&child.page));
    page.finish(keys)
}

fn encode(entries: &[Entry], form: Form, keys: &Keys) -> Result<EncodedPage> {
    check_page(entries)?;
    let mut page = Draft::new();
    page.bytes.push(
        if entries.iter().any(|entry| !entry.xattrs.is_empty()) { HAS_XATTRS } else { 0 }
            | if entries.iter().any(|entry| entry.link_id != 0) { HAS_LINKS } else { 0 },
    );
    page.names(entries.iter().map(|entry| entry.name.as_slice()))?;
    page.classes(entries);
    page.times(entries);
    page.scalars(entries);
    page.links(entries);
    page.xattrs(entries);
    page.body_ends();
    let digests = page.digests(entries);
    page.pointers_begin(form, 0, entries.len(), digests);
    page.pointers(entries);
    page.finish(keys)
}

fn check_page(entries: &[Entry]) -> Result<()> {
    if entries.len() > PAGE_ENTRIES_MAX {
        return Err(Error::Invalid(format!("a page cannot have {} entries", entries.len())));
    }
    let mut text = 0;
    for entry in entries {
        if text >= PAGE_TEXT_BYTES {
            return Err(Error::Invalid(format!("a page cannot go on after {text} bytes of names and attributes")));
        }
        text += entry.text_bytes();
        check_entry(entry)
            .map_err(|reason| Error::Invalid(format!("the entry {}: {reason}", entry.name.escape_ascii())))?;
    }
    Ok(())
}

/// What any entry must satisfy; the decoder refuses the same.
fn check_entry(entry: &Entry) -> Result<()> {
    let invalid = |what: &str| Err(Error::Invalid(what.to_owned()));
    if entry.mode > 0o7777 {
        return invalid("its mode has more than permission bits");
    }
    if entry.user.len() > OWNER_BYTES_MAX || entry.group.len() > OWNER_BYTES_MAX {
        return invalid("the name of its owner or group is too long");
    }
    if entry.size > FILE_BYTES_MAX || (entry.size != 0 && entry.kind != EntryKind::File) {
        return invalid("its size is impossible");
    }
    if !entry.target.is_empty() && entry.kind != EntryKind::Symlink {
        return invalid("it is no symlink but has a target");
    }
    if entry.kind == EntryKind::Symlink {
        check_target(&entry.target)?;
    }
    if entry.rdev != 0 && !entry.kind.is_device() {
        return invalid("it is no device but has a device number");
    }
    if entry.link_id != 0 && entry.kind == EntryKind::Directory {
        return invalid("a directory has no hard links");
    }
    if entry.kind != EntryKind::File && entry.digest != [0; 32] {
        return invalid("it is no file but has a content digest");
    }
    if !entry.xattrs.is_empty() {
        check_xattrs(&entry.xattrs)?;
    }
    match (&entry.content, entry.kind) {
        (Content::Extents(extents), EntryKind::File) if extents.len() <= INLINE_EXTENTS_MAX => {
            check_sum(extents, entry.size)
        }
        (Content::Listed { list, count }, EntryKind::File) => {
            // An extent in a list is one byte of the file at least, and two of the list.
            let listed = list.iter().try_fold(0u64, |sum, part| sum.checked_add(part.length));
            let possible = *count > INLINE_EXTENTS_MAX as u64 && *count <= entry.size;
            if !possible || list.len() > INLINE_EXTENTS_MAX || list.iter().any(Extent::is_hole) {
                return invalid("its list of extents is impossible");
            }
            match listed {
                Some(bytes) if bytes / 2 >= *count => check_sum(list, bytes),
                _ => invalid("its list of extents is too short"),
            }
        }
        (Content::Directory(page), EntryKind::Directory) => page.check(),
        (Content::None, kind) if !kind.has_digest() => Ok(()),
        _ => invalid("its content is not of its kind"),
    }
}

fn check_sum(extents: &[Extent], size: u64) -> Result<()> {
    let mut left = size;
    for &one in extents {
        extent::check(one)?;
        left = left
            .checked_sub(one.length)
            .ok_or_else(|| Error::Invalid("its extents are longer than its size".into()))?;
    }
    match left {
        0 => Ok(()),
        _ => Err(Error::Invalid(format!("its extents end {left} bytes before its size"))),
    }
}

pub(super) fn check_target(target: &[u8]) -> Result<()> {
    match target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) {
        true => Err(Error::Invalid("no symlink can have this target".into())),
        false => Ok(()),
    }
}

pub(super) fn check_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    let names_sound =
        xattrs.iter().all(|(name, _)| !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(&0));
    let ascending = xattrs.is_sorted_by(|a, b| a.0 < b.0);
    let names: usize = xattrs.iter().map(|(name, _)| name.len() + 1).sum();
    let bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let fits = !xattrs.is_empty() && names <= XATTR_NAMES_BYTES_MAX && bytes <= XATTR_BYTES_MAX;
    match names_sound && ascending && fits {
        true => Ok(()),
        false => Err(Error::Invalid("its extended attributes are not ascending, badly named or too many".into())),
    }
}

/// What entries of one page share: kind, mode and owner.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct Class<'a> {
    kind: EntryKind,
    mode: u32,
    uid: u32,
    gid: u32,
    user: &'a [u8],
    group: &'a [u8],
}

impl<'a> Class<'a> {
    fn of(entry: &'a Entry) -> Self {
        let Entry { kind, mode, uid, gid, user, group, .. } = entry;
        Class { kind: *kind, mode: *mode, uid: *uid, gid: *gid, user, group }
    }
}

/// Numbers values in order of first appearance.
struct Dictionary<T> {
    numbers: HashMap<T, usize>,
    values: Vec<T>,
    last: usize,
}

impl<T: Copy + Eq + std::hash::Hash> Dictionary<T> {
    fn new() -> Self {
        Dictionary { numbers: HashMap::new(), values: Vec::new(), last: 0 }
    }

    fn number(&mut self, value: T) -> usize {
        // Neighbours are mostly alike, and a page has few owners: those are found without hashing.
        if self.values.get(self.last) != Some(&value) {
            let next = self.values.len();
            let few = self.values.iter().take(4).position(|known| *known == value);
            self.last = few.unwrap_or_else(|| *self.numbers.entry(value).or_insert(next));
            if self.last == next {
                self.values.push(value);
            }
        }
        self.last
    }
}

/// A page as it grows: header last, because it counts the columns.
struct Draft {
    bytes: Vec<u8>,
    body_bytes: usize,
    pointers_start: usize,
    data: Expected,
    pages: Expected,
}

impl Draft {
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(16 << 10);
        bytes.resize(HEADER_BYTES, 0);
        Draft { bytes, body_bytes: 0, pointers_start: 0, data: Expected::default(), pages: Expected::default() }
    }

    /// Bytes shared with the name before, bytes that follow, and those bytes: three columns.
    fn names<'a>(&mut self, names: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Result<()> {
        let (count, start) = (names.len(), self.bytes.len());
        self.bytes.resize(start + 2 * count, 0);
        let mut before: Option<&[u8]> = None;
        for (at, name) in names.enumerate() {
            let shared = before.map_or(0, |before| before.iter().zip(name).take_while(|(a, b)| a == b).count());
            if before.is_some_and(|before| before[shared..] >= name[shared..]) {
                return Err(Error::Invalid(format!("the name {} is not in ascending order", name.escape_ascii())));
            }
            self.bytes[start + at] = shared as u8;
            self.bytes[start + count + at] = (name.len() - shared) as u8;
            self.bytes.extend_from_slice(&name[shared..]);
            before = Some(name);
        }
        Ok(())
    }

    fn classes(&mut self, entries: &[Entry]) {
        let mut dictionary = Dictionary::new();
        let numbers: Vec<u16> = entries.iter().map(|entry| dictionary.number(Class::of(entry)) as u16).collect();
        put(dictionary.values.len() as u64, &mut self.bytes);
        for class in &dictionary.values {
            self.bytes.push(class.kind as u8);
            self.bytes.extend_from_slice(&(class.mode as u16).to_le_bytes());
            put(u64::from(class.uid), &mut self.bytes);
            put(u64::from(class.gid), &mut self.bytes);
            for name in [class.user, class.group] {
                self.bytes.push(name.len() as u8);
                self.bytes.extend_from_slice(name);
            }
        }
        match dictionary.values.len() {
            0 | 1 => {}
            2..=256 => self.bytes.extend(numbers.iter().map(|&number| number as u8)),
            _ => self.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        }
    }

    fn times(&mut self, entries: &[Entry]) {
        let Some(least) = entries.iter().map(|entry| entry.mtime_ns).min() else { return };
        let fits = |unit: &&i64| entries.iter().all(|entry| entry.mtime_ns % **unit == 0);
        let unit = *TIME_UNITS.iter().find(fits).unwrap_or(&1);
        let least = least / unit;
        let after = |entry: &Entry| (entry.mtime_ns / unit).wrapping_sub(least) as u64;
        let most = entries.iter().map(after).max().unwrap_or(0);
        let width = (64 - most.leading_zeros() as usize).div_ceil(8);
        self.bytes.push(unit.ilog10() as u8);
        self.bytes.push(width as u8);
        put(zigzag(least), &mut self.bytes);
        let (count, start) = (entries.len(), self.bytes.len());
        self.bytes.resize(start + width * count, 0);
        for (at, entry) in entries.iter().enumerate() {
            for (plane, byte) in after(entry).to_le_bytes().into_iter().take(width).enumerate() {
                self.bytes[start + plane * count + at] = byte;
            }
        }
    }

    /// Sizes of files, targets of symlinks, numbers of devices: three columns.
    fn scalars(&mut self, entries: &[Entry]) {
        let of = |kind| entries.iter().filter(move |entry| entry.kind == kind);
        of(EntryKind::File).for_each(|file| put(file.size, &mut self.bytes));
        for link in of(EntryKind::Symlink) {
            put(link.target.len() as u64, &mut self.bytes);
            self.bytes.extend_from_slice(&link.target);
        }
        entries.iter().filter(|entry| entry.kind.is_device()).for_each(|device| put(device.rdev, &mut self.bytes));
    }

    /// Which entries, as distances from the one before.
    fn places(&mut self, places: &[usize]) {
        put(places.len() as u64, &mut self.bytes);
        let mut next = 0;
        for &place in places {
            put((place - next) as u64, &mut self.bytes);
            next = place + 1;
        }
    }

    fn links(&mut self, entries: &[Entry]) {
        let places: Vec<usize> = (0..entries.len()).filter(|&at| entries[at].link_id != 0).collect();
        if !places.is_empty() {
            self.places(&places);
            places.iter().for_each(|&at| self.bytes.extend_from_slice(&entries[at].link_id.to_le_bytes()));
        }
    }

    fn xattrs(&mut self, entries: &[Entry]) {
        let places: Vec<usize> = (0..entries.len()).filter(|&at| !entries[at].xattrs.is_empty()).collect();
        if places.is_empty() {
            return;
        }
        let mut sets = Dictionary::new();
        let numbers: Vec<usize> = places.iter().map(|&at| sets.number(entries[at].xattrs.as_slice())).collect();
        put(sets.values.len() as u64, &mut self.bytes);
        for set in sets.values {
            put(set.len() as u64, &mut self.bytes);
            for bytes in set.iter().flat_map(|(name, value)| [name, value]) {
                put(bytes.len() as u64, &mut self.bytes);
                self.bytes.extend_from_slice(bytes);
            }
        }
        self.places(&places);
        numbers.iter().for_each(|&number| put(number as u64, &mut self.bytes));
    }

    fn body_ends(&mut self) {
        self.body_bytes = self.bytes.len() - HEADER_BYTES;
    }

    fn digests(&mut self, entries: &[Entry]) -> usize {
        let before = self.bytes.len();
        for entry in entries {
            match (&entry.content, entry.kind) {
                (Content::Directory(page), _) => self.bytes.extend_from_slice(&page.digest),
                (_, EntryKind::File) => self.bytes.extend_from_slice(&entry.digest),
                _ => {}
            }
        }
        (self.bytes.len() - before) / size_of::<Digest>()
    }

    /// Everything that the page digest covers is known.
    fn pointers_begin(&mut self, form: Form, level: u8, count: usize, digests: usize) {
        let [m0, m1, m2, m3] = MAGIC;
        self.bytes[..8].copy_from_slice(&[m0, m1, m2, m3, VERSION, level, form as u8, 0]);
        for (at, field) in [count, self.body_bytes, digests].into_iter().enumerate() {
            self.bytes[8 + 4 * at..][..4].copy_from_slice(&(field as u32).to_le_bytes());
        }
        self.pointers_start = self.bytes.len();
    }

    fn pointers(&mut self, entries: &[Entry]) {
        for entry in entries {
            match &entry.content {
                Content::None => {}
                Content::Directory(page) => self.page_ref(page),
                Content::Extents(extents) => self.extents(extents),
                Content::Listed { list, count } => {
                    self.bytes.push(0);
                    put(*count, &mut self.bytes);
                    put(list.iter().map(|part| part.length).sum(), &mut self.bytes);
                    self.extents(list);
                }
            }
        }
    }

    /// The last length is what the others leave of the size, so it is not written.
    fn extents(&mut self, extents: &[Extent]) {
        let Some((&last, others)) = extents.split_last() else { return };
        put(extents.len() as u64, &mut self.bytes);
        for &one in others {
            put(self.data.code(one), &mut self.bytes);
            put(one.length, &mut self.bytes);
        }
        put(self.data.code(last), &mut self.bytes);
    }

    fn page_ref(&mut self, page: &PageRef) {
        put(self.pages.code(page.extent()), &mut self.bytes);
        put(u64::from(page.length), &mut self.bytes);
    }

    fn finish(self, keys: &Keys) -> Result<EncodedPage> {
        if self.bytes.len() > PAGE_BYTES_MAX {
            return Err(Error::Invalid(format!("a page cannot have {} bytes", self.bytes.len())));
        }
        Ok(EncodedPage { digest: keyed(&keys.page, &self.bytes[..self.pointers_start]), bytes: self.bytes })
    }
}
