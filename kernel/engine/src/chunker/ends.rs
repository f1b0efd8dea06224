//! Where the filter puts what passes: a list that never grows, so that nothing in its inner loop calls the allocator.

/// Positions filtered in one go, and the most that can pass. Small, because what is filtered past an accepted end
/// and before the next chunk's minimum is wasted; large, because every go begins by filling a window.
pub(super) const STRIDE: usize = 8 << 10;

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
