//! Slots: the unpredictable names under which segments rest on disk.
//!
//! A keyed pseudo-random permutation of the 38-bit segment number, so that a name tells nothing about order, age or
//! neighbours, and two segments never share one. Names only; nothing here knows of directories.

use crate::address::SEGMENT_BITS;
use crate::keys::{derive, keyed};

/// Six rounds of a good PRF resist every known distinguisher; ten leave room, at 0.9 us a name
/// (examples/index_speed.rs).
const ROUNDS: u8 = 10;
const HALF_BITS: u32 = SEGMENT_BITS / 2;
const _: () = assert!(SEGMENT_BITS.is_multiple_of(2), "the two halves of a balanced Feistel network are equal");

/// The permutation of one placement key.
#[derive(Clone)]
pub struct Slots {
    key: [u8; 32],
}

impl Slots {
    /// The permutation that belongs to `placement`.
    pub fn new(placement: &[u8; 32]) -> Self {
        Slots { key: derive("packetfs v1 slot permutation", placement) }
    }

    /// Names the key without telling it: chunk tables carry this, so that a re-keyed volume knows its files.
    pub fn key_id(placement: &[u8; 32]) -> [u8; 8] {
        let mut id = [0; 8];
        id.copy_from_slice(&derive("packetfs v1 placement key id", placement)[..8]);
        id
    }

    /// The slot of `segment`: ten hexadecimal digits.
    pub fn slot(&self, segment: u64) -> String {
        format!("{:010x}", permute(&self.key, HALF_BITS, segment))
    }
}

/// A balanced Feistel network over `2 * half_bits` bits whose round function is keyed BLAKE3.
fn permute(key: &[u8; 32], half_bits: u32, value: u64) -> u64 {
    let mask = (1 << half_bits) - 1;
    let (mut left, mut right) = (value >> half_bits & mask, value & mask);
    for round in 0..ROUNDS {
        (left, right) = (right, left ^ mix(key, round, right) & mask);
    }
    left << half_bits | right
}

fn mix(key: &[u8; 32], round: u8, half: u64) -> u64 {
    let mut input = [round; 9];
    input[1..].copy_from_slice(&half.to_le_bytes());
    crate::keys::tag(&keyed(key, &input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Undoes `permute`, round by round from the last: that it exists is the proof of a bijection.
    fn unpermute(key: &[u8; 32], half_bits: u32, value: u64) -> u64 {
        let mask = (1 << half_bits) - 1;
        let (mut left, mut right) = (value >> half_bits, value & mask);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ mix(key, round, left) & mask, left);
        }
        left << half_bits | right
    }

    #[test]
    fn every_value_of_a_small_domain_is_taken_exactly_once() {
        let mut seen = vec![false; 1 << 12];
        for value in 0..1 << 12 {
            let permuted = permute(&[7; 32], 6, value);
            assert!(!std::mem::replace(&mut seen[permuted as usize], true));
        }
    }

    #[test]
    fn slots_differ_by_key_and_so_do_key_ids() {
        let (a, b) = (Slots::new(&[1; 32]), Slots::new(&[2; 32]));

        assert!((1..200).filter(|&segment| a.slot(segment) == b.slot(segment)).count() == 0);
        assert_ne!(Slots::key_id(&[1; 32]), Slots::key_id(&[2; 32]));
    }

    #[test]
    fn neighbours_do_not_look_like_neighbours() {
        let slots = Slots::new(&[3; 32]);
        let differing = |segment| {
            let number = |segment| u64::from_str_radix(&slots.slot(segment), 16).unwrap();
            (number(segment) ^ number(segment + 1)).count_ones()
        };

        let mean = (1..2001).map(differing).sum::<u32>() as f64 / 2000.0;

        assert!((18.5..19.5).contains(&mean), "half of 38 bits differ between unrelated names, here {mean}");
    }

    #[test]
    fn slots_are_part_of_the_format() {
        let slots = Slots::new(&[9; 32]);

        assert_eq!(
            [slots.slot(1), slots.slot(2), slots.slot((1 << 38) - 1)],
            ["38b098db06", "15981bb538", "0eed562700"]
        );
    }

    proptest! {
        #[test]
        fn the_permutation_can_be_undone(key: [u8; 32], segment in 0..1_u64 << SEGMENT_BITS) {
            let slot = permute(&key, HALF_BITS, segment);

            prop_assert!(slot < 1 << SEGMENT_BITS);
            prop_assert_eq!(unpermute(&key, HALF_BITS, slot), segment);
        }
    }
}
