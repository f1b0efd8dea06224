//! Laws of the chunker: paths agree, pieces agree with the whole, sizes hold, edits stay local.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const KEY: [u8; 32] = *b"a key that is used in tests only";
const SMALL: Params = Params { min: 64, avg: 256, max: 1024, normalisation: 1 };

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn ends(data: &[u8], profile: &Profile, last: bool) -> Vec<u32> {
    let mut ends = Vec::new();
    cuts(data, profile, last, &mut ends);
    ends
}

fn paths() -> impl Iterator<Item = Path> {
    Path::ALL.into_iter().filter(|path| path.is_available())
}

/// Noise, runs, short periods and text-like bytes, in any mixture.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (any::<u64>(), 0usize..3000).prop_map(|(seed, length)| noise(seed, length)),
        (any::<u8>(), 0usize..3000).prop_map(|(byte, length)| vec![byte; length]),
        (any::<u64>(), 1usize..100, 0usize..60).prop_map(|(seed, period, times)| noise(seed, period).repeat(times)),
        (any::<u64>(), 0usize..2000)
            .prop_map(|(seed, n)| noise(seed, n).iter().map(|b| b"etaoin s"[*b as usize & 7]).collect()),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn sizes() -> impl Strategy<Value = Params> {
    (6u32..9, 1u32..5, 1u32..4, 0u32..4).prop_map(|(min, avg, max, n)| Params {
        min: 1 << min,
        avg: 1 << (min + avg),
        max: 1 << (min + avg + max),
        normalisation: n,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_path_gives_the_same_cuts(data in contents(), params in sizes(), key: [u8; 32], last: bool) {
        let expected = ends(&data, &Profile::on_path(&key, params, Path::Portable).unwrap(), last);
        for path in paths() {
            prop_assert_eq!(&ends(&data, &Profile::on_path(&key, params, path).unwrap(), last), &expected);
        }
    }

    #[test]
    fn every_path_passes_the_same_ends(data in contents(), key: [u8; 32], mask in 0u32..4, skip in 0usize..200, drop in 0usize..200) {
        let from = WINDOW + skip;
        let to = data.len().saturating_sub(drop).min(from + STRIDE - 1);
        let schedule = Schedule::new(&key);
        let filtered = |path: Path| {
            let mut ends = Ends::new();
            path.filter(&schedule, (1 << mask) - 1, &data, from, to, &mut ends);
            ends.ends().to_vec()
        };
        for path in paths() {
            prop_assert_eq!(filtered(path), filtered(Path::Portable));
        }
    }

    #[test]
    fn every_path_ranks_alike(data in contents(), key: [u8; 16], step in 1usize..300) {
        let ends: Vec<u32> = (WINDOW..=data.len()).step_by(step).map(|end| end as u32).collect();
        let ranker = Ranker::new(&key);
        let ranked = |path: Path| {
            let mut ranks = Vec::new();
            path.ranks(&ranker, &data, &ends, &mut ranks);
            ranks
        };
        for path in paths() {
            prop_assert_eq!(ranked(path), ranked(Path::Portable));
        }
    }

    #[test]
    fn cutting_piece_by_piece_is_cutting_the_whole(data in contents(), params in sizes(), pieces in proptest::collection::vec(1usize..4000, 1..20)) {
        let profile = Profile::new(&KEY, params);
        let mut found = Vec::new();
        let (mut start, mut given) = (0, 0);
        for piece in pieces.iter().cycle() {
            given = data.len().min(given + piece);
            let part = ends(&data[start..given], &profile, given == data.len());
            found.extend(part.iter().map(|end| start as u32 + end));
            start += part.last().map_or(0, |end| *end as usize);
            if given == data.len() {
                break;
            }
        }
        prop_assert_eq!(found, ends(&data, &profile, true));
    }

    #[test]
    fn chunks_keep_to_their_sizes_and_cover_the_data(data in contents(), params in sizes()) {
        let ends = ends(&data, &Profile::new(&KEY, params), true);
        let mut start = 0;
        for (i, &end) in ends.iter().enumerate() {
            let length = end - start;
            prop_assert!(length <= params.max);
            prop_assert!(length >= params.min || (i + 1 == ends.len() && length > 0));
            start = end;
        }
        prop_assert_eq!(start as usize, data.len());
    }
}

#[test]
fn empty_data_has_no_chunks_and_a_short_file_has_one() {
    let profile = Profile::new(&KEY, Params::DEFAULT);
    assert_eq!(ends(b"", &profile, true), []);
    assert_eq!(ends(b"x", &profile, true), [1]);
    assert_eq!(ends(b"x", &profile, false), []);
    assert_eq!(ends(&[1; 8192], &profile, true), [8192]);
}

#[test]
fn the_average_on_noise_is_near_the_nominal_one() {
    let data = noise(1, 16 << 20);
    let count = ends(&data, &Profile::new(&KEY, Params::DEFAULT), true).len();
    let mean = data.len() / count;
    assert!((30 << 10..40 << 10).contains(&mean), "mean {mean}");
}

#[test]
fn an_insertion_moves_few_cuts() {
    let data = noise(2, 4 << 20);
    let mut edited = data.clone();
    edited.splice(1 << 20..1 << 20, *b"inserted");
    let profile = Profile::new(&KEY, Params::DEFAULT);

    let before = ends(&data, &profile, true);
    let kept = ends(&edited, &profile, true)
        .into_iter()
        .filter(|&end| before.contains(&end) && end <= 1 << 20 || end >= 8 && before.contains(&(end - 8)))
        .count();

    assert!(before.len() - kept < 8, "{} of {} cuts moved", before.len() - kept, before.len());
}

#[test]
fn another_key_cuts_elsewhere() {
    let data = noise(3, 4 << 20);
    let one = ends(&data, &Profile::new(&[1; 32], Params::DEFAULT), true);
    let other = ends(&data, &Profile::new(&[2; 32], Params::DEFAULT), true);
    assert!(one.iter().filter(|end| other.contains(end)).count() <= 2);
}

#[test]
fn impossible_sizes_are_refused() {
    for (min, avg, max, n) in [
        (32, 256, 512, 2),
        (64, 64, 512, 2),
        (64, 512, 512, 2),
        (64, 300, 512, 2),
        (64, 256, 1 << 27, 2),
        (64, 256, 512, 4),
    ] {
        assert!(Params::new(min, avg, max, n).is_err());
    }
    assert_eq!(Params::new(8 << 10, 32 << 10, 128 << 10, 2).unwrap(), Params::DEFAULT);
    assert!(Params::new(SMALL.min, SMALL.avg, SMALL.max, SMALL.normalisation).is_ok());
}

/// A piece of a golden case's data.
#[derive(Clone, Copy)]
enum Piece {
    /// SplitMix64 from this seed, each number as eight little-endian bytes, cut to the length.
    Noise(u64, usize),
    /// These bytes, so many times.
    Repeat(&'static [u8], usize),
}

impl Piece {
    fn bytes(self) -> Vec<u8> {
        match self {
            Piece::Noise(seed, length) => {
                let mut state = seed;
                let mut next = || {
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                    (z ^ (z >> 31)).to_le_bytes()
                };
                (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
            }
            Piece::Repeat(bytes, times) => bytes.repeat(times),
        }
    }

    fn json(self) -> String {
        match self {
            Piece::Noise(seed, length) => format!(r#"["noise", {seed}, {length}]"#),
            Piece::Repeat(bytes, times) => format!(r#"["repeat", "{}", {times}]"#, hex(bytes)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// What tests/golden/casc64.json says, from this code. The file was written by tests/oracle/casc64.py.
fn golden(path: Path) -> String {
    use Piece::{Noise, Repeat};
    let counting: [u8; 32] = std::array::from_fn(|i| i as u8);
    let keys = [[0; 32], [0xff; 32], counting];
    let coarse = Params { min: 4 << 10, avg: 16 << 10, max: 64 << 10, normalisation: 2 };
    let flat = Params { min: 64, avg: 512, max: 1024, normalisation: 0 };
    let steep = Params { min: 256, avg: 1024, max: 4096, normalisation: 3 };
    let cases: [([u8; 32], Params, &[Piece], bool); 14] = [
        (keys[0], Params::DEFAULT, &[Noise(1, 600_000)], true),
        (keys[1], Params::DEFAULT, &[Repeat(&[0], 300_000)], true),
        (keys[2], Params::DEFAULT, &[Noise(2, 200_000), Repeat(&[0xff], 9_000), Noise(3, 150_001)], false),
        (keys[2], coarse, &[Noise(4, 300_000)], true),
        (keys[0], SMALL, &[Noise(5, 20_000)], true),
        (keys[1], SMALL, &[Noise(6, 20_000)], false),
        (keys[2], SMALL, &[Noise(7, 3_000), Repeat(b"period of 19 bytes ", 200), Noise(8, 3_000)], true),
        (keys[0], flat, &[Noise(9, 20_000)], true),
        (keys[1], steep, &[Noise(10, 40_000)], true),
        (keys[2], SMALL, &[], true),
        (keys[2], SMALL, &[Noise(11, 1)], true),
        (keys[2], SMALL, &[Noise(11, 63)], false),
        (keys[2], SMALL, &[Noise(11, 64)], true),
        (keys[2], SMALL, &[Noise(11, 1_024)], false),
    ];
    let schedules = keys.map(|key| {
        let schedule = Schedule::new(&key);
        let matrices = schedule.matrices.map(|matrix| format!(r#""{}""#, hex(&matrix.0)));
        format!(
            r#"{{"key": "{}", "rank_key": "{}", "matrices": [{}], "target": {}}}"#,
            hex(&key),
            hex(&schedule.rank_key),
            joined(matrices),
            schedule.target
        )
    });
    let cases = cases.map(|(key, params, pieces, last)| {
        let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes()).collect();
        let Params { min, avg, max, normalisation } = params;
        format!(
            r#"{{"key": "{}", "params": [{min}, {avg}, {max}, {normalisation}], "data": [{}], "last": {last}, "ends": [{}]}}"#,
            hex(&key),
            joined(pieces.iter().map(|piece| piece.json())),
            joined(ends(&data, &Profile::on_path(&key, params, path).unwrap(), last))
        )
    });
    format!(
        "{{\n  \"schedules\": [\n    {}\n  ],\n  \"cases\": [\n    {}\n  ]\n}}\n",
        schedules.join(",\n    "),
        cases.join(",\n    ")
    )
}

#[test]
fn every_path_cuts_as_the_golden_file_says() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/casc64.json");
    let expected = std::fs::read_to_string(file).unwrap();
    for path in paths() {
        assert!(golden(path) == expected, "{}: {}", path.name(), golden(path));
    }
}
