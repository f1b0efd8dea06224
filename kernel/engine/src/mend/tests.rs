//! What is mended, and above all what is not.

use super::*;
use crate::chunker::Params;
use crate::keys::Keys;
use crate::lease::Lease;
use crate::space::Committed;
use crate::table::Kind;
use crate::verify::verify;
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const SEGMENT: u64 = 7;

/// Chunks of different lengths in one segment, and what a journal would say of it.
fn stored(directory: &Path, chunks: &[Vec<u8>]) -> (Arc<Space>, Committed) {
    fs::create_dir_all(directory.join("segments")).unwrap();
    let keys = Keys::from_secret(&[1; 32]);
    let space = Space::open(directory, [3; 16], keys, Params::DEFAULT).unwrap();
    let mut lease = Lease::open(&space, SEGMENT, 0, 0, true, false).unwrap().unwrap();
    for chunk in chunks {
        lease.append_chunk(chunk, Kind::Data).unwrap();
    }
    let row = lease.sync().unwrap();
    drop(lease);
    let space = Space::open(directory, [3; 16], Keys::from_secret(&[1; 32]), Params::DEFAULT).unwrap();
    space.admit(&[row]).unwrap();
    (space, row)
}

fn chunks() -> Vec<Vec<u8>> {
    (1..20_u8).map(|n| vec![n; 100 * usize::from(n)]).collect()
}

fn everything(row: Committed) -> Extent {
    Extent { address: segment_start(SEGMENT), length: row.head.into() }
}

fn damage(space: &Space, at: usize, with: &[u8]) {
    let mut data = fs::read(space.data_path(SEGMENT)).unwrap();
    data[at..at + with.len()].copy_from_slice(with);
    fs::write(space.data_path(SEGMENT), data).unwrap();
}

/// Offers each chunk that another copy can read.
fn offer_from(mender: &mut Mender, source: &Space, extents: &[Extent]) {
    for chunk in mender.chunks(extents).unwrap() {
        let mut bytes = vec![0; chunk.length as usize];
        if source.copy(chunk, &mut bytes).is_ok() {
            mender.offer(chunk.address, &bytes).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_was_flipped_cut_or_lost_is_the_other_copys_again(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()), gone in any::<bool>()
    ) {
        let (ours, theirs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (space, row) = stored(ours.path(), &chunks());
        let (source, _) = stored(theirs.path(), &chunks());
        let whole = fs::read(source.data_path(SEGMENT)).unwrap();
        let mut data = whole.clone();
        for (at, flip) in flips {
            data[at.index(whole.len())] ^= flip;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(whole.len()));
        }
        fs::write(space.data_path(SEGMENT), &data).unwrap();
        if gone {
            fs::remove_file(space.data_path(SEGMENT)).unwrap();
        }
        let before = verify(&space, SEGMENT, 0, u64::MAX).unwrap().damaged;

        let mut mender = Mender::new(&space);
        offer_from(&mut mender, &source, &before);
        let mended: u64 = mender.sync().unwrap().iter().map(|extent| extent.length).sum();

        prop_assert_eq!(fs::read(space.data_path(SEGMENT)).unwrap(), whole);
        prop_assert_eq!(mended, before.iter().map(|extent| extent.length).sum::<u64>());
        prop_assert!(verify(&space, SEGMENT, 0, u64::from(row.head)).unwrap().damaged.is_empty());
    }
}

#[test]
fn bytes_without_the_digest_and_places_that_are_no_chunk_are_never_written() {
    let directory = TempDir::new().unwrap();
    let (space, _) = stored(directory.path(), &chunks());
    damage(&space, 150, b"damage");
    let before = fs::read(space.data_path(SEGMENT)).unwrap();
    let mut mender = Mender::new(&space);
    let at = |offset: u64| segment_start(SEGMENT) | offset;

    mender.offer(at(100), &[9; 200]).unwrap();
    mender.offer(at(100), &[2; 199]).unwrap();
    mender.offer(at(101), &[2; 199]).unwrap();
    mender.offer(at(0), &[1; 300]).unwrap();
    mender.offer(at(1 << 20), &[2; 200]).unwrap();
    mender.offer(segment_start(SEGMENT + 1), &[2; 200]).unwrap();

    assert_eq!(mender.sync().unwrap(), []);
    assert_eq!(fs::read(space.data_path(SEGMENT)).unwrap(), before);
    mender.offer(at(100), &[2; 200]).unwrap();
    assert_eq!(mender.sync().unwrap(), [Extent { address: at(100), length: 200 }]);
}

#[test]
fn what_is_sound_is_not_written_again() {
    let directory = TempDir::new().unwrap();
    let (space, _) = stored(directory.path(), &chunks());
    let mut mender = Mender::new(&space);

    mender.offer(segment_start(SEGMENT), &[1; 100]).unwrap();

    assert_eq!(mender.sync().unwrap(), []);
}

#[test]
fn of_a_source_that_is_damaged_itself_the_rest_is_taken() {
    let (ours, theirs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (space, row) = stored(ours.path(), &chunks());
    let (source, _) = stored(theirs.path(), &chunks());
    damage(&space, 0, &[0xff; 5000]);
    damage(&source, 150, b"damage");
    let mut mender = Mender::new(&space);

    offer_from(&mut mender, &source, &[everything(row)]);
    mender.sync().unwrap();

    let left = verify(&space, SEGMENT, 0, u64::MAX).unwrap().damaged;
    assert_eq!(left, [Extent { address: segment_start(SEGMENT) | 100, length: 200 }]);
}
