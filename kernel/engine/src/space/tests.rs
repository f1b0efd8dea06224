//! What the space finds, serves and refuses, on segments written here byte by byte.

use super::*;
use crate::lease::Lease;
use crate::table::Kind;
use crate::verify::verify;
use std::fs;
use tempfile::TempDir;

const VOLUME: [u8; 16] = [3; 16];
const SEGMENT: u64 = (1 << COUNTER_BITS) + 5;

struct World {
    directory: TempDir,
    keys: Keys,
    /// Bytes of each segment's data and chunk table, as a lease would have written them.
    segments: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("segments")).unwrap();
        World { directory, keys: Keys::from_secret(&[1; 32]), segments: BTreeMap::new() }
    }

    fn open(&self) -> Arc<Space> {
        Space::open(self.directory.path(), VOLUME, self.keys.clone(), Params::DEFAULT).unwrap()
    }

    fn record(&self, end: u32, bytes: &[u8]) -> Record {
        Record { end, kind: Kind::Data, digest: keyed(&self.keys.digest, bytes) }
    }

    /// Appends chunks as one batch, writes both files, and answers what a journal would then say.
    fn store(&mut self, segment: u64, chunks: &[&[u8]]) -> Committed {
        let space = self.open();
        let header = space.table_header(segment).encode().to_vec();
        let records: Vec<Record> = {
            let mut end = self.segments.get(&segment).map_or(0, |(data, _)| data.len() as u32);
            let record = |bytes: &&[u8]| {
                end += bytes.len() as u32;
                self.record(end, bytes)
            };
            chunks.iter().map(record).collect()
        };
        let (data, table) = self.segments.entry(segment).or_insert_with(|| (Vec::new(), header));
        encode_batch(data.len() as u32, &records, table);
        chunks.iter().for_each(|bytes| data.extend_from_slice(bytes));
        fs::write(space.data_path(segment), &data).unwrap();
        fs::write(space.table_path(segment), &table).unwrap();
        Committed { segment, head: data.len() as u32, table_bytes: table.len() as u64 }
    }
}

fn extent(segment: u64, start: u32, length: u64) -> Extent {
    Extent { address: segment_start(segment) | u64::from(start), length }
}

fn find(space: &Space, bytes: &[u8]) -> Option<Address> {
    space.find(&keyed(&space.keys().digest, bytes), bytes.len() as u32, Kind::Data).unwrap()
}

fn damage<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Damaged(what)) => what,
        other => panic!("not damage: {other:?}"),
    }
}

#[test]
fn committed_chunks_are_found_and_read_and_others_are_not() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one", b"three"]);
    let space = world.open();
    assert_eq!(find(&space, b"one"), None, "nothing is admitted yet");

    space.admit(&[row]).unwrap();

    assert_eq!(find(&space, b"one"), Some(segment_start(SEGMENT)));
    assert_eq!(find(&space, b"three"), Some(segment_start(SEGMENT) | 3));
    assert_eq!(find(&space, b"two"), None);
    assert_eq!(&*space.read(extent(SEGMENT, 0, 8)).unwrap(), b"onethree");
    assert_eq!(space.chunks(extent(SEGMENT, 3, 5)).unwrap().len(), 1);
}

#[test]
fn a_digest_with_another_length_or_another_place_is_not_confirmed() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one", b"three"]);
    let space = world.open();
    space.admit(&[row]).unwrap();
    let digest = keyed(&space.keys().digest, b"one");
    let address = segment_start(SEGMENT);

    let follows = |address, length| space.follows(address, &digest, length, Kind::Data);
    assert_eq!(space.find(&digest, 4, Kind::Data).unwrap(), None);
    assert!(follows(address, 3));
    assert!(!follows(address + 3, 3) && !follows(address, 2) && !follows(0, 3) && !follows(u64::MAX, 3));
    assert_eq!(space.find(&digest, 3, Kind::Tree).unwrap(), None, "a page may be damaged where a file is not");
    assert!(!space.follows(address, &digest, 3, Kind::Journal));
}

#[test]
fn a_wrong_claim_of_the_index_is_refused() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one", b"three"]);
    let space = world.open();
    space.admit(&[row]).unwrap();
    let stranger = keyed(&space.keys().digest, b"never stored");

    for claim in [segment_start(SEGMENT), segment_start(SEGMENT) + 1, segment_start(99), 1, u64::MAX] {
        space.index.insert(tag(&stranger), claim);
    }

    assert_eq!(space.find(&stranger, 3, Kind::Data).unwrap(), None);
}

#[test]
fn what_is_beyond_the_committed_head_is_neither_found_nor_served() {
    let mut world = World::new();
    let first = world.store(SEGMENT, &[b"one"]);
    let second = world.store(SEGMENT, &[b"three"]);
    let space = world.open();

    space.admit(&[first]).unwrap();
    assert_eq!(find(&space, b"three"), None);
    let what = damage(space.slice(extent(SEGMENT, 0, 8)));
    assert!(what.contains(&space.slot(SEGMENT)), "{what}");
    damage(space.read(extent(SEGMENT, 3, 5)));

    space.admit(&[second]).unwrap();
    space.admit(&[first]).unwrap();
    assert_eq!(space.committed(SEGMENT), Some(second), "admission is monotone");
    assert_eq!(find(&space, b"three"), Some(segment_start(SEGMENT) | 3));
}

#[test]
fn extents_that_are_not_whole_chunks_of_one_segment_are_refused() {
    let mut world = World::new();
    let rows = [world.store(SEGMENT, &[b"one"]), world.store(SEGMENT + 1, &[b"three"])];
    let space = world.open();
    space.admit(&rows).unwrap();

    for (start, length) in [(0, 2), (1, 2), (0, 0), (0, u64::MAX), (3, SEGMENT_BYTES)] {
        damage(space.read(extent(SEGMENT, start, length)));
    }
    damage(space.read(Extent { address: 0, length: 5 }));
}

#[test]
fn damaged_bytes_are_named_and_never_served() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one", b"three", b"seven"]);
    let space = world.open();
    let (data, _) = world.segments.get_mut(&SEGMENT).unwrap();
    data[4] ^= 1;
    fs::write(space.data_path(SEGMENT), data).unwrap();
    space.admit(&[row]).unwrap();

    let what = damage(space.read(extent(SEGMENT, 0, 13)));

    assert!(what.contains(&space.slot(SEGMENT)) && what.contains("3..8"), "{what}");
    assert_eq!(&*space.read(extent(SEGMENT, 0, 3)).unwrap(), b"one");
    let found = verify(&space, SEGMENT, 0, u64::MAX).unwrap();
    assert_eq!((found.checked_bytes, found.next_start, found.damaged), (13, 13, vec![extent(SEGMENT, 3, 5)]));
}

#[test]
fn a_copy_is_verified_and_stays_when_the_disk_fails_later() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[&[1; 5000], &[2; 50_000], &[3; 7]]);
    let space = world.open();
    space.admit(&[row]).unwrap();
    let all = extent(SEGMENT, 0, 55_007);
    let pieces = |bytes| space.pieces(all, bytes).unwrap();
    assert_eq!(pieces(1), [extent(SEGMENT, 0, 5000), extent(SEGMENT, 5000, 50_000), extent(SEGMENT, 55_000, 7)]);
    assert_eq!(pieces(50_007), [extent(SEGMENT, 0, 5000), extent(SEGMENT, 5000, 50_007)]);
    assert_eq!(pieces(u64::MAX), [all]);
    damage(space.pieces(extent(SEGMENT, 1, 4999), 1));

    let mut copy = vec![0; 5000];
    space.copy(extent(SEGMENT, 0, 5000), &mut copy).unwrap();
    File::options().write(true).open(space.data_path(SEGMENT)).unwrap().set_len(0).unwrap();

    assert_eq!(copy, [1; 5000]);
    let what = damage(space.copy(extent(SEGMENT, 5000, 50_000), &mut vec![0; 50_000]));
    assert!(what.contains(&space.slot(SEGMENT)), "{what}");
    assert!(matches!(space.copy(extent(SEGMENT, 0, 5000), &mut copy[1..]), Err(Error::Invalid(_) | Error::Damaged(_))));
}

#[test]
fn a_damaged_chunk_is_never_copied_out_as_sound() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one", b"three"]);
    let space = world.open();
    let (data, _) = world.segments.get_mut(&SEGMENT).unwrap();
    data[4] ^= 1;
    fs::write(space.data_path(SEGMENT), data).unwrap();
    space.admit(&[row]).unwrap();

    let what = damage(space.copy(extent(SEGMENT, 0, 8), &mut [0; 8]));

    assert!(what.contains("3..8"), "{what}");
    space.copy(extent(SEGMENT, 0, 3), &mut [0; 3]).unwrap();
}

#[test]
fn a_short_missing_or_zeroed_segment_file_is_damage_and_the_rest_is_served() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[&[1; 5000], &[2; 5000], &[3; 5000]]);
    let path = world.open().data_path(SEGMENT);
    let whole = fs::read(&path).unwrap();

    fs::write(&path, &whole[..7000]).unwrap();
    let space = world.open();
    space.admit(&[row]).unwrap();
    assert_eq!(space.read(extent(SEGMENT, 0, 5000)).unwrap().len(), 5000);
    damage(space.read(extent(SEGMENT, 5000, 5000)));
    let found = verify(&space, SEGMENT, 0, u64::MAX).unwrap();
    assert_eq!(found.damaged, vec![extent(SEGMENT, 5000, 10_000)], "neighbours are joined");

    fs::remove_file(&path).unwrap();
    let space = world.open();
    space.admit(&[row]).unwrap();
    damage(space.read(extent(SEGMENT, 0, 5000)));
    assert_eq!(verify(&space, SEGMENT, 0, u64::MAX).unwrap().damaged, vec![extent(SEGMENT, 0, 15_000)]);
}

#[test]
fn a_segment_cut_short_while_it_is_mapped_is_damage_and_no_crash() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[&[1; 5000], &[2; 50_000]]);
    let space = world.open();
    space.admit(&[row]).unwrap();
    space.read(extent(SEGMENT, 0, 55_000)).unwrap();

    File::options().write(true).open(space.data_path(SEGMENT)).unwrap().set_len(8192).unwrap();

    damage(space.read(extent(SEGMENT, 5000, 50_000)));
    let found = verify(&space, SEGMENT, 0, u64::MAX).unwrap();
    assert_eq!(found.damaged, vec![extent(SEGMENT, 5000, 50_000)]);
}

#[test]
fn a_damaged_chunk_table_makes_its_segment_damaged_and_no_other() {
    type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
    let damages: [Damage; 4] =
        [&|bytes| bytes[70] ^= 4, &|bytes| bytes[20] ^= 4, &|bytes| bytes.truncate(bytes.len() - 1), &|bytes| {
            bytes.clear()
        }];
    for spoil in damages {
        let mut world = World::new();
        let rows = [world.store(SEGMENT, &[b"one"]), world.store(SEGMENT + 1, &[b"three"])];
        let space = world.open();
        let mut table = world.segments[&SEGMENT].1.clone();
        spoil(&mut table);
        fs::write(space.table_path(SEGMENT), table).unwrap();

        space.admit(&rows).unwrap();

        assert_eq!((find(&space, b"one"), find(&space, b"three")), (None, Some(segment_start(SEGMENT + 1))));
        assert!(damage(space.read(extent(SEGMENT, 0, 3))).contains(&space.slot(SEGMENT)));
        assert_eq!(verify(&space, SEGMENT, 0, 99).unwrap().damaged, vec![extent(SEGMENT, 0, 3)]);
        assert!(space.publish_index().unwrap());
        fs::write(space.table_path(SEGMENT), &world.segments[&SEGMENT].1).unwrap();
        let mended = world.open();
        mended.admit(&rows).unwrap();
        assert_eq!(find(&mended, b"one"), Some(segment_start(SEGMENT)), "its stamp had not moved");
    }
}

#[test]
fn tables_of_another_volume_or_slot_key_are_refused() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one"]);
    let mut other = World::new();
    other.keys = Keys::from_secret(&[2; 32]);
    other.store(SEGMENT, &[b"one"]);
    let (mine, theirs) = (world.open(), other.open());

    fs::copy(theirs.table_path(SEGMENT), mine.table_path(SEGMENT)).unwrap();
    mine.admit(&[row]).unwrap();

    damage(mine.read(extent(SEGMENT, 0, 3)));
}

#[test]
fn verification_stops_at_its_budget_and_goes_on_where_it_stopped() {
    let mut world = World::new();
    let chunks: Vec<Vec<u8>> = (1..50_u8).map(|n| vec![n; n as usize * 100]).collect();
    let row = world.store(SEGMENT, &chunks.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let space = world.open();
    space.admit(&[row]).unwrap();

    let (mut at, mut checked, mut calls) = (0, 0, 0);
    while at < row.head {
        let found = verify(&space, SEGMENT, at, 9_000).unwrap();
        assert!(found.damaged.is_empty() && found.next_start > at && found.checked_bytes < 9_000 + 4_900);
        (at, checked, calls) = (found.next_start, checked + found.checked_bytes, calls + 1);
    }

    assert_eq!(checked, u64::from(row.head));
    assert!(calls >= 9);
}

#[test]
fn chunks_of_an_own_lease_are_found_until_it_ends() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one"]);
    let space = world.open();
    space.admit(&[row]).unwrap();

    let records = [world.record(8, b"three"), world.record(10, b"go")];
    space.register(SEGMENT, 3, &records).unwrap();
    assert_eq!(
        (find(&space, b"three"), find(&space, b"go")),
        (Some(segment_start(SEGMENT) | 3), Some(segment_start(SEGMENT) | 8))
    );
    damage(space.slice(extent(SEGMENT, 3, 5)));
    assert!(space.publish_index().unwrap());
    assert_eq!(space.open_entries(), 2, "what is not committed is not published");

    damage(space.register(SEGMENT, 5, &[world.record(9, b"four")]));

    space.forget(SEGMENT);
    space.register(SEGMENT, 3, &[world.record(7, b"four")]).unwrap();
    assert_eq!((find(&space, b"three"), find(&space, b"four")), (None, Some(segment_start(SEGMENT) | 3)));
    assert_eq!(find(&space, b"one"), Some(segment_start(SEGMENT)));
}

#[test]
fn a_lease_that_commits_stays_found_and_its_rows_leave_memory() {
    let mut world = World::new();
    let space = world.open();
    space.register(SEGMENT, 0, &[world.record(3, b"one"), world.record(8, b"three")]).unwrap();

    let row = world.store(SEGMENT, &[b"one", b"three"]);
    space.admit(&[row]).unwrap();

    assert!(read(&space.provisional).is_empty());
    assert_eq!(find(&space, b"three"), Some(segment_start(SEGMENT) | 3));
    assert_eq!(space.open_entries(), 2);
}

#[test]
fn the_index_catches_up_from_its_stamp_and_reads_only_what_is_new() {
    let mut world = World::new();
    let first = world.store(SEGMENT, &[b"one"]);
    let space = world.open();
    space.admit(&[first]).unwrap();
    assert!(space.publish_index().unwrap());
    let second = world.store(SEGMENT, &[b"three"]);
    let third = world.store(SEGMENT + 1, &[b"seven"]);

    let space = world.open();
    space.admit(&[second, third]).unwrap();

    assert_eq!((space.index_discarded(), space.open_entries()), (None, 2));
    assert!([b"one".as_slice(), b"three", b"seven"].iter().all(|bytes| find(&space, bytes).is_some()));
}

#[test]
fn a_lost_index_is_rebuilt_from_the_chunk_tables() {
    let mut world = World::new();
    let rows = [world.store(SEGMENT, &[b"one"]), world.store(SEGMENT + 1, &[b"three"])];
    let space = world.open();
    space.admit(&rows).unwrap();
    assert!(space.publish_index().unwrap());
    let manifest = world.directory.path().join("index/manifest");
    fs::write(&manifest, b"nonsense").unwrap();

    let space = world.open();
    space.admit(&rows).unwrap();

    assert!(space.index_discarded().is_some());
    assert!(find(&space, b"one").is_some() && find(&space, b"three").is_some());
    assert!(space.publish_index().unwrap());
    assert_eq!(world.open().index_discarded(), None);
}

#[test]
fn an_index_discarded_by_another_process_is_caught_up_when_that_is_noticed() {
    let mut world = World::new();
    let rows = [world.store(SEGMENT, &[b"one"]), world.store(SEGMENT + 1, &[b"three"])];
    let space = world.open();
    space.admit(&rows).unwrap();
    assert!(space.publish_index().unwrap());
    fs::remove_dir_all(world.directory.path().join("index")).unwrap();
    let third = world.store(SEGMENT + 2, &[b"seven"]);
    space.admit(&[third]).unwrap();

    assert!(space.publish_index().unwrap());

    assert!([b"one".as_slice(), b"three", b"seven"].iter().all(|bytes| find(&space, bytes).is_some()));
    assert!(space.publish_index().unwrap());
    let again = world.open();
    again.admit(&[rows[0], rows[1], third]).unwrap();
    assert_eq!(again.open_entries(), 0, "all of it is on disk");
}

#[test]
fn an_index_from_the_future_of_a_restored_volume_misses_nothing() {
    let mut world = World::new();
    let first = world.store(SEGMENT, &[b"one"]);
    let later = world.store(SEGMENT, &[b"three"]);
    let space = world.open();
    space.admit(&[later]).unwrap();
    assert!(space.publish_index().unwrap());

    // The volume is back at `first`, and goes on from there with other bytes.
    world.segments.clear();
    assert_eq!(world.store(SEGMENT, &[b"one"]), first);
    let space = world.open();
    space.admit(&[first]).unwrap();
    let other = world.store(SEGMENT, &[b"seven"]);
    space.admit(&[other]).unwrap();

    assert_eq!((find(&space, b"three"), find(&space, b"seven")), (None, Some(segment_start(SEGMENT) | 3)));
}

#[test]
fn parsed_tables_stay_under_their_cap() {
    let mut loaded = Loaded::default();
    for segment in 1..4000 {
        loaded.hold(segment, 64, Ok(Arc::new(SegmentTable::empty(segment))));
        assert!(loaded.tables.len() <= TABLES_MAX && loaded.bytes <= TABLES_BYTES_MAX);
        assert!(loaded.tables.contains_key(&segment));
    }
    let sum: usize =
        loaded.tables.values().filter_map(|held| held.table.as_ref().ok()).map(|t| t.anonymous_bytes()).sum();

    assert_eq!(loaded.bytes, sum);
}

#[test]
fn impossible_rows_are_refused() {
    let space = World::new().open();

    for (segment, head) in [(0, 5), (7 << COUNTER_BITS, 5), (1 << 38, 5), (1, SEGMENT_BYTES as u32 + 1)] {
        assert!(matches!(space.admit(&[Committed { segment, head, table_bytes: 64 }]), Err(Error::Invalid(_))));
    }
}

#[test]
fn what_is_distrusted_is_not_found_and_another_copy_of_it_is() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one", b"three", b"seven"]);
    let space = world.open();
    let (data, _) = world.segments.get_mut(&SEGMENT).unwrap();
    data[4] ^= 1;
    fs::write(space.data_path(SEGMENT), data).unwrap();
    space.admit(&[row]).unwrap();
    assert!(find(&space, b"three").is_some(), "nobody has noticed");

    damage(space.read(extent(SEGMENT, 0, 13)));

    assert_eq!(space.distrusted(), [extent(SEGMENT, 3, 5)]);
    assert_eq!(find(&space, b"three"), None);
    assert!(!space.follows(segment_start(SEGMENT) | 3, &keyed(&space.keys().digest, b"three"), 5, Kind::Data));
    assert!(find(&space, b"one").is_some() && find(&space, b"seven").is_some());
    let again = world.store(SEGMENT + 1, &[b"three"]);
    space.admit(&[again]).unwrap();
    assert_eq!(find(&space, b"three"), Some(segment_start(SEGMENT + 1)));
}

#[test]
fn what_cannot_be_read_is_distrusted_too() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[&[1; 5000], &[2; 5000]]);
    let space = world.open();
    space.admit(&[row]).unwrap();
    fs::write(space.data_path(SEGMENT), [1; 5000]).unwrap();

    damage(space.read(extent(SEGMENT, 5000, 5000)));
    damage(space.read(extent(SEGMENT, 5000, 50_000)));

    assert_eq!(space.distrusted(), [extent(SEGMENT, 5000, 5000)], "what is not stored is not damaged");
    assert!(find(&space, &[1; 5000]).is_some() && find(&space, &[2; 5000]).is_none());
}

proptest::proptest! {
    #[test]
    fn distrusted_ranges_are_the_union_of_what_was_said(
        said in proptest::collection::vec((1..60_u64, 0..12_u64), 0..20),
    ) {
        let space = World::new().open();
        for &(address, length) in &said {
            space.distrust(&[Extent { address, length }]);
        }

        let is_said = |at: u64| said.iter().any(|&(address, length)| (address..address + length).contains(&at));
        for at in 1..80 {
            proptest::prop_assert_eq!(space.is_distrusted(at, 1), is_said(at));
        }
        let ranges = space.distrusted();
        proptest::prop_assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].address));
    }
}

#[test]
fn tags_are_answered_with_durable_data_that_is_trusted() {
    let mut world = World::new();
    let row = world.store(SEGMENT, &[b"one", b"three", b"one"]);
    let space = world.open();
    space.admit(&[row]).unwrap();
    let known = |bytes: &[u8]| keyed(&space.keys().digest, bytes);
    let at = |offset: u64| segment_start(SEGMENT) + offset;
    // A lease beside it: a page, and data that is admitted and not durable.
    let mut lease = Lease::open(&space, SEGMENT + 1, 0, 0, true, false).unwrap().unwrap();
    lease.append_chunk(b"page", Kind::Tree).unwrap();
    lease.append_chunk(b"synced", Kind::Data).unwrap();
    space.admit(&[lease.sync().unwrap()]).unwrap();
    lease.append_chunk(b"flushed", Kind::Data).unwrap();
    space.admit(&[lease.flush_all().unwrap()]).unwrap();
    lease.append_chunk(b"waiting", Kind::Data).unwrap();
    let contents: [&[u8]; 6] = [b"three", b"nowhere", b"page", b"synced", b"flushed", b"waiting"];
    let tags: Vec<u64> = contents.iter().map(|bytes| tag(&known(bytes))).collect();

    let found = space.find_tags(&tags);

    let synced = (segment_start(SEGMENT + 1) + 4, 6, known(b"synced"));
    assert_eq!(found, [Some((at(3), 5, known(b"three"))), None, None, Some(synced), None, None]);
    assert!(space.find(&known(b"flushed"), 7, Kind::Data).unwrap().is_some());
    lease.sync().unwrap();
    assert!(space.find_tags(&tags)[4].is_some());

    // Of two places the one that is not distrusted.
    let one = tag(&known(b"one"));
    for damaged in [at(0), at(8)] {
        let space = world.open();
        space.admit(&[row]).unwrap();
        space.distrust(&[Extent { address: damaged, length: 1 }]);
        assert_eq!(space.find_tags(&[one]), [Some((at(8) + at(0) - damaged, 3, known(b"one")))]);
    }
    space.distrust(&[Extent { address: at(0), length: 11 }]);
    assert_eq!(space.find_tags(&[one]), [None]);
}
