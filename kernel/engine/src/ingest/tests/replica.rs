//! A sparse space beside the volume that has everything.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use super::*;
use crate::address::{Extent, segment_of, segment_start};
use crate::ingest::asking::ASKED_BYTES_MIN;
use crate::space::{ANSWER_BYTES, encode_answers};
use crate::table::{ChunkRef, Kind};

/// A sparse space of the same volume as `origin`, with a secret of its own.
fn replica_of(origin: &Space) -> (TempDir, Arc<Space>) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("segments")).unwrap();
    let keys = Keys::of_replica(&origin.keys().digest, &origin.keys().cut, &[8; 32]);
    let space = Space::open(directory.path(), origin.volume_id(), keys, *origin.params()).unwrap();
    (directory, space)
}

/// The chunks of all segments with their addresses.
fn chunks_of(space: &Space) -> Vec<(u64, ChunkRef)> {
    let chunks = space.all_committed().into_iter().flat_map(|row| {
        let chunks: Vec<_> = space.table(row.segment).unwrap().chunks_from(0).collect();
        chunks.into_iter().map(move |chunk| (segment_start(row.segment) + u64::from(chunk.start), chunk))
    });
    chunks.collect()
}

/// Puts chunks of one space into another, and commits them there.
fn copy(from: &Space, to: &Arc<Space>, chunks: &[(u64, ChunkRef)]) {
    let mut leases = BTreeMap::new();
    for &(address, chunk) in chunks {
        let segment = segment_of(address);
        let lease = leases.entry(segment).or_insert_with(|| {
            let row = to.committed(segment);
            let (head, table_bytes) = row.map_or((0, 0), |row| (row.head, row.table_bytes));
            Lease::open(to, segment, head, table_bytes, row.is_none(), true).unwrap().unwrap()
        });
        let bytes = from.read(Extent { address, length: chunk.length().into() }).unwrap();
        lease.put(chunk.start, &bytes, &[(chunk.length(), chunk.kind, chunk.digest)]).unwrap();
    }
    let rows: Vec<_> = leases.values_mut().map(|lease| lease.sync().unwrap()).collect();
    to.admit(&rows).unwrap();
}

/// The bytes of extents, each its address.
fn addresses(extents: &[Extent]) -> BTreeSet<u64> {
    extents.iter().flat_map(|extent| extent.address..extent.end()).collect()
}

#[test]
fn what_is_absent_of_a_tree_is_what_was_not_put() {
    let mut world = World::new();
    for number in 0..40 {
        world.write(&format!("d{}/f{number}", number % 4), &noise(number, 1000 + 5000 * number as usize));
    }
    world.write("d0/copy", &noise(7, 36_000));
    let root = decode_root(&world.push().root).unwrap();
    let origin = Arc::clone(&world.space);
    let (_directory, replica) = replica_of(&origin);
    let (data, pages): (Vec<_>, Vec<_>) =
        chunks_of(&origin).into_iter().partition(|(_, chunk)| chunk.kind == Kind::Data);
    assert!(replica.absent(&root, b"").is_err(), "its pages are not here");
    copy(&origin, &replica, &pages);

    let all = replica.absent(&root, b"").unwrap();
    let (held, missing): (Vec<_>, Vec<_>) = data.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let places = |chunks: &[(usize, &(u64, ChunkRef))]| -> Vec<Extent> {
        chunks.iter().map(|(_, (address, chunk))| Extent { address: *address, length: chunk.length().into() }).collect()
    };
    copy(&origin, &replica, &held.iter().map(|(_, chunk)| **chunk).collect::<Vec<_>>());
    let half = replica.absent(&root, b"").unwrap();

    let (held, missing) = (places(&held), places(&missing));
    assert_eq!(addresses(&all), &addresses(&held) | &addresses(&missing));
    assert!(all.len() < data.len() / 4, "neighbours are joined");
    assert_eq!(addresses(&half), addresses(&missing));
    assert_eq!(half.iter().map(|extent| extent.length).sum::<u64>(), addresses(&missing).len() as u64, "each once");
    assert!(half.is_sorted() && !half.iter().any(|extent| replica.holds(*extent)));
    // Below a path, of a file, of nothing.
    let below = addresses(&replica.absent(&root, b"d1").unwrap());
    let file = addresses(&replica.absent(&root, b"d1/f37").unwrap());
    assert!(!file.is_empty() && file.is_subset(&below) && below.len() < addresses(&half).len() / 2);
    assert_eq!(replica.absent(&root, b"/").unwrap(), half);
    assert_eq!(replica.absent(&root, b"d1/none").unwrap(), []);
    copy(&origin, &replica, &data);
    assert_eq!(replica.absent(&root, b"").unwrap(), []);
}

#[test]
fn of_a_list_of_extents_that_is_not_here_the_list_is_absent() {
    let (_volume, origin) = empty_space();
    let mut lease = Lease::open(&origin, 1, 0, 0, true, false).unwrap().unwrap();
    let content = lease.append_chunk(b"content", Kind::Data).unwrap();
    let extent = Extent { address: content, length: 7 };
    let bytes = crate::extent::encode(&[extent]).unwrap();
    let list = Extent { address: lease.append_chunk(&bytes, Kind::Tree).unwrap(), length: bytes.len() as u64 };
    origin.admit(&[lease.sync().unwrap()]).unwrap();
    let content = Content::Listed { list: vec![list], count: 1 };
    let file = Entry { kind: EntryKind::File, size: 7, content, ..Entry::default() };
    let (_directory, replica) = replica_of(&origin);

    assert_eq!(replica.absent(&file, b"").unwrap(), [list]);

    copy(&origin, &replica, &chunks_of(&origin)[1..]);
    assert_eq!(replica.absent(&file, b"").unwrap(), [extent]);
    copy(&origin, &replica, &chunks_of(&origin));
    assert_eq!(replica.absent(&file, b"").unwrap(), []);
}

type Twist = fn(&mut Vec<u8>);

/// A replica's host: it asks `origin`, which answers no sooner than it must.
struct Asker {
    origin: Arc<Space>,
    space: Arc<Space>,
    leases: BTreeMap<u64, LeaseHandle>,
    next_segment: u64,
    /// Tags of the questions without an answer, by ticket.
    asked: VecDeque<(u64, Vec<u64>)>,
    questions: u64,
    tags: u64,
    outstanding_max: usize,
    /// What becomes of an answer on its way.
    twist: Twist,
}

impl Host for Asker {
    fn grant(&mut self, _full: Option<LeaseHandle>) -> Result<LeaseHandle> {
        self.next_segment += 1;
        self.lease_for(self.next_segment)
    }

    fn progress(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }

    fn origin(&mut self) -> Option<&mut dyn Origin> {
        Some(self)
    }
}

impl Origin for Asker {
    fn begin(&mut self, tags: &[u64]) -> Result<u64> {
        assert!(!tags.is_empty());
        assert_eq!(tags.iter().collect::<BTreeSet<_>>().len(), tags.len(), "each tag once");
        self.questions += 1;
        self.tags += tags.len() as u64;
        self.asked.push_back((self.questions, tags.to_vec()));
        self.outstanding_max = self.outstanding_max.max(self.asked.len());
        Ok(self.questions)
    }

    fn end(&mut self, ticket: u64) -> Result<Vec<u8>> {
        let (asked, tags) = self.asked.pop_front().expect("something was asked");
        assert_eq!(asked, ticket, "answers are taken in the order of the questions");
        let mut answer = encode_answers(&self.origin.find_tags(&tags));
        (self.twist)(&mut answer);
        Ok(answer)
    }

    fn lease_for(&mut self, segment: u64) -> Result<LeaseHandle> {
        if !self.leases.contains_key(&segment) {
            let row = self.space.committed(segment);
            let (head, table_bytes) = row.map_or((0, 0), |row| (row.head, row.table_bytes));
            let lease = Lease::open(&self.space, segment, head, table_bytes, row.is_none(), true)?;
            self.leases.insert(segment, Arc::new(Mutex::new(lease.expect("nobody else has it"))));
        }
        Ok(Arc::clone(&self.leases[&segment]))
    }
}

/// An origin that has `files`, and a replica beside it that has nothing.
struct Pair {
    world: World,
    _directory: TempDir,
    host: Asker,
}

impl Pair {
    fn new(files: &[(&str, Vec<u8>)]) -> Pair {
        let mut world = World::new();
        world.use_cache = false;
        files.iter().for_each(|(name, bytes)| world.write(name, bytes));
        world.push();
        let origin = Arc::clone(&world.space);
        let (directory, space) = replica_of(&origin);
        let host = Asker {
            origin,
            space,
            leases: BTreeMap::new(),
            next_segment: 1000,
            asked: VecDeque::new(),
            questions: 0,
            tags: 0,
            outstanding_max: 0,
            twist: |_| {},
        };
        Pair { world, _directory: directory, host }
    }

    /// Ingests the tree into the replica.
    fn ingest(&mut self, dry_run: bool) -> Result<Ingested> {
        let options = Options { next: None, ..self.world.options(dry_run) };
        let sources = [Source { path: self.world.sources.path().join("tree"), name: None }];
        let space = Arc::clone(&self.host.space);
        ingest(&space, &sources, &options, &mut self.host)
    }

    fn commit(&mut self) {
        let leases = std::mem::take(&mut self.host.leases);
        let rows: Vec<_> = leases.values().map(|lease| lease.lock().unwrap().sync().unwrap()).collect();
        self.host.space.admit(&rows).unwrap();
    }

    /// Path -> extents and content of each file, as the replica has them.
    fn files(&self, ingested: &Ingested) -> BTreeMap<String, (Vec<Extent>, Vec<u8>)> {
        let root = decode_root(&ingested.root).unwrap().page().unwrap();
        let mut files = BTreeMap::new();
        let space = &*self.host.space;
        tree::extents_of_files(&space, &root, &mut |path, _, extents| {
            let extents = extents.collect::<Result<Vec<_>>>()?;
            let mut content = Vec::new();
            for extent in &extents {
                content.extend_from_slice(&space.read(*extent)?);
            }
            files.insert(String::from_utf8_lossy(path).into_owned(), (extents, content));
            Ok(())
        })
        .unwrap();
        files
    }
}

fn error_of(result: Result<Ingested>) -> String {
    match result {
        Err(Error::Invalid(what)) => format!("invalid: {what}"),
        Err(Error::Refused(what)) => format!("refused: {what}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was believed"),
    }
}

#[test]
fn what_the_origin_has_is_pointed_at_where_it_has_it() {
    let files: Vec<_> = (0..60).map(|n| (format!("d{}/f{n}", n % 5), noise(n, 10_000 * n as usize))).collect();
    let mut files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    files.push(("large", noise(99, 30 << 20)));
    let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut pair = Pair::new(&files);

    let ingested = pair.ingest(false).unwrap();

    assert_eq!((ingested.stats.new_bytes, ingested.stats.known_bytes), (0, total as u64));
    assert_eq!(ingested.stats.asked_known_bytes, total as u64);
    assert!((3..=9).contains(&pair.host.outstanding_max), "{} questions at once", pair.host.outstanding_max);
    assert!(pair.host.asked.is_empty());
    pair.commit();
    let found = pair.files(&ingested);
    assert_eq!(found.len(), files.len());
    for (name, bytes) in &files {
        let (extents, content) = &found[*name];
        assert!(content == bytes, "{name}");
        assert!(extents.iter().all(|extent| pair.host.origin.holds(*extent)), "{name}");
    }

    // What the replica has is not asked again.
    let questions = pair.host.questions;
    let again = pair.ingest(false).unwrap();
    assert_eq!((again.root_digest, again.stats.asked_known_bytes), (ingested.root_digest, 0));
    assert_eq!(pair.host.questions, questions);
}

#[test]
fn what_the_origin_lacks_is_stored_and_the_rest_pointed_at() {
    let (old, new) = (noise(1, 3 << 20), noise(2, 1 << 20));
    let mut pair = Pair::new(&[("old", old.clone()), ("same", noise(3, 100_000))]);
    let changed = [&old[..1 << 20], &new, &old[1 << 20..]].concat();
    pair.world.write("old", &changed);

    let ingested = pair.ingest(false).unwrap();

    let stats = ingested.stats;
    assert!((1 << 20..3 << 19).contains(&stats.new_bytes), "{stats:?}");
    assert_eq!(stats.known_bytes, stats.asked_known_bytes);
    assert_eq!(stats.known_bytes + stats.new_bytes, changed.len() as u64 + 100_000);
    pair.commit();
    let files = pair.files(&ingested);
    assert!(files["old"].1 == changed && files["same"].1 == noise(3, 100_000));
    let own: u64 = files["old"].0.iter().filter(|extent| segment_of(extent.address) > 1000).map(|one| one.length).sum();
    assert_eq!(own, stats.new_bytes);
}

#[test]
fn a_small_push_asks_nothing_and_a_larger_one_asks_from_its_first_byte() {
    let small = noise(1, ASKED_BYTES_MIN as usize - 1);
    let mut pair = Pair::new(&[("a", small.clone())]);

    let ingested = pair.ingest(false).unwrap();

    assert_eq!((pair.host.questions, ingested.stats.new_bytes), (0, small.len() as u64));

    // The large file arrives in messages of its own, behind the small one.
    let mut pair = Pair::new(&[("a", small), ("b", noise(2, 3 << 20))]);
    let ingested = pair.ingest(false).unwrap();
    assert_eq!((pair.host.questions, ingested.stats.new_bytes), (1, 0));
}

#[test]
fn a_dry_run_asks_and_puts_nothing() {
    let mut pair = Pair::new(&[("a", noise(1, 1 << 20))]);
    pair.world.write("b", &noise(2, 1 << 20));

    let ingested = pair.ingest(true).unwrap();

    assert_eq!((ingested.stats.asked_known_bytes, ingested.stats.new_bytes), (1 << 20, 1 << 20));
    assert!(pair.host.leases.is_empty());
}

#[test]
fn a_stream_is_asked_about_too() {
    let content = noise(1, 20 << 20);
    let mut pair = Pair::new(&[("a", content.clone())]);
    let file = fs::File::open(pair.world.path("a")).unwrap();
    let space = Arc::clone(&pair.host.space);

    let ingested = ingest_stream(&space, file.as_fd(), b"s", 0o600, 0, false, &mut pair.host).unwrap();

    assert_eq!((ingested.stats.new_bytes, ingested.stats.asked_known_bytes), (0, 20 << 20));
    assert!(pair.host.outstanding_max >= 3);
    pair.commit();
    assert!(pair.files(&ingested)["s"].1 == content);
}

#[test]
fn answers_that_lie_are_refused() {
    let twists: [(Twist, &str); 7] = [
        (|answer| answer.truncate(answer.len() - 1), "invalid: "),
        (|answer| answer.truncate(answer.len() - ANSWER_BYTES), "invalid: "),
        (|answer| answer.extend([0; ANSWER_BYTES]), "invalid: "),
        // Segment 0, which is never granted; the last bytes of a segment; another tag; another length.
        (|answer| answer[..8].copy_from_slice(&4096u64.to_le_bytes()), "invalid: no extent"),
        (|answer| answer[..8].copy_from_slice(&(segment_start(9) - 1).to_le_bytes()), "invalid: no extent"),
        (|answer| answer[12] ^= 1, "invalid: the tag"),
        (|answer| answer[8] ^= 1, "refused: the origin says"),
    ];
    for (twist, expected) in twists {
        let mut pair = Pair::new(&[("a", noise(1, 1 << 20))]);
        pair.host.twist = twist;

        let error = error_of(pair.ingest(false));

        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn an_answer_that_points_two_contents_at_one_address_is_refused() {
    let mut pair = Pair::new(&[("a", noise(1, 1 << 20))]);
    // The second chunk is where the first is, or in the midst of it.
    pair.host.twist = |answer| {
        let first = answer[..8].to_vec();
        answer[ANSWER_BYTES..ANSWER_BYTES + 8].copy_from_slice(&first);
    };

    let error = error_of(pair.ingest(false));

    assert!(error.starts_with("refused: the chunk"), "{error}");
}

#[test]
fn another_content_with_the_same_tag_is_not_the_one_that_was_asked_for() {
    let mut pair = Pair::new(&[("a", noise(1, 1 << 20))]);
    pair.host.twist = |answer| answer.chunks_mut(ANSWER_BYTES).for_each(|one| one[43] ^= 1);

    let ingested = pair.ingest(false).unwrap();

    assert_eq!((ingested.stats.new_bytes, ingested.stats.asked_known_bytes), (1 << 20, 0));
}
