//! Directories as trees of pages: built bottom-up from ascending entries, read page by page.
//!
//! It neither knows where pages rest nor how they get there: [`PageSink`] and [`PageSource`] do. Where a directory is
//! cut into pages depends on its names alone, so the same directory has the same pages on every machine.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;
use std::vec;

use crate::address::{Address, Extent};
use crate::extent::{self, EXTENT_BYTES_MAX, ListDecoder};
use crate::keys::{Digest, Keys, keyed};
use crate::page::{self, Child, Content, EncodedPage, Entry, Layout, PAGE_ENTRIES_MAX, PAGE_TEXT_BYTES, Page, PageRef};
use crate::space::Space;
use crate::{Error, Result};

/// A page is not cut by a name before it has this many entries: most directories are one page.
pub const PAGE_ENTRIES_MIN: usize = 32;

/// Takes pages.
pub trait PageSink {
    /// Stores the bytes of a page, contiguous in one segment, and says where.
    ///
    /// `digest` is the page digest, by which a page already stored may be recognised; it is not the digest of `bytes`.
    /// A dry run answers with any address that could exist.
    fn store(&mut self, bytes: &[u8], digest: &Digest) -> Result<(Address, u32)>;
}

/// Gives pages.
pub trait PageSource {
    /// The bytes of a stored page, its page digest verified (see [`verified`]).
    fn page(&self, page: &PageRef) -> Result<PageBytes>;

    /// The bytes of a part of a list object, verified.
    fn bytes(&self, extent: Extent) -> Result<PageBytes>;
}

impl<S: PageSource + ?Sized> PageSource for &S {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        (**self).page(page)
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        (**self).bytes(extent)
    }
}

impl<S: PageSource + ?Sized> PageSource for Arc<S> {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        (**self).page(page)
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        (**self).bytes(extent)
    }
}

/// Bytes that a source lends, whatever keeps them alive.
pub struct PageBytes(Box<dyn Deref<Target = [u8]> + Send + Sync>);

impl PageBytes {
    /// Lends `bytes`.
    pub fn new(bytes: impl Deref<Target = [u8]> + Send + Sync + 'static) -> Self {
        PageBytes(Box::new(bytes))
    }
}

impl Deref for PageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// `bytes`, if they are what `page` says.
pub fn verified(bytes: PageBytes, page: &PageRef, keys: &Keys) -> Result<PageBytes> {
    let damaged = |what: String| Error::Damaged(format!("the tree page at address {:#x}: {what}", page.address));
    match page::digest(&bytes, keys) {
        Ok(digest) if digest == page.digest && bytes.len() == page.length as usize => Ok(bytes),
        Ok(_) => Err(damaged("its content has another digest than its parent says".into())),
        Err(reason) => Err(damaged(reason.to_string())),
    }
}

impl PageSource for Space {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        page.check()?;
        verified(PageBytes::new(self.read(page.extent())?), page, self.keys())
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        extent::check(extent)?;
        Ok(PageBytes::new(self.read(extent)?))
    }
}

/// The pages that a directory had before, by digest: a page equal in meaning keeps its old bytes.
#[derive(Clone, Debug, Default)]
pub struct OldPages(HashMap<Digest, PageRef>);

impl OldPages {
    /// The directory is new.
    pub fn none() -> Self {
        OldPages::default()
    }

    /// The pages of the directory at `root`, without those of directories in it. No leaf is decoded.
    pub fn of<S: PageSource + ?Sized>(source: &S, root: &PageRef) -> Result<Self> {
        let mut pages = HashMap::from([(root.digest, *root)]);
        visit_children(source, root, &mut |_, child| {
            pages.insert(child.page.digest, child.page);
        })?;
        Ok(OldPages(pages))
    }

    /// The page that had this digest.
    pub(crate) fn get(&self, digest: &Digest) -> Option<PageRef> {
        self.0.get(digest).copied()
    }

    #[cfg(test)]
    pub(crate) fn each(&self, visit: impl FnMut(&PageRef)) {
        self.0.values().for_each(visit);
    }

    /// Whether a page of the same meaning lies elsewhere in `other`.
    pub(crate) fn is_elsewhere_in(&self, other: &OldPages) -> bool {
        self.0.values().any(|page| other.get(&page.digest).is_some_and(|found| found != *page))
    }
}

/// Builds the pages of one directory from its entries, in memory of one page a level.
pub struct DirectoryBuilder {
    keys: Keys,
    old: OldPages,
    entries: Vec<Entry>,
    text: usize,
    /// The last name of the page before, so that order holds across pages too.
    last: Option<Vec<u8>>,
    /// Pages that have no parent yet, by the level of that parent, from 1.
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    children: Vec<Child>,
    text: usize,
}

impl DirectoryBuilder {
    /// A builder of a directory that had the pages `old`.
    pub fn new(keys: &Keys, old: OldPages) -> Self {
        DirectoryBuilder { keys: keys.clone(), old, entries: Vec::new(), text: 0, last: None, levels: Vec::new() }
    }

    /// Adds an entry, its name greater than all before. Stores the pages that this completes.
    ///
    /// If this fails, the directory cannot be finished any more.
    pub fn push(&mut self, entry: Entry, sink: &mut dyn PageSink) -> Result<()> {
        if self.entries.is_empty() && self.last.as_ref().is_some_and(|last| *last >= entry.name) {
            return Err(descending(&entry.name));
        }
        self.text += entry.text_bytes();
        self.entries.push(entry);
        let last = self.entries.last().map_or(&[][..], |entry| &entry.name);
        if ends_page(&self.keys, 0, last, self.entries.len(), self.text) {
            self.last = Some(last.to_vec());
            self.leaf(sink)?;
        }
        Ok(())
    }

    /// Stores what is left and answers the directory's root page. An empty directory is one empty leaf.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<PageRef> {
        if self.levels.is_empty() {
            let leaf = page::encode_leaf(&self.entries, &self.keys)?;
            return self.store(leaf, sink);
        }
        if !self.entries.is_empty() {
            self.leaf(sink)?;
        }
        for below in 0.. {
            let is_top = below + 1 == self.levels.len();
            match self.levels[below].children.as_slice() {
                [only] if is_top => return Ok(only.page),
                [] => {}
                _ => self.node(below, sink)?,
            }
        }
        Err(Error::Invalid("a directory has no root page".into()))
    }

    fn leaf(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let leaf = page::encode_leaf(&self.entries, &self.keys)?;
        let page = self.store(leaf, sink)?;
        let first = self.entries.drain(..).next().map(|entry| entry.name).unwrap_or_default();
        self.text = 0;
        self.adopt(0, Child { first, page }, sink)
    }

    /// The children that wait in `levels[below]` become a page.
    fn node(&mut self, below: usize, sink: &mut dyn PageSink) -> Result<()> {
        let Level { children, .. } = std::mem::take(&mut self.levels[below]);
        let node = page::encode_node(below as u8 + 1, &children, &self.keys)?;
        let page = self.store(node, sink)?;
        let first = children.into_iter().next().map(|child| child.first).unwrap_or_default();
        self.adopt(below + 1, Child { first, page }, sink)
    }

    /// Puts a page where it waits for its parent. Recursion is as deep as a directory has levels.
    fn adopt(&mut self, below: usize, child: Child, sink: &mut dyn PageSink) -> Result<()> {
        if below == self.levels.len() {
            self.levels.push(Level::default());
        }
        let level = &mut self.levels[below];
        level.text += child.first.len();
        let ends = ends_page(&self.keys, below as u8 + 1, &child.first, level.children.len() + 1, level.text);
        level.children.push(child);
        if ends { self.node(below, sink) } else { Ok(()) }
    }

    fn store(&self, page: EncodedPage, sink: &mut dyn PageSink) -> Result<PageRef> {
        let EncodedPage { bytes, digest } = page;
        if let Some(old) = self.old.0.get(&digest) {
            return Ok(*old);
        }
        let (address, length) = sink.store(&bytes, &digest)?;
        Ok(PageRef { address, length, digest })
    }
}

/// Whether a page of `level` ends after `name`: by a keyed hash of the name, one in 256, or because it is full.
///
/// It depends on names, never on addresses. The level is hashed too, so that each level is cut independently.
fn ends_page(keys: &Keys, level: u8, name: &[u8], count: usize, text: usize) -> bool {
    if count >= PAGE_ENTRIES_MAX || text >= PAGE_TEXT_BYTES {
        return true;
    }
    count >= PAGE_ENTRIES_MIN && {
        let mut input = [0; 1 + page::NAME_BYTES_MAX];
        input[0] = level;
        let end = 1 + name.len().min(page::NAME_BYTES_MAX);
        input[1..end].copy_from_slice(&name[..end - 1]);
        keyed(&keys.name, &input[..end])[0] == 0
    }
}

pub(crate) fn descending(name: &[u8]) -> Error {
    Error::Invalid(format!("the name {} is not in ascending order", name.escape_ascii()))
}

/// Reads a page; `parent` is the parent's level and what it says is the first name.
pub(crate) fn read<S: PageSource + ?Sized>(source: &S, page: &PageRef, parent: Option<(u8, &[u8])>) -> Result<Page> {
    let found = page::decode(&source.page(page)?)?;
    if let Some((level, first)) = parent {
        let begins = match &found {
            Page::Leaf(entries) => entries.first().map(|entry| &entry.name),
            Page::Node { children, .. } => children.first().map(|child| &child.first),
        };
        if found.level() + 1 != level || begins.is_none_or(|begins| begins != first) {
            return Err(Error::Invalid(format!(
                "the tree page at address {:#x} is not the one of level {level} - 1 from {} that its parent names",
                page.address,
                first.escape_ascii()
            )));
        }
    }
    Ok(found)
}

/// Calls `visit` with the level and each page below `root` in the same directory, in order; leaves are not read.
fn visit_children<S: PageSource + ?Sized>(source: &S, root: &PageRef, visit: &mut dyn FnMut(u8, &Child)) -> Result<()> {
    let mut nodes = Nodes::default();
    let bytes = source.page(root)?;
    if Layout::of(&bytes)?.level > 0
        && let Page::Node { level, children } = page::decode(&bytes)?
    {
        nodes.push(level, children);
    }
    while let Some((level, child)) = nodes.next() {
        visit(level - 1, &child);
        if level > 1
            && let Page::Node { level, children } = read(source, &child.page, Some((level, &child.first)))?
        {
            nodes.push(level, children);
        }
    }
    Ok(())
}

/// The leaves of the directory at `root`, or `None` if that is its only page.
pub(crate) fn leaves<S: PageSource + ?Sized>(source: &S, root: &PageRef) -> Result<Option<Vec<Child>>> {
    let mut leaves = Vec::new();
    visit_children(source, root, &mut |level, child| {
        if level == 0 {
            leaves.push(child.clone());
        }
    })?;
    Ok(if leaves.is_empty() { None } else { Some(leaves) })
}

/// The way down to a leaf: for each node page its level and the children not yet read. Never deeper than levels go.
#[derive(Default)]
struct Nodes(Vec<(u8, vec::IntoIter<Child>)>);

impl Nodes {
    fn push(&mut self, level: u8, children: Vec<Child>) {
        self.0.push((level, children.into_iter()));
    }

    /// The next child of the deepest page that has one, and the level of that page.
    fn next(&mut self) -> Option<(u8, Child)> {
        loop {
            let (level, children) = self.0.last_mut()?;
            if let Some(child) = children.next() {
                return Some((*level, child));
            }
            self.0.pop();
        }
    }
}

/// The entries of one directory, names ascending; one page in memory at a time.
///
/// After an error the next call goes on behind the page that failed.
pub struct Entries<S> {
    source: S,
    root: Option<PageRef>,
    nodes: Nodes,
    last: Option<Vec<u8>>,
    page: vec::IntoIter<Entry>,
}

impl<S: PageSource> Entries<S> {
    /// The entries of the directory at `root`. `S` may be `&Space` or `Arc<Space>`.
    pub fn new(source: S, root: &PageRef) -> Self {
        Entries { source, root: Some(*root), nodes: Nodes::default(), last: None, page: Vec::new().into_iter() }
    }

    /// The entries of some leaves of a directory.
    pub(crate) fn of_leaves(source: S, leaves: Vec<Child>) -> Self {
        let mut nodes = Nodes::default();
        nodes.push(1, leaves);
        Entries { source, root: None, nodes, last: None, page: Vec::new().into_iter() }
    }

    /// The next page of entries, names ascending across pages; `None` at the end. Not to be mixed with `next`.
    pub fn next_page(&mut self) -> Result<Option<Vec<Entry>>> {
        loop {
            let found = match self.root.take() {
                Some(root) => read(&self.source, &root, None)?,
                None => match self.nodes.next() {
                    Some((level, child)) => read(&self.source, &child.page, Some((level, &child.first)))?,
                    None => return Ok(None),
                },
            };
            match found {
                Page::Node { level, children } => self.nodes.push(level, children),
                Page::Leaf(entries) => {
                    if let (Some(last), Some(first)) = (&self.last, entries.first())
                        && *last >= first.name
                    {
                        return Err(descending(&first.name));
                    }
                    // A name is kept only where another page follows.
                    if !self.nodes.0.is_empty() {
                        self.last = entries.last().map(|entry| entry.name.clone());
                    }
                    return Ok(Some(entries));
                }
            }
        }
    }
}

impl<S: PageSource> Iterator for Entries<S> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        loop {
            if let Some(entry) = self.page.next() {
                return Some(Ok(entry));
            }
            match self.next_page() {
                Ok(Some(entries)) => self.page = entries.into_iter(),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The entries of a directory, if there is one.
pub type Side<'a, S> = Option<Entries<&'a S>>;

/// The entries of two directories without the leaves that both have: equal pages have equal names.
pub fn unlike_entries<S: PageSource>(
    source: &S,
    a: Option<PageRef>,
    b: Option<PageRef>,
) -> Result<(Side<'_, S>, Side<'_, S>)> {
    if let (Some(page_a), Some(page_b)) = (a, b)
        && let (Some(mut leaves_a), Some(mut leaves_b)) = (leaves(source, &page_a)?, leaves(source, &page_b)?)
    {
        let digests = |leaves: &[Child]| leaves.iter().map(|leaf| leaf.page.digest).collect::<HashSet<_>>();
        let (in_a, in_b) = (digests(&leaves_a), digests(&leaves_b));
        leaves_a.retain(|leaf| !in_b.contains(&leaf.page.digest));
        leaves_b.retain(|leaf| !in_a.contains(&leaf.page.digest));
        return Ok((Some(Entries::of_leaves(source, leaves_a)), Some(Entries::of_leaves(source, leaves_b))));
    }
    Ok((a.map(|page| Entries::new(source, &page)), b.map(|page| Entries::new(source, &page))))
}

/// The entry called `name` in the directory at `root`: one page a level is read.
pub fn lookup<S: PageSource + ?Sized>(source: &S, root: &PageRef, name: &[u8]) -> Result<Option<Entry>> {
    let mut page = read(source, root, None)?;
    loop {
        match page {
            Page::Leaf(mut entries) => {
                let found = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name));
                return Ok(found.ok().map(|at| entries.swap_remove(at)));
            }
            Page::Node { level, children } => {
                let after = children.partition_point(|child| child.first.as_slice() <= name);
                let Some(child) = after.checked_sub(1).map(|at| &children[at]) else { return Ok(None) };
                page = read(source, &child.page, Some((level, &child.first)))?;
            }
        }
    }
}

/// The entry at `path` beneath the directory at `root`: names between slashes, further slashes count for nothing.
/// `None` if there is none, or if a name on the way is no directory, or if the path has no name.
pub fn lookup_path<S: PageSource + ?Sized>(source: &S, root: &PageRef, path: &[u8]) -> Result<Option<Entry>> {
    let mut directory = Some(*root);
    let mut found = None;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        let Some(page) = directory else { return Ok(None) };
        let Some(entry) = lookup(source, &page, name)? else { return Ok(None) };
        directory = entry.page();
        found = Some(entry);
    }
    Ok(found)
}

/// The extents of an entry in order, holes included. Nothing for what is not a file.
///
/// A list object is read part by part, as far as it is asked for. Fails, at the end or before, if the lengths do not
/// add up to the entry's size.
pub struct Extents<S> {
    source: S,
    inline: vec::IntoIter<Extent>,
    list: Option<List>,
    left: u64,
}

/// The rest of a list object.
struct List {
    parts: vec::IntoIter<Extent>,
    part: Option<PageBytes>,
    at: usize,
    /// The beginning of an extent that goes on in the next part.
    begun: Vec<u8>,
    decoder: ListDecoder,
    left: u64,
}

/// The extents of `entry`.
pub fn extents<S: PageSource>(source: S, entry: &Entry) -> Extents<S> {
    let (inline, list) = match &entry.content {
        Content::Extents(extents) => (extents.clone(), None),
        Content::Listed { list, count } => {
            let list = List {
                parts: list.clone().into_iter(),
                part: None,
                at: 0,
                begun: Vec::new(),
                decoder: ListDecoder::new(),
                left: *count,
            };
            (Vec::new(), Some(list))
        }
        Content::None | Content::Directory(_) => (Vec::new(), None),
    };
    Extents { source, inline: inline.into_iter(), list, left: entry.size }
}

impl List {
    fn next<S: PageSource>(&mut self, source: &S) -> Result<Option<Extent>> {
        loop {
            let rest = self.part.as_ref().map_or(&[][..], |part| &part[self.at..]);
            let from_before = self.begun.len();
            self.begun.extend_from_slice(&rest[..rest.len().min(if from_before > 0 { EXTENT_BYTES_MAX } else { 0 })]);
            let found = self.decoder.next(if from_before > 0 { &self.begun } else { rest })?;
            match found {
                Some(_) if self.left == 0 => return Err(unlike_claimed()),
                Some((extent, used)) => {
                    self.at += used - from_before;
                    self.begun.clear();
                    self.left -= 1;
                    return Ok(Some(extent));
                }
                None => {
                    // What did not end here is shorter than an extent, and goes on in the next part if there is one.
                    if from_before == 0 {
                        self.begun.extend_from_slice(rest);
                    }
                    let Some(part) = self.parts.next() else {
                        return if self.left == 0 && self.begun.is_empty() { Ok(None) } else { Err(unlike_claimed()) };
                    };
                    (self.part, self.at) = (Some(source.bytes(part)?), 0);
                }
            }
        }
    }
}

fn unlike_claimed() -> Error {
    Error::Invalid("a list of extents is not as long as its entry says".into())
}

impl<S: PageSource> Extents<S> {
    fn step(&mut self) -> Result<Option<Extent>> {
        let next = match &mut self.list {
            Some(list) => list.next(&self.source)?,
            None => self.inline.next(),
        };
        let length = next.map_or(0, |extent| extent.length);
        match self.left.checked_sub(length) {
            Some(left) if next.is_some() || left == 0 => self.left = left,
            _ => return Err(Error::Invalid("the extents of a file do not add up to its size".into())),
        }
        Ok(next)
    }
}

impl<S: PageSource> Iterator for Extents<S> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Result<Extent>> {
        let step = self.step();
        if step.is_err() {
            // Nothing after an error is what it says.
            (self.inline, self.list, self.left) = (Vec::new().into_iter(), None, 0);
        }
        step.transpose()
    }
}

/// A walk over a whole tree: each entry with its path relative to the root, a directory before what is in it.
pub struct Walk<S> {
    source: S,
    path: Vec<u8>,
    /// Each directory on the way, and how long its path is.
    ways: Vec<(Entries<S>, usize)>,
}

impl<S: PageSource + Clone> Walk<S> {
    /// A walk over the tree at `root`. Depth costs memory of one page a directory, no stack.
    pub fn new(source: S, root: &PageRef) -> Self {
        Walk { ways: vec![(Entries::new(source.clone(), root), 0)], source, path: Vec::new() }
    }
}

impl<S: PageSource + Clone> Iterator for Walk<S> {
    type Item = Result<(Vec<u8>, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (entries, length) = self.ways.last_mut()?;
            match entries.next() {
                None => {
                    self.ways.pop();
                }
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(entry)) => {
                    self.path.truncate(*length);
                    join(&mut self.path, &entry.name);
                    if let Some(page) = entry.page() {
                        self.ways.push((Entries::new(self.source.clone(), &page), self.path.len()));
                    }
                    return Some(Ok((self.path.clone(), entry)));
                }
            }
        }
    }
}

/// Makes `path` the path of `name` in it.
pub(crate) fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// What [`extents_of_files`] calls: path, entry, and its extents.
pub type FileVisitor<'a> = dyn FnMut(&[u8], &Entry, &mut dyn Iterator<Item = Result<Extent>>) -> Result<()> + 'a;

/// Calls `visit` for every file in the tree at `root`; stops where it fails.
pub fn extents_of_files<S: PageSource>(source: &S, root: &PageRef, visit: &mut FileVisitor<'_>) -> Result<()> {
    for found in Walk::new(source, root) {
        let (path, entry) = found?;
        if entry.kind == page::EntryKind::File {
            visit(&path, &entry, &mut extents(source, &entry))?;
        }
    }
    Ok(())
}

/// The paths in the tree at `root` that have bytes in `damaged`, in the order of the walk.
///
/// A directory with damaged pages is named with a slash at its end (the root: `./`): what is on such a page cannot be
/// said.
pub fn files_touching<S: PageSource>(source: &S, root: &PageRef, damaged: &[Extent]) -> Result<Vec<Vec<u8>>> {
    let source = Avoiding { source, damaged: Ranges::of(damaged) };
    let mut found = Vec::new();
    let mut waiting = vec![(Vec::new(), *root)];
    while let Some((directory, page)) = waiting.pop() {
        let (at, mut hurt) = (waiting.len(), false);
        let mut entries = Entries::new(&source, &page);
        loop {
            match entries.next_page() {
                Ok(None) => break,
                Ok(Some(page)) => {
                    for entry in page {
                        let mut path = directory.clone();
                        join(&mut path, &entry.name);
                        match entry.page() {
                            Some(page) => waiting.push((path, page)),
                            None if source.hurts(&entry)? => found.push(path),
                            None => {}
                        }
                    }
                }
                Err(Error::Damaged(_)) => hurt = true,
                Err(other) => return Err(other),
            }
        }
        if hurt {
            found.push([if directory.is_empty() { b"." } else { directory.as_slice() }, b"/"].concat());
        }
        waiting[at..].reverse();
    }
    Ok(found)
}

/// Ranges of addresses, sorted and apart.
struct Ranges(Vec<(Address, Address)>);

impl Ranges {
    fn of(extents: &[Extent]) -> Self {
        let stored = extents.iter().filter(|extent| !extent.is_hole() && extent.length > 0);
        let mut sorted: Vec<_> = stored.map(|one| (one.address, one.address.saturating_add(one.length))).collect();
        sorted.sort_unstable();
        sorted.dedup_by(|next, before| {
            let touches = next.0 <= before.1;
            if touches {
                before.1 = before.1.max(next.1);
            }
            touches
        });
        Ranges(sorted)
    }

    fn touch(&self, extent: Extent) -> bool {
        let after = self.0.partition_point(|range| range.1 <= extent.address);
        !extent.is_hole() && self.0.get(after).is_some_and(|range| range.0 < extent.end())
    }
}

/// A source that does not read what is known to be damaged.
struct Avoiding<'a, S> {
    source: &'a S,
    damaged: Ranges,
}

impl<S: PageSource> Avoiding<'_, S> {
    fn check(&self, extent: Extent) -> Result<()> {
        match self.damaged.touch(extent) {
            true => Err(Error::Damaged(format!("{} bytes at address {:#x}", extent.length, extent.address))),
            false => Ok(()),
        }
    }

    /// Whether bytes of a file, or of the list of its extents, are damaged.
    fn hurts(&self, entry: &Entry) -> Result<bool> {
        for extent in extents(self, entry) {
            match extent {
                Ok(extent) if self.damaged.touch(extent) => return Ok(true),
                Ok(_) => {}
                Err(Error::Damaged(_)) => return Ok(true),
                Err(other) => return Err(other),
            }
        }
        Ok(false)
    }
}

impl<S: PageSource> PageSource for Avoiding<'_, S> {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        self.check(page.extent())?;
        self.source.page(page)
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        self.check(extent)?;
        self.source.bytes(extent)
    }
}

#[cfg(test)]
pub(crate) mod tests;
