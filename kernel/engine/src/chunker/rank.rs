//! The rank of a candidate: AES-128 CBC-MAC of its 64-byte window, first four bytes, little-endian.
//!
//! All windows have one length, where CBC-MAC is a pseudo-random function: chunk lengths tell nothing about the key.

use aes::Aes128;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};

use super::WINDOW;

/// Candidates ranked at a time: enough independent chains to fill the AES units.
const LANES: usize = 8;
/// Bytes of a block of AES.
pub(super) const BLOCK: usize = 16;
/// The keys of the rounds of AES-128, the first being the key itself.
pub(super) type RoundKeys = [[u8; BLOCK]; 11];

#[derive(Clone)]
pub(super) struct Ranker {
    cipher: Aes128,
    /// The same key expanded, for paths that run the rounds themselves.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub round_keys: RoundKeys,
}

impl Ranker {
    pub(super) fn new(key: &[u8; BLOCK]) -> Ranker {
        Ranker { cipher: Aes128::new(&Array::from(*key)), round_keys: expand(key) }
    }

    /// Appends the rank of each of `ends`, in order.
    pub(super) fn ranks(&self, data: &[u8], ends: &[u32], out: &mut Vec<u32>) {
        for group in ends.chunks(LANES) {
            let mut states = [aes::Block::default(); LANES];
            let states = &mut states[..group.len()];
            for block in 0..WINDOW / BLOCK {
                for (state, &end) in states.iter_mut().zip(group) {
                    let at = end as usize - WINDOW + block * BLOCK;
                    for (byte, &more) in state.iter_mut().zip(&data[at..at + BLOCK]) {
                        *byte ^= more;
                    }
                }
                self.cipher.encrypt_blocks(states);
            }
            out.extend(states.iter().map(|state| u32::from_le_bytes([state[0], state[1], state[2], state[3]])));
        }
    }
}

/// The key expansion of FIPS 197, section 5.2.
fn expand(key: &[u8; BLOCK]) -> RoundKeys {
    let s_box = s_box();
    let mut keys = [*key; 11];
    let mut constant = 1u8;
    for round in 1..keys.len() {
        let before = keys[round - 1];
        let now = &mut keys[round];
        for i in 0..4 {
            now[i] = before[i] ^ s_box[before[12 + (i + 1) % 4] as usize];
        }
        now[0] ^= constant;
        for i in 4..BLOCK {
            now[i] = before[i] ^ now[i - 4];
        }
        constant = doubled(constant);
    }
    keys
}

/// The S-box of FIPS 197, section 5.1.1: walks all powers of 3 and, beside them, their inverses.
fn s_box() -> [u8; 256] {
    let mut table = [0x63; 256];
    let (mut power, mut inverse) = (1u8, 1u8);
    loop {
        power ^= doubled(power);
        inverse ^= inverse << 1;
        inverse ^= inverse << 2;
        inverse ^= inverse << 4;
        inverse ^= if inverse & 0x80 == 0 { 0 } else { 0x09 };
        table[power as usize] ^= (0..5).fold(0, |sum, turn| sum ^ inverse.rotate_left(turn));
        if power == 1 {
            return table;
        }
    }
}

/// Twice `x` in the field of AES.
fn doubled(x: u8) -> u8 {
    (x << 1) ^ if x & 0x80 == 0 { 0 } else { 0x1b }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, appendix A.1.
    #[test]
    fn the_key_expansion_is_that_of_the_standard() {
        let key = [0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c];
        let keys = expand(&key);
        assert_eq!(keys[1][..4], [0xa0, 0xfa, 0xfe, 0x17]);
        assert_eq!(keys[10][12..], [0xb6, 0x63, 0x0c, 0xa6]);
    }

    #[test]
    fn a_rank_is_the_cbc_mac_of_the_window_alone() {
        let data: Vec<u8> = (0..200).collect();
        let ranker = Ranker::new(&[5; 16]);
        let mut ranks = Vec::new();
        ranker.ranks(&data, &[64, 100, 200], &mut ranks);

        let cipher = Aes128::new(&Array::from([5; 16]));
        for (end, rank) in [64, 100, 200].into_iter().zip(ranks) {
            let mut state = aes::Block::default();
            for block in data[end - 64..end].chunks(16) {
                state.iter_mut().zip(block).for_each(|(a, b)| *a ^= b);
                cipher.encrypt_block(&mut state);
            }
            assert_eq!(rank.to_le_bytes(), state[..4]);
        }
    }
}
