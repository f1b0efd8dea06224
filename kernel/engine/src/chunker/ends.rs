//! Where the filter puts what passes: a list that never grows, so that nothing in its inner loop calls the allocator.

/// Positions filtered in one go before the average, where few ends are accepted, and the most that can pass.
///
/// One more than a multiple of 128: a path fills its window for the first position and then takes steps of 128.
pub(super) const STRIDE: usize = (12 << 10) + 1;
/// Positions filtered in one go from the average on. Smaller, because what is filtered past an accepted end is wasted:
/// the next chunk's minimum lies there (4 % of the speed).
pub(super) const STRIDE_LOOSE: usize = (3 << 10) + 1;

/// Chunk ends that passed the filter, ascending.
pub(super) struct Ends {
    list: Box<[u32; STRIDE]>,
    count: usize,
}

impl Ends {
    pub(super) fn new() -> Ends {
        Ends { list: Box::new([0; STRIDE]), count: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    /// At most [`STRIDE`] times between two [`Ends::clear`].
    #[inline]
    pub(super) fn push(&mut self, end: u32) {
        self.list[self.count] = end;
        self.count += 1;
    }

    pub(super) fn ends(&self) -> &[u32] {
        &self.list[..self.count]
    }
}
