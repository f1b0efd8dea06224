//! Where chunks end: profile `casc64`, keyed content-defined chunking.
//!
//! Three stages (docs/formats/casc64.md): a data-parallel *filter* over the last 64 bytes lets about one position in
//! 2048 pass; a *rank* from AES decides on those alone; *selection* applies minimum, average and maximum in order.
//! The three filter paths answer alike, bit for bit: replicas that cut differently would share nothing.
//!
//! Nothing is read from disk, digested or looked up here.

mod cascade;
mod ends;
mod portable;
mod rank;
mod schedule;
mod select;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub use cascade::Path;

use crate::{Error, Result};
use ends::{Ends, STRIDE, STRIDE_LOOSE};
use rank::Ranker;
use schedule::Schedule;
use select::Selection;

/// Bytes on which the decision at one position depends.
pub const WINDOW: usize = 64;
/// Upper bound of `Params::max`: a chunk must fit a segment.
pub const MAX_BYTES: u32 = 1 << 26;

/// Sizes of chunks: part of a volume's format, fixed when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// No chunk but the last of a file is shorter; at least [`WINDOW`], so that a cut depends only on its own chunk.
    pub min: u32,
    /// The size around which chunks gather.
    pub avg: u32,
    /// No chunk is longer.
    pub max: u32,
    /// Before `avg` a cut is `2^normalisation` times rarer than one in `avg` positions, from there on as much likelier.
    pub normalisation: u32,
}

impl Params {
    /// What new volumes get (MEASURED: larger averages cost literals, smaller ones index entries).
    pub const DEFAULT: Params = Params { min: 8 << 10, avg: 32 << 10, max: 128 << 10, normalisation: 2 };

    /// Checked: powers of two, `64 <= min < avg < max <= 2^26`, normalisation at most 3.
    pub fn new(min: u32, avg: u32, max: u32, normalisation: u32) -> Result<Params> {
        let powers = min.is_power_of_two() && avg.is_power_of_two() && max.is_power_of_two();
        if !powers || (min as usize) < WINDOW || min >= avg || avg >= max || max > MAX_BYTES || normalisation > 3 {
            return Err(Error::Invalid(format!(
                "chunk sizes min {min}, avg {avg}, max {max}, normalisation {normalisation} are not powers of two with \
                 64 <= min < avg < max <= 2^26 and normalisation <= 3"
            )));
        }
        Ok(Params { min, avg, max, normalisation })
    }
}

impl Default for Params {
    fn default() -> Self {
        Params::DEFAULT
    }
}

/// Everything that decides where chunks end: key schedule, sizes, and the path this machine runs.
#[derive(Clone)]
pub struct Profile {
    params: Params,
    schedule: Schedule,
    ranker: Ranker,
    selection: Selection,
    path: Path,
}

impl Profile {
    /// The profile for a volume's cut key, on the fastest path of this machine.
    pub fn new(cut_key: &[u8; 32], params: Params) -> Profile {
        Profile::build(cut_key, params, Path::best())
    }

    /// The same profile on a path of your choice, for tests and benchmarks. Refused if this machine cannot run it.
    pub fn on_path(cut_key: &[u8; 32], params: Params, path: Path) -> Result<Profile> {
        if !path.is_available() {
            return Err(Error::Invalid(format!("this machine cannot run the {} path of the chunker", path.name())));
        }
        Ok(Profile::build(cut_key, params, path))
    }

    fn build(cut_key: &[u8; 32], params: Params, path: Path) -> Profile {
        let schedule = Schedule::new(cut_key);
        let ranker = Ranker::new(&schedule.rank_key);
        Profile { params, ranker, selection: Selection::new(&params), schedule, path }
    }

    /// The sizes it cuts to.
    pub fn params(&self) -> Params {
        self.params
    }

    /// The path it runs on.
    pub fn path(&self) -> Path {
        self.path
    }
}

impl std::fmt::Debug for Profile {
    /// Shows nothing that depends on the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Profile({:?}, {})", self.params, self.path.name())
    }
}

/// Chunk ends in `data`, which begins at a chunk boundary, appended to `ends` in ascending order.
///
/// With `last`, `data` ends the file and the last end is `data.len()` (none for empty data). Without, bytes may
/// follow: the undecided tail gets no end, and is to be given again at the front of the next call. Cutting in any
/// such pieces gives the same chunks as cutting the whole, because a cut depends only on its own chunk.
///
/// Ends are 32-bit offsets: of data beyond 4 GiB only the first 4 GiB are looked at, as if `last` were not set.
pub fn cuts(data: &[u8], profile: &Profile, last: bool, ends: &mut Vec<u32>) {
    let (data, last) = within_offsets(data, last);
    let mut cutter = Cutter::new(profile);
    let mut start = 0;
    while let Some(end) = cutter.next_end(data, start, last) {
        ends.push(end as u32);
        start = end;
    }
}

/// The part of `data` that 32-bit ends can name.
pub(crate) fn within_offsets(data: &[u8], last: bool) -> (&[u8], bool) {
    match data.get(..u32::MAX as usize) {
        Some(head) if head.len() < data.len() => (head, false),
        _ => (data, last),
    }
}

/// Finds one chunk end after the other; keeps its buffers between calls and has none before it needs them: most
/// files are shorter than the minimum.
pub(crate) struct Cutter<'p> {
    profile: &'p Profile,
    candidates: Option<Ends>,
    ranks: Vec<u32>,
}

impl<'p> Cutter<'p> {
    pub(crate) fn new(profile: &'p Profile) -> Self {
        Cutter { profile, candidates: None, ranks: Vec::new() }
    }

    /// The end of the chunk that begins at `start`; `None` at the end of data or where it cannot be known yet.
    pub(crate) fn next_end(&mut self, data: &[u8], start: usize, last: bool) -> Option<usize> {
        let Params { min, max, .. } = self.profile.params;
        let rest = data.len() - start;
        if rest < min as usize {
            return (last && rest > 0).then_some(data.len());
        }
        let limit = start + rest.min(max as usize);
        if let Some(end) = self.first_accepted(data, start, limit) {
            return Some(end);
        }
        (last || rest >= max as usize).then_some(limit)
    }

    /// The first end in `start + min ..= limit` whose rank is low enough for its distance from `start`.
    fn first_accepted(&mut self, data: &[u8], start: usize, limit: usize) -> Option<usize> {
        let Profile { params, schedule, ranker, selection, path } = self.profile;
        let passed = self.candidates.get_or_insert_with(Ends::new);
        let mut from = start + params.min as usize;
        while from <= limit {
            let stride = if from - start < params.avg as usize { STRIDE } else { STRIDE_LOOSE };
            let to = limit.min(from + stride - 1);
            passed.clear();
            path.filter(schedule, selection.filter_mask(), data, from, to, passed);
            let candidates = passed.ends();
            if !candidates.is_empty() {
                self.ranks.clear();
                path.ranks(ranker, data, candidates, &mut self.ranks);
                if let Some(end) = selection.first(start, candidates, &self.ranks) {
                    return Some(end);
                }
            }
            from = to + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests;
