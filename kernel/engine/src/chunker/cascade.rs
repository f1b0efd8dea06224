//! Which implementation of filter and rank runs. They differ in speed only.

use super::ends::Ends;
use super::portable;
use super::rank::Ranker;
use super::schedule::Schedule;

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// An implementation of filter and rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Table look-ups, any machine.
    Portable,
    /// 32 positions a step by byte shuffles.
    Avx2,
    /// 64 positions a step, a matrix product being one instruction (GFNI).
    Avx512,
}

impl Path {
    /// All of them, slowest first.
    pub const ALL: [Path; 3] = [Path::Portable, Path::Avx2, Path::Avx512];

    /// The fastest that this machine can run.
    pub fn best() -> Path {
        Path::ALL.into_iter().rev().find(|path| path.is_available()).unwrap_or(Path::Portable)
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Path::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => avx512::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Path::Avx2 | Path::Avx512 => false,
        }
    }

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Path::Portable => "portable",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
        }
    }

    /// The path of that name.
    pub fn named(name: &str) -> Option<Path> {
        Path::ALL.into_iter().find(|path| path.name() == name)
    }

    /// Appends to `out` every end in `from..=to` that passes the filter, ascending: the window is the
    /// [`super::WINDOW`] bytes before it.
    pub(super) fn filter(self, schedule: &Schedule, mask: u8, data: &[u8], from: usize, to: usize, out: &mut Ends) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 if avx512::is_available() => avx512::filter(schedule, mask, data, from, to, out),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 if avx2::is_available() => avx2::filter(schedule, mask, data, from, to, out),
            _ => portable::filter(schedule, mask, data, from, to, out),
        }
    }

    /// Appends to `out` the rank of the window before each of `ends`, in their order.
    pub(super) fn ranks(self, ranker: &Ranker, data: &[u8], ends: &[u32], out: &mut Vec<u32>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 if avx512::is_available() => avx512::ranks(&ranker.round_keys, data, ends, out),
            _ => ranker.ranks(data, ends, out),
        }
    }
}
