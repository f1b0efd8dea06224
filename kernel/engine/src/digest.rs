//! Digests of chunks and of whole contents: keyed BLAKE3-256 from the `blake3` crate, and nothing of our own beside it.

use crate::keys::{Digest, keyed};

/// The digest of a chunk under a volume's digest key.
pub fn digest(key: &[u8; 32], chunk: &[u8]) -> Digest {
    keyed(key, chunk)
}

/// The content digest of a file: keyed BLAKE3 over the digests of its chunks in order.
///
/// A hole is 24 zero bytes and its length as a little-endian u64, so that verifying a file against chunk tables
/// reads no data. Two files of equal chunks and holes have equal content digests; how extents group them is not seen.
#[derive(Clone)]
pub struct ContentDigest(blake3::Hasher);

impl ContentDigest {
    /// Of nothing yet, under `Keys::content`.
    pub fn new(content_key: &[u8; 32]) -> ContentDigest {
        ContentDigest(blake3::Hasher::new_keyed(content_key))
    }

    /// The next chunk.
    pub fn chunk(&mut self, digest: &Digest) {
        self.0.update(digest);
    }

    /// The next hole, `length` bytes long. Neighbouring holes must be given as one.
    pub fn hole(&mut self, length: u64) {
        let mut item = [0; 32];
        item[24..].copy_from_slice(&length.to_le_bytes());
        self.0.update(&item);
    }

    /// The digest of everything so far.
    pub fn finish(&self) -> Digest {
        *self.0.finalize().as_bytes()
    }
}

impl std::fmt::Debug for ContentDigest {
    /// Shows nothing: the state depends on the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentDigest(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_digest_is_the_keyed_digest_of_its_items_in_order() {
        let key = [7; 32];
        let mut content = ContentDigest::new(&key);
        content.chunk(&[1; 32]);
        content.hole(0x0102);
        content.chunk(&[2; 32]);

        let mut items = vec![1; 32];
        items.extend([0; 24]);
        items.extend([2, 1, 0, 0, 0, 0, 0, 0]);
        items.extend([2; 32]);
        assert_eq!(content.finish(), keyed(&key, &items));
    }

    #[test]
    fn empty_content_is_the_keyed_digest_of_nothing() {
        assert_eq!(ContentDigest::new(&[3; 32]).finish(), keyed(&[3; 32], b""));
    }
}
