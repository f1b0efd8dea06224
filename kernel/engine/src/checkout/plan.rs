//! What is to be done about one name: decided from two values, with no file in sight.

use crate::itemize::Aspects;
use crate::page::{Entry, EntryKind};

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
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
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
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket, a device.
    Other,
}

/// Who is writing, and whether owners are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether owners are set; only root can.
    pub owner: bool,
    /// Owner of what this process creates.
    pub uid: u32,
    /// Group of what this process creates.
    pub gid: u32,
}

/// Mode and owner that an entry gets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner to set; `None` leaves the creator's.
    pub owner: Option<(u32, u32)>,
    /// Time of the last change.
    pub mtime_ns: i64,
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
    /// Only the mode of a file differs, or its time where its content was compared.
    Touch,
    /// Make it anew, over what is there.
    Make(Over),
    /// A directory that is there: go into it.
    Enter,
    /// Pipes and devices: not made yet.
    Unsupported,
}

impl Rules {
    /// Mode, owner and time that `entry` gets here. Set-id bits go only to a file of the owner they were meant for: a
    /// program that ran as somebody else there must not run as us here.
    pub fn attributes(&self, entry: &Entry) -> Attributes {
        let owner = self.owner.then_some((entry.uid, entry.gid));
        let (uid, gid) = owner.unwrap_or((self.uid, self.gid));
        let meant = (uid, gid) == (entry.uid, entry.gid);
        let mode = entry.mode & if meant { 0o7777 } else { 0o7777 & !SET_ID_BITS };
        Attributes { mode, owner, mtime_ns: entry.mtime_ns }
    }
}

/// Decides about `entry`, where `found` stands now, and where the target was last written from a tree that had `was`.
/// `same_content` is whether a file of the size of `entry` was found to hold what it should; `None`: nobody looked.
pub fn decide(
    entry: &Entry,
    found: Option<&Found>,
    was: Option<&Entry>,
    same_content: Option<bool>,
    rules: &Rules,
) -> Step {
    let wanted = match entry.kind {
        EntryKind::File => FoundKind::File,
        EntryKind::Directory => FoundKind::Directory,
        EntryKind::Symlink => FoundKind::Symlink,
        EntryKind::Fifo | EntryKind::CharDevice | EntryKind::BlockDevice => return Step::Unsupported,
    };
    let Some(found) = found else { return Step::Make(Over::Nothing) };
    if found.kind != wanted {
        let unlike = (found.kind == FoundKind::Directory) != (wanted == FoundKind::Directory);
        return Step::Make(if unlike { Over::Unlike } else { Over::Same });
    }
    let attributes = rules.attributes(entry);
    let foreign = attributes.owner.is_some_and(|owner| owner != (found.uid, found.gid));
    let touch = foreign || found.mode != attributes.mode || found.mtime_ns != attributes.mtime_ns;
    match wanted {
        FoundKind::Directory => Step::Enter,
        // A link has no mode of its own, and is made anew as cheaply as it is changed.
        FoundKind::Symlink if found.target != entry.target || foreign || found.mtime_ns != attributes.mtime_ns => {
            Step::Make(Over::Same)
        }
        FoundKind::Symlink => Step::Keep,
        // Written from other content, which may have had the same size and time.
        _ if same_content == Some(false) => Step::Make(Over::Same),
        _ if same_content.is_none()
            && was.is_some_and(|was| was.kind == EntryKind::File && was.digest != entry.digest) =>
        {
            Step::Make(Over::Same)
        }
        // As make does: what has the same size and time has the same content.
        _ if found.size != entry.size || same_content.is_none() && found.mtime_ns != entry.mtime_ns => {
            Step::Make(Over::Same)
        }
        // But nobody has verified it: it is not given to somebody else, nor somebody's rights to it.
        _ if foreign || gains_rights(&attributes, found, rules) => Step::Make(Over::Same),
        // The other names of a file may be outside the target, or other files in the tree: what is done to one is done
        // to all.
        _ if found.shared && (touch || entry.link_id == 0) => Step::Make(Over::Same),
        _ if touch => Step::Touch,
        _ => Step::Keep,
    }
}

/// In what `found` differs from `entry`, as far as it would be changed.
pub fn differs(entry: &Entry, found: &Found, other_content: bool, rules: &Rules) -> Aspects {
    let Attributes { mode, owner, mtime_ns } = rules.attributes(entry);
    let is = |kind, wanted| entry.kind == kind && found.kind == wanted;
    Aspects {
        content: other_content || is(EntryKind::Symlink, FoundKind::Symlink) && found.target != entry.target,
        size: is(EntryKind::File, FoundKind::File) && found.size != entry.size,
        time: found.mtime_ns != mtime_ns,
        mode: entry.kind != EntryKind::Symlink && found.mode != mode,
        owner: owner.is_some_and(|(uid, _)| uid != found.uid),
        group: owner.is_some_and(|(_, gid)| gid != found.gid),
        xattrs: false,
    }
}

/// Whether a file would run with the rights of its owner or group, and does not do so yet.
fn gains_rights(attributes: &Attributes, found: &Found, rules: &Rules) -> bool {
    let (uid, gid) = attributes.owner.unwrap_or((rules.uid, rules.gid));
    let wanted = attributes.mode & SET_ID_BITS;
    let stranger = wanted & 0o4000 != 0 && uid != found.uid || wanted & 0o2000 != 0 && gid != found.gid;
    stranger || wanted & !found.mode != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { owner: false, uid: 7, gid: 8 };

    fn entry(kind: EntryKind) -> Entry {
        Entry { kind, mode: 0o644, uid: 7, gid: 8, mtime_ns: 5, size: 3, target: b"t".to_vec(), ..Entry::default() }
    }

    fn found(kind: FoundKind) -> Found {
        let target = b"t".to_vec();
        Found { kind, size: 3, mtime_ns: 5, mode: 0o644, uid: 7, gid: 8, identity: (1, 2), shared: false, target }
    }

    #[test]
    fn what_is_equal_is_kept_and_what_differs_in_one_thing_is_done_as_little_about_as_possible() {
        let file = entry(EntryKind::File);
        let is = |found: Found| decide(&file, Some(&found), None, None, &RULES);
        assert_eq!(is(found(FoundKind::File)), Step::Keep);
        assert_eq!(is(Found { mode: 0o600, ..found(FoundKind::File) }), Step::Touch);
        assert_eq!(is(Found { uid: 9, ..found(FoundKind::File) }), Step::Keep);
        assert_eq!(is(Found { size: 4, ..found(FoundKind::File) }), Step::Make(Over::Same));
        assert_eq!(is(Found { mtime_ns: 6, ..found(FoundKind::File) }), Step::Make(Over::Same));
        let owner = Rules { owner: true, ..RULES };
        assert_eq!(
            decide(&file, Some(&Found { mode: 0o600, ..found(FoundKind::File) }), None, None, &owner),
            Step::Touch
        );
    }

    #[test]
    fn bytes_that_nobody_verified_get_neither_another_owner_nor_the_rights_of_one() {
        let owner = Rules { owner: true, ..RULES };
        let made = Step::Make(Over::Same);
        let file = entry(EntryKind::File);
        assert_eq!(decide(&file, Some(&Found { uid: 9, ..found(FoundKind::File) }), None, None, &owner), made);
        assert_eq!(decide(&file, Some(&Found { gid: 9, ..found(FoundKind::File) }), None, None, &owner), made);
        for (mode, bit) in [(0o4755, 0o4000), (0o2755, 0o2000), (0o6755, 0o6000)] {
            let program = Entry { mode, ..entry(EntryKind::File) };
            for rules in [RULES, owner] {
                let is = |found: Found| decide(&program, Some(&found), None, None, &rules);
                assert_eq!(is(Found { mode: 0o755, ..found(FoundKind::File) }), made);
                assert_eq!(is(Found { mode: 0o711 | bit, ..found(FoundKind::File) }), Step::Touch);
                assert_eq!(is(Found { mode: 0o711 | bit, uid: 9, gid: 9, ..found(FoundKind::File) }), made);
                assert_eq!(is(Found { mode, ..found(FoundKind::File) }), Step::Keep);
            }
        }
    }

    #[test]
    fn a_file_with_names_that_are_not_known_is_not_changed() {
        let (single, linked) = (entry(EntryKind::File), Entry { link_id: 1, ..entry(EntryKind::File) });
        let two_names = Found { shared: true, ..found(FoundKind::File) };
        let other_mode = Found { mode: 0o600, ..two_names.clone() };
        assert_eq!(decide(&single, Some(&two_names), None, None, &RULES), Step::Make(Over::Same));
        assert_eq!(decide(&linked, Some(&two_names), None, None, &RULES), Step::Keep);
        assert_eq!(decide(&linked, Some(&other_mode), None, None, &RULES), Step::Make(Over::Same));
    }

    #[test]
    fn a_link_counts_by_where_it_leads() {
        let link = entry(EntryKind::Symlink);
        let is = |found: Found| decide(&link, Some(&found), None, None, &RULES);
        assert_eq!(is(Found { mode: 0o777, size: 1, ..found(FoundKind::Symlink) }), Step::Keep);
        assert_eq!(is(Found { mtime_ns: 1, ..found(FoundKind::Symlink) }), Step::Make(Over::Same));
        assert_eq!(is(Found { target: b"u".to_vec(), ..found(FoundKind::Symlink) }), Step::Make(Over::Same));
    }

    #[test]
    fn a_thing_of_another_kind_is_replaced_and_never_entered() {
        for (kind, there, over) in [
            (EntryKind::Directory, FoundKind::Symlink, Over::Unlike),
            (EntryKind::Directory, FoundKind::File, Over::Unlike),
            (EntryKind::Directory, FoundKind::Other, Over::Unlike),
            (EntryKind::File, FoundKind::Directory, Over::Unlike),
            (EntryKind::Symlink, FoundKind::Directory, Over::Unlike),
            (EntryKind::File, FoundKind::Symlink, Over::Same),
            (EntryKind::File, FoundKind::Other, Over::Same),
            (EntryKind::Symlink, FoundKind::File, Over::Same),
        ] {
            assert_eq!(decide(&entry(kind), Some(&found(there)), None, None, &RULES), Step::Make(over));
        }
        assert_eq!(decide(&entry(EntryKind::Fifo), None, None, None, &RULES), Step::Unsupported);
        assert_eq!(decide(&entry(EntryKind::File), None, None, None, &RULES), Step::Make(Over::Nothing));
    }

    #[test]
    fn set_id_bits_go_only_with_the_owner_they_were_meant_for() {
        let program = Entry { mode: 0o6755, uid: 0, gid: 0, ..entry(EntryKind::File) };
        assert_eq!(RULES.attributes(&program).mode, 0o755);
        assert_eq!(Rules { owner: true, ..RULES }.attributes(&program).mode, 0o6755);
        assert_eq!(RULES.attributes(&Entry { uid: 7, gid: 8, ..program }).mode, 0o6755);
    }
}
