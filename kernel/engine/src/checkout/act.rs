//! Making things visible: what is new waits in a staging directory, then groups of it are moved into place.
//!
//! Everything that a name is to become is first made whole under another name, in `TARGET/.packetfs-XXXXXXXX`
//! (mode 0700, locked while its checkout lives), and then moved in one step. A new directory is filled where
//! nobody sees it and moved with all that is in it. Where another file system is mounted inside the target,
//! its own directories take the place of the staging directory.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use rustix::fs::{self, FileType, FlockOperation, Gid, Mode, Uid};
use rustix::io::Errno;

use super::plan::{Attributes, Over};
use super::spare::Backup;
use super::work::at;
use crate::beneath::{Dir, Name, times};
use crate::fault::{self, Step};
use crate::page::{Entry, EntryKind};
use crate::xattr::{self, Holder, Xattrs};
use crate::{Error, Result};

/// How names made by a checkout begin, for the time that they are not what they will be.
const PREFIX: &str = ".packetfs-";
/// Files of a group that are synced one by one; more are synced with their whole file system.
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

/// An owner that no file has: who creates on another mount is not known.
pub const NOBODY: (u32, u32) = (u32::MAX, u32::MAX);

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
        // Nothing made in it gets a list of access rights that the snapshot does not give.
        xattr::remove_inheritance(dir.as_fd()).map_err(|e| Error::io("write to", &name, e))?;
        mark(&dir).map_err(|e| Error::io("write to", &name, e))?;
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

/// Whether a name is one that [`Staging`] gives. It alone says nothing: a user may have such names too.
pub fn is_staging_name(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| rest.len() == 8 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// Whether a name is one under which a file waits in a directory of another mount, and of which checkout.
pub fn waiting_name_of(name: &[u8]) -> Option<&[u8]> {
    let (owner, number) = name.split_at_checked(PREFIX.len() + 8)?;
    let number = number.strip_prefix(b"-")?;
    (is_staging_name(owner) && !number.is_empty() && number.iter().all(u8::is_ascii_digit)).then_some(owner)
}

/// The file in a staging directory that says that it is one.
const MARKER: &[u8] = b"packetfs-staging";

/// What is in it: the number of the directory, so that a copy of a staging directory is none.
fn marker_of(dir: &Dir) -> rustix::io::Result<Vec<u8>> {
    Ok(format!("packetfs staging directory {}\n", dir.stat_self()?.st_ino).into_bytes())
}

/// Says of a directory that it is a staging directory.
pub fn mark(dir: &Dir) -> rustix::io::Result<()> {
    let Ok(name) = Name::new(MARKER) else { return Err(Errno::INVAL) };
    let file = dir.create(name, 0o600)?;
    fault::before(Step::Write)?;
    rustix::io::pwrite(file, &marker_of(dir)?, 0).map(drop)
}

fn is_marked(dir: &Dir) -> rustix::io::Result<bool> {
    let Ok(name) = Name::new(MARKER) else { return Err(Errno::INVAL) };
    let file = match dir.read(name) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; 64];
    let length = rustix::io::pread(file, &mut bytes, 0)?;
    Ok(bytes[..length] == marker_of(dir)?)
}

/// The staging directories beneath a target.
#[derive(Default)]
pub struct Others {
    /// Those of living checkouts.
    pub living: HashSet<Vec<u8>>,
    /// Those that killed checkouts left.
    pub dead: HashSet<Vec<u8>>,
}

/// Looks for the staging directories of other checkouts: marked ones, whatever else is called like them.
pub fn others(root: &Dir) -> Result<Others> {
    let mut others = Others::default();
    for listed in root.list().map_err(|e| Error::io("list", "", e))? {
        if !is_staging_name(&listed.name) || listed.directory == Some(false) {
            continue;
        }
        let Ok(dir) = root.enter(Name::new(&listed.name)?) else { continue };
        if is_locked(&dir) {
            others.living.insert(listed.name.into_vec());
        } else if is_marked(&dir).unwrap_or(false) {
            others.dead.insert(listed.name.into_vec());
        }
    }
    Ok(others)
}

/// Whether somebody works in a directory.
fn is_locked(dir: &Dir) -> bool {
    // The lock goes when the directory is closed.
    fs::flock(dir, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

/// Whether `name` is the staging directory of a checkout that is at work.
pub fn is_alive(home: &Dir, name: &[u8]) -> Result<bool> {
    Ok(is_staging_name(name) && home.enter(Name::new(name)?).is_ok_and(|dir| is_locked(&dir)))
}

/// Removes what killed checkouts left beneath the target.
pub fn remove_dead(root: &Dir, others: &Others) -> Result<()> {
    for name in &others.dead {
        // Locked, so that another checkout that starts now lets it be.
        let Ok(dir) = root.enter(Name::new(name)?) else { continue };
        if is_locked(&dir) {
            continue;
        }
        let shown = || String::from_utf8_lossy(name).into_owned();
        match root.remove_tree(Name::new(name)?) {
            Err(Errno::NOENT) => {}
            answer => answer.map_err(|e| Error::io("remove", shown(), e))?,
        }
    }
    Ok(())
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
    /// What it is.
    pub kind: EntryKind,
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
    /// The extended attributes that it gets; `None`: it has those that it should have.
    pub xattrs: Option<Xattrs>,
    /// Its path in the target, for messages.
    pub path: Vec<u8>,
}

/// Changes that become visible together.
#[derive(Default)]
pub struct Group {
    /// Counts groups, from 1.
    number: u64,
    moves: Vec<Move>,
    removals: Vec<Removal>,
    /// Where what is replaced or removed goes, if it is kept.
    backup: Option<Arc<Backup>>,
    finishes: Vec<Finish>,
    /// The directories that it holds open, told apart by where they are in memory.
    held: HashSet<usize>,
    path_bytes: usize,
}

/// A name that goes, with all that is beneath it.
struct Removal {
    home: Arc<Home>,
    name: Vec<u8>,
    path: Vec<u8>,
    /// It is only what a checkout has left behind.
    is_rubbish: bool,
}

impl Group {
    /// The first group; what it and those after it replace and remove is moved to `backup`.
    pub fn first(backup: Option<Arc<Backup>>) -> Self {
        Group { number: 1, backup, ..Group::default() }
    }

    /// The group after this one.
    pub fn next(&self) -> Self {
        Group { number: self.number + 1, backup: self.backup.clone(), ..Group::default() }
    }

    /// Whether nobody can see yet what is made in `home`.
    pub fn hides(&self, home: &Home) -> bool {
        home.made_in == self.number
    }

    /// How many directories it holds open.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many names it touches.
    pub fn names(&self) -> usize {
        self.moves.len() + self.removals.len() + self.finishes.len()
    }

    /// Bytes of the paths and attributes that it remembers: in a deep tree they are most of what a group needs.
    pub fn path_bytes(&self) -> usize {
        self.path_bytes
    }

    fn hold(&mut self, home: &Arc<Home>, path: &[u8]) {
        self.held.insert(Arc::as_ptr(home).addr());
        self.path_bytes += path.len();
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
        self.hold(&moved.to, &moved.path);
        self.moves.push(moved);
    }

    /// Has `name` in `home` removed with the group, and all that is beneath it.
    pub fn add_removal(&mut self, home: Arc<Home>, name: Vec<u8>, path: Vec<u8>, is_rubbish: bool) {
        self.hold(&home, &path);
        self.removals.push(Removal { home, name, path, is_rubbish });
    }

    /// Has a directory get its mode, owner and time with the group.
    pub fn add_finish(&mut self, finish: Finish) {
        self.hold(&finish.home, &finish.path);
        self.path_bytes += finish.xattrs.as_ref().map_or(0, xattr::bytes);
        self.finishes.push(finish);
    }

    /// Makes the group visible: everything is moved, in order, then what is surplus removed, then directories get
    /// their times. All that waits must be complete, and what [`Group::to_sync`] named be on disk.
    /// `tick` may stop it between two removals; `missed` hears of directories that did not get all their attributes.
    pub fn show(self, tick: &mut dyn FnMut() -> Result<()>, missed: &mut dyn FnMut(&[u8])) -> Result<()> {
        for moved in self.moves {
            move_into_place(&moved, self.backup.as_deref()).map_err(|error| at(&moved.path, error))?;
        }
        for Removal { home, name, path, is_rubbish } in self.removals {
            let name = Name::new(&name)?;
            match self.backup.as_deref().filter(|_| !is_rubbish) {
                Some(backup) => backup.take(&home.dir, name, &path)?,
                None => {
                    home.dir.remove_tree(name).map_err(|error| at(&path, Error::io("remove", "", error)))?;
                }
            }
            tick()?;
        }
        for finish in self.finishes {
            if !finish_directory(&finish).map_err(|error| at(&finish.path, error))? {
                missed(&finish.path);
            }
        }
        Ok(())
    }

    /// Removes what waits outside of the staging directory, on other mounts, when the group will not be shown.
    pub fn forget(self) {
        for moved in self.moves {
            // What cannot be removed now is found by its name; the reason to tell is the one that led here.
            if let (Ok(name), true) = (Name::new(&moved.waiting), waiting_name_of(&moved.waiting).is_some()) {
                let _ = moved.from.dir.remove_tree(name);
            }
        }
    }

    /// What must be on disk before a name shows it, new names included: a file system may journal a size and a time
    /// half a minute before the bytes, and what has its size and time is never looked at again (docs/adr/0006).
    /// `files` were written in it; what else there is are names, which file systems journal in order.
    pub fn to_sync(&self, files: usize) -> Vec<ToSync> {
        if files == 0 {
            return Vec::new();
        }
        let of = |moved: &Move, kind| ToSync {
            kind,
            home: Arc::clone(&moved.from),
            name: moved.waiting.clone(),
            path: moved.path.clone(),
        };
        // What is in a new directory is not listed here.
        let listed = self.moves.iter().all(|moved| moved.kind != EntryKind::Directory);
        let written = self.moves.iter().filter(|moved| moved.kind == EntryKind::File);
        if listed && written.clone().count() <= SYNCED_SINGLY_MAX {
            return written.map(|moved| of(moved, SyncKind::File)).collect();
        }
        let mut mounts = HashSet::new();
        let firsts = self.moves.iter().filter(|moved| mounts.insert(moved.from.mount));
        firsts.map(|moved| of(moved, SyncKind::FileSystem)).collect()
    }
}

/// Something that is to be brought to disk.
pub struct ToSync {
    kind: SyncKind,
    home: Arc<Home>,
    name: Vec<u8>,
    path: Vec<u8>,
}

#[derive(Clone, Copy)]
enum SyncKind {
    File,
    FileSystem,
}

/// Brings it to disk in a thread of its own, while the caller goes on writing; the receiver hears how it went.
pub fn sync(all: Vec<ToSync>) -> Receiver<Result<()>> {
    let (done, synced) = channel();
    // A thread that cannot be had is heard as one that went away.
    let _ = std::thread::Builder::new().name("packetfs-sync".into()).spawn(move || {
        // Nobody listens any more when the checkout has failed.
        let _ = done.send(all.iter().try_for_each(ToSync::perform));
    });
    synced
}

impl ToSync {
    fn perform(&self) -> Result<()> {
        let failed = |error| at(&self.path, Error::io("sync", "", error));
        fault::before(Step::Sync).map_err(failed)?;
        if let SyncKind::File = self.kind {
            match self.home.dir.read(Name::new(&self.name)?) {
                Ok(file) => return fs::fdatasync(file).map_err(failed),
                Err(Errno::ACCESS) => {} // not readable for its owner: with all the rest, then
                Err(error) => return Err(failed(error)),
            }
        }
        fs::syncfs(&self.home.dir).map_err(failed)
    }
}

fn move_into_place(moved: &Move, backup: Option<&Backup>) -> Result<()> {
    let (waiting, name) = (Name::new(&moved.waiting)?, Name::new(&moved.name)?);
    let (from, to) = (&moved.from.dir, &moved.to.dir);
    let failed = |error| Error::io("move into place", "", error);
    if moved.over != Over::Unlike {
        if let Some(backup) = backup {
            backup.keep(to, name, &moved.path)?;
        }
        return match from.rename(waiting, to, name) {
            // Something has come into the way since it was looked at.
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => replace(moved, waiting, name, backup),
            answer => answer.map_err(failed),
        };
    }
    replace(moved, waiting, name, backup)
}

/// A directory takes the place of something that is none, or the other way round: they change places, and what
/// was there is removed out of sight. A file system without that step loses the old name for an instant.
fn replace(moved: &Move, waiting: Name<'_>, name: Name<'_>, backup: Option<&Backup>) -> Result<()> {
    let (from, to) = (&moved.from.dir, &moved.to.dir);
    let failed = |error| Error::io("move into place", "", error);
    if let Some(backup) = backup {
        // Out of sight it could be lost; so it goes to the backup first, and the name is nobody's for an instant.
        match moved.delete {
            true => backup.take(to, name, &moved.path)?,
            false => match to.remove_directory(name) {
                Err(Errno::NOTDIR) => backup.take(to, name, &moved.path)?,
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Err(not_empty()),
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            },
        }
        return from.rename(waiting, to, name).map_err(failed);
    }
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
        "a directory with something in it is there, where the snapshot has none; it is replaced only with --delete, \
         and within --max-delete"
            .into(),
    )
}

/// Gives a directory the owner, attributes, mode and time that it should have. `false`: some attributes could not be
/// set.
pub fn finish_directory(finish: &Finish) -> Result<bool> {
    let Attributes { mode, uid, gid, mtime_ns, .. } = finish.attributes;
    let dir = &finish.home.dir;
    let mut all = true;
    if !finish.only_time && (uid, gid) != (None, None) {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        fs::fchown(dir, uid, gid).map_err(|e| Error::io("set the owner of", "", e))?;
    }
    if let Some(xattrs) = &finish.xattrs {
        let replaced = xattr::replace(&Holder::Open(dir.as_fd()), xattrs);
        all = replaced.map_err(|e| Error::io("set the attributes of", "", e))?;
    }
    if !finish.only_time || finish.xattrs.is_some() {
        fs::fchmod(dir, Mode::from_raw_mode(mode)).map_err(|e| Error::io("set the mode of", "", e))?;
    }
    set_time(dir, mtime_ns)?;
    Ok(all)
}

/// How the making of something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is as it should be.
    Whole,
    /// Some of its attributes could not be set.
    WithoutAttributes,
    /// It may not be made.
    Refused,
}

/// Makes a symbolic link, fifo or device with all that belongs to it, out of sight.
pub fn make_other(home: &Home, waiting: &[u8], entry: &Entry, attributes: &Attributes) -> Result<Made> {
    let name = Name::new(waiting)?;
    let (made, action) = match entry.kind {
        EntryKind::Symlink => (home.dir.make_link(name, &entry.target), "make the symbolic link"),
        // Nobody may use it before it has its owner.
        EntryKind::Fifo => (home.dir.make_special(name, FileType::Fifo, 0, 0), "make the pipe"),
        EntryKind::CharDevice => {
            (home.dir.make_special(name, FileType::CharacterDevice, 0, entry.rdev), "make the device")
        }
        _ => (home.dir.make_special(name, FileType::BlockDevice, 0, entry.rdev), "make the device"),
    };
    match made {
        Err(Errno::PERM) if entry.kind.is_device() => return Ok(Made::Refused),
        answer => answer.map_err(|e| Error::io(action, "", e))?,
    }
    let Attributes { mode, uid, gid, mtime_ns, .. } = *attributes;
    if attributes.gives_away(home.creator) {
        home.dir.set_owner(name, uid, gid).map_err(|e| Error::io("set the owner of", "", e))?;
    }
    let mut all = true;
    if entry.kind != EntryKind::Symlink || !entry.xattrs.is_empty() {
        let pointed = home.dir.point_at(name).map_err(|e| Error::io("look at", "", e))?;
        // In a directory of another mount somebody could have put something else there.
        let stat = fs::fstat(&pointed).map_err(|e| Error::io("look at", "", e))?;
        if super::kind_of(&stat) != Some(entry.kind) || (entry.kind.is_device() && stat.st_rdev != entry.rdev) {
            return Err(Error::io("look at", "", Errno::STALE));
        }
        let holder = Holder::path(pointed.as_fd()).map_err(|e| Error::io("look at", "", e))?;
        all = xattr::set(&holder, &entry.xattrs).map_err(|e| Error::io("set the attributes of", "", e))?;
        if let (Holder::Path(path), false) = (&holder, entry.kind == EntryKind::Symlink) {
            fs::chmod(path, Mode::from_raw_mode(mode)).map_err(|e| Error::io("set the mode of", "", e))?;
        }
    }
    home.dir.set_mtime(name, mtime_ns).map_err(|e| Error::io("set the time of", "", e))?;
    Ok(if all { Made::Whole } else { Made::WithoutAttributes })
}

/// Sets the time of a directory's last change.
pub fn set_time(dir: &Dir, mtime_ns: i64) -> Result<()> {
    fs::futimens(dir, &times(mtime_ns)).map_err(|e| Error::io("set the time of", "", e))
}

/// Gives a file that is there other attributes, if there are any to give, another mode, and another time if one is
/// given; whether that was all. `EACCES` if it cannot be opened for that, `ESTALE` if it is not the one of this device
/// and number any more, or has got another name: it would be changed there too.
pub fn touch_file(
    dir: &Dir,
    name: Name<'_>,
    identity: (u64, u64),
    mode: u32,
    xattrs: Option<&Xattrs>,
    mtime_ns: Option<i64>,
) -> rustix::io::Result<bool> {
    let file = dir.read(name)?;
    let stat = fs::fstat(&file)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || (stat.st_dev, stat.st_ino) != identity || stat.st_nlink != 1 {
        return Err(Errno::STALE);
    }
    let mut all = true;
    if let Some(xattrs) = xattrs {
        if mode & 0o200 == 0 {
            // Who may not write to a file may not change its attributes either.
            fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777 | 0o200))?;
        }
        all = xattr::replace(&Holder::Open(file.as_fd()), xattrs)?;
    }
    fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    if let Some(mtime_ns) = mtime_ns {
        fs::futimens(&file, &times(mtime_ns))?;
    }
    Ok(all)
}

/// The target, made if it is missing.
pub fn open_target(path: &Path) -> Result<Dir> {
    match Dir::open(path) {
        Err(Errno::NOENT) => {
            fault::before(Step::MakeDirectory).map_err(|e| Error::io("make the directory", path, e))?;
            std::fs::create_dir_all(path).map_err(|e| Error::io("make the directory", path, e))?;
            Dir::open(path).map_err(|e| Error::io("open", path, e))
        }
        answer => answer.map_err(|e| Error::io("open", path, e)),
    }
}
