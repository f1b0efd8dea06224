//! How fast tree pages are encoded, decoded and read back:
//! `cargo run --release -p packetfs-engine --example page_speed`.
//!
//! One thread, memory only. The best of eleven runs, since the machine is shared.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Instant;

use packetfs_engine::address::segment_start;
use packetfs_engine::keys::{Digest, Keys, keyed};
use packetfs_engine::page::{self, Content, Entry, EntryKind, PageRef};
use packetfs_engine::tree::{DirectoryBuilder, Entries, OldPages, PageBytes, PageSink, PageSource, verified};
use packetfs_engine::{Address, Extent, Result};

const ENTRIES: usize = 50_000;
const RUNS: usize = 11;

/// Pages in memory.
struct Memory {
    keys: Keys,
    pages: HashMap<Address, Vec<u8>>,
    next: Address,
}

impl PageSink for Memory {
    fn store(&mut self, bytes: &[u8], _digest: &Digest) -> Result<(Address, u32)> {
        let address = self.next;
        self.next += bytes.len() as u64;
        self.pages.insert(address, bytes.to_vec());
        Ok((address, bytes.len() as u32))
    }
}

impl PageSource for Memory {
    fn page(&self, page: &PageRef) -> Result<PageBytes> {
        verified(PageBytes::new(self.pages[&page.address].clone()), page, &self.keys)
    }

    fn bytes(&self, extent: Extent) -> Result<PageBytes> {
        Ok(PageBytes::new(self.pages[&extent.address].clone()))
    }
}

/// What a source tree looks like: two modes, one owner, scattered times, one extent a file, where the last one ended.
fn entries() -> Vec<Entry> {
    let mut address = segment_start(1);
    let mut seed = 1u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    (0..ENTRIES)
        .map(|at| {
            let size = 1 + random(16_000);
            let extent = Extent { address, length: size };
            address += size;
            if address % (1 << 26) > (1 << 26) - 20_000 {
                address = segment_start((address >> 26) + 1);
            }
            Entry {
                name: format!("module_{:05}_{}.py", at / 3, ["core", "extra", "test"][at % 3]).into_bytes(),
                kind: EntryKind::File,
                mode: [0o644, 0o644, 0o755][random(3) as usize],
                uid: 1000,
                gid: 1000,
                user: b"builder".to_vec(),
                group: b"builder".to_vec(),
                mtime_ns: 1_763_000_000_000_000_000 + random(1 << 50) as i64,
                size,
                digest: keyed(&[1; 32], &size.to_le_bytes()),
                content: Content::Extents(vec![extent]),
                ..Entry::default()
            }
        })
        .collect()
}

fn best<T>(mut run: impl FnMut() -> Result<T>) -> Result<(f64, T)> {
    let (mut best, mut last) = (f64::MAX, None);
    for _ in 0..RUNS {
        let start = Instant::now();
        let result = run()?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
        last = Some(result);
    }
    last.map(|result| (best, result)).ok_or_else(|| packetfs_engine::Error::Invalid("nothing was run".into()))
}

fn main() -> Result<()> {
    let keys = Keys::from_secret(&[7; 32]);
    let entries = entries();

    let encode = || entries.chunks(256).map(|part| page::encode_leaf(part, &keys)).collect::<Result<Vec<_>>>();
    let (encode_ms, pages) = best(encode)?;
    let (decode_ms, _) = best(|| pages.iter().map(|page| page::decode(&page.bytes)).collect::<Result<Vec<_>>>())?;
    let (digest_ms, _) =
        best(|| pages.iter().map(|page| page::digest(&page.bytes, &keys)).collect::<Result<Vec<_>>>())?;
    let bytes: usize = pages.iter().map(|page| page.bytes.len()).sum();

    // The builder takes its entries: what copying them costs is measured apart and taken off.
    let (copy_ms, _) = best(|| Ok(entries.clone()))?;
    let (build_ms, (memory, root)) = best(|| {
        let mut memory = Memory { keys: keys.clone(), pages: HashMap::new(), next: segment_start(1) };
        let mut builder = DirectoryBuilder::new(&keys, OldPages::none());
        for entry in entries.clone() {
            builder.push(entry, &mut memory)?;
        }
        let root = builder.finish(&mut memory)?;
        Ok((memory, root))
    })?;
    let (read_ms, count) = best(|| Entries::new(&memory, &root).try_fold(0, |count, entry| entry.map(|_| count + 1)))?;

    let report = format!(
        "{ENTRIES} entries, one thread, best of {RUNS}\n\
         encode pages of 256        {encode_ms:6.1} ms\n\
         decode them                {decode_ms:6.1} ms\n\
         digest them again          {digest_ms:6.1} ms\n\
         build a directory          {:6.1} ms   {} pages\n\
         read it, pages verified    {read_ms:6.1} ms   {count} entries\n\
         bytes an entry             {:6.1}      32 of them its digest\n",
        build_ms - copy_ms,
        memory.pages.len(),
        bytes as f64 / ENTRIES as f64,
    );
    io::stdout().write_all(report.as_bytes()).map_err(|error| packetfs_engine::Error::io("write", "stdout", error))
}
