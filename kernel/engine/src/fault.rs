//! Faults on purpose: a test arms a counter, and the n-th step that changes a disk dies with its process, or fails.
//!
//! Every call that makes, fills, syncs, renames or removes something passes [`before`] first, so a loop over n visits
//! every place where a disk can be full or broken, and every instant at which a power cut could tell "before" from
//! "after". Unarmed it costs one relaxed load. It changes no data itself: a step that fails was not taken.

use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::{Errno, Result as SysResult};

/// What is about to be done to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes into a file.
    Write,
    /// Another length of a file, or room for it.
    Resize,
    /// A file, a symbolic link, another name of a file.
    Create,
    /// A directory.
    MakeDirectory,
    /// A file, a directory or all of a file system to the disk.
    Sync,
    /// A name to another place.
    Rename,
    /// A name away.
    Remove,
}

impl Step {
    /// The step that is called `name`.
    pub fn named(name: &str) -> Option<Step> {
        let all =
            [Step::Write, Step::Resize, Step::Create, Step::MakeDirectory, Step::Sync, Step::Rename, Step::Remove];
        all.into_iter().find(|step| step.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Step::Write => "write",
            Step::Resize => "resize",
            Step::Create => "create",
            Step::MakeDirectory => "mkdir",
            Step::Sync => "sync",
            Step::Rename => "rename",
            Step::Remove => "remove",
        }
    }

    /// Whether something is durable or visible after it that was not before: where a crash makes a difference.
    fn shows(self) -> bool {
        matches!(self, Step::Sync | Step::Rename | Step::Remove)
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Crash,
    /// `lasting`: all steps after it fail, too, as on a disk that stays full.
    Fail {
        errno: Errno,
        lasting: bool,
    },
}

struct Armed {
    fault: Fault,
    left: u32,
    /// The step that failed, and where in the sources.
    met: Option<String>,
}

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Armed> = Mutex::new(Armed { fault: Fault::Crash, left: 0, met: None });

/// Arms a crash: the process kills itself before the `n`-th sync, rename or removal from now (1 is the next).
pub fn crash_at(n: u32) {
    arm(Fault::Crash, n);
}

/// Arms a failure: the `n`-th step from now is not taken and fails with `errno`, and all that follow if it is `lasting`.
pub fn fail_at(n: u32, errno: i32, lasting: bool) {
    arm(Fault::Fail { errno: Errno::from_raw_os_error(errno), lasting }, n);
}

/// The step that was made to fail, if the counter has come to it.
pub fn met() -> Option<String> {
    ARMED.lock().unwrap_or_else(PoisonError::into_inner).met.clone()
}

fn arm(fault: Fault, n: u32) {
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Armed { fault, left: n, met: None };
    IS_ARMED.store(true, Ordering::SeqCst);
}

/// `step` is about to be taken; or is not, and fails.
#[track_caller]
pub fn before(step: Step) -> SysResult<()> {
    if IS_ARMED.load(Ordering::Relaxed) { count(step, Location::caller()) } else { Ok(()) }
}

#[cold]
fn count(step: Step, place: &Location<'_>) -> SysResult<()> {
    let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = match armed.fault {
        Fault::Crash => step.shows(),
        // Who removes needs no room.
        Fault::Fail { errno, .. } => !(step == Step::Remove && errno == Errno::NOSPC),
    };
    if !counts {
        return Ok(());
    }
    let Some(left) = armed.left.checked_sub(1) else {
        return match armed.fault {
            Fault::Fail { errno, lasting: true } => Err(errno),
            _ => Ok(()),
        };
    };
    armed.left = left;
    if left > 0 {
        return Ok(());
    }
    match armed.fault {
        Fault::Crash => {
            // SIGKILL and not abort: nothing may run after this instant, no destructor and no handler.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            Ok(())
        }
        Fault::Fail { errno, .. } => {
            armed.met = Some(format!("{} at {}:{}", step.name(), place.file(), place.line()));
            Err(errno)
        }
    }
}
