//! Extended attributes: which of them are kept, and how they are read, compared and set. It opens nothing and follows
//! no link; what a snapshot does not keep (`security.selinux` and the like) it neither reads nor changes.
//!
//! Access control lists are attributes too: `system.posix_acl_access` and `system.posix_acl_default`.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{self, XattrFlags};
use rustix::io::{Errno, Result as SysResult};

use crate::page::{XATTR_BYTES_MAX, XATTR_NAMES_BYTES_MAX};

/// Names and values, names ascending.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What gives a program rights of root's. A change of owner takes it away.
pub const CAPABILITY: &[u8] = b"security.capability";
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// Most sets of names are shorter than this: then one call lists them.
const NAMES_BYTES: usize = 256;
/// Most values are shorter than this: then one call reads one.
const VALUE_BYTES: usize = 1 << 10;
/// The longest value that Linux has (XATTR_SIZE_MAX).
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Whether a snapshot keeps the attribute of this name. `trusted.` is seen and set by root only.
pub fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.") || name == CAPABILITY || ACLS.contains(&name)
}

/// Whose attributes.
#[derive(Debug)]
pub enum Holder<'a> {
    /// Of something that is open.
    Open(BorrowedFd<'a>),
    /// Of the name at the end of a path, a link itself included.
    Named(CString),
    /// Of something that is open without any right but to be named (`O_PATH`).
    Path(CString),
}

impl<'a> Holder<'a> {
    /// The entry `name` of an open directory; without a directory, of the working directory.
    ///
    /// There is no call for it before Linux 6.13, so it goes through /proc.
    pub fn beneath(directory: Option<BorrowedFd<'_>>, name: &[u8]) -> SysResult<Holder<'a>> {
        let path = match directory {
            Some(fd) => [format!("/proc/self/fd/{}/", fd.as_raw_fd()).as_bytes(), name].concat(),
            None => name.to_vec(),
        };
        CString::new(path).map(Holder::Named).map_err(|_| Errno::INVAL)
    }

    /// What was opened with `O_PATH`.
    pub fn path(fd: BorrowedFd<'_>) -> SysResult<Holder<'a>> {
        CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).map(Holder::Path).map_err(|_| Errno::INVAL)
    }

    fn list(&self, names: &mut [u8]) -> SysResult<usize> {
        match self {
            Holder::Open(fd) => fs::flistxattr(fd, names),
            Holder::Named(path) => fs::llistxattr(path, names),
            Holder::Path(path) => fs::listxattr(path, names),
        }
    }

    fn get(&self, name: &[u8], value: &mut [u8]) -> SysResult<usize> {
        match self {
            Holder::Open(fd) => fs::fgetxattr(fd, name, value),
            Holder::Named(path) => fs::lgetxattr(path, name, value),
            Holder::Path(path) => fs::getxattr(path, name, value),
        }
    }

    fn set(&self, name: &[u8], value: &[u8]) -> SysResult<()> {
        match self {
            Holder::Open(fd) => fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Holder::Named(path) => fs::lsetxattr(path, name, value, XattrFlags::empty()),
            Holder::Path(path) => fs::setxattr(path, name, value, XattrFlags::empty()),
        }
    }

    fn remove(&self, name: &[u8]) -> SysResult<()> {
        match self {
            Holder::Open(fd) => fs::fremovexattr(fd, name),
            Holder::Named(path) => fs::lremovexattr(path, name),
            Holder::Path(path) => fs::removexattr(path, name),
        }
    }
}

/// The attributes that are kept; none where the file system has no such thing. `E2BIG`: more than an entry can have.
pub fn read(holder: &Holder<'_>) -> SysResult<Xattrs> {
    look(holder).map(Option::unwrap_or_default)
}

/// As [`read`]; `None` where the file system has no such thing.
pub fn look(holder: &Holder<'_>) -> SysResult<Option<Xattrs>> {
    let mut names = [0; NAMES_BYTES];
    match holder.list(&mut names) {
        Ok(0) => Ok(Some(Vec::new())),
        Ok(length) => read_named(holder, &names[..length]).map(Some),
        Err(Errno::OPNOTSUPP) => Ok(None),
        Err(Errno::RANGE) => {
            let mut names = vec![0; XATTR_NAMES_BYTES_MAX];
            let length = holder.list(&mut names)?;
            read_named(holder, &names[..length]).map(Some)
        }
        Err(errno) => Err(errno),
    }
}

fn read_named(holder: &Holder<'_>, names: &[u8]) -> SysResult<Xattrs> {
    let mut found = Xattrs::new();
    let mut bytes = 0;
    for name in names.split(|&byte| byte == 0).filter(|name| is_kept(name)) {
        match read_value(holder, name) {
            Ok(value) => {
                bytes += name.len() + value.len();
                if bytes > XATTR_BYTES_MAX {
                    return Err(Errno::TOOBIG);
                }
                found.push((name.to_vec(), value));
            }
            // Removed since it was listed: whoever read the stat before sees another one after.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn read_value(holder: &Holder<'_>, name: &[u8]) -> SysResult<Vec<u8>> {
    let mut short = [0; VALUE_BYTES];
    match holder.get(name, &mut short) {
        Ok(length) => Ok(short[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut value = vec![0; VALUE_BYTES_MAX];
            let length = holder.get(name, &mut value)?;
            value.truncate(length);
            value.shrink_to_fit();
            Ok(value)
        }
        Err(errno) => Err(errno),
    }
}

/// Gives something new its attributes. `false`: some could not be set, for want of rights or of room, or because the
/// file system has none; the others are.
pub fn set(holder: &Holder<'_>, wanted: &Xattrs) -> SysResult<bool> {
    let mut all = true;
    for (name, value) in wanted {
        all &= is_kept(name) && done(holder.set(name, value))?;
    }
    Ok(all)
}

/// Makes the attributes of something those that are wanted; answers as [`set`].
pub fn replace(holder: &Holder<'_>, wanted: &Xattrs) -> SysResult<bool> {
    let there = match read(holder) {
        Err(Errno::ACCESS | Errno::PERM) => return Ok(false),
        answer => answer?,
    };
    let mut all = true;
    for (name, _) in there.iter().filter(|(name, _)| wanted.iter().all(|(other, _)| other != name)) {
        all &= match holder.remove(name) {
            Err(Errno::NODATA) => true,
            answer => done(answer)?,
        };
    }
    let missing: Xattrs = wanted.iter().filter(|one| !there.contains(one)).cloned().collect();
    Ok(set(holder, &missing)? && all)
}

/// Takes from a directory what it would hand down to all that is made in it.
pub fn remove_inheritance(directory: BorrowedFd<'_>) -> SysResult<()> {
    match fs::fremovexattr(directory, ACLS[1]) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        answer => answer,
    }
}

/// Whether only root may see or set the attribute of this name.
pub fn is_roots(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name == CAPABILITY
}

/// Whether it was done; an error only if that says nothing about the attribute.
fn done(answer: SysResult<()>) -> SysResult<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(
            Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE,
        ) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Bytes of a set, names and values.
pub fn bytes(set: &Xattrs) -> usize {
    set.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// What of `name` a set has.
pub fn value<'x>(set: &'x Xattrs, name: &[u8]) -> Option<&'x [u8]> {
    set.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pair(name: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (name.into(), value.into())
    }

    #[test]
    fn what_was_set_is_read_and_replaced_by_descriptor_by_name_and_by_path() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let file = std::fs::File::create(directory.path().join("f")).unwrap();
        let above = std::fs::File::open(directory.path()).unwrap();
        let o_path = fs::OFlags::PATH | fs::OFlags::NOFOLLOW | fs::OFlags::CLOEXEC;
        let pointed = fs::openat(&above, "f", o_path, fs::Mode::empty()).unwrap();
        let first = vec![pair("user.a", b""), pair("user.long", &[7; 5000])];
        if !set(&Holder::Open(file.as_fd()), &vec![pair("user.a", b"old"), pair("user.gone", b"x")]).unwrap() {
            return; // a file system without attributes
        }

        for holder in [
            Holder::Open(file.as_fd()),
            Holder::beneath(Some(above.as_fd()), b"f").unwrap(),
            Holder::path(pointed.as_fd()).unwrap(),
        ] {
            assert!(replace(&holder, &vec![pair("user.gone", b"again")]).unwrap());
            // Some file systems have no room for so much.
            let all = replace(&holder, &first).unwrap();
            let there = read(&holder).unwrap();
            assert_eq!(there, if all { first.clone() } else { first[..1].to_vec() });
        }
    }

    #[test]
    fn foreign_namespaces_are_left_alone_and_counted() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let file = std::fs::File::create(directory.path().join("f")).unwrap();

        let holder = Holder::Open(file.as_fd());

        assert!(!set(&holder, &vec![pair("security.evm", b"x")]).unwrap());
        assert!(!set(&holder, &vec![pair("no namespace", b"x")]).unwrap());
        assert_eq!(read(&holder).unwrap(), []);
        assert!(
            is_kept(b"security.capability") && is_kept(b"system.posix_acl_default") && !is_kept(b"system.nfs4_acl")
        );
    }
}
