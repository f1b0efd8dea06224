//! What is to be done about one name: decided from two values, with no file in sight.

use crate::itemize::Aspects;
use crate::page::{Entry, EntryKind};
use crate::xattr::{self, Xattrs};

/// Permission bits that give a program its owner's rights.
const SET_ID_BITS: u32 = 0o6000;

/// What a name in the target stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its kind.
    pub kind: FoundKind,
    /// Bytes of a file.
    pub size: u64,
    /// Time of the last change.
    pub mtime_ns: i64,
    /// Time of the last change of anything, attributes included.
    pub ctime_ns: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A device's number.
    pub rdev: u64,
    /// Device and number, the same for all names of one file.
    pub identity: (u64, u64),
    /// Whether the file has other names, here or elsewhere.
    pub shared: bool,
    /// Where a symbolic link leads.
    pub target: Vec<u8>,
}

/// Kinds of things that can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// What a snapshot can hold.
    Known(EntryKind),
    /// A socket.
    Socket,
}

impl Found {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FoundKind::Known(EntryKind::File)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FoundKind::Known(EntryKind::Directory)
    }
}

/// Whom things are to belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Whether owners are restored at all.
    pub restore: bool,
    /// By their numbers, also where their names are known here.
    pub numeric: bool,
    /// The user that everything is given to.
    pub user: Option<u32>,
    /// The group that everything is given to.
    pub group: Option<u32>,
}

/// Who is writing, and what is wished of owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What is wished.
    pub owners: Owners,
    /// Whether we may give things away.
    pub root: bool,
    /// Owner of what this process creates.
    pub uid: u32,
    /// Group of what this process creates.
    pub gid: u32,
    /// Groups that this process may give its own things to.
    pub groups: Vec<u32>,
}

/// Mode, owner and time that an entry gets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner to set; `None` leaves the creator's.
    pub uid: Option<u32>,
    /// Group to set; `None` leaves the creator's.
    pub gid: Option<u32>,
    /// Who it belongs to when we have made it.
    pub got: (u32, u32),
    /// Who it should belong to, if that was wished at all.
    pub wanted: Option<(u32, u32)>,
    /// Time of the last change.
    pub mtime_ns: i64,
}

impl Attributes {
    /// Whether something of this owner has to be given to another one, and can be.
    pub fn gives_away(&self, owner: (u32, u32)) -> bool {
        self.over(owner) != owner
    }

    /// Whom something of this owner belongs to in the end.
    fn over(&self, owner: (u32, u32)) -> (u32, u32) {
        (self.uid.unwrap_or(owner.0), self.gid.unwrap_or(owner.1))
    }

    /// Whether something of this owner, in the end, belongs to another one than it should.
    pub fn misses(&self, owner: (u32, u32)) -> bool {
        self.wanted.is_some_and(|wanted| wanted != self.over(owner))
    }
}

/// What stands in the way of something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Nothing.
    Nothing,
    /// Something that a rename replaces in one step.
    Same,
    /// A directory where something else is to be, or the other way round.
    Unlike,
}

/// What is to be done about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is as it should be.
    Keep,
    /// Only the mode or the extended attributes of a file differ, or its time where its content is known to be right.
    Touch,
    /// Make it anew, over what is there.
    Make(Over),
    /// A directory that is there: go into it.
    Enter,
}

impl Rules {
    /// Mode, owner and time that `entry` gets here, whose owner is called `meant` on this machine. Set-id bits go only
    /// to a file of the owner they were meant for: a program that ran as somebody else there must not run as us here.
    pub fn attributes(&self, entry: &Entry, meant: (u32, u32)) -> Attributes {
        let Owners { restore, user, group, .. } = self.owners;
        let wanted = restore.then_some((user.unwrap_or(meant.0), group.unwrap_or(meant.1)));
        let uid = wanted.map(|wanted| wanted.0).filter(|_| self.root);
        let gid = wanted.map(|wanted| wanted.1).filter(|gid| self.root || self.groups.contains(gid));
        let got = (uid.unwrap_or(self.uid), gid.unwrap_or(self.gid));
        let mode = entry.mode & if got == meant { 0o7777 } else { 0o7777 & !SET_ID_BITS };
        Attributes { mode, uid, gid, got, wanted, mtime_ns: entry.mtime_ns }
    }
}

/// Decides about `entry`, where `found` stands now, and where the target was last written from a tree that had `was`.
/// `same_content` is whether a file of the size of `entry` was found to hold what it should, now or (with the status
/// that it has) before; `None`: nobody looked.
/// Extended attributes are another matter: see [`with_xattrs`].
pub fn decide(
    entry: &Entry,
    attributes: &Attributes,
    found: Option<&Found>,
    was: Option<&Entry>,
    same_content: Option<bool>,
) -> Step {
    let Some(found) = found else { return Step::Make(Over::Nothing) };
    if found.kind != FoundKind::Known(entry.kind) {
        let is_directory = found.kind == FoundKind::Known(EntryKind::Directory);
        let unlike = is_directory != (entry.kind == EntryKind::Directory);
        return Step::Make(if unlike { Over::Unlike } else { Over::Same });
    }
    let foreign = attributes.gives_away((found.uid, found.gid));
    let touch = foreign || found.mode != attributes.mode || found.mtime_ns != attributes.mtime_ns;
    match entry.kind {
        EntryKind::Directory => Step::Enter,
        // The other names of a file may be outside the target, or other files in the tree: what is done to one is done
        // to all.
        _ if found.shared && entry.link_id == 0 => Step::Make(Over::Same),
        // A link has no mode of its own, and is made anew as cheaply as it is changed.
        EntryKind::Symlink if found.target != entry.target || foreign || found.mtime_ns != attributes.mtime_ns => {
            Step::Make(Over::Same)
        }
        EntryKind::Symlink => Step::Keep,
        EntryKind::Fifo | EntryKind::CharDevice | EntryKind::BlockDevice => match touch || found.rdev != entry.rdev {
            true => Step::Make(Over::Same),
            false => Step::Keep,
        },
        EntryKind::File if same_content == Some(false) => Step::Make(Over::Same),
        // Written from other content, which had the same size and time: they do not tell.
        EntryKind::File if same_content.is_none() && was.is_some_and(|was| is_behind(was, entry)) => {
            Step::Make(Over::Same)
        }
        // As make does: what has the same size and time has the same content.
        EntryKind::File if found.size != entry.size || same_content.is_none() && found.mtime_ns != entry.mtime_ns => {
            Step::Make(Over::Same)
        }
        // But nobody has verified it: it is not given to somebody else, nor somebody's rights to it.
        EntryKind::File if foreign || gains_rights(attributes, found) => Step::Make(Over::Same),
        EntryKind::File if found.shared && touch => Step::Make(Over::Same),
        EntryKind::File if touch => Step::Touch,
        EntryKind::File => Step::Keep,
    }
}

/// Whether `entry` has other content than `was` behind equal size and time. If size or time differ, a file that has
/// those of `entry` was written since: by a pull that did not come to its end.
fn is_behind(was: &Entry, entry: &Entry) -> bool {
    was.kind == EntryKind::File
        && was.digest != entry.digest
        && (was.size, was.mtime_ns) == (entry.size, entry.mtime_ns)
}

/// What is to be done where [`decide`] said to keep or touch and the name has the attributes `there`.
pub fn with_xattrs(step: Step, entry: &Entry, found: &Found, there: &Xattrs) -> Step {
    // Bytes that nobody has verified are not made a program with rights.
    let gains = |wanted: &[u8]| xattr::value(there, xattr::CAPABILITY) != Some(wanted);
    match (step, entry.kind) {
        _ if *there == entry.xattrs => step,
        (Step::Keep | Step::Touch, EntryKind::File)
            if !found.shared && !xattr::value(&entry.xattrs, xattr::CAPABILITY).is_some_and(gains) =>
        {
            Step::Touch
        }
        (Step::Keep | Step::Touch, _) => Step::Make(Over::Same),
        (step, _) => step,
    }
}

/// In what `found` differs from `entry`, as far as it would be changed.
pub fn differs(entry: &Entry, found: &Found, other_content: bool, attributes: &Attributes) -> Aspects {
    let both = |kind| entry.kind == kind && found.kind == FoundKind::Known(kind);
    Aspects {
        content: other_content || both(EntryKind::Symlink) && found.target != entry.target,
        size: both(EntryKind::File) && found.size != entry.size,
        time: found.mtime_ns != attributes.mtime_ns,
        mode: entry.kind != EntryKind::Symlink && found.mode != attributes.mode,
        owner: attributes.uid.is_some_and(|uid| uid != found.uid),
        group: attributes.gid.is_some_and(|gid| gid != found.gid),
        xattrs: false,
    }
}

/// Whether a file would run with the rights of its owner or group, and does not do so yet.
fn gains_rights(attributes: &Attributes, found: &Found) -> bool {
    let (uid, gid) = attributes.got;
    let wanted = attributes.mode & SET_ID_BITS;
    let stranger = wanted & 0o4000 != 0 && uid != found.uid || wanted & 0o2000 != 0 && gid != found.gid;
    stranger || wanted & !found.mode != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELF: (u32, u32) = (7, 8);

    fn rules(restore: bool, root: bool) -> Rules {
        Rules { owners: Owners { restore, ..Owners::default() }, root, uid: SELF.0, gid: SELF.1, groups: vec![SELF.1] }
    }

    fn entry(kind: EntryKind) -> Entry {
        Entry { kind, mode: 0o644, uid: 7, gid: 8, mtime_ns: 5, size: 3, target: b"t".to_vec(), ..Entry::default() }
    }

    fn found(kind: EntryKind) -> Found {
        Found {
            kind: FoundKind::Known(kind),
            size: 3,
            mtime_ns: 5,
            ctime_ns: 6,
            mode: 0o644,
            uid: 7,
            gid: 8,
            rdev: 0,
            identity: (1, 2),
            shared: false,
            target: b"t".to_vec(),
        }
    }

    fn attributes(rules: &Rules, entry: &Entry) -> Attributes {
        rules.attributes(entry, (entry.uid, entry.gid))
    }

    fn step(entry: &Entry, found: &Found, rules: &Rules) -> Step {
        decide(entry, &attributes(rules, entry), Some(found), None, None)
    }

    #[test]
    fn what_is_equal_is_kept_and_what_differs_in_one_thing_is_done_as_little_about_as_possible() {
        let file = entry(EntryKind::File);
        let is = |found: Found| step(&file, &found, &rules(false, true));
        assert_eq!(is(found(EntryKind::File)), Step::Keep);
        assert_eq!(is(Found { mode: 0o600, ..found(EntryKind::File) }), Step::Touch);
        assert_eq!(is(Found { uid: 9, ..found(EntryKind::File) }), Step::Keep);
        assert_eq!(is(Found { size: 4, ..found(EntryKind::File) }), Step::Make(Over::Same));
        assert_eq!(is(Found { mtime_ns: 6, ..found(EntryKind::File) }), Step::Make(Over::Same));
        assert_eq!(step(&file, &Found { mode: 0o600, ..found(EntryKind::File) }, &rules(true, true)), Step::Touch);
    }

    #[test]
    fn bytes_that_nobody_verified_get_neither_another_owner_nor_the_rights_of_one() {
        let (plain, owner) = (rules(false, true), rules(true, true));
        let made = Step::Make(Over::Same);
        let file = entry(EntryKind::File);
        assert_eq!(step(&file, &Found { uid: 9, ..found(EntryKind::File) }, &owner), made);
        assert_eq!(step(&file, &Found { gid: 9, ..found(EntryKind::File) }, &owner), made);
        for (mode, bit) in [(0o4755, 0o4000), (0o2755, 0o2000), (0o6755, 0o6000)] {
            let program = Entry { mode, ..entry(EntryKind::File) };
            for rules in [&plain, &owner] {
                let is = |found: Found| step(&program, &found, rules);
                assert_eq!(is(Found { mode: 0o755, ..found(EntryKind::File) }), made);
                assert_eq!(is(Found { mode: 0o711 | bit, ..found(EntryKind::File) }), Step::Touch);
                assert_eq!(is(Found { mode: 0o711 | bit, uid: 9, gid: 9, ..found(EntryKind::File) }), made);
                assert_eq!(is(Found { mode, ..found(EntryKind::File) }), Step::Keep);
            }
        }
        let capable = vec![(xattr::CAPABILITY.to_vec(), b"all".to_vec())];
        let program = Entry { xattrs: capable.clone(), ..file };
        assert_eq!(with_xattrs(Step::Keep, &program, &found(EntryKind::File), &vec![]), made);
        assert_eq!(with_xattrs(Step::Touch, &program, &found(EntryKind::File), &capable), Step::Touch);
    }

    #[test]
    fn attributes_that_differ_are_set_where_that_touches_nothing_else() {
        let named = |value: &str| vec![(b"user.a".to_vec(), value.as_bytes().to_vec())];
        let file = Entry { xattrs: named("1"), ..entry(EntryKind::File) };
        let one = found(EntryKind::File);
        assert_eq!(with_xattrs(Step::Keep, &file, &one, &named("1")), Step::Keep);
        assert_eq!(with_xattrs(Step::Keep, &file, &one, &named("2")), Step::Touch);
        assert_eq!(with_xattrs(Step::Keep, &file, &Found { shared: true, ..one }, &vec![]), Step::Make(Over::Same));
        let pipe = Entry { xattrs: vec![], ..entry(EntryKind::Fifo) };
        assert_eq!(with_xattrs(Step::Keep, &pipe, &found(EntryKind::Fifo), &named("1")), Step::Make(Over::Same));
    }

    #[test]
    fn other_content_behind_equal_size_and_time_counts_and_a_pull_that_was_stopped_goes_on() {
        let new = Entry { digest: [1; 32], ..entry(EntryKind::File) };
        let is = |was: Entry| {
            decide(&new, &attributes(&rules(false, false), &new), Some(&found(EntryKind::File)), Some(&was), None)
        };
        assert_eq!(is(entry(EntryKind::File)), Step::Make(Over::Same));
        assert_eq!(is(Entry { mtime_ns: 4, ..entry(EntryKind::File) }), Step::Keep);
        assert_eq!(is(new.clone()), Step::Keep);
    }

    #[test]
    fn a_file_with_names_that_are_not_known_is_not_changed() {
        let (single, linked) = (entry(EntryKind::File), Entry { link_id: 1, ..entry(EntryKind::File) });
        let two_names = Found { shared: true, ..found(EntryKind::File) };
        let other_mode = Found { mode: 0o600, ..two_names.clone() };
        let rules = rules(false, false);
        assert_eq!(step(&single, &two_names, &rules), Step::Make(Over::Same));
        assert_eq!(step(&linked, &two_names, &rules), Step::Keep);
        assert_eq!(step(&linked, &other_mode, &rules), Step::Make(Over::Same));
    }

    #[test]
    fn a_link_counts_by_where_it_leads_and_a_device_by_its_number() {
        let rules = rules(false, false);
        let link = entry(EntryKind::Symlink);
        let is = |found: Found| step(&link, &found, &rules);
        assert_eq!(is(Found { mode: 0o777, size: 1, ..found(EntryKind::Symlink) }), Step::Keep);
        assert_eq!(is(Found { mtime_ns: 1, ..found(EntryKind::Symlink) }), Step::Make(Over::Same));
        assert_eq!(is(Found { target: b"u".to_vec(), ..found(EntryKind::Symlink) }), Step::Make(Over::Same));
        let device = Entry { rdev: 259, ..entry(EntryKind::BlockDevice) };
        assert_eq!(step(&device, &Found { rdev: 259, ..found(EntryKind::BlockDevice) }, &rules), Step::Keep);
        assert_eq!(step(&device, &found(EntryKind::BlockDevice), &rules), Step::Make(Over::Same));
    }

    #[test]
    fn a_thing_of_another_kind_is_replaced_and_never_entered() {
        use EntryKind::{CharDevice, Directory, Fifo, File, Symlink};
        for (kind, there, over) in [
            (Directory, Symlink, Over::Unlike),
            (Directory, File, Over::Unlike),
            (Directory, Fifo, Over::Unlike),
            (File, Directory, Over::Unlike),
            (Symlink, Directory, Over::Unlike),
            (Fifo, Directory, Over::Unlike),
            (File, Symlink, Over::Same),
            (File, Fifo, Over::Same),
            (Fifo, CharDevice, Over::Same),
            (Symlink, File, Over::Same),
        ] {
            assert_eq!(step(&entry(kind), &found(there), &rules(false, false)), Step::Make(over));
        }
        let socket = Found { kind: FoundKind::Socket, ..found(File) };
        assert_eq!(step(&entry(Fifo), &socket, &rules(false, false)), Step::Make(Over::Same));
        let file = entry(File);
        assert_eq!(
            decide(&file, &attributes(&rules(false, false), &file), None, None, None),
            Step::Make(Over::Nothing)
        );
    }

    #[test]
    fn set_id_bits_go_only_with_the_owner_they_were_meant_for() {
        let program = Entry { mode: 0o6755, uid: 0, gid: 0, ..entry(EntryKind::File) };
        assert_eq!(attributes(&rules(false, false), &program).mode, 0o755);
        assert_eq!(attributes(&rules(true, true), &program).mode, 0o6755);
        let ours = Entry { uid: 7, gid: 8, ..program.clone() };
        assert_eq!(attributes(&rules(false, false), &ours).mode, 0o6755);
        // Given to somebody who asked for it, and not by the snapshot.
        let given = Rules { owners: Owners { restore: true, user: Some(7), ..Owners::default() }, ..rules(true, true) };
        assert_eq!(attributes(&given, &program).mode, 0o755);
        // Another number, but the same name.
        assert_eq!(rules(true, true).attributes(&program, (33, 34)).mode, 0o6755);
    }

    #[test]
    fn who_is_not_root_gives_to_groups_of_his_own_and_misses_the_rest() {
        let mine = Rules { groups: vec![8, 50], ..rules(true, false) };
        let theirs = mine.attributes(&entry(EntryKind::File), (7, 50));
        assert_eq!((theirs.uid, theirs.gid, theirs.got), (None, Some(50), (7, 50)));
        assert!(!theirs.misses(SELF) && theirs.gives_away(SELF));
        let others = mine.attributes(&entry(EntryKind::File), (9, 51));
        assert_eq!((others.uid, others.gid, others.got), (None, None, SELF));
        assert!(others.misses(SELF) && !others.misses((9, 51)));
        let not_wished = rules(false, false).attributes(&entry(EntryKind::File), (9, 51));
        assert!(!not_wished.misses(SELF));
    }
}
