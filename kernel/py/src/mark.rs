//! What the snapshots of a volume reach, as an object for Python.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::failure::raised;
use crate::space::{Space, ranges_from};
use packetfs_engine::mark;
use packetfs_engine::page::decode_root;
use packetfs_engine::space::{Committed, SegmentRanges, decode_ranges, encode_ranges};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

type Rows<'py> = Vec<(u64, Bound<'py, PyBytes>)>;

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Mark {
    engine: Mutex<mark::Mark>,
}

impl Mark {
    fn locked(&self) -> MutexGuard<'_, mark::Mark> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Mark {
    #[new]
    fn new(space: Bound<'_, Space>) -> Self {
        Mark { engine: Mutex::new(mark::Mark::new(&space.get().engine)) }
    }

    fn trees(&self, py: Python<'_>, roots: Vec<Vec<u8>>) -> PyResult<()> {
        py.detach(|| {
            let mut mark = self.locked();
            roots.iter().try_for_each(|root| mark.tree(&decode_root(root)?))
        })
        .map_err(|error| raised(py, error))
    }

    #[getter]
    fn reached_bytes(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.locked().reached_bytes())
    }

    fn unreached<'py>(&self, py: Python<'py>, rows: Vec<(u64, u32, u64, u32)>) -> PyResult<(Rows<'py>, u64)> {
        let found = py.detach(|| {
            let mut mark = self.locked();
            let mut young_bytes = 0;
            let ranges = rows.into_iter().map(|(segment, head, table_bytes, settled)| {
                let (ranges, young) = mark.unreached(Committed { segment, head, table_bytes }, settled)?;
                young_bytes += young;
                Ok((segment, ranges))
            });
            let ranges = ranges.collect::<Result<Vec<_>, packetfs_engine::Error>>()?;
            Ok((ranges, young_bytes))
        });
        let (ranges, young_bytes) = found.map_err(|error| raised(py, error))?;
        Ok((packed(py, ranges), young_bytes))
    }

    fn spared<'py>(&self, py: Python<'py>, rows: Vec<(u64, Vec<u8>)>) -> PyResult<Rows<'py>> {
        let rows = ranges_from(&rows).map_err(|error| raised(py, error))?;
        let left = py.detach(|| {
            let mut mark = self.locked();
            rows.iter().map(|(segment, ranges)| (*segment, mark.spared(*segment, ranges))).collect()
        });
        Ok(packed(py, left))
    }
}

fn packed(py: Python<'_>, rows: Vec<(u64, SegmentRanges)>) -> Rows<'_> {
    let found = rows.into_iter().filter(|(_, ranges)| !ranges.is_empty());
    found.map(|(segment, ranges)| (segment, PyBytes::new(py, &encode_ranges(&ranges)))).collect()
}

/// See `_kernel.pyi`.
#[pyfunction]
pub fn merge_ranges<'py>(py: Python<'py>, one: &[u8], other: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let merged = decode_ranges(one)
        .and_then(|one| Ok(packetfs_engine::space::merge_ranges(&one, &decode_ranges(other)?)))
        .map_err(|error| raised(py, error))?;
    Ok(PyBytes::new(py, &encode_ranges(&merged)))
}

/// See `_kernel.pyi`.
#[pyfunction]
pub fn ranges_bytes(py: Python<'_>, ranges: &[u8]) -> PyResult<u64> {
    let ranges = decode_ranges(ranges).map_err(|error| raised(py, error))?;
    Ok(ranges.iter().map(|(start, end)| u64::from(end - start)).sum())
}
