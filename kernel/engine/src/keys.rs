//! The keys of a volume, all derived from its secret, and the digests made with them.
//!
//! Contexts are part of the format (docs/formats/keys.md): changing a letter re-keys every volume.

/// A digest: keyed BLAKE3-256.
pub type Digest = [u8; 32];

/// Derives the 32-byte key for `context` from `key` (BLAKE3's key derivation mode).
pub fn derive(context: &str, key: &[u8]) -> [u8; 32] {
    blake3::derive_key(context, key)
}

/// Keyed BLAKE3-256 of `bytes`.
pub fn keyed(key: &[u8; 32], bytes: &[u8]) -> Digest {
    *blake3::keyed_hash(key, bytes).as_bytes()
}

/// The keys a full holder of a volume has. They never leave the process; `Debug` shows nothing of them.
#[derive(Clone)]
pub struct Keys {
    /// Digests of chunks.
    pub digest: [u8; 32],
    /// Cut points of the chunker.
    pub cut: [u8; 32],
    /// Names of segments on disk.
    pub placement: [u8; 32],
    /// MAC of journal chunks.
    pub journal: [u8; 32],
    /// Content digest of a file: over its chunk digests. From `digest`.
    pub content: [u8; 32],
    /// Digest of a tree page: over everything in it but addresses. From `digest`.
    pub page: [u8; 32],
    /// Where a directory is cut into pages: over names. From `digest`.
    pub name: [u8; 32],
    /// Identity of hard links: over the first member's path. From `digest`.
    pub link: [u8; 32],
}

impl Keys {
    /// All keys, from the 32 bytes in a volume's `secret` file.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        let digest = derive("packetfs v1 chunk digest", secret);
        Keys::of_replica(&digest, &derive("packetfs v1 cut points", secret), secret)
    }

    /// The keys of a replica: `digest` and `cut` are the origin's, so that both give one content the same chunks and
    /// digests; names on disk and the journal's MAC come from the replica's own `secret`.
    pub fn of_replica(digest: &[u8; 32], cut: &[u8; 32], secret: &[u8; 32]) -> Self {
        Keys {
            digest: *digest,
            cut: *cut,
            placement: derive("packetfs v1 placement", secret),
            journal: derive("packetfs v1 journal mac", secret),
            content: derive("packetfs v1 content digest", digest),
            page: derive("packetfs v1 page digest", digest),
            name: derive("packetfs v1 page cuts", digest),
            link: derive("packetfs v1 hard links", digest),
        }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// The 64-bit tag by which a digest is indexed: its first 8 bytes, little-endian.
pub fn tag(digest: &Digest) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_digests_and_cuts_as_its_origin_and_names_files_by_its_own_secret() {
        let origin = Keys::from_secret(&[1; 32]);

        let replica = Keys::of_replica(&origin.digest, &origin.cut, &[2; 32]);

        let shared = |keys: &Keys| [keys.digest, keys.cut, keys.content, keys.page, keys.name, keys.link];
        assert_eq!(shared(&replica), shared(&origin));
        let own = Keys::from_secret(&[2; 32]);
        assert_eq!((replica.placement, replica.journal), (own.placement, own.journal));
        assert_ne!(own.placement, origin.placement);
    }
}
