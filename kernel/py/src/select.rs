//! What is selected, for Python: patterns, and the rest of what a push may leave out.

use std::ffi::CString;

use packetfs_engine::select::{self as engine, Line, Wanted};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::failure::raised;

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Patterns {
    /// The engine's value.
    pub value: engine::Patterns,
}

#[pymethods]
impl Patterns {
    #[new]
    fn new(py: Python<'_>, lines: Vec<(String, Vec<u8>)>) -> PyResult<Patterns> {
        let lines: Vec<Line> = lines.into_iter().map(|(place, pattern)| Line { place, pattern }).collect();
        engine::Patterns::new(&lines).map(|value| Patterns { value }).map_err(|error| raised(py, error))
    }

    /// See `_kernel.pyi`.
    fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        self.value.excludes(path, is_directory) == Some(true)
    }
}

/// See `_kernel.pyi`.
#[pyfunction]
pub fn pattern_lines(data: &[u8], place: &str) -> Vec<(String, Vec<u8>)> {
    engine::lines_of(data, place).into_iter().map(|line| (line.place, line.pattern)).collect()
}

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Selection {
    /// The engine's value.
    pub value: engine::Selection,
}

#[pymethods]
impl Selection {
    #[new]
    #[pyo3(signature = (*, patterns, filter_file, exclude_caches, one_file_system, names, size_max))]
    fn new(
        py: Python<'_>,
        patterns: Option<Bound<'_, Patterns>>,
        filter_file: Option<Vec<u8>>,
        exclude_caches: bool,
        one_file_system: bool,
        names: Option<Vec<Vec<u8>>>,
        size_max: Option<u64>,
    ) -> PyResult<Selection> {
        let filter_file = filter_file.map(CString::new).transpose();
        let wanted = names.map(|names| Wanted::new(names.iter().map(Vec::as_slice))).transpose();
        let value = engine::Selection {
            patterns: patterns.map(|patterns| patterns.get().value.clone()),
            filter_file: filter_file.map_err(|_| PyValueError::new_err("a name holds a NUL byte"))?,
            exclude_caches,
            one_file_system,
            wanted: wanted.map_err(|error| raised(py, error))?,
            size_max,
        };
        Ok(Selection { value })
    }
}
