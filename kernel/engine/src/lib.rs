//! The engine of PacketFS: bytes, addresses and files, without Python.
//!
//! To read, start at [`space`] (a volume's bytes as one address space), then [`ingest`]
//! (a directory becomes extents and pages) and [`checkout`] (pages become a directory).
//! Everything else is a part of those three.

pub mod address;
pub mod beneath;
pub mod checkout;
pub mod chunker;
pub mod coding;
pub mod diff;
pub mod digest;
pub mod error;
pub mod extent;
pub mod fault;
pub mod find;
pub mod gather;
pub mod incoming;
pub mod index;
pub mod ingest;
pub mod itemize;
pub mod keys;
pub mod lease;
pub mod literals;
pub mod map;
pub mod mark;
pub mod mend;
pub mod outgoing;
pub mod page;
pub mod scan;
pub mod script;
pub mod select;
pub mod slot;
pub mod space;
pub mod stat_cache;
pub mod table;
pub mod tree;
pub mod unverified;
mod varint;
pub mod verify;
pub mod walk;
pub mod watch;
pub mod xattr;

pub use address::{Address, Extent};
pub use error::{Error, Result};
