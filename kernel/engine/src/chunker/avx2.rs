//! The filter 32 positions a step: AVX2, a matrix product being two shuffles, one for each half of a byte.
#![allow(unsafe_code)] // loads through pointers; each is inside a slice whose bounds were checked

use std::arch::x86_64::*;

use super::WINDOW;
use super::ends::Ends;
use super::schedule::{MATRICES, Schedule};

/// Positions a step.
const LANES: usize = 32;
/// How far ahead memory is asked for.
const PREFETCH_BYTES: usize = 4096;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// See [`super::Path::filter`]. The caller has checked [`is_available`].
pub(super) fn filter(schedule: &Schedule, mask: u8, data: &[u8], from: usize, to: usize, out: &mut Ends) {
    debug_assert!(is_available());
    if from <= to {
        // SAFETY: the only caller is `Path::filter`, which has just asked `is_available`.
        unsafe { sweep(schedule, mask, data, from, to, out) }
    }
}

/// Secrets as shuffle tables, and the levels of the positions before the current ones.
struct Cascade {
    /// Products of the low and of the high half of a byte.
    products: [(__m256i, __m256i); MATRICES],
    target: __m256i,
    mask: __m256i,
    before: [__m256i; 4],
    /// The last doubling reaches 32 positions back: exactly one step.
    level_before: __m256i,
}

impl Cascade {
    #[target_feature(enable = "avx2")]
    fn new(schedule: &Schedule, mask: u8) -> Cascade {
        let zero = _mm256_setzero_si256();
        let mut products = [(zero, zero); MATRICES];
        for (registers, table) in products.iter_mut().zip(schedule.products.iter()) {
            let low: [u8; LANES] = std::array::from_fn(|i| table[i % 16]);
            let high: [u8; LANES] = std::array::from_fn(|i| table[(i % 16) << 4]);
            *registers = (load(&low), load(&high));
        }
        Cascade {
            products,
            target: _mm256_set1_epi8(schedule.target as i8),
            mask: _mm256_set1_epi8(mask as i8),
            before: [zero; 4],
            level_before: zero,
        }
    }

    /// One bit per lane of `x`: does the window that ends there pass? `y` is `x` one position earlier.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn step(&mut self, x: __m256i, y: __m256i) -> u32 {
        let p = &self.products;
        let mut level = _mm256_add_epi8(product(x, p[0]), product(y, p[1]));
        let earlier = _mm256_alignr_epi8::<14>(level, middle(self.before[0], level));
        self.before[0] = level;
        level = _mm256_add_epi8(level, product(earlier, p[2]));
        let earlier = _mm256_alignr_epi8::<12>(level, middle(self.before[1], level));
        self.before[1] = level;
        level = _mm256_add_epi8(level, product(earlier, p[3]));
        let earlier = _mm256_alignr_epi8::<8>(level, middle(self.before[2], level));
        self.before[2] = level;
        level = _mm256_add_epi8(level, product(earlier, p[4]));
        let earlier = middle(self.before[3], level);
        self.before[3] = level;
        level = _mm256_add_epi8(level, product(earlier, p[5]));
        let last = _mm256_add_epi8(level, product(self.level_before, p[6]));
        self.level_before = level;
        let spare = _mm256_cmpeq_epi8(_mm256_and_si256(level, self.mask), _mm256_setzero_si256());
        _mm256_movemask_epi8(_mm256_and_si256(_mm256_cmpeq_epi8(last, self.target), spare)) as u32
    }
}

/// The 16 positions before the current 32 and the first 16 of those.
#[inline]
#[target_feature(enable = "avx2")]
fn middle(before: __m256i, now: __m256i) -> __m256i {
    _mm256_permute2x128_si256::<0x21>(before, now)
}

#[inline]
#[target_feature(enable = "avx2")]
fn product(x: __m256i, (low, high): (__m256i, __m256i)) -> __m256i {
    let half = _mm256_set1_epi8(15);
    let low = _mm256_shuffle_epi8(low, _mm256_and_si256(x, half));
    let high = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16::<4>(x), half));
    _mm256_xor_si256(low, high)
}

#[target_feature(enable = "avx2")]
fn sweep(schedule: &Schedule, mask: u8, data: &[u8], from: usize, to: usize, out: &mut Ends) {
    let mut cascade = Cascade::new(schedule, mask);
    // The window of the first end fills the levels in two steps; only the last lane has all its 64 bytes.
    let window = &data[from - WINDOW..from];
    let mut behind_zero = [0; LANES];
    behind_zero[1..].copy_from_slice(&window[..LANES - 1]);
    cascade.step(load(window), load(&behind_zero));
    push(cascade.step(load(&window[LANES..]), load(&window[LANES - 1..])) & 1 << 31, from - LANES + 1, out);

    let rest = &data[from - 1..to];
    let mut done = 1;
    while done + LANES <= rest.len() {
        let bytes = &rest[done - 1..done + LANES];
        _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(PREFETCH_BYTES).cast());
        let passed = cascade.step(load(&bytes[1..]), load(bytes));
        if passed != 0 {
            push(passed, from + done, out);
        }
        done += LANES;
    }
    if done < rest.len() {
        let count = rest.len() - done;
        let mut bytes = [0; LANES + 1];
        bytes[..count + 1].copy_from_slice(&rest[done - 1..]);
        push(cascade.step(load(&bytes[1..]), load(&bytes)) & u32::MAX >> (LANES - count), from + done, out);
    }
}

/// Bit k of `passed` stands for the end `first + k`.
#[inline]
fn push(mut passed: u32, first: usize, out: &mut Ends) {
    while passed != 0 {
        out.push(first as u32 + passed.trailing_zeros());
        passed &= passed - 1;
    }
}

/// The first 32 of `bytes`.
#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..LANES];
    // SAFETY: `bytes` is 32 bytes long, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
