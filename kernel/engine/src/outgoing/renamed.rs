//! Which file that is gone an added file may have come from, when it was renamed and changed. It guesses by names and
//! sizes; a wrong guess costs a try of the coder.

use std::collections::{HashMap, HashSet};

use crate::Result;
use crate::page::{Entry, EntryKind};
use crate::tree::{PageSource, Walk, join};

/// Files and directories that are remembered (some hundred bytes each); beyond, none finds its old place.
const REMEMBERED_MAX: usize = 50_000;
/// Files of one name that are looked at: a thousand `__init__.py` are no better guess than some.
const SAME_NAME_MAX: usize = 64;

/// What the base has and the new tree does not have at that path.
#[derive(Default)]
pub(super) struct Gone(Vec<(Vec<u8>, Entry)>);

/// Added files that have something to send.
#[derive(Default)]
pub(super) struct Added(pub(super) Vec<(Vec<u8>, Entry)>);

impl Gone {
    /// A file, or a directory with all that is in it.
    pub(super) fn push(&mut self, path: &[u8], entry: &Entry) {
        if self.0.len() < REMEMBERED_MAX && matches!(entry.kind, EntryKind::File | EntryKind::Directory) {
            self.0.push((path.to_vec(), entry.clone()));
        }
    }

    /// For each added file what it is most alike by its path. Directories are read only if a file is looked for.
    pub(super) fn bases<S: PageSource>(&self, source: &S, added: &Added) -> Result<Vec<Option<Entry>>> {
        let names: HashSet<&[u8]> = added.0.iter().map(|(path, _)| name_of(path)).collect();
        let mut by_name: HashMap<Vec<u8>, Vec<(Vec<u8>, Entry)>> = HashMap::new();
        let mut by_place: HashMap<&[u8], Vec<(&[u8], &Entry)>> = HashMap::new();
        let mut find = |path: Vec<u8>, entry: Entry| {
            let name = name_of(&path);
            if entry.kind == EntryKind::File && names.contains(name) {
                let same = by_name.entry(name.to_vec()).or_default();
                if same.len() < SAME_NAME_MAX {
                    same.push((path, entry));
                }
            }
        };
        for (path, entry) in self.0.iter().filter(|_| !names.is_empty()) {
            match entry.page() {
                None => {
                    let beside = by_place.entry(place_of(path)).or_default();
                    if beside.len() < SAME_NAME_MAX {
                        beside.push((path, entry));
                    }
                    find(path.clone(), entry.clone());
                }
                Some(page) => {
                    for found in Walk::new(source, &page) {
                        let (below, entry) = found?;
                        let mut path = path.clone();
                        join(&mut path, &below);
                        find(path, entry);
                    }
                }
            }
        }
        let base = |(path, new): &(Vec<u8>, Entry)| {
            let same = by_name.get(name_of(path)).into_iter().flatten().map(|(path, entry)| (path.as_slice(), entry));
            let alike = |(other, old): &(&[u8], &Entry)| {
                (shared_end(path, other), std::cmp::Reverse(old.size.abs_diff(new.size)))
            };
            let same = same.filter(|(_, old)| is_of_size(old.size, new.size)).max_by_key(alike);
            let beside = by_place.get(place_of(path)).into_iter().flatten().copied();
            let shared = |(other, _): &(&[u8], &Entry)| shared_start(path, other) + shared_end(path, other);
            let beside = || beside.filter(|(_, old)| is_of_size(old.size, new.size)).max_by_key(shared);
            same.or_else(beside).map(|(_, old)| old.clone())
        };
        Ok(added.0.iter().map(base).collect())
    }
}

impl Added {
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= REMEMBERED_MAX
    }
}

/// Whether one may be a version of the other.
fn is_of_size(old: u64, new: u64) -> bool {
    old <= new.saturating_mul(4) && new <= old.saturating_mul(4)
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

fn place_of(path: &[u8]) -> &[u8] {
    &path[..path.len() - name_of(path).len()]
}

fn shared_start(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn shared_end(a: &[u8], b: &[u8]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::OldPages;
    use crate::tree::tests::{Memory, build, directory, file};

    fn sized(name: &[u8], content: u64, size: u64) -> Entry {
        Entry { size, ..file(name, content) }
    }

    fn found(gone: &Gone, memory: &Memory, path: &[u8], size: u64) -> Option<u64> {
        let added = Added(vec![(path.to_vec(), sized(name_of(path), 0, size))]);
        gone.bases(&memory, &added).unwrap().remove(0).map(|entry| entry.size)
    }

    #[test]
    fn the_same_name_with_most_of_the_path_is_the_base_then_a_like_name_beside_it() {
        let memory = Memory::default();
        let mut gone = Gone::default();
        gone.push(b"a/old/x/main.c", &sized(b"main.c", 1, 100));
        gone.push(b"a/old/y/main.c", &sized(b"main.c", 2, 101));
        gone.push(b"images/disk-1.img", &sized(b"disk-1.img", 3, 1000));
        gone.push(b"images/notes", &sized(b"notes", 4, 999));

        assert_eq!(found(&gone, &memory, b"b/new/y/main.c", 100), Some(101));
        assert_eq!(found(&gone, &memory, b"main.c", 100), Some(100));
        assert_eq!(found(&gone, &memory, b"images/disk-2.img", 999), Some(1000));
        assert_eq!(found(&gone, &memory, b"elsewhere/disk-2.img", 999), None);
        assert_eq!(found(&gone, &memory, b"main.c", 500), None);
    }

    #[test]
    fn files_in_a_directory_that_is_gone_are_found() {
        let mut memory = Memory::default();
        let inner = build(&mut memory, OldPages::none(), [file(b"lib.rs", 5)]);
        let size = file(b"lib.rs", 5).size;
        let mut gone = Gone::default();
        gone.push(b"v1", &directory(b"v1", inner));

        assert_eq!(found(&gone, &memory, b"v2/lib.rs", size), Some(size));
    }
}
