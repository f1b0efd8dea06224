//! Crash points: a test arms a counter, and the process dies by SIGKILL at the n-th sync, rename or unlink.
//!
//! Every place that makes something durable or visible passes [`point`] first, so a loop over n visits every
//! instant at which a power cut could tell "before" from "after". Unarmed it costs one relaxed load.

use std::sync::atomic::{AtomicI64, Ordering};

static REMAINING: AtomicI64 = AtomicI64::new(i64::MIN);

/// Arms the counter: the process kills itself at the `n`-th point from now (1 is the next).
pub fn crash_at(n: u32) {
    REMAINING.store(i64::from(n), Ordering::SeqCst);
}

/// Something is about to become durable or visible.
pub fn point() {
    if REMAINING.load(Ordering::Relaxed) == i64::MIN {
        return;
    }
    if REMAINING.fetch_sub(1, Ordering::SeqCst) == 1 {
        // SIGKILL and not abort: nothing may run after this instant, no destructor and no handler.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
