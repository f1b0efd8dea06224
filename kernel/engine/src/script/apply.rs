//! Bytes to pages: what a script says is done to the base. Nothing of it is believed: every length is bounded by the
//! bytes that are there, every extent must be whole chunks of the right kind, and a tree that is only pointed at is
//! walked before it is accepted.

use std::collections::HashSet;
use std::iter::Peekable;
use std::sync::Arc;

use super::{BaseFile, COLUMNS, Class, Column, IS_NEW, Owner, PART_BYTES_MAX, SECOND_NS, State, field, op, way};
use crate::address::{Address, Extent};
use crate::digest::{ContentDigest, digest};
use crate::extent::{self, FILE_BYTES_MAX};
use crate::keys::{Digest, Keys};
use crate::page::{
    self, Content, Entry, EntryKind, INLINE_EXTENTS_MAX, NAME_BYTES_MAX, PageRef, TARGET_BYTES_MAX, XATTR_BYTES_MAX,
    XATTR_NAMES_BYTES_MAX,
};
use crate::space::Space;
use crate::table::Kind;
use crate::tree::{self, DirectoryBuilder, Entries, OldPages, PageBytes, PageSink, PageSource};
use crate::varint::{Reader, unzigzag};
use crate::{Error, Result};

/// What entries that wait for their page, and directories that are open, may take in memory: far more than any tree
/// of files needs, which has some hundred entries waiting a level.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// What an open directory takes: its keys, its builder, and what is read of its base.
const FRAME_BYTES: usize = 4 << 10;
/// What an entry takes beside its text and extents.
const ENTRY_BYTES: usize = size_of::<Entry>();
/// Directories that are remembered as accepted, 9 MiB at most. Subtrees may share directories, and a tree of few pages
/// can be one of 2^60 paths: what is remembered is walked once.
const ACCEPTED_MAX: usize = 1 << 19;
/// Directories that are walked after that, accepted or not, before a script is refused.
const UNREMEMBERED_MAX: u64 = 1 << 24;

/// Takes rebuilt pages: where they belong, their bytes, and the digest of the chunk (of kind tree) that they are.
pub type Place<'a> = dyn FnMut(Address, &[u8], Digest) -> Result<()> + 'a;

/// Rebuilds the pages of a tree from a script.
///
/// The script comes from a peer: whatever it says, memory is bounded and what is made points only at whole chunks
/// that are committed in the space and have the digests that the pages say. After an error nothing more can be done.
pub struct Applier {
    space: Arc<Space>,
    state: State,
    /// The root's base, until it is used.
    base: Option<Entry>,
    root: Option<Entry>,
    frames: Vec<Frame>,
    waiting_bytes: usize,
    accepted: Accepted,
    is_sparse: bool,
    is_broken: bool,
}

/// A directory that is being rebuilt.
struct Frame {
    /// Its entry in the base, or its name and nothing else.
    entry: Entry,
    is_added: bool,
    base: Option<Peekable<Entries<Arc<Space>>>>,
    builder: DirectoryBuilder,
    old: OldPages,
    /// The last entry. It joins its page when the next one begins, so that this page is placed before what comes with
    /// that one.
    held: Option<Entry>,
    waiting_bytes: usize,
}

impl Applier {
    /// An applier of a script from `base`, which `space` holds whole; without one, from nothing.
    pub fn new(space: &Arc<Space>, base: Option<&Entry>) -> Result<Self> {
        Ok(Applier {
            space: Arc::clone(space),
            state: State::new(base),
            base: base.cloned(),
            root: None,
            frames: Vec::new(),
            waiting_bytes: 0,
            accepted: Accepted::default(),
            is_sparse: false,
            is_broken: false,
        })
    }

    /// For a replica that takes a tree of which it does not hold all data: a content digest may be told instead of
    /// following from chunks, and directories that are pointed at are not held against chunks of files. What comes out
    /// is then what the peer says: the caller compares its root digest with one that it trusts.
    pub fn sparse(mut self) -> Self {
        self.is_sparse = true;
        self
    }

    /// Does what a part says, and calls `place` with each page that this completes. Pages of the base that stay are
    /// not placed again. What `place` answers with ends the script, too.
    pub fn part(&mut self, part: &[u8], place: &mut Place<'_>) -> Result<()> {
        if self.is_broken {
            return Err(Error::Invalid("the tree script has failed before".into()));
        }
        self.is_broken = true;
        let mut columns = Columns::of(part)?;
        while !columns.get(Column::Ops).is_empty() {
            self.next(&mut columns, place)?;
        }
        columns.end()?;
        self.is_broken = false;
        Ok(())
    }

    /// The root entry with its own metadata, once the script is complete.
    pub fn finish(self) -> Result<Entry> {
        match self.root {
            Some(root) if self.frames.is_empty() && !self.is_broken => {
                page::encode_root(&root, self.space.keys())?;
                Ok(root)
            }
            _ => Err(Error::Invalid("the tree script is not complete".into())),
        }
    }

    fn next(&mut self, columns: &mut Columns<'_>, place: &mut Place<'_>) -> Result<()> {
        let byte = columns.get(Column::Ops).byte()?;
        let (op, short) = (byte & ((1 << op::BITS) - 1), u64::from(byte >> op::BITS));
        if op > op::ADD && short != 0 {
            return Err(Error::Invalid(format!("a tree script says {byte:#x}, which means nothing")));
        }
        let beyond = if short == op::SHORT_MAX { columns.get(Column::Counts).varint()? } else { 0 };
        let count = (1 + short).saturating_add(beyond);
        match op {
            op::KEEP => (0..count).try_for_each(|_| {
                self.begin(columns, place)?;
                let kept = self.take_base()?;
                self.give(kept)
            }),
            op::SKIP => (0..count).try_for_each(|_| self.take_base().map(drop)),
            op::CHANGE => (0..count).try_for_each(|_| {
                self.begin(columns, place)?;
                let old = self.take_base()?;
                let kind = old.kind;
                let new = self.fields(columns, old, false)?;
                match new.kind == kind {
                    true => self.give(new),
                    false => Err(Error::Invalid("a tree script changes the kind of an entry".into())),
                }
            }),
            op::ADD => (0..count).try_for_each(|_| {
                self.begin(columns, place)?;
                let name = self.name(columns)?;
                let blank = self.state.blank(name, false);
                let new = self.fields(columns, blank, false)?;
                self.give(new)
            }),
            op::ENTER | op::ENTER_PLACING => {
                self.begin(columns, place)?;
                let entry = self.take_base()?;
                self.enter(entry, op == op::ENTER)
            }
            op::ENTER_NEW => {
                self.begin(columns, place)?;
                let entry = Entry { name: self.name(columns)?, ..Entry::default() };
                self.open(Frame::new(self.space.keys(), entry, true))
            }
            _ => self.leave(columns, place),
        }
    }

    /// The next entry of the base of the current directory.
    fn take_base(&mut self) -> Result<Entry> {
        let next = match self.frames.last_mut() {
            None => self.base.take(),
            Some(frame) => frame.base.as_mut().and_then(Iterator::next).transpose()?,
        };
        next.ok_or_else(|| Error::Invalid("a tree script goes beyond the entries of its base".into()))
    }

    fn enter(&mut self, entry: Entry, keeps_pages: bool) -> Result<()> {
        let page = entry.page().ok_or_else(|| Error::Invalid("a tree script enters what is no directory".into()))?;
        let mut frame = Frame::new(self.space.keys(), entry, false);
        if keeps_pages {
            frame.old = OldPages::of(&*self.space, &page)?;
        }
        frame.base = Some(Entries::new(Arc::clone(&self.space), &page).peekable());
        self.open(frame)
    }

    fn open(&mut self, mut frame: Frame) -> Result<()> {
        frame.waiting_bytes = FRAME_BYTES;
        self.frames.push(frame);
        self.wait(FRAME_BYTES)
    }

    fn wait(&mut self, bytes: usize) -> Result<()> {
        self.waiting_bytes += bytes;
        match self.waiting_bytes <= WAITING_BYTES_MAX {
            true => Ok(()),
            false => Err(Error::Refused("a tree script opens more directories and entries than memory is for".into())),
        }
    }

    /// The current directory goes on: what was its last entry joins its page, which may complete some.
    fn begin(&mut self, columns: &mut Columns<'_>, place: &mut Place<'_>) -> Result<()> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let Some(entry) = frame.held.take() else { return Ok(()) };
        let mut placer = Placer::new(&self.space, &mut self.state.tip, &frame.old, columns, place);
        frame.builder.push(entry, &mut placer)?;
        if placer.has_stored {
            self.waiting_bytes -= frame.waiting_bytes - FRAME_BYTES;
            frame.waiting_bytes = FRAME_BYTES;
        }
        Ok(())
    }

    /// The next entry of the current directory, or the root.
    fn give(&mut self, entry: Entry) -> Result<()> {
        match self.frames.last_mut() {
            None if self.root.is_some() => Err(Error::Invalid("a tree script has two roots".into())),
            None => {
                self.root = Some(entry);
                Ok(())
            }
            Some(frame) => {
                let extents = match &entry.content {
                    Content::Extents(extents) | Content::Listed { list: extents, .. } => extents.len(),
                    _ => 0,
                };
                let bytes = ENTRY_BYTES + entry.text_bytes() + extents * size_of::<Extent>();
                frame.waiting_bytes += bytes;
                frame.held = Some(entry);
                self.wait(bytes)
            }
        }
    }

    fn leave(&mut self, columns: &mut Columns<'_>, place: &mut Place<'_>) -> Result<()> {
        while let Some(kept) = self.frames.last_mut().and_then(|frame| frame.base.as_mut()).and_then(Iterator::next) {
            self.begin(columns, place)?;
            self.give(kept?)?;
        }
        self.begin(columns, place)?;
        let Some(frame) = self.frames.pop() else {
            return Err(Error::Invalid("a tree script leaves more directories than it enters".into()));
        };
        let Frame { entry, is_added, builder, old, waiting_bytes, .. } = frame;
        self.waiting_bytes -= waiting_bytes;
        let mut placer = Placer::new(&self.space, &mut self.state.tip, &old, columns, place);
        let page = builder.finish(&mut placer)?;
        let before = if is_added { self.state.blank(entry.name, true) } else { entry };
        let mut entry = self.fields(columns, before, true)?;
        if entry.kind != EntryKind::Directory {
            return Err(Error::Invalid("a tree script makes a directory something else".into()));
        }
        entry.content = Content::Directory(page);
        self.give(entry)
    }

    fn name(&mut self, columns: &mut Columns<'_>) -> Result<Vec<u8>> {
        let shared = usize::from(columns.get(Column::Shared).byte()?);
        let length = usize::from(columns.get(Column::Lengths).byte()?);
        if shared > self.state.name.len() || shared + length > NAME_BYTES_MAX {
            return Err(Error::Invalid("a name in a tree script is too long".into()));
        }
        self.state.name.truncate(shared);
        self.state.name.extend_from_slice(columns.get(Column::Text).take(length)?);
        Ok(self.state.name.clone())
    }

    /// `entry` with the fields that follow.
    fn fields(&mut self, columns: &mut Columns<'_>, mut entry: Entry, is_rebuilt: bool) -> Result<Entry> {
        let fields = columns.get(Column::Fields).byte()?;
        let has = |field: u8| fields & field != 0;
        if fields & !field::ALL != 0 || (is_rebuilt && has(field::SIZE | field::CONTENT)) {
            return Err(Error::Invalid(format!("a tree script has the fields {fields:#x}")));
        }
        if has(field::CLASS) {
            let class = self.class(columns.get(Column::Classes))?;
            class.give(&mut entry);
            self.state.class_told(class);
        }
        if has(field::MTIME) {
            entry.mtime_ns = self.mtime(columns)?;
        }
        let told = match has(field::DIGEST) {
            true if self.is_sparse && has(field::CONTENT) => Some(columns.get(Column::Digests).array()?),
            true => return Err(Error::Refused("a tree script tells a content digest, which nobody asked for".into())),
            false => None,
        };
        let old_size = entry.size;
        if has(field::SIZE) {
            entry.size = size(columns, old_size)?;
        }
        match entry.kind {
            _ if is_rebuilt => {}
            EntryKind::File => {
                if has(field::CONTENT) {
                    (entry.content, entry.digest) = self.content(columns, &entry, told)?;
                } else if entry.size != old_size {
                    return Err(Error::Invalid("a tree script gives a file another size and no content".into()));
                } else if entry.size == 0 {
                    (entry.content, entry.digest) = self.nothing();
                }
            }
            _ if entry.size != 0 => return Err(Error::Invalid("a tree script gives a size to what is no file".into())),
            kind => {
                if kind != EntryKind::Directory {
                    (entry.content, entry.digest) = (Content::None, [0; 32]);
                }
                if has(field::CONTENT) {
                    self.other(columns, &mut entry)?;
                }
            }
        }
        if has(field::LINK) {
            entry.link_id = u64::from_le_bytes(columns.get(Column::Links).array()?);
        }
        if has(field::XATTRS) {
            entry.xattrs = xattrs(columns.get(Column::Xattrs))?;
        }
        Ok(entry)
    }

    fn class(&mut self, column: &mut Reader<'_>) -> Result<Class> {
        let unknown = || Error::Invalid("a tree script names a class or owner that it has not told".into());
        let number = column.byte()?;
        if number != IS_NEW {
            return self.state.classes.values.get(usize::from(number)).cloned().ok_or_else(unknown);
        }
        let kind = EntryKind::from_byte(column.byte()?)?;
        let mode = u32::from(u16::from_le_bytes(column.array()?));
        let number = column.byte()?;
        let owner = match number {
            IS_NEW => {
                let owner = owner(column)?;
                self.state.owners.add(owner.clone());
                owner
            }
            _ => self.state.owners.values.get(usize::from(number)).cloned().ok_or_else(unknown)?,
        };
        let class = Class { kind, mode, owner };
        self.state.classes.add(class.clone());
        Ok(class)
    }

    fn mtime(&mut self, columns: &mut Columns<'_>) -> Result<i64> {
        let seconds = self.state.seconds.checked_add(unzigzag(columns.get(Column::Seconds).varint()?));
        let nanos = self.state.nanos.checked_add(unzigzag(columns.get(Column::Nanos).varint()?));
        let (Some(seconds), Some(nanos @ 0..SECOND_NS)) = (seconds, nanos) else { return Err(out_of_range()) };
        // The first second there is begins before the first nanosecond there is.
        let time = i128::from(seconds) * i128::from(SECOND_NS) + i128::from(nanos);
        let mtime_ns = i64::try_from(time).map_err(|_| out_of_range())?;
        (self.state.seconds, self.state.nanos) = (seconds, nanos);
        Ok(mtime_ns)
    }

    fn nothing(&self) -> (Content, Digest) {
        (Content::Extents(Vec::new()), ContentDigest::new(&self.space.keys().content).finish())
    }

    /// The content of a file, `old` but for its size.
    fn content(&mut self, columns: &mut Columns<'_>, old: &Entry, told: Option<Digest>) -> Result<(Content, Digest)> {
        if old.size == 0 {
            return Ok(self.nothing());
        }
        let first = columns.get(Column::Ways).byte()?;
        if first != way::LISTED {
            let extents = self.extents(columns, first, old.size, &mut BaseFile::of(old))?;
            let digest = match told {
                Some(told) => told,
                None => content_digest(&self.space, extents.iter().copied().map(Ok))?,
            };
            return Ok((Content::Extents(extents), digest));
        }
        let (count, bytes) =
            (columns.get(Column::ExtentLengths).varint()?, columns.get(Column::ExtentLengths).varint()?);
        if bytes == 0 || bytes > FILE_BYTES_MAX {
            return Err(Error::Invalid(format!("a list of extents cannot have {bytes} bytes")));
        }
        let first = columns.get(Column::Ways).byte()?;
        let list = self.extents(columns, first, bytes, &mut BaseFile { extents: &[], offset: 0 })?;
        let content = Content::Listed { list, count };
        let listed = Entry { size: old.size, content, ..Entry::default() };
        let mut extents = tree::extents(Trees(&self.space), &listed);
        let digest = match told {
            Some(told) => extents.try_fold(told, |told, extent| extent.map(|_| told))?,
            None => content_digest(&self.space, extents)?,
        };
        Ok((listed.content, digest))
    }

    /// Extents of `size` bytes together.
    fn extents(
        &mut self,
        columns: &mut Columns<'_>,
        first: u8,
        size: u64,
        base: &mut BaseFile<'_>,
    ) -> Result<Vec<Extent>> {
        let (mut found, mut left, mut way) = (Vec::new(), size, first);
        loop {
            if way & !(way::MASK | way::LAST) != 0 || found.len() == INLINE_EXTENTS_MAX {
                return Err(Error::Invalid("a tree script says an extent that cannot be".into()));
            }
            let is_last = way & way::LAST != 0;
            let from = match way & way::MASK {
                way::HOLE => None,
                way::TIP => Some(self.state.tip),
                way::BASE => match base.expected() {
                    None => return Err(Error::Invalid("a tree script expects bytes that the base has not".into())),
                    expected => expected,
                },
                _ => Some(self.state.elsewhere),
            };
            let address = match from {
                None => 0,
                Some(from) => match from.wrapping_add(unzigzag(columns.get(Column::Pointers).varint()?) as u64) {
                    0 => return Err(Error::Invalid("a tree script says a hole in two ways".into())),
                    address => address,
                },
            };
            let length = if is_last { left } else { columns.get(Column::ExtentLengths).varint()? };
            let extent = Extent { address, length };
            extent::check(extent)?;
            match left.checked_sub(length) {
                Some(rest) if is_last || rest > 0 => left = rest,
                _ => return Err(Error::Invalid("a tree script has extents that are longer than their file".into())),
            }
            match way & way::MASK {
                way::TIP => self.state.tip = extent.end(),
                way::ELSEWHERE => self.state.elsewhere = extent.end(),
                _ => {}
            }
            base.pass(extent, way & way::MASK == way::BASE);
            found.push(extent);
            if is_last {
                return Ok(found);
            }
            way = columns.get(Column::Ways).byte()?;
        }
    }

    /// Target, device number, or a directory as it is stored.
    fn other(&mut self, columns: &mut Columns<'_>, entry: &mut Entry) -> Result<()> {
        match entry.kind {
            EntryKind::Symlink => {
                let length = columns.get(Column::Others).count(TARGET_BYTES_MAX, "bytes of a symlink's target")?;
                entry.target = columns.get(Column::Others).take(length)?.to_vec();
            }
            EntryKind::Directory => {
                let distance = unzigzag(columns.get(Column::Pointers).varint()?);
                let address = self.state.elsewhere.wrapping_add(distance as u64);
                let length = u32::try_from(columns.get(Column::ExtentLengths).varint()?)
                    .map_err(|_| Error::Invalid("a page cannot be so long".into()))?;
                let page = self.accepted.directory(&self.space, address, length, !self.is_sparse)?;
                self.state.elsewhere = page.extent().end();
                entry.content = Content::Directory(page);
            }
            kind if kind.is_device() => entry.rdev = columns.get(Column::Others).varint()?,
            _ => return Err(Error::Invalid("a tree script gives content to what has none".into())),
        }
        Ok(())
    }
}

impl Frame {
    fn new(keys: &Keys, entry: Entry, is_added: bool) -> Frame {
        Frame {
            entry,
            is_added,
            base: None,
            builder: DirectoryBuilder::new(keys, OldPages::none()),
            old: OldPages::none(),
            held: None,
            waiting_bytes: 0,
        }
    }
}

fn out_of_range() -> Error {
    Error::Invalid("a time in a tree script is out of range".into())
}

fn size(columns: &mut Columns<'_>, old_size: u64) -> Result<u64> {
    let size = match old_size {
        0 => Some(columns.get(Column::Sizes).varint()?),
        _ => old_size.checked_add_signed(unzigzag(columns.get(Column::Growths).varint()?)),
    };
    size.filter(|&size| size <= FILE_BYTES_MAX).ok_or_else(|| Error::Invalid("no file can be of this size".into()))
}

fn owner(column: &mut Reader<'_>) -> Result<Owner> {
    let mut number = || -> Result<u32> {
        u32::try_from(column.varint()?).map_err(|_| Error::Invalid("an owner's number has more than 32 bits".into()))
    };
    let (uid, gid) = (number()?, number()?);
    let mut name = || -> Result<Vec<u8>> {
        let length = usize::from(column.byte()?);
        Ok(column.take(length)?.to_vec())
    };
    Ok(Owner { uid, gid, user: name()?, group: name()? })
}

fn xattrs(column: &mut Reader<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let count = column.count(XATTR_NAMES_BYTES_MAX, "extended attributes")?;
    // Nothing is reserved for what is only claimed.
    let mut found = Vec::new();
    for _ in 0..count {
        let length = column.count(NAME_BYTES_MAX, "bytes of an attribute's name")?;
        let name = column.take(length)?.to_vec();
        let length = column.count(XATTR_BYTES_MAX, "bytes of an attribute")?;
        found.push((name, column.take(length)?.to_vec()));
    }
    Ok(found)
}

/// The columns of a part.
struct Columns<'a>([Reader<'a>; COLUMNS]);

impl<'a> Columns<'a> {
    fn of(part: &'a [u8]) -> Result<Self> {
        if part.len() > PART_BYTES_MAX {
            return Err(Error::Invalid(format!("a part of a tree script has {} bytes", part.len())));
        }
        let mut reader = Reader::new(part);
        let bits = reader.varint()?;
        if bits == 0 || bits >> COLUMNS != 0 {
            return Err(Error::Invalid(format!("a part of a tree script cannot have the columns {bits:#x}")));
        }
        let last = 63 - bits.leading_zeros() as usize;
        let mut lengths = [0; COLUMNS];
        for (at, length) in lengths.iter_mut().enumerate().take(last) {
            if bits >> at & 1 == 1 {
                *length = reader.count(part.len(), "bytes of a column")?;
                if *length == 0 {
                    return Err(Error::Invalid("a part of a tree script has an empty column".into()));
                }
            }
        }
        let mut columns = Columns(std::array::from_fn(|_| Reader::new(&[])));
        for (column, length) in columns.0.iter_mut().zip(lengths).take(last) {
            *column = Reader::new(reader.take(length)?);
        }
        columns.0[last] = Reader::new(reader.rest());
        match columns.0[last].is_empty() {
            false => Ok(columns),
            true => Err(Error::Invalid("a part of a tree script has an empty column".into())),
        }
    }

    fn get(&mut self, column: Column) -> &mut Reader<'a> {
        &mut self.0[column as usize]
    }

    fn end(&self) -> Result<()> {
        match self.0.iter().all(Reader::is_empty) {
            true => Ok(()),
            false => Err(Error::Invalid("a part of a tree script goes on after its last operation".into())),
        }
    }
}

/// Gives each rebuilt page its address; one that the base has keeps its own.
struct Placer<'a, 'c, 'p> {
    space: &'a Space,
    tip: &'a mut Address,
    old: &'a OldPages,
    columns: &'a mut Columns<'c>,
    place: &'a mut Place<'p>,
    has_stored: bool,
}

impl<'a, 'c, 'p> Placer<'a, 'c, 'p> {
    fn new(
        space: &'a Space,
        tip: &'a mut Address,
        old: &'a OldPages,
        columns: &'a mut Columns<'c>,
        place: &'a mut Place<'p>,
    ) -> Self {
        Placer { space, tip, old, columns, place, has_stored: false }
    }
}

impl PageSink for Placer<'_, '_, '_> {
    fn store(&mut self, bytes: &[u8], page_digest: &Digest) -> Result<(Address, u32)> {
        self.has_stored = true;
        if let Some(old) = self.old.get(page_digest) {
            return Ok((old.address, old.length));
        }
        let address = self.tip.wrapping_add(unzigzag(self.columns.get(Column::Places).varint()?) as u64);
        // A page is at most some MiB: it would not have been encoded otherwise.
        let page = PageRef { address, length: bytes.len() as u32, digest: *page_digest };
        page.check()?;
        *self.tip = page.extent().end();
        (self.place)(address, bytes, digest(&self.space.keys().digest, bytes))?;
        Ok((address, page.length))
    }
}

/// The content digest of extents, each of whole chunks of files.
fn content_digest(space: &Space, extents: impl Iterator<Item = Result<Extent>>) -> Result<Digest> {
    let mut content = ContentDigest::new(&space.keys().content);
    let mut hole = 0;
    for extent in extents {
        let extent = extent?;
        if extent.is_hole() {
            hole += extent.length;
            continue;
        }
        if hole > 0 {
            content.hole(std::mem::take(&mut hole));
        }
        space.check_lasting(extent)?;
        for chunk in space.chunks(extent)? {
            if chunk.kind != Kind::Data {
                return Err(Error::Refused(format!(
                    "the {} bytes at address {:#x} are no content of files",
                    extent.length, extent.address
                )));
            }
            content.chunk(&chunk.digest);
        }
    }
    if hole > 0 {
        content.hole(hole);
    }
    Ok(content.finish())
}

/// A source that gives nothing but chunks of kind tree: bytes of a file that look like a page are not one.
#[derive(Clone, Copy)]
struct Trees<'a>(&'a Space);

impl Trees<'_> {
    /// How many chunks an extent is.
    fn check(&self, extent: Extent) -> Result<usize> {
        extent::check(extent)?;
        self.0.check_lasting(extent)?;
        let chunks = if extent.is_hole() { Vec::new() } else { self.0.chunks(extent)? };
        match !chunks.is_empty() && chunks.iter().all(|chunk| chunk.kind == Kind::Tree) {
            true => Ok(chunks.len()),
            false => Err(Error::Refused(format!(
                "the {} bytes at address {:#x} are no part of a tree",
                extent.length, extent.address
            ))),
        }
    }
}

impl PageSource for Trees<'_> {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        page.check()?;
        match self.check(page.extent())? {
            1 => self.0.page(page),
            _ => Err(Error::Refused(format!("what is at address {:#x} is no page", page.address))),
        }
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        self.check(extent)?;
        self.0.bytes(extent)
    }
}

/// The directories that have been walked, by the address of their root page: it means the same for ever.
#[derive(Default)]
struct Accepted {
    directories: HashSet<Address>,
    unremembered: u64,
}

impl Accepted {
    /// The directory whose root page is these bytes, if all beneath it is stored and is what its digests say.
    fn directory(&mut self, space: &Space, address: Address, length: u32, checks_files: bool) -> Result<PageRef> {
        let source = Trees(space);
        let unnamed = PageRef { address, length, digest: [0; 32] };
        unnamed.check()?;
        source.check(unnamed.extent())?;
        let root = PageRef { digest: page::digest(&source.bytes(unnamed.extent())?, space.keys())?, ..unnamed };
        let mut ways = Vec::new();
        self.enter(source, &root, &mut ways)?;
        while let Some(entries) = ways.last_mut() {
            let Some(entry) = entries.next().transpose()? else {
                ways.pop();
                continue;
            };
            if let Some(page) = entry.page() {
                self.enter(source, &page, &mut ways)?;
            } else if checks_files
                && entry.kind == EntryKind::File
                && content_digest(space, tree::extents(source, &entry))? != entry.digest
            {
                return Err(Error::Refused(format!(
                    "the file {} in a directory at address {address:#x} does not have the content it says",
                    entry.name.escape_ascii()
                )));
            }
        }
        Ok(root)
    }

    fn enter<'a>(&mut self, source: Trees<'a>, page: &PageRef, ways: &mut Vec<Entries<Trees<'a>>>) -> Result<()> {
        if self.directories.contains(&page.address) {
            // What is in it is sound; whether it is what this parent says is another question.
            return source.page(page).map(drop);
        }
        if self.directories.len() < ACCEPTED_MAX {
            self.directories.insert(page.address);
        } else if self.unremembered == UNREMEMBERED_MAX {
            return Err(Error::Refused("a tree script points at more directories than can be checked".into()));
        } else {
            self.unremembered += 1;
        }
        ways.push(Entries::new(source, page));
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The bytes of one column of a part.
    pub(crate) fn column(part: &[u8], column: Column) -> Vec<u8> {
        column_at(part, column as usize)
    }

    pub(crate) fn column_at(part: &[u8], at: usize) -> Vec<u8> {
        Columns::of(part).unwrap().0[at].rest().to_vec()
    }
}
