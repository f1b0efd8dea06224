//! Which files have rested long enough that a later change of them must show in their times. It asks no clock but ours.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::stat_cache::Stat;

/// A file system whose clock was not asked: FAT counts in steps of 2 s, and a server's clock may differ from ours.
const FOREIGN_CLOCK_NS: i64 = 2_000_000_000;

/// The times before which files count as resting.
#[derive(Clone, Copy, Debug)]
pub struct Clean {
    device: u64,
    before_ns: i64,
    elsewhere_before_ns: i64,
}

impl Clean {
    /// `before_ns` holds for the file system `device`, whose clock it was taken from; on others less is believed.
    pub fn new(before_ns: i64, device: u64) -> Clean {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        Clean { device, before_ns, elsewhere_before_ns: before_ns.min(now_ns.saturating_sub(FOREIGN_CLOCK_NS)) }
    }

    /// Whether what has this stat may be believed later.
    pub fn is_clean(&self, stat: &Stat) -> bool {
        stat.is_clean(if stat.dev == self.device { self.before_ns } else { self.elsewhere_before_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_believed_of_its_own_file_system_only() {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
        let stat = |dev, mtime_ns| Stat { dev, mtime_ns, ..Stat::default() };
        let (clean, old) = (Clean::new(now_ns + 1, 7), Clean::new(1000, 7));

        assert!(clean.is_clean(&stat(7, now_ns)) && !clean.is_clean(&stat(8, now_ns)));
        assert!(clean.is_clean(&stat(8, now_ns - 3_000_000_000)));
        assert!(old.is_clean(&stat(8, 999)) && !old.is_clean(&stat(8, 1000)));
        assert!(!Clean::new(i64::MAX, 0).is_clean(&stat(8, now_ns)), "no clock was asked");
    }
}
