//! Directories held open, and names that cannot lead out of them. No path is ever built here.
//!
//! Everything a snapshot names is reached from a [`Dir`] by one [`Name`] at a time: a name is a
//! single component, and no call below follows a symbolic link. There is no other way in the engine
//! to create, replace or remove something for a peer; so a link, or a parent that somebody swaps
//! for a link meanwhile, leads nowhere.
//!
//! Answers are plain error numbers: who calls knows the path and says it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Stat, StatxFlags};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use rustix::io::{Errno, Result as SysResult};

use crate::fault::{self, Step};
use crate::{Error, Result};

/// Bytes of the longest name; what every Linux file system allows.
pub const NAME_BYTES_MAX: usize = 255;

/// How every open here resolves: in its directory, through no link of any sort.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A name that has been checked: one component, which can only mean an entry of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// The checked name; `Refused` when it is empty, `.`, `..`, too long, or holds `/` or NUL.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let fault = match bytes {
            b"" => "it is empty",
            b"." | b".." => "it means a directory, not an entry of one",
            _ if bytes.len() > NAME_BYTES_MAX => "it is longer than 255 bytes",
            _ if bytes.contains(&b'/') => "it holds a slash",
            _ if bytes.contains(&0) => "it holds a NUL byte",
            _ => return Ok(Name(bytes)),
        };
        let shown = &bytes[..bytes.len().min(NAME_BYTES_MAX)];
        Err(Error::Refused(format!("the name \"{}\" is refused: {fault}", shown.escape_ascii())))
    }

    /// Whether [`Name::new`] would accept it.
    pub fn check(bytes: &[u8]) -> Result<()> {
        Name::new(bytes).map(|_| ())
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// One name in a directory, as a listing gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The name.
    pub name: Box<[u8]>,
    /// Whether it is a directory; `None` where the file system does not say.
    pub directory: Option<bool>,
}

/// A directory held open.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// The directory at a path that the user gave: the only place where a path is followed, links included.
    pub fn open(path: &Path) -> SysResult<Dir> {
        fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Dir)
    }

    /// The directory called `name`. A symbolic link is `ELOOP` or `ENOTDIR`.
    pub fn enter(&self, name: Name<'_>) -> SysResult<Dir> {
        self.open_at(name, OFlags::RDONLY | OFlags::DIRECTORY, 0, RESOLVE).map(Dir)
    }

    /// The directory above, whatever it is and whoever may read it: to be asked what it is, for nothing else.
    pub fn parent(&self) -> SysResult<Dir> {
        fs::openat(&self.0, c"..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Dir)
    }

    /// The same directory, open once more.
    pub fn try_clone(&self) -> SysResult<Dir> {
        self.0.try_clone().map(Dir).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// As `enter`, and `EXDEV` when another file system is mounted there.
    fn enter_same_mount(&self, name: Name<'_>) -> SysResult<Dir> {
        self.open_at(name, OFlags::RDONLY | OFlags::DIRECTORY, 0, RESOLVE | ResolveFlags::NO_XDEV).map(Dir)
    }

    /// The directory above, if it is the one of this device and number; else `ESTALE`. The way back for a walk that
    /// has closed it: whoever moved this directory meanwhile leads the walk nowhere.
    pub fn above(&self, identity: (u64, u64)) -> SysResult<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let above = Dir(fs::openat(&self.0, c"..", flags, Mode::empty())?);
        let stat = above.stat_self()?;
        if (stat.st_dev, stat.st_ino) == identity { Ok(above) } else { Err(Errno::STALE) }
    }

    /// A new empty file, open for writing; `EEXIST` if the name is taken, be it by a dangling link.
    pub fn create(&self, name: Name<'_>, mode: u32) -> SysResult<OwnedFd> {
        fault::before(Step::Create)?;
        self.open_at(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode, RESOLVE)
    }

    /// An existing file, open for reading, without waiting for whoever may be at the other end of a pipe.
    pub fn read(&self, name: Name<'_>) -> SysResult<OwnedFd> {
        self.open_at(name, OFlags::RDONLY | OFlags::NONBLOCK, 0, RESOLVE)
    }

    fn open_at(&self, name: Name<'_>, flags: OFlags, mode: u32, resolve: ResolveFlags) -> SysResult<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat2(&self.0, name.0, flags, Mode::from_raw_mode(mode), resolve) {
            // Older than Linux 5.6, or a sandbox that does not know the call. For a single component without `..`
            // O_NOFOLLOW says the same; only the check for mounts is missing, which then is not made.
            Err(Errno::NOSYS) => fs::openat(&self.0, name.0, flags, Mode::from_raw_mode(mode)),
            answer => answer,
        }
    }

    /// A new directory.
    pub fn make(&self, name: Name<'_>, mode: u32) -> SysResult<()> {
        fault::before(Step::MakeDirectory)?;
        fs::mkdirat(&self.0, name.0, Mode::from_raw_mode(mode))
    }

    /// A new symbolic link to `target`, which may be anything: nothing here ever follows it.
    pub fn make_link(&self, name: Name<'_>, target: &[u8]) -> SysResult<()> {
        fault::before(Step::Create)?;
        fs::symlinkat(target, &self.0, name.0)
    }

    /// A new fifo or device.
    pub fn make_special(&self, name: Name<'_>, kind: FileType, mode: u32, rdev: u64) -> SysResult<()> {
        fs::mknodat(&self.0, name.0, kind, Mode::from_raw_mode(mode), rdev)
    }

    /// What the name stands for, a symbolic link itself included, only to be asked and named: a fifo or device is not
    /// opened by it.
    pub fn point_at(&self, name: Name<'_>) -> SysResult<OwnedFd> {
        self.open_at(name, OFlags::PATH, 0, RESOLVE)
    }

    /// Another name, in `directory`, for the file called `name` here. A symbolic link is linked itself.
    pub fn link(&self, name: Name<'_>, directory: &Dir, other: Name<'_>) -> SysResult<()> {
        fault::before(Step::Create)?;
        fs::linkat(&self.0, name.0, &directory.0, other.0, AtFlags::empty())
    }

    /// What the name stands for; `None` if nothing. Links are not followed.
    pub fn stat(&self, name: Name<'_>) -> SysResult<Option<Stat>> {
        match fs::statat(&self.0, name.0, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the symbolic link called `name` leads.
    pub fn read_link(&self, name: Name<'_>) -> SysResult<Vec<u8>> {
        fs::readlinkat(&self.0, name.0, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// Moves `name` to `directory` as `other`, in place of what is there if the system allows it.
    pub fn rename(&self, name: Name<'_>, directory: &Dir, other: Name<'_>) -> SysResult<()> {
        fault::before(Step::Rename)?;
        fs::renameat(&self.0, name.0, &directory.0, other.0)
    }

    /// Lets two names change places, in one step.
    pub fn exchange(&self, name: Name<'_>, directory: &Dir, other: Name<'_>) -> SysResult<()> {
        fault::before(Step::Rename)?;
        fs::renameat_with(&self.0, name.0, &directory.0, other.0, RenameFlags::EXCHANGE)
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, name: Name<'_>) -> SysResult<()> {
        fault::before(Step::Remove)?;
        fs::unlinkat(&self.0, name.0, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, name: Name<'_>) -> SysResult<()> {
        fault::before(Step::Remove)?;
        fs::unlinkat(&self.0, name.0, AtFlags::REMOVEDIR)
    }

    /// Sets the time of the last change of a name, a symbolic link's own included.
    pub fn set_mtime(&self, name: Name<'_>, mtime_ns: i64) -> SysResult<()> {
        fs::utimensat(&self.0, name.0, &times(mtime_ns), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets the owner of a name, a symbolic link's own included.
    pub fn set_owner(&self, name: Name<'_>, uid: Option<u32>, gid: Option<u32>) -> SysResult<()> {
        let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
        fs::chownat(&self.0, name.0, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The directory's own state.
    pub fn stat_self(&self) -> SysResult<Stat> {
        fs::fstat(&self.0)
    }

    /// The number of the mount it is on; 0 where the system does not say (Linux < 5.8).
    pub fn mount(&self) -> SysResult<u64> {
        let answer = fs::statx(&self.0, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        Ok(if answer.stx_mask & StatxFlags::MNT_ID.bits() != 0 { answer.stx_mnt_id } else { 0 })
    }

    /// All names but `.` and `..`, ascending.
    pub fn list(&self) -> SysResult<Vec<Listed>> {
        fs::seek(&self.0, fs::SeekFrom::Start(0))?;
        let mut found = Vec::new();
        // 32 KiB is what the C library's readdir uses: a directory of 1,000 names in one call.
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut raw = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let directory = match entry.file_type() {
                FileType::Unknown => None,
                kind => Some(kind == FileType::Directory),
            };
            found.push(Listed { name: name.into(), directory });
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes the name and all that is beneath it, if it is there. No link is followed and no other mount
    /// entered (`EXDEV`, `EBUSY`). When it fails, some of it may be gone.
    pub fn remove_tree(&self, name: Name<'_>) -> SysResult<()> {
        if self.unlink_unless_directory(name, None)? {
            return Ok(());
        }
        self.enter_to_empty(name)?.clear()?;
        self.remove_directory(name)
    }

    /// Where a file system is mounted in `name` or beneath it, if one is: what [`Dir::remove_tree`] would stumble over.
    /// `None` also where the system does not say.
    pub fn mount_beneath(&self, name: Name<'_>) -> Option<Vec<u8>> {
        use std::os::fd::AsRawFd;
        let here = fs::readlink(format!("/proc/self/fd/{}", self.0.as_raw_fd()), Vec::new()).ok()?;
        let path = [here.as_bytes().strip_suffix(b"/").unwrap_or(here.as_bytes()), b"/", name.0].concat();
        let table = std::fs::read("/proc/self/mountinfo").ok()?;
        let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
        points
            .map(unescaped)
            .find(|point| point.strip_prefix(&*path).is_some_and(|rest| matches!(rest, [] | [b'/', ..])))
    }

    /// Removes everything in this directory. Directories beneath are first moved up into it, one level at a
    /// time, so that no depth of tree needs more than two open files, or any path.
    pub fn clear(&self) -> SysResult<()> {
        let mut fresh = 0u64;
        loop {
            let found = self.list()?;
            if found.is_empty() {
                return Ok(());
            }
            for listed in found {
                let name = listed_name(&listed)?;
                if self.unlink_unless_directory(name, listed.directory)? {
                    continue;
                }
                let inner = self.enter_to_empty(name)?;
                for child in inner.list()? {
                    let child_name = listed_name(&child)?;
                    if !inner.unlink_unless_directory(child_name, child.directory)? {
                        inner.move_up(child_name, self, &mut fresh)?;
                    }
                }
                self.remove_directory(name)?;
            }
        }
    }

    /// Enters a directory of the same mount and gives its owner, if that is us, the right to empty it.
    fn enter_to_empty(&self, name: Name<'_>) -> SysResult<Dir> {
        let inner = self.enter_same_mount(name)?;
        if inner.stat_self()?.st_mode & 0o700 != 0o700 {
            // Refused to all but the owner: then emptying it fails with the reason.
            let _ = fs::fchmod(&inner.0, Mode::RWXU);
        }
        Ok(inner)
    }

    /// Whether the name is gone: it is not if it is a directory's.
    fn unlink_unless_directory(&self, name: Name<'_>, directory: Option<bool>) -> SysResult<bool> {
        if directory == Some(true) {
            return Ok(false);
        }
        match self.unlink(name) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::ISDIR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves a directory into `to` under a name that nothing there has.
    fn move_up(&self, name: Name<'_>, to: &Dir, fresh: &mut u64) -> SysResult<()> {
        loop {
            *fresh += 1;
            let other = format!(".removed-{fresh}");
            let moved = || fs::renameat_with(&self.0, name.0, &to.0, other.as_bytes(), RenameFlags::NOREPLACE);
            match moved() {
                Err(Errno::EXIST) => {}
                // A directory that may not be written cannot change its parent either.
                Err(Errno::ACCESS) => {
                    self.enter_to_empty(name)?;
                    return moved();
                }
                answer => return answer,
            }
        }
    }
}

/// A path as the table of mounts has it: blanks and backslashes are `\` and three octal digits.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| matches!(d, b'0'..=b'7')));
        let value = digits.map(|digits| digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0')));
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(value) => (plain.push(value), rest = &after[3..]),
            None => (plain.push(byte), rest = after),
        };
    }
    plain
}

/// A listed name is always valid; the system says it, and it is checked like any other.
fn listed_name(listed: &Listed) -> SysResult<Name<'_>> {
    Name::new(&listed.name).map_err(|_| Errno::INVAL)
}

/// A time of last change as the system takes it; the time of the last access is left alone.
pub fn times(mtime_ns: i64) -> Timestamps {
    const SECOND: i64 = 1_000_000_000;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime_ns.div_euclid(SECOND), tv_nsec: mtime_ns.rem_euclid(SECOND) as _ },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn name(bytes: &[u8]) -> Name<'_> {
        Name::new(bytes).unwrap()
    }

    #[test]
    fn a_name_is_one_component_that_stays_where_it_is() {
        let long = vec![b'a'; 256];
        for bad in [&b""[..], b".", b"..", b"/", b"a/b", b"/etc/passwd", b"../x", b"a\0b", &long] {
            assert!(matches!(Name::check(bad), Err(Error::Refused(_))), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b"..a", b" ", b"\xff\xfe", b"a\\b", b"C:", &long[1..]] {
            assert!(Name::check(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn mount_points_beneath_a_name_are_known() {
        assert_eq!(unescaped(b"/a\\040b\\134\\7"), b"/a b\\\\7");
        let root = Dir::open(Path::new("/")).unwrap();
        assert_eq!(root.mount_beneath(name(b"proc")).map(|point| point.starts_with(b"/proc")), Some(true));
        assert_eq!(root.mount_beneath(name(b"pro")), None);
    }

    #[test]
    fn a_link_is_never_entered_read_or_written_through() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("outside")).unwrap();
        std::fs::write(root.path().join("outside/file"), b"theirs").unwrap();
        std::fs::create_dir(root.path().join("target")).unwrap();
        symlink("../outside", root.path().join("target/dir")).unwrap();
        symlink("../outside/file", root.path().join("target/file")).unwrap();
        symlink("../outside/new", root.path().join("target/dangling")).unwrap();
        let target = Dir::open(&root.path().join("target")).unwrap();

        assert!(matches!(target.enter(name(b"dir")), Err(Errno::LOOP | Errno::NOTDIR)));
        assert!(target.read(name(b"file")).is_err());
        assert_eq!(target.create(name(b"file"), 0o600).unwrap_err(), Errno::EXIST);
        assert_eq!(target.create(name(b"dangling"), 0o600).unwrap_err(), Errno::EXIST);
        target.set_mtime(name(b"file"), 1).unwrap();
        target.remove_tree(name(b"dir")).unwrap();
        target.unlink(name(b"file")).unwrap();

        assert_eq!(std::fs::read(root.path().join("outside/file")).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(root.path().join("outside")).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_swapped_for_a_link_after_it_was_entered_does_not_move_what_is_done_in_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("target/dir")).unwrap();
        std::fs::create_dir(root.path().join("outside")).unwrap();
        let target = Dir::open(&root.path().join("target")).unwrap();
        let dir = target.enter(name(b"dir")).unwrap();

        std::fs::rename(root.path().join("target/dir"), root.path().join("target/moved")).unwrap();
        symlink("../outside", root.path().join("target/dir")).unwrap();
        dir.create(name(b"file"), 0o600).unwrap();

        assert!(root.path().join("target/moved/file").exists());
        assert!(!root.path().join("outside/file").exists());
        assert!(target.enter(name(b"dir")).is_err());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed_with_a_handful_of_open_files() {
        let root = tempfile::tempdir().unwrap();
        let top = Dir::open(root.path()).unwrap();
        let long = [b'd'; 200];
        let mut deep = Dir::open(root.path()).unwrap();
        for _ in 0..100 {
            deep.make(name(&long), 0o700).unwrap();
            deep.make(name(b"sealed"), 0o500).unwrap();
            deep.create(name(b"file"), 0o400).unwrap();
            deep.make_link(name(b"link"), b"/etc").unwrap();
            deep = deep.enter(name(&long)).unwrap();
        }
        drop(deep);

        top.remove_tree(name(&long)).unwrap();
        top.remove_tree(name(b"never was")).unwrap();
        top.clear().unwrap();

        assert_eq!(top.list().unwrap(), []);
    }

    #[test]
    fn a_listing_is_ascending_and_tells_directories() {
        let root = tempfile::tempdir().unwrap();
        let top = Dir::open(root.path()).unwrap();
        for index in 0..3000 {
            top.create(name(format!("f{index:04}").as_bytes()), 0o600).unwrap();
        }
        top.make(name(b"\xff"), 0o700).unwrap();

        for _ in 0..2 {
            let found = top.list().unwrap();
            assert_eq!(found.len(), 3001);
            assert!(found.is_sorted_by(|a, b| a.name < b.name));
            assert_eq!(found[3000], Listed { name: (*b"\xff").into(), directory: Some(true) });
        }
    }

    #[test]
    fn times_before_1970_and_between_seconds_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let top = Dir::open(root.path()).unwrap();
        top.create(name(b"f"), 0o600).unwrap();
        for mtime_ns in [0, 1, -1, -1_000_000_001, 1_700_000_000_123_456_789] {
            top.set_mtime(name(b"f"), mtime_ns).unwrap();
            let stat = top.stat(name(b"f")).unwrap().unwrap();
            assert_eq!(stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64, mtime_ns);
        }
    }
}
