//! A sparse space beside the volume that has everything.

use super::*;
use crate::address::{Extent, segment_of, segment_start};
use crate::table::{ChunkRef, Kind};

/// A sparse space of the same volume as `origin`, with a secret of its own.
fn replica_of(origin: &Space) -> (TempDir, Arc<Space>) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("segments")).unwrap();
    let keys = Keys::of_replica(&origin.keys().digest, &origin.keys().cut, &[8; 32]);
    let space = Space::open(directory.path(), origin.volume_id(), keys, *origin.params()).unwrap();
    (directory, space)
}

/// The chunks of all segments with their addresses.
fn chunks_of(space: &Space) -> Vec<(u64, ChunkRef)> {
    let chunks = space.all_committed().into_iter().flat_map(|row| {
        let chunks: Vec<_> = space.table(row.segment).unwrap().chunks_from(0).collect();
        chunks.into_iter().map(move |chunk| (segment_start(row.segment) + u64::from(chunk.start), chunk))
    });
    chunks.collect()
}

/// Puts chunks of one space into another, and commits them there.
fn copy(from: &Space, to: &Arc<Space>, chunks: &[(u64, ChunkRef)]) {
    let mut leases = BTreeMap::new();
    for &(address, chunk) in chunks {
        let segment = segment_of(address);
        let lease = leases.entry(segment).or_insert_with(|| {
            let row = to.committed(segment);
            let (head, table_bytes) = row.map_or((0, 0), |row| (row.head, row.table_bytes));
            Lease::open(to, segment, head, table_bytes, row.is_none(), true).unwrap().unwrap()
        });
        let bytes = from.read(Extent { address, length: chunk.length().into() }).unwrap();
        lease.put(chunk.start, &bytes, &[(chunk.length(), chunk.kind, chunk.digest)]).unwrap();
    }
    let rows: Vec<_> = leases.values_mut().map(|lease| lease.sync().unwrap()).collect();
    to.admit(&rows).unwrap();
}

/// The bytes of extents, each its address.
fn addresses(extents: &[Extent]) -> std::collections::BTreeSet<u64> {
    extents.iter().flat_map(|extent| extent.address..extent.end()).collect()
}

#[test]
fn what_is_absent_of_a_tree_is_what_was_not_put() {
    let mut world = World::new();
    for number in 0..40 {
        world.write(&format!("d{}/f{number}", number % 4), &noise(number, 1000 + 5000 * number as usize));
    }
    world.write("d0/copy", &noise(7, 36_000));
    let root = decode_root(&world.push().root).unwrap();
    let origin = Arc::clone(&world.space);
    let (_directory, replica) = replica_of(&origin);
    let (data, pages): (Vec<_>, Vec<_>) =
        chunks_of(&origin).into_iter().partition(|(_, chunk)| chunk.kind == Kind::Data);
    assert!(replica.absent(&root, b"").is_err(), "its pages are not here");
    copy(&origin, &replica, &pages);

    let all = replica.absent(&root, b"").unwrap();
    let (held, missing): (Vec<_>, Vec<_>) = data.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let places = |chunks: &[(usize, &(u64, ChunkRef))]| -> Vec<Extent> {
        chunks.iter().map(|(_, (address, chunk))| Extent { address: *address, length: chunk.length().into() }).collect()
    };
    copy(&origin, &replica, &held.iter().map(|(_, chunk)| **chunk).collect::<Vec<_>>());
    let half = replica.absent(&root, b"").unwrap();

    let (held, missing) = (places(&held), places(&missing));
    assert_eq!(addresses(&all), &addresses(&held) | &addresses(&missing));
    assert!(all.len() < data.len() / 4, "neighbours are joined");
    assert_eq!(addresses(&half), addresses(&missing));
    assert_eq!(half.iter().map(|extent| extent.length).sum::<u64>(), addresses(&missing).len() as u64, "each once");
    assert!(half.is_sorted() && !half.iter().any(|extent| replica.holds(*extent)));
    // Below a path, of a file, of nothing.
    let below = addresses(&replica.absent(&root, b"d1").unwrap());
    let file = addresses(&replica.absent(&root, b"d1/f37").unwrap());
    assert!(!file.is_empty() && file.is_subset(&below) && below.len() < addresses(&half).len() / 2);
    assert_eq!(replica.absent(&root, b"/").unwrap(), half);
    assert_eq!(replica.absent(&root, b"d1/none").unwrap(), []);
    copy(&origin, &replica, &data);
    assert_eq!(replica.absent(&root, b"").unwrap(), []);
}

#[test]
fn of_a_list_of_extents_that_is_not_here_the_list_is_absent() {
    let (_volume, origin) = empty_space();
    let mut lease = Lease::open(&origin, 1, 0, 0, true, false).unwrap().unwrap();
    let content = lease.append_chunk(b"content", Kind::Data).unwrap();
    let extent = Extent { address: content, length: 7 };
    let bytes = crate::extent::encode(&[extent]).unwrap();
    let list = Extent { address: lease.append_chunk(&bytes, Kind::Tree).unwrap(), length: bytes.len() as u64 };
    origin.admit(&[lease.sync().unwrap()]).unwrap();
    let content = Content::Listed { list: vec![list], count: 1 };
    let file = Entry { kind: EntryKind::File, size: 7, content, ..Entry::default() };
    let (_directory, replica) = replica_of(&origin);

    assert_eq!(replica.absent(&file, b"").unwrap(), [list]);

    copy(&origin, &replica, &chunks_of(&origin)[1..]);
    assert_eq!(replica.absent(&file, b"").unwrap(), [extent]);
    copy(&origin, &replica, &chunks_of(&origin));
    assert_eq!(replica.absent(&file, b"").unwrap(), []);
}
