//! Bytes to entries. Nothing is believed: each value is checked before it is used, and what does not decode is not
//! shown.

use std::collections::HashSet;

use super::encode::{HAS_LINKS, HAS_XATTRS, TIME_UNITS, check_target, check_xattrs};
use super::{
    Child, Content, Entry, EntryKind, Form, INLINE_EXTENTS_MAX, Layout, NAME_BYTES_MAX, PAGE_ENTRIES_MAX,
    PAGE_TEXT_BYTES, Page, PageRef, TARGET_BYTES_MAX, TEXT_BYTES_MAX, XATTR_BYTES_MAX, XATTR_NAMES_BYTES_MAX,
    check_name,
};
use crate::address::Extent;
use crate::extent::{self, Expected, FILE_BYTES_MAX};
use crate::keys::Digest;
use crate::varint::{Reader, unzigzag};
use crate::{Error, Result};

/// A page of a directory.
///
/// What you get could be written to a disk: names ascend and are single components, kinds and what belongs to them
/// agree, the lengths of a file's extents add up to its size. Whether it is the page that its parent means is for its
/// digest to say.
pub fn decode(bytes: &[u8]) -> Result<Page> {
    let layout = Layout::of(bytes)?;
    match (layout.form, layout.level) {
        (Form::Root, _) => Err(Error::Invalid("a snapshot's root is not a page of a directory".into())),
        (Form::Directory, 0) => Ok(Page::Leaf(leaf(bytes, &layout)?)),
        (Form::Directory, level) => Ok(Page::Node { level, children: node(bytes, &layout)? }),
    }
}

/// A snapshot's root entry.
pub fn decode_root(bytes: &[u8]) -> Result<Entry> {
    let layout = Layout::of(bytes)?;
    match (layout.form, leaf(bytes, &layout)?.pop()) {
        (Form::Root, Some(entry)) => Ok(entry),
        _ => Err(Error::Invalid("a page of a directory is not a snapshot's root".into())),
    }
}

/// The three parts of a page.
struct Parts<'a> {
    body: Reader<'a>,
    digests: Reader<'a>,
    pointers: Reader<'a>,
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8], layout: &Layout) -> Self {
        let (rest, pointers) = bytes.split_at(layout.pointers_start());
        let (rest, digests) = rest.split_at(layout.digests_start());
        let body = &rest[super::HEADER_BYTES..];
        Parts { body: Reader::new(body), digests: Reader::new(digests), pointers: Reader::new(pointers) }
    }

    fn end(&self) -> Result<()> {
        match self.body.is_empty() && self.digests.is_empty() && self.pointers.is_empty() {
            true => Ok(()),
            false => Err(Error::Invalid("a page goes on after its end".into())),
        }
    }
}

fn node(bytes: &[u8], layout: &Layout) -> Result<Vec<Child>> {
    if layout.count == 0 {
        return Err(Error::Invalid("a page of pages has no children".into()));
    }
    let mut parts = Parts::of(bytes, layout);
    let mut children = Vec::with_capacity(layout.count);
    let mut expected = Expected::default();
    names(&mut parts.body, layout, |first| {
        let digest = parts.digests.array()?;
        let page = page_ref(&mut parts.pointers, &mut expected, digest)?;
        children.push(Child { first, page });
        Ok(())
    })?;
    let text: usize = children.iter().rev().skip(1).map(|child| child.first.len()).sum();
    check_text(text)?;
    parts.end()?;
    Ok(children)
}

fn leaf(bytes: &[u8], layout: &Layout) -> Result<Vec<Entry>> {
    let mut parts = Parts::of(bytes, layout);
    let body = &mut parts.body;
    let flags = body.byte()?;
    if flags & !(HAS_LINKS | HAS_XATTRS) != 0 {
        return Err(Error::Invalid(format!("a page has unknown columns: {flags:#x}")));
    }
    let mut entries = Vec::with_capacity(layout.count);
    names(body, layout, |name| {
        entries.push(Entry { name, ..Entry::default() });
        Ok(())
    })?;
    classes(body, &mut entries)?;
    times(body, &mut entries)?;
    scalars(body, &mut entries)?;
    if flags & HAS_LINKS != 0 {
        links(body, &mut entries)?;
    }
    // Sets of attributes are shared between entries: their sum is checked before they are copied.
    let mut text: usize = entries.iter().map(Entry::text_bytes).sum();
    if flags & HAS_XATTRS != 0 {
        text = xattrs(body, &mut entries, text)?;
    }
    check_text(text - entries.last().map_or(0, Entry::text_bytes))?;
    contents(&mut parts.digests, &mut parts.pointers, &mut entries)?;
    parts.end()?;
    Ok(entries)
}

/// Checked without the last entry, which may be of any length.
fn check_text(text: usize) -> Result<()> {
    match text < PAGE_TEXT_BYTES {
        true => Ok(()),
        false => Err(Error::Invalid(format!("a page cannot go on after {text} bytes of names and attributes"))),
    }
}

/// Calls `each` with every name. That they ascend and share as much as they can is one comparison.
fn names(body: &mut Reader<'_>, layout: &Layout, mut each: impl FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
    let shared = body.take(layout.count)?;
    let lengths = body.take(layout.count)?;
    let mut name: Vec<u8> = Vec::with_capacity(NAME_BYTES_MAX);
    for (at, (&shared, &length)) in shared.iter().zip(lengths).enumerate() {
        let (shared, length) = (usize::from(shared), usize::from(length));
        let suffix = body.take(length)?;
        let sound = match at {
            0 => shared == 0,
            _ => {
                shared <= name.len()
                    && suffix.first().is_some_and(|first| name.get(shared).is_none_or(|before| first > before))
            }
        };
        if !sound {
            return Err(Error::Invalid("the names of a page do not ascend".into()));
        }
        name.truncate(shared);
        name.extend_from_slice(suffix);
        if !(name.is_empty() && layout.form == Form::Root) {
            check_name(&name)?;
        }
        each(name.clone())?;
    }
    Ok(())
}

/// What entries of one page share, in order of first appearance.
#[derive(PartialEq, Eq, Hash)]
struct Class<'a> {
    kind: EntryKind,
    mode: u32,
    uid: u32,
    gid: u32,
    user: &'a [u8],
    group: &'a [u8],
}

impl<'a> Class<'a> {
    fn read(body: &mut Reader<'a>) -> Result<Self> {
        let kind = EntryKind::from_byte(body.byte()?)?;
        let mode = u32::from(u16::from_le_bytes(body.array()?));
        if mode > 0o7777 {
            return Err(Error::Invalid(format!("the mode {mode:o} has more than permission bits")));
        }
        let mut number = || -> Result<u32> {
            u32::try_from(body.varint()?).map_err(|_| Error::Invalid("an owner's number has more than 32 bits".into()))
        };
        let (uid, gid) = (number()?, number()?);
        let mut name = || -> Result<&'a [u8]> {
            let length = body.byte()?;
            body.take(usize::from(length))
        };
        let (user, group) = (name()?, name()?);
        Ok(Class { kind, mode, uid, gid, user, group })
    }
}

fn classes(body: &mut Reader<'_>, entries: &mut [Entry]) -> Result<()> {
    let count = body.count(entries.len(), "kinds and owners of a page")?;
    let classes = (0..count).map(|_| Class::read(body)).collect::<Result<Vec<_>>>()?;
    if classes.len() > 1 && classes.iter().collect::<HashSet<_>>().len() != classes.len() {
        return Err(Error::Invalid("a page says one kind and owner twice".into()));
    }
    let numbers = match count {
        0 | 1 => &[][..],
        2..=256 => body.take(entries.len())?,
        _ => body.take(2 * entries.len())?,
    };
    let number = |at: usize| match count {
        0 | 1 => 0,
        2..=256 => usize::from(numbers[at]),
        _ => usize::from(u16::from_le_bytes([numbers[2 * at], numbers[2 * at + 1]])),
    };
    let mut order = FirstSeen::default();
    for (at, entry) in entries.iter_mut().enumerate() {
        let number = number(at);
        order.see(number)?;
        let class = classes.get(number).ok_or_else(|| Error::Invalid("an entry has no kind".into()))?;
        (entry.kind, entry.mode, entry.uid, entry.gid) = (class.kind, class.mode, class.uid, class.gid);
        (entry.user, entry.group) = (class.user.to_vec(), class.group.to_vec());
    }
    order.end(count)
}

/// A dictionary lists values in order of first use, each once: one spelling.
#[derive(Default)]
struct FirstSeen(usize);

impl FirstSeen {
    fn see(&mut self, number: usize) -> Result<()> {
        if number > self.0 {
            return Err(Error::Invalid("a page uses a shared value before its turn".into()));
        }
        self.0 = self.0.max(number + 1);
        Ok(())
    }

    fn end(&self, count: usize) -> Result<()> {
        match self.0 == count {
            true => Ok(()),
            false => Err(Error::Invalid("a page has a shared value that no entry uses".into())),
        }
    }
}

fn times(body: &mut Reader<'_>, entries: &mut [Entry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let [exponent, width] = body.array()?;
    let unit = TIME_UNITS.into_iter().find(|unit| unit.ilog10() == u32::from(exponent));
    let (Some(unit), 0..=8) = (unit, width) else {
        return Err(Error::Invalid(format!("the times of a page cannot be 10^{exponent} ns in {width} bytes")));
    };
    let (count, width) = (entries.len(), usize::from(width));
    let least = unzigzag(body.varint()?);
    let planes = body.take(width * count)?;
    let (mut smallest, mut largest) = (u64::MAX, 0);
    let mut coarser = TIME_UNITS.into_iter().rfind(|&coarser| coarser > unit);
    for (at, entry) in entries.iter_mut().enumerate() {
        let after = (0..width).fold(0, |sum, plane| sum | u64::from(planes[plane * count + at]) << (8 * plane));
        (smallest, largest) = (smallest.min(after), largest.max(after));
        entry.mtime_ns = least
            .checked_add_unsigned(after)
            .and_then(|time| time.checked_mul(unit))
            .ok_or_else(|| Error::Invalid("a time is out of range".into()))?;
        if coarser.is_some_and(|coarser| entry.mtime_ns % coarser != 0) {
            coarser = None;
        }
    }
    let narrowest = (64 - largest.leading_zeros() as usize).div_ceil(8);
    match smallest == 0 && narrowest == width && coarser.is_none() {
        true => Ok(()),
        false => Err(Error::Invalid("the times of a page could be spelt shorter".into())),
    }
}

fn scalars(body: &mut Reader<'_>, entries: &mut [Entry]) -> Result<()> {
    for file in entries.iter_mut().filter(|entry| entry.kind == EntryKind::File) {
        file.size = body.varint()?;
        if file.size > FILE_BYTES_MAX {
            return Err(Error::Invalid(format!("no file has {} bytes", file.size)));
        }
    }
    for link in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Symlink) {
        let length = body.count(TARGET_BYTES_MAX, "bytes of a symlink's target")?;
        let target = body.take(length)?;
        check_target(target)?;
        link.target = target.to_vec();
    }
    for device in entries.iter_mut().filter(|entry| entry.kind.is_device()) {
        device.rdev = body.varint()?;
    }
    Ok(())
}

/// Which entries have what follows.
fn places(body: &mut Reader<'_>, entries: usize) -> Result<Vec<usize>> {
    let count = body.count(entries, "entries of a rare column")?;
    if count == 0 {
        return Err(Error::Invalid("a page has an empty column".into()));
    }
    let mut next = 0;
    (0..count)
        .map(|_| {
            let place = next + body.count(PAGE_ENTRIES_MAX, "distance in a page")?;
            next = place + 1;
            match place < entries {
                true => Ok(place),
                false => Err(Error::Invalid("a column goes beyond the entries of its page".into())),
            }
        })
        .collect()
}

fn links(body: &mut Reader<'_>, entries: &mut [Entry]) -> Result<()> {
    for place in places(body, entries.len())? {
        let entry = &mut entries[place];
        entry.link_id = u64::from_le_bytes(body.array()?);
        if entry.link_id == 0 || entry.kind == EntryKind::Directory {
            return Err(Error::Invalid("a hard link's identity cannot be 0 or a directory's".into()));
        }
    }
    Ok(())
}

/// Answers the bytes of text in the page, these included.
fn xattrs(body: &mut Reader<'_>, entries: &mut [Entry], mut text: usize) -> Result<usize> {
    let count = body.count(entries.len(), "sets of extended attributes")?;
    let mut sets: Vec<Vec<(Vec<u8>, Vec<u8>)>> = Vec::new();
    let mut sets_bytes = 0;
    for _ in 0..count {
        // Nothing is reserved for what is only claimed.
        let mut set = Vec::new();
        for _ in 0..body.count(XATTR_NAMES_BYTES_MAX, "extended attributes")? {
            let length = body.count(NAME_BYTES_MAX, "bytes of an attribute's name")?;
            let name = body.take(length)?;
            let length = body.count(XATTR_BYTES_MAX, "bytes of an attribute")?;
            let value = body.take(length)?;
            sets_bytes += name.len() + value.len();
            if sets_bytes > TEXT_BYTES_MAX {
                return Err(Error::Invalid("the attributes of a page are too long".into()));
            }
            set.push((name.to_vec(), value.to_vec()));
        }
        check_xattrs(&set)?;
        sets.push(set);
    }
    if sets.iter().collect::<HashSet<_>>().len() != sets.len() {
        return Err(Error::Invalid("a page says one set of attributes twice".into()));
    }
    let places = places(body, entries.len())?;
    let mut order = FirstSeen::default();
    for place in places {
        let number = body.count(sets.len(), "number of a set of attributes")?;
        order.see(number)?;
        let set = sets.get(number).ok_or_else(|| Error::Invalid("an entry has no set of attributes".into()))?;
        let entry = &mut entries[place];
        text += set.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if text > TEXT_BYTES_MAX {
            return Err(Error::Invalid("the attributes of a page are too long".into()));
        }
        entry.xattrs = set.clone();
    }
    order.end(sets.len())?;
    Ok(text)
}

/// Digests and pointers, entry by entry.
fn contents(digests: &mut Reader<'_>, pointers: &mut Reader<'_>, entries: &mut [Entry]) -> Result<()> {
    let (mut data, mut pages) = (Expected::default(), Expected::default());
    for entry in entries {
        match entry.kind {
            EntryKind::File => {
                entry.digest = digests.array()?;
                entry.content = file(pointers, &mut data, entry.size)?;
            }
            EntryKind::Directory => {
                let digest = digests.array()?;
                entry.content = Content::Directory(page_ref(pointers, &mut pages, digest)?);
            }
            _ => {}
        }
    }
    Ok(())
}

fn file(pointers: &mut Reader<'_>, expected: &mut Expected, size: u64) -> Result<Content> {
    if size == 0 {
        return Ok(Content::Extents(Vec::new()));
    }
    let inline = pointers.count(INLINE_EXTENTS_MAX, "extents in a page")?;
    if inline > 0 {
        return Ok(Content::Extents(extents(pointers, expected, inline, size)?));
    }
    let (count, bytes) = (pointers.varint()?, pointers.varint()?);
    let parts = pointers.count(INLINE_EXTENTS_MAX, "parts of a list")?;
    if count <= INLINE_EXTENTS_MAX as u64 || count > size || bytes / 2 < count || bytes > FILE_BYTES_MAX || parts == 0 {
        return Err(Error::Invalid(format!(
            "a file of {size} bytes cannot have {count} extents in a list of {bytes} bytes"
        )));
    }
    let list = extents(pointers, expected, parts, bytes)?;
    match list.iter().any(Extent::is_hole) {
        true => Err(Error::Invalid("a list of extents has a hole".into())),
        false => Ok(Content::Listed { list, count }),
    }
}

/// `count` extents of `size` bytes together; the last length is what is left, and that cannot be nothing.
fn extents(pointers: &mut Reader<'_>, expected: &mut Expected, count: usize, size: u64) -> Result<Vec<Extent>> {
    let mut left = size;
    let mut found = Vec::with_capacity(count);
    for nth in 1..=count {
        let address = expected.address(pointers.varint()?);
        let length = if nth == count { left } else { pointers.varint()? };
        let one = Extent { address, length };
        extent::check(one)?;
        left = left.checked_sub(length).ok_or_else(|| Error::Invalid("extents are longer than their file".into()))?;
        expected.advance(one);
        found.push(one);
    }
    Ok(found)
}

fn page_ref(pointers: &mut Reader<'_>, expected: &mut Expected, digest: Digest) -> Result<PageRef> {
    let address = expected.address(pointers.varint()?);
    let length = u32::try_from(pointers.varint()?).map_err(|_| Error::Invalid("a page cannot be so long".into()))?;
    let page = PageRef { address, length, digest };
    page.check()?;
    expected.advance(page.extent());
    Ok(page)
}
