//! The chunker and the scan by themselves: for tests against the oracle, and for benchmarks.

use crate::{exactly, owned};
use packetfs_engine::chunker::{self, Params, Path, Profile};
use packetfs_engine::keys::Digest;
use packetfs_engine::scan;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// See `_kernel.pyi`.
#[pyclass(frozen, module = "packetfs._kernel")]
pub struct Chunker {
    profile: Profile,
    digest_key: [u8; 32],
}

#[pymethods]
impl Chunker {
    #[new]
    #[pyo3(signature = (cut_key, digest_key, min, avg, max, normalisation, path = "auto"))]
    fn new(
        py: Python<'_>,
        cut_key: &[u8],
        digest_key: &[u8],
        min: u32,
        avg: u32,
        max: u32,
        normalisation: u32,
        path: &str,
    ) -> PyResult<Self> {
        let cut_key: [u8; 32] = exactly("a cut key", cut_key)?;
        let digest_key: Digest = exactly("a digest key", digest_key)?;
        let params = Params::new(min, avg, max, normalisation).map_err(|error| crate::failure::raised(py, error))?;
        let profile = match path {
            "auto" => Ok(Profile::new(&cut_key, params)),
            "avx512" => Profile::on_path(&cut_key, params, Path::Avx512),
            "avx2" => Profile::on_path(&cut_key, params, Path::Avx2),
            "portable" => Profile::on_path(&cut_key, params, Path::Portable),
            _ => return Err(PyValueError::new_err(format!("there is no path {path:?}"))),
        };
        let profile = profile.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Chunker { profile, digest_key })
    }

    #[getter]
    fn path(&self) -> &'static str {
        match self.profile.path() {
            Path::Avx512 => "avx512",
            Path::Avx2 => "avx2",
            Path::Portable => "portable",
        }
    }

    #[pyo3(signature = (data, last = true))]
    fn cuts(&self, py: Python<'_>, data: PyBuffer<u8>, last: bool) -> PyResult<Vec<u32>> {
        let data = owned(py, &data)?;
        Ok(py.detach(|| {
            let mut ends = Vec::new();
            chunker::cuts(&data, &self.profile, last, &mut ends);
            ends
        }))
    }

    #[pyo3(signature = (data, last = true, wide = false))]
    fn scan<'py>(
        &self,
        py: Python<'py>,
        data: PyBuffer<u8>,
        last: bool,
        wide: bool,
    ) -> PyResult<Vec<(u32, Bound<'py, PyBytes>)>> {
        let data = owned(py, &data)?;
        let sweep = if wide { scan::scan_wide } else { scan::scan };
        let chunks = py.detach(|| {
            let mut chunks = Vec::new();
            sweep(&data, &self.profile, &self.digest_key, last, &mut chunks);
            chunks
        });
        Ok(chunks.iter().map(|chunk| (chunk.end, PyBytes::new(py, &chunk.digest))).collect())
    }
}
