//! Laws of tree scripts, what a hostile one may try, and how few bytes an honest one takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::digest::{ContentDigest, digest};
use crate::ingest::tests::empty_space;
use crate::keys::{Digest, Keys, keyed};
use crate::lease::Lease;
use crate::page::{PageRef, encode_leaf};
use crate::space::Space;
use crate::table::Kind;
use crate::tree::{DirectoryBuilder, OldPages, PageBytes, PageSink, PageSource, Walk, verified};
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
    part_bytes: usize,
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
        World {
            _directory: directory,
            space,
            lease,
            chunks: HashMap::new(),
            pages: HashMap::new(),
            part_bytes: PART_BYTES,
        }
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
            mode: if meta.owner.is_multiple_of(2) { 0o644 } else { 0o755 },
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
        let mut encoder = Encoder::new(Arc::clone(&self.space), new, base, holds);
        encoder.part_bytes = self.part_bytes;
        parts(&mut encoder)
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
    fn a_script_makes_an_edited_tree(a in trees(), edits in edits(), knows_a: bool, forgets_chunks: bool, part_bytes in 1usize..300) {
        let mut world = World::new();
        world.part_bytes = part_bytes;
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

/// A directory of many pages: `count` names, some numbers left out, some files other than the rest.
fn many(count: u16, without: &BTreeSet<u16>, others: &BTreeMap<u16, u16>, with: &BTreeSet<u16>) -> Directory {
    let mut directory = Directory::new();
    for at in (0..count).filter(|at| !without.contains(at)) {
        let content = others.get(&at).map_or(at % 100, |other| 100 + other);
        directory.insert(format!("name {at:05}").into_bytes(), (Meta::default(), Node::File(vec![content])));
    }
    for at in with {
        let inner = Directory::from([(b"f".to_vec(), (Meta::default(), Node::File(vec![200 + at % 50])))]);
        directory.insert(format!("name {at:05}d").into_bytes(), (Meta::default(), Node::Directory(inner)));
    }
    directory
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_of_many_pages_is_rebuilt_page_by_page(
        counts in (0u16..6000, 0u16..6000),
        without in proptest::collection::btree_set(0u16..6000, 0..6),
        others in btree_map(0u16..6000, 1u16..50, 0..6),
        with in proptest::collection::btree_set(0u16..6000, 0..4),
        part_bytes in prop_oneof![Just(PART_BYTES), 1usize..2000],
        grows: bool,
    ) {
        let mut world = World::new();
        world.part_bytes = part_bytes;
        let after = if grows { counts.1 } else { counts.0 };
        let a = world.tree(&many(counts.0, &BTreeSet::new(), &BTreeMap::new(), &BTreeSet::new()), None);
        let b = world.tree(&many(after, &without, &others, &with), Some(&a));

        there(&world, &b, Some(&a));
        there(&world, &a, Some(&b));
        there(&world, &b, None);
    }

    #[test]
    fn any_bytes_are_a_part_or_an_error(parts in vec(vec(any::<u8>(), 0..60), 1..4)) {
        let mut world = World::new();
        let a = world.tree(&many(40, &BTreeSet::new(), &BTreeMap::new(), &BTreeSet::new()), None);
        let mut applier = Applier::new(&world.space, Some(&a)).unwrap();

        for part in parts {
            let done = applier.part(&part, &mut |_, _, _| Ok(()));
            prop_assert!(done.is_ok() || applier.part(&part, &mut |_, _, _| Ok(())).is_err());
        }
    }

    #[test]
    fn a_changed_script_makes_a_sound_tree_or_an_error(
        a in trees(),
        edits in edits(),
        changed in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut world = World::new();
        let edited = edit(&a.1, &mut edits.iter());
        let a_root = world.root(&a.0, &a.1, None);
        let b = world.root(&a.0, &edited, Some(&a_root));
        let mut script = world.script(&b, Some(&a_root));
        for (at, byte) in changed {
            let at = at.index(script[0].len());
            script[0][at] = byte;
        }

        let mut applier = Applier::new(&world.space, Some(&a_root)).unwrap();
        let mut pages = HashMap::new();
        let done = applier.part(&script[0], &mut |address, bytes, _| {
            pages.insert(address, bytes.to_vec());
            Ok(())
        });

        if let Ok(root) = done.and_then(|()| applier.finish()) {
            prop_assert!(crate::page::encode_root(&root, world.space.keys()).is_ok());
            prop_assert!(pages.values().all(|page| crate::page::decode(page).is_ok()));
        }
    }
}

fn file(numbers: &[u16]) -> (Meta, Node) {
    (Meta::default(), Node::File(numbers.to_vec()))
}

fn directory<const N: usize>(inner: [(&str, (Meta, Node)); N]) -> Directory {
    inner.map(|(name, node)| (name.as_bytes().to_vec(), node)).into()
}

fn inside(inner: Directory) -> (Meta, Node) {
    (Meta::default(), Node::Directory(inner))
}

/// What a peer would send who says that everything is held.
fn pointing(world: &World, new: &Entry, base: Option<&Entry>) -> Vec<Vec<u8>> {
    parts(&mut Encoder::new(&*world.space, new, base, |page: &PageRef| Ok(Some(*page) != new.page())))
}

/// A root with one directory in it, whose page is `page`.
fn root_of(world: &mut World, page: PageRef) -> Entry {
    let inner = Entry {
        name: b"d".to_vec(),
        kind: EntryKind::Directory,
        content: Content::Directory(page),
        ..Entry::default()
    };
    let mut builder = DirectoryBuilder::new(world.space.keys(), OldPages::none());
    builder.push(inner.clone(), world).unwrap();
    let root = builder.finish(world).unwrap();
    let committed = world.lease.sync().unwrap();
    world.space.admit(&[committed]).unwrap();
    Entry { name: Vec::new(), content: Content::Directory(root), ..inner }
}

#[test]
fn bytes_of_a_file_that_look_like_a_page_are_refused() {
    let mut world = World::new();
    let keys = world.space.keys().clone();
    let page = encode_leaf(&[Entry { name: b"f".to_vec(), kind: EntryKind::Fifo, ..Entry::default() }], &keys).unwrap();
    for (kind, is_accepted) in [(Kind::Tree, true), (Kind::Data, false), (Kind::Journal, false)] {
        let address = world.lease.append_chunk(&page.bytes, kind).unwrap();
        let page = PageRef { address, length: page.bytes.len() as u32, digest: page.digest };
        let root = root_of(&mut world, page);

        let applied = world.apply(&pointing(&world, &root, None), None);

        assert_eq!(applied.is_ok(), is_accepted);
        assert!(is_accepted || matches!(applied, Err(Error::Refused(_))), "{applied:?}");
    }
}

#[test]
fn a_directory_that_is_pointed_at_is_what_it_says_down_to_the_last_file() {
    let mut world = World::new();
    let keys = world.space.keys().clone();
    let sound = world.entry(b"f", &Meta::default(), &Node::File(vec![1, 0, 2]), None);
    let tree = world.entry(b"t", &Meta::default(), &inside(directory([])).1, None);
    let page_of_tree = tree.page().unwrap();
    let extent = |address, length| Content::Extents(vec![Extent { address, length }]);
    let Content::Extents(extents) = &sound.content else { panic!("not inline") };
    let first = extents[0];
    let wrong = [
        Entry { digest: [1; 32], ..sound.clone() },
        Entry { size: first.length, content: extent(first.address, first.length), ..sound.clone() },
        Entry { size: 3, content: extent(first.address, 3), ..sound.clone() },
        Entry { size: 1, content: extent(crate::address::segment_start(77), 1), ..sound.clone() },
        Entry {
            size: page_of_tree.length.into(),
            content: extent(page_of_tree.address, page_of_tree.length.into()),
            ..sound.clone()
        },
    ];
    for (at, entry) in std::iter::once(&sound).chain(&wrong).enumerate() {
        let leaf = encode_leaf(std::slice::from_ref(entry), &keys).unwrap();
        let (address, length) = PageSink::store(&mut world, &leaf.bytes, &leaf.digest).unwrap();
        let inner = root_of(&mut world, PageRef { address, length, digest: leaf.digest });
        let root = root_of(&mut world, inner.page().unwrap());

        let pointed = world.apply(&pointing(&world, &root, None), None);
        let told = world.apply(&world.script(&root, None), None);

        assert_eq!(pointed.is_ok(), at == 0, "{at}: {pointed:?}");
        // A digest does not travel, so a wrong one is not what comes out.
        assert_eq!(told.is_ok_and(|(made, _)| made == root), at == 0, "{at}");
    }
}

#[test]
fn a_tree_of_more_paths_than_can_be_walked_is_accepted_once() {
    let mut world = World::new();
    let mut inner = world.entry(b"a", &Meta::default(), &inside(directory([("f", file(&[1]))])).1, None);
    for _ in 0..100 {
        let mut builder = DirectoryBuilder::new(world.space.keys(), OldPages::none());
        builder.push(Entry { name: b"a".to_vec(), ..inner.clone() }, &mut world).unwrap();
        builder.push(Entry { name: b"b".to_vec(), ..inner.clone() }, &mut world).unwrap();
        inner.content = Content::Directory(builder.finish(&mut world).unwrap());
    }
    let root = root_of(&mut world, inner.page().unwrap());

    let (made, _) = world.apply(&pointing(&world, &root, None), None).unwrap();

    assert_eq!(made, root);
}

#[test]
fn a_tree_is_as_deep_as_it_is() {
    let mut world = World::new();
    let mut page = world.store(&directory([("f", file(&[1]))]), None);
    for _ in 0..3000 {
        page = root_of_quick(&mut world, page);
    }
    let root = root_of(&mut world, page);

    there(&world, &root, None);
}

fn root_of_quick(world: &mut World, page: PageRef) -> PageRef {
    let entry = Entry {
        name: b"d".to_vec(),
        kind: EntryKind::Directory,
        content: Content::Directory(page),
        ..Entry::default()
    };
    let mut builder = DirectoryBuilder::new(world.space.keys(), OldPages::none());
    builder.push(entry, world).unwrap();
    builder.finish(world).unwrap()
}

#[test]
fn a_script_that_only_opens_directories_is_refused() {
    let world = World::new();
    let mut applier = Applier::new(&world.space, None).unwrap();
    let count = 10_000;
    let mut part = Vec::new();
    crate::varint::put(0b11101, &mut part);
    [0; 3].iter().for_each(|_| crate::varint::put(count as u64, &mut part));
    part.extend(
        vec![op::ENTER_NEW; count].into_iter().chain(vec![0; count]).chain(vec![1; count]).chain(vec![b'a'; count]),
    );

    let refused = (0..10).map(|_| applier.part(&part, &mut |_, _, _| Ok(()))).find(Result::is_err);

    assert!(matches!(refused, Some(Err(Error::Refused(_)))), "{refused:?}");
}

#[test]
fn an_incomplete_script_has_no_root() {
    let mut world = World::new();
    world.part_bytes = 1;
    let a = world.tree(&directory([("d", inside(directory([("f", file(&[1])), ("g", file(&[2]))])))]), None);
    let script = world.script(&a, None);
    assert!(script.len() > 2);

    for count in 0..script.len() {
        assert!(world.apply(&script[..count], None).is_err());
    }
    let twice: Vec<_> = script.iter().chain(&script).cloned().collect();
    assert!(world.apply(&twice, None).is_err());
    assert_eq!(world.apply(&script, None).unwrap().0, a);
}

#[test]
fn what_place_says_ends_the_script() {
    let mut world = World::new();
    let a = world.tree(&directory([("f", file(&[1]))]), None);
    let script = world.script(&a, None);
    let mut applier = Applier::new(&world.space, None).unwrap();

    let stopped = applier.part(&script[0], &mut |_, _, _| Err(Error::Refused("no".into())));

    assert!(matches!(stopped, Err(Error::Refused(what)) if what == "no"));
    assert!(applier.finish().is_err());
}

/// A volume that keeps pages and only counts data: what a script says of large files is known without storing them.
#[derive(Default)]
struct Ledger {
    pages: BTreeMap<Address, Vec<u8>>,
    head: Address,
}

impl Ledger {
    fn new() -> Ledger {
        Ledger { pages: BTreeMap::new(), head: crate::address::segment_start(9) }
    }

    fn take(&mut self, length: u64) -> Extent {
        let left = crate::address::SEGMENT_BYTES - u64::from(crate::address::offset_of(self.head));
        if left < length {
            self.head += left;
        }
        let extent = Extent { address: self.head, length };
        self.head += length;
        extent
    }
}

impl PageSink for Ledger {
    fn store(&mut self, bytes: &[u8], _digest: &Digest) -> Result<(Address, u32)> {
        let extent = self.take(bytes.len() as u64);
        self.pages.insert(extent.address, bytes.to_vec());
        Ok((extent.address, bytes.len() as u32))
    }
}

impl PageSource for Ledger {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        verified(self.bytes(page.extent())?, page, &ledger_keys())
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        let bytes = self.pages.get(&extent.address).cloned();
        bytes.map(PageBytes::new).ok_or_else(|| Error::Damaged("no page".into()))
    }
}

fn ledger_keys() -> Keys {
    Keys::from_secret(&[7; 32])
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }
}

struct Leaf {
    mtime_ns: i64,
    extents: Vec<Extent>,
    size: u64,
}

/// Files by directory by directory: the shape of a source tree.
type Sources = BTreeMap<String, BTreeMap<String, BTreeMap<String, Leaf>>>;

/// 9,034 files in 903 directories; names of syllables, sizes from some hundred bytes to some ten thousand.
fn sources(dice: &mut Dice, mut mtime: impl FnMut(&mut Dice) -> i64) -> Sources {
    const SYLLABLES: [&str; 24] = [
        "con", "fig", "test", "net", "core", "util", "map", "ser", "ver", "file", "path", "in", "put", "re", "qu",
        "est", "hand", "ler", "mod", "el", "view", "data", "base", "time",
    ];
    let name = |dice: &mut Dice, end: &str| {
        let mut name: String = (0..2 + dice.throw(3)).map(|_| SYLLABLES[dice.throw(24) as usize]).collect();
        if dice.throw(3) == 0 {
            name += &format!("_{}", dice.throw(40));
        }
        name + end
    };
    let (mut tree, mut left) = (Sources::new(), 9034);
    while left > 0 {
        let top = tree.entry(name(dice, "")).or_default();
        for _ in 0..30 {
            let inner = top.entry(name(dice, "")).or_default();
            for _ in 0..10 + dice.throw(2) {
                let end = [".py", ".c", ".h", ".txt", ".json"][dice.throw(5) as usize];
                let size = (200 << dice.throw(8)) + dice.throw(200);
                let leaf = Leaf { mtime_ns: mtime(dice), extents: Vec::new(), size };
                if left > 0 && inner.insert(name(dice, end), leaf).is_none() {
                    left -= 1;
                }
            }
        }
    }
    tree
}

fn a_directory(name: &str, page: PageRef, mtime_ns: i64) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        kind: EntryKind::Directory,
        mode: 0o755,
        uid: 1000,
        gid: 1000,
        user: b"builder".to_vec(),
        group: b"builder".to_vec(),
        mtime_ns,
        content: Content::Directory(page),
        ..Entry::default()
    }
}

/// Stores a tree as ingest does: what has no extents yet is new.
fn keep(ledger: &mut Ledger, tree: &mut Sources, old: Option<&Entry>) -> Entry {
    let builder = |ledger: &Ledger, old: Option<PageRef>| {
        let pages = old.map_or_else(OldPages::none, |page| OldPages::of(ledger, &page).unwrap());
        DirectoryBuilder::new(&ledger_keys(), pages)
    };
    let below = |ledger: &Ledger, page: Option<PageRef>, name: &str| {
        page.and_then(|page| crate::tree::lookup(ledger, &page, name.as_bytes()).unwrap()).and_then(|one| one.page())
    };
    let old_root = old.and_then(Entry::page);
    let mut root = builder(ledger, old_root);
    for (at, (name, middle)) in tree.iter_mut().enumerate() {
        let old_top = below(ledger, old_root, name);
        let mut top = builder(ledger, old_top);
        for (name, files) in middle.iter_mut() {
            let mut inner = builder(ledger, below(ledger, old_top, name));
            for (name, leaf) in files.iter_mut() {
                if leaf.extents.is_empty() {
                    leaf.extents.push(ledger.take(leaf.size));
                }
                let entry = Entry {
                    kind: EntryKind::File,
                    mode: 0o644,
                    size: leaf.size,
                    digest: keyed(&[5; 32], &leaf.extents[0].address.to_le_bytes()),
                    content: Content::Extents(leaf.extents.clone()),
                    ..a_directory(name, PageRef { address: 1, length: 0, digest: [0; 32] }, leaf.mtime_ns)
                };
                inner.push(entry, ledger).unwrap();
            }
            let page = inner.finish(ledger).unwrap();
            top.push(a_directory(name, page, 1_700_000_000_123_456_789), ledger).unwrap();
        }
        let page = top.finish(ledger).unwrap();
        root.push(a_directory(name, page, 1_700_000_000_000_000_000 + at as i64 * 1_000_003), ledger).unwrap();
    }
    let page = root.finish(ledger).unwrap();
    a_directory("", page, 1_700_000_100_000_000_000)
}

/// Bytes of a script, before and after zstd level 3.
fn measured(
    ledger: &Ledger,
    new: &Entry,
    base: Option<&Entry>,
    holds: impl FnMut(&PageRef) -> Result<bool>,
) -> [usize; 2] {
    let parts = parts(&mut Encoder::new(ledger, new, base, holds));
    let coded = |part: &Vec<u8>| {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(part.len()));
        zstd_safe::compress(&mut out, part, 3).unwrap()
    };
    [parts.iter().map(Vec::len).sum(), parts.iter().map(coded).sum()]
}

/// Times of a tree that was written file by file: a few dozen microseconds apart.
fn written(start_s: i64) -> impl FnMut(&mut Dice) -> i64 {
    let mut now = start_s * 1_000_000_000;
    move |dice| {
        now += 30_000 + dice.throw(300_000) as i64;
        now
    }
}

#[test]
fn ninety_changed_files_are_little() {
    let (mut ledger, mut dice) = (Ledger::new(), Dice(1));
    let mut tree = sources(&mut dice, written(1_690_000_000));
    let a = keep(&mut ledger, &mut tree, None);
    let mut clock = written(1_700_000_000);
    let directories = tree.values_mut().flat_map(BTreeMap::values_mut);
    for files in directories.step_by(10).take(90) {
        let at = dice.throw(files.len() as u64) as usize;
        let leaf = files.values_mut().nth(at).unwrap();
        *leaf = Leaf { mtime_ns: clock(&mut dice), extents: Vec::new(), size: leaf.size + 28 };
    }
    let b = keep(&mut ledger, &mut tree, Some(&a));

    let [raw, coded] = measured(&ledger, &b, Some(&a), |_| Ok(false));

    assert!(coded <= 600, "{raw} bytes, coded {coded}");
}

#[test]
fn a_touch_of_all_files_is_little() {
    let (mut ledger, mut dice) = (Ledger::new(), Dice(2));
    let mut tree = sources(&mut dice, written(1_690_000_000));
    let a = keep(&mut ledger, &mut tree, None);
    let mut now = 1_700_000_000_123_456_789;
    for leaf in tree.values_mut().flat_map(BTreeMap::values_mut).flat_map(BTreeMap::values_mut) {
        if dice.throw(200) == 0 {
            now += 4_000_000 + dice.throw(4000) as i64;
        }
        leaf.mtime_ns = now;
    }
    let b = keep(&mut ledger, &mut tree, Some(&a));

    let [raw, coded] = measured(&ledger, &b, Some(&a), |_| Ok(false));

    assert!(coded <= 2 << 10, "{raw} bytes, coded {coded}");
}

#[test]
fn a_renamed_directory_is_a_few_bytes() {
    let (mut ledger, mut dice) = (Ledger::new(), Dice(3));
    let mut tree = sources(&mut dice, written(1_690_000_000));
    let a = keep(&mut ledger, &mut tree, None);
    let mut b = a.clone();
    let page = a.page().unwrap();
    let mut entries: Vec<_> = crate::tree::Entries::new(&ledger, &page).collect::<Result<_>>().unwrap();
    entries[3].name = b"another name".to_vec();
    entries.sort_by(|x, y| x.name.cmp(&y.name));
    let mut builder = DirectoryBuilder::new(&ledger_keys(), OldPages::of(&ledger, &page).unwrap());
    entries.into_iter().for_each(|entry| builder.push(entry, &mut ledger).unwrap());
    b.content = Content::Directory(builder.finish(&mut ledger).unwrap());
    b.mtime_ns = 1_710_000_000_987_654_321;

    let [raw, coded] = measured(&ledger, &b, Some(&a), |page| Ok(page.digest != b.page().unwrap().digest));

    assert!(raw.min(coded) <= 60, "{raw} bytes, coded {coded}");
}

#[test]
fn a_first_copy_says_names_sizes_and_times() {
    for (what, is_written, most) in [("written", true, 112_000), ("unpacked", false, 76_000)] {
        let (mut ledger, mut dice) = (Ledger::new(), Dice(4));
        let mut clock = written(1_690_000_000);
        let time = |dice: &mut Dice| if is_written { clock(dice) } else { 1_690_000_000_000_000_000 };
        let mut tree = sources(&mut dice, time);
        let b = keep(&mut ledger, &mut tree, None);

        let [raw, coded] = measured(&ledger, &b, None, |_| Ok(false));

        assert!(coded <= most, "{what}: {raw} bytes, coded {coded}");
    }
}

#[test]
fn edits_inside_a_large_file_are_told_by_what_is_around_them() {
    let mut ledger = Ledger::new();
    let entry = |extents: Vec<Extent>| Entry {
        size: extents.iter().map(|extent| extent.length).sum(),
        kind: EntryKind::File,
        digest: keyed(&[5; 32], &extents.len().to_le_bytes()),
        content: Content::Extents(extents),
        ..a_directory("image", PageRef { address: 1, length: 0, digest: [0; 32] }, 1)
    };
    let mut dice = Dice(5);
    let old: Vec<Extent> = (0..4).map(|_| ledger.take(64 << 20)).collect();
    let mut new = Vec::new();
    for extent in &old {
        let mut at = *extent;
        for _ in 0..25 {
            let before = (1 << 20) + dice.throw(1 << 20);
            new.push(Extent { length: before, ..at });
            let length = 20_000 + dice.throw(60_000);
            new.push(ledger.take(length));
            at = Extent { address: at.address + before + length, length: at.length - before - length };
        }
        new.push(at);
    }
    let (a, b) = (entry(old), entry(new));

    let [raw, coded] = measured(&ledger, &b, Some(&a), |_| Ok(false));

    assert!(raw.min(coded) <= 720, "{raw} bytes, coded {coded}");
}

#[test]
fn a_sparse_replica_takes_a_tree_without_its_data() {
    let (mut origin, mut replica) = (World::new(), World::new());
    // The replica has the list object, as the literals before a tree bring it, and none of the data.
    let long: Vec<u16> = (0..600).map(|at| if at % 2 == 0 { 1 } else { at * 7 + 40 }).collect();
    let a = origin.tree(&directory([("f", file(&[1, 2])), ("g", file(&[])), ("long", file(&long))]), None);
    let listed = crate::tree::lookup(&*origin.space, &a.page().unwrap(), b"long").unwrap().unwrap();
    let Content::Listed { list, .. } = &listed.content else { panic!("not listed") };
    let gap = u64::from(crate::address::offset_of(list[0].address));
    for _ in 0..gap {
        replica.lease.append(&[0], &[(1, Kind::Tree, digest(&origin.space.keys().digest, &[0]))]).unwrap();
    }
    for part in list {
        let bytes = origin.space.read(*part).unwrap();
        assert_eq!(replica.lease.append_chunk(&bytes, Kind::Tree).unwrap(), part.address);
    }
    let committed = replica.lease.sync().unwrap();
    replica.space.admit(&[committed]).unwrap();
    let mut asked = Vec::new();
    let mut encoder = Encoder::new(&*origin.space, &a, None, |_: &PageRef| Ok(false));
    let (tell, told) = std::sync::mpsc::channel();
    encoder = encoder.telling_digests(move |path, _| {
        tell.send(path.to_vec()).unwrap();
        Ok(true)
    });
    let script = parts(&mut encoder);
    drop(encoder);
    asked.extend(told);

    let apply = |mut applier: Applier| {
        script.iter().try_for_each(|part| applier.part(part, &mut |_, _, _| Ok(()))).and_then(|()| applier.finish())
    };

    assert_eq!(apply(Applier::new(&replica.space, None).unwrap().sparse()).unwrap(), a);
    assert!(matches!(apply(Applier::new(&replica.space, None).unwrap()), Err(Error::Refused(_))));
    assert_eq!(asked, [&b"f"[..], b"long"]);
}

/// Two trees that need everything a script can say.
fn all_kinds() -> (World, Entry, Entry) {
    let mut world = World::new();
    let meta = |mtime_ns, owner| Meta { mtime_ns, owner, ..Meta::default() };
    let moved = || inside(directory([("m", file(&[30])), ("n", file(&[31]))]));
    let mut first = directory([
        ("changed", inside(directory([("f", file(&[1, 2, 3, 4])), ("gone", file(&[5])), ("kept", file(&[6]))]))),
        ("dup", file(&[7])),
        ("elsewhere", inside(directory([("f", file(&[8]))]))),
        ("old name", moved()),
        ("x", file(&[9])),
    ]);
    let a = world.root(&meta(1_700_000_000_000_000_000, 0), &Node::Directory(first.clone()), None);
    world.chunks.remove(&8);
    let long: Vec<u16> = (0..600).map(|at| if at % 2 == 0 { 1 } else { at * 7 + 40 }).collect();
    first.extend(directory([
        ("changed", inside(directory([("f", file(&[1, 2, 20, 4, 0])), ("kept", file(&[6]))]))),
        ("device", (meta(-1, 4), Node::Device(0x0103))),
        ("dup2", file(&[7, 21, 22])),
        ("fifo", (meta(5, 8), Node::Fifo)),
        ("link", (meta(1_700_000_001_000_000_005, 0), Node::Symlink(b"x".to_vec()))),
        ("long", file(&long)),
        ("name", moved()),
        ("x", (Meta { mtime_ns: 7, owner: 9, link_id: 77, xattr: 3 }, Node::File(vec![9]))),
        ("z", inside(directory([("empty", file(&[])), ("new", file(&[23]))]))),
    ]));
    first.extend((0..40).map(|at| (format!("y{at:02}").into_bytes(), file(&[40 + at]))));
    first.remove(&b"old name"[..]);
    // As a machine stores it that does not know of the first: what means the same lies elsewhere.
    let b = world.root(&meta(1_700_000_002_123_456_789, 0), &Node::Directory(first), None);
    (world, a, b)
}

/// tests/golden/tree-script-v1.bin: never edited, read by every version after.
#[test]
fn a_script_of_version_1_is_the_golden_one() {
    let (world, a, b) = all_kinds();
    let script = world.script(&b, Some(&a));
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tree-script-v1.bin");

    assert_eq!(script.len(), 1);
    assert_eq!(script[0], std::fs::read(golden).unwrap());
    assert_eq!(world.apply(&script, Some(&a)).unwrap().0, b);
    let column = |column: Column| apply::tests::column(&script[0], column);
    let ops: BTreeSet<u8> = column(Column::Ops).iter().map(|byte| byte & 7).collect();
    assert_eq!(ops, (0..8).collect());
    let ways: BTreeSet<u8> = column(Column::Ways).iter().map(|way| way & !way::LAST).collect();
    assert_eq!(ways, [0, 1, 2, 3, 8].into());
    let empty: Vec<usize> = (0..COLUMNS).filter(|&at| apply::tests::column_at(&script[0], at).is_empty()).collect();
    assert_eq!(empty, [Column::Digests as usize]);
}

/// Grants a segment of its own to each ingest.
struct Granter(Arc<Space>, u64);

impl crate::ingest::Host for Granter {
    fn grant(&mut self, full: Option<crate::ingest::LeaseHandle>) -> Result<crate::ingest::LeaseHandle> {
        assert!(full.is_none());
        self.1 += 1;
        Ok(Arc::new(std::sync::Mutex::new(Lease::open(&self.0, self.1, 0, 0, true, false)?.unwrap())))
    }

    fn progress(&mut self, _progress: &crate::ingest::Progress) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_an_ingest_stored_is_where_it_is_expected() {
    let mut world = World::new();
    let sources = tempfile::tempdir().unwrap();
    let write = |path: String, bytes: &[u8]| {
        let path = sources.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let noise = |seed: usize, length: usize| {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    (0..300).for_each(|at| write(format!("d{}/e{}/f{at}", at % 5, at % 30), &noise(at, 100 + 37 * at)));
    (0..1500).for_each(|at| write(format!("many/f{at}"), &noise(1000 + at, 1 + at % 90)));
    write("large".into(), &noise(7, 5 << 20));
    let mut host = Granter(Arc::clone(&world.space), 1);
    let mut push = |world: &mut World, previous: Option<&Entry>| {
        let options = crate::ingest::Options {
            prior: None,
            next: None,
            previous: previous.and_then(Entry::page),
            clean_before_ns: 0,
            clean_device: 0,
            selection: crate::select::Selection::default(),
            keep_pages: false,
            dry_run: false,
        };
        let source = crate::ingest::Source { path: sources.path().to_path_buf(), name: None };
        let ingested = crate::ingest::ingest(&world.space, &[source], &options, &mut host).unwrap();
        let committed = ingested.lease.unwrap().lock().unwrap().sync().unwrap();
        world.space.admit(&[committed]).unwrap();
        crate::page::decode_root(&ingested.root).unwrap()
    };

    let a = push(&mut world, None);
    (0..30).for_each(|at| write(format!("d{}/e{at}/f{at}", at % 5), &noise(5000 + at, 200)));
    write("many/f700".into(), b"other");
    let mut large = noise(7, 5 << 20);
    large[3_000_000..][..1000].fill(7);
    write("large".into(), &large);
    std::fs::rename(sources.path().join("d0/e5"), sources.path().join("d1/moved")).unwrap();
    std::fs::remove_file(sources.path().join("many/f1")).unwrap();
    let b = push(&mut world, Some(&a));

    for (new, base, unexpected) in [(&b, Some(&a), 6), (&b, None, 60), (&a, None, 2)] {
        there(&world, new, base);
        let script = world.script(new, base);
        assert_eq!(script.len(), 1);
        let places = apply::tests::column(&script[0], Column::Places);
        let surprises = places.iter().filter(|&&byte| byte != 0).count();
        assert!(places.len() > 30 && surprises <= unexpected, "{places:?}");
    }
}
