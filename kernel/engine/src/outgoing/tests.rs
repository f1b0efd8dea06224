//! What a transfer promises, tried between an origin and a replica: both directions use the same two objects.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::chunker::Params;
use crate::incoming::Incoming;
use crate::ingest::{Host, LeaseHandle, Options, Progress, Source, ingest};
use crate::keys::{Digest, Keys};
use crate::lease::Lease;
use crate::page::decode_root;
use crate::space::Committed;

/// One machine's copy of the volume.
struct Side {
    _directory: TempDir,
    space: Arc<Space>,
    is_replica: bool,
    /// Grants segments; shared, because a replica fills segments that the origin grants.
    next_segment: Arc<AtomicU64>,
}

/// A tree that a side has.
#[derive(Clone)]
struct Tree {
    root: Entry,
    digest: Digest,
    /// What its ingest filled.
    fresh: Vec<Extent>,
}

struct Granter<'a> {
    side: &'a Side,
    granted: Vec<LeaseHandle>,
}

impl Host for Granter<'_> {
    fn grant(&mut self, _full: Option<LeaseHandle>) -> Result<LeaseHandle> {
        let segment = self.side.next_segment.fetch_add(1, Ordering::Relaxed);
        let lease = Lease::open(&self.side.space, segment, 0, 0, true, self.side.is_replica)?.expect("it is free");
        let handle = Arc::new(Mutex::new(lease));
        self.granted.push(Arc::clone(&handle));
        Ok(handle)
    }

    fn progress(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }
}

/// What a transfer took.
#[derive(Debug, Default)]
struct Taken {
    literals: usize,
    tree: usize,
    bodies: usize,
    put: u64,
    counts: Counts,
}

impl Taken {
    fn bytes(&self) -> usize {
        self.literals + self.tree
    }
}

fn pair() -> (Side, Side) {
    let next_segment = Arc::new(AtomicU64::new(1));
    let origin_keys = Keys::from_secret(&[7; 32]);
    let replica_keys = Keys::of_replica(&origin_keys.digest, &origin_keys.cut, &[9; 32]);
    let side = |keys, is_replica| {
        let directory = place();
        fs::create_dir(directory.path().join("segments")).unwrap();
        fs::create_dir(directory.path().join("index")).unwrap();
        let space = Space::open(directory.path(), [3; 16], keys, Params::DEFAULT).unwrap();
        Side { _directory: directory, space, is_replica, next_segment: Arc::clone(&next_segment) }
    };
    (side(origin_keys, false), side(replica_keys, true))
}

fn place() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    tempfile::tempdir_in(if memory.is_dir() { memory } else { std::env::temp_dir() }).unwrap()
}

impl Side {
    fn ingest(&self, path: &Path, previous: Option<&Tree>) -> Tree {
        let options = Options {
            prior: None,
            next: None,
            previous: previous.and_then(|tree| tree.root.page()),
            clean_before_ns: 0,
            clean_device: 0,
            selection: crate::select::Selection::default(),
            keep_pages: false,
            dry_run: false,
        };
        let mut host = Granter { side: self, granted: Vec::new() };
        let sources = [Source { path: path.to_path_buf(), name: None }];
        let ingested = ingest(&self.space, &sources, &options, &mut host).unwrap();
        let rows: Vec<Committed> = host.granted.iter().map(|lease| lease.lock().unwrap().sync().unwrap()).collect();
        self.space.admit(&rows).unwrap();
        let fresh = rows.iter().map(|row| Extent { address: segment_start(row.segment), length: row.head.into() });
        Tree {
            root: decode_root(&ingested.root).unwrap(),
            digest: ingested.root_digest,
            fresh: fresh.filter(|extent| extent.length > 0).collect(),
        }
    }

    fn lease_for(&self, taken: &Arc<Mutex<Vec<LeaseHandle>>>) -> crate::incoming::LeaseFor {
        let (space, sparse, taken) = (Arc::clone(&self.space), self.is_replica, Arc::clone(taken));
        Box::new(move |segment| {
            let row = space.committed(segment);
            let (head, table_bytes) = row.map_or((0, 0), |row| (row.head, row.table_bytes));
            let lease = Lease::open(&space, segment, head, table_bytes, row.is_none(), sparse)?;
            let handle = Arc::new(Mutex::new(lease.expect("it is free")));
            taken.lock().unwrap().push(Arc::clone(&handle));
            Ok(handle)
        })
    }

    /// Everything below a root: path -> (entry without places, content).
    fn content(&self, tree: &Tree) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        for item in Walk::new(&*self.space, &tree.root.page().unwrap()) {
            let (path, entry) = item.unwrap();
            let mut bytes = Vec::new();
            for extent in tree::extents(&*self.space, &entry) {
                let extent = extent.unwrap();
                match extent.is_hole() {
                    true => bytes.resize(bytes.len() + extent.length as usize, 0),
                    false => bytes.extend_from_slice(&self.space.read(extent).unwrap()),
                }
            }
            found.insert(path, (entry.mtime_ns as u64, bytes));
        }
        found
    }
}

/// A body as the other side receives it.
fn whole(body: Body) -> Vec<u8> {
    let coded = match &body.coded {
        Coded::Made(bytes) => bytes.as_slice(),
        Coded::Stored(bytes) => bytes,
    };
    [&body.head, coded].concat()
}

/// Sends `tree` from one side to the other, which has `base`.
fn send(from: &Side, to: &Side, tree: &Tree, base: Option<&Tree>, is_push: bool) -> Taken {
    send_part(from, to, tree, base, is_push, b"", true)
}

fn send_part(
    from: &Side,
    to: &Side,
    tree: &Tree,
    base: Option<&Tree>,
    is_push: bool,
    within: &[u8],
    data: bool,
) -> Taken {
    let taken_leases = Arc::new(Mutex::new(Vec::new()));
    let mut incoming = Incoming::new(&to.space, to.lease_for(&taken_leases));
    let mut outgoing = Outgoing::new(&from.space);
    let base = base.map(|base| &base.root);
    outgoing.plan(&tree.root, base, is_push.then_some(&tree.fresh), within, data).unwrap();
    let mut taken = Taken::default();
    while let Some(body) = outgoing.literals().unwrap().map(whole) {
        taken.literals += body.len();
        taken.bodies += 1;
        taken.put += incoming.literals(&body).unwrap();
    }
    incoming.begin_tree(base, to.is_replica).unwrap();
    while let Some(body) = outgoing.tree().unwrap() {
        taken.tree += body.len();
        incoming.tree(&body).unwrap();
    }
    let (root, digest) = incoming.finish_tree().unwrap();
    assert_eq!(digest, tree.digest);
    assert_eq!(decode_root(&root).unwrap(), tree.root);
    taken.counts = outgoing.counts();
    assert_eq!(taken.counts.coded_bytes as usize, taken.bytes());
    let leases = taken_leases.lock().unwrap();
    assert_eq!(incoming.segments().len(), leases.len());
    let rows: Vec<Committed> = leases.iter().map(|lease| lease.lock().unwrap().sync().unwrap()).collect();
    to.space.admit(&rows).unwrap();
    taken
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn text(seed: u64, length: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "address ", "chunk ", "of ", "a ", "segment ", "lies\n", "here ", "and ", "the ", "volume ", "0x", "names ",
        "is ", "digest ", "\n    ", "page ",
    ];
    let mut bytes = Vec::new();
    for word in noise(seed, length) {
        bytes.extend_from_slice(WORDS[word as usize % 16].as_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn on_disk(root: &Path) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(directory) = left.pop() {
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mtime = (metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()) as u64;
            let bytes = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), (mtime, bytes));
            if metadata.is_dir() {
                left.push(path);
            }
        }
    }
    found
}

/// An origin with what is on disk, and a replica that pulled it.
fn pulled(source: &Path) -> (Side, Side, Tree, Taken) {
    let (origin, replica) = pair();
    let tree = origin.ingest(source, None);
    let taken = send(&origin, &replica, &tree, None, false);
    assert!(replica.content(&tree) == on_disk(source), "the replica has other bytes than the source");
    (origin, replica, tree, taken)
}

/// Changes that a client made, pushed by its replica; the origin then has what is on disk.
fn push(origin: &Side, replica: &Side, source: &Path, base: &Tree) -> (Tree, Taken) {
    let tree = replica.ingest(source, Some(base));
    let taken = send(replica, origin, &tree, Some(base), true);
    assert!(origin.content(&tree) == on_disk(source), "the origin has other bytes than the source");
    assert_eq!(taken.put, taken.counts.literal_bytes);
    (tree, taken)
}

#[test]
fn a_tree_pulled_changed_and_pushed_back_is_the_same_on_both_sides() {
    let source = place();
    let at = |name: &str| source.path().join(name);
    for index in 0..200 {
        write(&at(&format!("d{}/e/f{index}", index % 9)), &text(index, 50 * index as usize));
    }
    write(&at("noise"), &noise(1, 3 << 20));
    write(&at("again/noise"), &noise(1, 3 << 20));
    let (origin, replica, tree, taken) = pulled(source.path());
    assert!(taken.put < (3 << 20) + 1_000_000);
    assert!(taken.bytes() < (3 << 20) + 500_000, "{taken:?}");

    let mut changed = noise(1, 3 << 20);
    changed[1 << 20] ^= 1;
    write(&at("noise"), &changed);
    fs::rename(at("d3"), at("d4/moved")).unwrap();
    write(&at("d1/e/f10"), &text(10, 900));
    fs::remove_dir_all(at("d2")).unwrap();
    write(&at("new/text"), &text(77, 100_000));
    let (tree, taken) = push(&origin, &replica, source.path(), &tree);
    assert!(taken.bytes() < 40_000, "{taken:?}");

    // Back again: the origin changes, the replica pulls the difference.
    write(&at("new/text"), &[text(77, 100_000), text(78, 1000)].concat());
    fs::copy(at("d1/e/f100"), at("d1/e/copy")).unwrap();
    fs::rename(at("d4"), at("d44")).unwrap();
    let next = origin.ingest(source.path(), Some(&tree));
    let taken = send(&origin, &replica, &next, Some(&tree), false);
    assert!(replica.content(&next) == on_disk(source.path()));
    assert!(taken.bytes() < 1500, "{taken:?}");
}

#[test]
fn ninety_files_with_28_bytes_more_each_take_well_below_8_kb() {
    let source = place();
    let name = |index: u64| source.path().join(format!("dir{:02}/sub/file-{index}.txt", index % 90));
    for index in 0..900 {
        write(&name(index), &text(index, 2000 + 29 * (index as usize * 7 % 331)));
    }
    let (origin, replica, tree, _) = pulled(source.path());
    for index in 0..90 {
        let mut bytes = fs::read(name(index)).unwrap();
        bytes.extend(noise(1000 + index, 28));
        write(&name(index), &bytes);
    }

    let (_, taken) = push(&origin, &replica, source.path(), &tree);

    eprintln!("MEASURED 90 files + 28 B: {taken:?}");
    assert!(taken.bytes() < 6500, "{taken:?}");
}

#[test]
fn a_hundred_edits_of_16_bytes_in_what_cannot_be_compressed_take_less_than_5_kb() {
    let source = place();
    let mut bytes = noise(1, 64 << 20);
    write(&source.path().join("image"), &bytes);
    let (origin, replica, tree, first) = pulled(source.path());
    eprintln!("MEASURED first copy of 64 MiB: {first:?}");
    assert!((first.bytes() as f64) < 1.003 * (64 << 20) as f64);
    let places = noise(2, 800);
    for (index, at) in places.chunks(8).enumerate() {
        let at = u64::from_le_bytes(at.try_into().unwrap()) as usize % (bytes.len() - 16);
        bytes[at..at + 16].copy_from_slice(&noise(3 + index as u64, 16));
    }
    write(&source.path().join("image"), &bytes);

    let (_, taken) = push(&origin, &replica, source.path(), &tree);

    eprintln!("MEASURED 100 x 16 B: {taken:?}");
    assert!(taken.bytes() <= 5000, "{taken:?}");
}

#[test]
fn a_byte_inserted_at_the_front_takes_less_than_1_kb() {
    let source = place();
    let mut bytes = noise(1, 16 << 20);
    write(&source.path().join("image"), &bytes);
    let (origin, replica, tree, _) = pulled(source.path());
    bytes.insert(0, 7);
    write(&source.path().join("image"), &bytes);

    let (_, taken) = push(&origin, &replica, source.path(), &tree);

    eprintln!("MEASURED 1 byte at the front: {taken:?}");
    assert!(taken.bytes() <= 1000, "{taken:?}");
}

#[test]
fn a_replica_takes_a_tree_without_data_and_later_what_is_absent_of_it() {
    let source = place();
    for index in 0..50 {
        write(&source.path().join(format!("d{}/f{index}", index % 5)), &text(index, 3000));
    }
    let (origin, replica) = pair();
    let tree = origin.ingest(source.path(), None);
    let taken = send_part(&origin, &replica, &tree, None, false, b"/d2/", true);
    assert_eq!(taken.put, 10 * 3000);
    assert!(replica.space.absent(&tree.root, b"d2").unwrap().is_empty());
    let absent = replica.space.absent(&tree.root, b"").unwrap();
    assert_eq!(absent.iter().map(|extent| extent.length).sum::<u64>(), 40 * 3000);

    let leases = Arc::new(Mutex::new(Vec::new()));
    let mut incoming = Incoming::new(&replica.space, replica.lease_for(&leases));
    let mut outgoing = Outgoing::new(&origin.space);
    outgoing.add(&absent, true).unwrap();
    outgoing.add(&absent[..1], true).unwrap();
    let mut put = 0;
    while let Some(body) = outgoing.literals().unwrap().map(whole) {
        put += incoming.literals(&body).unwrap();
    }
    let rows: Vec<Committed> =
        leases.lock().unwrap().iter().map(|lease| lease.lock().unwrap().sync().unwrap()).collect();
    replica.space.admit(&rows).unwrap();

    assert_eq!(put, 40 * 3000);
    assert!(replica.content(&tree) == on_disk(source.path()));
    let again = send(&origin, &replica, &tree, None, false);
    assert_eq!(again.put, 0, "what is here is not put again");
}

#[test]
fn a_body_changed_on_the_way_or_without_its_base_puts_nothing_else_than_what_was_sent() {
    let source = place();
    write(&source.path().join("text"), &text(1, 50_000));
    let (origin, replica, base, _) = pulled(source.path());
    write(&source.path().join("text"), &[text(1, 50_000), noise(2, 500)].concat());
    let tree = replica.ingest(source.path(), Some(&base));
    let mut outgoing = Outgoing::new(&replica.space);
    outgoing.plan(&tree.root, Some(&base.root), Some(&tree.fresh), b"", true).unwrap();
    let body = outgoing.literals().unwrap().map(whole).unwrap();
    assert_eq!(body[0], Coding::Delta as u8);
    let leases = Arc::new(Mutex::new(Vec::new()));
    let receive = |side: &Side, body: &[u8]| Incoming::new(&side.space, side.lease_for(&leases)).literals(body);

    let fresh = tree.fresh.iter().flat_map(|extent| replica.space.chunks(*extent).unwrap());
    let sent: Vec<ChunkRef> = fresh.filter(|chunk| chunk.kind == Kind::Data).collect();
    for at in 0..body.len() {
        let mut changed = body.clone();
        changed[at] ^= 0x10;
        if receive(&origin, &changed).is_ok() {
            // Another address, or another way to code the same: what was put is what was sent all the same.
            let is_put =
                |chunk: &ChunkRef| origin.space.find(&chunk.digest, chunk.length(), Kind::Data).unwrap().is_some();
            assert!(sent.iter().all(is_put), "byte {at}");
        }
        leases.lock().unwrap().clear();
    }
    let (stranger, _) = pair();
    assert!(matches!(receive(&stranger, &body), Err(Error::Damaged(_) | Error::Invalid(_))));
    assert!(leases.lock().unwrap().is_empty());
}

#[test]
fn a_host_that_grants_no_lease_ends_the_transfer_and_nothing_is_put() {
    let source = place();
    write(&source.path().join("text"), &text(1, 50_000));
    let (origin, replica) = pair();
    let tree = origin.ingest(source.path(), None);
    let mut outgoing = Outgoing::new(&origin.space);
    outgoing.plan(&tree.root, None, None, b"", true).unwrap();
    let refuse = Box::new(|segment| Err(Error::Refused(format!("segment {segment} is not yours"))));
    let mut incoming = Incoming::new(&replica.space, refuse);

    let body = outgoing.literals().unwrap().map(whole).unwrap();

    assert!(matches!(incoming.literals(&body), Err(Error::Refused(_))));
    assert!(incoming.segments().is_empty());
}

#[test]
fn a_tree_body_before_its_tree_or_with_a_base_or_cut_short_is_refused() {
    let source = place();
    write(&source.path().join("text"), &text(1, 5000));
    let (origin, replica) = pair();
    let tree = origin.ingest(source.path(), None);
    let mut outgoing = Outgoing::new(&origin.space);
    outgoing.plan(&tree.root, None, None, b"", false).unwrap();
    assert!(outgoing.literals().unwrap().is_none());
    let body = outgoing.tree().unwrap().unwrap();
    assert!(outgoing.tree().unwrap().is_none());
    let leases = Arc::new(Mutex::new(Vec::new()));
    let mut incoming = Incoming::new(&replica.space, replica.lease_for(&leases));
    assert!(incoming.tree(&body).is_err() && incoming.finish_tree().is_err());
    let mut delta = body.clone();
    delta[0] = Coding::Delta as u8;
    for wrong in [&delta[..], &[], &[1], &[1, 255, 255, 255, 255, 15], &body[..body.len() - 1]] {
        incoming.begin_tree(None, true).unwrap();
        assert!(incoming.tree(wrong).is_err() || incoming.finish_tree().is_err(), "{wrong:?}");
    }

    incoming.begin_tree(None, true).unwrap();
    incoming.tree(&body).unwrap();

    assert_eq!(incoming.finish_tree().unwrap().1, tree.digest);
}

#[test]
fn a_file_that_was_renamed_and_changed_finds_its_base() {
    let source = place();
    let at = |name: &str| source.path().join(name);
    write(&at("v1/src/noise"), &noise(1, 400_000));
    write(&at("v1/src/other"), &noise(2, 50_000));
    write(&at("image-1"), &noise(3, 300_000));
    let (origin, replica, tree, _) = pulled(source.path());
    fs::rename(at("v1"), at("v2")).unwrap();
    fs::rename(at("image-1"), at("image-2")).unwrap();
    for (name, seed, length) in [("v2/src/noise", 1, 400_000), ("image-2", 3, 300_000)] {
        let mut bytes = noise(seed, length);
        bytes[length / 2] ^= 1;
        write(&at(name), &bytes);
    }

    let (_, taken) = push(&origin, &replica, source.path(), &tree);

    assert!(taken.bytes() < 700, "{taken:?}");
    assert_eq!(taken.counts.delta_bytes, taken.counts.literal_bytes);
}

/// One change of a directory: which file, what to it, where in it, how much.
type Edit = (u8, u8, u16, u16);

fn edit(root: &Path, (file, what, place, length): Edit) {
    let path = root.join(format!("d{}/f{}", file % 3, file % 7));
    let mut bytes = fs::read(&path).unwrap_or_default();
    let at = usize::from(place) * 3 % (bytes.len() + 1);
    let new = if file % 2 == 0 { noise(place.into(), length.into()) } else { text(place.into(), length.into()) };
    match what % 7 {
        0 => drop(bytes.splice(at..at, new)),
        1 => bytes.truncate(at),
        2 => bytes.extend(new),
        3 => bytes = new.repeat(3),
        4 => bytes.rotate_left(at),
        5 => return drop(fs::remove_file(&path)),
        _ => {
            let to = root.join(format!("d{}/f{}", place % 3, length % 7));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            return drop(fs::rename(&path, to));
        }
    }
    write(&path, &bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_edited_on_either_side_the_other_gets(rounds in vec(vec(any::<Edit>(), 1..8), 1..5)) {
        let source = place();
        fs::create_dir(source.path().join("d0")).unwrap();
        let (origin, replica, mut tree, _) = pulled(source.path());
        for (number, edits) in rounds.into_iter().enumerate() {
            edits.into_iter().for_each(|one| edit(source.path(), one));
            if number % 2 == 0 {
                tree = push(&origin, &replica, source.path(), &tree).0;
            } else {
                let next = origin.ingest(source.path(), Some(&tree));
                send(&origin, &replica, &next, Some(&tree), false);
                prop_assert!(replica.content(&next) == on_disk(source.path()));
                tree = next;
            }
        }
    }
}
