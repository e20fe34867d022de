//! The share of one process in a run on several ranks: some of the passes of each step, and some of the parameters.
//!
//! A step has `run.accumulation` passes, whatever the number of ranks. Each rank computes the gradients of its passes, and
//! gets those of all ranks for a slice of the parameters, which it sums over one fixed tree. Each parameter's owner updates it;
//! then all get the new values. So equal configurations give equal bits on any number of ranks, and each sends and receives
//! about twice the size of the weights per step.

mod owners;
mod tree;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Tensor, TensorData},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tweedie_models::params::HostTensor;
use tweedie_system::ranks::{Ranks, share};

pub(crate) use owners::Owners;
use owners::Piece;
pub(crate) use tree::Node;
use wire::{Floats, bytes};

use crate::{config::RunConfig, error::TrainError, gradients::GradientMap};

/// Gradients summed over subtrees of a step's passes.
pub(crate) type Sums = Vec<(Node, GradientMap)>;

/// The share of this process in a run.
#[derive(Clone)]
pub(crate) struct Share {
    ranks: Arc<dyn Ranks>,
    /// Passes of a step, on all ranks.
    passes: usize,
}

/// What a rank tells the others about a part of its work.
#[derive(Serialize, Deserialize)]
enum Told<T> {
    Done(T),
    Stopped,
    NotFinite { step: u64, what: String },
    Failed(String),
}

impl Share {
    /// The share of this rank.
    ///
    /// # Errors
    /// [`TrainError::Config`] if there are fewer passes than ranks.
    pub fn new(config: &RunConfig, ranks: Arc<dyn Ranks>) -> Result<Self, TrainError> {
        let (passes, count, rows) = (config.run.accumulation, ranks.count(), config.run.images_per_step());
        if passes >= count {
            return Ok(Self { ranks, passes });
        }
        let even = (count..=rows).find(|passes| rows.is_multiple_of(*passes));
        let how = match even {
            Some(n) => {
                format!("run.batch = {} and run.accumulation = {n} keep {rows} images per step", rows / n)
            }
            None => format!("a step has only {rows} images (run.batch times run.accumulation)"),
        };
        let expected = format!("at least {count}, one pass for each of {count} ranks; {how}");
        Err(TrainError::config("run.accumulation", passes, expected))
    }

    /// The ranks of the run.
    pub fn ranks(&self) -> &dyn Ranks {
        &*self.ranks
    }

    /// Whether this process prints and writes files.
    pub fn is_first(&self) -> bool {
        self.ranks.is_first()
    }

    /// Whether there are other processes.
    pub fn is_shared(&self) -> bool {
        self.ranks.is_shared()
    }

    /// The passes of each step that this process computes.
    pub fn own(&self) -> Range<usize> {
        self.ranks.share(self.passes)
    }

    /// The number of passes of the busiest rank, if they are not dealt out evenly.
    pub fn uneven(&self) -> Option<(usize, usize)> {
        let count = self.ranks.count();
        (!self.passes.is_multiple_of(count)).then(|| (self.passes, self.passes.div_ceil(count)))
    }

    /// Sums what `leaf` returns for the passes of this process, as far as that is possible without those of others.
    ///
    /// # Errors
    /// Those of `leaf`.
    pub fn sums<T>(
        &self,
        mut leaf: impl FnMut(usize) -> Result<T, TrainError>,
        add: impl Fn(T, T) -> T,
    ) -> Result<Vec<(Node, T)>, TrainError> {
        let nodes = tree::within(0..self.passes, &self.own());
        nodes.into_iter().map(|node| Ok((node.clone(), tree::sum(node, &mut leaf, &add)?))).collect()
    }

    /// Tells all ranks the result of a part of the work, and returns what each of them told. Collective.
    ///
    /// # Errors
    /// The own error, or else that of another rank.
    pub fn agree<T: Serialize + DeserializeOwned>(
        &self,
        mine: Result<T, TrainError>,
    ) -> Result<Vec<T>, TrainError> {
        if !self.is_shared() {
            return Ok(vec![mine?]);
        }
        let (told, own) = match mine {
            Ok(value) => (Told::Done(value), None),
            Err(TrainError::Stopped) => (Told::Stopped, Some(TrainError::Stopped)),
            Err(TrainError::NotFinite { step, what, checkpoint }) => (
                Told::NotFinite { step, what: what.clone() },
                Some(TrainError::NotFinite { step, what, checkpoint }),
            ),
            Err(error) => (Told::Failed(error.to_string()), Some(error)),
        };
        let wrong = |e: serde_json::Error| TrainError::Model(format!("a message between ranks: {e}"));
        let all = self.ranks.gather(&serde_json::to_vec(&told).map_err(wrong)?)?;
        if let Some(error) = own {
            return Err(error);
        }
        let mut values = Vec::new();
        for (rank, message) in all.iter().enumerate() {
            match serde_json::from_slice(message).map_err(wrong)? {
                Told::Done(value) => values.push(value),
                Told::Stopped => return Err(TrainError::Stopped),
                Told::NotFinite { step, what } => {
                    return Err(TrainError::NotFinite { step, what, checkpoint: None });
                }
                Told::Failed(reason) => return Err(TrainError::Rank { rank, reason }),
            }
        }
        Ok(values)
    }

    /// The own result, if all ranks succeeded. Collective.
    ///
    /// # Errors
    /// Those of [`Share::agree`].
    pub fn together<T>(&self, mine: Result<T, TrainError>) -> Result<T, TrainError> {
        let (told, value) = match mine {
            Ok(value) => (Ok(()), Some(value)),
            Err(error) => (Err(error), None),
        };
        self.agree(told)?;
        value.ok_or(TrainError::Stopped)
    }

    /// The sums of the gradients of all passes, of the parameters that this process owns. Collective.
    ///
    /// # Errors
    /// If another rank cannot be reached or sends something else.
    pub fn reduce(&self, owners: &Owners, mut sums: Sums) -> Result<GradientMap, TrainError> {
        if !self.is_shared() {
            return Ok(sums.pop().map(|(_, sum)| sum).unwrap_or_default());
        }
        let (count, device) = (self.ranks.count(), sums.first().and_then(|(_, sum)| sum.device()));
        // The same parameters have gradients in every pass, because the network is the same.
        let mut names = BTreeSet::new();
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); count];
        for (_, sum) in sums {
            let values = sum.into_values();
            for (rank, part) in parts.iter_mut().enumerate() {
                for Piece { name, values: of, .. } in owners.pieces(rank) {
                    match values.get(name).and_then(|values| values.get(of.clone())) {
                        Some(values) => part.extend(values),
                        None => part.resize(part.len() + of.len(), 0.0),
                    }
                }
            }
            names.extend(values.into_keys());
        }
        let slice = owners.slice(self.ranks.rank());
        let mut nodes = Vec::new();
        for (rank, part) in self.exchange(&parts)?.into_iter().enumerate() {
            let of_rank = tree::within(0..self.passes, &share(self.passes, rank, count));
            let mut rest = Floats(&part);
            expect(rank, rest.len(), of_rank.len() * slice)?;
            nodes.extend(of_rank.into_iter().map(|node| (node, rest.take(slice))));
        }
        let add = |mut a: Vec<f32>, b: Vec<f32>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        };
        let sum = tree::join(0..self.passes, &mut nodes.into_iter().peekable(), &add).unwrap_or_default();

        // Each piece goes to the owner of its parameter.
        let (mut parts, mut rest) = (vec![Vec::new(); count], Floats(bytes(&sum)));
        for Piece { owner, values, .. } in owners.pieces(self.ranks.rank()) {
            parts[owner].extend(rest.take(values.len()));
        }
        let mut reduced: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for (rank, part) in self.exchange(&parts)?.into_iter().enumerate() {
            let own = || owners.pieces(rank).filter(|piece| piece.owner == self.ranks.rank());
            let mut rest = Floats(&part);
            expect(rank, rest.len(), own().map(|piece| piece.values.len()).sum())?;
            for Piece { name, values, .. } in own() {
                let values = rest.take(values.len());
                if names.contains(name) {
                    reduced.entry(name.to_owned()).or_default().extend(values);
                }
            }
        }
        Ok(GradientMap::from_values(reduced, device))
    }

    fn exchange(&self, parts: &[Vec<f32>]) -> Result<Vec<Vec<u8>>, TrainError> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| bytes(part)).collect();
        Ok(self.ranks.exchange(&parts)?)
    }

    /// The norm of all gradients, of which this process has its own, as of one process. Collective.
    ///
    /// # Errors
    /// [`GradientMap::norm`]'s name of a parameter, or if another rank cannot be reached.
    pub fn norm(&self, gradients: &mut GradientMap) -> Result<Result<f64, String>, TrainError> {
        let own = gradients.squares();
        let own: Vec<_> = own.into_iter().map(|(name, sum)| (name, sum.to_bits())).collect();
        let mut all: Vec<(String, u64)> = self.agree(Ok(own))?.concat();
        all.sort();
        let squares = all.into_iter().map(|(name, bits)| (name, f64::from_bits(bits)));
        Ok(crate::gradients::norm(squares))
    }

    /// Sends the parameters that this process owns to all ranks, and takes those of others from them. Collective.
    ///
    /// # Errors
    /// If another rank cannot be reached or sends something else.
    pub fn spread<M: Module>(&self, owners: &Owners, model: M) -> Result<M, TrainError> {
        if !self.is_shared() {
            return Ok(model);
        }
        let (me, count) = (self.ranks.rank(), self.ranks.count());
        let mut visitor = Values { path: Vec::new(), owners, rank: me, found: BTreeMap::new() };
        model.visit(&mut visitor);
        // Each rank gets the new values of its slice, and then sends them to all.
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); count];
        for (rank, part) in parts.iter_mut().enumerate() {
            for Piece { name, values, .. } in owners.pieces(rank).filter(|piece| piece.owner == me) {
                part.extend(visitor.found.get(name).and_then(|found| found.get(values)).unwrap_or_default());
            }
        }
        let found = self.exchange(&parts)?;
        let mut rests: Vec<Floats<'_>> = found.iter().map(|part| Floats(part)).collect();
        let mut slice: Vec<f32> = Vec::with_capacity(owners.slice(me));
        for Piece { owner, values, .. } in owners.pieces(me) {
            slice.extend(rests[owner].take(values.len()));
        }
        let mut values: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for (rank, part) in self.ranks.gather(bytes(&slice))?.iter().enumerate() {
            let mut rest = Floats(part);
            expect(rank, rest.len(), owners.slice(rank))?;
            for piece in owners.pieces(rank) {
                let new = rest.take(piece.values.len());
                if piece.owner != me {
                    values.entry(piece.name.to_owned()).or_default().extend(new);
                }
            }
        }
        Ok(model.map(&mut Put { path: Vec::new(), values }))
    }

    /// The tensors of all ranks on rank 0, and nothing on others. Collective.
    ///
    /// # Errors
    /// If another rank cannot be reached or sends something else.
    pub fn collect(
        &self,
        own: BTreeMap<String, HostTensor>,
    ) -> Result<BTreeMap<String, HostTensor>, TrainError> {
        if !self.is_shared() {
            return Ok(own);
        }
        let shapes: Vec<_> = own.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
        let shapes = self.agree(Ok(shapes))?;
        let values: Vec<f32> = own.into_values().flat_map(|tensor| tensor.values).collect();
        let mut parts: Vec<&[u8]> = vec![&[]; self.ranks.count()];
        parts[0] = bytes(&values);
        let found = self.ranks.exchange(&parts)?;
        if !self.is_first() {
            return Ok(BTreeMap::new());
        }
        let mut all = BTreeMap::new();
        for (rank, (shapes, part)) in shapes.into_iter().zip(&found).enumerate() {
            let mut rest = Floats(part);
            for (name, shape) in shapes {
                let size = shape.iter().product();
                let values = rest.take(size);
                if values.len() != size {
                    return Err(TrainError::Rank { rank, reason: format!("it did not send all of {name}") });
                }
                all.insert(name, HostTensor { shape, values });
            }
        }
        Ok(all)
    }
}

/// Checks the number of values that a rank sent.
fn expect(rank: usize, found: usize, expected: usize) -> Result<(), TrainError> {
    match found == expected {
        true => Ok(()),
        false => {
            Err(TrainError::Rank { rank, reason: format!("it sent {found} values, expected {expected}") })
        }
    }
}

/// The values of the parameters of one rank.
struct Values<'a> {
    path: Vec<String>,
    owners: &'a Owners,
    rank: usize,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Values<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        if self.owners.owns(self.rank, &name) {
            let data = p.val().without_autodiff().into_data().convert::<f32>();
            self.found.insert(name, data.as_slice::<f32>().unwrap_or_default().to_vec());
        }
    }
}

/// Replaces some parameters.
struct Put {
    path: Vec<String>,
    values: BTreeMap<String, Vec<f32>>,
}

impl ModuleMapper for Put {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.values.remove(&self.path.join(".")) else { return p };
        let (id, old, mapper) = p.consume();
        let (tracked, device) = (old.is_autodiff(), old.without_autodiff());
        let data = TensorData::new(values, device.dims());
        let value = Tensor::<D>::from_data(data, (&device.device(), DType::F32));
        let value = if tracked { Tensor::from_inner(value).require_grad() } else { value };
        Param::from_mapped_value(id, value, mapper)
    }
}
