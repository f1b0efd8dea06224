//! Names across snapshots: what matches a pattern, and in which of them it was. It reads pages only, and those of a
//! directory that several trees share once.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::Result;
use crate::keys::Digest;
use crate::page::{EntryKind, PageRef};
use crate::select::Patterns;
use crate::tree::{Entries, PageSource, join};

/// A path that matches, in one line of trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Relative to the trees' roots.
    pub path: Vec<u8>,
    /// What it is in the last tree that has it.
    pub what: What,
    /// The first tree that has it.
    pub first: usize,
    /// The last one.
    pub last: usize,
    /// How many have it.
    pub count: usize,
}

/// One state of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct What {
    /// Its kind.
    pub kind: EntryKind,
    /// Bytes of a file.
    pub size: u64,
    /// Time of the last change.
    pub mtime_ns: i64,
}

/// What matches in a directory, and the directories in which something does.
#[derive(Default)]
struct Matches(Vec<Match>);

/// A name, what it is if it matches, and what matches beneath it.
type Match = (Vec<u8>, Option<What>, Option<Rc<Matches>>);

/// What is known of directories. A pattern for paths says something else of the same directory in another place.
struct Known {
    by_path: bool,
    all: HashMap<(Vec<u8>, Digest), Rc<Matches>>,
}

impl Known {
    fn key(&self, path: &[u8], page: &PageRef) -> (Vec<u8>, Digest) {
        (if self.by_path { path.to_vec() } else { Vec::new() }, page.digest)
    }
}

/// What matches `pattern` in each line of trees, oldest first; in order of path. `by_path` is whether the pattern is one
/// for paths and not for names. `None` stands for a tree without such a directory.
pub fn find<S: PageSource>(
    source: &S,
    lines: &[Vec<Option<PageRef>>],
    pattern: &Patterns,
    by_path: bool,
) -> Result<Vec<Vec<Found>>> {
    let mut known = Known { by_path, all: HashMap::new() };
    let mut answers = Vec::new();
    for line in lines {
        let mut found: BTreeMap<Vec<u8>, Found> = BTreeMap::new();
        for (index, root) in line.iter().enumerate() {
            let Some(root) = root else { continue };
            let matches = matches_in(source, root, pattern, &mut known)?;
            each(&matches, |path, what| {
                let entry = found.entry(path.to_vec());
                let fresh = || Found { path: path.to_vec(), what, first: index, last: index, count: 0 };
                let found = entry.or_insert_with(fresh);
                (found.what, found.last, found.count) = (what, index, found.count + 1);
            });
        }
        answers.push(found.into_values().collect());
    }
    Ok(answers)
}

/// A directory that is being read.
struct Open<'s, S> {
    name: Vec<u8>,
    what: Option<What>,
    path: Vec<u8>,
    page: PageRef,
    entries: Entries<&'s S>,
    matches: Matches,
}

/// What matches beneath `root`. No recursion: a tree is as deep as it likes.
fn matches_in<S: PageSource>(source: &S, root: &PageRef, pattern: &Patterns, known: &mut Known) -> Result<Rc<Matches>> {
    if let Some(matches) = known.all.get(&known.key(b"", root)) {
        return Ok(Rc::clone(matches));
    }
    let open = |name, what, path, page: PageRef| {
        let entries = Entries::new(source, &page);
        Open { name, what, path, page, entries, matches: Matches::default() }
    };
    let mut stack = vec![open(Vec::new(), None, Vec::new(), *root)];
    loop {
        let Some(top) = stack.last_mut() else { return Ok(Rc::default()) };
        if let Some(entry) = top.entries.next() {
            let entry = entry?;
            let mut path = top.path.clone();
            join(&mut path, &entry.name);
            let page = entry.page();
            let asked = if known.by_path { &path } else { &entry.name };
            let what = What { kind: entry.kind, size: entry.size, mtime_ns: entry.mtime_ns };
            let what = (pattern.excludes(asked, page.is_some()) == Some(true)).then_some(what);
            match page {
                None if what.is_some() => top.matches.0.push((entry.name, what, None)),
                None => {}
                Some(page) => match known.all.get(&known.key(&path, &page)) {
                    Some(beneath) => add(&mut top.matches, entry.name, what, Rc::clone(beneath)),
                    None => stack.push(open(entry.name, what, path, page)),
                },
            }
            continue;
        }
        let Some(Open { name, what, path, page, matches, .. }) = stack.pop() else { return Ok(Rc::default()) };
        let matches = Rc::new(matches);
        known.all.insert(known.key(&path, &page), Rc::clone(&matches));
        match stack.last_mut() {
            Some(above) => add(&mut above.matches, name, what, matches),
            None => return Ok(matches),
        }
    }
}

fn add(matches: &mut Matches, name: Vec<u8>, what: Option<What>, beneath: Rc<Matches>) {
    let beneath = Some(beneath).filter(|beneath| !beneath.0.is_empty());
    if what.is_some() || beneath.is_some() {
        matches.0.push((name, what, beneath));
    }
}

/// Calls `visit` with each match and its path.
fn each(matches: &Rc<Matches>, mut visit: impl FnMut(&[u8], What)) {
    let mut stack = vec![(Vec::new(), Rc::clone(matches))];
    while let Some((path, matches)) = stack.pop() {
        for (name, what, beneath) in &matches.0 {
            let mut path = path.clone();
            join(&mut path, name);
            if let Some(what) = what {
                visit(&path, *what);
            }
            if let Some(beneath) = beneath {
                stack.push((path, Rc::clone(beneath)));
            }
        }
    }
}

/// A tree as deep as the stack is: taken apart without recursion.
impl Drop for Matches {
    fn drop(&mut self) {
        let mut stack: Vec<Rc<Matches>> = self.0.drain(..).filter_map(|(_, _, beneath)| beneath).collect();
        while let Some(matches) = stack.pop() {
            if let Some(mut matches) = Rc::into_inner(matches) {
                stack.extend(matches.0.drain(..).filter_map(|(_, _, beneath)| beneath));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Entry;
    use crate::select::Line;
    use crate::tree::OldPages;
    use crate::tree::tests::{Memory, build, directory, file};

    fn patterns(pattern: &str) -> Patterns {
        Patterns::new(&[Line { place: "PATTERN".into(), pattern: pattern.into() }]).unwrap()
    }

    #[test]
    fn a_shared_directory_is_read_once_and_counted_in_each_tree() {
        let mut memory = Memory::default();
        let shared = build(&mut memory, OldPages::none(), vec![file(b"x.c", 1), file(b"y.h", 2)]);
        let roots: Vec<PageRef> = (0..3)
            .map(|number| {
                let mut entries: Vec<Entry> = vec![directory(b"a", shared), file(b"own.c", number)];
                if number == 1 {
                    entries.insert(1, directory(b"b", shared));
                }
                build(&mut memory, OldPages::none(), entries)
            })
            .collect();
        let line: Vec<_> = roots.iter().copied().map(Some).chain([None]).collect();

        let by_name = find(&memory, std::slice::from_ref(&line), &patterns("*.c"), false).unwrap();
        let by_path = find(&memory, &[line], &patterns("b/*"), true).unwrap();

        let told = |found: &[Found]| -> Vec<_> {
            let path = |found: &Found| String::from_utf8(found.path.clone()).unwrap();
            found.iter().map(|found| (path(found), found.first, found.last, found.count)).collect()
        };
        let expected = [("a/x.c", 0, 2, 3), ("b/x.c", 1, 1, 1), ("own.c", 0, 2, 3)];
        assert_eq!(told(&by_name[0]), expected.map(|(path, first, last, count)| (path.into(), first, last, count)));
        let expected = [("b/x.c", 1, 1, 1), ("b/y.h", 1, 1, 1)];
        assert_eq!(told(&by_path[0]), expected.map(|(path, first, last, count)| (path.into(), first, last, count)));
    }
}
