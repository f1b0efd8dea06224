//! CRC-32C, for frames: against accidents on the way, not against anybody.

use crate::lent::bytes_of;
use pyo3::prelude::*;

/// Bytes from this size on are worth giving the GIL up for: 64 KiB take 5 us.
const DETACH_BYTES_MIN: usize = 64 << 10;

/// See `_kernel.pyi`.
#[pyfunction]
#[pyo3(signature = (data, seed = 0))]
pub fn crc32c(py: Python<'_>, data: &Bound<'_, PyAny>, seed: u32) -> PyResult<u32> {
    let data = bytes_of(data)?;
    if data.len() < DETACH_BYTES_MIN {
        return Ok(::crc32c::crc32c_append(seed, &data));
    }
    Ok(py.detach(|| ::crc32c::crc32c_append(seed, &data)))
}
