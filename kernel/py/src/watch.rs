//! Directories under watch, as an object for Python.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use packetfs_engine::watch as engine;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::select::Patterns;

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Watch {
    engine: Mutex<engine::Watch>,
}

fn os_error(error: impl Into<std::io::Error>) -> PyErr {
    let error = error.into();
    PyOSError::new_err((error.raw_os_error(), error.kind().to_string()))
}

#[pymethods]
impl Watch {
    #[new]
    #[pyo3(signature = (roots, *, excluded))]
    fn new(py: Python<'_>, roots: Vec<Vec<u8>>, excluded: Option<Bound<'_, Patterns>>) -> PyResult<Watch> {
        let roots = roots.into_iter().map(|root| PathBuf::from(OsString::from_vec(root))).collect();
        let excluded = excluded.map(|patterns| patterns.get().value.clone());
        let watch = py.detach(|| engine::Watch::new(roots, excluded)).map_err(os_error)?;
        Ok(Watch { engine: Mutex::new(watch) })
    }

    #[getter]
    fn directories(&self, py: Python<'_>) -> usize {
        py.detach(|| self.engine.lock().unwrap_or_else(PoisonError::into_inner).directories())
    }

    #[pyo3(signature = (*, patience_s, quiet_s, limit_s))]
    fn wait(&self, py: Python<'_>, patience_s: Option<f64>, quiet_s: f64, limit_s: f64) -> PyResult<bool> {
        let duration = |seconds| {
            Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(format!("{seconds} s: {error}")))
        };
        let (patience, quiet, limit) = (patience_s.map(duration).transpose()?, duration(quiet_s)?, duration(limit_s)?);
        let waited = py.detach(|| {
            let mut watch = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            watch.wait(patience, quiet, limit)
        });
        waited.map_err(os_error)
    }
}
