//! What an ingest promises, tried on real directories.

mod replica;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use rustix::fs::CWD;
use tempfile::TempDir;

use super::*;
use crate::chunker::Params;
use crate::keys::Keys;
use crate::lease::Lease;
use crate::page::decode_root;
use crate::select::Selection;
use crate::space::Committed;
use crate::tree;
use crate::xattr;

/// The keys of the volumes in these tests.
pub fn secret_keys() -> Keys {
    Keys::from_secret(&[7; 32])
}

/// A volume without anything in it.
pub fn empty_space() -> (TempDir, Arc<Space>) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("segments")).unwrap();
    fs::create_dir(directory.path().join("index")).unwrap();
    let space = Space::open(directory.path(), [3; 16], secret_keys(), Params::DEFAULT).unwrap();
    (directory, space)
}

/// A host that grants segments in order and syncs a full lease at once.
struct Granter {
    space: Arc<Space>,
    next_segment: u64,
    committed: Vec<Committed>,
    granted: u64,
    progress: Progress,
    stop: bool,
}

impl Host for Granter {
    fn grant(&mut self, full: Option<LeaseHandle>) -> Result<LeaseHandle> {
        if let Some(full) = full {
            self.committed.push(full.lock().unwrap().sync()?);
        }
        self.granted += 1;
        let lease = Lease::open(&self.space, self.next_segment, 0, 0, true, false)?.expect("nobody else has it");
        self.next_segment += 1;
        Ok(Arc::new(std::sync::Mutex::new(lease)))
    }

    fn progress(&mut self, progress: &Progress) -> Result<()> {
        assert!(progress.files >= self.progress.files && progress.logical_bytes >= self.progress.logical_bytes);
        self.progress = *progress;
        if self.stop { Err(Error::Host(Box::new("stop"))) } else { Ok(()) }
    }
}

/// A volume, a directory to store, and a stat cache between two ingests.
struct World {
    _volume: TempDir,
    sources: TempDir,
    space: Arc<Space>,
    host: Granter,
    clean_before_ns: i64,
    use_cache: bool,
    previous: Option<PageRef>,
}

impl World {
    fn new() -> World {
        let (volume, space) = empty_space();
        let host = Granter {
            space: Arc::clone(&space),
            next_segment: 1,
            committed: Vec::new(),
            granted: 0,
            progress: Progress::default(),
            stop: false,
        };
        // In memory where there is such a place: making and removing 100,000 files on a disk takes ten seconds.
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let sources = tempfile::tempdir_in(place).unwrap();
        World { _volume: volume, sources, space, host, clean_before_ns: i64::MAX, use_cache: true, previous: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sources.path().join("tree").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn cache(&self) -> PathBuf {
        self.sources.path().join("cache")
    }

    fn options(&self, dry_run: bool) -> Options {
        Options {
            prior: self.use_cache.then(|| self.cache()),
            next: Some(self.sources.path().join("cache.next")),
            previous: self.previous,
            clean_before_ns: self.clean_before_ns,
            clean_device: fs::metadata(self.sources.path()).unwrap().dev(),
            selection: Selection::default(),
            keep_pages: false,
            dry_run,
        }
    }

    /// Ingests and commits.
    fn push_sources(&mut self, sources: &[Source]) -> Ingested {
        let options = self.options(false);
        self.host.progress = Progress::default();
        let ingested = ingest(&self.space, sources, &options, &mut self.host).unwrap();
        self.commit(&ingested);
        if ingested.cache_written {
            fs::rename(options.next.unwrap(), self.cache()).unwrap();
        } else {
            assert!(!options.next.unwrap().exists());
        }
        ingested
    }

    fn commit(&mut self, ingested: &Ingested) {
        let mut rows = std::mem::take(&mut self.host.committed);
        rows.extend(ingested.lease.as_ref().map(|lease| lease.lock().unwrap().sync().unwrap()));
        self.space.admit(&rows).unwrap();
    }

    fn push(&mut self) -> Ingested {
        self.push_sources(&[Source { path: self.sources.path().join("tree"), name: None }])
    }

    /// Everything stored under a root: path -> (entry, content).
    fn stored(&self, ingested: &Ingested) -> BTreeMap<Vec<u8>, (Entry, Vec<u8>)> {
        let root = decode_root(&ingested.root).unwrap();
        let mut found = BTreeMap::new();
        for item in tree::Walk::new(&*self.space, &root.page().unwrap()) {
            let (path, entry) = item.unwrap();
            found.insert(path, (entry.clone(), self.content(&entry)));
        }
        found
    }

    fn content(&self, entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        for extent in tree::extents(&*self.space, entry) {
            let extent = extent.unwrap();
            match extent.is_hole() {
                true => bytes.resize(bytes.len() + extent.length as usize, 0),
                false => bytes.extend_from_slice(&self.space.read(extent).unwrap()),
            }
        }
        assert_eq!(bytes.len() as u64, entry.size);
        bytes
    }

    /// What is on disk must be what is stored, entry by entry.
    fn assert_stored(&self, ingested: &Ingested) {
        let mut stored = self.stored(ingested);
        let root = self.sources.path().join("tree");
        let mut left = vec![root.clone()];
        while let Some(directory) = left.pop() {
            for found in fs::read_dir(&directory).unwrap() {
                let path = found.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let name = path.strip_prefix(&root).unwrap().as_os_str().as_bytes();
                let (entry, bytes) = stored.remove(name).unwrap_or_else(|| panic!("{path:?} is not stored"));
                assert_eq!(entry.mode, metadata.mode() & 0o7777, "{path:?}");
                assert_eq!(entry.uid, metadata.uid());
                assert_eq!(entry.mtime_ns, metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec());
                if metadata.is_dir() {
                    assert_eq!(entry.kind, EntryKind::Directory);
                    left.push(path);
                } else if metadata.is_symlink() {
                    assert_eq!(entry.target, fs::read_link(&path).unwrap().as_os_str().as_bytes());
                } else {
                    assert_eq!(bytes, fs::read(&path).unwrap(), "{path:?}");
                }
            }
        }
        assert!(stored.is_empty(), "stored but not on disk: {:?}", stored.keys());
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_tree_is_stored_as_it_is() {
    let mut world = World::new();
    world.write("empty", b"");
    world.write("small", b"hello");
    world.write("a/b/c", &noise(1, 100_000));
    world.write("large", &noise(2, 9 << 20));
    fs::create_dir(world.path("nothing")).unwrap();
    symlink("../outside", world.path("a/link")).unwrap();
    fs::set_permissions(world.path("small"), fs::Permissions::from_mode(0o4751)).unwrap();

    let ingested = world.push();

    world.assert_stored(&ingested);
    assert_eq!(ingested.problems, []);
    assert_eq!((ingested.stats.files, ingested.stats.directories, ingested.stats.symlinks), (4, 4, 1));
    assert_eq!(ingested.stats.new_bytes, ingested.stats.logical_bytes);
    let root = decode_root(&ingested.root).unwrap();
    assert_eq!(
        root.mtime_ns,
        fs::metadata(world.path("")).unwrap().mtime() * 1_000_000_000
            + fs::metadata(world.path("")).unwrap().mtime_nsec()
    );
}

#[test]
fn an_unchanged_tree_costs_no_lease_no_reading_and_no_stat_cache() {
    let mut world = World::new();
    for index in 0..300 {
        world.write(&format!("d{}/e/f{index}", index % 7), &noise(index, 2000));
    }
    let first = world.push();
    let granted = world.host.granted;

    let second = world.push();

    assert!(first.cache_written && !second.cache_written);
    assert_eq!(second.root_digest, first.root_digest);
    assert_eq!(second.root, first.root);
    assert_eq!(world.host.granted, granted);
    assert_eq!((second.stats.unchanged_files, second.stats.new_bytes, second.stats.known_bytes), (300, 0, 0));
}

#[test]
fn without_a_stat_cache_the_same_tree_gives_the_same_root_and_nothing_new() {
    let mut world = World::new();
    for index in 0..300 {
        world.write(&format!("d{}/f{index}", index % 7), &noise(index, 2000));
    }
    world.write("large", &noise(400, 6 << 20));
    let first = world.push();
    world.use_cache = false;

    let second = world.push();

    assert_eq!(second.root_digest, first.root_digest);
    assert_eq!((second.stats.new_bytes, second.stats.page_bytes), (0, 0));
    assert_eq!(second.stats.known_bytes, second.stats.logical_bytes);
}

#[test]
fn after_any_change_the_stored_tree_is_the_tree_on_disk() {
    let mut world = World::new();
    for index in 0..400u64 {
        world.write(&format!("{}/{}/f{index}", index % 5, index % 3), &noise(index, 500));
    }
    world.push();
    type Change = fn(&World);
    let changes: [Change; 9] = [
        |w| w.write("2/1/f7", b"other"),
        |w| fs::remove_file(w.path("0/0/f0")).unwrap(),
        |w| fs::remove_dir_all(w.path("4")).unwrap(),
        |w| w.write("3/new/deep/x", b"x"),
        |w| fs::rename(w.path("1"), w.path("0/moved")).unwrap(),
        |w| fs::set_permissions(w.path("3"), fs::Permissions::from_mode(0o700)).unwrap(),
        |w| {
            fs::remove_file(w.path("2/2/f2")).unwrap();
            fs::create_dir(w.path("2/2/f2")).unwrap();
        },
        |w| {
            fs::remove_dir_all(w.path("3/0")).unwrap();
            symlink("x", w.path("3/0")).unwrap();
        },
        |w| fs::write(w.path("zz"), b"last").unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        change(&world);

        let ingested = world.push();

        world.assert_stored(&ingested);
        let warm = ingested.root_digest;
        assert_eq!(world.push().root_digest, warm);
        let options = Options { prior: None, next: None, ..world.options(true) };
        let tree = [Source { path: world.path(""), name: None }];
        world.host.progress = Progress::default();
        let cold = ingest(&world.space, &tree, &options, &mut world.host).unwrap();
        assert_eq!(cold.root_digest, warm, "change {number}");
    }
}

#[test]
fn a_file_that_may_have_changed_within_its_timestamp_is_read_again() {
    let mut world = World::new();
    world.write("racy", b"content");
    world.clean_before_ns = 0;
    let first = world.push();

    let second = world.push();
    world.clean_before_ns = i64::MAX;
    let third = world.push();
    let fourth = world.push();

    assert_eq!((second.stats.unchanged_files, second.stats.known_bytes), (0, 7));
    assert_eq!((third.stats.unchanged_files, third.stats.known_bytes), (0, 7));
    assert_eq!((fourth.stats.unchanged_files, fourth.stats.known_bytes), (1, 0));
    assert!([second, third, fourth].iter().all(|push| push.root_digest == first.root_digest));
}

#[test]
fn a_file_that_changes_during_every_reading_is_a_problem_and_what_is_stored_is_whole() {
    let mut world = World::new();
    world.write("large", &noise(1, 9 << 20));
    world.write("small", &noise(2, 1 << 20));
    world.write("quiet", b"quiet");
    let (large, small) = (world.path("large"), world.path("small"));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let changing = Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        let open = |path| fs::OpenOptions::new().append(true).open(path).unwrap();
        let (mut large, mut small) = (open(&large), open(&small));
        while !changing.load(std::sync::atomic::Ordering::Relaxed) {
            std::io::Write::write_all(&mut large, b"+").unwrap();
            std::io::Write::write_all(&mut small, b"+").unwrap();
        }
    });
    let mut changed = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let ingested = world.push();

        // `content` checks every chunk against its digest, and sizes.
        let stored = world.stored(&ingested);
        assert!(stored[&b"large"[..]].1.starts_with(&noise(1, 9 << 20)));
        assert!(stored[&b"small"[..]].1.starts_with(&noise(2, 1 << 20)));
        assert!(ingested.problems.iter().all(|problem| problem.kind == ProblemKind::Changed));
        changed.extend(ingested.problems.into_iter().map(|problem| problem.path));
        if changed.len() == 2 {
            break;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();

    assert_eq!(changed, [b"large".to_vec(), b"small".to_vec()].into());
    let settled = world.push();
    assert_eq!(settled.problems, []);
    world.assert_stored(&settled);
}

/// Walks, lets `between` happen, and only then reads and settles.
fn ingest_with(world: &mut World, between: impl FnOnce(&World)) -> Ingested {
    ingest_spoilt(world, between, |_| {})
}

/// The same, and `spoil` happens to what was read.
fn ingest_spoilt(world: &mut World, between: impl FnOnce(&World), spoil: impl FnOnce(&mut [Group])) -> Ingested {
    let space = Arc::clone(&world.space);
    let sources = [Source { path: world.path(""), name: None }];
    let all = Selection::default();
    let mut walk =
        Walk::new(&sources, &all, None, &space.keys().link, Clean::new(i64::MAX, 0), world._volume.path()).unwrap();
    let mut batch = Batch::default();
    assert!(!walk.next(&mut batch).unwrap());
    between(world);
    let reader = reader(&space);
    let mut groups = reader.read_batch(&batch);
    spoil(&mut groups);
    let mut problems = Vec::new();
    let mut store = Store::new(&space, &mut world.host, false);
    let before = Before { cache: None, page: None };
    let mut settle = Settle::new(&space, &mut store, &reader, before, None, Clean::new(i64::MAX, 0), &mut problems);
    settle.batch(&batch, &groups).unwrap();
    let stats = settle.progress();
    let Settled { root, .. } = settle.finish().unwrap();
    let ingested = Ingested { problems, ..finished(&space, &store, &root, stats).unwrap() };
    world.commit(&ingested);
    ingested
}

/// Path and kind of each problem.
fn named(problems: &[Problem]) -> Vec<(&str, ProblemKind)> {
    problems.iter().map(|problem| (std::str::from_utf8(&problem.path).unwrap(), problem.kind)).collect()
}

#[test]
fn what_vanishes_between_listing_and_reading_is_a_problem_and_the_rest_is_stored() {
    let mut world = World::new();
    for name in ["a", "d/b", "e/c", "f", "g"] {
        world.write(name, name.as_bytes());
    }

    let ingested = ingest_with(&mut world, |world| {
        fs::remove_file(world.path("a")).unwrap();
        fs::remove_dir_all(world.path("d")).unwrap();
        fs::remove_file(world.path("f")).unwrap();
        symlink("g", world.path("f")).unwrap();
    });

    let vanished = |path| (path, ProblemKind::Vanished);
    assert_eq!(named(&ingested.problems), [vanished("a"), vanished("d/b"), vanished("f")]);
    let stored: Vec<_> = world.stored(&ingested).into_keys().collect();
    assert_eq!(stored, [&b"d"[..], b"e", b"e/c", b"g"]);
}

#[test]
fn a_small_file_that_has_grown_large_when_it_is_read_is_stored_whole() {
    let mut world = World::new();
    for name in ["a", "m", "z"] {
        world.write(name, name.as_bytes());
    }

    let ingested = ingest_with(&mut world, |world| {
        world.write("a", &noise(1, 3 << 20));
        world.write("m", &noise(2, 9 << 20));
    });

    assert_eq!(ingested.problems, []);
    world.assert_stored(&ingested);
    assert_eq!((ingested.stats.files, ingested.stats.logical_bytes), (3, (12 << 20) + 1));
}

#[test]
fn a_name_that_stays_is_stored_when_the_first_name_of_its_file_vanishes() {
    let mut world = World::new();
    world.write("first", &noise(1, 50_000));
    fs::hard_link(world.path("first"), world.path("second")).unwrap();
    fs::hard_link(world.path("first"), world.path("third")).unwrap();

    let ingested = ingest_with(&mut world, |world| fs::remove_file(world.path("first")).unwrap());

    assert_eq!(named(&ingested.problems), [("first", ProblemKind::Vanished)]);
    world.assert_stored(&ingested);
    assert_eq!(ingested.stats.new_bytes, 50_000);
}

#[test]
fn a_first_name_given_to_another_file_does_not_lend_it_to_the_other_names() {
    let mut world = World::new();
    world.write("first", b"the linked file");
    fs::hard_link(world.path("first"), world.path("second")).unwrap();

    let ingested = ingest_with(&mut world, |world| {
        world.write("other", b"quite another file");
        fs::rename(world.path("other"), world.path("first")).unwrap();
    });

    world.assert_stored(&ingested);
    let stored = world.stored(&ingested);
    assert_ne!(stored[&b"first"[..]].0.link_id, stored[&b"second"[..]].0.link_id);
}

#[test]
fn a_file_that_could_not_be_read_whole_has_an_mtime_that_no_file_has() {
    let mut world = World::new();
    world.write("torn", b"what was read");
    world.write("whole", b"whole");
    fs::hard_link(world.path("torn"), world.path("twin")).unwrap();

    let ingested = ingest_spoilt(
        &mut world,
        |_| {},
        |groups| {
            let Outcome::Read { consistent, .. } = &mut groups[0].files[0] else { panic!("it was read") };
            *consistent = false;
        },
    );

    assert_eq!(named(&ingested.problems), [("torn", ProblemKind::Changed)]);
    let stored = world.stored(&ingested);
    let mtime_ns = |name: &str| {
        let found = fs::metadata(world.path(name)).unwrap();
        found.mtime() * 1_000_000_000 + found.mtime_nsec()
    };
    for (name, earlier) in [("torn", 1), ("twin", 1), ("whole", 0)] {
        assert_eq!(stored[name.as_bytes()].0.mtime_ns, mtime_ns(name) - earlier, "{name}");
    }
}

/// Damages one byte of the first place where `bytes` rest in segment 1.
fn damage(world: &World, bytes: &[u8]) {
    let path = world.space.data_path(1);
    let mut data = fs::read(&path).unwrap();
    let at = data.windows(bytes.len()).position(|window| window == bytes).expect("it is stored");
    data[at] ^= 1;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &data[at..at + 1], at as u64).unwrap();
}

#[test]
fn what_verification_found_damaged_is_stored_again_by_the_next_push_though_nothing_changed() {
    let mut world = World::new();
    world.write("d/hurt", &noise(1, 3000));
    world.write("e/sound", &noise(2, 3000));
    let first = world.push();
    world.previous = decode_root(&first.root).unwrap().page();
    damage(&world, &noise(1, 3000));
    let unnoticed = world.push();
    let head = world.space.committed(1).unwrap().head;
    let found = crate::verify::verify(&world.space, 1, 0, u64::MAX).unwrap();
    assert_eq!((found.next_start, found.damaged.len()), (head, 1));

    world.space.distrust(&found.damaged);
    let dry =
        ingest(&world.space, &[Source { path: world.path(""), name: None }], &world.options(true), &mut world.host);
    let mended = world.push();
    world.previous = decode_root(&mended.root).unwrap().page();
    let after = world.push();

    assert!(!unnoticed.repaired && unnoticed.stats.unchanged_files == 2);
    assert!(dry.unwrap().repaired && mended.repaired && mended.cache_written);
    assert_eq!((mended.stats.new_bytes, mended.stats.known_bytes), (3000, 3000));
    assert_eq!(mended.root_digest, first.root_digest);
    world.assert_stored(&mended);
    assert!(!after.repaired && after.stats.unchanged_files == 2);
    assert_eq!(after.root, mended.root);
}

#[test]
fn a_damaged_page_is_never_pointed_at_and_the_next_push_stores_it_again() {
    for use_cache in [true, false] {
        let mut world = World::new();
        world.write("d/file", &noise(1, 3000));
        let first = world.push();
        world.previous = decode_root(&first.root).unwrap().page();
        world.use_cache = use_cache;
        let page = world.space.read(world.previous.unwrap().extent()).unwrap().to_vec();
        damage(&world, &page);

        let mended = world.push();

        assert!(mended.repaired);
        assert_eq!((mended.root_digest, mended.stats.new_bytes), (first.root_digest, 0));
        world.assert_stored(&mended);
        world.previous = None;
        let elsewhere = world.push();
        assert_eq!(elsewhere.root, mended.root);
    }
}

#[test]
fn a_file_whose_bytes_are_those_of_a_page_is_stored_as_a_file() {
    let mut world = World::new();
    fs::create_dir_all(world.path("empty")).unwrap();
    let first = world.push();
    let empty = world.stored(&first)[&b"empty"[..]].0.page().unwrap();
    let page = world.space.read(empty.extent()).unwrap().to_vec();
    world.write("file", &page);

    let ingested = world.push();

    assert_eq!(ingested.stats.new_bytes, page.len() as u64);
    let entry = &world.stored(&ingested)[&b"file"[..]].0;
    let extent = tree::extents(&*world.space, entry).next().unwrap().unwrap();
    assert_eq!(world.space.chunks(extent).unwrap()[0].kind, crate::table::Kind::Data);
    assert_eq!(world.stored(&ingested)[&b"empty"[..]].0.page(), Some(empty));
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_and_looked_at_again_next_time() {
    let mut world = World::new();
    world.write("good", b"good");
    // Reading the first byte of a process's memory is an I/O error, for root too.
    let sources = [
        Source { path: "/proc/self/mem".into(), name: Some(b"bad".to_vec()) },
        Source { path: world.path("good"), name: Some(b"good".to_vec()) },
        Source { path: "/proc/version".into(), name: Some(b"version".to_vec()) },
    ];

    let first = world.push_sources(&sources);
    let second = world.push_sources(&sources);

    for ingested in [first, second] {
        let [problem] = &ingested.problems[..] else { panic!("{:?}", ingested.problems) };
        assert_eq!((&problem.path[..], problem.kind), (&b"bad"[..], ProblemKind::Unreadable));
        assert_ne!(problem.errno, 0);
        let stored = world.stored(&ingested);
        assert_eq!(stored.len(), 2);
        // Its size in the stat is 0; what it gave when it was read is what counts.
        assert_eq!(stored[&b"version"[..]].1, fs::read("/proc/version").unwrap());
    }
}

#[test]
fn a_socket_is_named_and_left_out_and_pipes_and_devices_are_stored() {
    let mut world = World::new();
    world.write("file", b"1");
    let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap();
    rustix::fs::mknodat(CWD, world.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::hard_link(world.path("fifo"), world.path("same")).unwrap();
    let block = rustix::fs::FileType::BlockDevice;
    let device = rustix::fs::mknodat(CWD, world.path("device"), block, 0o600.into(), 0x1234).is_ok();

    for _ in 0..2 {
        let ingested = world.push();

        let problems: Vec<_> = ingested.problems.iter().map(|problem| (&problem.path[..], problem.kind)).collect();
        assert_eq!(problems, [(&b"socket"[..], ProblemKind::Unsupported)]);
        let stored = world.stored(&ingested);
        assert_eq!((stored.len(), ingested.stats.files), (3 + usize::from(device), 3 + u64::from(device)));
        let (fifo, same) = (&stored[&b"fifo"[..]].0, &stored[&b"same"[..]].0);
        assert!(fifo.kind == EntryKind::Fifo && fifo.link_id != 0 && fifo.link_id == same.link_id);
        if let Some((device, _)) = stored.get(&b"device"[..]) {
            assert_eq!((device.kind, device.rdev), (EntryKind::BlockDevice, 0x1234));
        }
    }
}

/// `false`: the file system has no attributes.
fn set_xattr(path: &Path, value: &str) -> bool {
    let holder = xattr::Holder::beneath(None, path.as_os_str().as_bytes()).unwrap();
    xattr::set(&holder, &vec![(b"user.a".to_vec(), value.into())]).unwrap()
}

#[test]
fn attributes_are_stored_and_a_change_of_nothing_else_is_a_new_tree() {
    let mut world = World::new();
    world.write("d/e/f", b"file");
    world.write("d/g", b"other");
    let value = |world: &World, ingested: &Ingested, name: &str| {
        let xattrs = match name {
            "" => decode_root(&ingested.root).unwrap().xattrs,
            name => world.stored(ingested)[name.as_bytes()].0.xattrs.clone(),
        };
        xattrs.first().map(|(name, value)| (name.clone(), value.clone()))
    };
    let mut digest = world.push().root_digest;
    for name in ["d/e/f", "d/e", "d", ""] {
        for text in ["1", "2"] {
            if !set_xattr(&world.path(name), text) {
                return;
            }

            let ingested = world.push();

            assert_eq!(value(&world, &ingested, name), Some((b"user.a".to_vec(), text.into())), "{name}");
            assert_ne!(std::mem::replace(&mut digest, ingested.root_digest), ingested.root_digest);
            assert_eq!(world.push().root_digest, digest, "nothing changed");
        }
    }
    // What is inside changed and the directory itself did not: its attributes stay.
    fs::write(world.path("d/e/f"), b"elif").unwrap();
    let ingested = world.push();
    assert!(["d/e/f", "d/e", "d", ""].iter().all(|name| value(&world, &ingested, name).is_some()));
}

#[test]
fn more_attributes_than_an_entry_holds_are_a_problem_and_the_rest_is_stored() {
    let mut world = World::new();
    world.write("f", b"file");
    for number in 0..20 {
        let holder = xattr::Holder::beneath(None, world.path("f").as_os_str().as_bytes()).unwrap();
        if !xattr::set(&holder, &vec![(format!("user.{number}").into_bytes(), vec![1; 60_000])]).unwrap() {
            return; // a file system with less room than an entry
        }
    }

    for _ in 0..2 {
        let ingested = world.push();

        let problems: Vec<_> = ingested.problems.iter().map(|problem| (&problem.path[..], problem.kind)).collect();
        assert_eq!(problems, [(&b"f"[..], ProblemKind::Attributes)]);
        let stored = world.stored(&ingested);
        assert_eq!((stored[&b"f"[..]].0.xattrs.len(), &stored[&b"f"[..]].1[..]), (0, &b"file"[..]));
    }
}

/// Writes `parts` at their places in a file that is `size` long and otherwise a hole.
fn write_sparse(path: &Path, size: u64, parts: &[(u64, Vec<u8>)]) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    parts.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
}

fn holes_of(entry: &Entry, space: &Space) -> Vec<(u64, u64)> {
    let (mut at, mut holes) = (0, Vec::new());
    for extent in tree::extents(space, entry) {
        let extent = extent.unwrap();
        if extent.is_hole() {
            holes.push((at, extent.length));
        }
        at += extent.length;
    }
    holes
}

#[test]
fn holes_are_stored_as_holes_in_small_files_and_in_large_ones() {
    let mut world = World::new();
    world.write("dense", &noise(1, 300_000));
    write_sparse(&world.path("small"), 1 << 20, &[(0, noise(2, 4096)), (512 << 10, noise(3, 70_000))]);
    write_sparse(&world.path("all"), 1 << 30, &[]);
    let runs: Vec<_> = (0..700).map(|run| (run * (64 << 10) + 8192, noise(run, 8192))).collect();
    write_sparse(&world.path("many"), 64 << 20, &runs);
    write_sparse(&world.path("wide"), 40 << 20, &[(1 << 20, noise(9, 9 << 20)), ((40 << 20) - 10, noise(10, 10))]);

    let ingested = world.push();

    assert_eq!(ingested.problems, []);
    let stored = |name: &str| {
        let root = decode_root(&ingested.root).unwrap().page().unwrap();
        tree::lookup(&*world.space, &root, name.as_bytes()).unwrap().unwrap()
    };
    for name in ["dense", "small", "many", "wide"] {
        assert!(world.content(&stored(name)) == fs::read(world.path(name)).unwrap(), "{name}");
    }
    assert_eq!(holes_of(&stored("all"), &world.space), [(0, 1 << 30)]);
    assert_eq!(holes_of(&stored("small"), &world.space), [(4096, (512 << 10) - 4096), ((512 << 10) + 73_728, 450_560)]);
    assert_eq!(holes_of(&stored("many"), &world.space).len(), 701);
    assert_eq!(holes_of(&stored("wide"), &world.space), [(0, 1 << 20), (10 << 20, (30 << 20) - 4096)]);
    let data = 300_000 + 4096 + 73_728 + 700 * 8192 + (9 << 20) + 4096;
    assert_eq!(ingested.stats.new_bytes + ingested.stats.known_bytes, data);
    let files: u64 = 300_000 + (1 << 20) + (1 << 30) + (64 << 20) + (40 << 20);
    assert_eq!(ingested.stats.logical_bytes, files);
    world.use_cache = false;
    assert_eq!(world.push().root_digest, ingested.root_digest);
}

/// What is a hole when it is asked for and bytes when it is passed over shows in the stat.
#[test]
fn a_sparse_file_that_is_filled_while_it_is_read_is_never_taken_for_what_it_becomes() {
    let mut world = World::new();
    world.write("other", b"x");
    let runs: Vec<_> = (0..200).map(|run| (run * (128 << 10), noise(run, 4096))).collect();
    write_sparse(&world.path("f"), 32 << 20, &runs);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (path, stopped) = (world.path("f"), Arc::clone(&stop));
    let writer = std::thread::spawn(move || {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        for at in (0..200u64).cycle().take_while(|_| !stopped.load(std::sync::atomic::Ordering::Relaxed)) {
            file.write_all_at(b"filled", at * (128 << 10) + (64 << 10)).unwrap();
        }
    });

    let during = world.push();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    let after = world.push();

    assert!(during.problems.iter().all(|problem| problem.kind == ProblemKind::Changed));
    world.stored(&during);
    assert_eq!(after.problems, []);
    world.assert_stored(&after);
}

#[test]
fn a_hole_where_there_were_zeros_is_a_new_tree() {
    let mut world = World::new();
    world.write("other", b"x");
    write_sparse(&world.path("f"), 1 << 20, &[(0, vec![0; 1 << 20])]);
    let dense = world.push();
    fs::remove_file(world.path("f")).unwrap();
    write_sparse(&world.path("f"), 1 << 20, &[(0, vec![0; 1 << 16])]);

    let sparse = world.push();

    assert_ne!(dense.root_digest, sparse.root_digest);
    let of = |ingested: &Ingested| world.stored(ingested)[&b"f"[..]].clone();
    assert_eq!(of(&dense).1, of(&sparse).1);
    assert_eq!(holes_of(&of(&sparse).0, &world.space), [(1 << 16, (1 << 20) - (1 << 16))]);
}

proptest! {
    #[test]
    fn any_pattern_of_holes_and_bytes_is_stored_as_it_is(
        runs in vec((0u64..40, 1usize..5), 0..12),
        size_blocks in 1u64..60,
        tail in 0u64..4096,
    ) {
        let mut world = World::new();
        world.write("other", b"x");
        let parts: Vec<_> = runs.iter().enumerate()
            .map(|(number, &(block, blocks))| (block * 65_536, noise(number as u64, blocks * 4096)))
            .collect();
        write_sparse(&world.path("f"), size_blocks * 65_536 + tail, &parts);

        let ingested = world.push();

        world.assert_stored(&ingested);
    }
}

#[test]
fn names_of_one_file_share_an_identity_that_its_first_path_decides() {
    let mut world = World::new();
    world.write("m/first", &noise(1, 50_000));
    fs::create_dir(world.path("a")).unwrap();
    fs::create_dir(world.path("z")).unwrap();
    fs::hard_link(world.path("m/first"), world.path("z/third")).unwrap();
    fs::hard_link(world.path("m/first"), world.path("m/second")).unwrap();
    world.write("z/single", b"single");
    let identities = |world: &World, ingested: &Ingested| -> Vec<u64> {
        world.stored(ingested).values().map(|(entry, _)| entry.link_id).filter(|&id| id != 0).collect()
    };

    let first = world.push();
    let unchanged = world.push();
    fs::hard_link(world.path("m/first"), world.path("a/before")).unwrap();
    let earlier = world.push();
    fs::remove_file(world.path("a/before")).unwrap();
    let again = world.push();

    world.assert_stored(&again);
    assert_eq!((first.stats.new_bytes, first.stats.known_bytes), (50_006, 0));
    for found in [&first, &unchanged, &earlier, &again] {
        let Progress { logical_bytes, new_bytes, known_bytes, unchanged_bytes, .. } = found.stats;
        assert_eq!((logical_bytes, new_bytes + known_bytes + unchanged_bytes), (50_006, 50_006), "content counts once");
    }
    let [id, same, third] = identities(&world, &first)[..] else { panic!("three names") };
    assert!(id == same && id == third);
    assert_eq!(unchanged.stats.unchanged_files, 4);
    let moved = identities(&world, &earlier);
    assert!(moved.len() == 4 && moved.iter().all(|&other| other == moved[0] && other != id));
    assert_eq!(identities(&world, &again), [id; 3]);
}

#[test]
fn a_renamed_first_name_changes_the_identity_of_the_others_without_reading_them() {
    let mut world = World::new();
    world.write("d/one", b"x");
    fs::create_dir(world.path("e")).unwrap();
    fs::hard_link(world.path("d/one"), world.path("e/two")).unwrap();
    world.push();

    fs::rename(world.path("d"), world.path("f")).unwrap();
    let warm = world.push();
    world.use_cache = false;
    let cold = world.push();

    assert_eq!(warm.root_digest, cold.root_digest);
    world.assert_stored(&warm);
}

#[test]
fn names_are_bytes() {
    let mut world = World::new();
    world.write("plain", b"1");
    for name in [&b"caf\xe9"[..], b"\xff\xfe", b"new\nline", &[b'n'; 255]] {
        fs::write(world.path("").join(OsStr::from_bytes(name)), name).unwrap();
    }

    let ingested = world.push();

    world.assert_stored(&ingested);
    assert_eq!(world.push().root_digest, ingested.root_digest);
}

#[test]
fn a_path_longer_than_the_system_takes_is_stored() {
    let mut world = World::new();
    world.write("top", b"1");
    let open = |at: &std::os::fd::OwnedFd, name: &str| {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        rustix::fs::openat(at, name, flags, rustix::fs::Mode::empty()).unwrap()
    };
    let mut directory = std::os::fd::OwnedFd::from(fs::File::open(world.path("")).unwrap());
    let mut path = Vec::new();
    // Deeper than the directories that are held open, so that the way back up is taken too.
    for level in 0..300 {
        let name = format!("level-{level:03}-of-a-long-way-down");
        rustix::fs::mkdirat(&directory, &name, 0o755.into()).unwrap();
        let file = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&directory, "zz-after", file, 0o644.into()).unwrap();
        directory = open(&directory, &name);
        path.extend_from_slice(name.as_bytes());
        path.push(b'/');
    }
    let file = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::io::write(rustix::fs::openat(&directory, "bottom", file, 0o644.into()).unwrap(), b"deep").unwrap();
    path.extend_from_slice(b"bottom");

    let ingested = world.push();
    let second = world.push();

    assert!(path.len() > 2 * 4096);
    let stored = world.stored(&ingested);
    assert_eq!(stored.len(), 300 + 300 + 2);
    assert_eq!(stored[&path].1, b"deep");
    assert_eq!(second.root_digest, ingested.root_digest);
    assert_eq!(second.stats.unchanged_files, 302);
}

#[test]
fn a_directory_of_a_hundred_thousand_entries_is_stored_and_one_change_in_it_found() {
    let mut world = World::new();
    fs::create_dir(world.path("")).unwrap();
    for index in 0..100_000 {
        fs::File::create(world.path(&format!("entry-{index:06}"))).unwrap();
    }
    fs::create_dir(world.path("entry-050000-directory")).unwrap();
    world.write("entry-050000-directory/file", b"inside");

    let first = world.push();
    let second = world.push();
    world.write("entry-077777", b"changed");
    let third = world.push();

    assert_eq!(second.root_digest, first.root_digest);
    assert_eq!(second.stats.unchanged_files, 100_001);
    assert_eq!((third.stats.unchanged_files, third.stats.new_bytes), (100_000, 7));
    let stored = world.stored(&third);
    assert_eq!(stored.len(), 100_002);
    assert_eq!(stored[&b"entry-077777"[..]].1, b"changed");
    assert_eq!(stored[&b"entry-050000-directory/file"[..]].1, b"inside");
    assert!(third.stats.page_bytes < first.stats.page_bytes / 10);
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let mut world = World::new();
    world.write("twice", &noise(1, 300_000));
    world.write("again", &noise(1, 300_000));
    world.write("d/other", &noise(2, 5000));
    let sources = [Source { path: world.path(""), name: None }];

    let dry = ingest(&world.space, &sources, &world.options(true), &mut world.host).unwrap();

    assert_eq!((dry.stats.new_bytes, dry.stats.known_bytes), (305_000, 300_000));
    assert!(dry.lease.is_none() && !dry.cache_written && world.host.granted == 0);
    assert_eq!(fs::read_dir(world._volume.path().join("segments")).unwrap().count(), 0);
    let real = world.push();
    assert_eq!(real.root_digest, dry.root_digest);
    assert_eq!(real.stats.new_bytes, dry.stats.new_bytes);
}

#[test]
fn a_stream_is_stored_as_the_file_it_would_be() {
    let mut world = World::new();
    let bytes = noise(1, 10 << 20);
    world.write("stream", &bytes);
    let file = world.push();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &sent).unwrap());

    let space = Arc::clone(&world.space);
    world.host.progress = Progress::default();
    let fd = std::os::fd::AsFd::as_fd(&reader);
    let ingested = ingest_stream(&space, fd, b"name", 0o640, 17, false, &mut world.host).unwrap();
    sender.join().unwrap();
    world.commit(&ingested);

    let stored = world.stored(&ingested);
    let (entry, content) = &stored[&b"name"[..]];
    assert_eq!((*content == bytes, entry.mode, entry.mtime_ns), (true, 0o640, 17));
    assert_eq!(entry.digest, world.stored(&file)[&b"stream"[..]].0.digest);
    assert_eq!((ingested.stats.new_bytes, ingested.stats.known_bytes), (0, bytes.len() as u64));
}

#[test]
fn a_host_stops_a_stream_that_gives_nothing() {
    let mut world = World::new();
    let (reader, writer) = std::io::pipe().unwrap();
    world.host.stop = true;
    let space = Arc::clone(&world.space);

    let fd = std::os::fd::AsFd::as_fd(&reader);
    let stopped = ingest_stream(&space, fd, b"name", 0o640, 17, false, &mut world.host);

    assert!(matches!(stopped, Err(Error::Host(_))));
    drop(writer);
}

#[test]
fn an_empty_stream_is_an_empty_file() {
    let mut world = World::new();
    let space = Arc::clone(&world.space);
    let null = fs::File::open("/dev/null").unwrap();

    let fd = std::os::fd::AsFd::as_fd(&null);
    let ingested = ingest_stream(&space, fd, b"empty", 0o644, 0, false, &mut world.host).unwrap();
    world.commit(&ingested);

    assert_eq!(world.stored(&ingested)[&b"empty"[..]].1, b"");
}

#[test]
fn several_sources_appear_under_their_names_and_unchanged_ones_cost_nothing() {
    let mut world = World::new();
    world.write("left/a", b"a");
    world.write("right/b", b"b");
    world.write("file", b"file");
    let source = |world: &World, name: &str| Source { path: world.path(name), name: Some(name.as_bytes().to_vec()) };
    let sources: Vec<_> = ["right", "file", "left"].iter().map(|name| source(&world, name)).collect();

    let first = world.push_sources(&sources);
    let second = world.push_sources(&sources);
    world.write("left/a", b"changed");
    let third = world.push_sources(&sources);

    let paths = |stored: BTreeMap<Vec<u8>, _>| stored.into_keys().collect::<Vec<_>>();
    let expected = ["file", "left", "left/a", "right", "right/b"].map(|path| path.as_bytes().to_vec());
    assert_eq!(paths(world.stored(&first)), expected);
    assert!(second.root == first.root && !second.cache_written);
    assert_eq!(world.stored(&third)[&b"left/a"[..]].1, b"changed");
}

#[test]
fn impossible_sources_are_refused_before_anything_is_written() {
    let mut world = World::new();
    world.write("a", b"a");
    let named = |name: &[u8]| Source { path: world.path("a"), name: Some(name.to_vec()) };
    let unnamed = Source { path: world.path(""), name: None };
    let missing = Source { path: world.path("missing"), name: Some(b"x".to_vec()) };
    let wrong = [
        vec![named(b"x"), named(b"x")],
        vec![unnamed.clone(), named(b"x")],
        vec![unnamed.clone(), unnamed],
        vec![named(b"")],
        vec![named(b"..")],
        vec![named(b"a/b")],
        vec![missing],
        vec![Source { path: world.path("a"), name: None }],
    ];
    let options = world.options(false);
    for sources in wrong {
        let refused = ingest(&world.space, &sources, &options, &mut world.host);

        assert!(matches!(refused, Err(Error::Invalid(_) | Error::Io { .. })), "{sources:?}");
    }
    assert_eq!(world.host.granted, 0);
}

#[test]
fn a_damaged_stat_cache_changes_nothing_but_the_cost() {
    let mut world = World::new();
    for index in 0..60u64 {
        world.write(&format!("{}/{}/f{index}", index % 3, index % 4), &noise(index, 300));
    }
    let first = world.push();
    let whole = fs::read(world.cache()).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).step_by(97).map(|length| whole[..length].to_vec()).collect();
    damaged.extend((0..whole.len()).step_by(61).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    }));
    for bytes in damaged {
        fs::write(world.cache(), bytes).unwrap();

        let ingested = world.push();

        assert_eq!(ingested.root_digest, first.root_digest);
        assert_eq!(ingested.stats.new_bytes, 0);
    }
}

#[test]
fn a_stat_cache_of_another_volume_or_a_later_state_is_ignored() {
    let mut world = World::new();
    world.write("a", b"a");
    world.push();
    let cache = world.cache();
    let mut other = World::new();
    other.write("a", b"a");
    fs::copy(&cache, other.cache()).unwrap();

    // The same volume id and keys, but the root page that the stat cache names was never committed here.
    let ingested = other.push();

    assert_eq!((ingested.stats.unchanged_files, ingested.stats.new_bytes), (0, 1));
    other.assert_stored(&ingested);
}

#[test]
fn a_host_that_stops_is_obeyed_and_the_next_ingest_is_whole() {
    let mut world = World::new();
    for index in 0..50 {
        world.write(&format!("f{index}"), &noise(index, 300_000));
    }
    world.host.stop = true;
    let options = world.options(false);
    let sources = [Source { path: world.path(""), name: None }];

    let stopped = ingest(&world.space, &sources, &options, &mut world.host);

    assert!(matches!(stopped, Err(Error::Host(_))));
    drop(stopped);
    world.host.stop = false;
    world.host.committed.clear();
    let ingested = world.push();
    world.assert_stored(&ingested);
}

#[test]
fn a_volume_inside_its_own_source_is_left_out() {
    let world = World::new();
    world.write("file", b"1");
    world.write("volume/segments/x.data", b"2");
    let all = Selection::default();
    let sources = [Source { path: world.path(""), name: None }];
    let mut walk = Walk::new(&sources, &all, None, &[0; 32], Clean::new(0, 0), &world.path("volume")).unwrap();
    let mut batch = Batch::default();

    assert!(!walk.next(&mut batch).unwrap());
    let is_volume = |event: &Event| match event {
        Event::Problem { name, kind: ProblemKind::Unsupported, .. } => batch.bytes(*name) == b"volume",
        _ => false,
    };
    assert!(batch.events.iter().any(is_volume));
    assert_eq!(batch.work.len(), 1);
}

#[test]
fn a_file_of_many_scattered_chunks_is_listed_and_comes_back() {
    let mut world = World::new();
    let pieces: Vec<_> = (0..700u64).map(|seed| noise(seed, 128 << 10)).collect();
    let ahead: Vec<u8> = pieces.concat();
    world.write("ahead", &ahead);
    world.push();
    // Every other stretch of what is stored: no two of them are neighbours.
    let scattered: Vec<u8> = pieces.iter().step_by(2).flatten().copied().collect();
    world.write("scattered", &scattered);

    let ingested = world.push();

    world.assert_stored(&ingested);
    let entry = &world.stored(&ingested)[&b"scattered"[..]].0;
    assert!(matches!(entry.content, Content::Listed { count, .. } if count > 256), "{:?}", entry.size);
}

/// Something that happens to a tree. Paths are made of few short names, so that they often meet.
#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>, u64, usize),
    Remove(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>),
    Directory(Vec<u8>),
    Symlink(Vec<u8>, Vec<u8>),
    Link(Vec<u8>, Vec<u8>),
    Mode(Vec<u8>, u32),
    Push,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = || vec(prop::sample::select(b"abcd\xff".to_vec()), 1..4);
    let length = prop_oneof![Just(0usize), 1..3000usize, Just(140_000), Just(2_200_000)];
    let step = prop_oneof![
        6 => (path(), 0..4u64, length).prop_map(|(path, seed, length)| Step::Write(path, seed, length)),
        2 => path().prop_map(Step::Remove),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        4 => path().prop_map(Step::Directory),
        1 => (path(), path()).prop_map(|(path, target)| Step::Symlink(path, target)),
        3 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => (path(), 0..8u32).prop_map(|(path, bits)| Step::Mode(path, 0o700 + bits)),
        3 => Just(Step::Push),
    ];
    vec(step, 1..60)
}

/// `abc` is the path `a/b/c`. What cannot be done is left undone.
fn take(world: &World, step: &Step) {
    let at = |names: &[u8]| names.iter().fold(world.path(""), |path, name| path.join(OsStr::from_bytes(&[*name])));
    let _ = match step {
        Step::Write(path, seed, length) => fs::write(at(path), noise(*seed, *length)),
        Step::Remove(path) => fs::remove_dir_all(at(path)).or_else(|_| fs::remove_file(at(path))),
        Step::Rename(from, to) => fs::rename(at(from), at(to)),
        Step::Directory(path) => fs::create_dir(at(path)),
        Step::Symlink(path, target) => symlink(at(target), at(path)),
        Step::Link(from, to) => fs::hard_link(at(from), at(to)),
        Step::Mode(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)),
        Step::Push => Ok(()),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_push_with_a_stat_cache_stores_what_one_without_would(steps in steps()) {
        let mut world = World::new();
        fs::create_dir(world.path("")).unwrap();
        for step in steps.iter().chain([&Step::Push]) {
            take(&world, step);
            if !matches!(step, Step::Push) {
                continue;
            }
            // The rule of a real host: what is as young as a file touched just now may still change unseen.
            let clock = world.sources.path().join("clock");
            fs::write(&clock, b"").unwrap();
            let touched = fs::metadata(&clock).unwrap();
            world.clean_before_ns = touched.mtime() * 1_000_000_000 + touched.mtime_nsec();

            let warm = world.push();

            let options = Options { prior: None, next: None, ..world.options(true) };
            let tree = [Source { path: world.path(""), name: None }];
            world.host.progress = Progress::default();
            let cold = ingest(&world.space, &tree, &options, &mut world.host).unwrap();
            prop_assert_eq!(&warm.problems, &[]);
            prop_assert_eq!(cold.root_digest, warm.root_digest);
            prop_assert_eq!(cold.stats.new_bytes, 0);
            world.assert_stored(&warm);
        }
    }
}
