//! Mapped bytes lent to Python through the buffer protocol, without a copy. The one place of FFI in this crate.
#![allow(unsafe_code, reason = "the buffer protocol is a C interface")]

use packetfs_engine::map::Slice;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use std::borrow::Cow;
use std::os::fd::BorrowedFd;
use std::os::raw::c_int;

/// A descriptor that Python owns and keeps open during the call.
pub fn descriptor<'a>(fd: c_int) -> PyResult<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(PyValueError::new_err(format!("{fd} is no file descriptor")));
    }
    // SAFETY: not -1; a descriptor that is not open gives EBADF at the first read, which is reported.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Keeps a mapping alive for as long as a memoryview shows it.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Lent {
    pub slice: Slice,
}

/// The bytes of a buffer: where they lie if nobody can change them, else a copy.
pub fn bytes_of<'a>(data: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(Cow::Borrowed(bytes.as_bytes()));
    }
    if let Ok(lent) = data.cast::<Lent>() {
        return Ok(Cow::Borrowed(&lent.get().slice));
    }
    PyBuffer::get(data)?.to_vec(data.py()).map(Cow::Owned)
}

/// A read-only memoryview of `slice`.
pub fn view<'py>(py: Python<'py>, slice: Slice) -> PyResult<Bound<'py, PyMemoryView>> {
    let lent = Bound::new(py, Lent { slice })?;
    PyMemoryView::from(lent.as_any())
}

#[pymethods]
impl Lent {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let (start, length) = {
            let slice = &slf.get().slice;
            (slice.as_ptr(), slice.len())
        };
        // SAFETY: `view` is not null; the range belongs to `slf`, which the view holds a reference to; read-only is
        // set, so that a request for a writable buffer is refused; a Slice is at most 64 MiB long.
        let answer = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.cast_mut().cast(), length as ffi::Py_ssize_t, 1, flags)
        };
        if answer == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
