//! Making things visible: what is new waits in a staging directory, then groups of it are moved into place.
//!
//! Everything that a name is to become is first made whole under another name, in `TARGET/.packetfs-XXXXXXXX`
//! (mode 0700, locked while its checkout lives), and then moved in one step. A new directory is filled where
//! nobody sees it and moved with all that is in it. Where another file system is mounted inside the target,
//! its own directories take the place of the staging directory.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, FlockOperation, Gid, Mode, Uid};
use rustix::io::Errno;

use super::plan::{Attributes, Over};
use super::work::at;
use crate::beneath::{Dir, Name, times};
use crate::{Error, Result, fault};

/// How names made by a checkout begin, for the time that they are not what they will be.
const PREFIX: &str = ".packetfs-";
/// Replaced files of a group that are synced one by one; more are synced with their whole file system.
const SYNCED_SINGLY_MAX: usize = 16;

/// A directory of the target, held open.
pub struct Home {
    /// The directory.
    pub dir: Dir,
    /// The mount it is on: nothing is moved between two.
    pub mount: u64,
    /// Owner and group of what is created in it.
    pub creator: (u32, u32),
    /// The group of changes in which it was made unseen; 0 if it is in its place.
    made_in: u64,
}

impl Home {
    /// A directory that is in its place, the target itself.
    pub fn target(dir: Dir, creator: (u32, u32)) -> Result<Home> {
        let mount = mount_of(&dir)?;
        Ok(Home { dir, mount, creator, made_in: 0 })
    }

    /// A directory that is in its place, in `above`.
    pub fn beneath(dir: Dir, above: &Home) -> Result<Home> {
        let mount = mount_of(&dir)?;
        // On another mount files are made in the directory itself, and who they belong to there is its own affair.
        let creator = if mount == above.mount { above.creator } else { NOBODY };
        Ok(Home { dir, mount, creator, made_in: 0 })
    }

    /// What is needed to find it again from a directory in it; `None` if that cannot be known.
    pub fn park(&self) -> Option<Parked> {
        let stat = self.dir.stat_self().ok()?;
        let identity = (stat.st_dev, stat.st_ino);
        Some(Parked { identity, mount: self.mount, creator: self.creator, made_in: self.made_in })
    }

    /// Whether the directory above it is `parked`.
    pub fn leads_to(&self, parked: &Parked) -> bool {
        self.dir.above(parked.identity).is_ok()
    }

    /// The directory above, which was parked.
    pub fn unpark(&self, parked: &Parked) -> Result<Home> {
        let Parked { identity, mount, creator, made_in } = *parked;
        match self.dir.above(identity) {
            Ok(dir) => Ok(Home { dir, mount, creator, made_in }),
            Err(error) => Err(Error::io("return to the directory above", "", error)),
        }
    }
}

/// An owner that no file has.
const NOBODY: (u32, u32) = (u32::MAX, u32::MAX);

/// A directory that was closed while the walk is far beneath it.
pub struct Parked {
    identity: (u64, u64),
    mount: u64,
    creator: (u32, u32),
    made_in: u64,
}

fn mount_of(dir: &Dir) -> Result<u64> {
    let failed = |e| Error::io("look at", "", e);
    match dir.mount().map_err(failed)? {
        0 => Ok(dir.stat_self().map_err(failed)?.st_dev),
        mount => Ok(mount),
    }
}

/// The directory in which new things wait.
pub struct Staging {
    root: Arc<Home>,
    home: Arc<Home>,
    /// Its name, beneath the target.
    name: String,
    next: u64,
    /// What creation takes from a mode: the umask, or a default ACL.
    pub mask: u32,
}

impl Staging {
    /// Makes one beneath `root`.
    pub fn new(root: &Arc<Home>) -> Result<Staging> {
        let (name, dir) = loop {
            let name = format!("{PREFIX}{:08x}", RandomState::new().build_hasher().finish() as u32);
            match root.dir.make(Name::new(name.as_bytes())?, 0o700) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(Error::io("make the staging directory", &name, error)),
            }
            let dir = root.dir.enter(Name::new(name.as_bytes())?).map_err(|e| Error::io("open", &name, e))?;
            // Between the two lines above another checkout may have taken it for one left behind.
            match fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if dir.stat_self().is_ok_and(|stat| stat.st_nlink > 0) => break (name, dir),
                Ok(()) | Err(Errno::WOULDBLOCK) => continue,
                Err(error) => return Err(Error::io("lock", &name, error)),
            }
        };
        let (mask, creator) = probe(&dir).map_err(|e| Error::io("write to", &name, e))?;
        let home = Arc::new(Home { dir, mount: root.mount, creator, made_in: 0 });
        Ok(Staging { root: Arc::clone(root), home, name, next: 0, mask })
    }

    /// Its name beneath the target.
    pub fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// Where something that is to be in `home` waits, and under which name.
    pub fn place_for(&mut self, home: &Arc<Home>) -> (Arc<Home>, Vec<u8>) {
        self.next += 1;
        match home.mount == self.home.mount {
            true => (Arc::clone(&self.home), self.next.to_string().into_bytes()),
            false => (Arc::clone(home), format!("{}-{}", self.name, self.next).into_bytes()),
        }
    }

    /// Removes it with all that still waits in it.
    pub fn remove(self) -> Result<()> {
        let name = self.name.as_str();
        self.root.dir.remove_tree(Name::new(name.as_bytes())?).map_err(|e| Error::io("remove", name, e))
    }
}

/// Whether a name is one that [`Staging`] gives.
pub fn is_staging_name(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| rest.len() == 8 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// Whether a name is one under which a file waits in a directory of another mount, and of which checkout.
pub fn waiting_name_of(name: &[u8]) -> Option<&[u8]> {
    let (owner, number) = name.split_at_checked(PREFIX.len() + 8)?;
    let number = number.strip_prefix(b"-")?;
    (is_staging_name(owner) && !number.is_empty() && number.iter().all(u8::is_ascii_digit)).then_some(owner)
}

/// Removes the staging directories that killed checkouts left beneath the target. Names those of living ones.
pub fn remove_stale(root: &Dir) -> Result<HashSet<Vec<u8>>> {
    let mut living = HashSet::new();
    for listed in root.list().map_err(|e| Error::io("list", "", e))? {
        if is_staging_name(&listed.name) && listed.directory != Some(false) && !remove_if_stale(root, &listed.name)? {
            living.insert(listed.name.into_vec());
        }
    }
    Ok(living)
}

/// Whether it is gone: it is not if a living checkout holds it.
fn remove_if_stale(root: &Dir, name: &[u8]) -> Result<bool> {
    let shown = || String::from_utf8_lossy(name).into_owned();
    let dir = match root.enter(Name::new(name)?) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(true),
        Err(_) => return Ok(false),
    };
    if fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    root.remove_tree(Name::new(name)?).map_err(|e| Error::io("remove", shown(), e))?;
    Ok(true)
}

/// What the mode and owner of something created in `dir` become.
fn probe(dir: &Dir) -> rustix::io::Result<(u32, (u32, u32))> {
    let Ok(name) = Name::new(b"probe") else { return Err(Errno::INVAL) };
    let stat = fs::fstat(dir.create(name, 0o777)?)?;
    dir.unlink(name)?;
    Ok((0o777 & !stat.st_mode, (stat.st_uid, stat.st_gid)))
}

/// Something finished that waits to be moved into its place.
pub struct Move {
    /// Where it waits.
    pub from: Arc<Home>,
    /// Under which name.
    pub waiting: Vec<u8>,
    /// Where it goes.
    pub to: Arc<Home>,
    /// What it is called there.
    pub name: Vec<u8>,
    /// What is in the way.
    pub over: Over,
    /// Whether a directory with something in it may be in the way.
    pub delete: bool,
    /// Its path in the target, for messages.
    pub path: Vec<u8>,
}

/// Mode, owner and time that a directory gets when nothing changes in it any more.
pub struct Finish {
    /// The directory.
    pub home: Arc<Home>,
    /// What it gets.
    pub attributes: Attributes,
    /// Whether mode and owner are as they should be.
    pub only_time: bool,
    /// Its path in the target, for messages.
    pub path: Vec<u8>,
}

/// Changes that become visible together.
#[derive(Default)]
pub struct Group {
    /// Counts groups, from 1.
    number: u64,
    moves: Vec<Move>,
    removals: Vec<(Arc<Home>, Vec<u8>, Vec<u8>)>,
    finishes: Vec<Finish>,
}

impl Group {
    /// The first group.
    pub fn first() -> Self {
        Group { number: 1, ..Group::default() }
    }

    /// Whether nobody can see yet what is made in `home`.
    pub fn hides(&self, home: &Home) -> bool {
        home.made_in == self.number
    }

    /// How many directories it holds open. Moves and removals hold none besides: what they change is finished too.
    pub fn held(&self) -> usize {
        self.finishes.len()
    }

    /// How many names it touches.
    pub fn names(&self) -> usize {
        self.moves.len() + self.removals.len() + self.finishes.len()
    }

    /// A new directory, hidden while this group is.
    pub fn make_directory(&mut self, from: &Home, waiting: &[u8]) -> Result<Home> {
        let name = Name::new(waiting)?;
        let failed = |error| Error::io("make the directory", "", error);
        from.dir.make(name, 0o700).map_err(failed)?;
        let dir = from.dir.enter(name).map_err(failed)?;
        Ok(Home { dir, mount: from.mount, creator: from.creator, made_in: self.number })
    }

    /// Has something moved into its place with the group.
    pub fn add_move(&mut self, moved: Move) {
        self.moves.push(moved);
    }

    /// Has `name` in `home` removed with the group, and all that is beneath it.
    pub fn add_removal(&mut self, home: Arc<Home>, name: Vec<u8>, path: Vec<u8>) {
        self.removals.push((home, name, path));
    }

    /// Has a directory get its mode, owner and time with the group.
    pub fn add_finish(&mut self, finish: Finish) {
        self.finishes.push(finish);
    }

    /// Makes the group visible: what replaces something is on disk first, then everything is moved, in order, then
    /// what is surplus removed, then directories get their times. All that waits must be complete.
    pub fn show(&mut self) -> Result<()> {
        self.sync()?;
        for moved in self.moves.drain(..) {
            fault::point();
            move_into_place(&moved).map_err(|error| at(&moved.path, error))?;
        }
        for (home, name, path) in self.removals.drain(..) {
            fault::point();
            let removed = home.dir.remove_tree(Name::new(&name)?);
            removed.map_err(|error| at(&path, Error::io("remove", "", error)))?;
        }
        for finish in self.finishes.drain(..) {
            finish_directory(&finish).map_err(|error| at(&finish.path, error))?;
        }
        self.number += 1;
        Ok(())
    }

    /// Brings to disk what is about to take the place of something. What is new alone is not waited for: a power cut
    /// can take it back, as it can with every copy, but it takes nothing that was there (docs/adr/0006).
    fn sync(&self) -> Result<()> {
        let replacing: Vec<&Move> = self.moves.iter().filter(|moved| moved.over != Over::Nothing).collect();
        if replacing.is_empty() {
            return Ok(());
        }
        fault::point();
        if replacing.len() <= SYNCED_SINGLY_MAX && replacing.iter().all(|moved| moved.over == Over::Same) {
            for moved in replacing {
                let failed = |error| at(&moved.path, Error::io("sync", "", error));
                match moved.from.dir.read(Name::new(&moved.waiting)?) {
                    Ok(file) => fs::fdatasync(file).map_err(failed)?,
                    Err(Errno::LOOP) => {} // a symbolic link has no data
                    // Not readable for its owner: with all the rest, then.
                    Err(Errno::ACCESS) => fs::syncfs(&moved.from.dir).map_err(failed)?,
                    Err(error) => return Err(failed(error)),
                }
            }
            return Ok(());
        }
        let mut synced = HashSet::new();
        for moved in replacing {
            if synced.insert(moved.from.mount) {
                fs::syncfs(&moved.from.dir).map_err(|e| at(&moved.path, Error::io("sync", "", e)))?;
            }
        }
        Ok(())
    }
}

fn move_into_place(moved: &Move) -> Result<()> {
    let (waiting, name) = (Name::new(&moved.waiting)?, Name::new(&moved.name)?);
    let (from, to) = (&moved.from.dir, &moved.to.dir);
    let failed = |error| Error::io("move into place", "", error);
    if moved.over != Over::Unlike {
        return match from.rename(waiting, to, name) {
            // Something has come into the way since it was looked at.
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => replace(moved, waiting, name),
            answer => answer.map_err(failed),
        };
    }
    replace(moved, waiting, name)
}

/// A directory takes the place of something that is none, or the other way round: they change places, and what
/// was there is removed out of sight. A file system without that step loses the old name for an instant.
fn replace(moved: &Move, waiting: Name<'_>, name: Name<'_>) -> Result<()> {
    let (from, to) = (&moved.from.dir, &moved.to.dir);
    let failed = |error| Error::io("move into place", "", error);
    let exchanged = match from.exchange(waiting, to, name) {
        Ok(()) => true,
        Err(Errno::NOENT) => return from.rename(waiting, to, name).map_err(failed),
        Err(Errno::INVAL | Errno::NOSYS) => false,
        Err(error) => return Err(failed(error)),
    };
    let (old_in, old_name) = if exchanged { (from, waiting) } else { (to, name) };
    let removed = match old_in.unlink(old_name) {
        Err(Errno::ISDIR) if moved.delete => old_in.remove_tree(old_name),
        Err(Errno::ISDIR) => old_in.remove_directory(old_name),
        answer => answer,
    };
    match removed {
        Ok(()) if exchanged => Ok(()),
        Ok(()) => from.rename(waiting, to, name).map_err(failed),
        Err(error) => {
            if exchanged {
                from.exchange(waiting, to, name).map_err(failed)?;
            }
            match error {
                Errno::NOTEMPTY | Errno::EXIST => Err(not_empty()),
                error => Err(failed(error)),
            }
        }
    }
}

/// A directory with something in it is in the way of a file.
pub fn not_empty() -> Error {
    Error::Refused(
        "a directory with something in it is there, where the snapshot has none; it is replaced only with --delete"
            .into(),
    )
}

/// Gives a directory the mode, owner and time that it should have.
pub fn finish_directory(finish: &Finish) -> Result<()> {
    let Attributes { mode, owner, mtime_ns } = finish.attributes;
    let dir = &finish.home.dir;
    if !finish.only_time {
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fs::fchown(dir, Some(uid), Some(gid)).map_err(|e| Error::io("set the owner of", "", e))?;
        }
        fs::fchmod(dir, Mode::from_raw_mode(mode)).map_err(|e| Error::io("set the mode of", "", e))?;
    }
    set_time(dir, mtime_ns)
}

/// Sets the time of a directory's last change.
pub fn set_time(dir: &Dir, mtime_ns: i64) -> Result<()> {
    fs::futimens(dir, &times(mtime_ns)).map_err(|e| Error::io("set the time of", "", e))
}

/// Gives a file that is there another mode, owner or time. `EACCES` if it cannot be opened for that.
pub fn touch_file(dir: &Dir, name: Name<'_>, attributes: &Attributes) -> rustix::io::Result<()> {
    let Attributes { mode, owner, mtime_ns } = *attributes;
    let file = dir.read(name)?;
    let stat = fs::fstat(&file)?;
    if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
        return Err(Errno::STALE); // it was one when it was looked at
    }
    let foreign = owner.filter(|owner| *owner != (stat.st_uid, stat.st_gid));
    if let Some((uid, gid)) = foreign {
        fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    if foreign.is_some() || stat.st_mode & 0o7777 != mode {
        fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    }
    fs::futimens(&file, &times(mtime_ns))
}

/// Gives a symbolic link that is there another owner or time.
pub fn touch_link(dir: &Dir, name: Name<'_>, attributes: &Attributes) -> rustix::io::Result<()> {
    if let Some((uid, gid)) = attributes.owner {
        dir.set_owner(name, uid, gid)?;
    }
    dir.set_mtime(name, attributes.mtime_ns)
}

/// The target, made if it is missing.
pub fn open_target(path: &Path) -> Result<Dir> {
    match Dir::open(path) {
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(path).map_err(|e| Error::io("make the directory", path, e))?;
            Dir::open(path).map_err(|e| Error::io("open", path, e))
        }
        answer => answer.map_err(|e| Error::io("open", path, e)),
    }
}
