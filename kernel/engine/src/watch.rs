//! Hears by inotify that something in directories has changed. What it is, a walk finds out: events are never believed.
//!
//! That makes it whole without bookkeeping: a directory is watched before it is listed, so what comes into it later is
//! heard, and when the kernel has dropped events all is watched anew and counts as changed. Symbolic links are not
//! followed. Only a file system that this machine alone changes tells everything: what others do over a network is not
//! heard.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::select::Patterns;

const EVENTS_BYTES: usize = 64 << 10;

/// Directories under watch.
pub struct Watch {
    inotify: OwnedFd,
    roots: Vec<PathBuf>,
    excluded: Option<Patterns>,
    places: HashMap<i32, Place>,
}

/// Where a watched directory is: beneath which root, and its path from there.
#[derive(Clone, PartialEq, Eq)]
struct Place {
    root: usize,
    path: Vec<u8>,
}

impl Place {
    fn beneath(&self, name: &[u8]) -> Place {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Place { root: self.root, path }
    }

    fn is_at_or_beneath(&self, above: &Place) -> bool {
        let rest = self.path.strip_prefix(above.path.as_slice());
        self.root == above.root
            && rest.is_some_and(|rest| above.path.is_empty() || matches!(rest.first(), None | Some(b'/')))
    }
}

/// What has been read of an event.
struct Heard {
    id: i32,
    what: ReadFlags,
    name: Vec<u8>,
}

impl Watch {
    /// Watches directories and all beneath them, but not what `excluded` excludes by its path from its root.
    ///
    /// [`Errno::NOSPC`] when the system lets nobody watch so many, [`Errno::MFILE`] when there are too many watchers.
    pub fn new(roots: Vec<PathBuf>, excluded: Option<Patterns>) -> rustix::io::Result<Watch> {
        let mut watch = Watch { inotify: begin()?, roots, excluded, places: HashMap::new() };
        watch.add_roots()?;
        Ok(watch)
    }

    /// How many directories are watched.
    pub fn directories(&self) -> usize {
        self.places.len()
    }

    /// Waits for a change; `false` after `patience` without one, or when a signal came.
    ///
    /// Then it waits until nothing has changed for `quiet`, at most `limit` in all, so that what is written together is
    /// told together. All that came into being before it returns is watched by then.
    pub fn wait(&mut self, patience: Option<Duration>, quiet: Duration, limit: Duration) -> rustix::io::Result<bool> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.is_readable(rest) {
                Ok(true) => {}
                Ok(false) | Err(Errno::INTR) => return Ok(false),
                Err(errno) => return Err(errno),
            }
            if self.drain()? {
                break;
            }
        }
        let end = Instant::now() + limit;
        loop {
            let rest = end.saturating_duration_since(Instant::now());
            match self.is_readable(Some(quiet.min(rest))) {
                Ok(true) if !rest.is_zero() => self.drain()?,
                Ok(_) | Err(Errno::INTR) => return Ok(true),
                Err(errno) => return Err(errno),
            };
        }
    }

    fn is_readable(&self, patience: Option<Duration>) -> rustix::io::Result<bool> {
        let patience = patience.map(|patience| Timespec {
            tv_sec: patience.as_secs().cast_signed(),
            tv_nsec: i64::from(patience.subsec_nanos()),
        });
        Ok(poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], patience.as_ref())? > 0)
    }

    /// Takes in what has been heard; whether any of it may matter.
    fn drain(&mut self) -> rustix::io::Result<bool> {
        let mut is_changed = false;
        loop {
            let heard = self.read()?;
            if heard.is_empty() {
                return Ok(is_changed);
            }
            for event in heard {
                if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
                    self.inotify = begin()?;
                    self.places.clear();
                    self.add_roots()?;
                    return Ok(true);
                }
                is_changed |= self.hear(&event)?;
            }
        }
    }

    fn read(&self) -> rustix::io::Result<Vec<Heard>> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); EVENTS_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut heard = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => heard.push(Heard {
                    id: event.wd(),
                    what: event.events(),
                    name: event.file_name().map_or_else(Vec::new, |name| name.to_bytes().to_vec()),
                }),
                Err(Errno::WOULDBLOCK) => return Ok(heard),
                Err(errno) => return Err(errno),
            }
            if reader.is_buffer_empty() {
                return Ok(heard);
            }
        }
    }

    fn hear(&mut self, event: &Heard) -> rustix::io::Result<bool> {
        if event.what.contains(ReadFlags::IGNORED) {
            self.places.remove(&event.id);
            return Ok(false);
        }
        let Some(place) = self.places.get(&event.id) else { return Ok(false) };
        if event.name.is_empty() {
            return Ok(true);
        }
        let (place, is_directory) = (place.beneath(&event.name), event.what.contains(ReadFlags::ISDIR));
        if self.excludes(&place, is_directory) {
            return Ok(false);
        }
        if is_directory && event.what.intersects(ReadFlags::MOVED_FROM) {
            self.forget(&place);
        }
        if is_directory && event.what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            self.add(place)?;
        }
        Ok(true)
    }

    fn excludes(&self, place: &Place, is_directory: bool) -> bool {
        self.excluded.as_ref().is_some_and(|patterns| patterns.excludes(&place.path, is_directory) == Some(true))
    }

    fn add_roots(&mut self) -> rustix::io::Result<()> {
        (0..self.roots.len()).try_for_each(|root| self.add(Place { root, path: Vec::new() }))
    }

    /// Watches a directory and all beneath it. One that is gone, or that nobody may read, is for the walk to tell of.
    fn add(&mut self, place: Place) -> rustix::io::Result<()> {
        let mut waiting = vec![place];
        while let Some(place) = waiting.pop() {
            let path = self.path(&place);
            let flags = WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MODIFY
                | WatchFlags::ATTRIB
                | WatchFlags::MOVE
                | WatchFlags::MOVE_SELF
                | WatchFlags::DELETE_SELF
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW;
            match inotify::add_watch(&self.inotify, &path, flags) {
                Ok(id) => self.places.insert(id, place.clone()),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => continue,
                Err(errno) => return Err(errno),
            };
            let Ok(entries) = fs::read_dir(&path) else { continue };
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let inner = place.beneath(entry.file_name().as_bytes());
                if !self.excludes(&inner, true) {
                    waiting.push(inner);
                }
            }
        }
        Ok(())
    }

    /// What is no longer here is not listened to.
    fn forget(&mut self, gone: &Place) {
        let inotify = &self.inotify;
        self.places.retain(|&id, place| {
            let is_kept = !place.is_at_or_beneath(gone);
            if !is_kept {
                let _ = inotify::remove_watch(inotify, id); // it may be gone by itself
            }
            is_kept
        });
    }

    fn path(&self, place: &Place) -> PathBuf {
        match place.path.as_slice() {
            b"" => self.roots[place.root].clone(),
            path => self.roots[place.root].join(Path::new(OsStr::from_bytes(path))),
        }
    }
}

fn begin() -> rustix::io::Result<OwnedFd> {
    inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::Line;

    const NOW: Option<Duration> = Some(Duration::ZERO);
    const LONG: Option<Duration> = Some(Duration::from_secs(20));

    fn changed(watch: &mut Watch) -> bool {
        watch.wait(NOW, Duration::ZERO, Duration::from_secs(5)).unwrap()
    }

    fn watching(root: &Path) -> Watch {
        Watch::new(vec![root.to_path_buf()], None).unwrap()
    }

    #[test]
    fn whatever_changes_is_heard_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/f"), "1").unwrap();
        let mut watch = watching(root);
        assert_eq!(watch.directories(), 3);
        assert!(!changed(&mut watch));

        let changes: [(&str, &dyn Fn(&Path)); 7] = [
            ("content", &|root| fs::write(root.join("a/b/f"), "2").unwrap()),
            ("a new file", &|root| fs::write(root.join("g"), "").unwrap()),
            ("a name", &|root| fs::rename(root.join("g"), root.join("a/g")).unwrap()),
            ("a mode", &|root| {
                fs::set_permissions(root.join("a/g"), fs::metadata(root).unwrap().permissions()).unwrap()
            }),
            ("a link", &|root| std::os::unix::fs::symlink("x", root.join("a/l")).unwrap()),
            ("a removal", &|root| fs::remove_file(root.join("a/b/f")).unwrap()),
            ("a directory", &|root| fs::create_dir(root.join("c")).unwrap()),
        ];
        for (what, change) in changes {
            change(root);
            assert!(changed(&mut watch), "{what}");
            assert!(!changed(&mut watch), "{what} twice");
        }
        fs::read(root.join("a/g")).unwrap();
        fs::read_dir(root.join("a")).unwrap().for_each(drop);
        assert!(!changed(&mut watch), "reading changes nothing");
    }

    #[test]
    fn new_and_moved_directories_are_watched_and_what_left_is_not() {
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = directory.path();
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        let mut watch = watching(root);

        fs::create_dir_all(root.join("n/e/w")).unwrap();
        assert!(changed(&mut watch));
        fs::write(root.join("n/e/w/f"), "").unwrap();
        assert!(changed(&mut watch));

        fs::rename(root.join("a"), root.join("n/a")).unwrap();
        assert!(changed(&mut watch));
        fs::write(root.join("n/a/b/c/f"), "").unwrap();
        assert!(changed(&mut watch));
        fs::create_dir_all(root.join("n/a/b/c/d/e")).unwrap();
        assert!(changed(&mut watch));
        fs::write(root.join("n/a/b/c/d/e/f"), "").unwrap();
        assert!(changed(&mut watch));

        fs::rename(root.join("n/a"), elsewhere.path().join("a")).unwrap();
        assert!(changed(&mut watch));
        fs::write(elsewhere.path().join("a/b/c/f"), "2").unwrap();
        assert!(!changed(&mut watch));
        assert_eq!(watch.directories(), 4);
        fs::remove_dir_all(root.join("n")).unwrap();
        assert!(changed(&mut watch));
        assert!(!changed(&mut watch));
        assert_eq!(watch.directories(), 1);
    }

    #[test]
    fn what_is_excluded_is_not_heard() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("build/deep")).unwrap();
        let lines = [b"*.o".as_slice(), b"/build/"].map(|line| Line { place: "test".into(), pattern: line.to_vec() });
        let mut watch = Watch::new(vec![root.to_path_buf()], Some(Patterns::new(&lines).unwrap())).unwrap();
        assert_eq!(watch.directories(), 1);

        fs::write(root.join("build/deep/f"), "").unwrap();
        fs::write(root.join("f.o"), "").unwrap();
        assert!(!changed(&mut watch));
        fs::write(root.join("f.c"), "").unwrap();
        assert!(changed(&mut watch));
    }

    #[test]
    fn when_events_were_lost_all_is_watched_anew_and_counts_as_changed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let limit: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        let mut watch = watching(root);
        for number in 0..=limit {
            fs::write(root.join(if number % 2 == 0 { "a" } else { "b" }), "1").unwrap(); // equal ones in a row are one
        }
        fs::create_dir(root.join("unheard")).unwrap();

        assert!(watch.wait(LONG, Duration::ZERO, Duration::from_secs(5)).unwrap());
        assert!(!changed(&mut watch));
        assert_eq!(watch.directories(), 2);
        fs::write(root.join("unheard/f"), "").unwrap();
        assert!(changed(&mut watch));
    }

    #[test]
    fn what_is_written_together_is_told_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut watch = watching(directory.path());
        let writer =
            std::thread::spawn(move || (0..50).for_each(|number| fs::write(&path, number.to_string()).unwrap()));

        assert!(watch.wait(LONG, Duration::from_secs(1), Duration::from_secs(20)).unwrap());
        writer.join().unwrap();
        assert!(!changed(&mut watch));
    }

    #[test]
    fn a_root_that_goes_is_heard() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut watch = watching(&root);

        fs::rename(&root, directory.path().join("other")).unwrap();

        assert!(changed(&mut watch));
    }
}
