//! From a cut key to the secrets of the cascade.
//!
//! Part of the format: changing one step re-cuts every volume (docs/formats/casc64.md, ADR 0003).

/// Context of the derivation; not a letter of it may change.
const CONTEXT: &str = "packetfs v1 casc64 key schedule";

/// Matrices in the cascade: two at its head, one for each of the five doublings after that.
pub(super) const MATRICES: usize = 7;

/// An 8x8 matrix over GF(2): byte `7 - i` is the row that gives output bit `i` (the order of GF2P8AFFINEQB).
#[derive(Clone, Copy)]
pub(super) struct Matrix(pub [u8; 8]);

/// The secrets of one profile.
#[derive(Clone)]
pub(super) struct Schedule {
    /// AES-128 key of the rank.
    pub rank_key: [u8; 16],
    /// The cascade's matrices, all invertible.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // the portable path needs the products only
    pub matrices: [Matrix; MATRICES],
    /// What the last level must equal.
    pub target: u8,
    /// Each matrix as a table of its 256 products.
    pub products: Box<[[u8; 256]; MATRICES]>,
}

impl Schedule {
    pub(super) fn new(cut_key: &[u8; 32]) -> Schedule {
        let mut stream = blake3::Hasher::new_derive_key(CONTEXT).update(cut_key).finalize_xof();
        let rank_key = draw(&mut stream);
        loop {
            let matrices = std::array::from_fn(|_| draw_invertible(&mut stream));
            let products = Box::new(std::array::from_fn(|i| table(&matrices[i])));
            let taken = levels_of_constant_runs(&products);
            // Runs of one byte (zeros above all) must not pass at every position: each would cost a rank.
            // 256 draws fail together only if almost every value is taken, then other matrices are drawn.
            for _ in 0..256 {
                let [target] = draw(&mut stream);
                if !taken[target as usize] {
                    return Schedule { rank_key, matrices, target, products };
                }
            }
        }
    }
}

impl Matrix {
    /// The product with a byte, as the definition says.
    fn times(&self, x: u8) -> u8 {
        (0..8).fold(0, |y, i| y | (((self.0[7 - i] & x).count_ones() as u8 & 1) << i))
    }

    /// Gaussian elimination.
    fn is_invertible(&self) -> bool {
        let mut rows = self.0;
        for column in 0..8 {
            let Some(pivot) = (column..8).find(|&row| rows[row] >> column & 1 == 1) else {
                return false;
            };
            rows.swap(column, pivot);
            for row in column + 1..8 {
                if rows[row] >> column & 1 == 1 {
                    rows[row] ^= rows[column];
                }
            }
        }
        true
    }
}

fn draw<const N: usize>(stream: &mut blake3::OutputReader) -> [u8; N] {
    let mut bytes = [0; N];
    stream.fill(&mut bytes);
    bytes
}

/// 29 % of all matrices are invertible: 3.5 draws on average.
fn draw_invertible(stream: &mut blake3::OutputReader) -> Matrix {
    loop {
        let matrix = Matrix(draw(stream));
        if matrix.is_invertible() {
            return matrix;
        }
    }
}

fn table(matrix: &Matrix) -> [u8; 256] {
    std::array::from_fn(|x| matrix.times(x as u8))
}

/// Which values the last level takes on a run of one repeated byte.
fn levels_of_constant_runs(products: &[[u8; 256]; MATRICES]) -> [bool; 256] {
    let mut taken = [false; 256];
    for byte in 0..256 {
        let head = products[0][byte].wrapping_add(products[1][byte]);
        let last = products[2..].iter().fold(head, |level, product| level.wrapping_add(product[level as usize]));
        taken[last as usize] = true;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_invertible_exactly_when_their_products_are_all_different() {
        let mut stream = blake3::Hasher::new().finalize_xof();
        for _ in 0..500 {
            let matrix = Matrix(draw(&mut stream));
            let mut seen = [false; 256];
            table(&matrix).iter().for_each(|&y| seen[y as usize] = true);
            assert_eq!(matrix.is_invertible(), seen.iter().all(|&s| s));
        }
    }

    #[test]
    fn a_run_of_one_byte_never_meets_the_target() {
        for key in 0..50 {
            let schedule = Schedule::new(&[key; 32]);
            assert!(!levels_of_constant_runs(&schedule.products)[schedule.target as usize]);
        }
    }
}
