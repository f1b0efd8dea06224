//! The filter in plain Rust: the meaning of the cascade, for any machine.

use super::WINDOW;
use super::ends::Ends;
use super::schedule::Schedule;

/// Positions computed at a time: all levels stay in the first-level cache.
const BLOCK: usize = 2048;

/// See [`super::Path::filter`].
pub(super) fn filter(schedule: &Schedule, mask: u8, data: &[u8], from: usize, to: usize, out: &mut Ends) {
    let mut end = from;
    while end <= to {
        let count = BLOCK.min(to + 1 - end);
        block(schedule, mask, &data[end - WINDOW..end + count - 1], end, out);
        end += count;
    }
}

/// `bytes` begins with the window of `end`; every further byte is the last of one more window.
fn block(schedule: &Schedule, mask: u8, bytes: &[u8], end: usize, out: &mut Ends) {
    let [head, before, doublings @ ..] = &*schedule.products;
    let mut levels = [0u8; BLOCK + WINDOW];
    let mut previous = [0u8; BLOCK + WINDOW];
    let levels = &mut levels[..bytes.len()];
    let previous = &mut previous[..bytes.len()];
    // Values within `reach` of the front would need bytes from before it; they are never part of an answer.
    for i in 1..bytes.len() {
        levels[i] = head[bytes[i] as usize].wrapping_add(before[bytes[i - 1] as usize]);
    }
    for (doubling, product) in doublings.iter().enumerate() {
        let reach = 2usize << doubling;
        previous.copy_from_slice(levels);
        for i in reach..levels.len() {
            levels[i] = previous[i].wrapping_add(product[previous[i - reach] as usize]);
        }
    }
    for i in WINDOW - 1..bytes.len() {
        if levels[i] == schedule.target && previous[i] & mask == 0 {
            out.push((end + i + 1 - WINDOW) as u32);
        }
    }
}
