//! Answers about tags as they travel: 44 bytes each. Bytes in, value or [`Error::Invalid`] out.
//!
//! `address u64, length u32, digest 32 bytes`, little-endian; the address 0 stands for "not known", and all else is 0
//! then.

use crate::address::{Address, Extent};
use crate::error::{Error, Result};
use crate::extent;
use crate::keys::{Digest, tag};

/// Bytes of one answer.
pub const ANSWER_BYTES: usize = 44;

/// What there is to say of a tag: address, length and digest of a chunk.
pub type Tagged = (Address, u32, Digest);

/// The answers one after the other.
pub fn encode_answers(answers: &[Option<Tagged>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(answers.len() * ANSWER_BYTES);
    for answer in answers {
        let (address, length, digest) = answer.unwrap_or((0, 0, [0; 32]));
        bytes.extend_from_slice(&address.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&digest);
    }
    bytes
}

/// The answers to a question about `tags`, one for each: places that chunks can have, and digests that begin with
/// the tag. Whether it is true is for the asker to see.
pub fn decode_answers(bytes: &[u8], tags: &[u64]) -> Result<Vec<Option<Tagged>>> {
    let (records, rest) = bytes.as_chunks::<ANSWER_BYTES>();
    if records.len() != tags.len() || !rest.is_empty() {
        return Err(Error::Invalid(format!("{} bytes do not answer {} tags", bytes.len(), tags.len())));
    }
    records.iter().zip(tags).map(|(record, tag)| decode(record, *tag)).collect()
}

fn decode(record: &[u8; ANSWER_BYTES], asked: u64) -> Result<Option<Tagged>> {
    if *record == [0; ANSWER_BYTES] {
        return Ok(None);
    }
    let (mut address, mut length, mut digest) = ([0; 8], [0; 4], [0; 32]);
    address.copy_from_slice(&record[..8]);
    length.copy_from_slice(&record[8..12]);
    digest.copy_from_slice(&record[12..]);
    let (address, length) = (u64::from_le_bytes(address), u32::from_le_bytes(length));
    if address == 0 {
        return Err(Error::Invalid("an answer has a length or a digest and no address".into()));
    }
    extent::check(Extent { address, length: length.into() })?;
    if tag(&digest) != asked {
        return Err(Error::Invalid(format!("the tag {asked:016x} was answered with another one")));
    }
    Ok(Some((address, length, digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::segment_start;
    use proptest::prelude::*;

    fn answer(byte: u8) -> Tagged {
        (segment_start(3) + u64::from(byte), 1 + u32::from(byte), [byte; 32])
    }

    proptest! {
        #[test]
        fn answers_come_back_as_they_went(known in proptest::collection::vec(any::<Option<u8>>(), 0..40)) {
            let answers: Vec<_> = known.iter().map(|known| known.map(answer)).collect();
            let tags: Vec<_> = answers.iter().map(|answer| answer.map_or(7, |answer| tag(&answer.2))).collect();

            prop_assert_eq!(decode_answers(&encode_answers(&answers), &tags).unwrap(), answers);
        }
    }

    #[test]
    fn answers_that_cannot_be_are_refused() {
        let tags = [tag(&[5; 32])];
        let refused = |(address, length, digest): Tagged| {
            decode_answers(&encode_answers(&[Some((address, length, digest))]), &tags).is_err()
        };

        assert!(!refused(answer(5)));
        assert!(refused((segment_start(1 << 26), 6, [5; 32])), "segment 0 of an epoch is never granted");
        assert!(refused((0, 6, [5; 32])) && refused((segment_start(3), 0, [5; 32])));
        assert!(refused((segment_start(4) - 1, 2, [5; 32])), "it would cross a segment");
        assert!(refused(answer(6)), "another tag");
        let bytes = encode_answers(&[Some(answer(5))]);
        for wrong in [&bytes[..43], &bytes[..12], &[], &bytes.repeat(2)[..], &[&bytes[..], &[0]].concat()] {
            assert!(decode_answers(wrong, &tags).is_err());
        }
    }
}
