//! How the parameters of a module are divided among ranks.
//!
//! All values lie one after the other, in the order of the parameters' names. Each rank sums an equal *slice* of them, which may
//! begin and end within parameters, so that no rank receives more than others. The rank in whose slice a parameter begins is
//! its *owner*: it updates it, and alone has its running means (Rajbhandari et al. 2020, arXiv:1910.02054, stage 1).

use std::{collections::BTreeMap, ops::Range};

use burn::module::Module;
use tweedie_models::params::shapes;
use tweedie_system::ranks::share;

/// The parameters of a module, divided among ranks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    /// For each parameter the place of its values and its owner.
    places: BTreeMap<String, (Range<usize>, usize)>,
    total: usize,
    ranks: usize,
}

/// A part of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub name: &'a str,
    /// Within the parameter.
    pub values: Range<usize>,
    pub owner: usize,
}

impl Owners {
    /// Divides the parameters of `model`.
    pub fn new<M: Module>(model: &M, ranks: usize) -> Self {
        Self::of(
            shapes(model).into_iter().map(|(name, shape)| (name, shape.iter().product())).collect(),
            ranks,
        )
    }

    /// Divides parameters with these numbers of values.
    fn of(sizes: BTreeMap<String, usize>, ranks: usize) -> Self {
        let total: usize = sizes.values().sum();
        let owner =
            |start: usize| (0..ranks).find(|&rank| share(total, rank, ranks).contains(&start)).unwrap_or(0);
        let mut start = 0;
        let place = |(name, size): (String, usize)| {
            let place = start..start + size;
            start += size;
            (name, (place.clone(), owner(place.start)))
        };
        Self { places: sizes.into_iter().map(place).collect(), total, ranks }
    }

    /// Whether `rank` updates the parameter `name`.
    pub fn owns(&self, rank: usize, name: &str) -> bool {
        self.places.get(name).is_some_and(|(_, owner)| *owner == rank)
    }

    /// The number of values in the slice of `rank`.
    pub(super) fn slice(&self, rank: usize) -> usize {
        share(self.total, rank, self.ranks).len()
    }

    /// The pieces of parameters in the slice of `rank`, in order.
    pub(super) fn pieces(&self, rank: usize) -> impl Iterator<Item = Piece<'_>> {
        let slice = share(self.total, rank, self.ranks);
        self.places.iter().filter_map(move |(name, (place, owner))| {
            let common = place.start.max(slice.start)..place.end.min(slice.end);
            let values = common.start.checked_sub(place.start)?..common.end.saturating_sub(place.start);
            (!common.is_empty()).then_some(Piece { name, values, owner: *owner })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_equal_and_cover_every_value_once() {
        let sizes: BTreeMap<String, usize> =
            [("a", 3), ("b", 100), ("c", 0), ("d", 7), ("e", 40)].map(|(n, s)| (n.to_owned(), s)).into();
        for ranks in 1..9 {
            let owners = Owners::of(sizes.clone(), ranks);
            let mut seen: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for rank in 0..ranks {
                let pieces: Vec<_> = owners.pieces(rank).collect();
                assert_eq!(pieces.iter().map(|piece| piece.values.len()).sum::<usize>(), owners.slice(rank));
                assert!(owners.slice(rank).abs_diff(150 / ranks) <= 1);
                for piece in pieces {
                    assert!(owners.owns(piece.owner, piece.name));
                    seen.entry(piece.name).or_default().extend(piece.values);
                }
            }
            for (name, size) in sizes.iter().filter(|(_, size)| **size > 0) {
                assert_eq!(seen[name.as_str()], (0..*size).collect::<Vec<_>>());
                assert_eq!((0..ranks).filter(|rank| owners.owns(*rank, name)).count(), 1);
            }
        }
    }
}
