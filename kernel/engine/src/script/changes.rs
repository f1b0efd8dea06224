//! What differs between two trees, entry by entry in the order in which an ingest settles them. It reads pages and
//! nothing else; whoever asks decides what to make of it.

use std::cmp::Ordering;
use std::vec;

use crate::page::{Child, Entry, EntryKind, Layout, Page, PageRef};
use crate::tree::{PageSource, descending, join, read};
use crate::{Error, Result};

/// Something at which the new tree differs from the base, with its path relative to the root. An entry that changed
/// its kind is removed first and then added.
#[derive(Clone, Copy, Debug)]
pub enum Visit<'a> {
    /// A file that was added (`old` is none) or differs: in content, in where its bytes are, or in metadata alone.
    File {
        /// Where it is; empty if it is the root itself.
        path: &'a [u8],
        /// As it is.
        new: &'a Entry,
        /// As it was; also a file.
        old: Option<&'a Entry>,
    },
    /// A symlink, fifo or device that was added or differs.
    Other {
        /// Where it is.
        path: &'a [u8],
        /// As it is.
        new: &'a Entry,
        /// As it was; of the same kind.
        old: Option<&'a Entry>,
    },
    /// A directory with other pages than before: what differs in it follows.
    Directory {
        /// Where it is; empty for the root.
        path: &'a [u8],
        /// As it is.
        new: &'a Entry,
        /// As it was; also a directory.
        old: Option<&'a Entry>,
    },
    /// A directory that is not entered: its pages are as before and only its metadata differs, or `holds` said yes.
    Held {
        /// Where it is; empty for the root.
        path: &'a [u8],
        /// As it is.
        new: &'a Entry,
        /// As it was; also a directory.
        old: Option<&'a Entry>,
    },
    /// An entry of the base that the new tree does not have. What was in a directory is not named.
    Removed {
        /// Where it was.
        path: &'a [u8],
        /// As it was.
        old: &'a Entry,
    },
}

/// Calls `visit` for all that differs from the tree `base` to the tree `new`, a directory before what is in it.
///
/// Equal means: the same entry, the same addresses included. Equal pages are not read. A directory that differs is not
/// entered if `holds` says so of its root page. Memory is that of one page of each tree a level of depth.
pub fn changes<S: PageSource>(
    source: &S,
    new: &Entry,
    base: Option<&Entry>,
    holds: &mut dyn FnMut(&PageRef) -> Result<bool>,
    visit: &mut dyn FnMut(Visit<'_>) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk::new(source, new.clone(), base.cloned(), holds, false);
    while let Some(step) = walk.step()? {
        let length = walk.path.len();
        match step {
            Step::Removed(old) => {
                walk.join(&old.name);
                visit(Visit::Removed { path: &walk.path, old: &old })?;
            }
            Step::Entry { new, old } => {
                walk.join(&new.name);
                let (path, new, old) = (walk.path.as_slice(), &*new, old.as_deref());
                visit(match new.kind {
                    EntryKind::File => Visit::File { path, new, old },
                    EntryKind::Directory => Visit::Held { path, new, old },
                    _ => Visit::Other { path, new, old },
                })?;
            }
            Step::Enter => {
                if let Some(Frame { directory, before, .. }) = walk.frames.last() {
                    visit(Visit::Directory { path: &walk.path, new: directory, old: before.as_ref() })?;
                }
                continue;
            }
            Step::Leave { .. } | Step::Kept(_) | Step::Page(_) => continue,
        }
        walk.path.truncate(length);
    }
    Ok(())
}

/// One step of a [`Walk`].
pub(super) enum Step {
    /// So many entries are the same on both sides (0 where nobody wanted to know how many).
    Kept(u64),
    /// An entry of the base is gone.
    Removed(Box<Entry>),
    /// An entry differs and is not entered.
    Entry { new: Box<Entry>, old: Option<Box<Entry>> },
    /// A directory differs: it is the last of the frames from now on.
    Enter,
    /// A page of the current directory of the new tree is complete. Comes when the next entry of that directory is
    /// reached, or its end; children before parents.
    Page(PageRef),
    /// The current directory has ended.
    Leave { new: Box<Entry>, old: Option<Box<Entry>> },
}

/// A walk over two trees at once. Depth costs memory, no stack.
pub(super) struct Walk<S, H> {
    source: S,
    holds: H,
    counts: bool,
    /// Entries to be compared next: the roots, or what took the place of something of another kind.
    next: Option<(Entry, Option<Entry>)>,
    pub(super) frames: Vec<Frame<S>>,
    /// Of the current directory.
    pub(super) path: Vec<u8>,
}

/// A directory that differs.
pub(super) struct Frame<S> {
    pub(super) directory: Entry,
    pub(super) before: Option<Entry>,
    new: Side<S>,
    old: Option<Side<S>>,
    /// Length of the path of the directory that it is in.
    outer: usize,
}

impl<S: PageSource + Clone, H: FnMut(&PageRef) -> Result<bool>> Walk<S, H> {
    /// With `counts` equal leaves are read as far as it takes to count their entries.
    pub(super) fn new(source: S, new: Entry, base: Option<Entry>, holds: H, counts: bool) -> Self {
        Walk { source, holds, counts, next: Some((new, base)), frames: Vec::new(), path: Vec::new() }
    }

    pub(super) fn step(&mut self) -> Result<Option<Step>> {
        if let Some((new, old)) = self.next.take() {
            return self.compare(new, old).map(Some);
        }
        let Some(Frame { new, old, .. }) = self.frames.last_mut() else { return Ok(None) };
        if let Some(page) = new.completed() {
            return Ok(Some(Step::Page(page)));
        }
        if let Some(old) = old
            && let Some(leaf) = new.next_leaf()?.map(|leaf| leaf.page)
            && old.next_leaf()?.is_some_and(|found| found.page == leaf)
        {
            let count = match self.counts {
                true => Layout::of(&self.source.page(&leaf)?)?.count,
                false => 0,
            };
            new.pass_leaf();
            old.pass_leaf();
            return Ok(Some(Step::Kept(count as u64)));
        }
        let order = match (new.peek()?, old.as_mut().map_or(Ok(None), Side::peek)?) {
            (None, None) => return Ok(self.leave()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(new), Some(old)) => new.name.cmp(&old.name),
        };
        let added = if order.is_le() { new.take() } else { None };
        let gone = if order.is_ge() { old.as_mut().and_then(Side::take) } else { None };
        match (added, gone) {
            (Some(new), old) => self.compare(new, old).map(Some),
            (None, Some(old)) => Ok(Some(Step::Removed(Box::new(old)))),
            (None, None) => Err(Error::Invalid("a directory ended before its last entry".into())),
        }
    }

    fn compare(&mut self, new: Entry, old: Option<Entry>) -> Result<Step> {
        let old = match old {
            Some(old) if old == new => return Ok(Step::Kept(1)),
            Some(old) if old.kind != new.kind || old.name != new.name => {
                self.next = Some((new, None));
                return Ok(Step::Removed(Box::new(old)));
            }
            old => old,
        };
        match new.page() {
            Some(page) if old.as_ref().and_then(Entry::page) != Some(page) && !(self.holds)(&page)? => {
                self.enter(new, old, &page)?;
                Ok(Step::Enter)
            }
            _ => Ok(Step::Entry { new: Box::new(new), old: old.map(Box::new) }),
        }
    }

    fn enter(&mut self, directory: Entry, before: Option<Entry>, page: &PageRef) -> Result<()> {
        let outer = self.path.len();
        self.join(&directory.name);
        let new = Side::new(self.source.clone(), page)?;
        let old = before.as_ref().and_then(Entry::page);
        let old = old.map(|page| Side::new(self.source.clone(), &page)).transpose()?;
        self.frames.push(Frame { directory, before, new, old, outer });
        Ok(())
    }

    fn leave(&mut self) -> Option<Step> {
        let Frame { directory, before, outer, .. } = self.frames.pop()?;
        self.path.truncate(outer);
        Some(Step::Leave { new: Box::new(directory), old: before.map(Box::new) })
    }

    /// Makes the path that of an entry of the current directory. The root's own name is no part of any path.
    fn join(&mut self, name: &[u8]) {
        if !self.frames.is_empty() {
            join(&mut self.path, name);
        }
    }
}

/// The pages of one directory in order, each leaf read when it is needed.
struct Side<S> {
    source: S,
    nodes: Vec<Node>,
    leaf: vec::IntoIter<Entry>,
    /// The leaf that was begun last, until it is asked whether it is complete.
    begun: Option<PageRef>,
    /// Nodes that ended with that leaf, the lowest last.
    ended: Vec<PageRef>,
    last: Option<Vec<u8>>,
}

struct Node {
    level: u8,
    page: PageRef,
    children: vec::IntoIter<Child>,
}

impl<S: PageSource> Side<S> {
    fn new(source: S, root: &PageRef) -> Result<Self> {
        let found = read(&source, root, None)?;
        let mut side = Side {
            source,
            nodes: Vec::new(),
            leaf: Vec::new().into_iter(),
            begun: None,
            ended: Vec::new(),
            last: None,
        };
        match found {
            Page::Leaf(entries) => (side.leaf, side.begun) = (entries.into_iter(), Some(*root)),
            Page::Node { level, children } => {
                side.nodes.push(Node { level, page: *root, children: children.into_iter() })
            }
        }
        Ok(side)
    }

    /// The next page that is complete, if all entries of the leaf that was begun have been taken.
    fn completed(&mut self) -> Option<PageRef> {
        if self.leaf.len() > 0 {
            return None;
        }
        if let Some(leaf) = self.begun.take() {
            while let Some(node) = self.nodes.pop_if(|node| node.children.len() == 0) {
                self.ended.insert(0, node.page);
            }
            return Some(leaf);
        }
        self.ended.pop()
    }

    /// The next leaf, unless one is being read.
    fn next_leaf(&mut self) -> Result<Option<&Child>> {
        if self.leaf.len() > 0 {
            return Ok(None);
        }
        loop {
            let Some(node) = self.nodes.last_mut() else { return Ok(None) };
            let (level, child) = match node.children.as_slice().first() {
                None => {
                    self.nodes.pop();
                    continue;
                }
                Some(_) if node.level == 1 => break,
                Some(child) => (node.level, child.clone()),
            };
            node.children.next();
            match read(&self.source, &child.page, Some((level, &child.first)))? {
                Page::Node { level, children } => {
                    self.nodes.push(Node { level, page: child.page, children: children.into_iter() })
                }
                Page::Leaf(_) => return Err(Error::Invalid("a page is not of the level that its parent says".into())),
            }
        }
        Ok(self.nodes.last().and_then(|node| node.children.as_slice().first()))
    }

    /// Goes over the next leaf without reading it.
    fn pass_leaf(&mut self) {
        self.begun = self.nodes.last_mut().and_then(|node| node.children.next()).map(|leaf| leaf.page);
    }

    fn peek(&mut self) -> Result<Option<&Entry>> {
        if let Some(Child { first, page }) = self.next_leaf()?.cloned() {
            self.pass_leaf();
            let Page::Leaf(entries) = read(&self.source, &page, Some((1, &first)))? else {
                return Err(Error::Invalid("a page is not of the level that its parent says".into()));
            };
            if self.last.as_ref().is_some_and(|last| *last >= first) {
                return Err(descending(&first));
            }
            self.last = entries.last().map(|entry| entry.name.clone());
            self.leaf = entries.into_iter();
        }
        Ok(self.leaf.as_slice().first())
    }

    fn take(&mut self) -> Option<Entry> {
        self.leaf.next()
    }
}
