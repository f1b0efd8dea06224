//! Bytes to pages: what a script says is done to the base, and nothing of it is believed.

use std::collections::HashSet;
use std::iter::Peekable;
use std::sync::Arc;

use crate::address::{Address, Extent};
use crate::keys::Digest;
use crate::page::Entry;
use crate::space::Space;
use crate::{Error, Result};

/// Takes rebuilt pages: where they belong, their bytes, and the digest of the chunk that they are.
pub type Place<'a> = dyn FnMut(Address, &[u8], Digest) -> Result<()> + 'a;

/// Rebuilds the pages of a tree from a script.
pub struct Applier {
    #[allow(dead_code)]
    space: Arc<Space>,
}

impl Applier {
    /// An applier of a script from `base`, which `space` holds whole.
    pub fn new(space: &Arc<Space>, _base: Option<&Entry>) -> Result<Self> {
        Ok(Applier { space: Arc::clone(space) })
    }

    /// Does what a part says, and calls `place` with each page that this completes.
    pub fn part(&mut self, _part: &[u8], _place: &mut Place<'_>) -> Result<()> {
        Err(Error::Invalid("not yet".into()))
    }

    /// The root entry.
    pub fn finish(self) -> Result<Entry> {
        Err(Error::Invalid("not yet".into()))
    }
}
#[allow(dead_code)]
type _Later = (HashSet<u8>, Peekable<std::vec::IntoIter<Extent>>);
