//! Which candidate ends the chunk: how low a rank must be, at which distance from the chunk's start.

use super::Params;

/// The filter passes one position in `2^FILTER_BITS` by the target alone.
const FILTER_BITS: u32 = 8;
/// Further bits that the mask may take: one position in 2048 for averages from 16 KiB.
const MASK_BITS_MAX: u32 = 3;

#[derive(Clone)]
pub(super) struct Selection {
    avg: usize,
    mask: u8,
    /// Ranks below it end a chunk that is shorter than `avg`.
    strict: u64,
    /// Ranks below it end a chunk of `avg` bytes or more.
    loose: u64,
}

impl Selection {
    pub(super) fn new(params: &Params) -> Selection {
        let loose_bits = params.avg.ilog2().saturating_sub(params.normalisation);
        let strict_bits = params.avg.ilog2() + params.normalisation;
        // At least half of what passes the filter is left to the rank; below 512 the filter itself is as dense as it gets.
        let mask_bits = loose_bits.saturating_sub(FILTER_BITS + 1).min(MASK_BITS_MAX);
        let threshold = |bits: u32| 1u64 << (32 - bits.saturating_sub(FILTER_BITS + mask_bits));
        Selection {
            avg: params.avg as usize,
            mask: (1u8 << mask_bits) - 1,
            strict: threshold(strict_bits),
            loose: threshold(loose_bits),
        }
    }

    /// Bits of the cascade's last but one level that must be zero.
    pub(super) fn filter_mask(&self) -> u8 {
        self.mask
    }

    /// The first of `ends` that may end a chunk which begins at `start`.
    pub(super) fn first(&self, start: usize, ends: &[u32], ranks: &[u32]) -> Option<usize> {
        let accepted = |(end, rank): (usize, u32)| {
            let threshold = if end - start < self.avg { self.strict } else { self.loose };
            (u64::from(rank) < threshold).then_some(end)
        };
        ends.iter().map(|&end| end as usize).zip(ranks.iter().copied()).find_map(accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cuts_one_position_in_8_kib_after_the_average_and_one_in_128_kib_before() {
        let selection = Selection::new(&Params::DEFAULT);

        assert_eq!(selection.mask, 7);
        assert_eq!(2048 * (1u64 << 32) / selection.loose, 8 << 10);
        assert_eq!(2048 * (1u64 << 32) / selection.strict, 128 << 10);
    }
}
