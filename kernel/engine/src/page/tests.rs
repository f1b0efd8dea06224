//! Laws of the page format, and what a hostile page may try.

use std::fmt::Write;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::address::segment_start;
use crate::extent::tests::extents;

pub(crate) fn keys() -> Keys {
    Keys::from_secret(&[7; 32])
}

pub(crate) fn page_refs() -> impl Strategy<Value = PageRef> {
    (1u64..1 << 38, 0u64..1 << 20, HEADER_BYTES as u32..70_000, any::<Digest>())
        .prop_filter("segment 0", |(segment, ..)| segment & ((1 << 26) - 1) != 0)
        .prop_map(|(segment, offset, length, digest)| PageRef {
            address: segment_start(segment) + offset,
            length,
            digest,
        })
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let any = vec(prop_oneof![Just(b'a'), Just(b'b'), any::<u8>()], 1..9);
    prop_oneof![any, vec(Just(b'x'), 200..256)].prop_filter("not a name", |name| check_name(name).is_ok())
}

fn contents() -> impl Strategy<Value = Entry> {
    let file = (any::<Digest>(), vec(extents(), 0..5)).prop_filter_map("too long", |(digest, extents)| {
        let size = extents.iter().try_fold(0u64, |sum, one| sum.checked_add(one.length))?;
        (size <= extent::FILE_BYTES_MAX).then(|| Entry {
            digest,
            size,
            content: Content::Extents(extents),
            ..Entry::default()
        })
    });
    let stored = extents().prop_filter("a hole", |one| !one.is_hole());
    let listed = (any::<Digest>(), vec(stored, 1..4), 257u64..1 << 30, 0..u64::MAX / 4).prop_map(
        |(digest, list, count, more)| {
            let bytes: u64 = list.iter().map(|part| part.length).sum();
            let count = count.min(bytes / 2);
            Entry { digest, size: count + more, content: Content::Listed { list, count }, ..Entry::default() }
        },
    );
    let listed =
        listed.prop_filter("too short", |entry| matches!(entry.content, Content::Listed { count, .. } if count > 256));
    let directory = page_refs().prop_map(|page| Entry {
        kind: EntryKind::Directory,
        content: Content::Directory(page),
        ..Entry::default()
    });
    let symlink = vec(1u8.., 1..40).prop_map(|target| Entry { kind: EntryKind::Symlink, target, ..Entry::default() });
    let device = (prop::sample::select(vec![EntryKind::CharDevice, EntryKind::BlockDevice]), any::<u64>())
        .prop_map(|(kind, rdev)| Entry { kind, rdev, ..Entry::default() });
    let fifo = Just(Entry { kind: EntryKind::Fifo, ..Entry::default() });
    prop_oneof![6 => file, 1 => listed, 2 => directory, 2 => symlink, 1 => device, 1 => fifo]
}

/// Entries with all that they may have, but for their names.
fn nameless() -> impl Strategy<Value = Entry> {
    let owners = (
        0u32..0o10000,
        prop_oneof![Just(0u32), Just(1000), any::<u32>()],
        prop_oneof![Just(vec![]), Just(b"root".to_vec())],
    );
    let times = prop_oneof![4 => (0i64..1 << 32).prop_map(|s| s * 1_000_000_000), 1 => any::<i64>()];
    let xattrs = btree_map(vec(1u8.., 1..5), vec(any::<u8>(), 0..5), 0..3);
    let rare = prop_oneof![3 => Just(None), 1 => (any::<u64>(), xattrs).prop_map(Some)];
    (contents(), owners, times, rare).prop_map(|(content, (mode, uid, user), mtime_ns, rare)| {
        let (link_id, xattrs) = rare.unwrap_or_default();
        let link_id = if content.kind == EntryKind::Directory { 0 } else { link_id };
        let xattrs = xattrs.into_iter().collect();
        Entry { mode, uid, gid: uid / 2, group: user.clone(), user, mtime_ns, link_id, xattrs, ..content }
    })
}

/// Entries as they may stand in one page.
pub(crate) fn leaves(count: usize) -> impl Strategy<Value = Vec<Entry>> {
    btree_map(names(), nameless(), 0..count)
        .prop_map(|entries| entries.into_iter().map(|(name, entry)| Entry { name, ..entry }).collect())
}

fn children() -> impl Strategy<Value = Vec<Child>> {
    btree_map(names(), page_refs(), 1..40)
        .prop_map(|children| children.into_iter().map(|(first, page)| Child { first, page }).collect())
}

fn encode_again(page: &Page) -> EncodedPage {
    match page {
        Page::Leaf(entries) => encode_leaf(entries, &keys()),
        Page::Node { level, children } => encode_node(*level, children, &keys()),
    }
    .unwrap()
}

proptest! {
    #[test]
    fn a_leaf_comes_back_as_it_went(entries in leaves(40)) {
        let page = encode_leaf(&entries, &keys()).unwrap();

        prop_assert_eq!(digest(&page.bytes, &keys()).unwrap(), page.digest);
        prop_assert_eq!(decode(&page.bytes).unwrap(), Page::Leaf(entries));
    }

    #[test]
    fn a_node_comes_back_as_it_went(level in 1..=LEVEL_MAX, children in children()) {
        let page = encode_node(level, &children, &keys()).unwrap();

        prop_assert_eq!(digest(&page.bytes, &keys()).unwrap(), page.digest);
        prop_assert_eq!(decode(&page.bytes).unwrap(), Page::Node { level, children });
    }

    #[test]
    fn a_root_comes_back_as_it_went(entry in nameless(), name in prop_oneof![Just(vec![]), names()]) {
        let root = Entry { name, ..entry };

        let page = encode_root(&root, &keys()).unwrap();

        prop_assert_eq!(decode_root(&page.bytes).unwrap(), root);
        prop_assert!(decode(&page.bytes).is_err());
    }

    /// Any change of bytes is an error or another page in its only spelling.
    #[test]
    fn a_page_has_one_spelling(
        entries in leaves(12), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_leaf(&entries, &keys()).unwrap().bytes;
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }

        if let Ok(page) = decode(&bytes) {
            prop_assert_eq!(encode_again(&page).bytes, bytes);
        }
    }

    #[test]
    fn a_node_has_one_spelling(children in children(), place: prop::sample::Index, byte: u8) {
        let mut bytes = encode_node(1, &children, &keys()).unwrap().bytes;
        let place = place.index(bytes.len());
        bytes[place] = byte;

        if let Ok(page) = decode(&bytes) {
            prop_assert_eq!(encode_again(&page).bytes, bytes);
        }
    }

    #[test]
    fn a_part_of_a_page_or_more_than_a_page_is_an_error(entries in leaves(12), place: prop::sample::Index) {
        let mut bytes = encode_leaf(&entries, &keys()).unwrap().bytes;

        prop_assert!(decode(&bytes[..place.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_behind_a_header_are_a_page_or_an_error(
        level in 0..3u8, count in 0..9u32, body in 0..200u32, digests in 0..4u32, bytes in vec(0..20u8, 0..300),
    ) {
        let mut page = [&MAGIC[..], &[VERSION, level, 0, 0]].concat();
        [count, body, digests].iter().for_each(|field| page.extend_from_slice(&field.to_le_bytes()));
        page.extend_from_slice(&bytes);

        if let Ok(found) = decode(&page) {
            prop_assert_eq!(encode_again(&found).bytes, page);
        }
    }

    #[test]
    fn the_digest_knows_meaning_but_no_address(entries in leaves(12), shift in 1u64..1000) {
        let moved = |extent: &mut Extent| {
            if !extent.is_hole() && extent.address % 64 == 1 {
                extent.address ^= shift << 27;
            }
            extent::check(*extent).is_ok()
        };
        let mut elsewhere = entries.clone();
        let possible = elsewhere.iter_mut().all(|entry| match &mut entry.content {
            Content::Extents(extents) => extents.iter_mut().all(moved),
            Content::Listed { list, .. } => list.iter_mut().all(moved),
            Content::Directory(page) => { page.address += 1; page.length -= 1; page.check().is_ok() }
            Content::None => true,
        });
        prop_assume!(possible);
        let page = encode_leaf(&entries, &keys()).unwrap();

        prop_assert_eq!(encode_leaf(&elsewhere, &keys()).unwrap().digest, page.digest);
        if let Some(first) = elsewhere.first_mut() {
            first.mode ^= 1;
            prop_assert_ne!(encode_leaf(&elsewhere, &keys()).unwrap().digest, page.digest);
        }
    }

    /// A receiver that was not sent the digest column puts it together from what the pointers lead to.
    #[test]
    fn the_digest_column_can_be_left_out_and_put_back(entries in leaves(12)) {
        let page = encode_leaf(&entries, &keys()).unwrap();
        let layout = Layout::of(&page.bytes).unwrap();
        let (head, tail) = (&page.bytes[..layout.digests_start()], &page.bytes[layout.pointers_start()..]);

        let digests = entries.iter().filter(|entry| entry.kind.has_digest());
        let column: Vec<u8> = digests.flat_map(|entry| entry.page().map_or(entry.digest, |page| page.digest)).collect();

        prop_assert_eq!([head, &column, tail].concat(), page.bytes);
    }
}

fn file(name: &[u8]) -> Entry {
    Entry { name: name.to_vec(), mode: 0o644, content: Content::Extents(Vec::new()), ..Entry::default() }
}

/// A name of what has no bytes.
fn bare(name: &[u8]) -> Entry {
    Entry { content: Content::None, ..file(name) }
}

#[test]
fn no_page_carries_a_name_that_leaves_its_directory() {
    let page = encode_leaf(&[file(b"ab"), file(b"cd")], &keys()).unwrap().bytes;
    let at = page.windows(4).position(|window| window == b"abcd").unwrap();

    for hostile in [b"..cd", b"/bcd", b"a/cd", b"\0bcd", b"abab", b"cdab", b"abc\0", b"ab/d"] {
        let mut page = page.clone();
        page[at..at + 4].copy_from_slice(hostile);
        assert!(decode(&page).is_err(), "{}", hostile.escape_ascii());
    }
    for hostile in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'n'; 256]] {
        assert!(encode_leaf(&[file(hostile)], &keys()).is_err(), "{}", hostile.escape_ascii());
    }
}

#[test]
fn names_ascend_strictly() {
    for wrong in [[file(b"b"), file(b"a")], [file(b"a"), file(b"a")], [file(b"ab"), file(b"a")]] {
        assert!(matches!(encode_leaf(&wrong, &keys()), Err(Error::Invalid(_))));
    }
}

#[test]
fn what_an_entry_has_must_be_of_its_kind() {
    let extent = Extent { address: segment_start(1), length: 5 };
    let page = PageRef { address: segment_start(1), length: 100, digest: [1; 32] };
    let sound = Entry { size: 5, content: Content::Extents(vec![extent]), ..file(b"f") };
    assert!(encode_leaf(std::slice::from_ref(&sound), &keys()).is_ok());
    let symlink =
        Entry { kind: EntryKind::Symlink, content: Content::None, size: 0, target: b"t".to_vec(), ..sound.clone() };
    for wrong in [
        Entry { size: 6, ..sound.clone() },
        Entry { size: 4, ..sound.clone() },
        Entry { mode: 0o10000, ..sound.clone() },
        Entry { rdev: 1, ..sound.clone() },
        Entry { target: b"t".to_vec(), ..sound.clone() },
        Entry { content: Content::None, ..sound.clone() },
        Entry { content: Content::Directory(page), ..sound.clone() },
        Entry { content: Content::Listed { list: vec![extent], count: 2 }, ..sound.clone() },
        Entry { kind: EntryKind::Directory, ..sound.clone() },
        Entry { kind: EntryKind::Directory, size: 0, content: Content::Directory(page), link_id: 1, ..sound.clone() },
        Entry { xattrs: vec![(b"b".to_vec(), vec![]), (b"a".to_vec(), vec![])], ..sound.clone() },
        Entry { target: Vec::new(), ..symlink.clone() },
        Entry { target: b"a\0".to_vec(), ..symlink.clone() },
        Entry { digest: [1; 32], ..symlink },
    ] {
        assert!(encode_leaf(std::slice::from_ref(&wrong), &keys()).is_err(), "{wrong:?}");
    }
}

/// One set of attributes that a thousand entries share would be a small page and a large memory.
#[test]
fn shared_attributes_count_for_each_entry() {
    let heavy = |name: u16| Entry {
        xattrs: vec![(b"user.x".to_vec(), vec![1; 20_000])],
        ..file(&name.to_be_bytes().map(|b| b + 1))
    };
    assert!(encode_leaf(&[heavy(1), heavy(2)], &keys()).is_ok());

    assert!(encode_leaf(&[heavy(1), heavy(2), heavy(3)], &keys()).is_err());

    let text = vec![1; XATTR_BYTES_MAX + 1];
    assert!(encode_leaf(&[Entry { xattrs: vec![(b"x".to_vec(), text)], ..file(b"f") }], &keys()).is_err());
}

#[test]
fn a_claimed_count_reserves_no_memory() {
    let page = encode_leaf(&[file(b"f")], &keys()).unwrap().bytes;
    for (at, claim) in [(8, 1025u32), (8, u32::MAX), (12, u32::MAX), (16, u32::MAX), (8, 1000), (16, 2)] {
        let mut page = page.clone();
        page[at..at + 4].copy_from_slice(&claim.to_le_bytes());
        assert!(decode(&page).is_err());
    }
}

#[test]
fn versions_and_forms_of_the_future_are_told_from_damage() {
    let mut page = encode_leaf(&[file(b"f")], &keys()).unwrap().bytes;
    page[4] = 2;
    let Err(Error::Invalid(message)) = decode(&page) else { panic!("a page of version 2 was read") };
    assert!(message.contains("version 2"));
}

#[test]
fn a_plain_file_costs_a_few_bytes() {
    let entries: Vec<Entry> = (0..200u64)
        .map(|at| Entry {
            size: 3000 + at,
            mtime_ns: 1_700_000_000_000_000_000 + at as i64 * 1_000_000_000,
            content: Content::Extents(vec![Extent { address: segment_start(1) + at * 4000, length: 3000 + at }]),
            ..file(format!("source_{at:04}.rs").as_bytes())
        })
        .collect();

    let page = encode_leaf(&entries, &keys()).unwrap();

    let layout = Layout::of(&page.bytes).unwrap();
    let without_digests = page.bytes.len() - (layout.pointers_start() - layout.digests_start());
    assert!(without_digests < 200 * 14, "{without_digests} bytes for 200 files");
}

/// The pages in tests/golden: never edited, read by every version after. One entry of each kind and column.
fn golden() -> (Vec<Entry>, Vec<Child>, Entry) {
    let at = |offset| segment_start((3 << 26) | 9) + offset;
    let owner = |entry: Entry| Entry { uid: 1000, gid: 100, user: b"ada".to_vec(), group: b"users".to_vec(), ..entry };
    let page = PageRef { address: at(1 << 20), length: 777, digest: [0xd1; 32] };
    let time = 1_763_818_000_000_000_000;
    let entries = vec![
        Entry { kind: EntryKind::BlockDevice, mode: 0o660, rdev: 0x0801, mtime_ns: time, ..bare(b"block") },
        Entry { kind: EntryKind::CharDevice, mode: 0o666, rdev: 0x0103, mtime_ns: time, ..bare(b"char") },
        owner(Entry {
            kind: EntryKind::Directory,
            mode: 0o755,
            mtime_ns: time + 1,
            content: Content::Directory(page),
            ..file(b"directory")
        }),
        owner(Entry { mtime_ns: -1, digest: [0xe0; 32], content: Content::Extents(vec![]), ..file(b"empty") }),
        Entry { kind: EntryKind::Fifo, mode: 0o600, mtime_ns: time, ..bare(b"fifo") },
        owner(Entry {
            size: 300,
            link_id: 0x0123_4567_89ab_cdef,
            mtime_ns: time + 999_999_999,
            digest: [0xf1; 32],
            xattrs: vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![0, 255])],
            content: Content::Extents(vec![Extent { address: at(0), length: 300 }]),
            ..file(b"file")
        }),
        owner(Entry {
            size: 1 << 30,
            mtime_ns: time,
            digest: [0xf2; 32],
            content: Content::Listed { list: vec![Extent { address: at(2 << 20), length: 5000 }], count: 1200 },
            ..file(b"file.many")
        }),
        owner(Entry {
            size: 100_000 + 8192 + 5,
            mtime_ns: time,
            digest: [0xf3; 32],
            content: Content::Extents(vec![
                Extent { address: at(300), length: 8192 },
                Extent { address: 0, length: 100_000 },
                Extent { address: at(8492), length: 5 },
            ]),
            ..file(b"file.sparse")
        }),
        Entry {
            kind: EntryKind::Symlink,
            mode: 0o777,
            mtime_ns: time,
            target: b"../\xff".to_vec(),
            ..bare(b"link\xfe")
        },
    ];
    let child = |first: &[u8], offset, byte| Child {
        first: first.to_vec(),
        page: PageRef { address: at(offset), length: 4000, digest: [byte; 32] },
    };
    let children = vec![child(b"aa", 4000, 1), child(b"ab", 8000, 2), child(b"b\xff", 0, 3)];
    let root = owner(Entry {
        kind: EntryKind::Directory,
        mode: 0o750,
        mtime_ns: time,
        content: Content::Directory(page),
        ..file(b"")
    });
    (entries, children, root)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What the golden pages mean, for readers in other languages. Numbers of 64 bits are strings.
fn json(entry: &Entry) -> String {
    let spans = |extents: &[Extent]| {
        let spans: Vec<_> = extents.iter().map(|one| format!("[\"{}\", \"{}\"]", one.address, one.length)).collect();
        format!("[{}]", spans.join(", "))
    };
    let content = match &entry.content {
        Content::None => "null".to_owned(),
        Content::Extents(extents) => format!("{{\"extents\": {}}}", spans(extents)),
        Content::Listed { list, count } => format!("{{\"list\": {}, \"count\": \"{count}\"}}", spans(list)),
        Content::Directory(PageRef { address, length, digest }) => {
            format!("{{\"page\": [\"{address}\", {length}, \"{}\"]}}", hex(digest))
        }
    };
    let xattrs: Vec<_> =
        entry.xattrs.iter().map(|(name, value)| format!("[\"{}\", \"{}\"]", hex(name), hex(value))).collect();
    format!(
        "{{\"name\": \"{}\", \"kind\": {}, \"mode\": {}, \"uid\": {}, \"gid\": {}, \
         \"user\": \"{}\", \"group\": \"{}\", \
         \"mtime_ns\": \"{}\", \"size\": \"{}\", \"xattrs\": [{}], \
         \"target\": \"{}\", \"rdev\": \"{}\", \"link_id\": \"{}\", \
         \"digest\": \"{}\", \"content\": {content}}}",
        hex(&entry.name),
        entry.kind as u8,
        entry.mode,
        entry.uid,
        entry.gid,
        hex(&entry.user),
        hex(&entry.group),
        entry.mtime_ns,
        entry.size,
        xattrs.join(", "),
        hex(&entry.target),
        entry.rdev,
        entry.link_id,
        hex(&entry.digest),
    )
}

#[test]
fn pages_of_version_1_are_the_golden_ones() {
    let (entries, children, root) = golden();
    let pages = [
        ("leaf", encode_leaf(&entries, &keys()).unwrap()),
        ("node", encode_node(1, &children, &keys()).unwrap()),
        ("root", encode_root(&root, &keys()).unwrap()),
    ];
    let mut text = format!("{{\n  \"secret\": \"{}\",\n  \"page_key\": \"{}\",\n", hex(&[7; 32]), hex(&keys().page));
    for (name, page) in &pages {
        let _ = write!(
            text,
            "  \"{name}\": {{\"bytes\": \"{}\",\n    \"digest\": \"{}\"}},\n",
            hex(&page.bytes),
            hex(&page.digest)
        );
    }
    let list = |lines: Vec<String>| format!("[\n    {}\n  ]", lines.join(",\n    "));
    let _ = writeln!(text, "  \"entries\": {},", list(entries.iter().map(json).collect()));
    let child = |child: &Child| {
        let PageRef { address, length, digest } = child.page;
        format!("[\"{}\", \"{address}\", {length}, \"{}\"]", hex(&child.first), hex(&digest))
    };
    let _ = writeln!(text, "  \"children\": {},", list(children.iter().map(child).collect()));
    let _ = writeln!(text, "  \"root_entry\": {}\n}}", json(&root));

    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let golden = |name: &str| std::fs::read(format!("{directory}/{name}")).unwrap();
    let [(_, leaf), _, _] = &pages;
    assert_eq!(leaf.bytes, golden("page-v1.bin"));
    assert_eq!(decode(&golden("page-v1.bin")).unwrap(), Page::Leaf(entries));
    assert_eq!(text, String::from_utf8(golden("page-v1.json")).unwrap());
}
