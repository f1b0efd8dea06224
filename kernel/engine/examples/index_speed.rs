//! Measures the index beside its goals: `cargo run --release --example index_speed [ENTRIES]` (10,000,000 by default).
//!
//! Look-ups are of random tags, half of them present, in batches of 4096, one thread, tables warm; a plain sorted array
//! and a std hash map answer the same questions for comparison. It writes to a temporary directory (TMPDIR) and removes
//! it.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use packetfs_engine::chunker::Params;
use packetfs_engine::index::Index;
use packetfs_engine::keys::Keys;
use packetfs_engine::slot::Slots;
use packetfs_engine::space::{Committed, Space};
use packetfs_engine::table::{Kind, Record, encode_batch};
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::time::Instant;

const BATCH: usize = 4096;
const LOOKUPS: usize = 8 << 20;
const ROUNDS: usize = 5;

/// SplitMix64: seeded, so that every run asks the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
}

fn main() {
    let entries: u64 = std::env::args().nth(1).map_or(10_000_000, |n| n.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    // Chunks of 32 KiB, one after the other: 2048 a segment.
    let address = |n: u64| (1 + n / 2048) << 26 | (n % 2048) << 15;
    let tags: Vec<u64> = (0..entries).map(|_| random.next()).collect();
    let mut hits = 0_usize;
    let questions: Vec<u64> = (0..LOOKUPS)
        .map(|_| match random.next() {
            draw if draw & 1 == 0 => {
                hits += 1;
                tags[(random.next() % entries) as usize]
            }
            _ => random.next(),
        })
        .collect();
    println!(
        "{entries} entries, {LOOKUPS} look-ups, {hits} of them hits, batches of {BATCH}, one thread, best of {ROUNDS}"
    );

    let began = Instant::now();
    let index = Index::open(directory.path(), [7; 16]);
    let piece = 1 << 18;
    let mut stamps = BTreeMap::new();
    for (n, tag) in tags.iter().enumerate() {
        index.insert(*tag, address(n as u64));
        if (n + 1) % piece == 0 {
            stamps.insert(1, n as u64);
            index.publish(|_| true, &stamps).unwrap();
        }
    }
    let stamps = (1..=entries / 2048 + 1).map(|segment| (segment, 75_852)).collect();
    index.publish(|_| true, &stamps).unwrap();
    let (count, tables, bytes) = index.published();
    println!("built in {:.2} s, by publications of {piece} entries, merging included", began.elapsed().as_secs_f64());
    measure("as it grew", &index, &questions, hits);
    describe(count, tables, bytes);

    let whole = tempfile::tempdir().unwrap();
    {
        let index = Index::open(whole.path(), [7; 16]);
        index.insert_all(tags.iter().enumerate().map(|(n, tag)| (*tag, address(n as u64))));
        index.publish(|_| true, &stamps).unwrap();
    }
    let began = Instant::now();
    let index = Index::open(whole.path(), [7; 16]);
    println!("opened in {:.2} ms (goal < 50), {} stamps", began.elapsed().as_secs_f64() * 1e3, index.stamps().len());
    let (count, tables, bytes) = index.published();
    measure("one table", &index, &questions, hits);
    describe(count, tables, bytes);

    catching_up(&mut random);
    slots();

    let map: HashMap<u64, u64> = tags.iter().enumerate().map(|(n, tag)| (*tag, address(n as u64))).collect();
    best("std HashMap", hits, || questions.iter().filter(|tag| map.contains_key(tag)).count());
    drop(map);
    let mut sorted = tags;
    sorted.sort_unstable();
    best("sorted Vec, binary search", hits, || {
        questions.iter().filter(|tag| sorted.binary_search(tag).is_ok()).count()
    });
}

/// A volume of 32 GiB whose writer was killed when a fiftieth of it had not been published; and one without an index.
fn catching_up(random: &mut Random) {
    const SEGMENTS: u64 = 500;
    const CHUNKS: u32 = 2048;
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("segments")).unwrap();
    let open = || Space::open(directory.path(), [7; 16], Keys::from_secret(&[7; 32]), Params::DEFAULT).unwrap();
    let space = open();
    let mut rows = Vec::new();
    for segment in 1..=SEGMENTS {
        let mut digest = || std::array::from_fn(|_| random.next() as u8);
        let record = |n| Record { end: (n + 1) << 15, kind: Kind::Data, digest: digest() };
        let records: Vec<Record> = (0..CHUNKS).map(record).collect();
        let mut table = space.table_header(segment).encode().to_vec();
        encode_batch(0, &records, &mut table);
        std::fs::write(space.table_path(segment), &table).unwrap();
        rows.push(Committed { segment, head: CHUNKS << 15, table_bytes: table.len() as u64 });
    }
    space.admit(&rows[..(SEGMENTS - SEGMENTS / 50) as usize]).unwrap();
    space.publish_index().unwrap();
    drop(space);
    let timed = |name: &str| {
        let began = Instant::now();
        let space = open();
        space.admit(&rows).unwrap();
        let (count, took) = (SEGMENTS * u64::from(CHUNKS), began.elapsed().as_secs_f64() * 1e3);
        println!("{name:32} {took:8.1} ms for {count} chunks, {} of them read again", space.open_entries());
    };
    timed("opened after a kill");
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    timed("rebuilt from chunk tables");
}

fn slots() {
    let slots = Slots::new(&[9; 32]);
    let began = cpu_s();
    let sum: usize = (1..=100_000).map(|segment| black_box(slots.slot(segment)).len()).sum();
    println!("{:32} {:8.2} us a name", "slots", (cpu_s() - began) * 1e6 / (sum / 10) as f64);
}

fn measure(name: &str, index: &Index, questions: &[u64], hits: usize) {
    let mut claims = [0; BATCH];
    best(&format!("{name}: find_batch"), hits, || {
        let mut found = 0;
        for tags in questions.chunks(BATCH) {
            index.find_batch(tags, &mut claims);
            found += claims[..tags.len()].iter().filter(|claim| **claim != 0).count();
        }
        found
    });
    let mut claims = Vec::new();
    best(&format!("{name}: find, one at a time"), hits, || {
        let mut found = 0;
        for tag in questions {
            claims.clear();
            index.find(*tag, &mut claims);
            found += usize::from(!claims.is_empty());
        }
        found
    });
}

fn best(name: &str, hits: usize, mut run: impl FnMut() -> usize) {
    let (mut best, mut best_cpu) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let (began, began_cpu) = (Instant::now(), cpu_s());
        let found = black_box(run());
        best = best.min(began.elapsed().as_secs_f64());
        best_cpu = best_cpu.min(cpu_s() - began_cpu);
        // A random tag that happens to be present would be a wonder at 2^64.
        assert_eq!(found, hits, "{name} found other than what is there");
    }
    let rate = |seconds| LOOKUPS as f64 / seconds / 1e6;
    println!("{name:32} {:8.1} M look-ups/s, {:.1} M per CPU second", rate(best), rate(best_cpu));
}

/// CPU seconds of this thread: what it would take with a core of its own.
fn cpu_s() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

fn describe(count: u64, tables: usize, bytes: u64) {
    println!(
        "{:32} {:8.2} bytes an entry on disk and mapped (goal <= 20), {tables} tables",
        "",
        bytes as f64 / count as f64
    );
}
