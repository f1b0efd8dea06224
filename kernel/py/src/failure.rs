//! The engine's errors as classes of `packetfs.errors`. An exception that a callback raised passes through as it was.

use packetfs_engine::Error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::os::unix::ffi::OsStrExt;

/// A Python exception on its way through the engine.
pub fn carried(error: PyErr) -> Error {
    Error::Host(Box::new(error))
}

/// The exception for `error`.
pub fn raised(py: Python<'_>, error: Error) -> PyErr {
    build(py, error).unwrap_or_else(|while_building| while_building)
}

fn build(py: Python<'_>, error: Error) -> PyResult<PyErr> {
    let tree = py.import("packetfs.errors")?;
    let exception = match error {
        Error::Host(carried) => {
            return Ok(match carried.downcast::<PyErr>() {
                Ok(exception) => *exception,
                Err(_) => PyRuntimeError::new_err("the host stopped the operation"),
            });
        }
        Error::Io { action, path, source } => {
            let path = PyBytes::new(py, path.as_os_str().as_bytes());
            tree.getattr("disk_error")?.call1((action, path, source.raw_os_error().unwrap_or(0)))?
        }
        Error::Damaged(what) => tree.getattr("DamagedError")?.call1((what,))?,
        Error::Invalid(what) => tree.getattr("InvalidError")?.call1((what,))?,
        Error::Usage(what) => tree.getattr("UsageError")?.call1((what,))?,
        Error::Refused(what) => tree.getattr("RefusedError")?.call1((what,))?,
    };
    Ok(PyErr::from_value(exception))
}
