//! Entries of trees, and differences between them, as values for Python.

use crate::{exactly, failure};
use packetfs_engine::address::Extent;
use packetfs_engine::diff::{self, Change};
use packetfs_engine::page::{self, EntryKind, PageRef};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// `(address, length, digest)`.
pub type PageTuple<'py> = (u64, u32, Bound<'py, PyBytes>);

/// The page that Python names.
pub fn page_from(page: &(u64, u32, Vec<u8>)) -> PyResult<PageRef> {
    Ok(PageRef { address: page.0, length: page.1, digest: exactly("a page digest", &page.2)? })
}

/// Extents as Python gave them.
pub fn extents_from(pairs: &[(u64, u64)]) -> Vec<Extent> {
    pairs.iter().map(|&(address, length)| Extent { address, length }).collect()
}

/// The word for a kind.
pub fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Fifo => "fifo",
        EntryKind::CharDevice => "char-device",
        EntryKind::BlockDevice => "block-device",
    }
}

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Entry {
    /// The engine's value.
    pub value: page::Entry,
}

#[pymethods]
impl Entry {
    #[getter]
    fn name<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.value.name)
    }

    #[getter]
    fn kind(&self) -> &'static str {
        kind_name(self.value.kind)
    }

    #[getter]
    fn mode(&self) -> u32 {
        self.value.mode
    }

    #[getter]
    fn uid(&self) -> u32 {
        self.value.uid
    }

    #[getter]
    fn gid(&self) -> u32 {
        self.value.gid
    }

    #[getter]
    fn user<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.value.user)
    }

    #[getter]
    fn group<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.value.group)
    }

    #[getter]
    fn mtime_ns(&self) -> i64 {
        self.value.mtime_ns
    }

    #[getter]
    fn size(&self) -> u64 {
        self.value.size
    }

    #[getter]
    fn target<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.value.target)
    }

    #[getter]
    fn rdev(&self) -> u64 {
        self.value.rdev
    }

    #[getter]
    fn xattrs<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let pair = |(name, value): &(Vec<u8>, Vec<u8>)| (PyBytes::new(py, name), PyBytes::new(py, value));
        self.value.xattrs.iter().map(pair).collect()
    }

    #[getter]
    fn link_id(&self) -> u64 {
        self.value.link_id
    }

    #[getter]
    fn digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let page = self.value.page();
        PyBytes::new(py, page.as_ref().map_or(&self.value.digest, |page| &page.digest))
    }

    #[getter]
    fn page<'py>(&self, py: Python<'py>) -> Option<PageTuple<'py>> {
        self.value.page().map(|page| (page.address, page.length, PyBytes::new(py, &page.digest)))
    }

    fn __repr__(&self) -> String {
        format!("<Entry {} {:?}>", self.kind(), String::from_utf8_lossy(&self.value.name))
    }
}

/// See `_kernel.pyi`.
#[pyfunction]
pub fn decode_root(py: Python<'_>, data: &[u8]) -> PyResult<Entry> {
    page::decode_root(data).map(|value| Entry { value }).map_err(|error| failure::raised(py, error))
}

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Difference {
    /// The engine's value.
    pub value: diff::Difference,
}

#[pymethods]
impl Difference {
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.value.path)
    }

    #[getter]
    fn change(&self) -> &'static str {
        match self.value.change {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Changed => "changed",
            Change::Metadata => "metadata",
            Change::Renamed => "renamed",
        }
    }

    #[getter]
    fn kind(&self) -> &'static str {
        kind_name(self.value.kind)
    }

    #[getter]
    fn old_size(&self) -> u64 {
        self.value.old_size
    }

    #[getter]
    fn new_size(&self) -> u64 {
        self.value.new_size
    }

    #[getter]
    fn old_path<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.value.old_path.as_ref().map(|path| PyBytes::new(py, path))
    }
}
