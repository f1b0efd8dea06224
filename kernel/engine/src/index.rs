//! The index: which addresses a digest's tag may be at. Derived, and never believed without confirmation.
//!
//! Immutable sorted tables in `index/`, mapped, and a small open table in memory. Whoever asks confirms each claim
//! against a chunk table; a lost or damaged index costs time or duplicate bytes, never correctness, so anything wrong
//! with it means: discarded, and caught up again from the chunk tables. Layout: docs/formats/index.md; reasons:
//! docs/adr/0002-index.md.

mod manifest;
mod open;
mod sorted;

use crate::address::Address;
use crate::error::{Error, Result};
use crate::fault::{self, Step};
use manifest::Manifest;
use open::OpenTable;
use rustix::fs::{FlockOperation, flock};
use sorted::SortedTable;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// So many tables at most; each costs a look-up a cache miss or two.
const TABLES_MAX: usize = 8;
/// So many claims for one tag are worth confirming. Two contents share a tag once in 2^64; one content stored more
/// than a few times is a race of several writers.
const CLAIMS_MAX: usize = 16;
/// A manifest that names a table which has just been merged away is read again, so often.
const OPEN_ATTEMPTS: usize = 8;

/// A claim: a chunk whose digest begins with `tag` may be at `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    tag: u64,
    address: Address,
}

/// The index of one volume, shared by the threads of a process.
pub struct Index {
    directory: PathBuf,
    volume_id: [u8; 16],
    state: RwLock<State>,
}

struct State {
    tables: Arc<Tables>,
    /// Being written to a table just now, and still answering.
    sealed: Option<Arc<OpenTable>>,
    open: OpenTable,
    discarded: Option<String>,
}

#[derive(Default)]
struct Tables {
    manifest: Manifest,
    mapped: Vec<Arc<SortedTable>>,
}

impl Index {
    /// Opens what is there. A missing index is an empty one; so is one that cannot be believed, and `discarded` says
    /// why.
    pub fn open(directory: &Path, volume_id: [u8; 16]) -> Self {
        let (tables, discarded) = match load(directory, &volume_id) {
            Ok(tables) => (tables, None),
            Err(why) => (Tables::default(), Some(why.to_string())),
        };
        let state = State { tables: Arc::new(tables), sealed: None, open: OpenTable::default(), discarded };
        Index { directory: directory.to_path_buf(), volume_id, state: RwLock::new(state) }
    }

    /// Why the index on disk was not used, if it was not.
    pub fn discarded(&self) -> Option<String> {
        self.read().discarded.clone()
    }

    /// Segment -> bytes of its chunk table that the published tables cover. The rest is for the caller to insert.
    pub fn stamps(&self) -> BTreeMap<u64, u64> {
        self.read().tables.manifest.stamps.clone()
    }

    /// Adds a claim. It is in memory until published.
    pub fn insert(&self, tag: u64, address: Address) {
        self.insert_all([(tag, address)]);
    }

    /// Adds claims under one lock.
    pub fn insert_all(&self, claims: impl IntoIterator<Item = (u64, Address)>) {
        let mut state = self.write();
        for (tag, address) in claims {
            state.open.insert(Entry { tag, address });
        }
    }

    /// Adds the addresses claimed for `tag` to `claims`, newest first, each once, at most 16.
    pub fn find(&self, tag: u64, claims: &mut Vec<Address>) {
        let state = self.read();
        let from = claims.len();
        let mut claim = |address| {
            let is_news = claims.len() - from < CLAIMS_MAX && !claims[from..].contains(&address);
            if is_news {
                claims.push(address);
            }
            claims.len() - from < CLAIMS_MAX
        };
        state.open.find(tag, &mut claim);
        if let Some(sealed) = &state.sealed {
            sealed.find(tag, &mut claim);
        }
        for table in state.tables.mapped.iter().rev() {
            table.find(tag, &mut claim);
        }
    }

    /// One claim for each tag, 0 where there is none: the fast way to ask about many.
    ///
    /// Answers as many as the shorter of the two slices is long.
    pub fn find_batch(&self, tags: &[u64], claims: &mut [Address]) {
        let state = self.read();
        let count = tags.len().min(claims.len());
        let (tags, claims) = (&tags[..count], &mut claims[..count]);
        claims.fill(0);
        let mut tables = state.tables.mapped.iter();
        if let Some(largest) = tables.next() {
            largest.find_batch(tags, claims);
        }
        // What the largest does not know is asked of the others, which are much smaller.
        let mut places: Vec<usize> = if tables.len() > 0 { (0..count).collect() } else { Vec::new() };
        let (mut rest, mut found) = (vec![0; places.len()], vec![0; places.len()]);
        for table in tables {
            // Without a branch: whether a tag was found is a coin toss that no processor predicts.
            let mut kept = 0;
            for at in 0..places.len() {
                let place = places[at];
                places[kept] = place;
                rest[kept] = tags[place];
                kept += usize::from(claims[place] == 0);
            }
            places.truncate(kept);
            found[..kept].fill(0);
            table.find_batch(&rest[..kept], &mut found[..kept]);
            places.iter().zip(&found).for_each(|(place, claim)| claims[*place] = *claim);
        }
        for open in state.sealed.as_deref().into_iter().chain([&state.open]).filter(|open| open.count() > 0) {
            for (tag, claim) in tags.iter().zip(&mut *claims).filter(|(_, claim)| **claim == 0) {
                open.find(*tag, |address| {
                    *claim = address;
                    false
                });
            }
        }
    }

    /// How many claims are in memory only.
    pub fn open_entries(&self) -> u64 {
        let state = self.read();
        (state.open.count() + state.sealed.as_ref().map_or(0, |sealed| sealed.count())) as u64
    }

    /// How many claims the published tables hold, in how many tables and bytes of files.
    pub fn published(&self) -> (u64, usize, u64) {
        let state = self.read();
        let tables = &state.tables.mapped;
        (tables.iter().map(|t| t.count()).sum(), tables.len(), tables.iter().map(|t| t.file_bytes()).sum())
    }

    /// Writes the open claims that pass `keep` to a table and makes it part of the index; false if another process is
    /// publishing just now. `stamps` must not say more than what has been inserted and passes `keep`.
    ///
    /// Killed at any instant, the index on disk is the old one or the new one. If this fails the claims are still
    /// in memory and the disk is as it was, but for files that no manifest names and the next publication removes.
    pub fn publish(&self, keep: impl Fn(Address) -> bool, stamps: &BTreeMap<u64, u64>) -> Result<bool> {
        fault::before(Step::MakeDirectory).map_err(|source| Error::io("create", &self.directory, source))?;
        fs::create_dir_all(&self.directory).map_err(|source| Error::io("create", &self.directory, source))?;
        let path = self.directory.join("lock");
        fault::before(Step::Create).map_err(|source| Error::io("open", &path, source))?;
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|source| Error::io("open", &path, source))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            answer => answer.map_err(|source| Error::io("lock", &path, source))?,
        }
        // The lock also orders the threads of this process: `sealed` is empty here.
        let sealed = {
            let mut state = self.write();
            let sealed = Arc::new(std::mem::take(&mut state.open));
            state.sealed = Some(sealed.clone());
            sealed
        };
        let (kept, unkept): (Vec<_>, Vec<_>) = sealed.entries().partition(|entry| keep(entry.address));
        let published = self.replace_tables(kept, stamps);
        let mut state = self.write();
        state.sealed = None;
        match published {
            Ok((tables, discarded)) => {
                state.tables = Arc::new(tables);
                state.discarded = discarded.or(state.discarded.take());
                unkept.into_iter().for_each(|entry| state.open.insert(entry));
                Ok(true)
            }
            Err(error) => {
                sealed.entries().for_each(|entry| state.open.insert(entry));
                Err(error)
            }
        }
    }

    /// The story of a publication, under the lock: what is on disk, plus `new`, minus what is merged away.
    fn replace_tables(&self, new: Vec<Entry>, stamps: &BTreeMap<u64, u64>) -> Result<(Tables, Option<String>)> {
        let ours = self.read().tables.clone();
        let (disk, mut discarded) = match load(&self.directory, &self.volume_id) {
            Ok(tables) => (tables, None),
            Err(why) => (Tables::default(), Some(why.to_string())),
        };
        let covered = coverage(&ours.manifest.stamps, &disk.manifest.stamps, stamps);
        let new = unknown(new, &disk);
        if new.is_empty() && covered == disk.manifest.stamps && discarded.is_none() {
            return Ok((disk, None));
        }
        let tables = match self.write_tables(&disk, &new, covered) {
            Err(Error::Damaged(why)) => {
                // A table that does not ascend: none of them is worth keeping, and the stamps with them.
                discarded = Some(why);
                let covered = coverage(&ours.manifest.stamps, &BTreeMap::new(), stamps);
                self.write_tables(&Tables::default(), &new, covered)?
            }
            tables => tables?,
        };
        remove_unlisted(&self.directory, &tables.manifest)?;
        Ok((tables, discarded))
    }

    fn write_tables(&self, disk: &Tables, new: &[Entry], stamps: BTreeMap<u64, u64>) -> Result<Tables> {
        let counts: Vec<u64> = disk.mapped.iter().map(|table| table.count()).collect();
        let kept = if new.is_empty() { counts.len() } else { tables_kept(&counts, new.len() as u64) };
        let mut manifest = Manifest { next: disk.manifest.next, tables: disk.manifest.tables[..kept].to_vec(), stamps };
        let mut mapped = disk.mapped[..kept].to_vec();
        if !new.is_empty() {
            let mut sources: Vec<Box<dyn Iterator<Item = Entry>>> = vec![Box::new(new.iter().copied())];
            sources.extend(
                disk.mapped[kept..].iter().map(|table| Box::new(table.entries()) as Box<dyn Iterator<Item = Entry>>),
            );
            let path = table_path(&self.directory, manifest.next);
            let at_most = new.len() as u64 + counts[kept..].iter().sum::<u64>();
            let count = sorted::write(&path, &self.volume_id, sources, at_most)?;
            mapped.push(Arc::new(SortedTable::open(&path, &self.volume_id, count)?));
            manifest.tables.push((manifest.next, count));
            manifest.next += 1;
        }
        write_manifest(&self.directory, &manifest.encode(&self.volume_id))?;
        Ok(Tables { manifest, mapped })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        // A panic elsewhere leaves claims, and a claim is confirmed anyway.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the union of the tables on disk and our open claims covers.
///
/// Our claims cover from `ours` (where our tables end) to `inserted`. If another process discarded the index meanwhile,
/// the disk's tables may end before ours did; then there is a hole, and the stamp stays where the disk's is.
fn coverage(ours: &BTreeMap<u64, u64>, disk: &BTreeMap<u64, u64>, inserted: &BTreeMap<u64, u64>) -> BTreeMap<u64, u64> {
    let mut covered = disk.clone();
    for (segment, bytes) in inserted {
        let stamp = covered.entry(*segment).or_default();
        if *stamp >= ours.get(segment).copied().unwrap_or(0) {
            *stamp = (*stamp).max(*bytes);
        }
    }
    covered.retain(|_, bytes| *bytes > 0);
    covered
}

/// How many of the tables (largest first) stay as they are when `new` entries come: the smaller ones are merged until
/// each table is at least twice the next, so that an entry is rewritten some log2(entries) times in its life.
fn tables_kept(counts: &[u64], new: u64) -> usize {
    let (mut kept, mut merged) = (counts.len(), new);
    while kept > 0 && (counts[kept - 1] < 2 * merged || kept >= TABLES_MAX) {
        kept -= 1;
        merged += counts[kept];
    }
    kept
}

/// The entries of `new` that no table on disk has, ascending: another process may have published the same commits.
fn unknown(mut new: Vec<Entry>, disk: &Tables) -> Vec<Entry> {
    new.retain(|entry| !disk.mapped.iter().any(|table| table.contains(*entry)));
    new.sort_unstable();
    new
}

fn table_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.table"))
}

/// The index on disk, all of it or the reason why not.
fn load(directory: &Path, volume_id: &[u8; 16]) -> Result<Tables> {
    let path = directory.join("manifest");
    let mut attempt = 0;
    loop {
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tables::default()),
            bytes => bytes.map_err(|source| Error::io("read", &path, source))?,
        };
        let manifest = Manifest::decode(&bytes, volume_id)
            .map_err(|what| Error::Damaged(format!("index manifest {} {what}", path.display())))?;
        let open = |(number, count): &(u64, u64)| {
            SortedTable::open(&table_path(directory, *number), volume_id, *count).map(Arc::new)
        };
        match manifest.tables.iter().map(open).collect::<Result<Vec<_>>>() {
            Ok(mapped) => return Ok(Tables { manifest, mapped }),
            // A publisher may have replaced the manifest and removed what the old one named.
            Err(_) if attempt < OPEN_ATTEMPTS && fs::read(&path).is_ok_and(|now| now != bytes) => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Puts a manifest in place of the old one; both it and the directory are on disk when this returns.
fn write_manifest(directory: &Path, bytes: &[u8]) -> Result<()> {
    let (fresh, path) = (directory.join("manifest.new"), directory.join("manifest"));
    let write = || {
        fault::before(Step::Create)?;
        let mut file = File::create(&fresh)?;
        fault::before(Step::Write)?;
        file.write_all(bytes)?;
        fault::before(Step::Sync)?;
        file.sync_data()?;
        fault::before(Step::Rename)?;
        fs::rename(&fresh, &path)?;
        // Before any merged table is removed: after a power cut the old manifest must still find its tables.
        fault::before(Step::Sync)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| Error::io("write", &path, source))
}

/// Removes the tables that the manifest does not name. Who has them mapped keeps them.
fn remove_unlisted(directory: &Path, manifest: &Manifest) -> Result<()> {
    let failed = |source| Error::io("clean", directory, source);
    for file in fs::read_dir(directory).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        let is_table = path.extension().is_some_and(|extension| extension == "table");
        if is_table && !manifest.tables.iter().any(|(number, _)| path == table_path(directory, *number)) {
            fault::before(Step::Remove).map_err(|e| Error::io("clean", directory, e))?;
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
