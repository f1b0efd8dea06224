//! Laws of trees, over a source in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::address::segment_start;
use crate::page::EntryKind;
use crate::page::tests::keys;

/// Pages in memory; counts what is stored and read.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) pages: RefCell<BTreeMap<Address, Vec<u8>>>,
    pub(crate) read: RefCell<usize>,
    pub(crate) stored: usize,
    next: Address,
}

impl Memory {
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Extent {
        let address = segment_start(1 + self.next / SEGMENT) + self.next % SEGMENT;
        self.next += bytes.len() as u64 + 1;
        self.pages.borrow_mut().insert(address, bytes.to_vec());
        Extent { address, length: bytes.len() as u64 }
    }

    fn held(&self, extent: Extent) -> Result<PageBytes> {
        *self.read.borrow_mut() += 1;
        let pages = self.pages.borrow();
        let bytes = pages.get(&extent.address).filter(|bytes| bytes.len() as u64 == extent.length);
        bytes.cloned().map(PageBytes::new).ok_or_else(|| Error::Damaged("it is not there".into()))
    }
}

/// Half a segment, so that nothing in it comes near its end.
const SEGMENT: u64 = 1 << 25;

impl PageSink for Memory {
    fn store(&mut self, bytes: &[u8], _digest: &Digest) -> Result<(Address, u32)> {
        self.stored += 1;
        Ok((self.put(bytes).address, bytes.len() as u32))
    }
}

impl PageSource for Memory {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        verified(self.held(page.extent())?, page, &keys())
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        self.held(extent)
    }
}

/// A file whose content, digest and place follow from `content`; empty if that is 0.
pub(crate) fn file(name: &[u8], content: u64) -> Entry {
    let stored = Extent { address: segment_start(1000) + content * 100, length: content };
    Entry {
        name: name.to_vec(),
        mode: 0o644,
        size: content,
        digest: keyed(&[1; 32], &content.to_le_bytes()),
        content: Content::Extents(if content == 0 { vec![] } else { vec![stored] }),
        ..Entry::default()
    }
}

pub(crate) fn directory(name: &[u8], page: PageRef) -> Entry {
    Entry { name: name.to_vec(), kind: EntryKind::Directory, content: Content::Directory(page), ..Entry::default() }
}

pub(crate) fn build(memory: &mut Memory, old: OldPages, entries: impl IntoIterator<Item = Entry>) -> PageRef {
    let mut builder = DirectoryBuilder::new(&keys(), old);
    entries.into_iter().for_each(|entry| builder.push(entry, memory).unwrap());
    builder.finish(memory).unwrap()
}

fn numbered(count: u64) -> impl Iterator<Item = Entry> + Clone {
    (0..count).map(|at| file(format!("name {at:07}").as_bytes(), at % 50))
}

#[test]
fn a_directory_of_any_size_comes_back_in_order() {
    for count in [0, 1, 31, 32, 33, 300, 2000, 30_000] {
        let mut memory = Memory::default();

        let root = build(&mut memory, OldPages::none(), numbered(count));

        let found: Vec<Entry> = Entries::new(&memory, &root).collect::<Result<_>>().unwrap();
        assert!(found.into_iter().eq(numbered(count)), "{count} entries");
    }
}

#[test]
fn pages_have_about_256_entries_and_few_parents() {
    let mut memory = Memory::default();

    let root = build(&mut memory, OldPages::none(), numbered(200_000));

    let pages = leaves(&memory, &root).unwrap().unwrap().len();
    assert!((500..1000).contains(&pages), "{pages} leaves");
    assert!(memory.stored - pages < 30, "{} nodes", memory.stored - pages);
}

#[test]
fn an_empty_directory_is_one_empty_leaf() {
    let mut memory = Memory::default();

    let root = build(&mut memory, OldPages::none(), []);

    assert_eq!(page::decode(&memory.page(&root).unwrap()).unwrap(), Page::Leaf(vec![]));
    assert_eq!(memory.stored, 1);
}

#[test]
fn one_changed_entry_stores_one_page_a_level() {
    let mut memory = Memory::default();
    let root = build(&mut memory, OldPages::none(), numbered(30_000));
    let old = OldPages::of(&memory, &root).unwrap();
    memory.stored = 0;

    let changed =
        numbered(30_000).map(|entry| if entry.name.ends_with(b"17171") { file(&entry.name, 77) } else { entry });
    let new = build(&mut memory, old, changed);

    assert!(memory.stored <= 3, "{} pages", memory.stored);
    assert_eq!(lookup(&memory, &new, b"name 0017171").unwrap(), Some(file(b"name 0017171", 77)));
}

#[test]
fn one_inserted_or_removed_entry_stores_few_pages() {
    for (at, leaves_out) in [(3, true), (14_000, true), (3, false), (14_000, false), (29_999, false)] {
        let mut memory = Memory::default();
        let root = build(&mut memory, OldPages::none(), numbered(30_000));
        let old = OldPages::of(&memory, &root).unwrap();
        memory.stored = 0;

        let inserted = |entry: Entry| [entry.clone(), file(&[&entry.name[..], b"!"].concat(), 5)];
        let changed = numbered(30_000).enumerate().flat_map(|(place, entry)| match place == at {
            true if leaves_out => vec![],
            true => inserted(entry).to_vec(),
            false => vec![entry],
        });
        build(&mut memory, old, changed);

        assert!(memory.stored <= 6, "{} pages", memory.stored);
    }
}

#[test]
fn the_same_meaning_at_other_addresses_keeps_its_old_pages() {
    let mut memory = Memory::default();
    let root = build(&mut memory, OldPages::none(), numbered(3000));
    let old = OldPages::of(&memory, &root).unwrap();
    memory.stored = 0;

    let moved = numbered(3000).map(|mut entry| {
        if let Content::Extents(extents) = &mut entry.content {
            extents.iter_mut().for_each(|extent| extent.address += 1 << 30);
        }
        entry
    });
    let again = build(&mut memory, old, moved);

    assert_eq!((again, memory.stored), (root, 0));
}

#[test]
fn a_name_out_of_order_is_refused_also_where_a_page_begins() {
    for first in numbered(600).map(|entry| entry.name) {
        let mut memory = Memory::default();
        let mut builder = DirectoryBuilder::new(&keys(), OldPages::none());
        numbered(600)
            .take_while(|entry| entry.name <= first)
            .for_each(|entry| builder.push(entry, &mut memory).unwrap());

        let wrong = builder.push(file(&first, 1), &mut memory).and_then(|()| builder.finish(&mut memory).map(drop));

        assert!(matches!(wrong, Err(Error::Invalid(_))));
    }
}

#[test]
fn a_name_is_found_by_reading_one_page_a_level() {
    let mut memory = Memory::default();
    let root = build(&mut memory, OldPages::none(), numbered(30_000));
    for entry in numbered(30_000).step_by(97) {
        memory.read.replace(0);

        assert_eq!(lookup(&memory, &root, &entry.name).unwrap(), Some(entry));
        assert!(*memory.read.borrow() <= 3);
    }
    for absent in [&b""[..], b"a", b"name", b"name 0000000 ", b"name 0029999!", b"zzz", b"name 3"] {
        assert_eq!(lookup(&memory, &root, absent).unwrap(), None);
    }
}

#[test]
fn a_path_is_followed_through_directories() {
    let mut memory = Memory::default();
    let inner = build(&mut memory, OldPages::none(), [file(b"f", 3)]);
    let root = build(&mut memory, OldPages::none(), [directory(b"d", inner), file(b"g", 4)]);

    assert_eq!(lookup_path(&memory, &root, b"d/f").unwrap(), Some(file(b"f", 3)));
    assert_eq!(lookup_path(&memory, &root, b"/d//").unwrap(), Some(directory(b"d", inner)));
    for absent in [&b"g/f"[..], b"d/g", b"", b"/", b"d/../g", b"./g"] {
        assert_eq!(lookup_path(&memory, &root, absent).unwrap(), None);
    }
}

#[test]
fn a_walk_goes_as_deep_as_a_tree_does() {
    let mut memory = Memory::default();
    let mut root = build(&mut memory, OldPages::none(), [file(b"f", 3)]);
    for _ in 0..5000 {
        root = build(&mut memory, OldPages::none(), [directory(b"d", root)]);
    }

    let last = Walk::new(&memory, &root).last().unwrap().unwrap();

    assert_eq!(last, (["d/".repeat(5000).as_bytes(), b"f"].concat(), file(b"f", 3)));
}

/// A source that believes: what a peer may do who has the keys.
struct Believing<'a>(&'a Memory);

impl PageSource for Believing<'_> {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        self.0.held(page.extent())
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        self.0.held(extent)
    }
}

#[test]
fn pages_that_do_not_fit_together_are_refused() {
    let mut memory = Memory::default();
    let leaf = |memory: &mut Memory, first: &[u8]| {
        build(memory, OldPages::none(), [file(first, 1), file(&[first, b"z"].concat(), 1)])
    };
    let (a, b) = (leaf(&mut memory, b"a"), leaf(&mut memory, b"b"));
    let mut node = |level, children: &[(&[u8], PageRef)]| {
        let children: Vec<_> = children.iter().map(|&(first, page)| Child { first: first.to_vec(), page }).collect();
        let page = page::encode_node(level, &children, &keys()).unwrap();
        let (address, length) = memory.store(&page.bytes, &page.digest).unwrap();
        PageRef { address, length, digest: page.digest }
    };
    let sound = node(1, &[(b"a", a), (b"b", b)]);
    let wrong = [
        node(1, &[(b"a", a), (b"c", b)]),
        node(1, &[(b"a", a), (b"az", a)]),
        node(2, &[(b"a", a), (b"b", b)]),
        node(1, &[(b"a", sound)]),
        node(3, &[(b"a", sound)]),
    ];
    let overlapping = node(1, &[(b"a", a), (b"aa", PageRef { address: 0x4000_0000, ..a })]);
    let inner = page::encode_leaf(&[file(b"aa", 1)], &keys()).unwrap();
    memory.pages.borrow_mut().insert(0x4000_0000, inner.bytes);

    assert_eq!(Entries::new(Believing(&memory), &sound).filter(Result::is_ok).count(), 4);
    for page in wrong.iter().chain([&overlapping]) {
        assert!(Entries::new(Believing(&memory), page).any(|entry| entry.is_err()), "{page:?}");
    }
}

#[test]
fn a_page_that_is_its_own_child_ends() {
    let memory = Memory::default();
    let at = segment_start(1);
    let own = |length, level| {
        let page = PageRef { address: at, length, digest: [0; 32] };
        page::encode_node(level, &[Child { first: b"a".to_vec(), page }], &keys()).unwrap()
    };
    let page = own(own(100, 1).bytes.len() as u32, 1);
    memory.pages.borrow_mut().insert(at, page.bytes.clone());
    let root = PageRef { address: at, length: page.bytes.len() as u32, digest: page.digest };

    assert!(matches!(Entries::new(Believing(&memory), &root).next(), Some(Err(Error::Invalid(_)))));
    assert!(lookup(&Believing(&memory), &root, b"b").is_err());
    assert!(OldPages::of(&Believing(&memory), &root).is_ok());
    assert!(matches!(Entries::new(&memory, &root).next(), Some(Err(Error::Damaged(_))) | Some(Err(Error::Invalid(_)))));
}

#[test]
fn a_changed_byte_of_a_page_is_damage() {
    let mut memory = Memory::default();
    let root = build(&mut memory, OldPages::none(), numbered(20));
    for byte in 0..root.length as usize {
        let mut bytes = memory.pages.borrow()[&root.address].clone();
        bytes[byte] ^= 1;
        let changed = verified(PageBytes::new(bytes.clone()), &root, &keys());

        // What lies behind the digest are addresses: the chunk's own digest guards those.
        let covered = Layout::of(&bytes).is_ok_and(|layout| byte >= layout.pointers_start());
        assert!(covered || matches!(changed, Err(Error::Damaged(_))));
    }
}

fn listed(memory: &mut Memory, extents: &[Extent], part: usize) -> Entry {
    let bytes = crate::extent::encode(extents).unwrap();
    let list = bytes.chunks(part).map(|part| memory.put(part)).collect();
    let size = extents.iter().map(|extent| extent.length).sum();
    let content = Content::Listed { list, count: extents.len() as u64 };
    Entry { name: b"big".to_vec(), size, content, ..Entry::default() }
}

proptest! {
    #[test]
    fn a_list_object_in_any_parts_gives_the_extents(seed: u64, part in 1usize..2000) {
        let extents: Vec<Extent> = (1..400)
            .map(|at| Extent { address: (at % 7).min(1) * (segment_start(5) + seed % 1000 * at), length: at * 3 })
            .collect();
        let mut memory = Memory::default();
        let entry = listed(&mut memory, &extents, part);

        let found: Vec<Extent> = super::extents(&memory, &entry).collect::<Result<_>>().unwrap();

        prop_assert_eq!(found, extents);
    }
}

#[test]
fn a_list_that_is_not_as_claimed_is_an_error() {
    let extents: Vec<Extent> = (1..400).map(|at| Extent { address: segment_start(5) + at, length: at }).collect();
    let mut memory = Memory::default();
    let sound = listed(&mut memory, &extents, 100);
    let Content::Listed { list, count } = sound.content.clone() else { panic!("not listed") };
    let with = |size, list: &[Extent], count| Entry {
        size,
        content: Content::Listed { list: list.to_vec(), count },
        ..sound.clone()
    };
    for wrong in [
        with(sound.size - 1, &list, count),
        with(sound.size + 1, &list, count),
        with(sound.size, &list, count - 1),
        with(sound.size, &list, count + 1),
        with(sound.size, &list[..list.len() - 1], count),
    ] {
        let found: Vec<_> = super::extents(&memory, &wrong).collect();
        assert!(matches!(found.last(), Some(Err(Error::Invalid(_)))));
        assert_eq!(found.iter().filter(|extent| extent.is_err()).count(), 1);
    }
}

#[test]
fn damage_is_named_by_path() {
    let mut memory = Memory::default();
    let extents: Vec<Extent> = (1..400).map(|at| Extent { address: segment_start(5) + 10 * at, length: 5 }).collect();
    let big = listed(&mut memory, &extents, 100);
    let Content::Listed { list, .. } = big.content.clone() else { panic!("not listed") };
    let hurt = build(&mut memory, OldPages::none(), [file(b"unseen", 9)]);
    let inner = build(&mut memory, OldPages::none(), [big, file(b"f", 3), directory(b"hurt", hurt)]);
    let root = build(&mut memory, OldPages::none(), [directory(b"d", inner), file(b"empty", 0), file(b"g", 4)]);
    let touching = |damaged: &[Extent]| {
        let found = files_touching(&memory, &root, damaged).unwrap();
        found.into_iter().map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
    };
    let at = |address, length| Extent { address, length };
    let place = |content: u64| segment_start(1000) + content * 100;

    assert_eq!(touching(&[]), [""; 0]);
    assert_eq!(touching(&[at(0, 1 << 40), at(place(3) + 3, 97)]), [""; 0]);
    assert_eq!(touching(&[at(place(4) + 3, 1), at(place(3) - 5, 6)]), ["g", "d/f"]);
    assert_eq!(touching(&[at(extents[300].address + 4, 1)]), ["d/big"]);
    assert_eq!(touching(&[at(list[2].address, 1)]), ["d/big"]);
    assert_eq!(touching(&[at(hurt.address, 1), at(place(9), 1)]), ["d/hurt/"]);
    assert_eq!(touching(&[root.extent()]), ["./"]);
    let mut visited = Vec::new();
    extents_of_files(&memory, &root, &mut |path, _, extents| {
        visited.push((path.to_vec(), extents.count()));
        Ok(())
    })
    .unwrap();
    let expected = [(&b"d/big"[..], 399), (b"d/f", 1), (b"d/hurt/unseen", 1), (b"empty", 0), (b"g", 1)];
    assert_eq!(visited, expected.map(|(path, count)| (path.to_vec(), count)));
}
