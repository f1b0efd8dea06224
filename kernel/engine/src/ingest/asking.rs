//! Asks the origin which of the new chunks it has, while the scan goes on. It stores nothing and believes no answer: the
//! store compares whole digests.
//!
//! What arrives from the scout waits here, in order, until its answer is needed. So the questions about several messages
//! are on their way at once, and the network's delay is paid once and not once a message. Without an origin nothing
//! waits.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::error::Result;
use crate::ingest::Message;
use crate::ingest::read::{Group, Outcome, Window};
use crate::ingest::store::Store;
use crate::keys::{Digest, tag};
use crate::scan::Chunk;

/// Messages that wait at most, and their bytes: eight windows of a large file. So much is read in one round trip.
const WAITING_MAX: usize = 8;
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Open directories that they may hold: the scout needs descriptors too, and some systems give 256.
const WAITING_DIRECTORIES_MAX: usize = 64;
/// While fewer bytes than this are unknown nothing is asked: a small push is sent without a round trip of its own.
pub const ASKED_BYTES_MIN: u64 = 256 << 10;

/// What may wait for an answer.
pub trait Asked {
    /// Calls `chunk` with digest and length of each chunk of data.
    fn chunks(&self, chunk: &mut dyn FnMut(&Digest, u32) -> Result<()>) -> Result<()>;

    /// Bytes that it holds.
    fn bytes(&self) -> usize;

    /// Open directories that it holds, or more.
    fn directories(&self) -> usize;
}

/// The messages that wait.
pub struct Asking<M> {
    waiting: VecDeque<Waiting<M>>,
    bytes: usize,
    directories: usize,
    /// Bytes of unknown chunks met, ever.
    unknown_bytes: u64,
}

struct Waiting<M> {
    message: M,
    tags: Vec<u64>,
    waits: Waits,
}

enum Waits {
    /// For no answer of its own.
    Not,
    /// Its tags have not been sent.
    Unsent,
    /// For the answer with this ticket.
    For(u64),
}

impl<M: Asked> Asking<M> {
    /// Nothing waits yet.
    pub fn new() -> Self {
        Asking { waiting: VecDeque::new(), bytes: 0, directories: 0, unknown_bytes: 0 }
    }

    /// Takes a message, and sends off the question about its unknown chunks.
    pub fn take(&mut self, message: M, store: &mut Store<'_>) -> Result<()> {
        let mut tags = Vec::new();
        if store.asks() {
            let mut met = HashSet::new();
            message.chunks(&mut |digest, length| {
                if met.insert(tag(digest)) && !store.has(digest, length)? {
                    tags.push(tag(digest));
                    self.unknown_bytes += u64::from(length);
                }
                Ok(())
            })?;
        }
        self.bytes += message.bytes();
        self.directories += message.directories();
        let waits = if tags.is_empty() { Waits::Not } else { Waits::Unsent };
        self.waiting.push_back(Waiting { message, tags, waits });
        if self.unknown_bytes >= ASKED_BYTES_MIN { self.ask(store) } else { Ok(()) }
    }

    /// Asks in one question about all that has not been asked yet; the first message of them waits for the answer.
    fn ask(&mut self, store: &mut Store<'_>) -> Result<()> {
        let (mut tags, mut first) = (Vec::new(), None);
        for (index, waiting) in self.waiting.iter_mut().enumerate() {
            if matches!(waiting.waits, Waits::Unsent) {
                first = first.or(Some(index));
                tags.append(&mut waiting.tags);
                waiting.waits = Waits::Not;
            }
        }
        if let Some(first) = first.and_then(|first| self.waiting.get_mut(first)) {
            first.waits = Waits::For(store.begin_asking(&tags)?);
            first.tags = tags;
        }
        Ok(())
    }

    /// The next message to settle before another one is taken, its answer with the store; `None` if all may wait.
    pub fn next_due(&mut self, store: &mut Store<'_>) -> Result<Option<M>> {
        let is_full = self.waiting.len() > WAITING_MAX
            || self.bytes > WAITING_BYTES_MAX
            || self.directories > WAITING_DIRECTORIES_MAX;
        let waits_for_nothing = self.waiting.front().is_some_and(|first| matches!(first.waits, Waits::Not));
        if is_full || waits_for_nothing { self.next(store) } else { Ok(None) }
    }

    /// The next message to settle, its answer with the store; `None` if none is left.
    pub fn next(&mut self, store: &mut Store<'_>) -> Result<Option<M>> {
        let Some(Waiting { message, tags, waits }) = self.waiting.pop_front() else { return Ok(None) };
        self.bytes -= message.bytes();
        self.directories -= message.directories();
        if let Waits::For(ticket) = waits {
            store.end_asking(ticket, &tags)?;
        }
        Ok(Some(message))
    }
}

impl Asked for Window {
    fn chunks(&self, chunk: &mut dyn FnMut(&Digest, u32) -> Result<()>) -> Result<()> {
        each(&self.chunks, chunk)
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn directories(&self) -> usize {
        0
    }
}

impl Asked for Message {
    fn chunks(&self, chunk: &mut dyn FnMut(&Digest, u32) -> Result<()>) -> Result<()> {
        match self {
            Message::Batch(_, groups) => {
                for group in groups {
                    for file in &group.files {
                        if let Outcome::Read { chunks, .. } = file {
                            each(&group.chunks[chunks.clone()], chunk)?;
                        }
                    }
                }
                Ok(())
            }
            Message::Window(window) => window.chunks(chunk),
            Message::End(_) => Ok(()),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Message::Batch(_, groups) => groups.iter().map(Group::held_bytes).sum(),
            Message::Window(window) => window.bytes(),
            Message::End(_) => 0,
        }
    }

    fn directories(&self) -> usize {
        let Message::Batch(batch, _) = self else { return 0 };
        let mut open: Vec<_> = batch
            .work
            .iter()
            .chain(&batch.linked)
            .filter_map(|work| work.directory.as_ref())
            .map(Arc::as_ptr)
            .collect();
        open.dedup();
        open.len()
    }
}

/// Calls `chunk` with digest and length of each of `chunks`, which follow each other from 0.
fn each(chunks: &[Chunk], chunk: &mut dyn FnMut(&Digest, u32) -> Result<()>) -> Result<()> {
    let mut start = 0;
    chunks.iter().try_for_each(|Chunk { end, digest }| {
        let length = end - start;
        start = *end;
        chunk(digest, length)
    })
}
