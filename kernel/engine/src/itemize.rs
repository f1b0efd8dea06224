//! What is different about a name, in the eleven letters of rsync's `--itemize-changes`, and from tree to tree. It
//! reads pages only, and skips what has equal digests.

use std::cmp::Ordering;

use crate::Result;
use crate::checkout::{Action, Change};
use crate::page::{Entry, EntryKind, PageRef};
use crate::tree::{self, Entries, PageSource};

/// In what two states of a name differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aspects {
    /// What a file holds, where a link leads, what a device is.
    pub content: bool,
    /// Bytes of a file.
    pub size: bool,
    /// Time of the last change.
    pub time: bool,
    /// Permission bits.
    pub mode: bool,
    /// Owner.
    pub owner: bool,
    /// Group.
    pub group: bool,
    /// Extended attributes.
    pub xattrs: bool,
}

impl Aspects {
    /// What differs between two entries of one kind.
    pub fn between(old: &Entry, new: &Entry) -> Aspects {
        Aspects {
            content: (old.digest, &old.target, old.rdev) != (new.digest, &new.target, new.rdev),
            size: old.size != new.size,
            time: old.mtime_ns != new.mtime_ns,
            mode: old.mode != new.mode,
            owner: (old.uid, &old.user) != (new.uid, &new.user),
            group: (old.gid, &old.group) != (new.gid, &new.group),
            xattrs: old.xattrs != new.xattrs,
        }
    }

    /// Whether anything differs.
    pub fn any(self) -> bool {
        self != Aspects::default()
    }
}

/// `>f.st......`, `cd+++++++++`, `*deleting  `.
pub fn letters(action: Action, kind: EntryKind, differs: Aspects) -> String {
    let kind_letter = match kind {
        EntryKind::File => 'f',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'L',
        EntryKind::CharDevice | EntryKind::BlockDevice => 'D',
        EntryKind::Fifo => 'S',
    };
    let what = match action {
        Action::Deleted => return "*deleting  ".into(),
        Action::Metadata => '.',
        _ if kind == EntryKind::File => '>',
        _ => 'c',
    };
    if action == Action::Created {
        return format!("{what}{kind_letter}+++++++++");
    }
    let Aspects { content, size, time, mode, owner, group, xattrs } = differs;
    let shown = |differs: bool, letter: char| if differs { letter } else { '.' };
    let aspects = [(content, 'c'), (size, 's'), (time, 't'), (mode, 'p'), (owner, 'o'), (group, 'g')];
    let aspects: String = aspects.into_iter().map(|(differs, letter)| shown(differs, letter)).collect();
    format!("{what}{kind_letter}{aspects}..{}", shown(xattrs, 'x'))
}

/// Tells `visit` what turns the directory `a` into `b`, a name at a time in the order of the walk; `None` is an empty
/// one. What was in a directory that came or went is told, too.
pub fn changes<S: PageSource>(
    source: &S,
    a: Option<PageRef>,
    b: Option<PageRef>,
    visit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let mut open = vec![(Vec::new(), Merge::of(source, a, b)?)];
    while let Some((path, merge)) = open.last_mut() {
        let Some((old, new)) = merge.next()? else {
            open.pop();
            continue;
        };
        let Some(entry) = new.as_ref().or(old.as_ref()) else { continue };
        let mut path = path.clone();
        tree::join(&mut path, &entry.name);
        let (kind, size) = (entry.kind, entry.size);
        let mut tell = |action, differs| visit(Change { path: path.clone(), action, kind, size, differs });
        let pages = match (&old, &new) {
            (Some(old), Some(new)) if old.kind == new.kind => {
                let pages = (old.page(), new.page());
                let mut differs = Aspects::between(old, new);
                differs.content &= pages.1.is_none();
                if differs.content || differs.size {
                    tell(Action::Replaced, differs)?;
                } else if differs.any() {
                    tell(Action::Metadata, differs)?;
                }
                pages
            }
            (Some(old), Some(new)) => {
                tell(Action::Replaced, Aspects { content: true, ..Aspects::between(old, new) })?;
                (old.page(), new.page())
            }
            (Some(old), None) => {
                tell(Action::Deleted, Aspects::default())?;
                (old.page(), None)
            }
            (None, Some(new)) => {
                tell(Action::Created, Aspects::default())?;
                (None, new.page())
            }
            (None, None) => (None, None),
        };
        if pages.0.map(|page| page.digest) != pages.1.map(|page| page.digest) {
            open.push((path, Merge::of(source, pages.0, pages.1)?));
        }
    }
    Ok(())
}

/// The names of two directories side by side, those in equal pages left out.
struct Merge<'s, S> {
    sides: [Option<Entries<&'s S>>; 2],
    next: [Option<Entry>; 2],
}

impl<'s, S: PageSource> Merge<'s, S> {
    fn of(source: &'s S, a: Option<PageRef>, b: Option<PageRef>) -> Result<Self> {
        let (a, b) = match (a, b) {
            (Some(a), Some(b)) if a.digest == b.digest => (None, None),
            (a, b) => tree::unlike_entries(source, a, b)?,
        };
        let mut merge = Merge { sides: [a, b], next: [None, None] };
        merge.advance(0)?;
        merge.advance(1)?;
        Ok(merge)
    }

    fn advance(&mut self, side: usize) -> Result<Option<Entry>> {
        let next = self.sides[side].as_mut().and_then(Iterator::next).transpose()?;
        Ok(std::mem::replace(&mut self.next[side], next))
    }

    fn next(&mut self) -> Result<Option<(Option<Entry>, Option<Entry>)>> {
        let order = match &self.next {
            [None, None] => return Ok(None),
            [Some(_), None] => Ordering::Less,
            [None, Some(_)] => Ordering::Greater,
            [Some(old), Some(new)] => old.name.cmp(&new.name),
        };
        let old = if order.is_le() { self.advance(0)? } else { None };
        let new = if order.is_ge() { self.advance(1)? } else { None };
        Ok(Some((old, new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_are_those_of_rsync() {
        let differs = Aspects { size: true, time: true, group: true, ..Aspects::default() };
        for (action, kind, expected) in [
            (Action::Created, EntryKind::File, ">f+++++++++"),
            (Action::Created, EntryKind::Directory, "cd+++++++++"),
            (Action::Created, EntryKind::Symlink, "cL+++++++++"),
            (Action::Replaced, EntryKind::File, ">f.st..g..."),
            (Action::Metadata, EntryKind::Directory, ".d.st..g..."),
            (Action::Deleted, EntryKind::File, "*deleting  "),
        ] {
            assert_eq!(letters(action, kind, differs), expected);
        }
    }
}
