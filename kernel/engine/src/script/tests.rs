//! Laws of tree scripts, what a hostile one may try, and how few bytes an honest one takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::digest::{ContentDigest, digest};
use crate::ingest::tests::empty_space;
use crate::keys::{Digest, keyed};
use crate::lease::Lease;
use crate::page::{PageRef, encode_root};
use crate::space::Space;
use crate::table::Kind;
use crate::tree::{DirectoryBuilder, Entries, OldPages, PageSink, PageSource, Walk};
use crate::{Error, Result};
use std::sync::Arc;

/// What a name stands for in a model of a tree.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// Chunks by number; 0 is a hole.
    File(Vec<u16>),
    Directory(BTreeMap<Vec<u8>, (Meta, Node)>),
    Symlink(Vec<u8>),
    Device(u64),
    Fifo,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Meta {
    mtime_ns: i64,
    owner: u8,
    link_id: u64,
    xattr: u8,
}

type Directory = BTreeMap<Vec<u8>, (Meta, Node)>;

/// A volume that is filled as ingest fills it: data as it comes, pages when they are complete.
struct World {
    _directory: TempDir,
    space: Arc<Space>,
    lease: Lease,
    chunks: HashMap<u16, Extent>,
    pages: HashMap<Vec<u8>, Address>,
}

impl PageSink for World {
    fn store(&mut self, bytes: &[u8], _digest: &Digest) -> Result<(Address, u32)> {
        let address = match self.pages.get(bytes) {
            Some(address) => *address,
            None => self.lease.append_chunk(bytes, Kind::Tree)?,
        };
        self.pages.insert(bytes.to_vec(), address);
        Ok((address, bytes.len() as u32))
    }
}

impl World {
    fn new() -> World {
        let (directory, space) = empty_space();
        let lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        World { _directory: directory, space, lease, chunks: HashMap::new(), pages: HashMap::new() }
    }

    fn bytes(number: u16) -> Vec<u8> {
        vec![number as u8; 20 + usize::from(number) % 50].iter().map(|byte| byte ^ (number >> 8) as u8).collect()
    }

    /// Size, digest and content of a file of these chunks.
    fn content(&mut self, numbers: &[u16]) -> (u64, Digest, Content) {
        let mut extents: Vec<Extent> = Vec::new();
        let mut digests = ContentDigest::new(&self.space.keys().content);
        let mut hole = 0;
        for &number in numbers {
            if number == 0 {
                hole += 1000;
                match extents.last_mut() {
                    Some(last) if last.is_hole() => last.length += 1000,
                    _ => extents.push(Extent { address: 0, length: 1000 }),
                }
                continue;
            }
            if hole > 0 {
                digests.hole(std::mem::take(&mut hole));
            }
            let bytes = World::bytes(number);
            digests.chunk(&digest(&self.space.keys().digest, &bytes));
            let lease = &mut self.lease;
            let stored = *self.chunks.entry(number).or_insert_with(|| {
                let address = lease.append_chunk(&bytes, Kind::Data).unwrap();
                Extent { address, length: bytes.len() as u64 }
            });
            match extents.last_mut() {
                Some(last) if !last.is_hole() && last.end() == stored.address => last.length += stored.length,
                _ => extents.push(stored),
            }
        }
        if hole > 0 {
            digests.hole(hole);
        }
        let size = extents.iter().map(|extent| extent.length).sum();
        let content = match extents.len() {
            ..=256 => Content::Extents(extents),
            count => {
                let bytes = crate::extent::encode(&extents).unwrap();
                let parts = bytes.chunks(bytes.len() / 2 + 1);
                let list = parts.map(|part| Extent {
                    address: self.lease.append_chunk(part, Kind::Tree).unwrap(),
                    length: part.len() as u64,
                });
                Content::Listed { list: list.collect(), count: count as u64 }
            }
        };
        (size, digests.finish(), content)
    }

    fn entry(&mut self, name: &[u8], meta: &Meta, node: &Node, old: Option<&Entry>) -> Entry {
        let mut entry = Entry {
            name: name.to_vec(),
            mode: if meta.owner % 2 == 0 { 0o644 } else { 0o755 },
            uid: meta.owner.into(),
            user: vec![b'u'; (meta.owner / 4).into()],
            mtime_ns: meta.mtime_ns,
            ..Entry::default()
        };
        if meta.xattr > 0 {
            entry.xattrs = vec![(b"user.x".to_vec(), vec![meta.xattr; meta.xattr.into()])];
        }
        if !matches!(node, Node::Directory(_)) {
            entry.link_id = meta.link_id;
        }
        match node {
            Node::File(numbers) => (entry.size, entry.digest, entry.content) = self.content(numbers),
            Node::Directory(inner) => {
                entry.kind = EntryKind::Directory;
                entry.content = Content::Directory(self.store(inner, old.and_then(Entry::page)));
            }
            Node::Symlink(target) => (entry.kind, entry.target) = (EntryKind::Symlink, target.clone()),
            Node::Device(rdev) => (entry.kind, entry.rdev) = (EntryKind::CharDevice, *rdev),
            Node::Fifo => entry.kind = EntryKind::Fifo,
        }
        entry
    }

    fn store(&mut self, directory: &Directory, old: Option<PageRef>) -> PageRef {
        let space = Arc::clone(&self.space);
        let pages = old.map_or_else(OldPages::none, |old| OldPages::of(&*space, &old).unwrap());
        let mut builder = DirectoryBuilder::new(space.keys(), pages);
        for (name, (meta, node)) in directory {
            let before = old.and_then(|old| crate::tree::lookup(&*space, &old, name).unwrap());
            let entry = self.entry(name, meta, node, before.as_ref());
            builder.push(entry, self).unwrap();
        }
        builder.finish(self).unwrap()
    }

    /// Stores and commits a tree; `old` is what an ingest would know of before.
    fn root(&mut self, meta: &Meta, node: &Node, old: Option<&Entry>) -> Entry {
        let root = self.entry(b"", meta, node, old);
        let committed = self.lease.sync().unwrap();
        self.space.admit(&[committed]).unwrap();
        root
    }

    fn tree(&mut self, directory: &Directory, old: Option<&Entry>) -> Entry {
        self.root(&Meta::default(), &Node::Directory(directory.clone()), old)
    }

    /// All pages of a tree, those of lists left out.
    fn pages(&self, root: &Entry) -> BTreeSet<PageKey> {
        let mut found = BTreeSet::new();
        let mut directories: Vec<PageRef> = root.page().into_iter().collect();
        directories.extend(root.page().iter().flat_map(|page| {
            Walk::new(&*self.space, page).filter_map(|found| found.unwrap().1.page()).collect::<Vec<_>>()
        }));
        for directory in directories {
            OldPages::of(&*self.space, &directory).unwrap().each(|page| {
                found.insert((page.address, page.length));
            });
        }
        found
    }

    fn script(&self, new: &Entry, base: Option<&Entry>) -> Vec<Vec<u8>> {
        let held = base.map_or_else(BTreeSet::new, |base| self.pages(base));
        let holds = |page: &PageRef| Ok(held.contains(&(page.address, page.length)));
        parts(&mut Encoder::new(Arc::clone(&self.space), new, base, holds))
    }

    /// Applies a script, each page compared with what is stored where it belongs.
    fn apply(&self, parts: &[Vec<u8>], base: Option<&Entry>) -> Result<(Entry, BTreeSet<PageKey>)> {
        let mut placed = BTreeSet::new();
        let mut applier = Applier::new(&self.space, base)?;
        for part in parts {
            applier.part(part, &mut |address, bytes, chunk| {
                assert_eq!(chunk, digest(&self.space.keys().digest, bytes));
                placed.insert((address, bytes.len() as u32));
                let stored = self.space.read(Extent { address, length: bytes.len() as u64 })?;
                match *stored == *bytes {
                    true => Ok(()),
                    false => Err(Error::Invalid(format!("another page at {address:#x}"))),
                }
            })?;
        }
        Ok((applier.finish()?, placed))
    }
}

type PageKey = (Address, u32);

fn parts<S: PageSource + Clone, H: FnMut(&PageRef) -> Result<bool>>(encoder: &mut Encoder<S, H>) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| encoder.next_part().unwrap()).collect()
}

fn metas() -> impl Strategy<Value = Meta> {
    let time = prop_oneof![Just(0), Just(5_000_000_000), Just(i64::MIN), Just(i64::MAX), any::<i64>(), 0i64..3];
    (time, prop_oneof![Just(0u8), Just(1), any::<u8>()], prop_oneof![9 => Just(0), 1 => any::<u64>()], 0u8..30)
        .prop_map(|(mtime_ns, owner, link_id, xattr)| Meta {
            mtime_ns,
            owner,
            link_id,
            xattr: xattr.saturating_sub(27),
        })
}

fn nodes() -> impl Strategy<Value = Node> {
    let file = vec(prop_oneof![1 => Just(0u16), 4 => 1u16..20, 1 => any::<u16>()], 0..6).prop_map(Node::File);
    let long = (0u16..3)
        .prop_map(|from| Node::File((0..600).map(|at| if at % 2 == 0 { from + 1 } else { at * 7 + 40 }).collect()));
    let leaf = prop_oneof![
        20 => file,
        1 => long,
        2 => vec(b'a'..b'd', 1..4).prop_map(Node::Symlink),
        1 => (0u64..3).prop_map(Node::Device),
        1 => Just(Node::Fifo),
    ];
    leaf.prop_recursive(4, 60, 8, |inner| btree_map(names(), (metas(), inner), 0..8).prop_map(Node::Directory))
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof!["[a-f]", "[ab]{1,3}"].prop_map(String::into_bytes)
}

fn trees() -> impl Strategy<Value = (Meta, Node)> {
    let directory = btree_map(names(), (metas(), nodes()), 0..12).prop_map(Node::Directory);
    (metas(), prop_oneof![9 => directory, 1 => nodes()])
}

/// Some entries of a tree become others, go, or move into another directory.
fn edit(node: &Node, edits: &mut std::slice::Iter<'_, (u8, Meta, Node)>) -> Node {
    let Node::Directory(inner) = node else { return node.clone() };
    let mut result = Directory::new();
    for (name, (meta, node)) in inner {
        let node = edit(node, edits);
        match edits.next() {
            Some((0, ..)) => {}
            Some((1, other, _)) => drop(result.insert(name.clone(), (other.clone(), node))),
            Some((2, other, content)) => drop(result.insert(name.clone(), (other.clone(), content.clone()))),
            Some((3, other, content)) => {
                let mut renamed = name.clone();
                renamed.push(b'z');
                result.insert(renamed, (meta.clone(), node.clone()));
                result.insert([name, &b"y"[..]].concat(), (other.clone(), content.clone()));
            }
            _ => drop(result.insert(name.clone(), (meta.clone(), node))),
        }
    }
    Node::Directory(result)
}

fn edits() -> impl Strategy<Value = Vec<(u8, Meta, Node)>> {
    vec((0u8..12, metas(), nodes()), 0..80)
}

/// Encodes from `a` to `b`, applies it, and compares with what is stored.
fn there(world: &World, b: &Entry, a: Option<&Entry>) {
    let script = world.script(b, a);
    let (root, placed) = world.apply(&script, a).unwrap();
    assert_eq!(root, *b);
    let old = a.map_or_else(BTreeSet::new, |a| world.pages(a));
    let missing: Vec<_> = world.pages(b).difference(&old).filter(|page| !placed.contains(page)).cloned().collect();
    assert_eq!(missing, [], "pages that were not placed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_script_makes_the_second_tree_of_the_first(a in trees(), b in trees(), knows_a: bool) {
        let mut world = World::new();
        let a = world.root(&a.0, &a.1, None);
        let b = world.root(&b.0, &b.1, Some(&a).filter(|_| knows_a));

        there(&world, &b, Some(&a));
        there(&world, &a, Some(&b));
        there(&world, &b, None);
        there(&world, &b, Some(&b));
    }

    #[test]
    fn a_script_makes_an_edited_tree(a in trees(), edits in edits(), knows_a: bool, forgets_chunks: bool) {
        let mut world = World::new();
        let edited = edit(&a.1, &mut edits.iter());
        let a_root = world.root(&a.0, &a.1, None);
        if forgets_chunks {
            // The same content at other addresses, as when two machines have stored it.
            world.chunks.clear();
        }
        let b = world.root(&a.0, &edited, Some(&a_root).filter(|_| knows_a));

        there(&world, &b, Some(&a_root));
        there(&world, &a_root, Some(&b));
    }

    #[test]
    fn changes_are_what_differs(a in trees(), edits in edits()) {
        let mut world = World::new();
        let edited = edit(&a.1, &mut edits.iter());
        let (a, b) = (world.root(&a.0, &a.1, None), world.root(&a.0, &edited, None));
        let all = |root: &Entry| -> BTreeMap<Vec<u8>, Entry> {
            let below = root.page().map(|page| Walk::new(&*world.space, &page).collect::<Result<Vec<_>>>().unwrap());
            std::iter::once((Vec::new(), root.clone())).chain(below.unwrap_or_default()).collect()
        };
        let (old, new) = (all(&a), all(&b));
        let (mut named, mut removed) = (BTreeMap::new(), BTreeSet::new());

        changes(&&*world.space, &b, Some(&a), &mut |_| Ok(false), &mut |visit| {
            let (path, new, before) = match visit {
                Visit::Removed { path, old } => {
                    removed.insert(path.to_vec());
                    removed.extend(old.page().iter().flat_map(|page| {
                        Walk::new(&*world.space, page).map(|found| [path, b"/", &found.unwrap().0].concat())
                    }));
                    return Ok(());
                }
                Visit::File { path, new, old }
                | Visit::Other { path, new, old }
                | Visit::Directory { path, new, old }
                | Visit::Held { path, new, old } => (path, new, old),
            };
            assert!(named.insert(path.to_vec(), (new.clone(), before.cloned())).is_none());
            Ok(())
        }).unwrap();

        for (path, entry) in &new {
            let same = old.get(path) == Some(entry);
            prop_assert_eq!(named.contains_key(path), !same);
            if let Some((found, before)) = named.get(path) {
                prop_assert_eq!(found, entry);
                prop_assert_eq!(before.as_ref(), old.get(path).filter(|old| old.kind == entry.kind));
            }
        }
        let gone: BTreeSet<_> = old.keys().filter(|path| !new.contains_key(*path)).cloned().collect();
        prop_assert!(removed.is_superset(&gone));
        prop_assert!(removed.iter().all(|path| new.get(path).is_none_or(|new| new.kind != old[path].kind || named.contains_key(path))));
    }
}
