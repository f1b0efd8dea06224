//! What of the sources is stored: patterns, filter files, caches, file systems, lists and sizes. It decides for the
//! walk, directory by directory and name by name, and looks at nothing but the files that decide about their directory.
//!
//! The stat cache trusts names of unchanged directories, and knows those that were chosen. So a stat cache belongs to
//! one selection (its host names it so), and where a file that decides has changed, what is beneath is listed again.
//! To see that, such files are always stored, and known by their row.

mod names;
mod pattern;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::{Errno, read, retry_on_intr};

pub use names::{Place, Wanted};
pub use pattern::{Line, Patterns, lines_of};

use crate::stat_cache::{BlockRef, Stat, StatCache};
use crate::walk::{stat_at, stat_fd};
use crate::{Error, Result};

/// The file that says that its directory is a cache, and how it begins (https://bford.info/cachedir/).
const CACHE_TAG: &CStr = c"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
/// A filter file that is longer was not written by hand.
const FILTER_BYTES_MAX: usize = 1 << 20;

/// What is stored of the sources; by default all of it.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Patterns for paths relative to each source. Where they say something, no filter file is asked.
    pub patterns: Option<Patterns>,
    /// The name of files that hold patterns for what is beneath them; the nearest is asked first.
    pub filter_file: Option<CString>,
    /// Of a directory with a valid CACHEDIR.TAG only that file is stored.
    pub exclude_caches: bool,
    /// Directories on other file systems than their source are stored empty.
    pub one_file_system: bool,
    /// Only these names, and what is beneath them.
    pub wanted: Option<Wanted>,
    /// Files with more bytes are left out.
    pub size_max: Option<u64>,
}

/// What is known of a directory of the walk.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    filters: Option<Arc<Filter>>,
    /// A file that decides here or above has changed: cached names mean nothing.
    pub relists: bool,
    /// Only a part of it was asked for.
    wanted: Option<Place>,
    /// What of the path of the walk is the way to the source.
    source_length: usize,
    device: u64,
    only: Only,
}

/// What of a directory's names are looked at, before patterns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Only {
    #[default]
    All,
    CacheTag,
    Nothing,
}

/// A filter file, and those above it.
#[derive(Debug)]
struct Filter {
    patterns: Patterns,
    /// Its patterns are for paths from here on.
    base: usize,
    above: Option<Arc<Filter>>,
}

/// A directory that the walk enters.
pub struct Entered<'e> {
    /// The directory, open.
    pub fd: BorrowedFd<'e>,
    /// Its stat.
    pub stat: &'e Stat,
    /// Its name.
    pub name: &'e [u8],
    /// Its path in the snapshot, a slash after every name.
    pub path: &'e [u8],
    /// What is cached of it.
    pub old: Option<(&'e StatCache, BlockRef)>,
    /// Its own stat is as cached, so it has the same names.
    pub same_names: bool,
}

impl Scope {
    /// Whether nothing of the directory is stored but itself.
    pub fn is_empty(&self) -> bool {
        self.only == Only::Nothing
    }

    /// Whether names in it were asked for, so that each should be there.
    pub fn is_asked(&self) -> bool {
        self.wanted.is_some()
    }
}

impl Selection {
    /// What is selected in the directory of a source (`above` is `None`) or beneath one.
    pub fn enter(&self, above: Option<&Scope>, entered: &Entered<'_>) -> Result<Scope> {
        let mut scope = match above {
            Some(above) => Scope {
                filters: above.filters.clone(),
                wanted: above.wanted.zip(self.wanted.as_ref()).and_then(|(at, all)| all.beneath(at, entered.name)),
                ..*above
            },
            None => Scope {
                source_length: entered.path.len(),
                device: entered.stat.dev,
                wanted: self.wanted.as_ref().and_then(Wanted::root),
                ..Scope::default()
            },
        };
        scope.only = Only::All;
        if self.one_file_system && entered.stat.dev != scope.device {
            scope.only = Only::Nothing;
            return Ok(scope);
        }
        let deciding = [self.filter_file.as_deref(), self.exclude_caches.then_some(CACHE_TAG)];
        for name in deciding.into_iter().flatten() {
            let failed = |action, errno| {
                let path = [entered.path, name.to_bytes()].concat();
                Error::io(action, Path::new(std::ffi::OsStr::new(&*String::from_utf8_lossy(&path))), errno)
            };
            let stat = match stat_at(entered.fd, name) {
                Ok(stat) => Some(stat),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(failed("look at", errno)),
            };
            scope.relists |= has_changed(entered, name, stat.as_ref());
            let Some(stat) = stat.filter(is_file) else { continue };
            let is_tag = name == CACHE_TAG && self.exclude_caches;
            let bytes = read_file(entered.fd, name, if is_tag { CACHE_SIGNATURE.len() } else { FILTER_BYTES_MAX + 1 })
                .map_err(|errno| failed("read", errno))?;
            if is_tag && bytes == CACHE_SIGNATURE {
                scope.only = Only::CacheTag;
            }
            if self.filter_file.as_deref() == Some(name) {
                let place = String::from_utf8_lossy(&[entered.path, name.to_bytes()].concat()).into_owned();
                if stat.size > FILTER_BYTES_MAX as u64 || bytes.len() > FILTER_BYTES_MAX {
                    return Err(Error::Usage(format!("{place}: a filter file has at most {FILTER_BYTES_MAX} bytes")));
                }
                let patterns = Patterns::of_file(&bytes, &place)?;
                let above = scope.filters.take();
                scope.filters = Some(Arc::new(Filter { patterns, base: entered.path.len(), above }));
            }
        }
        Ok(scope)
    }

    /// What `name` in the directory of `scope` has to be, for the names beneath it that were asked for.
    pub fn must_be_directory(&self, scope: &Scope, name: &[u8]) -> bool {
        scope.wanted.zip(self.wanted.as_ref()).is_some_and(|(at, all)| all.beneath(at, name).is_some())
    }

    /// The names that were asked for in the directory of `scope`, if not all were.
    pub fn wanted(&self, scope: &Scope) -> Option<impl Iterator<Item = (&[u8], bool)>> {
        scope.wanted.zip(self.wanted.as_ref()).map(|(at, all)| all.names(at))
    }

    /// Whether a name is left out in the directory of `scope`; `path` is its path in the snapshot, which ends with it.
    pub fn excludes(&self, scope: &Scope, path: &[u8], name: &[u8], is_directory: bool) -> bool {
        match scope.only {
            Only::Nothing => return true,
            Only::CacheTag if !is_directory => return name != CACHE_TAG.to_bytes(),
            Only::CacheTag => return true,
            Only::All => {}
        }
        if !is_directory && self.is_deciding(name) {
            return false;
        }
        let own = self.patterns.as_ref();
        if let Some(answer) = own.and_then(|own| own.excludes(&path[scope.source_length..], is_directory)) {
            return answer;
        }
        let mut next = scope.filters.as_ref();
        while let Some(filter) = next {
            if let Some(answer) = filter.patterns.excludes(&path[filter.base..], is_directory) {
                return answer;
            }
            next = filter.above.as_ref();
        }
        false
    }

    /// Whether a file is left out for its size.
    pub fn is_too_large(&self, name: &[u8], size: u64) -> bool {
        self.size_max.is_some_and(|most| size > most) && !self.is_deciding(name)
    }

    /// Whether a file of that name decides about its directory.
    fn is_deciding(&self, name: &[u8]) -> bool {
        self.filter_file.as_ref().is_some_and(|file| file.to_bytes() == name)
            || self.exclude_caches && name == CACHE_TAG.to_bytes()
    }
}

/// Whether the file `name` of a directory, which decides about it, is another one than when its row was written.
fn has_changed(entered: &Entered<'_>, name: &CStr, now: Option<&Stat>) -> bool {
    if now.is_none() && entered.same_names {
        return false;
    }
    let Some(mut rows) = entered.old.and_then(|(cache, block)| cache.directory(block)) else { return false };
    let row = loop {
        match rows.peek() {
            Some((found, _)) if found < name => rows.advance(),
            Some((found, row)) if found == name => break Some(row),
            _ => break None,
        }
    };
    match (row, now) {
        (None, None) => false,
        (Some(row), Some(now)) => row.child.is_some() || !row.trusted || !row.stat.same(now),
        _ => true,
    }
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.mode.into()) == FileType::RegularFile
}

/// The first bytes of a file, at most `most`; none if it is no file any more.
fn read_file(directory: BorrowedFd<'_>, name: &CStr, most: usize) -> rustix::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = openat(directory, name, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    if !is_file(&stat_fd(fd.as_fd())?) {
        return Ok(bytes);
    }
    while bytes.len() < most {
        bytes.reserve(most.min(64 << 10));
        if retry_on_intr(|| read(&fd, spare_capacity(&mut bytes)))? == 0 {
            break;
        }
    }
    bytes.truncate(most);
    Ok(bytes)
}
