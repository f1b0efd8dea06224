//! Laws of the index against a plain map, and what it makes of kills, races and damage.

use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use tempfile::TempDir;

const VOLUME: [u8; 16] = [0x11; 16];

fn golden(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn stamps(pairs: &[(u64, u64)]) -> BTreeMap<u64, u64> {
    pairs.iter().copied().collect()
}

fn address(n: u64) -> Address {
    1 << 26 | n << 6
}

/// Tags that look like digests' and are the same in every run.
fn tag_of(n: u64) -> u64 {
    crate::keys::tag(&crate::keys::keyed(&[5; 32], &n.to_le_bytes()))
}

fn published(directory: &TempDir, numbers: std::ops::Range<u64>) -> Index {
    let index = Index::open(directory.path(), VOLUME);
    index.insert_all(numbers.map(|n| (tag_of(n), address(n))));
    assert!(index.publish(|_| true, &stamps(&[(1, 100)])).unwrap());
    index
}

fn found(index: &Index, numbers: std::ops::Range<u64>) -> usize {
    let mut claims = Vec::new();
    let mut is_found = |n: u64| {
        claims.clear();
        index.find(tag_of(n), &mut claims);
        claims == [address(n)]
    };
    numbers.filter(|n| is_found(*n)).count()
}

fn files(directory: &Path) -> HashSet<String> {
    fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

fn learn(model: &mut HashMap<u64, HashSet<u64>>, tag: u64, address: Address) {
    model.entry(tag).or_default().insert(address);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<(u64, u64)>),
    Publish,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few tags and addresses, so that they collide; tags from both ends, where the fan-out is awkward.
    let tag = prop_oneof![0_u64..40, Just(u64::MAX), (0_u64..40).prop_map(|n| n << 58), any::<u64>()];
    let step = prop_oneof![
        4 => prop::collection::vec((tag, 1_u64..30), 0..60).prop_map(Step::Insert),
        2 => Just(Step::Publish),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_answers_like_a_map_of_sets(steps in steps(), strangers in prop::collection::vec(any::<u64>(), 8)) {
        let directory = TempDir::new().unwrap();
        let mut index = Index::open(directory.path(), VOLUME);
        let (mut model, mut open) = (HashMap::<u64, HashSet<u64>>::new(), Vec::new());
        for step in steps {
            match step {
                Step::Insert(claims) => {
                    index.insert_all(claims.iter().copied());
                    open.extend(claims);
                }
                Step::Publish => {
                    prop_assert!(index.publish(|_| true, &BTreeMap::new()).unwrap());
                    open.drain(..).for_each(|(tag, address)| learn(&mut model, tag, address));
                    prop_assert_eq!(index.open_entries(), 0);
                }
                Step::Reopen => {
                    index = Index::open(directory.path(), VOLUME);
                    prop_assert_eq!(index.discarded(), None);
                    open.clear();
                }
            }
        }
        open.drain(..).for_each(|(tag, address)| learn(&mut model, tag, address));

        let tags: Vec<u64> = model.keys().copied().chain(strangers).collect();
        let mut firsts = vec![99; tags.len()];
        index.find_batch(&tags, &mut firsts);

        for (tag, first) in tags.iter().zip(firsts) {
            let expected = model.get(tag).cloned().unwrap_or_default();
            let mut claims = Vec::new();
            index.find(*tag, &mut claims);
            prop_assert_eq!(claims.len(), expected.len().min(CLAIMS_MAX));
            prop_assert!(claims.iter().all(|claim| expected.contains(claim)));
            let believable = if expected.is_empty() { first == 0 } else { expected.contains(&first) };
            prop_assert!(believable);
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_any_other_bytes_are_refused(
        next: u64, tables: Vec<(u64, u64)>, stamps: BTreeMap<u64, u64>,
        at in any::<prop::sample::Index>(), bit in 0..8, noise: Vec<u8>
    ) {
        let manifest = Manifest { next, tables, stamps };
        let bytes = manifest.encode(&VOLUME);
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1_u8 << bit;

        prop_assert_eq!(Manifest::decode(&bytes, &VOLUME), Ok(manifest));
        prop_assert!(Manifest::decode(&flipped, &VOLUME).is_err());
        prop_assert!(Manifest::decode(&bytes[..at.index(bytes.len())], &VOLUME).is_err());
        prop_assert!(Manifest::decode(&bytes, &[0; 16]).is_err());
        prop_assert!(Manifest::decode(&noise, &VOLUME).is_err());
    }

    #[test]
    fn damage_inside_a_table_never_panics_and_costs_no_more_than_claims(
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)
    ) {
        let directory = TempDir::new().unwrap();
        drop(published(&directory, 0..300));
        let path = directory.path().join("0.table");
        let mut bytes = fs::read(&path).unwrap();
        let body = bytes.len() - 64;
        for (at, byte) in noise {
            bytes[64 + at.index(body)] = byte;
        }
        fs::write(&path, bytes).unwrap();

        let index = Index::open(directory.path(), VOLUME);
        let tags: Vec<u64> = (0..300).map(tag_of).collect();
        let mut claims = vec![0; 300];
        index.find_batch(&tags, &mut claims);
        found(&index, 0..300);
        index.insert_all((300..900).map(|n| (tag_of(n), address(n))));
        prop_assert!(index.publish(|_| true, &BTreeMap::new()).unwrap());

        prop_assert_eq!(found(&index, 300..900), 600);
    }
}

#[test]
fn the_layout_is_the_golden_files() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("0.table");
    let mut entries: Vec<Entry> = (1..=20_u64)
        .map(|i| Entry { tag: i.wrapping_mul(0x0D1B_54A3_2D19_2ED3), address: (0x10_0000_0002 << 26) + i * 4096 })
        .collect();
    entries.sort_unstable();

    let count = sorted::write(&path, &VOLUME, vec![Box::new(entries.iter().copied())], 20).unwrap();
    let manifest = Manifest {
        next: 9,
        tables: vec![(3, 1000), (8, 20)],
        stamps: stamps(&[(1, 64), (2, 5000), (0x10_0000_0002, 4096)]),
    };

    assert_eq!(count, 20);
    assert_eq!(fs::read(&path).unwrap(), golden("index-table-v1.bin"));
    assert_eq!(manifest.encode(&VOLUME), golden("index-manifest-v1.bin"));
    let table = SortedTable::open(&path, &VOLUME, 20).unwrap();
    assert_eq!(table.entries().collect::<Vec<_>>(), entries);
}

#[test]
fn no_index_is_an_empty_index() {
    let directory = TempDir::new().unwrap();

    let index = Index::open(&directory.path().join("none"), VOLUME);

    assert_eq!((index.discarded(), index.stamps().len(), found(&index, 0..10)), (None, 0, 0));
}

#[test]
fn a_bad_manifest_or_table_discards_the_index_and_says_why() {
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
    let damages: [Damage; 6] = [
        ("manifest", &|bytes| bytes[50] ^= 1),
        ("manifest", &|bytes| bytes.truncate(20)),
        ("manifest", &|bytes| bytes.clear()),
        ("0.table", &|bytes| bytes[9] ^= 1),
        ("0.table", &|bytes| bytes.truncate(bytes.len() - 1)),
        ("0.table", &|bytes| bytes.clear()),
    ];
    for (file, damage) in damages {
        let directory = TempDir::new().unwrap();
        drop(published(&directory, 0..100));
        let path = directory.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();

        let index = Index::open(directory.path(), VOLUME);

        assert!(index.discarded().is_some_and(|why| why.contains(file)), "{file}");
        assert_eq!((index.stamps().len(), found(&index, 0..100)), (0, 0));
        index.insert_all((0..100).map(|n| (tag_of(n), address(n))));
        assert!(index.publish(|_| true, &stamps(&[(1, 50)])).unwrap());
        let again = Index::open(directory.path(), VOLUME);
        assert_eq!((again.discarded(), found(&again, 0..100), again.stamps()), (None, 100, stamps(&[(1, 50)])));
    }
}

#[test]
fn only_what_passes_is_published_and_the_rest_stays_in_memory() {
    let directory = TempDir::new().unwrap();
    let index = Index::open(directory.path(), VOLUME);
    index.insert_all((0..100).map(|n| (tag_of(n), address(n))));

    assert!(index.publish(|claim| claim < address(60), &BTreeMap::new()).unwrap());

    assert_eq!((found(&index, 0..100), index.open_entries(), index.published().0), (100, 40, 60));
    assert_eq!(found(&Index::open(directory.path(), VOLUME), 0..100), 60);
}

#[test]
fn tables_stay_few_and_nothing_is_lost_however_small_the_publications() {
    let directory = TempDir::new().unwrap();
    let index = Index::open(directory.path(), VOLUME);
    for n in 0..300 {
        index.insert(tag_of(n), address(n));
        assert!(index.publish(|_| true, &stamps(&[(1, n + 1)])).unwrap());

        let (_, tables, _) = index.published();
        assert!(tables <= TABLES_MAX);
        assert_eq!(files(directory.path()).len(), tables + 2, "tables, manifest and lock, nothing else");
    }

    assert_eq!((found(&index, 0..300), index.published().0), (300, 300));
}

#[test]
fn entries_are_rewritten_a_logarithmic_number_of_times() {
    let mut counts: Vec<u64> = Vec::new();
    let mut written = 0;
    for _ in 0..10_000 {
        let kept = tables_kept(&counts, 1);
        let merged = 1 + counts[kept..].iter().sum::<u64>();
        counts.truncate(kept);
        counts.push(merged);
        written += merged;
        assert!(counts.len() <= TABLES_MAX);
    }

    assert!(written <= 10_000 * 20, "{written}");
}

/// Every state that a publication can leave behind when it is killed, made by killing it: a child process would be
/// needed to be killed at each point, so the states are copied while the steps are taken one by one.
#[test]
fn a_publication_killed_at_any_step_leaves_the_old_index_or_the_new_one() {
    let directory = TempDir::new().unwrap();
    drop(published(&directory, 0..1000));
    let old: HashMap<_, _> = files(directory.path())
        .into_iter()
        .map(|name| (name.clone(), fs::read(directory.path().join(name)).unwrap()))
        .collect();
    let index = Index::open(directory.path(), VOLUME);
    index.insert_all((1000..3000).map(|n| (tag_of(n), address(n))));
    assert!(index.publish(|_| true, &stamps(&[(1, 300)])).unwrap());
    let manifest = fs::read(directory.path().join("manifest")).unwrap();
    let table = fs::read(directory.path().join("1.table")).unwrap();
    assert!(!directory.path().join("0.table").exists(), "it was merged");
    let state = |extra: &[(&str, &[u8])], without: &[&str]| {
        let state = TempDir::new().unwrap();
        let both = old.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        for (name, bytes) in both.chain(extra.iter().copied()).filter(|(name, _)| !without.contains(name)) {
            fs::write(state.path().join(name), bytes).unwrap();
        }
        state
    };
    let is_old = [
        state(&[("1.table", b"")], &[]),
        state(&[("1.table", &table[..table.len() / 2])], &[]),
        state(&[("1.table", &table)], &[]),
        state(&[("1.table", &table), ("manifest.new", b"")], &[]),
        state(&[("1.table", &table), ("manifest.new", &manifest[..30])], &[]),
        state(&[("1.table", &table), ("manifest.new", &manifest)], &[]),
    ];
    let is_new = [
        state(&[("1.table", &table), ("manifest", &manifest)], &[]),
        state(&[("1.table", &table), ("manifest", &manifest)], &["0.table"]),
    ];

    for (states, count, stamp) in [(&is_old[..], 1000, 100), (&is_new[..], 3000, 300)] {
        for state in states {
            let index = Index::open(state.path(), VOLUME);
            assert_eq!(
                (index.discarded(), found(&index, 0..3000), index.stamps()),
                (None, count, stamps(&[(1, stamp)]))
            );
            // And it goes on from there, clearing away what was left.
            index.insert_all((count as u64..5000).map(|n| (tag_of(n), address(n))));
            assert!(index.publish(|_| true, &stamps(&[(1, 500)])).unwrap());
            let index = Index::open(state.path(), VOLUME);
            assert_eq!((found(&index, 0..5000), index.stamps()), (5000, stamps(&[(1, 500)])));
            assert_eq!(files(state.path()).iter().filter(|name| name.ends_with(".table")).count(), index.published().1);
        }
    }
}

#[test]
fn a_reader_keeps_answering_while_its_tables_are_merged_away() {
    let directory = TempDir::new().unwrap();
    let reader = published(&directory, 0..1000);
    let writer = Index::open(directory.path(), VOLUME);
    writer.insert_all((1000..4000).map(|n| (tag_of(n), address(n))));

    assert!(writer.publish(|_| true, &stamps(&[(1, 200)])).unwrap());

    assert_eq!(found(&reader, 0..4000), 1000);
    reader.insert_all((4000..4010).map(|n| (tag_of(n), address(n))));
    assert!(reader.publish(|_| true, &stamps(&[(1, 150)])).unwrap());
    assert_eq!((found(&reader, 0..4010), reader.stamps()), (4010, stamps(&[(1, 200)])));
}

#[test]
fn one_publishes_at_a_time_and_the_other_is_told() {
    let directory = TempDir::new().unwrap();
    let index = published(&directory, 0..10);
    index.insert(tag_of(10), address(10));
    let lock = File::open(directory.path().join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();

    assert!(!index.publish(|_| true, &stamps(&[(1, 200)])).unwrap());

    assert_eq!((found(&index, 0..11), index.open_entries()), (11, 1));
    drop(lock);
    assert!(index.publish(|_| true, &stamps(&[(1, 200)])).unwrap());
    assert_eq!((found(&index, 0..11), index.open_entries()), (11, 0));
}

#[test]
fn commits_published_by_two_processes_are_stored_once() {
    let directory = TempDir::new().unwrap();
    let (a, b) = (Index::open(directory.path(), VOLUME), Index::open(directory.path(), VOLUME));
    for index in [&a, &b] {
        index.insert_all((0..1000).map(|n| (tag_of(n), address(n))));
        assert!(index.publish(|_| true, &stamps(&[(1, 100)])).unwrap());
    }

    assert_eq!((b.published().0, b.published().1), (1000, 1));
}

#[test]
fn a_stamp_never_claims_what_another_process_discarded() {
    let directory = TempDir::new().unwrap();
    let old = published(&directory, 0..100);
    fs::remove_file(directory.path().join("manifest")).unwrap();
    let other = Index::open(directory.path(), VOLUME);
    other.insert_all((200..210).map(|n| (tag_of(n), address(n))));
    assert!(other.publish(|_| true, &stamps(&[(2, 70)])).unwrap());

    // This one's tables ended at 100 and it inserted 100..120 since; the tables on disk have nothing of segment 1.
    old.insert_all((100..120).map(|n| (tag_of(n), address(n))));
    assert!(old.publish(|_| true, &stamps(&[(1, 120), (3, 90)])).unwrap());

    assert_eq!(old.stamps(), stamps(&[(2, 70), (3, 90)]));
    assert_eq!(found(&old, 100..120), 20);
}

#[test]
fn a_failed_publication_loses_no_claim() {
    let directory = TempDir::new().unwrap();
    let index = published(&directory, 0..100);
    index.insert_all((100..150).map(|n| (tag_of(n), address(n))));
    // In the place of the next table something that no file can replace.
    fs::create_dir(directory.path().join("1.table")).unwrap();

    assert!(index.publish(|_| true, &stamps(&[(1, 200)])).is_err());

    assert_eq!((found(&index, 0..150), index.open_entries()), (150, 50));
    fs::remove_dir(directory.path().join("1.table")).unwrap();
    assert!(index.publish(|_| true, &stamps(&[(1, 200)])).unwrap());
    assert_eq!(found(&index, 0..150), 150);
}

#[test]
fn an_entry_costs_less_than_twenty_bytes() {
    let directory = TempDir::new().unwrap();
    let (count, _, bytes) = published(&directory, 0..100_000).published();

    assert!(bytes < count * 20, "{} bytes an entry", bytes as f64 / count as f64);
}

#[test]
fn threads_that_look_up_while_others_insert_and_publish_miss_nothing() {
    let directory = TempDir::new().unwrap();
    let index = Index::open(directory.path(), VOLUME);
    let inserted = std::sync::atomic::AtomicU64::new(0);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..4000 {
                index.insert(tag_of(n), address(n));
                inserted.store(n + 1, std::sync::atomic::Ordering::Release);
            }
        });
        scope.spawn(|| {
            while inserted.load(std::sync::atomic::Ordering::Acquire) < 4000 {
                assert!(index.publish(|claim| claim % 128 == 0, &BTreeMap::new()).unwrap());
            }
        });
        loop {
            let known = inserted.load(std::sync::atomic::Ordering::Acquire);
            let tags: Vec<u64> = (0..known).map(tag_of).collect();
            let mut claims = vec![0; tags.len()];
            index.find_batch(&tags, &mut claims);
            assert!(claims.iter().enumerate().all(|(n, claim)| *claim == address(n as u64)));
            if known == 4000 {
                break;
            }
        }
    });

    assert_eq!(found(&index, 0..4000), 4000);
}
