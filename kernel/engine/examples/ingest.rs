//! Ingests a directory several times into a new volume without a journal, and prints what each time cost.
//!
//! `cargo run --release -p packetfs-engine --example ingest -- VOLUME SOURCE [TIMES]`: VOLUME must not exist.

use std::io::{Write, stdout};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use packetfs_engine::chunker::Params;
use packetfs_engine::ingest::{Host, LeaseHandle, Options, Progress, Source, ingest};
use packetfs_engine::keys::Keys;
use packetfs_engine::lease::Lease;
use packetfs_engine::space::{Committed, Space};
use packetfs_engine::{Error, Result};

struct Granter {
    space: Arc<Space>,
    next_segment: u64,
    committed: Vec<Committed>,
}

impl Granter {
    fn sync(&mut self, handle: &LeaseHandle) -> Result<()> {
        self.committed.push(handle.lock().unwrap_or_else(PoisonError::into_inner).sync()?);
        Ok(())
    }
}

impl Host for Granter {
    fn grant(&mut self, full: Option<LeaseHandle>) -> Result<LeaseHandle> {
        // One lease is synced while the next is filled, in the same thread: the worst a host could do.
        if let Some(full) = full {
            self.sync(&full)?;
            self.space.admit(&std::mem::take(&mut self.committed))?;
        }
        let lease = Lease::open(&self.space, self.next_segment, 0, 0, true, false)?;
        self.next_segment += 1;
        let lease = lease.ok_or_else(|| Error::Refused("the segment is held by another process".into()))?;
        Ok(Arc::new(Mutex::new(lease)))
    }

    fn progress(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [volume, source, rest @ ..] = &arguments[..] else {
        return Err(Error::Invalid("usage: ingest VOLUME SOURCE [TIMES]".into()));
    };
    let times = rest.first().and_then(|times| times.to_str()?.parse().ok()).unwrap_or(3);
    for room in ["segments", "index"] {
        let path = volume.join(room);
        std::fs::create_dir_all(&path).map_err(|e| Error::io("create", &path, e))?;
    }
    let space = Space::open(volume, [1; 16], Keys::from_secret(&[2; 32]), Params::DEFAULT)?;
    let mut host = Granter { space: Arc::clone(&space), next_segment: 1, committed: Vec::new() };
    for _ in 0..times {
        once(&space, volume, source, &mut host)?;
    }
    Ok(())
}

fn once(space: &Arc<Space>, volume: &Path, source: &Path, host: &mut Granter) -> Result<()> {
    let (prior, next) = (volume.join("stat"), volume.join("stat.next"));
    let options = Options {
        prior: Some(prior.clone()),
        next: Some(next.clone()),
        previous: None,
        clean_before_ns: i64::MAX,
        clean_device: std::fs::metadata(source).map_err(|e| Error::io("stat", source, e))?.dev(),
        selection: packetfs_engine::select::Selection::default(),
        keep_pages: false,
        dry_run: false,
    };
    let sources = [Source { path: source.to_path_buf(), name: None }];
    let watch = Watch::begin();
    let (wall, cpu) = (Instant::now(), cpu_s());
    let ingested = ingest(space, &sources, &options, host)?;
    let (wall_s, cpu_s) = (wall.elapsed().as_secs_f64(), cpu_s() - cpu);
    if let Some(lease) = &ingested.lease {
        host.sync(lease)?;
    }
    let synced_s = wall.elapsed().as_secs_f64();
    space.admit(&std::mem::take(&mut host.committed))?;
    if ingested.cache_written {
        std::fs::rename(&next, &prior).map_err(|e| Error::io("rename", &next, e))?;
    }
    let stats = ingested.stats;
    let line = format!(
        "wall {wall_s:.3} s (synced {synced_s:.3}), cpu {cpu_s:.3} s, {:.2} GB/s, RssAnon peak {} MiB, files {} (unchanged {}), \
         directories {}, new {} known {} pages {} B, problems {}\n",
        stats.logical_bytes as f64 / wall_s / 1e9,
        watch.end() >> 10,
        stats.files,
        stats.unchanged_files,
        stats.directories,
        stats.new_bytes,
        stats.known_bytes,
        stats.page_bytes,
        stats.problems,
    );
    stdout().write_all(line.as_bytes()).map_err(|e| Error::io("write", "-", e))
}

/// CPU seconds of this process.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |field: usize| stat.split_whitespace().nth(field).and_then(|ticks| ticks.parse::<f64>().ok());
    (ticks(13).unwrap_or(0.0) + ticks(14).unwrap_or(0.0)) / 100.0
}

/// Samples this process's anonymous memory.
struct Watch {
    peak_kib: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Watch {
    fn begin() -> Watch {
        let watch = Watch { peak_kib: Arc::default(), ended: Arc::default() };
        let (peak, ended) = (Arc::clone(&watch.peak_kib), Arc::clone(&watch.ended));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
                let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap_or_default();
                let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
                peak.fetch_max(kib, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        watch
    }

    fn end(&self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.peak_kib.load(Ordering::Relaxed)
    }
}
