//! What a checkout spares: names that are none of its business, and what it would replace or delete.
//!
//! A backup is made before anything is lost: a file gets its second name in the backup directory and only then gives its
//! name away, so that killed at any instant the name is old or new. A directory cannot have two names: where a file
//! takes its place, or the other way round, what was there is moved first.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode};
use rustix::io::{Errno, Result as SysResult};

use super::act::Home;
use super::work::at;
use crate::beneath::{Dir, Name};
use crate::select::Patterns;
use crate::{Error, Result};

/// Directories that are looked into before one is removed; beneath, names are decided one by one.
const LOOK_LEVELS: usize = 64;

/// With how much care is checked out.
#[derive(Clone, Debug)]
pub struct Care {
    /// What matches, in paths beneath the target, is neither written nor removed nor touched.
    pub exclude: Option<Patterns>,
    /// What is replaced or removed is moved here, with its path.
    pub backup: Option<PathBuf>,
    /// If more names would be removed, none is.
    pub delete_max: Option<u64>,
    /// Files are compared by content, not by size and time.
    pub checksum: bool,
}

impl Care {
    /// None in particular.
    pub const NONE: Care = Care { exclude: None, backup: None, delete_max: None, checksum: false };

    /// Whether a path beneath the target is none of our business.
    pub fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        self.exclude.as_ref().is_some_and(|patterns| patterns.excludes(path, is_directory) == Some(true))
    }

    /// Whether something in the directory `dir`, which is at `path`, is none of our business.
    pub fn excludes_beneath(&self, dir: &Dir, path: &[u8]) -> SysResult<bool> {
        if self.exclude.is_none() { Ok(false) } else { self.look_beneath(dir, path, LOOK_LEVELS) }
    }

    fn look_beneath(&self, dir: &Dir, path: &[u8], levels: usize) -> SysResult<bool> {
        if levels == 0 {
            return Ok(true);
        }
        for listed in dir.list()? {
            let name = Name::new(&listed.name).map_err(|_| Errno::INVAL)?;
            let below = [path, b"/", &listed.name].concat();
            let is_directory = match listed.directory {
                Some(known) => known,
                None => dir.stat(name)?.is_some_and(|stat| is_directory(&stat)),
            };
            if self.excludes(&below, is_directory)
                || is_directory && self.look_beneath(&dir.enter(name)?, &below, levels - 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The directory in which what is replaced or removed is kept.
pub struct Backup {
    dir: Dir,
    path: PathBuf,
    identity: (u64, u64),
    /// The directories that it lies in.
    above: HashSet<(u64, u64)>,
}

impl Backup {
    /// The backup directory at `path`, made if it is missing; for a dry run only if it is there. [`Error::Usage`] if what
    /// is in `root` cannot be moved there, or if `root` or the `volume` could have to give way there.
    pub fn open(path: &Path, root: &Home, volume: Option<&Dir>, dry_run: bool) -> Result<Option<Backup>> {
        let opened = match Dir::open(path) {
            Err(Errno::NOENT) if dry_run => return Ok(None),
            Err(Errno::NOENT) => super::act::open_target(path)?,
            answer => answer.map_err(|errno| Error::io("open", path, errno))?,
        };
        let failed = |errno| Error::io("look at", path, errno);
        let identity = identity_of(&opened).map_err(failed)?;
        let target = identity_of(&root.dir).map_err(failed)?;
        if identity == target {
            return Err(Error::Usage("the directory for backups is the target itself".into()));
        }
        if Home::target(opened.try_clone().map_err(failed)?, (0, 0))?.mount != root.mount {
            return Err(Error::Usage(format!(
                "the directory for backups {} is on another file system than the target: nothing can be moved there",
                path.display()
            )));
        }
        // What is moved there replaces what has its name, with all that is in it.
        for (dir, what) in [(Some(&root.dir), "target"), (volume, "volume")] {
            if dir.map_or(Ok(false), |dir| all_above(dir).map(|above| above.contains(&identity))).map_err(failed)? {
                return Err(Error::Usage(format!(
                    "the {what} lies in the directory for backups {}: what is moved there could replace it",
                    path.display()
                )));
            }
        }
        let above = all_above(&opened).map_err(failed)?;
        Ok(Some(Backup { dir: opened, path: path.to_path_buf(), identity, above }))
    }

    /// Whether a directory of this device and number is the backup directory.
    pub fn is(&self, identity: (u64, u64)) -> bool {
        self.identity == identity
    }

    /// Whether the backup directory lies beneath it.
    pub fn is_beneath(&self, identity: (u64, u64)) -> bool {
        self.above.contains(&identity)
    }

    /// Gives the file or link `name` in `from`, which is at `path` in the target and will be replaced, a second name here.
    pub fn keep(&self, from: &Dir, name: Name<'_>, path: &[u8]) -> Result<()> {
        let failed = |errno| at(path, Error::io("keep a backup of", "", errno));
        match from.stat(name).map_err(failed)? {
            Some(stat) if !is_directory(&stat) => {}
            _ => return Ok(()),
        }
        let (dir, last) = self.place(path)?;
        let dir = dir.as_ref().unwrap_or(&self.dir);
        let linked = match from.link(name, dir, last) {
            Err(Errno::EXIST) => dir.remove_tree(last).and_then(|()| from.link(name, dir, last)),
            answer => answer,
        };
        linked.map_err(failed)
    }

    /// Moves `name` in `from`, which is at `path` in the target, here; fine if it is gone.
    pub fn take(&self, from: &Dir, name: Name<'_>, path: &[u8]) -> Result<()> {
        let (dir, last) = self.place(path)?;
        let moved = move_over(from, name, dir.as_ref().unwrap_or(&self.dir), last);
        moved.map_err(|errno| at(path, Error::io("move to the backup", "", errno)))
    }

    /// The directory for `path`, made as need be and for our eyes only, and the last name; `None` is the backup itself.
    fn place<'p>(&self, path: &'p [u8]) -> Result<(Option<Dir>, Name<'p>)> {
        let mut inner: Option<Dir> = None;
        let mut names = path.split(|&byte| byte == b'/').peekable();
        loop {
            let name = Name::new(names.next().unwrap_or_default())?;
            if names.peek().is_none() {
                return Ok((inner, name));
            }
            let dir = inner.as_ref().unwrap_or(&self.dir);
            let entered = match dir.make(name, 0o700) {
                Ok(()) | Err(Errno::EXIST) => match dir.enter(name) {
                    // An older backup of something else that had this name.
                    Err(Errno::NOTDIR | Errno::LOOP) => {
                        dir.remove_tree(name).and_then(|()| dir.make(name, 0o700)).and_then(|()| dir.enter(name))
                    }
                    answer => answer,
                },
                Err(errno) => Err(errno),
            };
            inner = Some(entered.map_err(|errno| Error::io("make a directory in", &self.path, errno))?);
        }
    }
}

/// Moves a name; what is there already gives way, but for directories: in them, name by name.
fn move_over(from: &Dir, name: Name<'_>, to: &Dir, other: Name<'_>) -> SysResult<()> {
    // Two names of one file, as a killed checkout leaves them: a rename would do nothing, and both would stay.
    if let (Some(newer), Some(older)) = (from.stat(name)?, to.stat(other)?)
        && !is_directory(&newer)
        && (newer.st_dev, newer.st_ino) == (older.st_dev, older.st_ino)
    {
        return from.unlink(name);
    }
    match from.rename(name, to, other) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(Errno::ACCESS) => return move_read_only(from, name, to, other),
        Err(errno) => return Err(errno),
    }
    let (Ok(newer), Ok(older)) = (from.enter(name), to.enter(other)) else {
        to.remove_tree(other)?;
        return from.rename(name, to, other);
    };
    for listed in newer.list()? {
        let name = Name::new(&listed.name).map_err(|_| Errno::INVAL)?;
        move_over(&newer, name, &older, name)?;
    }
    from.remove_directory(name)
}

/// Moves a directory that its owner may not write to, as little as what is above it may then be exchanged.
fn move_read_only(from: &Dir, name: Name<'_>, to: &Dir, other: Name<'_>) -> SysResult<()> {
    let dir = from.enter(name).map_err(|_| Errno::ACCESS)?;
    let mode = dir.stat_self()?.st_mode & 0o7777;
    if mode & 0o200 != 0 {
        return Err(Errno::ACCESS);
    }
    fs::fchmod(&dir, Mode::from_raw_mode(mode | 0o200))?;
    let moved = move_over(from, name, to, other);
    // If it was emptied into an older one it is gone, and has no mode to give back.
    fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
    moved
}

/// The directories that one lies in, up to the root.
fn all_above(dir: &Dir) -> SysResult<HashSet<(u64, u64)>> {
    let mut above = HashSet::new();
    let mut dir = dir.parent()?;
    while above.insert(identity_of(&dir)?) {
        dir = dir.parent()?;
    }
    Ok(above)
}

fn identity_of(dir: &Dir) -> SysResult<(u64, u64)> {
    dir.stat_self().map(|stat| (stat.st_dev, stat.st_ino))
}

fn is_directory(stat: &fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}
