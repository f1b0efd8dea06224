//! Names that were asked for, as a tree: what a list of files says about each directory. It opens nothing.

use std::collections::BTreeMap;

use crate::beneath::NAME_BYTES_MAX;
use crate::{Error, Result};

/// A place in the tree of names.
pub type Place = usize;

/// Paths relative to a source, and with them the directories on the way.
#[derive(Clone, Debug)]
pub struct Wanted(Vec<Node>);

#[derive(Clone, Debug, Default)]
struct Node {
    beneath: BTreeMap<Vec<u8>, Place>,
    /// It was named itself: all that is in it belongs to it.
    whole: bool,
}

impl Wanted {
    /// The tree of `paths`. A leading slash, `./` and double slashes count for nothing; `..` is [`Error::Usage`].
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p [u8]>) -> Result<Wanted> {
        let mut nodes = vec![Node::default()];
        for path in paths {
            let mut place = 0;
            for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
                if name == b".." || name.contains(&0) {
                    let shown = String::from_utf8_lossy(path);
                    return Err(Error::Usage(format!("--files-from: \"{shown}\" does not lie in the source")));
                }
                if name.len() > NAME_BYTES_MAX {
                    let shown = String::from_utf8_lossy(path);
                    return Err(Error::Usage(format!("--files-from: \"{shown}\" has a name of {} bytes", name.len())));
                }
                let next = nodes.len();
                let at = *nodes[place].beneath.entry(name.to_vec()).or_insert(next);
                if at == next {
                    nodes.push(Node::default());
                }
                place = at;
            }
            nodes[place].whole = true;
        }
        Ok(Wanted(nodes))
    }

    /// What is wanted of the source itself: a place, or `None` for all of it.
    pub fn root(&self) -> Option<Place> {
        (!self.0[0].whole).then_some(0)
    }

    /// What is wanted of `name` in the directory at `place`: a place, or `None` for all of it.
    pub fn beneath(&self, place: Place, name: &[u8]) -> Option<Place> {
        self.0[place].beneath.get(name).copied().filter(|&at| !self.0[at].whole)
    }

    /// The names wanted in the directory at `place`, ascending, and whether each can only be a directory.
    pub fn names(&self, place: Place) -> impl Iterator<Item = (&[u8], bool)> {
        self.0[place].beneath.iter().map(|(name, &at)| (&name[..], !self.0[at].beneath.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_directories_on_the_way_and_all_that_is_in_what_it_names() {
        let wanted = Wanted::new([&b"a/b"[..], b"./a//c/d", b"/e/", b"e/f"]).unwrap();

        let root = wanted.root().unwrap();
        assert_eq!(wanted.names(root).collect::<Vec<_>>(), [(&b"a"[..], true), (b"e", true)]);
        let a = wanted.beneath(root, b"a").unwrap();
        assert_eq!(wanted.names(a).collect::<Vec<_>>(), [(&b"b"[..], false), (b"c", true)]);
        assert_eq!((wanted.beneath(a, b"b"), wanted.beneath(root, b"e")), (None, None));
        assert_eq!(Wanted::new([&b"."[..]]).unwrap().root(), None);
        assert!(matches!(Wanted::new([&b"a/../../b"[..]]), Err(Error::Usage(_))));
        assert!(matches!(Wanted::new([&[b'x'; 256][..]]), Err(Error::Usage(_))));
        assert!(Wanted::new([&[b'x'; 255][..]]).is_ok());
    }
}
