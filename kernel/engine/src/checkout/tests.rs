//! What a checkout promises, tried on real directories and a real volume.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::address::{Address, Extent};
use crate::chunker::Params;
use crate::digest::{ContentDigest, digest};
use crate::keys::{Digest, Keys};
use crate::lease::Lease;
use crate::page::Content;
use crate::table::Kind;
use crate::tree::{DirectoryBuilder, OldPages, PageSink};

/// Sizes and chunks of test files: small, so that many chunks are cheap.
const CHUNK: usize = 40_000;

/// A volume with a lease that takes what the tests store.
struct Volume {
    _directory: TempDir,
    space: Arc<Space>,
    lease: Lease,
    segment: u64,
}

impl Volume {
    fn new() -> Volume {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("segments")).unwrap();
        fs::create_dir(directory.path().join("index")).unwrap();
        let keys = Keys::from_secret(&[7; 32]);
        let space = Space::open(directory.path(), [3; 16], keys, Params::DEFAULT).unwrap();
        let lease = Lease::open(&space, 1, 0, 0, true, false).unwrap().unwrap();
        Volume { _directory: directory, space, lease, segment: 1 }
    }

    fn append(&mut self, bytes: &[u8], kind: Kind) -> Address {
        if self.lease.room() < bytes.len() as u64 {
            self.commit();
            self.segment += 1;
            self.lease = Lease::open(&self.space, self.segment, 0, 0, true, false).unwrap().unwrap();
        }
        self.lease.append_chunk(bytes, kind).unwrap()
    }

    fn commit(&mut self) {
        let committed = self.lease.sync().unwrap();
        self.space.admit(&[committed]).unwrap();
    }

    /// A stored file of these bytes.
    fn file(&mut self, name: &[u8], bytes: &[u8]) -> Entry {
        let mut content = ContentDigest::new(&self.space.keys().content);
        let mut extents: Vec<Extent> = Vec::new();
        for chunk in bytes.chunks(CHUNK) {
            content.chunk(&digest(&self.space.keys().digest, chunk));
            let address = self.append(chunk, Kind::Data);
            match extents.last_mut() {
                // An extent never crosses a segment.
                Some(last) if last.end() == address && !address.is_multiple_of(1 << 26) => {
                    last.length += chunk.len() as u64
                }
                _ => extents.push(Extent { address, length: chunk.len() as u64 }),
            }
        }
        Entry {
            name: name.to_vec(),
            mode: 0o644,
            mtime_ns: file_time(bytes),
            size: bytes.len() as u64,
            digest: content.finish(),
            content: Content::Extents(extents),
            ..Entry::default()
        }
    }

    fn directory(&mut self, name: &[u8], mut entries: Vec<Entry>) -> Entry {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut builder = DirectoryBuilder::new(&self.space.keys().clone(), OldPages::none());
        entries.into_iter().for_each(|entry| builder.push(entry, self).unwrap());
        let page = builder.finish(self).unwrap();
        Entry {
            name: name.to_vec(),
            kind: EntryKind::Directory,
            mode: 0o755,
            mtime_ns: 1_600_000_000_000_000_001,
            content: Content::Directory(page),
            ..Entry::default()
        }
    }

    fn tree(&mut self, node: &Node, name: &[u8]) -> Entry {
        match node {
            Node::File(bytes) => self.file(name, bytes),
            Node::Mode(bytes, mode) => Entry { mode: *mode, ..self.file(name, bytes) },
            Node::Time(bytes, mtime_ns) => Entry { mtime_ns: *mtime_ns, ..self.file(name, bytes) },
            Node::Linked(bytes, link_id) => Entry { link_id: *link_id, ..self.file(name, bytes) },
            Node::Link(target) => link(name, target),
            Node::Dir(nodes) => {
                let entries = nodes.iter().map(|(name, node)| self.tree(node, name)).collect();
                self.directory(name, entries)
            }
        }
    }

    fn root(&mut self, node: &Node) -> Root {
        let entry = self.tree(node, b"root");
        self.commit();
        Root::Whole(entry)
    }

    fn checkout(&self, root: &Root, target: &Path, options: &Options) -> Result<(Report, Vec<Change>)> {
        let mut notes = Notes::default();
        let report = checkout(&self.space, root, target, options, &mut notes)?;
        Ok((report, notes.changes))
    }
}

impl PageSink for Volume {
    fn store(&mut self, bytes: &[u8], _digest: &Digest) -> Result<(Address, u32)> {
        Ok((self.append(bytes, Kind::Tree), bytes.len() as u32))
    }
}

fn link(name: &[u8], target: &[u8]) -> Entry {
    let (name, target) = (name.to_vec(), target.to_vec());
    Entry { name, kind: EntryKind::Symlink, mode: 0o777, mtime_ns: 5_000_000_007, target, ..Entry::default() }
}

#[derive(Default)]
struct Notes {
    changes: Vec<Change>,
    progress: Progress,
    calls: u64,
    stop_after: Option<u64>,
}

impl OnProgress for Notes {
    fn progress(&mut self, progress: &Progress) -> Result<()> {
        assert!(progress.entries >= self.progress.entries && progress.written_bytes >= self.progress.written_bytes);
        self.progress = *progress;
        Ok(())
    }

    fn report(&mut self, batch: &[Change]) -> Result<()> {
        self.changes.extend_from_slice(batch);
        self.calls += 1;
        match self.stop_after {
            Some(calls) if self.calls >= calls => Err(Error::Host(Box::new("stop"))),
            _ => Ok(()),
        }
    }
}

/// What is to be stored, or was found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    File(Vec<u8>),
    Mode(Vec<u8>, u32),
    Time(Vec<u8>, i64),
    Linked(Vec<u8>, u64),
    Link(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, Node>),
}

fn dir<const N: usize>(nodes: [(&[u8], Node); N]) -> Node {
    Node::Dir(nodes.into_iter().map(|(name, node)| (name.to_vec(), node)).collect())
}

fn text(text: &str) -> Node {
    Node::File(text.into())
}

/// Everything in a directory: path -> (kind and mode, mtime, content or target). Independent of the engine.
fn scan(path: &Path) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![path.to_path_buf()];
    while let Some(inner) = open.pop() {
        let stat = fs::symlink_metadata(&inner).unwrap();
        let content = if stat.is_symlink() {
            fs::read_link(&inner).unwrap().into_os_string().into_vec()
        } else if stat.is_dir() {
            open.extend(fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&inner).unwrap()
        };
        let mtime_ns = stat.mtime() * 1_000_000_000 + stat.mtime_nsec();
        found.insert(inner.strip_prefix(path).unwrap().to_path_buf(), (stat.mode(), mtime_ns, brief(content)));
    }
    found
}

/// The same of a node, as it should be.
fn expected(node: &Node) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut open = vec![(PathBuf::new(), node)];
    while let Some((path, node)) = open.pop() {
        let row = match node {
            Node::File(bytes) | Node::Linked(bytes, _) => (0o100_644, file_time(bytes), bytes.clone()),
            Node::Mode(bytes, mode) => (0o100_000 | mode, file_time(bytes), bytes.clone()),
            Node::Time(bytes, mtime_ns) => (0o100_644, *mtime_ns, bytes.clone()),
            Node::Link(target) => (0o120_777, 5_000_000_007, target.clone()),
            Node::Dir(nodes) => {
                open.extend(nodes.iter().map(|(name, node)| (path.join(OsStr::from_bytes(name)), node)));
                (0o040_755, 1_600_000_000_000_000_001, Vec::new())
            }
        };
        all.insert(path, (row.0, row.1, brief(row.2)));
    }
    all
}

/// Another time for other content, as it is in life: a checkout takes equal size and time for equal content.
fn file_time(bytes: &[u8]) -> i64 {
    let hash = blake3::hash(bytes);
    1_700_000_000_000_000_000 + i64::from(u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap()))
}

/// Long content by its digest, so that a failure can be read.
fn brief(content: Vec<u8>) -> Vec<u8> {
    if content.len() > 64 { blake3::hash(&content).to_hex().as_bytes()[..16].to_vec() } else { content }
}

fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    (0..length)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        })
        .collect()
}

const NOT_WISHED: Owners = Owners { restore: false, numeric: false, user: None, group: None };
const DELETE: Options = Options { delete: true, dry_run: false, owners: NOT_WISHED, care: Care::NONE };
const PLAIN: Options = Options { delete: false, dry_run: false, owners: NOT_WISHED, care: Care::NONE };
const OWNERS: Options = Options { owners: Owners { restore: true, ..NOT_WISHED }, ..PLAIN };

fn sample() -> Node {
    dir([
        (b"empty", text("")),
        (b"small", text("hello")),
        (b"large", Node::File(noise((20 << 20) + 1, 1))),
        (b"locked", Node::Mode(b"x".to_vec(), 0o400)),
        (b"open", Node::Mode(b"x".to_vec(), 0o777)),
        (b"old", Node::Time(b"x".to_vec(), -1_000_000_001)),
        (b"link", Node::Link(b"/etc/passwd".to_vec())),
        (b"\xff\xfe\n", text("not UTF-8")),
        (b"one", Node::Linked(noise(100_000, 2), 7)),
        (b"void", dir([])),
        (
            b"dir",
            dir([
                (b"two", Node::Linked(noise(100_000, 2), 7)),
                (b"dir", dir([(b"three", Node::Linked(noise(100_000, 2), 7)), (b"f", text("deep"))])),
                (b"link", Node::Link(b"..".to_vec())),
            ]),
        ),
    ])
}

#[test]
fn a_tree_becomes_the_same_directory_and_nothing_else_is_left() {
    let mut volume = Volume::new();
    let root = volume.root(&sample());
    let target = tempfile::tempdir().unwrap();

    let (report, changes) = volume.checkout(&root, target.path(), &PLAIN).unwrap();

    assert_eq!(scan(target.path()), expected(&sample()));
    let numbers: Vec<u64> = ["one", "dir/two", "dir/dir/three"]
        .iter()
        .map(|path| fs::metadata(target.path().join(path)).unwrap().ino())
        .collect();
    assert!(numbers.iter().all(|number| *number == numbers[0]));
    assert_eq!(fs::metadata(target.path().join("one")).unwrap().nlink(), 3);
    assert_eq!((report.created, report.unchanged, changes.len()), (16, 0, 16));
    assert!(changes.iter().any(|change| change.path == b"dir/dir/f" && change.size == 4));
}

#[test]
fn running_it_again_touches_nothing() {
    let mut volume = Volume::new();
    let root = volume.root(&sample());
    let target = tempfile::tempdir().unwrap();
    volume.checkout(&root, target.path(), &PLAIN).unwrap();
    let ctimes = |path: &Path| -> Vec<(PathBuf, i64, i64)> {
        let stat = |path: &PathBuf| fs::symlink_metadata(target.path().join(path)).unwrap();
        // The target itself sees the staging directory come and go.
        scan(path)
            .into_keys()
            .skip(1)
            .map(|path| (path.clone(), stat(&path).ctime(), stat(&path).ctime_nsec()))
            .collect()
    };
    let before = ctimes(target.path());

    let (report, changes) = volume.checkout(&root, target.path(), &DELETE).unwrap();

    assert_eq!(ctimes(target.path()), before);
    assert_eq!((report.unchanged, changes.len(), report.written_bytes), (16, 0, 0));
}

#[test]
fn what_differs_is_replaced_and_what_is_surplus_stays_unless_asked() {
    let mut volume = Volume::new();
    let before = dir([
        (b"changed", text("before")),
        (b"same", text("same")),
        (b"mode", text("mode")),
        (b"file to dir", text("file")),
        (b"dir to file", dir([])),
        (b"link to dir", Node::Link(b"/tmp".to_vec())),
        (b"link to link", Node::Link(b"a".to_vec())),
        (b"surplus", dir([(b"deep", dir([(b"f", text("f"))])), (b"l", Node::Link(b"/".to_vec()))])),
        (b"unlinked", Node::Linked(b"same".to_vec(), 5)),
        (b"unlinked too", Node::Linked(b"same".to_vec(), 5)),
    ]);
    let after = dir([
        (b"changed", text("after!!")),
        (b"same", text("same")),
        (b"mode", Node::Mode(b"mode".to_vec(), 0o755)),
        (b"file to dir", dir([(b"f", text("f")), (b"g", dir([]))])),
        (b"dir to file", text("file")),
        (b"link to dir", dir([(b"f", text("mine"))])),
        (b"link to link", Node::Link(b"b".to_vec())),
        (b"now linked", Node::Linked(b"same".to_vec(), 9)),
        (b"same", Node::Linked(b"same".to_vec(), 9)),
        (b"unlinked", text("same")),
        (b"unlinked too", text("now another")),
    ]);
    let (first, second) = (volume.root(&before), volume.root(&after));
    let target = tempfile::tempdir().unwrap();
    volume.checkout(&first, target.path(), &PLAIN).unwrap();

    let (kept, _) = volume.checkout(&second, target.path(), &PLAIN).unwrap();
    assert_eq!(kept.deleted, 0);
    assert!(target.path().join("surplus/deep/f").exists());
    let (report, changes) = volume.checkout(&second, target.path(), &DELETE).unwrap();

    assert_eq!(scan(target.path()), expected(&after));
    assert_eq!((report.deleted, report.created, report.replaced), (1, 0, 0));
    assert_eq!(changes[0].path, b"surplus");
    let numbers = ["same", "now linked"].map(|path| fs::metadata(target.path().join(path)).unwrap().ino());
    assert_eq!(numbers[0], numbers[1]);
}

#[test]
fn content_that_changed_behind_equal_size_and_time_is_written_when_the_last_tree_is_known() {
    let mut volume = Volume::new();
    let tree = |text: &str| {
        let file = |text: &str| Node::Time(text.into(), 1_000_000_000);
        dir([(b"d", dir([(b"a", file("same")), (b"version", file(text))])), (b"e", dir([(b"f", file("same"))]))])
    };
    let (first, second) = (volume.root(&tree("1.0.1")), volume.root(&tree("1.0.2")));
    let Root::Whole(base) = &first else { unreachable!() };
    let target = tempfile::tempdir().unwrap();
    volume.checkout(&first, target.path(), &PLAIN).unwrap();

    // Without it, size and time are all there is to go by.
    volume.checkout(&second, target.path(), &PLAIN).unwrap();
    assert_eq!(scan(target.path()), expected(&tree("1.0.1")));
    let (space, base) = (&volume.space, Before { page: base.page().unwrap(), left_ns: 0, how: How::Written });
    let report = checkout_onto(space, &second, &base, target.path(), &PLAIN, &mut Notes::default()).unwrap();

    assert_eq!(scan(target.path()), expected(&tree("1.0.2")));
    assert_eq!((report.replaced, report.unchanged), (1, 4));
}

#[test]
fn a_file_that_was_read_and_not_touched_since_gets_its_new_time_and_is_not_written_anew() {
    let mut volume = Volume::new();
    let tree = |a, b: &str| dir([(b"a", Node::Time("same".into(), a)), (b"b", Node::Time(b.into(), 1_000_000_000))]);
    let [first, second, third] =
        [(1, "old"), (2, "old"), (3, "new")].map(|(a, b)| volume.root(&tree(a * 1_000_000_000, b)));
    let target = tempfile::tempdir().unwrap();
    volume.checkout(&first, target.path(), &PLAIN).unwrap();
    let number = |name: &str| fs::metadata(target.path().join(name)).unwrap().ino();
    let pull = |root: &Root, base: &Root, left_ns, how| {
        let Root::Whole(base) = base else { unreachable!() };
        let before = Before { page: base.page().unwrap(), left_ns, how };
        checkout_onto(&volume.space, root, &before, target.path(), &PLAIN, &mut Notes::default()).unwrap()
    };
    let before = (number("a"), number("b"));

    let report = pull(&second, &first, i64::MAX, How::Read);
    assert_eq!((report.metadata, report.replaced, report.written_bytes), (1, 0, 0));
    assert_eq!((number("a"), number("b")), before);
    assert_eq!(scan(target.path()), expected(&tree(2_000_000_000, "old")));

    // Other content behind the same size and time is written all the same.
    let report = pull(&third, &second, i64::MAX, How::Read);
    assert_eq!((report.metadata, report.replaced), (1, 1));
    assert_eq!(scan(target.path()), expected(&tree(3_000_000_000, "new")));

    // Changed since it was read, or written from that tree and never read: its time is not given to whatever it holds.
    for (left_ns, how) in [(0, How::Read), (i64::MAX, How::Written)] {
        pull(&third, &third, 0, How::Written);
        let report = pull(&second, &third, left_ns, how);
        assert_eq!((report.metadata, report.replaced), (0, 2));
        assert_eq!(scan(target.path()), expected(&tree(2_000_000_000, "old")));
    }
}

#[test]
fn where_nobody_else_writes_a_directory_that_stays_as_it_was_is_not_looked_into() {
    let mut volume = Volume::new();
    let tree = |a: &str| {
        let same = || dir([(b"deep", dir([(b"f", text("same"))])), (b"g", text("same"))]);
        let changes = dir([(b"a", text(a)), (b"b", text("b")), (a.as_bytes(), dir([(b"new", text(a))]))]);
        dir([(b"changes", changes), (b"stays", same()), (b"too", same())])
    };
    let [first, second, third] = ["one", "other", "third"].map(|a| volume.root(&tree(a)));
    let target = tempfile::tempdir().unwrap();
    let at = |path: &str| target.path().join(path);
    let pull = |root: &Root, base: &Root, how, options: &Options| {
        let Root::Whole(base) = base else { unreachable!() };
        let before = Before { page: base.page().unwrap(), left_ns: i64::MAX, how };
        checkout_onto(&volume.space, root, &before, target.path(), options, &mut Notes::default()).unwrap()
    };
    volume.checkout(&first, target.path(), &DELETE).unwrap();

    // Of what somebody else writes there, only what shows in a directory's own time is seen.
    fs::write(at("stays/deep/f"), "another").unwrap();
    fs::write(at("changes/b"), "another").unwrap();
    fs::write(at("too/new"), "new").unwrap();
    let report = pull(&second, &first, How::Alone, &DELETE);

    assert_eq!((report.created, report.replaced, report.deleted), (2, 2, 2));
    assert_eq!(fs::read(at("stays/deep/f")).unwrap(), b"another");
    assert_eq!(fs::read(at("changes/b")).unwrap(), b"b");
    assert!(!at("too/new").exists());
    // By content means all of it, and who does not promise to be alone is looked after.
    let by_content = Options { care: Care { checksum: true, ..Care::NONE }, ..DELETE };
    for (options, how) in [(&by_content, How::Alone), (&DELETE, How::Written)] {
        fs::write(at("stays/deep/f"), "another").unwrap();
        pull(&third, &third, how, options);
        assert_eq!(scan(target.path()), expected(&tree("third")));
    }
}

#[test]
fn a_new_name_of_a_file_in_a_directory_that_stays_is_a_link_to_it_even_where_nobody_else_writes() {
    let mut volume = Volume::new();
    let linked = || Node::Linked("linked".into(), 1);
    let stays = || dir([(b"f", linked())]);
    let before = volume.root(&dir([(b"a", dir([(b"x", text("x"))])), (b"stays", stays())]));
    let after = volume.root(&dir([(b"a", dir([(b"g", linked())])), (b"stays", stays())]));
    let target = tempfile::tempdir().unwrap();
    volume.checkout(&before, target.path(), &DELETE).unwrap();
    let Root::Whole(base) = &before else { unreachable!() };
    let base = Before { page: base.page().unwrap(), left_ns: i64::MAX, how: How::Alone };

    checkout_onto(&volume.space, &after, &base, target.path(), &DELETE, &mut Notes::default()).unwrap();

    let number = |name: &str| fs::metadata(target.path().join(name)).unwrap().ino();
    assert_eq!(number("a/g"), number("stays/f"));
}

#[test]
fn a_directory_with_something_in_it_gives_way_to_a_file_only_with_delete() {
    let mut volume = Volume::new();
    let after = dir([(b"a", text("new")), (b"x", text("file"))]);
    let root = volume.root(&after);
    let target = tempfile::tempdir().unwrap();
    fs::create_dir_all(target.path().join("x/y")).unwrap();
    fs::write(target.path().join("x/y/precious"), "p").unwrap();

    let refused = volume.checkout(&root, target.path(), &PLAIN).unwrap_err();
    assert!(matches!(&refused, Error::Refused(what) if what.starts_with("x:")), "{refused}");
    assert!(target.path().join("x/y/precious").exists());
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);

    volume.checkout(&root, target.path(), &DELETE).unwrap();
    assert_eq!(scan(target.path()), expected(&after));
}

#[test]
fn a_dry_run_makes_nothing_and_says_what_a_real_run_does() {
    let mut volume = Volume::new();
    let (first, second) = (volume.root(&dir([(b"a", text("1")), (b"b", dir([]))])), volume.root(&sample()));
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("not/yet");
    let dry = Options { dry_run: true, ..DELETE };

    let (planned, _) = volume.checkout(&first, &path, &dry).unwrap();
    assert_eq!((planned.created, planned.written_bytes), (2, 1));
    assert!(!target.path().join("not").exists());
    volume.checkout(&first, &path, &DELETE).unwrap();
    let before = scan(&path);
    let (report, changes) = volume.checkout(&second, &path, &dry).unwrap();

    assert_eq!(scan(&path), before);
    let (real_report, real_changes) = volume.checkout(&second, &path, &DELETE).unwrap();
    assert_eq!(changes, real_changes);
    let unsaid = Report { left_ns: None, growth_bytes: report.growth_bytes, ..real_report };
    assert_eq!(unsaid, report);
}

#[test]
fn single_entries_are_written_under_their_names() {
    let mut volume = Volume::new();
    let file = volume.file(b"f", b"one");
    let inner = volume.file(b"g", b"two");
    let directory = volume.directory(b"d", vec![inner]);
    volume.commit();
    let target = tempfile::tempdir().unwrap();

    volume.checkout(&Root::Entries(vec![file, directory]), target.path(), &PLAIN).unwrap();

    assert_eq!(fs::read(target.path().join("f")).unwrap(), b"one");
    assert_eq!(fs::read(target.path().join("d/g")).unwrap(), b"two");
}

#[test]
fn damaged_bytes_are_never_shown_and_the_file_is_named() {
    let mut volume = Volume::new();
    let bad = noise(3 << 20, 3);
    let root = volume.root(&dir([(b"d", dir([(b"bad", Node::File(bad))])), (b"good", text("good"))]));
    let target = tempfile::tempdir().unwrap();
    fs::create_dir(target.path().join("d")).unwrap();
    fs::write(target.path().join("d/bad"), "mine").unwrap();
    let data = fs::OpenOptions::new().write(true).open(volume.space.data_path(1)).unwrap();
    data.write_all_at(b"?", 2 << 20).unwrap();

    let error = volume.checkout(&root, target.path(), &PLAIN).unwrap_err();

    assert!(matches!(&error, Error::Damaged(what) if what.contains("d/bad")), "{error}");
    assert_eq!(fs::read(target.path().join("d/bad")).unwrap(), b"mine");
    assert!(
        !fs::read_dir(target.path()).unwrap().any(|entry| entry.unwrap().file_name().as_bytes().starts_with(b".pack"))
    );
}

#[test]
fn a_segment_that_is_cut_short_or_gone_is_damage_and_not_a_crash() {
    let mut volume = Volume::new();
    let root = volume.root(&dir([(b"f", Node::File(noise(3 << 20, 3)))]));
    let Root::Whole(entry) = &root else { unreachable!() };
    let page = volume.space.slice(entry.page().unwrap().extent()).unwrap().to_vec();
    let target = tempfile::tempdir().unwrap();
    let data = fs::OpenOptions::new().write(true).open(volume.space.data_path(1)).unwrap();
    data.set_len(1 << 20).unwrap();
    data.write_all_at(&page, entry.page().unwrap().address & 0x3ff_ffff).unwrap();

    // The hole reads as zeros; cut further, the mapping itself faults.
    assert!(matches!(volume.checkout(&root, target.path(), &PLAIN), Err(Error::Damaged(_))));
    data.set_len(0).unwrap();
    assert!(matches!(volume.checkout(&root, target.path(), &PLAIN), Err(Error::Damaged(_))));
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn a_file_whose_chunks_are_not_those_of_its_digest_or_size_is_not_shown() {
    let mut volume = Volume::new();
    let file = volume.file(b"f", b"content");
    volume.commit();
    let target = tempfile::tempdir().unwrap();
    let false_digest = Entry { digest: [1; 32], ..file.clone() };
    let false_size = Entry { size: 8, ..file.clone() };
    let Content::Extents(extents) = &file.content else { unreachable!() };
    let part = vec![Extent { length: 3, ..extents[0] }];
    let part_of_chunk = Entry { size: 3, content: Content::Extents(part), ..file.clone() };
    let elsewhere = vec![Extent { address: extents[0].address + (9 << 26), ..extents[0] }];
    let uncommitted = Entry { content: Content::Extents(elsewhere), ..file };

    for entry in [false_digest, false_size, part_of_chunk, uncommitted] {
        let answer = volume.checkout(&Root::Entries(vec![entry]), target.path(), &PLAIN);
        assert!(matches!(answer, Err(Error::Damaged(_) | Error::Invalid(_))), "{answer:?}");
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    }
}

/// The attacks that archives and transfers have fallen to: each tries to make `outside/file` something else.
#[test]
fn nothing_outside_the_target_is_reached_by_any_name_or_link() {
    let names: [&[u8]; 9] =
        [b"..", b".", b"", b"../outside/file", b"/etc/passwd", b"a/b", b"outside/file\0", b"a\0", &[b'n'; 256]];
    for name in names {
        let mut volume = Volume::new();
        let file = volume.file(name, b"theirs now");
        volume.commit();
        let world = tempfile::tempdir().unwrap();
        let target = world.path().join("target");
        let answer = volume.checkout(&Root::Entries(vec![file]), &target, &PLAIN);
        assert!(matches!(answer, Err(Error::Refused(_))), "{name:?}: {answer:?}");
        assert_eq!(scan(&target).len(), 1);
    }
}

#[test]
fn a_link_and_then_a_file_through_it_under_the_same_name_is_refused() {
    let mut volume = Volume::new();
    let world = tempfile::tempdir().unwrap();
    fs::create_dir(world.path().join("outside")).unwrap();
    let file = volume.file(b"file", b"theirs");
    let directory = volume.directory(b"d", vec![file]);
    volume.commit();
    let target = world.path().join("target");

    for entries in [vec![link(b"d", b"../outside"), directory.clone()], vec![directory, link(b"d", b"../outside")]] {
        let answer = volume.checkout(&Root::Entries(entries), &target, &PLAIN);
        assert!(matches!(answer, Err(Error::Refused(_))), "{answer:?}");
    }
    assert_eq!(fs::read_dir(world.path().join("outside")).unwrap().count(), 0);
}

#[test]
fn links_that_stand_in_the_target_are_replaced_and_never_followed() {
    let mut volume = Volume::new();
    let after = dir([
        (b"dir", dir([(b"file", text("mine"))])),
        (b"file", text("mine")),
        (b"hard", text("mine")),
        (b"fifo", text("mine")),
        (b"link", Node::Link(b"elsewhere".to_vec())),
    ]);
    let root = volume.root(&after);
    let world = tempfile::tempdir().unwrap();
    let (outside, target) = (world.path().join("outside"), world.path().join("target"));
    fs::create_dir_all(outside.join("full")).unwrap();
    fs::write(outside.join("file"), "theirs").unwrap();
    fs::create_dir(&target).unwrap();
    symlink("../outside", target.join("dir")).unwrap();
    symlink("../outside/file", target.join("file")).unwrap();
    symlink("../outside", target.join("link")).unwrap();
    symlink("../outside", target.join("surplus")).unwrap();
    fs::hard_link(outside.join("file"), target.join("hard")).unwrap();
    let fifo = rustix::fs::Mode::RUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, target.join("fifo"), fifo).unwrap();
    let before = scan(&outside);

    volume.checkout(&root, &target, &DELETE).unwrap();

    assert_eq!(scan(&outside), before);
    assert_eq!(scan(&target), expected(&after));
}

#[test]
fn pipes_devices_and_extended_attributes_come_out_right_and_stay_untouched() {
    let mut volume = Volume::new();
    let kinds =
        [(EntryKind::Fifo, "a", 0), (EntryKind::CharDevice, "b", 259), (EntryKind::BlockDevice, "c", 0x0012_3456)];
    let special = |(kind, name, rdev): (EntryKind, &str, u64)| Entry {
        name: name.as_bytes().into(),
        kind,
        rdev,
        mode: 0o666,
        mtime_ns: 5_000_000_007,
        ..Entry::default()
    };
    let mut entries: Vec<Entry> = kinds.into_iter().map(special).collect();
    entries[0].mode = 0o4622;
    let xattrs = vec![(b"user.x".to_vec(), b"y".to_vec())];
    let file = volume.file(b"d", b"content");
    entries.push(Entry { xattrs: xattrs.clone(), mode: 0o444, ..file });
    let inner = volume.directory(b"e", vec![special((EntryKind::Fifo, "f", 0))]);
    entries.push(Entry { xattrs: xattrs.clone(), ..inner });
    volume.commit();
    let target = tempfile::tempdir_in(".").unwrap();
    if !has_attributes(target.path()) {
        return;
    }
    let root = Root::Entries(entries);

    let (report, _) = volume.checkout(&root, target.path(), &PLAIN).unwrap();

    let is_root = rustix::process::geteuid().is_root();
    assert_eq!((report.created, report.devices.count), if is_root { (6, 0) } else { (4, 2) });
    assert_eq!(report.attributes, Missed::default());
    let stat = |name: &str| fs::symlink_metadata(target.path().join(name)).unwrap();
    for (name, mode) in [("a", 0o010_622), ("e/f", 0o010_666)] {
        let mode = if is_root && name == "a" { mode | 0o4000 } else { mode };
        assert_eq!((stat(name).mode(), stat(name).mtime_nsec()), (mode, 7), "{name}");
    }
    if is_root {
        assert_eq!((stat("b").mode(), stat("b").rdev()), (0o020_666, 259));
        assert_eq!((stat("c").mode(), stat("c").rdev()), (0o060_666, 0x0012_3456));
    }
    for name in ["d", "e"] {
        let open = fs::File::open(target.path().join(name)).unwrap();
        assert_eq!(xattr::read(&Holder::Open(open.as_fd())).unwrap(), xattrs);
    }
    assert_eq!(stat("d").mode(), 0o100_444);
    let (again, changes) = volume.checkout(&root, target.path(), &PLAIN).unwrap();
    assert_eq!((again.unchanged, changes.len()), (report.created, 0));
}

fn set_xattr(path: &Path, name: &str, value: &str) {
    let holder = Holder::beneath(None, path.as_os_str().as_bytes()).unwrap();
    assert!(xattr::set(&holder, &vec![(name.into(), value.into())]).unwrap());
}

/// Whether the file system keeps what these tests set.
fn has_attributes(directory: &Path) -> bool {
    let holder = Holder::beneath(None, directory.as_os_str().as_bytes()).unwrap();
    let probe = vec![(b"user.probe".to_vec(), vec![1; 2500])];
    xattr::set(&holder, &probe).unwrap() && xattr::replace(&holder, &vec![]).unwrap()
}

fn xattrs_of(path: &Path) -> Xattrs {
    xattr::read(&Holder::beneath(None, path.as_os_str().as_bytes()).unwrap()).unwrap()
}

#[test]
fn attributes_that_differ_are_made_those_of_the_snapshot_and_content_is_left() {
    let mut volume = Volume::new();
    let wanted = vec![(b"user.kept".to_vec(), b"1".to_vec()), (b"user.long".to_vec(), vec![9; 2000])];
    let file = |volume: &mut Volume, name: &[u8]| Entry { xattrs: wanted.clone(), ..volume.file(name, b"content") };
    let inner = vec![file(&mut volume, b"f"), file(&mut volume, b"g")];
    let directory = volume.directory(b"d", inner);
    let root = Entry { xattrs: wanted.clone(), ..directory };
    let root = volume.directory(b"root", vec![root]);
    volume.commit();
    let target = tempfile::tempdir_in(".").unwrap();
    if !has_attributes(target.path()) {
        return;
    }
    let root = Root::Whole(Entry { xattrs: wanted.clone(), ..root });
    volume.checkout(&root, target.path(), &PLAIN).unwrap();
    let names = [".", "d", "d/f"].map(|name| target.path().join(name));
    for path in &names {
        set_xattr(path, "user.kept", "other");
        set_xattr(path, "user.surplus", "x");
    }
    let ino = fs::metadata(&names[2]).unwrap().ino();

    let (report, _) = volume.checkout(&root, target.path(), &PLAIN).unwrap();

    assert!(names.iter().all(|path| xattrs_of(path) == wanted));
    assert_eq!((report.metadata, report.unchanged, report.written_bytes), (2, 1, 0));
    assert_eq!(fs::metadata(&names[2]).unwrap().ino(), ino);
}

/// A change of attributes shows in the ctime; what is older than the last pull is as that left it.
#[test]
fn attributes_are_not_looked_at_where_the_last_tree_and_the_ctime_vouch_for_them() {
    let mut volume = Volume::new();
    let with = |volume: &mut Volume, value: &str| {
        let xattrs = vec![(b"user.a".to_vec(), value.as_bytes().to_vec())];
        let file = Entry { xattrs, ..volume.file(b"f", b"content") };
        let other = volume.file(b"g", b"content");
        volume.directory(b"root", vec![file, other])
    };
    let (first, second) = (with(&mut volume, "1"), with(&mut volume, "2"));
    volume.commit();
    let target = tempfile::tempdir_in(".").unwrap();
    if !has_attributes(target.path()) {
        return;
    }
    let pull = |root: &Entry, base: Option<&Before>| {
        let root = Root::Whole(root.clone());
        checkout_from(&*volume.space, &root, base, target.path(), &PLAIN, &mut Notes::default()).unwrap()
    };
    let left_ns = pull(&first, None).left_ns.expect("it wrote");
    let path = target.path().join("f");
    let before = |entry: &Entry, left_ns| Before { page: entry.page().unwrap(), left_ns, how: How::Written };

    // The tree says that they changed.
    let report = pull(&second, Some(&before(&first, left_ns)));
    assert_eq!((report.metadata, xattrs_of(&path)[0].1.as_slice()), (1, &b"2"[..]));
    // Somebody else changed them, and the ctime says so.
    set_xattr(&path, "user.a", "3");
    pull(&second, Some(&before(&second, left_ns)));
    assert_eq!(xattrs_of(&path)[0].1, b"2");
    // Were the ctime older than the last pull, nobody would look.
    set_xattr(&path, "user.a", "3");
    pull(&second, Some(&before(&second, i64::MAX)));
    assert_eq!(xattrs_of(&path)[0].1, b"3");
    // A tree that cannot be read vouches for nothing.
    let lost = PageRef { address: 1 << 40, ..first.page().unwrap() };
    let lost = PageRef { digest: [9; 32], ..lost };
    pull(&second, Some(&Before { page: lost, left_ns: i64::MAX, how: How::Written }));
    assert_eq!(xattrs_of(&path)[0].1, b"2");
}

#[test]
fn what_a_directory_hands_down_does_not_reach_what_is_pulled_into_it() {
    let mut volume = Volume::new();
    let file = volume.file(b"f", b"content");
    let inner = volume.file(b"g", b"content");
    let directory = volume.directory(b"d", vec![inner]);
    volume.commit();
    let target = tempfile::tempdir_in(".").unwrap();
    // user::rwx user:1:rwx group::r-x mask::rwx other::r-x, as the kernel has it
    let acl: Vec<u8> = [(1u16, 7u16, u32::MAX), (2, 7, 1), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]
        .iter()
        .flat_map(|(tag, rights, id)| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat())
        .collect();
    let acl = [&2u32.to_le_bytes()[..], &acl].concat();
    let holder = Holder::beneath(None, target.path().as_os_str().as_bytes()).unwrap();
    if !xattr::set(&holder, &vec![(b"system.posix_acl_default".to_vec(), acl)]).unwrap() {
        return; // a file system without lists of access rights
    }

    volume.checkout(&Root::Entries(vec![file, directory]), target.path(), &PLAIN).unwrap();

    assert!(["f", "d", "d/g"].iter().all(|name| xattrs_of(&target.path().join(name)).is_empty()));
    assert_eq!(fs::metadata(target.path().join("d/g")).unwrap().mode(), 0o100_644);
}

#[test]
fn owners_go_by_name_by_number_or_by_wish() {
    struct Known;
    impl OnProgress for Known {
        fn progress(&mut self, _progress: &Progress) -> Result<()> {
            Ok(())
        }
        fn report(&mut self, _batch: &[Change]) -> Result<()> {
            Ok(())
        }
        fn owner_number(&mut self, owner: OwnerName<'_>) -> Result<Option<u32>> {
            Ok(match owner {
                OwnerName::User(b"ada") => Some(4001),
                OwnerName::Group(b"staff") => Some(4002),
                _ => None,
            })
        }
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut volume = Volume::new();
    let file = volume.file(b"f", b"content");
    let known = Entry { uid: 11, gid: 12, user: b"ada".to_vec(), group: b"staff".to_vec(), ..file.clone() };
    let unknown = Entry { name: b"g".to_vec(), uid: 11, gid: 12, user: b"bob".to_vec(), ..file };
    volume.commit();
    let root = Root::Entries(vec![known, unknown]);
    let restore = Owners { restore: true, ..Owners::default() };
    for (owners, expected) in [
        (restore, [(4001, 4002), (11, 12)]),
        (Owners { numeric: true, ..restore }, [(11, 12), (11, 12)]),
        (Owners { user: Some(5), ..restore }, [(5, 4002), (5, 12)]),
        (Owners { group: Some(6), ..restore }, [(4001, 6), (11, 6)]),
        (NOT_WISHED, [(0, 0), (0, 0)]),
    ] {
        let target = tempfile::tempdir().unwrap();
        let options = Options { owners, ..PLAIN };

        let report = checkout(&volume.space, &root, target.path(), &options, &mut Known).unwrap();

        let owner = |name: &str| {
            let stat = fs::metadata(target.path().join(name)).unwrap();
            (stat.uid(), stat.gid())
        };
        assert_eq!(([owner("f"), owner("g")], report.owners.count), (expected, 0));
    }
}

#[test]
fn links_and_pipes_with_several_names_are_one() {
    let mut volume = Volume::new();
    let of = |name: &str, link_id, entry: &Entry| Entry { name: name.into(), link_id, ..entry.clone() };
    let pipe = Entry { kind: EntryKind::Fifo, mode: 0o600, ..Entry::default() };
    let (one, other) = (link(b"", b"x"), link(b"", b"y"));
    let inner = vec![of("p", 1, &pipe), of("q", 2, &one), of("s", 2, &other)];
    let directory = volume.directory(b"d", inner);
    let root = Root::Entries(vec![directory, of("p", 1, &pipe), of("q", 2, &one)]);
    volume.commit();
    let target = tempfile::tempdir().unwrap();

    for _ in 0..2 {
        volume.checkout(&root, target.path(), &PLAIN).unwrap();

        let stat = |name: &str| fs::symlink_metadata(target.path().join(name)).unwrap();
        assert_eq!((stat("p").ino(), stat("p").nlink()), (stat("d/p").ino(), 2));
        assert_eq!((stat("q").ino(), stat("q").nlink()), (stat("d/q").ino(), 2));
        assert_eq!(stat("d/s").nlink(), 1, "two targets are two links, whatever the number says");
    }
}

#[test]
fn an_error_of_who_is_told_stops_it_cleanly_and_a_second_run_completes() {
    let mut volume = Volume::new();
    let files =
        (0..9000).map(|index: u32| (format!("{index:05}").into_bytes(), Node::File(index.to_le_bytes().into())));
    let node = Node::Dir(files.collect());
    let root = volume.root(&node);
    let target = tempfile::tempdir().unwrap();
    let mut notes = Notes { stop_after: Some(1), ..Notes::default() };

    let answer = checkout(&volume.space, &root, target.path(), &PLAIN, &mut notes);

    assert!(matches!(answer, Err(Error::Host(_))));
    let shown = fs::read_dir(target.path()).unwrap().count();
    assert_eq!(shown, notes.changes.len());
    assert!((1000..9000).contains(&shown));
    let (report, _) = volume.checkout(&root, target.path(), &PLAIN).unwrap();
    assert_eq!(report.unchanged as usize, shown);
    assert_eq!(scan(target.path()), expected(&node));
}

#[test]
fn what_a_killed_checkout_left_is_removed_and_what_a_living_one_holds_is_not() {
    let mut volume = Volume::new();
    let root = volume.root(&dir([(b"f", text("f"))]));
    let target = tempfile::tempdir().unwrap();
    let path = |name: &str| target.path().join(name);
    for name in [".packetfs-00000001", ".packetfs-0000000a", ".packetfs-0000000b"] {
        fs::create_dir_all(path(name).join("7/deep")).unwrap();
    }
    for name in [".packetfs-00000001", ".packetfs-0000000a"] {
        act::mark(&Dir::open(&path(name)).unwrap()).unwrap();
    }
    // A copy of a staging directory: its marker names another.
    fs::copy(path(".packetfs-00000001/packetfs-staging"), path(".packetfs-0000000b/packetfs-staging")).unwrap();
    for name in [".packetfs-00000001-1", ".packetfs-0000000a-1", ".packetfs-0000000c-1"] {
        fs::write(path(name), "waiting").unwrap();
    }
    let living = fs::File::open(path(".packetfs-0000000a")).unwrap();
    rustix::fs::flock(&living, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();

    let (dry, _) = volume.checkout(&root, target.path(), &Options { dry_run: true, ..PLAIN }).unwrap();
    volume.checkout(&root, target.path(), &PLAIN).unwrap();
    assert_eq!(dry.deleted, 1); // what waited on another mount
    assert!(!path(".packetfs-00000001").exists() && !path(".packetfs-00000001-1").exists());
    assert!(path(".packetfs-0000000b/7/deep").exists() && path(".packetfs-0000000c-1").exists());

    volume.checkout(&root, target.path(), &DELETE).unwrap();
    assert!(path(".packetfs-0000000a/7/deep").exists() && path(".packetfs-0000000a-1").exists());
    assert!(!path(".packetfs-0000000b").exists() && !path(".packetfs-0000000c-1").exists());
    drop(living);
    volume.checkout(&root, target.path(), &PLAIN).unwrap();
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);
}

#[test]
fn a_checkout_at_work_deeper_in_the_target_keeps_its_staging_directory() {
    let mut volume = Volume::new();
    let root = volume.root(&dir([(b"d", dir([(b"f", text("f"))]))]));
    let target = tempfile::tempdir().unwrap();
    let inner = target.path().join("d/.packetfs-0000000a");
    fs::create_dir_all(&inner).unwrap();
    let living = fs::File::open(&inner).unwrap();
    rustix::fs::flock(&living, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();

    volume.checkout(&root, target.path(), &DELETE).unwrap();
    assert!(inner.exists());
    drop(living);
    volume.checkout(&root, target.path(), &DELETE).unwrap();
    assert!(!inner.exists());
}

#[test]
fn entries_that_are_called_like_a_staging_directory_come_out_right() {
    let mut volume = Volume::new();
    let node = dir([
        (
            b".packetfs-00000001",
            dir([(b"packetfs-staging", text("packetfs staging directory 1\n")), (b"f", text("f"))]),
        ),
        (b".packetfs-00000002", text("a file")),
        (b".packetfs-00000002-7", text("another")),
        (b"d", dir([(b".packetfs-00000003", dir([]))])),
    ]);
    let root = volume.root(&node);
    let target = tempfile::tempdir().unwrap();

    volume.checkout(&root, target.path(), &DELETE).unwrap();
    let (again, _) = volume.checkout(&root, target.path(), &DELETE).unwrap();

    assert_eq!(scan(target.path()), expected(&node));
    assert_eq!((again.created, again.replaced, again.deleted), (0, 0, 0));
}

#[test]
fn nothing_is_removed_that_a_file_system_is_mounted_in() {
    let mut volume = Volume::new();
    let nothing = volume.root(&dir([]));
    let over = volume.root(&dir([(b"d", text("file"))]));
    let target = tempfile::tempdir().unwrap();
    let point = target.path().join("d/m p");
    fs::create_dir_all(&point).unwrap();
    fs::write(target.path().join("d/a"), "precious").unwrap();
    let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&point).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        return; // not allowed here
    }

    let answers = [&nothing, &over].map(|root| volume.checkout(root, target.path(), &DELETE));
    assert!(std::process::Command::new("umount").arg(&point).status().unwrap().success());

    for answer in answers {
        assert!(matches!(&answer, Err(Error::Refused(what)) if what.contains("d/m p")), "{answer:?}");
    }
    assert_eq!(fs::read(target.path().join("d/a")).unwrap(), b"precious");
}

#[test]
fn one_large_file_can_be_stopped_between_two_pieces() {
    let mut volume = Volume::new();
    let part = noise(1 << 20, 9);
    let file = volume.file(b"f", &part);
    let Content::Extents(extents) = &file.content else { unreachable!() };
    let mut content = ContentDigest::new(&volume.space.keys().content);
    let chunks: Vec<Digest> = part.chunks(CHUNK).map(|chunk| digest(&volume.space.keys().digest, chunk)).collect();
    let repeats = 64usize;
    (0..repeats).for_each(|_| chunks.iter().for_each(|chunk| content.chunk(chunk)));
    let extents = extents.repeat(repeats);
    let size = (repeats << 20) as u64;
    let large = Entry { size, digest: content.finish(), content: Content::Extents(extents), ..file };
    volume.commit();
    let target = tempfile::tempdir().unwrap();
    let home = Arc::new(Home::target(Dir::open(target.path()).unwrap(), creator()).unwrap());
    let pool = Pool::new(&*volume.space);
    let mut feeder = Feeder::new(&pool);
    let rules = Rules { owners: Owners::default(), root: true, uid: 0, gid: 0, groups: vec![] };
    let attributes = rules.attributes(&large, (0, 0));
    let job = FileJob { home, name: b"f".to_vec(), file: None, entry: large, attributes, path: b"f".to_vec() };
    let mut calls = 0;

    let answer = feeder.add(job, &mut || {
        calls += 1;
        if calls == 3 { Err(Error::Host(Box::new("stop"))) } else { Ok(()) }
    });
    feeder.abandon();

    assert!(matches!(answer, Err(Error::Host(_))), "{answer:?}");
    assert!(pool.bytes() < size / 2, "{} bytes", pool.bytes());
}

#[test]
fn a_tree_deeper_than_any_path_and_than_the_levels_held_open_is_written_and_removed() {
    let mut volume = Volume::new();
    let name = [b'd'; 60];
    let mut entry = volume.file(b"bottom", b"reached");
    for _ in 0..3 * OPEN_LEVELS {
        let beside = volume.file(b"z", b"after");
        let mut directory = volume.directory(&name, vec![entry, beside]);
        directory.mode = 0o700;
        entry = directory;
    }
    volume.commit();
    let root = Root::Entries(vec![entry]);
    let target = tempfile::tempdir().unwrap();

    let (report, _) = volume.checkout(&root, target.path(), &PLAIN).unwrap();

    assert_eq!(report.created as usize, 6 * OPEN_LEVELS + 1);
    let mut inner = Dir::open(target.path()).unwrap();
    for _ in 0..3 * OPEN_LEVELS {
        inner = inner.enter(Name::new(&name).unwrap()).unwrap();
        assert_eq!(inner.stat_self().unwrap().st_mtime, 1_600_000_000);
        assert!(inner.stat(Name::new(b"z").unwrap()).unwrap().is_some());
    }
    assert_eq!(inner.stat(Name::new(b"bottom").unwrap()).unwrap().unwrap().st_size, 7);
    drop(inner);
    let (again, _) = volume.checkout(&root, target.path(), &PLAIN).unwrap();
    assert_eq!(again.unchanged, report.created);
    let (gone, _) = volume.checkout(&Root::Entries(vec![]), target.path(), &DELETE).unwrap();
    assert_eq!(gone.deleted, 1);
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn holes_are_length_without_bytes() {
    let mut volume = Volume::new();
    let first = volume.file(b"f", b"first");
    let last = volume.file(b"f", b"last");
    volume.commit();
    let (Content::Extents(a), Content::Extents(b)) = (&first.content, &last.content) else { unreachable!() };
    let hole = |length| Extent { address: 0, length };
    let keys = volume.space.keys();
    let mut content = ContentDigest::new(&keys.content);
    content.hole(10 << 20);
    content.chunk(&digest(&keys.digest, b"first"));
    content.hole(8192);
    content.chunk(&digest(&keys.digest, b"last"));
    content.hole(4096);
    let extents = vec![hole(10 << 20), a[0], hole(4096), hole(4096), b[0], hole(4096)];
    let size = extents.iter().map(|extent| extent.length).sum();
    let sparse = Entry { size, digest: content.finish(), content: Content::Extents(extents), ..first };
    let target = tempfile::tempdir().unwrap();

    volume.checkout(&Root::Entries(vec![sparse]), target.path(), &PLAIN).unwrap();

    let bytes = fs::read(target.path().join("f")).unwrap();
    assert_eq!(bytes.len() as u64, size);
    assert_eq!(&bytes[10 << 20..(10 << 20) + 6], b"first\0");
    assert_eq!(&bytes[bytes.len() - 4100..bytes.len() - 4095], b"last\0");
    assert!(fs::metadata(target.path().join("f")).unwrap().blocks() < 100);
}

#[test]
fn modes_that_the_umask_would_take_away_and_owners_are_set() {
    let mut volume = Volume::new();
    let mut file = volume.file(b"f", b"content");
    (file.mode, file.uid, file.gid) = (0o6777, 4321, 8765);
    let link = Entry { uid: 4321, gid: 8765, ..link(b"l", b"x") };
    let mut directory = volume.directory(b"d", vec![]);
    (directory.mode, directory.uid, directory.gid) = (0o1777, 4321, 8765);
    volume.commit();
    let target = tempfile::tempdir().unwrap();
    let root = Root::Entries(vec![file, link, directory]);

    for round in 0..2 {
        let (report, _) = volume.checkout(&root, target.path(), &OWNERS).unwrap();
        assert_eq!(if round == 0 { report.created } else { report.unchanged }, 3);
        let stat = |name: &str| fs::symlink_metadata(target.path().join(name)).unwrap();
        if rustix::process::geteuid().is_root() {
            assert_eq!(stat("f").mode() & 0o7777, 0o6777);
            assert!(["f", "l", "d"].iter().all(|name| (stat(name).uid(), stat(name).gid()) == (4321, 8765)));
        } else {
            assert_eq!((stat("f").mode() & 0o7777, report.owners.count), (0o777, 3));
        }
        assert_eq!(stat("d").mode() & 0o7777, 0o1777);
    }
}

#[test]
fn a_directory_of_many_pages_is_written_in_several_groups() {
    let mut volume = Volume::new();
    let bytes = b"the same content for all".to_vec();
    let template = volume.file(b"", &bytes);
    let entries =
        (0..20_000).map(|index| Entry { name: format!("{index:06}").into_bytes(), ..template.clone() }).collect();
    let directory = volume.directory(b"many", entries);
    volume.commit();
    let target = tempfile::tempdir().unwrap();

    let (report, changes) = volume.checkout(&Root::Entries(vec![directory]), target.path(), &PLAIN).unwrap();

    assert_eq!((report.created, changes.len()), (20_001, 20_001));
    assert_eq!(fs::read_dir(target.path().join("many")).unwrap().count(), 20_000);
    assert_eq!(fs::metadata(target.path().join("many")).unwrap().mtime(), 1_600_000_000);
}

#[test]
fn bytes_are_on_disk_before_any_name_shows_them_new_names_included() {
    let target = tempfile::tempdir().unwrap();
    let home = Arc::new(Home::target(Dir::open(target.path()).unwrap(), creator()).unwrap());
    let group = |kinds: &[EntryKind]| {
        let mut group = Group::first(None);
        for (index, kind) in kinds.iter().enumerate() {
            let name = index.to_string().into_bytes();
            let (from, to) = (Arc::clone(&home), Arc::clone(&home));
            let (over, delete, path) = (Over::Nothing, false, name.clone());
            group.add_move(Move { from, waiting: name.clone(), to, name, kind: *kind, over, delete, path });
        }
        group
    };
    let (file, directory, symlink) = (EntryKind::File, EntryKind::Directory, EntryKind::Symlink);

    assert_eq!(group(&[file, symlink, file]).to_sync(2).len(), 2);
    assert_eq!(group(&[file; 17]).to_sync(17).len(), 1); // the file system
    assert_eq!(group(&[symlink, directory]).to_sync(1).len(), 1); // a file is in the directory
    assert!(group(&[symlink, directory]).to_sync(0).is_empty());
}

#[test]
fn what_cannot_be_brought_to_disk_is_not_shown() {
    let target = tempfile::tempdir().unwrap();
    let home = Arc::new(Home::target(Dir::open(target.path()).unwrap(), creator()).unwrap());
    let mut group = Group::first(None);
    group.add_move(Move {
        from: Arc::clone(&home),
        waiting: b"missing".to_vec(),
        to: home,
        name: b"name".to_vec(),
        kind: EntryKind::File,
        over: Over::Nothing,
        delete: false,
        path: b"dir/name".to_vec(),
    });

    let answer = act::sync(group.to_sync(1)).recv().unwrap();

    assert!(matches!(&answer, Err(Error::Io { path, .. }) if path == Path::new("dir/name")), "{answer:?}");
}

#[test]
fn no_mode_is_changed_through_a_name_outside_the_target() {
    let mut volume = Volume::new();
    let root = volume.root(&dir([(b"f", Node::Mode(b"same".to_vec(), 0o666))]));
    let linked = dir([(b"f", Node::Linked(b"same".to_vec(), 4)), (b"g", Node::Linked(b"same".to_vec(), 4))]);
    let second = volume.root(&linked);
    for (root, after) in [(&root, dir([(b"f", Node::Mode(b"same".to_vec(), 0o666))])), (&second, linked)] {
        let world = tempfile::tempdir().unwrap();
        let (outside, target) = (world.path().join("outside"), world.path().join("target"));
        fs::create_dir(&target).unwrap();
        fs::write(&outside, "same").unwrap();
        rustix::fs::chmod(&outside, rustix::fs::Mode::RUSR).unwrap();
        let time = crate::beneath::times(file_time(b"same"));
        rustix::fs::futimens(fs::File::open(&outside).unwrap(), &time).unwrap();
        fs::hard_link(&outside, target.join("f")).unwrap();
        let before = fs::metadata(&outside).unwrap();

        volume.checkout(root, &target, &PLAIN).unwrap();

        let now = fs::metadata(&outside).unwrap();
        assert_eq!((now.mode(), now.uid(), now.nlink()), (before.mode(), before.uid(), 1));
        assert_eq!(scan(&target), expected(&after));
        let (again, _) = volume.checkout(root, &target, &PLAIN).unwrap();
        assert_eq!((again.created, again.replaced, again.metadata), (0, 0, 0));
    }
}

#[test]
fn a_file_that_is_not_the_one_that_was_looked_at_is_not_touched() {
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("f"), "x").unwrap();
    let dir = Dir::open(target.path()).unwrap();
    let stat = fs::metadata(target.path().join("f")).unwrap();
    let name = Name::new(b"f").unwrap();
    let identity = (stat.dev(), stat.ino());

    assert_eq!(act::touch_file(&dir, name, (stat.dev(), stat.ino() + 1), 0o600, None, None), Err(Errno::STALE));
    fs::hard_link(target.path().join("f"), target.path().join("g")).unwrap();
    assert_eq!(act::touch_file(&dir, name, identity, 0o600, None, None), Err(Errno::STALE));
    fs::remove_file(target.path().join("g")).unwrap();
    assert_eq!(fs::metadata(target.path().join("f")).unwrap().mode(), stat.mode());
    act::touch_file(&dir, name, identity, 0o600, None, None).unwrap();
    assert_eq!(fs::metadata(target.path().join("f")).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn names_that_are_one_file_in_the_target_and_several_in_the_tree_become_several() {
    let mut volume = Volume::new();
    let bytes = b"same".to_vec();
    let linked = ["a", "b", "c", "d"].map(|name| (name.as_bytes().to_vec(), Node::Linked(bytes.clone(), 3)));
    let first = volume.root(&Node::Dir(linked.into_iter().collect()));
    let after = dir([
        (b"a", Node::File(bytes.clone())),
        (b"b", Node::Mode(bytes.clone(), 0o600)),
        (b"c", Node::Linked(bytes.clone(), 5)),
        (b"d", Node::Linked(bytes.clone(), 6)),
    ]);
    let second = volume.root(&after);
    let target = tempfile::tempdir().unwrap();
    volume.checkout(&first, target.path(), &PLAIN).unwrap();

    volume.checkout(&second, target.path(), &PLAIN).unwrap();

    assert_eq!(scan(target.path()), expected(&after));
    let mut numbers = ["a", "b", "c", "d"].map(|name| fs::metadata(target.path().join(name)).unwrap().ino());
    numbers.sort_unstable();
    assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_link_number_that_stands_for_two_contents_is_two_files() {
    let mut volume = Volume::new();
    let node = dir([(b"a", Node::Linked(b"one".to_vec(), 3)), (b"b", Node::Linked(b"another".to_vec(), 3))]);
    let root = volume.root(&node);
    let target = tempfile::tempdir().unwrap();

    volume.checkout(&root, target.path(), &PLAIN).unwrap();

    assert_eq!(scan(target.path()), expected(&node));
}

#[test]
fn bytes_that_were_not_verified_are_not_made_a_program_of_roots() {
    let mut volume = Volume::new();
    let program = Entry { mode: 0o4755, ..volume.file(b"f", b"ours") };
    volume.commit();
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("f"), "evil").unwrap();
    let file = fs::File::open(target.path().join("f")).unwrap();
    rustix::fs::futimens(&file, &crate::beneath::times(program.mtime_ns)).unwrap();

    volume.checkout(&Root::Entries(vec![program]), target.path(), &OWNERS).unwrap();

    if rustix::process::geteuid().is_root() {
        assert_eq!(fs::read(target.path().join("f")).unwrap(), b"ours");
        assert_eq!(fs::metadata(target.path().join("f")).unwrap().mode() & 0o7777, 0o4755);
    }
}

#[test]
fn the_volume_that_is_read_is_never_written_to() {
    let mut volume = Volume::new();
    let home = volume.space.directory().to_path_buf();
    let name = home.file_name().unwrap().as_bytes().to_vec();
    let through = volume.root(&Node::Dir([(name.clone(), dir([(b"segments", text("mine"))]))].into()));
    let over = volume.root(&Node::Dir([(name, text("mine"))].into()));
    let inside = volume.root(&dir([(b"segments", dir([]))]));
    let nothing = volume.root(&dir([]));
    let world = tempfile::tempdir().unwrap();
    let target = world.path().join("target");
    fs::create_dir(&target).unwrap();
    let moved = target.join(home.file_name().unwrap());
    fs::rename(&home, &moved).unwrap();
    symlink(&moved, &home).unwrap();
    let before = scan(&moved);

    for (root, target) in [(&through, &target), (&over, &target), (&inside, &moved), (&nothing, &target)] {
        let answer = volume.checkout(root, target, &DELETE);
        assert!(matches!(answer, Err(Error::Refused(_))), "{answer:?}");
    }

    assert_eq!(scan(&moved), before);
    fs::remove_file(&home).unwrap();
    fs::rename(&moved, &home).unwrap();
}

#[test]
#[ignore = "lowers the limits of its process; run by the test below"]
fn with_few_open_files() {
    let Ok(target) = std::env::var("CHECKOUT_FEW_FILES") else { return };
    setrlimit(Resource::Nofile, Rlimit { current: Some(400), maximum: Some(400) }).unwrap();
    let mut volume = Volume::new();
    let mut entry = volume.file(b"bottom", b"reached");
    for _ in 0..1000 {
        let before = volume.file(b"a", b"before");
        entry = volume.directory(b"d", vec![before, entry]);
    }
    volume.commit();
    let (report, _) = volume.checkout(&Root::Entries(vec![entry]), Path::new(&target), &PLAIN).unwrap();
    assert_eq!(report.created, 1001);
}

#[test]
fn new_files_in_a_deep_tree_that_is_there_need_few_open_files() {
    let target = tempfile::tempdir().unwrap();
    let mut inner = Dir::open(target.path()).unwrap();
    let name = Name::new(b"d").unwrap();
    for _ in 0..1000 {
        inner.make(name, 0o755).unwrap();
        inner = inner.enter(name).unwrap();
    }
    drop(inner);

    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "checkout::tests::with_few_open_files"])
        .env("CHECKOUT_FEW_FILES", target.path())
        .output()
        .unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Dir::open(target.path()).unwrap().clear().unwrap();
}

/// The crash test's two states, and the volume that holds both, built alike in parent and child.
fn crash_world(volume: &mut Volume) -> (Node, Node, Root, Root) {
    let before = dir([
        (b"a", text("old a")),
        (b"b", dir([(b"x", text("old x")), (b"y", text("same"))])),
        (b"c", text("file")),
        (b"d", dir([])),
        (b"gone", dir([(b"f", text("f"))])),
    ]);
    let after = dir([
        (b"a", text("new a!")),
        (b"b", dir([(b"x", text("new x!")), (b"y", text("same")), (b"z", dir([(b"n", text("n"))]))])),
        (b"c", dir([(b"f", text("f"))])),
        (b"d", text("file")),
        (b"h1", Node::Linked(b"linked".to_vec(), 3)),
        (b"h2", Node::Linked(b"linked".to_vec(), 3)),
    ]);
    let (first, second) = (volume.root(&before), volume.root(&after));
    (before, after, first, second)
}

#[test]
#[ignore = "kills its process; run by the test below"]
fn killed_at_a_point() {
    let (Ok(target), Ok(point)) = (std::env::var("CHECKOUT_TARGET"), std::env::var("CHECKOUT_POINT")) else { return };
    let mut volume = Volume::new();
    let (_, _, _, second) = crash_world(&mut volume);
    crate::fault::crash_at(point.parse().unwrap());
    volume.checkout(&second, Path::new(&target), &DELETE).unwrap();
}

#[test]
fn killed_at_any_point_every_name_is_old_or_new_and_the_next_run_completes() {
    use std::os::unix::process::ExitStatusExt;
    let mut volume = Volume::new();
    let (before, after, first, second) = crash_world(&mut volume);
    let (old, new) = (expected(&before), expected(&after));
    for point in 1.. {
        let target = tempfile::tempdir().unwrap();
        volume.checkout(&first, target.path(), &PLAIN).unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "checkout::tests::killed_at_a_point"])
            .env("CHECKOUT_TARGET", target.path())
            .env("CHECKOUT_POINT", point.to_string())
            .output()
            .unwrap()
            .status;
        for (path, row) in scan(target.path()) {
            if path.as_os_str().as_bytes().starts_with(b".packetfs-") {
                continue;
            }
            let matches = |all: &BTreeMap<PathBuf, (u32, i64, Vec<u8>)>| {
                // A directory's time is set when its content is complete; mode and content count at any instant.
                all.get(&path).is_some_and(|other| other.0 & 0o170_000 == row.0 & 0o170_000 && other.2 == row.2)
            };
            assert!(matches(&old) || matches(&new), "point {point}: {path:?} is neither old nor new");
        }
        volume.checkout(&second, target.path(), &DELETE).unwrap();
        assert_eq!(scan(target.path()), new, "point {point}");
        if status.signal().is_none() {
            assert!(status.success() && point > 8, "only {point} points");
            break;
        }
    }
}

fn nodes() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Node::File),
        (prop::collection::vec(any::<u8>(), 0..3), 0u32..0o1000)
            .prop_map(|(bytes, mode)| Node::Mode(bytes, mode | 0o400)),
        (Just(b"linked".to_vec()), 1u64..3).prop_map(|(bytes, id)| Node::Linked(bytes, id)),
        prop::sample::select(vec!["/", "..", "a", "a/b"]).prop_map(|to| Node::Link(to.into())),
    ];
    let name = prop::sample::select(vec![&b"a"[..], b"b", b"c", b"\xff", b"dd"]);
    let tree = leaf.prop_recursive(3, 30, 5, move |inner| {
        prop::collection::btree_map(name.clone().prop_map(<[u8]>::to_vec), inner, 0..5).prop_map(Node::Dir)
    });
    tree.prop_map(|node| if matches!(node, Node::Dir(_)) { node } else { dir([(b"a", node)]) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn from_any_tree_a_checkout_with_delete_leads_to_exactly_any_other(
        before in nodes(),
        after in nodes(),
        how in prop::option::of(prop_oneof![Just(How::Written), Just(How::Alone)]),
    ) {
        let mut volume = Volume::new();
        let (first, second) = (volume.root(&before), volume.root(&after));
        let target = tempfile::tempdir().unwrap();

        let (report, _) = volume.checkout(&first, target.path(), &DELETE).unwrap();
        prop_assert_eq!(scan(target.path()), expected(&before));
        let Root::Whole(entry) = &first else { unreachable!() };
        let left_ns = report.left_ns.unwrap_or(i64::MIN);
        let base = how.map(|how| Before { page: entry.page().unwrap(), left_ns, how });
        let mut notes = Notes::default();
        checkout_from(&*volume.space, &second, base.as_ref(), target.path(), &DELETE, &mut notes).unwrap();

        prop_assert_eq!(scan(target.path()), expected(&after));
        // Links of one group are one file.
        let files = scan(target.path()).into_iter().filter(|(_, row)| row.2 == b"linked");
        let number = |path: PathBuf| fs::metadata(target.path().join(path)).unwrap().ino();
        let mut numbers: Vec<u64> = files.map(|(path, _)| number(path)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        prop_assert!(numbers.len() <= 2);
    }
}
