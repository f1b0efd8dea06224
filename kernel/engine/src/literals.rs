//! The bodies in which literals travel: where their chunks belong, what they are coded against, a check, and the coded
//! bytes (docs/formats/literals.md). Values to bytes and back; what may be placed and what is held is not known here.

use crate::address::{Address, Extent};
use crate::coding::{BASE_BYTES_MAX, Coding, RAW_BYTES_MAX};
use crate::extent;
use crate::keys::{Digest, Keys, keyed};
use crate::table::Kind;
use crate::varint::{Reader, put, unzigzag, zigzag};
use crate::{Error, Result};

/// Bytes of the check of a body: enough against accident. The root digest is what is enough against everybody.
pub const CHECK_BYTES: usize = 8;
/// Chunks of one body at most: digests and lengths of so many take a mebibyte.
pub const BODY_CHUNKS_MAX: usize = 32 << 10;
/// Runs, chunks and bases of one body at most, counted together: what a peer's few bytes can make the other side keep.
const BODY_PARTS_MAX: usize = 4 * BODY_CHUNKS_MAX;
/// Base extents of one run that its first number has room for; beyond, a number follows.
const FEW_BASES: u64 = 3;

/// Consecutive chunks of one kind, in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the first one belongs.
    pub address: Address,
    /// What they are: data or tree.
    pub kind: Kind,
    /// Their lengths; the next one begins where the last one ends.
    pub lengths: Vec<u32>,
    /// What this run adds to the base of the body, which is the bytes of all bases in order.
    pub bases: Vec<Extent>,
}

impl Run {
    /// Bytes of its chunks.
    pub fn raw_bytes(&self) -> u64 {
        self.lengths.iter().map(|&length| u64::from(length)).sum()
    }

    /// Where its chunks belong.
    pub fn extent(&self) -> Extent {
        Extent { address: self.address, length: self.raw_bytes() }
    }
}

/// A body without its coded bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// How the bytes are coded.
    pub coding: Coding,
    /// What they are, in order.
    pub runs: Vec<Run>,
    /// What [`check`] gives of their digests.
    pub check: [u8; CHECK_BYTES],
}

/// The check of a body whose chunks have these digests, one behind the other.
pub fn check(keys: &Keys, digests: &[u8]) -> [u8; CHECK_BYTES] {
    let digest: Digest = keyed(&keys.digest, digests);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}

/// Where the next run and the next base are expected: behind the last ones, from body to body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    run: Address,
    base: Address,
}

impl Place {
    /// Appends a head to `out`; the coded bytes follow it. Bases are left out unless the coding needs them.
    pub fn encode(&mut self, head: &Head, out: &mut Vec<u8>) {
        out.push(head.coding as u8);
        put(head.runs.len() as u64, out);
        for run in &head.runs {
            let bases: &[Extent] = if head.coding == Coding::Delta { &run.bases } else { &[] };
            put(zigzag(run.address.wrapping_sub(self.run) as i64), out);
            let few = FEW_BASES.min(bases.len() as u64);
            put((run.lengths.len() as u64) << 3 | (run.kind as u64) << 2 | few, out);
            if few == FEW_BASES {
                put(bases.len() as u64 - FEW_BASES, out);
            }
            run.lengths.iter().for_each(|&length| put(length.into(), out));
            let total = run.raw_bytes();
            for (index, base) in bases.iter().enumerate() {
                put(zigzag(base.address.wrapping_sub(self.base) as i64), out);
                // What replaces something is often as long.
                put(if index == 0 { zigzag(base.length.wrapping_sub(total) as i64) } else { base.length }, out);
                self.base = base.address.wrapping_add(base.length);
            }
            self.run = run.address.wrapping_add(total);
        }
        out.extend_from_slice(&head.check);
    }

    /// The head of a body from a peer, and its coded bytes. All chunks together are at most [`RAW_BYTES_MAX`], all
    /// bases [`BASE_BYTES_MAX`], there are no more of them than a sender makes, and each lies where an extent may lie.
    pub fn decode<'a>(&mut self, body: &'a [u8]) -> Result<(Head, &'a [u8])> {
        let mut reader = Reader::new(body);
        let coding = Coding::from_byte(reader.byte()?)?;
        let count = reader.count(body.len(), "runs of a body")?;
        let (mut raw_left, mut base_left) = (RAW_BYTES_MAX as u64, BASE_BYTES_MAX as u64);
        // Nothing is reserved for what is only claimed: each run and each length takes a byte at least.
        let mut runs = Vec::new();
        let mut parts_left = BODY_PARTS_MAX;
        for _ in 0..count {
            one_of(&mut parts_left)?;
            let address = self.run.wrapping_add(unzigzag(reader.varint()?) as u64);
            let number = reader.varint()?;
            let kind = if number & 4 == 0 { Kind::Data } else { Kind::Tree };
            let bases = match number & FEW_BASES {
                FEW_BASES => reader.varint()?.saturating_add(FEW_BASES),
                few => few,
            };
            if bases > 0 && coding != Coding::Delta {
                return Err(Error::Invalid("literals that are no delta have a base".into()));
            }
            let mut lengths = Vec::new();
            let mut total = 0;
            for _ in 0..number >> 3 {
                one_of(&mut parts_left)?;
                let length = spend(&mut raw_left, reader.varint()?, "chunks")?;
                total += length;
                lengths.push(length as u32);
            }
            stored(Extent { address, length: total })?;
            let mut found = Vec::new();
            for index in 0..bases {
                one_of(&mut parts_left)?;
                let address = self.base.wrapping_add(unzigzag(reader.varint()?) as u64);
                let length = reader.varint()?;
                let length = if index == 0 { total.wrapping_add(unzigzag(length) as u64) } else { length };
                let base = Extent { address, length: spend(&mut base_left, length, "bases")? };
                stored(base)?;
                self.base = base.end();
                found.push(base);
            }
            self.run = address + total;
            runs.push(Run { address, kind, lengths, bases: found });
        }
        let check = reader.array()?;
        Ok((Head { coding, runs, check }, reader.rest()))
    }
}

fn one_of(left: &mut usize) -> Result<()> {
    *left = left.checked_sub(1).ok_or_else(|| {
        Error::Invalid(format!("a body of literals has more than {BODY_PARTS_MAX} runs, chunks and bases"))
    })?;
    Ok(())
}

fn spend(left: &mut u64, length: u64, what: &str) -> Result<u64> {
    match left.checked_sub(length) {
        Some(rest) if length > 0 => {
            *left = rest;
            Ok(length)
        }
        _ => Err(Error::Invalid(format!("the {what} of one body of literals cannot be so long: {length} bytes"))),
    }
}

fn stored(extent: Extent) -> Result<()> {
    match extent.is_hole() {
        true => Err(Error::Invalid("literals belong to no hole".into())),
        false => extent::check(extent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::segment_start;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn extent_of(length: u64, place: u64) -> Extent {
        Extent { address: segment_start(1 + (place >> 32) % 1000) + place % (32 << 20), length }
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let bases = vec((1u64..300_000, any::<u64>()).prop_map(|(length, place)| extent_of(length, place)), 0..6);
        let run = (any::<u64>(), any::<bool>(), vec(1u32..40_000, 1..8), bases).prop_map(
            |(place, is_tree, lengths, bases)| Run {
                address: extent_of(1, place).address,
                kind: if is_tree { Kind::Tree } else { Kind::Data },
                lengths,
                bases,
            },
        );
        vec(run, 0..8)
    }

    proptest! {
        #[test]
        fn bodies_come_back_as_they_went(bodies in vec((runs(), 0u8..3, any::<[u8; 8]>()), 1..4)) {
            let (mut out, mut back) = (Place::default(), Place::default());
            for (runs, coding, check) in bodies {
                let mut head = Head { coding: Coding::from_byte(coding).unwrap(), runs, check };
                let mut body = Vec::new();
                out.encode(&head, &mut body);
                body.extend_from_slice(b"coded");
                if head.coding != Coding::Delta {
                    head.runs.iter_mut().for_each(|run| run.bases.clear());
                }

                let (found, coded) = back.decode(&body).unwrap();

                prop_assert_eq!((found, coded), (head, &b"coded"[..]));
            }
        }

        #[test]
        fn any_bytes_are_a_body_within_the_limits_or_an_error(
            coding in 0u8..3, bytes in vec(prop_oneof![any::<u8>(), Just(0), Just(8), Just(255)], 0..200)
        ) {
            let mut body = vec![coding];
            body.extend(bytes);
            if let Ok((head, _)) = Place::default().decode(&body) {
                prop_assert!(head.runs.iter().map(Run::raw_bytes).sum::<u64>() <= RAW_BYTES_MAX as u64);
                let bases = head.runs.iter().flat_map(|run| &run.bases);
                prop_assert!(bases.map(|base| base.length).sum::<u64>() <= BASE_BYTES_MAX as u64);
                prop_assert!(head.runs.iter().all(|run| stored(run.extent()).is_ok()));
            }
        }
    }

    fn decode(runs: Vec<Run>) -> Result<()> {
        let mut body = Vec::new();
        Place::default().encode(&Head { coding: Coding::Delta, runs, check: [0; 8] }, &mut body);
        Place::default().decode(&body).map(drop)
    }

    #[test]
    fn what_lies_nowhere_or_is_too_much_is_refused() {
        let run = |address, lengths: &[u32], bases: &[Extent]| {
            let (lengths, bases) = (lengths.to_vec(), bases.to_vec());
            vec![Run { address, kind: Kind::Data, lengths, bases }]
        };
        let start = segment_start(1);
        let base = |address, length| Extent { address, length };
        assert!(decode(run(start, &[5], &[base(start, 7)])).is_ok());
        assert!(decode(run(start, &[RAW_BYTES_MAX as u32], &[base(start, BASE_BYTES_MAX as u64)])).is_ok());
        for wrong in [
            run(start, &[], &[]),
            run(start, &[5, 0], &[]),
            run(0, &[5], &[]),
            run(segment_start(2) - 4, &[5], &[]),
            run(start, &[RAW_BYTES_MAX as u32, 1], &[]),
            run(start, &[u32::MAX], &[]),
            run(start, &[1; BODY_PARTS_MAX], &[]),
            run(start, &[5], &[base(0, 7)]),
            run(start, &[5], &[base(start, 0)]),
            run(start, &[5], &[base(segment_start(2) - 4, 5)]),
            run(start, &[5], &[base(start, BASE_BYTES_MAX as u64), base(start, 1)]),
            run(start, &[5], &[base(start, u64::MAX - 3)]),
        ] {
            assert!(decode(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    /// tests/golden/literals-v1.bin: never edited, read by every version after.
    #[test]
    fn a_body_of_version_1_is_the_golden_one() {
        let at = |offset| segment_start(9) + offset;
        let run = |address, kind, lengths: &[u32], bases: &[Extent]| {
            let (lengths, bases) = (lengths.to_vec(), bases.to_vec());
            Run { address, kind, lengths, bases }
        };
        let base = |address, length| Extent { address, length };
        let runs = vec![
            run(at(4096), Kind::Data, &[30_000, 41], &[base(segment_start(2), 30_013)]),
            run(at(34_137), Kind::Tree, &[200], &[]),
            run(
                at(9),
                Kind::Data,
                &[1],
                &[base(at(70), 2), base(at(72), 300), base(at(1), 1), base(segment_start(3), 5)],
            ),
        ];
        let head = Head { coding: Coding::Delta, runs, check: *b"8 bytes!" };
        let mut body = Vec::new();
        Place::default().encode(&head, &mut body);
        body.extend_from_slice(b"coded");

        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/literals-v1.bin");
        let golden = std::fs::read(golden).unwrap();
        assert_eq!(body, golden);
        assert_eq!(Place::default().decode(&golden).unwrap(), (head, &b"coded"[..]));
    }
}
