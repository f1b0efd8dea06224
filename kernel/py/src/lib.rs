//! The door between Python and the engine: arguments in, errors out, GIL released. It decides nothing.
//!
//! What Python sees is described in `src/packetfs/_kernel.pyi`, which stubtest holds against this crate.

#![allow(clippy::too_many_arguments, reason = "a function here has the arguments that Python gives by keyword")]

mod checksum;
mod chunker;
mod entry;
mod failure;
mod lent;
mod mark;
mod memory;
mod select;
mod space;
mod sweep;
mod transfer;
mod watch;

use packetfs_engine::{fault, keys};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The 32 bytes of a key or digest that Python gave.
fn exactly<const N: usize>(what: &str, bytes: &[u8]) -> PyResult<[u8; N]> {
    bytes.try_into().map_err(|_| PyValueError::new_err(format!("{what} has {} bytes, not {N}", bytes.len())))
}

/// Copies a contiguous buffer: Python may change it while the GIL is released.
fn owned(py: Python<'_>, data: &PyBuffer<u8>) -> PyResult<Vec<u8>> {
    data.to_vec(py)
}

#[pyfunction]
fn derive_key<'py>(py: Python<'py>, context: &str, key: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &keys::derive(context, key))
}

#[pyfunction]
fn keyed_digest<'py>(py: Python<'py>, key: &[u8], data: PyBuffer<u8>) -> PyResult<Bound<'py, PyBytes>> {
    let key = exactly("a key", key)?;
    let data = owned(py, &data)?;
    let digest = py.detach(|| keys::keyed(&key, &data));
    Ok(PyBytes::new(py, &digest))
}

#[pyfunction]
fn give_back_memory() {
    memory::give_back();
}

#[pyfunction]
fn crash_at(n: u32) {
    fault::crash_at(n);
}

#[pyfunction]
fn fail_at(n: u32, errno: i32, lasting: bool) {
    fault::fail_at(n, errno, lasting);
}

#[pyfunction]
fn fault_met() -> Option<String> {
    fault::met()
}

#[pyfunction]
fn fault_point(step: &str) -> PyResult<()> {
    let Some(step) = fault::Step::named(step) else {
        return Err(PyValueError::new_err(format!("no step is called {step:?}")));
    };
    fault::before(step).map_err(|errno| {
        // With its number, which decides the class: what PyO3 makes of an io::Error has none.
        PyOSError::new_err((errno.raw_os_error(), std::io::Error::from(errno).kind().to_string()))
    })
}

#[pymodule(gil_used = false)]
fn _kernel(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if cfg!(debug_assertions) {
        let warnings = module.py().import("warnings")?;
        let class = module.py().get_type::<pyo3::exceptions::PyRuntimeWarning>();
        warnings.call_method1("warn", ("packetfs was built without optimisation: do not measure it", class))?;
    }
    module.add_function(wrap_pyfunction!(derive_key, module)?)?;
    module.add_function(wrap_pyfunction!(keyed_digest, module)?)?;
    module.add_function(wrap_pyfunction!(checksum::crc32c, module)?)?;
    module.add_function(wrap_pyfunction!(crash_at, module)?)?;
    module.add_function(wrap_pyfunction!(give_back_memory, module)?)?;
    module.add_function(wrap_pyfunction!(fault_point, module)?)?;
    module.add_function(wrap_pyfunction!(fail_at, module)?)?;
    module.add_function(wrap_pyfunction!(fault_met, module)?)?;
    module.add_class::<chunker::Chunker>()?;
    module.add_class::<entry::Entry>()?;
    module.add_class::<entry::Difference>()?;
    module.add_function(wrap_pyfunction!(entry::decode_root, module)?)?;
    module.add_class::<space::Space>()?;
    module.add_class::<space::Lease>()?;
    module.add_class::<mark::Mark>()?;
    module.add_function(wrap_pyfunction!(mark::merge_ranges, module)?)?;
    module.add_function(wrap_pyfunction!(mark::ranges_bytes, module)?)?;
    module.add_class::<transfer::Outgoing>()?;
    module.add_class::<transfer::Incoming>()?;
    module.add_class::<transfer::Mender>()?;
    module.add_class::<select::Patterns>()?;
    module.add_class::<select::Selection>()?;
    module.add_function(wrap_pyfunction!(select::pattern_lines, module)?)?;
    module.add_class::<watch::Watch>()?;
    module.add_class::<sweep::Ingested>()?;
    module.add_class::<sweep::Checkout>()?;
    module.add_class::<sweep::Unverified>()?;
    module.add_function(wrap_pyfunction!(sweep::ingest, module)?)?;
    module.add_function(wrap_pyfunction!(sweep::ingest_stream, module)?)?;
    module.add_function(wrap_pyfunction!(sweep::checkout, module)?)?;
    module.add_function(wrap_pyfunction!(sweep::free_bytes, module)?)?;
    Ok(())
}
