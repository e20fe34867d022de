//! The sum of the gradients of a step over all ranks.
//!
//! A rank *gives* the sum of each of its subtrees as soon as it has it, and goes on with its next pass while the values travel.
//! The subtrees of the ranks are exchanged in rounds: in round `j` each rank sends its `j`-th subtree, or nothing if it has
//! fewer. Slices are summed block by block over the tree of all passes, whatever arrives first.

use std::collections::BTreeSet;

use burn::tensor::Device;
use rayon::prelude::*;
use tweedie_system::{
    ranks::{Exchange, Parts},
    record,
};

use super::{
    Owners, Share, expect,
    owners::Piece,
    tree::{self, Node},
    wire::{BLOCK, Floats, bytes, bytes_mut, copy, floats},
};
use crate::{error::TrainError, gradients::GradientMap};

/// A sum that is going on.
pub(crate) struct Reduction {
    share: Share,
    owners: Owners,
    /// The subtrees of each rank.
    nodes: Vec<Vec<Node>>,
    /// For each round the exchange of each segment.
    rounds: Vec<Vec<Exchange>>,
    /// What is sent in the last round.
    last: Option<GradientMap>,
    /// The parameters that have gradients.
    names: BTreeSet<String>,
    device: Option<Device>,
    /// The sum of all passes, on a single rank.
    whole: GradientMap,
}

impl Reduction {
    pub(super) fn new(share: &Share, owners: &Owners) -> Self {
        Self {
            nodes: tree::of_ranks(share.passes, share.ranks.count()),
            share: share.clone(),
            owners: owners.clone(),
            rounds: Vec::new(),
            last: None,
            names: BTreeSet::new(),
            device: None,
            whole: GradientMap::default(),
        }
    }

    /// Takes the sum of the next subtree of this rank, and starts to send it, unless it belongs to the last round.
    pub fn give(&mut self, sum: GradientMap) {
        match self.share.is_shared() {
            true if self.rounds.len() + 1 < self.all_rounds() => self.send(sum),
            true => self.last = Some(sum),
            false => self.whole = sum,
        }
    }

    fn all_rounds(&self) -> usize {
        self.nodes.iter().map(Vec::len).max().unwrap_or_default()
    }

    fn send(&mut self, sum: GradientMap) {
        let _span = record::span("copy");
        self.device = self.device.take().or(sum.device());
        let values = sum.into_values();
        let mut round = Vec::new();
        for segment in 0..self.owners.segments() {
            let ranges: Vec<_> =
                (0..self.nodes.len()).map(|rank| self.owners.segment(rank, segment)).collect();
            let mut parts: Vec<Vec<u8>> = ranges.iter().map(|range| vec![0; 4 * range.len()]).collect();
            let mut tasks: Vec<(&mut [u8], &[u8])> = Vec::new();
            for (mut rest, range) in parts.iter_mut().map(Vec::as_mut_slice).zip(ranges) {
                for Piece { parameter, values: of, .. } in self.owners.pieces(range) {
                    let (to, others) = rest.split_at_mut(4 * of.len());
                    rest = others;
                    // Without a gradient, zeros.
                    let from = values.get(&self.owners.parameters()[parameter].name);
                    tasks.extend(from.and_then(|from| from.get(of)).map(|from| (to, bytes(from))));
                }
            }
            copy(tasks);
            round.push(self.share.ranks.start(Parts::Each(parts)));
        }
        self.rounds.push(round);
        self.names.extend(values.into_keys());
    }

    /// Takes part in the rounds before the last one for which this rank has nothing to give, or cannot because of an error.
    pub fn given(&mut self) {
        self.pass_until(self.all_rounds().saturating_sub(1));
    }

    /// Starts the last round.
    pub fn send_last(&mut self) {
        self.given();
        if let Some(sum) = self.last.take() {
            self.send(sum);
        }
        self.pass_until(self.all_rounds());
    }

    fn pass_until(&mut self, rounds: usize) {
        while self.share.is_shared() && self.rounds.len() < rounds {
            let nothing = || self.share.ranks.start(Parts::Each(vec![Vec::new(); self.nodes.len()]));
            self.rounds.push((0..self.owners.segments()).map(|_| nothing()).collect());
        }
    }

    /// The sums over all passes, of the parameters that this process owns. Collective.
    ///
    /// # Errors
    /// If another rank cannot be reached or sends something else.
    pub fn finish(mut self) -> Result<GradientMap, TrainError> {
        if !self.share.is_shared() {
            return Ok(self.whole);
        }
        self.send_last();
        let me = self.share.ranks.rank();
        let slice = self.owners.slice(me);
        let mut sum = vec![0.0f32; slice.len()];
        let mut rounds: Vec<_> = std::mem::take(&mut self.rounds).into_iter().map(Vec::into_iter).collect();
        for segment in 0..self.owners.segments() {
            let place = self.owners.segment(me, segment);
            let found: Vec<Vec<Vec<u8>>> =
                rounds.iter_mut().filter_map(Iterator::next).map(Exchange::wait).collect::<Result<_, _>>()?;
            let mut leaves: Vec<(Node, &[u8])> = Vec::new();
            for (rank, nodes) in self.nodes.iter().enumerate() {
                for (round, parts) in found.iter().enumerate() {
                    let part = parts.get(rank).map(Vec::as_slice).unwrap_or_default();
                    let node = nodes.get(round);
                    expect(rank, part.len() / 4, node.map_or(0, |_| place.len()))?;
                    leaves.extend(node.map(|node| (node.clone(), part)));
                }
            }
            let _span = record::span("sum");
            let within = place.start - slice.start..place.end - slice.start;
            let out = sum.get_mut(within).unwrap_or_default();
            out.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
                let start = 4 * BLOCK * block;
                let of_block = |(node, part): &(Node, &[u8])| {
                    (node.clone(), floats(&part[start..start + 4 * out.len()]))
                };
                let mut leaves = leaves.iter().map(of_block).peekable();
                // The subtrees of all ranks cover all passes.
                if let Some(sum) = tree::join(0..self.share.passes, &mut leaves, &added) {
                    out.copy_from_slice(&sum);
                }
            });
        }
        self.deliver(&sum)
    }

    /// Sends the sums of the slice of this rank to the owners of the parameters, and returns those of own parameters.
    fn deliver(self, sum: &[f32]) -> Result<GradientMap, TrainError> {
        let (me, count) = (self.share.ranks.rank(), self.nodes.len());
        // Only the parameter that began before the slice belongs to another rank.
        let mut parts: Vec<Vec<u8>> = vec![Vec::new(); count];
        let mut rest = Floats(bytes(sum));
        for Piece { owner, values, .. } in self.owners.pieces(self.owners.slice(me)) {
            let values = rest.take(values.len());
            if owner != me {
                parts[owner].extend(values);
            }
        }
        let found = self.share.ranks.exchange(parts)?;
        let _span = record::span("copy");
        let mut reduced: Vec<Option<Vec<f32>>> = Vec::new();
        for parameter in self.owners.parameters() {
            let own = parameter.owner == me && self.names.contains(&parameter.name);
            reduced.push(own.then(|| vec![0.0; parameter.place.len()]));
        }
        let mut froms: Vec<(Piece, &[u8])> = Vec::new();
        for (rank, part) in found.iter().enumerate() {
            let pieces = self.owners.pieces(self.owners.slice(rank));
            let own: Vec<Piece> = pieces.filter(|piece| piece.owner == me).collect();
            let count = own.iter().map(|piece| piece.values.len()).sum();
            // The own values were not sent: they lie at the end of the slice.
            let mut rest = Floats(if rank == me { bytes(&sum[sum.len() - count..]) } else { part });
            expect(rank, rest.len(), count)?;
            froms.extend(own.into_iter().map(|piece| {
                let from = rest.take(piece.values.len());
                (piece, from)
            }));
        }
        froms.sort_by_key(|(piece, _)| (piece.parameter, piece.values.start));
        let to = reduced.iter_mut().map(|values| values.as_deref_mut());
        copy(matched(to, froms));
        let names = self.owners.parameters().iter().map(|parameter| parameter.name.clone());
        let reduced = names.zip(reduced).filter_map(|(name, values)| Some((name, values?)));
        Ok(GradientMap::from_values(reduced.collect(), self.device))
    }
}

/// Places in parameters for pieces of them, which come in order. Parameters that are `None` are left out.
pub(super) fn matched<'a, 'b>(
    parameters: impl Iterator<Item = Option<&'a mut [f32]>>,
    froms: Vec<(Piece, &'b [u8])>,
) -> Vec<(&'a mut [u8], &'b [u8])> {
    let mut froms = froms.into_iter().peekable();
    let mut tasks = Vec::new();
    for (at, values) in parameters.enumerate() {
        let mut rest = values;
        let mut start = 0;
        while let Some((piece, from)) = froms.next_if(|(piece, _)| piece.parameter == at) {
            let Some(values) = rest.take() else { continue };
            let (_, values) = values.split_at_mut(piece.values.start - start);
            let (to, values) = values.split_at_mut(piece.values.len());
            tasks.push((bytes_mut(to), from));
            (rest, start) = (Some(values), piece.values.end);
        }
    }
    tasks
}

fn added(mut a: Vec<f32>, b: Vec<f32>) -> Vec<f32> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use tweedie_system::ranks::Threads;

    use super::*;

    /// Values whose sum depends on the order.
    fn leaf(pass: usize, sizes: &BTreeMap<String, usize>) -> GradientMap {
        let value = |name: &str, i: usize| {
            let seed = (pass * 7919 + i * 104_729 + name.len() * 31) % 1009;
            (seed as f32 - 500.0) * 10f32.powi((seed % 7) as i32 - 3)
        };
        let of = |(name, size): (&String, &usize)| {
            (name.clone(), (0..*size).map(|i| value(name, i)).collect::<Vec<f32>>())
        };
        GradientMap::from_values(sizes.iter().map(of).collect(), None)
    }

    #[test]
    fn sums_have_the_bits_of_the_tree_for_any_ranks_and_segments() {
        let sizes: BTreeMap<String, usize> =
            [("a", 5), ("bb", 9001), ("ccc", 1), ("dddd", 4700)].map(|(n, s)| (n.to_owned(), s)).into();
        for passes in [1, 3, 8] {
            let all = &mut |pass| Ok::<_, ()>(leaf(pass, &sizes));
            let whole = tree::sum(0..passes, all, &GradientMap::plus).unwrap().into_values();
            for (count, segments) in (1..=passes).flat_map(|count| [(count, 1), (count, 3)]) {
                let found: Vec<BTreeMap<String, Vec<f32>>> = std::thread::scope(|scope| {
                    let one = |ranks: Threads| {
                        let sizes = &sizes;
                        scope.spawn(move || {
                            let owners = Owners::of(sizes.clone(), count, segments);
                            let share = Share { ranks: Arc::new(ranks), passes };
                            let mut reduction = Reduction::new(&share, &owners);
                            let sum = |pass| Ok::<_, TrainError>(leaf(pass, sizes));
                            share.sums(sum, GradientMap::plus, |sum| reduction.give(sum)).unwrap();
                            reduction.finish().unwrap().into_values()
                        })
                    };
                    let threads: Vec<_> = Threads::all(count).into_iter().map(one).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                assert_eq!(found.iter().map(BTreeMap::len).sum::<usize>(), sizes.len());
                for (name, values) in found.into_iter().flatten() {
                    let same =
                        values.iter().map(|v| v.to_bits()).eq(whole[&name].iter().map(|v| v.to_bits()));
                    assert!(same, "{name}: {passes} passes, {count} ranks, {segments} segments");
                }
            }
        }
    }
}
