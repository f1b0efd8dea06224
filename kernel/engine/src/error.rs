//! What can go wrong in the engine, grouped by who can act on it. No recovery happens here.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Each variant becomes one class of Python's error tree.
#[derive(Debug)]
pub enum Error {
    /// The operating system said no: `action` in the imperative ("open", "write"), and on what.
    Io {
        /// What was being done.
        action: &'static str,
        /// On which path, as far as it is known.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// Bytes at rest are not what their digest, checksum or length says.
    Damaged(String),
    /// A value from outside cannot be what it claims to be: a malformed page, an impossible parameter.
    Invalid(String),
    /// The request itself is wrong, in words that its author wrote: a pattern that is none.
    Usage(String),
    /// It would break a rule of confinement, e.g. a name that leaves its directory.
    Refused(String),
    /// The host's own failure, carried through untouched.
    Host(Box<dyn Any + Send + Sync>),
}

impl Error {
    /// An [`Error::Io`] for `action` on `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Error::Io { action, path: path.as_ref().to_path_buf(), source: source.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            Error::Damaged(what) | Error::Invalid(what) | Error::Usage(what) | Error::Refused(what) => {
                f.write_str(what)
            }
            Error::Host(_) => f.write_str("the host stopped the operation"),
        }
    }
}

impl std::error::Error for Error {}
