//! The two ends of a transfer, with Python as their host: it moves the bodies and grants the leases.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entry::extents_from;
use crate::failure::{carried, raised};
use crate::lent::{Lent, bytes_of};
use crate::space::{Lease, Space};
use packetfs_engine::page::decode_root;
use packetfs_engine::{incoming, mend, outgoing};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Outgoing {
    engine: Mutex<outgoing::Outgoing>,
}

impl Outgoing {
    fn locked(&self) -> MutexGuard<'_, outgoing::Outgoing> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits for the engine with the GIL held: another thread may code for a second.
    fn counts(&self, py: Python<'_>) -> outgoing::Counts {
        py.detach(|| self.locked().counts())
    }
}

#[pymethods]
impl Outgoing {
    #[new]
    #[pyo3(signature = (space, *, verified = false))]
    fn new(space: Bound<'_, Space>, verified: bool) -> Self {
        let space = &space.get().engine;
        let engine = if verified { outgoing::Outgoing::of_verified(space) } else { outgoing::Outgoing::new(space) };
        Outgoing { engine: Mutex::new(engine) }
    }

    #[pyo3(signature = (extents, *, pages))]
    fn add(&self, py: Python<'_>, extents: Vec<(u64, u64)>, pages: bool) -> PyResult<()> {
        let extents = extents_from(&extents);
        py.detach(|| self.locked().add(&extents, pages)).map_err(|error| raised(py, error))
    }

    #[pyo3(signature = (root, base, *, fresh, within, data))]
    fn plan(
        &self,
        py: Python<'_>,
        root: &[u8],
        base: Option<&[u8]>,
        fresh: Option<Vec<(u64, u64)>>,
        within: &[u8],
        data: bool,
    ) -> PyResult<()> {
        let fresh = fresh.map(|fresh| extents_from(&fresh));
        py.detach(|| {
            let root = decode_root(root)?;
            let base = base.map(decode_root).transpose()?;
            self.locked().plan(&root, base.as_ref(), fresh.as_deref(), within, data)
        })
        .map_err(|error| raised(py, error))
    }

    fn literals<'py>(&self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyBytes>, Bound<'py, PyAny>)>> {
        let Some(body) = py.detach(|| self.locked().literals()).map_err(|error| raised(py, error))? else {
            return Ok(None);
        };
        let coded = match body.coded {
            outgoing::Coded::Made(bytes) => PyBytes::new(py, &bytes).into_any(),
            outgoing::Coded::Stored(slice) => Bound::new(py, Lent { slice })?.into_any(),
        };
        Ok(Some((PyBytes::new(py, &body.head), coded)))
    }

    fn tree<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let body = py.detach(|| self.locked().tree()).map_err(|error| raised(py, error))?;
        Ok(body.map(|body| PyBytes::new(py, &body)))
    }

    #[getter]
    fn literal_bytes(&self, py: Python<'_>) -> u64 {
        self.counts(py).literal_bytes
    }

    #[getter]
    fn delta_bytes(&self, py: Python<'_>) -> u64 {
        self.counts(py).delta_bytes
    }

    #[getter]
    fn coded_bytes(&self, py: Python<'_>) -> u64 {
        self.counts(py).coded_bytes
    }

    #[getter]
    fn pointer_count(&self, py: Python<'_>) -> u64 {
        self.counts(py).pointer_count
    }

    #[getter]
    fn literal_chunks(&self, py: Python<'_>) -> u64 {
        self.counts(py).literal_chunks
    }
}

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Incoming {
    engine: Mutex<incoming::Incoming>,
}

impl Incoming {
    fn locked(&self) -> MutexGuard<'_, incoming::Incoming> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Incoming {
    #[new]
    fn new(space: Bound<'_, Space>, lease_for: Py<PyAny>) -> Self {
        let host = move |segment: u64| {
            Python::attach(|py| lease_for.bind(py).call1((segment,))?.cast::<Lease>()?.get().engine()).map_err(carried)
        };
        Incoming { engine: Mutex::new(incoming::Incoming::new(&Arc::clone(&space.get().engine), Box::new(host))) }
    }

    fn literals(&self, py: Python<'_>, body: &Bound<'_, PyAny>) -> PyResult<u64> {
        let body = bytes_of(body)?;
        py.detach(|| self.locked().literals(&body)).map_err(|error| raised(py, error))
    }

    #[pyo3(signature = (base, *, sparse = false))]
    fn begin_tree(&self, py: Python<'_>, base: Option<&[u8]>, sparse: bool) -> PyResult<()> {
        py.detach(|| {
            let base = base.map(decode_root).transpose()?;
            self.locked().begin_tree(base.as_ref(), sparse)
        })
        .map_err(|error| raised(py, error))
    }

    fn tree(&self, py: Python<'_>, body: &Bound<'_, PyAny>) -> PyResult<()> {
        let body = bytes_of(body)?;
        py.detach(|| self.locked().tree(&body)).map_err(|error| raised(py, error))
    }

    fn finish_tree<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (root, digest) = py.detach(|| self.locked().finish_tree()).map_err(|error| raised(py, error))?;
        Ok((PyBytes::new(py, &root), PyBytes::new(py, &digest)))
    }

    #[getter]
    fn segments(&self, py: Python<'_>) -> Vec<u64> {
        py.detach(|| self.locked().segments())
    }
}

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Mender {
    engine: Mutex<mend::Mender>,
}

impl Mender {
    fn locked(&self) -> MutexGuard<'_, mend::Mender> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Mender {
    #[new]
    fn new(space: Bound<'_, Space>) -> Self {
        Mender { engine: Mutex::new(mend::Mender::new(&space.get().engine)) }
    }

    fn offer(&self, py: Python<'_>, address: u64, data: &[u8]) -> PyResult<()> {
        py.detach(|| self.locked().offer(address, data)).map_err(|error| raised(py, error))
    }

    fn literals(&self, py: Python<'_>, body: &Bound<'_, PyAny>) -> PyResult<u64> {
        let body = bytes_of(body)?;
        py.detach(|| self.locked().literals(&body)).map_err(|error| raised(py, error))
    }

    fn begin(&self) {
        self.locked().begin();
    }

    fn chunks(&self, py: Python<'_>, extents: Vec<(u64, u64)>) -> PyResult<Vec<(u64, u64)>> {
        let extents = extents_from(&extents);
        let found = py.detach(|| self.locked().chunks(&extents)).map_err(|error| raised(py, error))?;
        Ok(found.into_iter().map(|extent| (extent.address, extent.length)).collect())
    }

    fn sync(&self, py: Python<'_>) -> PyResult<Vec<(u64, u64)>> {
        let mended = py.detach(|| self.locked().sync()).map_err(|error| raised(py, error))?;
        Ok(mended.into_iter().map(|extent| (extent.address, extent.length)).collect())
    }
}
