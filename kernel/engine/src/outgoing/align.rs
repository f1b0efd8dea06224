//! Which old bytes of a file resemble its new ones: those between the neighbours that both versions have. Extents in,
//! extents out; no byte is looked at.

use super::ranges::join;
use crate::address::Extent;

/// A piece of the new version of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) extent: Extent,
    /// Its bytes have to travel.
    pub(super) is_literal: bool,
}

/// Pieces that travel, with nothing between them that does not, and what lay in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) literals: Vec<Extent>,
    pub(super) bases: Vec<Extent>,
}

/// A part of the old version: where it rests and where it is in the file.
#[derive(Clone, Copy)]
struct Old {
    extent: Extent,
    offset: u64,
}

/// The literal pieces of `new`, gap by gap, each with its base in the version that was `old`.
pub(super) fn gaps(new: &[Piece], old: &[Extent]) -> Vec<Gap> {
    let (by_address, old_size) = placed(old);
    let mut gaps = Vec::new();
    let mut literals = Vec::new();
    // Where the old version goes on behind the last piece that it has.
    let mut behind = 0;
    for piece in new {
        if piece.is_literal {
            join(&mut literals, piece.extent);
            continue;
        }
        let Some((before, after)) = matched(&by_address, piece.extent, behind) else { continue };
        if !literals.is_empty() {
            let literals = std::mem::take(&mut literals);
            gaps.push(Gap { bases: between(old, behind, before, &literals), literals });
        }
        behind = after;
    }
    if !literals.is_empty() {
        gaps.push(Gap { bases: between(old, behind, old_size, &literals), literals });
    }
    gaps
}

fn placed(old: &[Extent]) -> (Vec<Old>, u64) {
    let mut offset = 0;
    let mut by_address = Vec::new();
    for &extent in old {
        if !extent.is_hole() {
            by_address.push(Old { extent, offset });
        }
        offset += extent.length;
    }
    by_address.sort_unstable_by_key(|old| (old.extent.address, old.offset));
    (by_address, offset)
}

/// The offsets in the old version at which the part of `extent` that it has begins and ends; of several rather one
/// that does not go back behind `behind`.
fn matched(by_address: &[Old], extent: Extent, behind: u64) -> Option<(u64, u64)> {
    let mut found = None;
    // Extents of one file that overlap without being equal are rare: those that begin before are looked at only as
    // far as the nearest one.
    let first = by_address.partition_point(|old| old.extent.end() <= extent.address);
    for old in by_address[first..].iter().take_while(|old| old.extent.address < extent.end()) {
        let start = extent.address.max(old.extent.address);
        let end = extent.end().min(old.extent.end());
        if start >= end {
            continue;
        }
        let inside = |address| old.offset + (address - old.extent.address);
        found = match found {
            None => Some((inside(start), inside(end))),
            // The whole of a piece that the old version has in parts which follow each other.
            Some((from, to)) if to == inside(start) => Some((from, inside(end))),
            Some((from, _)) if from < behind && inside(start) >= behind => Some((inside(start), inside(end))),
            found => found,
        };
    }
    found
}

/// The stored bytes of the old version from offset `from` to `to`. If what was there moved before what went on, the
/// bytes behind `from`, as many as the new ones are.
fn between(old: &[Extent], from: u64, to: u64, literals: &[Extent]) -> Vec<Extent> {
    let to = if to < from { from + literals.iter().map(|extent| extent.length).sum::<u64>() } else { to };
    cut(old, from, to)
}

/// The stored part of a list of extents between two offsets.
pub(super) fn cut(list: &[Extent], from: u64, to: u64) -> Vec<Extent> {
    let mut offset = 0;
    let mut found = Vec::new();
    for extent in list {
        let (start, end) = (from.max(offset), to.min(offset + extent.length));
        if start < end && !extent.is_hole() {
            join(&mut found, Extent { address: extent.address + (start - offset), length: end - start });
        }
        offset += extent.length;
        if offset >= to {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(address: u64, length: u64) -> Piece {
        Piece { extent: Extent { address, length }, is_literal: false }
    }

    fn literal(address: u64, length: u64) -> Piece {
        Piece { is_literal: true, ..old(address, length) }
    }

    fn found(new: &[Piece], old: &[(u64, u64)]) -> Vec<(u64, Vec<(u64, u64)>)> {
        let old: Vec<_> = old.iter().map(|&(address, length)| Extent { address, length }).collect();
        let pairs = |list: Vec<Extent>| list.iter().map(|extent| (extent.address, extent.length)).collect();
        let gaps = gaps(new, &old).into_iter();
        gaps.map(|gap| (gap.literals.iter().map(|extent| extent.length).sum(), pairs(gap.bases))).collect()
    }

    #[test]
    fn the_base_is_what_lay_between_the_neighbours() {
        let new = [old(100, 50), literal(900, 20), old(170, 30)];
        assert_eq!(found(&new, &[(100, 100)]), [(20, vec![(150, 20)])]);
        assert_eq!(found(&new, &[(100, 50), (400, 9), (0, 5), (600, 1), (170, 30)]), [(20, vec![(400, 9), (600, 1)])]);
    }

    #[test]
    fn beginning_and_end_of_the_file_are_neighbours() {
        let new = [literal(900, 20), old(130, 20), literal(920, 5)];
        assert_eq!(found(&new, &[(100, 100)]), [(20, vec![(100, 30)]), (5, vec![(150, 50)])]);
        assert_eq!(found(&[literal(900, 20)], &[(100, 100)]), [(20, vec![(100, 100)])]);
        assert_eq!(found(&[literal(900, 20)], &[]), [(20, vec![])]);
    }

    #[test]
    fn pieces_from_elsewhere_do_not_divide_a_gap_and_insertions_have_no_base() {
        let new = [old(100, 10), literal(900, 20), old(5000, 7), literal(930, 5), old(110, 90)];
        assert_eq!(found(&new, &[(100, 100)]), [(25, vec![])]);
    }

    #[test]
    fn what_went_back_takes_what_follows() {
        let new = [old(150, 50), literal(900, 20), old(100, 50)];
        assert_eq!(found(&new, &[(100, 50), (150, 50), (300, 100)]), [(20, vec![(300, 20)])]);
    }

    #[test]
    fn a_piece_that_the_old_version_has_in_parts_is_passed_whole() {
        let new = [old(100, 100), literal(900, 20)];
        assert_eq!(found(&new, &[(100, 40), (140, 60), (300, 10)]), [(20, vec![(300, 10)])]);
    }
}
