//! How fast the kernel chunks and digests, beside memcpy in the same run: `cargo run --release --example kernel_speed`.
//!
//! Prints a table and, as its last line, the same numbers as JSON. The rows take turns, so that a noisy neighbour
//! hits each of them; a figure is the median and the best of its turns. One-thread rows are timed by the thread's
//! CPU clock, so that a busy machine does not count, rows of several threads by the wall clock. It judges nothing.
//! Arguments are parts of row names: only those run, beside memcpy.
#![allow(clippy::print_stdout)] // a program that prints

use std::cell::RefCell;
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;

use packetfs_engine::chunker::{Params, Path, Profile, cuts};
use packetfs_engine::digest::digest;
use packetfs_engine::map::map_file;
use packetfs_engine::scan::{Chunk, scan, scan_wide};
use rustix::time::{ClockId, clock_gettime};

/// From memory: far more than the caches keep between two turns.
const MEMORY_BYTES: usize = 256 << 20;
/// Stays in the second-level cache.
const CACHED_BYTES: usize = 1 << 20;
/// What one call gets, as in an ingest of a large file.
const WINDOW_BYTES: usize = 8 << 20;
/// The default average size of a chunk.
const CHUNK_BYTES: usize = 32 << 10;
const TURNS: usize = 9;

/// Runs on one thread, or on all.
#[derive(Clone, Copy, PartialEq)]
enum Threads {
    One,
    All,
}

struct Row<'a> {
    name: String,
    threads: Threads,
    bytes: usize,
    run: Box<dyn Fn() + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Row<'a> {
    fn new(name: impl Into<String>, threads: Threads, bytes: usize, run: impl Fn() + 'a) -> Row<'a> {
        Row { name: name.into(), threads, bytes, run: Box::new(run), seconds: Vec::new() }
    }

    fn take_turn(&mut self) {
        let clock = match self.threads {
            Threads::One => ClockId::ThreadCPUTime,
            Threads::All => ClockId::Monotonic,
        };
        let now = || {
            let time = clock_gettime(clock);
            time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
        };
        let start = now();
        (self.run)();
        self.seconds.push(now() - start);
    }

    /// GB/s of the median turn and of the best.
    fn speed(&mut self) -> (f64, f64) {
        self.seconds.sort_by(f64::total_cmp);
        let speed = |seconds: f64| self.bytes as f64 / seconds / 1e9;
        (speed(self.seconds[self.seconds.len() / 2]), speed(self.seconds[0]))
    }
}

fn chunk(data: &[u8], profile: &Profile) {
    let mut ends = Vec::new();
    cuts(data, profile, true, &mut ends);
    black_box(ends);
}

/// Scans `data` window by window, as a file is scanned: what a window leaves undecided begins the next one.
fn scan_windows(data: &[u8], scan: impl Fn(&[u8], bool, &mut Vec<Chunk>)) {
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < data.len() {
        let end = data.len().min(start + WINDOW_BYTES);
        chunks.clear();
        scan(&data[start..end], end == data.len(), &mut chunks);
        start += chunks.last().map_or(end - start, |chunk| chunk.end as usize);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut data = vec![0; MEMORY_BYTES];
    blake3::Hasher::new().update(b"kernel_speed").finalize_xof().fill(&mut data);
    let directory = tempfile::tempdir_in(std::env::temp_dir())?;
    let path = directory.path().join("data");
    File::create(&path)?.write_all(&data)?;
    let file = File::open(&path)?;
    let mapped = map_file(&file)?;
    let key = [7; 32];
    let cached = &data[..CACHED_BYTES];
    let repeats = MEMORY_BYTES / CACHED_BYTES;

    let target = RefCell::new(vec![1u8; MEMORY_BYTES]);
    let window = RefCell::new(vec![1u8; CACHED_BYTES]);
    let profile = Profile::new(&key, Params::DEFAULT);
    let mut rows = vec![
        Row::new("memcpy, memory", Threads::One, MEMORY_BYTES, || {
            target.borrow_mut().copy_from_slice(black_box(&data));
        }),
        Row::new("memcpy, cached", Threads::One, MEMORY_BYTES, || {
            for _ in 0..repeats {
                target.borrow_mut()[..CACHED_BYTES].copy_from_slice(black_box(cached));
            }
        }),
        Row::new("digest 32 KiB, memory", Threads::One, MEMORY_BYTES, || {
            data.chunks(CHUNK_BYTES).for_each(|chunk| {
                let _ = black_box(digest(&key, chunk));
            });
        }),
        Row::new("digest 32 KiB, cached", Threads::One, MEMORY_BYTES, || {
            for _ in 0..repeats {
                cached.chunks(CHUNK_BYTES).for_each(|chunk| {
                    let _ = black_box(digest(&key, chunk));
                });
            }
        }),
    ];
    for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
        let profile = Profile::on_path(&key, Params::DEFAULT, path)?;
        let name = path.name();
        let (a, b, c) = (profile.clone(), profile.clone(), profile);
        let (data, mapped, key) = (&data, &mapped, &key);
        rows.push(Row::new(format!("chunk {name}, memory"), Threads::One, MEMORY_BYTES, move || chunk(data, &a)));
        rows.push(Row::new(format!("chunk {name}, cached"), Threads::One, MEMORY_BYTES, move || {
            (0..repeats).for_each(|_| chunk(black_box(cached), &b));
        }));
        rows.push(Row::new(format!("chunk+digest {name}, mapped"), Threads::One, MEMORY_BYTES, move || {
            scan_windows(mapped, |window, last, chunks| scan(window, &c, key, last, chunks));
        }));
    }
    rows.push(Row::new("chunk+digest, fresh mapping", Threads::One, MEMORY_BYTES, || {
        if let Ok(mapped) = map_file(&file) {
            scan_windows(&mapped, |window, last, chunks| scan(window, &profile, &key, last, chunks));
        }
    }));
    rows.push(Row::new("chunk+digest, pread of 1 MiB", Threads::One, MEMORY_BYTES, || {
        let mut window = window.borrow_mut();
        for offset in (0..MEMORY_BYTES).step_by(CACHED_BYTES) {
            if file.read_exact_at(&mut window, offset as u64).is_ok() {
                scan_windows(&window, |window, last, chunks| scan(window, &profile, &key, last, chunks));
            }
        }
    }));
    rows.push(Row::new("memcpy, all cores", Threads::All, MEMORY_BYTES, || {
        let parts = MEMORY_BYTES / rayon::current_num_threads();
        let target = &mut target.borrow_mut()[..];
        rayon::scope(|scope| {
            for (to, from) in target.chunks_mut(parts).zip(data.chunks(parts)) {
                scope.spawn(move |_| to.copy_from_slice(from));
            }
        });
    }));
    rows.push(Row::new("chunk+digest, mapped, all cores", Threads::All, MEMORY_BYTES, || {
        scan_windows(&mapped, |window, last, chunks| scan_wide(window, &profile, &key, last, chunks));
    }));

    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if !wanted.is_empty() {
        rows.retain(|row| row.name.starts_with("memcpy") || wanted.iter().any(|part| row.name.contains(part)));
    }
    for _ in 0..TURNS {
        rows.iter_mut().for_each(Row::take_turn);
    }
    print(&mut rows, profile.path());
    Ok(())
}

/// The table with each row's share of memcpy from memory on as many threads, then one line of JSON.
fn print(rows: &mut [Row], best: Path) {
    let speeds: Vec<_> = rows.iter_mut().map(Row::speed).collect();
    let memcpy = |threads: Threads| {
        let row = rows.iter().position(|row| row.name.starts_with("memcpy") && row.threads == threads);
        row.map_or((f64::NAN, f64::NAN), |row| speeds[row])
    };
    println!("casc64 on {} of {:?}; {TURNS} turns of {} MiB", best.name(), Path::ALL, MEMORY_BYTES >> 20);
    println!("{:<34} {:>12} {:>10} {:>17}", "", "median GB/s", "best GB/s", "x memcpy (best)");
    let mut json = Vec::new();
    for (row, &(median, fastest)) in rows.iter().zip(&speeds) {
        let (memcpy_median, memcpy_best) = memcpy(row.threads);
        let (share, share_best) = (median / memcpy_median, fastest / memcpy_best);
        println!("{:<34} {median:>12.2} {fastest:>10.2} {share:>8.2} ({share_best:.2})", row.name);
        json.push(format!(
            r#"{{"name":"{}","median_gb_s":{median:.3},"best_gb_s":{fastest:.3},"of_memcpy":{share:.3}}}"#,
            row.name
        ));
    }
    println!("[{}]", json.join(","));
}
