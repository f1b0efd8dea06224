//! Names of users and groups, as the host knows them. It asks about each number once, and a name that the host does not
//! know stays empty: the number counts then.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::ingest::store::Store;
use crate::page::OWNER_BYTES_MAX;

/// Whose name is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The user of this number.
    User(u32),
    /// The group of this number.
    Group(u32),
}

/// Names asked for so far.
#[derive(Default)]
pub struct Owners(HashMap<Owner, Vec<u8>>);

impl Owners {
    /// The name of an owner; empty if there is none.
    pub fn name(&mut self, owner: Owner, store: &mut Store<'_>) -> Result<Vec<u8>> {
        if let Some(name) = self.0.get(&owner) {
            return Ok(name.clone());
        }
        let name = store.owner_name(owner)?;
        if name.len() > OWNER_BYTES_MAX {
            return Err(Error::Invalid(format!("the name of {owner:?} has {} bytes", name.len())));
        }
        self.0.insert(owner, name.clone());
        Ok(name)
    }
}
