//! Numbers as bytes and back: LEB128 varints in their shortest form, zigzag, and a reader that never runs past its end.
//! It knows nothing of what the numbers mean.

use crate::{Error, Result};

/// Bytes of the longest varint of a `u64`.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Appends `value`, seven bits a byte, least significant first.
#[inline]
pub(crate) fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Signed to unsigned, so that small distances either way are short varints.
#[inline]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// What the first bytes of `bytes` say, if they are a varint: the value and how many bytes it took.
///
/// `Ok(None)` if the bytes end inside it; an error if it is longer than it need be or than 64 bits.
#[inline]
pub(crate) fn get(bytes: &[u8]) -> Result<Option<(u64, usize)>> {
    if let Some(&first) = bytes.first()
        && first < 0x80
    {
        return Ok(Some((u64::from(first), 1)));
    }
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        if at == VARINT_BYTES_MAX - 1 && byte > 1 {
            return Err(Error::Invalid("a number does not fit in 64 bits".into()));
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return match byte {
                // One spelling for one number: equal pages must be equal bytes.
                0 => Err(Error::Invalid("a number is spelt with more bytes than it needs".into())),
                _ => Ok(Some((value, at + 1))),
            };
        }
    }
    Ok(None)
}

/// Reads forward through bytes from outside; every read is checked against what is left.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        if length > self.rest.len() {
            return Err(ended());
        }
        let (head, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(ended)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let (value, used) = get(self.rest)?.ok_or_else(ended)?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    /// A varint that counts or measures something, at most `max`.
    #[inline]
    pub(crate) fn count(&mut self, max: usize, what: &str) -> Result<usize> {
        let value = self.varint()?;
        match usize::try_from(value) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(Error::Invalid(format!("{what}: {value} is more than {max}"))),
        }
    }
}

fn ended() -> Error {
    Error::Invalid("the bytes end too early".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_comes_back_as_it_went(value: u64, signed: i64) {
            let mut bytes = Vec::new();
            put(value, &mut bytes);
            prop_assert_eq!(get(&bytes).unwrap(), Some((value, bytes.len())));
            prop_assert_eq!(get(&bytes[..bytes.len() - 1]).unwrap(), None);
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }

        #[test]
        fn a_number_has_one_spelling(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(Some((value, used))) = get(&bytes) {
                let mut again = Vec::new();
                put(value, &mut again);
                prop_assert_eq!(&bytes[..used], &again[..]);
            }
        }
    }
}
