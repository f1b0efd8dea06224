//! What is different between two trees. It reads pages only, and skips what has equal digests.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::Result;
use crate::keys::Digest;
use crate::page::{Entry, EntryKind, PageRef};
use crate::tree::{self, Entries, PageSource, Side, Walk, unlike_entries};

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only in the second tree.
    Added,
    /// Only in the first tree.
    Removed,
    /// Another content, target or kind.
    Changed,
    /// The same content with another mode, owner, time or attribute.
    Metadata,
    /// The same content at another path (`old_path`). A directory with all that is in it counts once.
    Renamed,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Relative to the root; in the second tree unless it is gone.
    pub path: Vec<u8>,
    /// How it differs.
    pub change: Change,
    /// What it is; if that changed, what it became.
    pub kind: EntryKind,
    /// Bytes before; 0 if it was not there.
    pub old_size: u64,
    /// Bytes after; 0 if it is gone.
    pub new_size: u64,
    /// Where it was, if it was renamed.
    pub old_path: Option<Vec<u8>>,
}

/// The differences from `a` to `b` in order of path; `None` is an empty tree.
///
/// A directory whose time alone differs is named only if nothing in it explains that.
pub fn diff<S: PageSource>(source: &S, a: Option<&PageRef>, b: Option<&PageRef>) -> Result<Vec<Difference>> {
    let mut found = Found::default();
    let mut waiting = vec![(Vec::new(), a.copied(), b.copied())];
    while let Some((path, a, b)) = waiting.pop() {
        if a.map(|page| page.digest) != b.map(|page| page.digest) {
            let (a, b) = unlike_entries(source, a, b)?;
            found.compare(&path, a, b, &mut waiting)?;
        }
    }
    let Found { mut differences, removed, added } = found;
    Renames::of(source, added)?.pair(source, removed, &mut differences)?;
    differences.sort_by(|x, y| x.path.cmp(&y.path).then(x.change.cmp(&y.change)));
    Ok(differences)
}

/// A path on one side only.
struct Item {
    path: Vec<u8>,
    kind: EntryKind,
    size: u64,
    /// Of a file's content or a directory's pages.
    digest: Digest,
    page: Option<PageRef>,
}

impl Item {
    fn new(path: Vec<u8>, entry: &Entry) -> Self {
        let page = entry.page();
        let digest = page.map_or(entry.digest, |page| page.digest);
        Item { path, kind: entry.kind, size: entry.size, digest, page }
    }

    fn content_key(&self) -> ContentKey {
        (self.kind, self.digest, self.size)
    }

    fn name(&self) -> &[u8] {
        self.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }
}

/// What a comparison of names has found.
#[derive(Default)]
struct Found {
    differences: Vec<Difference>,
    removed: Vec<Item>,
    added: Vec<Item>,
}

/// A directory on both found that is still to be compared.
type Pair = (Vec<u8>, Option<PageRef>, Option<PageRef>);

impl Found {
    /// Merges the entries of one directory.
    fn compare<S: PageSource>(
        &mut self,
        directory: &[u8],
        mut a: Side<'_, S>,
        mut b: Side<'_, S>,
        waiting: &mut Vec<Pair>,
    ) -> Result<()> {
        let next = |entries: &mut Side<'_, S>| entries.as_mut().and_then(Iterator::next).transpose();
        let path = |entry: &Entry| {
            let mut path = directory.to_vec();
            tree::join(&mut path, &entry.name);
            path
        };
        let (mut x, mut y) = (next(&mut a)?, next(&mut b)?);
        loop {
            let order = match (&x, &y) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(x), Some(y)) => x.name.cmp(&y.name),
            };
            let old = if order.is_le() { std::mem::replace(&mut x, next(&mut a)?) } else { None };
            let new = if order.is_ge() { std::mem::replace(&mut y, next(&mut b)?) } else { None };
            match (old, new) {
                (Some(old), Some(new)) => self.compare_entries(path(&old), &old, &new, waiting),
                (Some(old), None) => self.removed.push(Item::new(path(&old), &old)),
                (None, Some(new)) => self.added.push(Item::new(path(&new), &new)),
                (None, None) => {}
            }
        }
    }

    fn compare_entries(&mut self, path: Vec<u8>, old: &Entry, new: &Entry, waiting: &mut Vec<Pair>) {
        let is_directory = (old.page().is_some(), new.page().is_some());
        if is_directory.0 != is_directory.1 {
            self.removed.push(Item::new(path.clone(), old));
            self.added.push(Item::new(path, new));
            return;
        }
        let same_content = (old.kind, old.size, old.digest, &old.target, old.rdev)
            == (new.kind, new.size, new.digest, &new.target, new.rdev);
        let same_pages = old.page().map(|page| page.digest) == new.page().map(|page| page.digest);
        let change = match same_content {
            false => Some(Change::Changed),
            true if owner(old) != owner(new) => Some(Change::Metadata),
            true if old.mtime_ns != new.mtime_ns && same_pages => Some(Change::Metadata),
            true => None,
        };
        if let Some(change) = change {
            let (old_size, new_size) = (old.size, new.size);
            let path = path.clone();
            self.differences.push(Difference { path, change, kind: new.kind, old_size, new_size, old_path: None });
        }
        if !same_pages {
            waiting.push((path, old.page(), new.page()));
        }
    }
}

/// All metadata but the time.
fn owner(entry: &Entry) -> impl PartialEq + use<'_> {
    let Entry { mode, uid, gid, user, group, xattrs, link_id, .. } = entry;
    (mode, uid, gid, user, group, xattrs, link_id)
}

/// What makes two items the same under different names.
type ContentKey = (EntryKind, Digest, u64);

/// What was added, down to the last file, and which of it has turned out to be a rename.
struct Renames {
    added: Vec<Item>,
    /// Where what is in `added[i]` ends.
    ends: Vec<usize>,
    claimed: Vec<bool>,
    /// What may be the new place of some content, the first last; whoever takes a place finds out whether it is free.
    by_content: HashMap<ContentKey, Vec<usize>>,
    by_name: HashMap<(ContentKey, Vec<u8>), Vec<usize>>,
}

impl Renames {
    /// Reads all that is in added directories.
    fn of<S: PageSource>(source: &S, tops: Vec<Item>) -> Result<Self> {
        let (mut added, mut ends) = (Vec::<Item>::new(), Vec::new());
        for top in tops {
            let (prefix, page) = (top.path.clone(), top.page);
            // Directories that are open, by place in `added`.
            let mut open: Vec<usize> = Vec::new();
            let below = page.iter().flat_map(|page| Walk::new(source, page)).map(|found| {
                let (below, entry) = found?;
                let mut path = prefix.clone();
                tree::join(&mut path, &below);
                Ok(Item::new(path, &entry))
            });
            for item in std::iter::once(Ok(top)).chain(below) {
                let item = item?;
                let place = added.len();
                while let Some(&directory) = open.last()
                    && !is_below(&item, &added[directory])
                {
                    ends[directory] = place;
                    open.pop();
                }
                if item.page.is_some() {
                    open.push(place);
                }
                added.push(item);
                ends.push(place + 1);
            }
            open.into_iter().for_each(|directory| ends[directory] = added.len());
        }
        let mut renames = Renames {
            claimed: vec![false; added.len()],
            by_content: HashMap::new(),
            by_name: HashMap::new(),
            added,
            ends,
        };
        for (place, item) in renames.added.iter().enumerate().rev() {
            // Empty things are all alike: that says nothing about where they come from.
            if item.size > 0 || renames.ends[place] > place + 1 {
                renames.by_content.entry(item.content_key()).or_default().push(place);
                renames.by_name.entry((item.content_key(), item.name().to_vec())).or_default().push(place);
            }
        }
        Ok(renames)
    }

    /// Pairs what was removed with what was added, whole directories first.
    fn pair<S: PageSource>(mut self, source: &S, removed: Vec<Item>, differences: &mut Vec<Difference>) -> Result<()> {
        let (mut directories, mut others): (Vec<_>, Vec<_>) = removed.into_iter().partition(|item| item.page.is_some());
        directories.reverse();
        while let Some(old) = directories.pop() {
            if let Some(new) = self.claim(&old) {
                differences.push(renamed(old, &self.added[new]));
                continue;
            }
            let (at, page) = (directories.len(), old.page);
            for entry in page.iter().flat_map(|page| Entries::new(source, page)) {
                let entry = entry?;
                let mut path = old.path.clone();
                tree::join(&mut path, &entry.name);
                let item = Item::new(path, &entry);
                if item.page.is_some() { directories.push(item) } else { others.push(item) }
            }
            directories[at..].reverse();
            differences.push(one_sided(old, Change::Removed));
        }
        for old in others {
            differences.push(match self.claim(&old) {
                Some(new) => renamed(old, &self.added[new]),
                None => one_sided(old, Change::Removed),
            });
        }
        let unclaimed = self.added.into_iter().zip(self.claimed).filter(|(_, claimed)| !claimed);
        differences.extend(unclaimed.map(|(item, _)| one_sided(item, Change::Added)));
        Ok(())
    }

    /// Something added, not claimed before, that has the content of `old`; rather of the same name.
    ///
    /// A place that is not free is never free again, so each is looked at once a list: ten thousand equal files are no
    /// more work than different ones.
    fn claim(&mut self, old: &Item) -> Option<usize> {
        let is_free = |place: &usize| !self.claimed[*place..self.ends[*place]].contains(&true);
        let free_in = |places: Option<&mut Vec<usize>>| {
            let places = places?;
            std::iter::from_fn(|| places.pop()).find(is_free)
        };
        let same_name = free_in(self.by_name.get_mut(&(old.content_key(), old.name().to_vec())));
        let place = same_name.or_else(|| free_in(self.by_content.get_mut(&old.content_key())))?;
        self.claimed[place..self.ends[place]].fill(true);
        Some(place)
    }
}

fn is_below(item: &Item, directory: &Item) -> bool {
    item.path.strip_prefix(directory.path.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn renamed(old: Item, new: &Item) -> Difference {
    let (path, kind) = (new.path.clone(), new.kind);
    let (old_size, new_size) = (old.size, new.size);
    Difference { path, change: Change::Renamed, kind, old_size, new_size, old_path: Some(old.path) }
}

fn one_sided(item: Item, change: Change) -> Difference {
    let Item { path, kind, size, .. } = item;
    let (old_size, new_size) = if change == Change::Added { (0, size) } else { (size, 0) };
    Difference { path, change, kind, old_size, new_size, old_path: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::OldPages;
    use crate::tree::tests::{Memory, build, directory, file};
    use proptest::collection::btree_map;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A tree as a model: path of each file -> what it contains.
    type Model = BTreeMap<Vec<u8>, u64>;

    fn store(memory: &mut Memory, model: &Model, prefix: &[u8]) -> PageRef {
        let mut entries = BTreeMap::new();
        for (path, &content) in model {
            let Some(rest) = path.strip_prefix(prefix) else { continue };
            let name = rest.split(|&byte| byte == b'/').next().unwrap();
            if entries.contains_key(name) {
                continue;
            }
            let entry = match name.len() == rest.len() {
                true => file(name, content),
                false => directory(name, store(memory, model, &[prefix, name, b"/"].concat())),
            };
            entries.insert(name.to_vec(), entry);
        }
        build(memory, OldPages::none(), entries.into_values())
    }

    fn models() -> impl Strategy<Value = Model> {
        let path = "[ab]/[ab]/[a-c]|[ab]/[c-e]|[f-h]".prop_map(String::into_bytes);
        btree_map(path, 0u64..6, 0..14)
    }

    /// What `a` becomes by the differences; content that is new comes from `b`.
    fn apply(a: &Model, b: &Model, differences: &[Difference]) -> Model {
        let mut result = a.clone();
        for Difference { path, change, kind, old_path, .. } in differences {
            match (change, kind, old_path) {
                (Change::Removed, EntryKind::File, _) => assert!(result.remove(path).is_some()),
                (Change::Renamed, EntryKind::File, Some(old)) => assert_eq!(result.remove(old), a.get(old).copied()),
                (Change::Renamed, _, Some(old)) => {
                    result.retain(|path, _| !path.starts_with(&[old, &b"/"[..]].concat()))
                }
                _ => {}
            }
        }
        for Difference { path, change, kind, old_path, .. } in differences {
            match (change, kind, old_path) {
                (Change::Added | Change::Changed, EntryKind::File, _) => {
                    result.insert(path.clone(), b[path]);
                }
                (Change::Renamed, EntryKind::File, Some(old)) => {
                    result.insert(path.clone(), a[old]);
                }
                (Change::Renamed, _, Some(old)) => {
                    let moved =
                        a.iter().filter_map(|(from, content)| Some((from.strip_prefix(old.as_slice())?, content)));
                    let moved = moved.filter(|(rest, _)| rest.first() == Some(&b'/'));
                    result.extend(moved.map(|(rest, content)| ([path, rest].concat(), *content)));
                }
                _ => {}
            }
        }
        result
    }

    proptest! {
        #[test]
        fn the_differences_make_the_second_tree_of_the_first(a in models(), b in models()) {
            let mut memory = Memory::default();
            let (root_a, root_b) = (store(&mut memory, &a, b""), store(&mut memory, &b, b""));

            let found = diff(&memory, Some(&root_a), Some(&root_b)).unwrap();

            prop_assert_eq!(apply(&a, &b, &found), b);
            prop_assert!(found.is_sorted_by(|x, y| x.path <= y.path));
        }
    }

    fn model(files: &[(&str, u64)]) -> Model {
        files.iter().map(|&(path, content)| (path.as_bytes().to_vec(), content)).collect()
    }

    fn lines(a: &Model, b: &Model) -> Vec<String> {
        let mut memory = Memory::default();
        let (a, b) = (store(&mut memory, a, b""), store(&mut memory, b, b""));
        let found = diff(&memory, Some(&a), Some(&b)).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let line = |one: &Difference| {
            let from = one.old_path.as_ref().map_or(String::new(), |old| format!(" from {}", text(old)));
            format!("{:?} {}{from} {}>{}", one.change, text(&one.path), one.old_size, one.new_size)
        };
        found.iter().map(line).collect()
    }

    #[test]
    fn a_renamed_directory_is_one_difference() {
        let a = model(&[("old/a", 1), ("old/b/c", 2), ("same", 3)]);
        let b = model(&[("new/a", 1), ("new/b/c", 2), ("same", 3)]);

        assert_eq!(lines(&a, &b), ["Renamed new from old 0>0"]);
    }

    #[test]
    fn a_renamed_directory_is_found_inside_a_new_one() {
        let a = model(&[("old/a", 1), ("old/b", 2)]);
        let b = model(&[("top/new/a", 1), ("top/new/b", 2), ("top/z", 9)]);

        assert_eq!(lines(&a, &b), ["Added top 0>0", "Renamed top/new from old 0>0", "Added top/z 0>9"]);
    }

    #[test]
    fn a_file_that_moved_and_its_changed_neighbour_are_told_apart() {
        let a = model(&[("d/f", 1), ("g", 2), ("h", 3), ("zero", 0)]);
        let b = model(&[("e", 1), ("g", 5), ("h", 3), ("nil", 0)]);

        assert_eq!(
            lines(&a, &b),
            ["Removed d 0>0", "Renamed e from d/f 1>1", "Changed g 2>5", "Added nil 0>0", "Removed zero 0>0"]
        );
    }

    #[test]
    fn equal_files_that_moved_keep_their_names() {
        let files = |directory: &str| (0..3000).map(|at| (format!("{directory}/{at:04}"), 7)).collect::<Vec<_>>();
        let model = |files: Vec<(String, u64)>| files.into_iter().map(|(path, at)| (path.into_bytes(), at)).collect();
        let (a, mut b): (Model, Model) = (model(files("old")), model(files("new")));
        b.insert(b"new/other".to_vec(), 8);

        let found = lines(&a, &b);

        assert_eq!(
            found[..3],
            ["Added new 0>0", "Renamed new/0000 from old/0000 7>7", "Renamed new/0001 from old/0001 7>7"]
        );
        assert_eq!(found.len(), 3000 + 3);
    }

    #[test]
    fn what_became_a_directory_is_gone_and_new() {
        let (a, b) = (model(&[("x", 1)]), model(&[("x/y", 2)]));

        assert_eq!(lines(&a, &b), ["Added x 0>0", "Removed x 1>0", "Added x/y 0>2"]);
    }

    #[test]
    fn metadata_alone_is_metadata() {
        let mut memory = Memory::default();
        let other = Entry { mode: 0o600, ..file(b"f", 1) };
        let later = Entry { mtime_ns: 5, ..file(b"f", 1) };
        let [a, b, c] = [file(b"f", 1), other, later].map(|entry| build(&mut memory, OldPages::none(), [entry]));

        for page in [b, c] {
            let found = diff(&memory, Some(&a), Some(&page)).unwrap();
            assert_eq!(found.iter().map(|one| one.change).collect::<Vec<_>>(), [Change::Metadata]);
        }
        let inside = |page, mtime_ns| Entry { mtime_ns, ..directory(b"d", page) };
        let [p, q, r] =
            [inside(a, 1), inside(a, 2), inside(b, 2)].map(|entry| build(&mut memory, OldPages::none(), [entry]));
        let paths = |x, y| {
            let found = diff(&memory, Some(x), Some(y)).unwrap();
            found.into_iter().map(|one| one.path).collect::<Vec<_>>()
        };
        assert_eq!(paths(&p, &q), [b"d"]);
        assert_eq!(paths(&p, &r), [b"d/f"]);
    }

    #[test]
    fn equal_pages_are_not_read() {
        let mut memory = Memory::default();
        let name = |at: u64| format!("name {at:06}").into_bytes();
        let a = build(&mut memory, OldPages::none(), (0..20_000).map(|at| file(&name(at), 1)));
        let b = build(
            &mut memory,
            OldPages::none(),
            (0..20_000).map(|at| file(&name(at), if at == 9_000 { 2 } else { 1 })),
        );
        memory.read.replace(0);

        let found = diff(&memory, Some(&a), Some(&b)).unwrap();

        assert_eq!(found.len(), 1);
        assert!(*memory.read.borrow() <= 10, "{} pages read", memory.read.borrow());
    }

    #[test]
    fn nothing_is_an_empty_tree() {
        let mut memory = Memory::default();
        let root = store(&mut memory, &model(&[("d/f", 1)]), b"");
        let changes = |a, b| diff(&memory, a, b).unwrap().into_iter().map(|one| one.change).collect::<Vec<_>>();

        assert_eq!(changes(None, Some(&root)), [Change::Added; 2]);
        assert_eq!(changes(Some(&root), None), [Change::Removed; 2]);
        assert_eq!(changes(None, None), []);
    }
}
