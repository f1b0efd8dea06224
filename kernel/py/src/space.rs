//! The address space of a volume, and the leases that fill it, as objects for Python.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entry::{Difference, Entry, extents_from, kind_name, page_from};
use crate::failure::raised;
use crate::select::Patterns;
use crate::{exactly, lent, owned};
use packetfs_engine::address::Extent;
use packetfs_engine::chunker::Params;
use packetfs_engine::ingest::LeaseHandle;
use packetfs_engine::keys::{Digest, Keys};
use packetfs_engine::lease;
use packetfs_engine::page;
use packetfs_engine::space::{self, Committed, SegmentRanges, decode_ranges, encode_answers};
use packetfs_engine::table::Kind;
use packetfs_engine::{Error, diff, find, tree, verify};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

type PageArgument = (u64, u32, Vec<u8>);
/// Path, kind, size, mtime, first, last, count.
type FoundTuple<'py> = (Bound<'py, PyBytes>, &'static str, u64, i64, usize, usize, usize);

/// Bytes in one piece of [`Space::read`]: it stays in the processor's cache from the copy to the digest and the write.
const PIECE_BYTES: u64 = 1 << 20;

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Space {
    /// Shared with every lease, view and iterator.
    pub engine: Arc<space::Space>,
}

/// (bytes checked, offset to go on from, damaged extents).
type Verified = (u64, u32, Vec<(u64, u64)>);

#[pymethods]
impl Space {
    #[new]
    #[pyo3(signature = (directory, volume_id, secret, min, avg, max, normalisation, peer_keys = None))]
    fn new(
        py: Python<'_>,
        directory: &[u8],
        volume_id: &[u8],
        secret: &[u8],
        min: u32,
        avg: u32,
        max: u32,
        normalisation: u32,
        peer_keys: Option<&[u8]>,
    ) -> PyResult<Self> {
        let volume_id: [u8; 16] = exactly("a volume id", volume_id)?;
        let secret: Digest = exactly("a secret", secret)?;
        let peer_keys = peer_keys.map(|keys| exactly::<64>("a pair of digest key and cut key", keys)).transpose()?;
        let keys = match peer_keys.as_ref().map(|keys| keys.as_chunks::<32>().0) {
            Some([digest, cut]) => Keys::of_replica(digest, cut, &secret),
            _ => Keys::from_secret(&secret),
        };
        let engine = py.detach(|| {
            let params = Params::new(min, avg, max, normalisation)?;
            space::Space::open(Path::new(OsStr::from_bytes(directory)), volume_id, keys, params)
        });
        engine.map(|engine| Space { engine }).map_err(|error| raised(py, error))
    }

    fn admit(&self, py: Python<'_>, rows: Vec<(u64, u32, u64)>) -> PyResult<()> {
        let rows: Vec<Committed> =
            rows.into_iter().map(|(segment, head, table_bytes)| Committed { segment, head, table_bytes }).collect();
        py.detach(|| self.engine.admit(&rows)).map_err(|error| raised(py, error))
    }

    fn slot(&self, segment: u64) -> String {
        self.engine.slot(segment)
    }

    #[getter]
    fn peer_keys<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let keys = self.engine.keys();
        PyBytes::new(py, &[keys.digest, keys.cut].concat())
    }

    #[pyo3(signature = (segment, head, table_bytes, fresh, sparse = false))]
    fn lease(
        &self,
        py: Python<'_>,
        segment: u64,
        head: u32,
        table_bytes: u64,
        fresh: bool,
        sparse: bool,
    ) -> PyResult<Option<Lease>> {
        let lease = py.detach(|| lease::Lease::open(&self.engine, segment, head, table_bytes, fresh, sparse));
        Ok(lease.map_err(|error| raised(py, error))?.map(|lease| Lease::of(Arc::new(Mutex::new(lease)))))
    }

    fn view<'py>(&self, py: Python<'py>, address: u64, length: u64) -> PyResult<Bound<'py, PyMemoryView>> {
        let slice = py.detach(|| self.engine.read(Extent { address, length })).map_err(|error| raised(py, error))?;
        lent::view(py, slice)
    }

    fn read(&self, py: Python<'_>, address: u64, length: u64) -> PyResult<Pieces> {
        let pieces = py.detach(|| self.engine.pieces(Extent { address, length }, PIECE_BYTES));
        let left = Mutex::new(pieces.map_err(|error| raised(py, error))?.into_iter());
        Ok(Pieces { engine: Arc::clone(&self.engine), left })
    }

    fn entries(&self, page: PageArgument) -> PyResult<Entries> {
        let root = page_from(&page)?;
        Ok(Entries { walk: Mutex::new((tree::Entries::new(Arc::clone(&self.engine), &root), Vec::new().into_iter())) })
    }

    fn lookup(&self, py: Python<'_>, page: PageArgument, name: &[u8]) -> PyResult<Option<Entry>> {
        let root = page_from(&page)?;
        let found = py.detach(|| tree::lookup(&*self.engine, &root, name)).map_err(|error| raised(py, error))?;
        Ok(found.map(|value| Entry { value }))
    }

    fn extents(&self, py: Python<'_>, entry: Bound<'_, Entry>) -> PyResult<Vec<(u64, u64)>> {
        let entry = entry.get();
        py.detach(|| {
            tree::extents(&*self.engine, &entry.value)
                .map(|extent| extent.map(|extent| (extent.address, extent.length)))
                .collect::<Result<Vec<_>, Error>>()
        })
        .map_err(|error| raised(py, error))
    }

    fn find_tags<'py>(&self, py: Python<'py>, tags: PyBuffer<u8>) -> PyResult<Bound<'py, PyBytes>> {
        let tags = owned(py, &tags)?;
        let (tags, []) = tags.as_chunks::<8>() else {
            return Err(PyValueError::new_err(format!("{} bytes are not tags of 8 bytes each", tags.len())));
        };
        let answer = py.detach(|| {
            let tags: Vec<u64> = tags.iter().map(|tag| u64::from_le_bytes(*tag)).collect();
            encode_answers(&self.engine.find_tags(&tags))
        });
        Ok(PyBytes::new(py, &answer))
    }

    fn holds(&self, py: Python<'_>, address: u64, length: u64) -> bool {
        py.detach(|| self.engine.holds(Extent { address, length }))
    }

    fn absent(&self, py: Python<'_>, root: &[u8], within: &[u8]) -> PyResult<Vec<(u64, u64)>> {
        let absent = py.detach(|| self.engine.absent(&page::decode_root(root)?, within));
        let absent = absent.map_err(|error| raised(py, error))?;
        Ok(absent.into_iter().map(|extent| (extent.address, extent.length)).collect())
    }

    fn verify(&self, py: Python<'_>, segment: u64, start: u32, budget: u64) -> PyResult<Verified> {
        let part =
            py.detach(|| verify::verify(&self.engine, segment, start, budget)).map_err(|error| raised(py, error))?;
        let damaged = part.damaged.iter().map(|extent| (extent.address, extent.length)).collect();
        Ok((part.checked_bytes, part.next_start, damaged))
    }

    fn unproved(&self, py: Python<'_>, root: &[u8], doubted: Vec<u64>) -> PyResult<Vec<u64>> {
        let found = py.detach(|| verify::unproved(&self.engine, &page::decode_root(root)?, &doubted));
        found.map_err(|error| raised(py, error))
    }

    fn distrust(&self, py: Python<'_>, extents: Vec<(u64, u64)>) {
        let extents = extents_from(&extents);
        py.detach(|| self.engine.distrust(&extents));
    }

    fn condemn(&self, py: Python<'_>, rows: Vec<(u64, Vec<u8>)>) -> PyResult<()> {
        let rows = ranges_from(&rows).map_err(|error| raised(py, error))?;
        py.detach(|| self.engine.condemn(rows));
        Ok(())
    }

    fn reclaim(&self, py: Python<'_>, rows: Vec<(u64, Vec<u8>)>) -> PyResult<()> {
        let rows = ranges_from(&rows).map_err(|error| raised(py, error))?;
        py.detach(|| self.engine.reclaim(rows));
        Ok(())
    }

    fn punch(&self, py: Python<'_>, segment: u64) -> PyResult<u64> {
        py.detach(|| self.engine.punch(segment)).map_err(|error| raised(py, error))
    }

    fn diff(&self, py: Python<'_>, old: Option<PageArgument>, new: Option<PageArgument>) -> PyResult<Vec<Difference>> {
        let old = old.as_ref().map(page_from).transpose()?;
        let new = new.as_ref().map(page_from).transpose()?;
        let found =
            py.detach(|| diff::diff(&*self.engine, old.as_ref(), new.as_ref())).map_err(|error| raised(py, error))?;
        Ok(found.into_iter().map(|value| Difference { value }).collect())
    }

    fn find<'py>(
        &self,
        py: Python<'py>,
        lines: Vec<Vec<Option<PageArgument>>>,
        pattern: Bound<'_, Patterns>,
        by_path: bool,
    ) -> PyResult<Vec<Vec<FoundTuple<'py>>>> {
        let page = |page: Option<PageArgument>| page.as_ref().map(page_from).transpose();
        let lines = lines.into_iter().map(|line| line.into_iter().map(page).collect());
        let lines: Vec<Vec<_>> = lines.collect::<PyResult<_>>()?;
        let patterns = &pattern.get().value;
        let found = py.detach(|| find::find(&*self.engine, &lines, patterns, by_path));
        let row = |found: &find::Found| {
            let find::What { kind, size, mtime_ns } = found.what;
            let path = PyBytes::new(py, &found.path);
            (path, kind_name(kind), size, mtime_ns, found.first, found.last, found.count)
        };
        let found = found.map_err(|error| raised(py, error))?;
        Ok(found.iter().map(|line| line.iter().map(row).collect()).collect())
    }

    fn files_touching(&self, py: Python<'_>, page: PageArgument, extents: Vec<(u64, u64)>) -> PyResult<Vec<Vec<u8>>> {
        let root = page_from(&page)?;
        let extents = extents_from(&extents);
        py.detach(|| tree::files_touching(&*self.engine, &root, &extents)).map_err(|error| raised(py, error))
    }

    #[getter]
    fn open_entries(&self) -> u64 {
        self.engine.open_entries()
    }

    #[getter]
    fn index_discarded(&self) -> Option<String> {
        self.engine.index_discarded()
    }

    fn publish_index(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.engine.publish_index()).map_err(|error| raised(py, error))
    }
}

/// Ranges of segments as Python gives them.
pub fn ranges_from(rows: &[(u64, Vec<u8>)]) -> Result<Vec<(u64, SegmentRanges)>, Error> {
    rows.iter().map(|(segment, ranges)| Ok((*segment, decode_ranges(ranges)?))).collect()
}

/// The bytes of an extent, copied and verified piece by piece.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Pieces {
    engine: Arc<space::Space>,
    left: Mutex<std::vec::IntoIter<Extent>>,
}

#[pymethods]
impl Pieces {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let next = self.left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(extent) = next else { return Ok(None) };
        let fill = |out: &mut [u8]| py.detach(|| self.engine.copy(extent, out)).map_err(|error| raised(py, error));
        PyBytes::new_with(py, extent.length as usize, fill).map(Some)
    }
}

/// The entries of one stored directory; read page by page.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Entries {
    walk: Mutex<(tree::Entries<Arc<space::Space>>, std::vec::IntoIter<page::Entry>)>,
}

#[pymethods]
impl Entries {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Entry>> {
        let next = py.detach(|| {
            let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(value) = walk.1.next() {
                    return Ok(Some(Entry { value }));
                }
                match walk.0.next_page()? {
                    Some(entries) => walk.1 = entries.into_iter(),
                    None => return Ok(None),
                }
            }
        });
        next.map_err(|error| raised(py, error))
    }
}

/// See `_kernel.pyi`. Empty once it is closed.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Lease {
    handle: Mutex<Option<LeaseHandle>>,
    segment: u64,
}

impl Lease {
    /// Wraps a lease of the engine.
    pub fn of(handle: LeaseHandle) -> Self {
        let segment = locked(&handle).segment();
        Lease { handle: Mutex::new(Some(handle)), segment }
    }

    /// The engine's lease, unless it has been closed.
    pub fn engine(&self) -> PyResult<LeaseHandle> {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        handle.clone().ok_or_else(|| PyValueError::new_err(format!("the lease of segment {} is closed", self.segment)))
    }
}

fn locked(handle: &LeaseHandle) -> MutexGuard<'_, lease::Lease> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Lease {
    #[getter]
    fn segment(&self) -> u64 {
        self.segment
    }

    #[getter]
    fn room(&self, py: Python<'_>) -> PyResult<u64> {
        let handle = self.engine()?;
        Ok(py.detach(|| locked(&handle).room()))
    }

    fn append_journal(&self, py: Python<'_>, data: &[u8]) -> PyResult<u64> {
        let handle = self.engine()?;
        py.detach(|| locked(&handle).append_chunk(data, Kind::Journal)).map_err(|error| raised(py, error))
    }

    fn put_journal(&self, py: Python<'_>, offset: u32, data: &[u8]) -> PyResult<()> {
        let handle = self.engine()?;
        py.detach(|| locked(&handle).put_chunk(offset, data, Kind::Journal)).map_err(|error| raised(py, error))
    }

    #[getter]
    fn head(&self, py: Python<'_>) -> PyResult<u32> {
        let handle = self.engine()?;
        Ok(py.detach(|| locked(&handle).head()))
    }

    fn flush(&self, py: Python<'_>) -> PyResult<(u64, u32, u64)> {
        let handle = self.engine()?;
        let row = py.detach(|| locked(&handle).flush_all()).map_err(|error| raised(py, error))?;
        Ok((row.segment, row.head, row.table_bytes))
    }

    fn sync(&self, py: Python<'_>) -> PyResult<(u64, u32, u64)> {
        let handle = self.engine()?;
        let row = py.detach(|| locked(&handle).sync()).map_err(|error| raised(py, error))?;
        Ok((row.segment, row.head, row.table_bytes))
    }

    fn advance(&self, py: Python<'_>, head: u32) -> PyResult<()> {
        let handle = self.engine()?;
        py.detach(|| locked(&handle).advance(head)).map_err(|error| raised(py, error))
    }

    fn close(&self, py: Python<'_>) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            py.detach(|| locked(&handle).release());
        }
    }
}
