//! How the parameters of a module are divided among ranks.
//!
//! All values lie one after the other, in the order of the parameters' names. Each rank sums an equal *slice* of them, which may
//! begin and end within parameters, so that no rank receives more than others. The rank in whose slice a parameter begins is
//! its *owner*: it updates it, and alone has its running means (Rajbhandari et al. 2020, arXiv:1910.02054, stage 1). Slices are
//! sent in *segments*, so that one is copied and summed while the next one is on its way.

use std::{collections::BTreeMap, ops::Range};

use burn::module::Module;
use tweedie_models::params::shapes;
use tweedie_system::ranks::share;

/// Bytes of all slices in one segment, unless that makes too many.
const SEGMENT: usize = 4 << 20;
/// Most segments: each of them costs a message to every rank.
const MOST: usize = 16;

/// The parameters of a module, divided among ranks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    /// In the order of their values.
    parameters: Vec<Parameter>,
    total: usize,
    ranks: usize,
    segments: usize,
}

/// A parameter, and the place of its values among all.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub name: String,
    pub place: Range<usize>,
    pub owner: usize,
}

/// A part of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The number of the parameter.
    pub parameter: usize,
    /// Within the parameter.
    pub values: Range<usize>,
    pub owner: usize,
}

impl Owners {
    /// Divides the parameters of `model`.
    pub fn new<M: Module>(model: &M, ranks: usize) -> Self {
        let sizes = shapes(model).into_iter().map(|(name, shape)| (name, shape.iter().product()));
        let sizes: BTreeMap<String, usize> = sizes.collect();
        let bytes = size_of::<f32>() * sizes.values().sum::<usize>();
        Self::of(sizes, ranks, bytes.div_ceil(SEGMENT).clamp(1, MOST))
    }

    /// Divides parameters with these numbers of values.
    pub(super) fn of(sizes: BTreeMap<String, usize>, ranks: usize, segments: usize) -> Self {
        let total: usize = sizes.values().sum();
        let owner =
            |start: usize| (0..ranks).find(|&rank| share(total, rank, ranks).contains(&start)).unwrap_or(0);
        let mut start = 0;
        let parameter = |(name, size): (String, usize)| {
            let place = start..start + size;
            start += size;
            Parameter { name, owner: owner(place.start), place }
        };
        Self { parameters: sizes.into_iter().map(parameter).collect(), total, ranks, segments }
    }

    /// The same parameters, all of which belong to the first rank.
    #[must_use]
    pub fn of_first(&self) -> Self {
        let first = |parameter: &Parameter| Parameter { owner: 0, ..parameter.clone() };
        Self { parameters: self.parameters.iter().map(first).collect(), ..self.clone() }
    }

    /// Whether `rank` updates the parameter `name`.
    pub fn owns(&self, rank: usize, name: &str) -> bool {
        self.find(name).is_some_and(|parameter| parameter.owner == rank)
    }

    /// The parameter `name`.
    pub(super) fn find(&self, name: &str) -> Option<&Parameter> {
        let at = self.parameters.binary_search_by(|parameter| parameter.name.as_str().cmp(name));
        self.parameters.get(at.ok()?)
    }

    /// All parameters.
    pub(super) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The number of segments of each slice.
    pub(super) fn segments(&self) -> usize {
        self.segments
    }

    /// The place of the slice of `rank` among all values.
    pub(super) fn slice(&self, rank: usize) -> Range<usize> {
        share(self.total, rank, self.ranks)
    }

    /// The place of a segment of the slice of `rank` among all values.
    pub(super) fn segment(&self, rank: usize, segment: usize) -> Range<usize> {
        let slice = self.slice(rank);
        let within = share(slice.len(), segment, self.segments);
        slice.start + within.start..slice.start + within.end
    }

    /// The pieces of parameters in a range of all values, in order.
    pub(super) fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = Piece> {
        let first = self.parameters.partition_point(|parameter| parameter.place.end <= range.start);
        let end = range.end;
        let there = self.parameters.iter().enumerate().skip(first);
        there.take_while(move |(_, parameter)| parameter.place.start < end).filter_map(
            move |(at, Parameter { place, owner, .. })| {
                let common = place.start.max(range.start)..place.end.min(range.end);
                let values = common.start.checked_sub(place.start)?..common.end.saturating_sub(place.start);
                (!common.is_empty()).then_some(Piece { parameter: at, values, owner: *owner })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_equal_and_cover_every_value_once() {
        let sizes: BTreeMap<String, usize> =
            [("a", 3), ("b", 100), ("c", 0), ("d", 7), ("e", 40)].map(|(n, s)| (n.to_owned(), s)).into();
        for (ranks, segments) in (1..9).flat_map(|ranks| [1, 3, 40].map(|segments| (ranks, segments))) {
            let owners = Owners::of(sizes.clone(), ranks, segments);
            let mut seen: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for rank in 0..ranks {
                assert!(owners.slice(rank).len().abs_diff(150 / ranks) <= 1);
                let whole: Vec<_> = owners.pieces(owners.slice(rank)).collect();
                assert_eq!(
                    whole.iter().map(|piece| piece.values.len()).sum::<usize>(),
                    owners.slice(rank).len()
                );
                let ranges = (0..segments).map(|segment| owners.segment(rank, segment));
                for piece in ranges.flat_map(|range| owners.pieces(range).collect::<Vec<_>>()) {
                    let Parameter { name, owner, .. } = &owners.parameters()[piece.parameter];
                    assert!(piece.owner == *owner && owners.owns(piece.owner, name));
                    seen.entry(name).or_default().extend(piece.values);
                }
            }
            for (name, size) in sizes.iter().filter(|(_, size)| **size > 0) {
                assert_eq!(seen[name.as_str()], (0..*size).collect::<Vec<_>>());
                assert_eq!((0..ranks).filter(|rank| owners.owns(*rank, name)).count(), 1);
            }
        }
    }
}
