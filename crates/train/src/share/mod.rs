//! The share of one process in a run on several ranks: some of the passes of each step, and some of the parameters.
//!
//! A step has `run.accumulation` passes, whatever the number of ranks. Each rank computes the gradients of its passes, and
//! gets those of all ranks for a slice of the parameters, which it sums over one fixed tree. Each parameter's owner updates it;
//! then all get the new values. So equal configurations give equal bits on any number of ranks, and each sends and receives
//! about twice the size of the weights per step.

mod owners;
mod reduce;
mod tree;
mod wire;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Tensor, TensorData},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tweedie_models::params::HostTensor;
use tweedie_system::{
    ranks::{Alone, Exchange, Parts, Ranks},
    record,
};

pub(crate) use owners::Owners;
use owners::Piece;
pub(crate) use reduce::Reduction;
use wire::{Floats, bytes, copy, floats};

use crate::{config::RunConfig, error::TrainError, gradients::GradientMap};

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

    /// A share of the whole work, for what one rank does alone.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self { ranks: Arc::new(Alone), passes: self.passes }
    }

    /// A share of everything, for steps of one pass.
    #[cfg(test)]
    pub fn of_one() -> Self {
        Self { ranks: Arc::new(Alone), passes: 1 }
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

    /// Those of `all` that this process works on.
    pub fn deal<T>(&self, all: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        let all: Vec<T> = all.into_iter().collect();
        let own = self.ranks.share(all.len());
        all.into_iter().skip(own.start).take(own.len())
    }

    /// The number of passes of the busiest rank, if they are not dealt out evenly.
    pub fn uneven(&self) -> Option<(usize, usize)> {
        let count = self.ranks.count();
        (!self.passes.is_multiple_of(count)).then(|| (self.passes, self.passes.div_ceil(count)))
    }

    /// Sums what `leaf` returns for the passes of this process, as far as that is possible without those of others. `done` gets
    /// each sum as soon as it is there.
    ///
    /// # Errors
    /// Those of `leaf`.
    pub fn sums<T>(
        &self,
        mut leaf: impl FnMut(usize) -> Result<T, TrainError>,
        add: impl Fn(T, T) -> T,
        mut done: impl FnMut(T),
    ) -> Result<(), TrainError> {
        for node in tree::within(0..self.passes, &self.own()) {
            done(tree::sum(node, &mut leaf, &add)?);
        }
        Ok(())
    }

    /// Begins to sum the gradients of a step over all ranks.
    pub fn reduction(&self, owners: &Owners) -> Reduction {
        Reduction::new(self, owners)
    }

    /// Tells all ranks the result of a part of the work, and returns what each of them told. Collective.
    ///
    /// # Errors
    /// The own error, or else that of another rank.
    pub fn agree<T: Serialize + DeserializeOwned>(
        &self,
        mine: Result<T, TrainError>,
    ) -> Result<Vec<T>, TrainError> {
        self.tell(mine)?.heard()
    }

    /// Starts to [agree](Self::agree). Collective.
    ///
    /// # Errors
    /// If the result cannot be written as JSON.
    pub fn tell<T: Serialize>(&self, mine: Result<T, TrainError>) -> Result<Telling<T>, TrainError> {
        if !self.is_shared() {
            return Ok(Telling::Alone(mine));
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
        let told = serde_json::to_vec(&told).map_err(wrong)?;
        Ok(Telling::All { own, exchange: self.ranks.start(Parts::Same(told)) })
    }

    /// Numbers of all ranks, in their order, bit for bit. Collective.
    ///
    /// # Errors
    /// Those of [`Share::agree`].
    pub fn numbers(&self, mine: Result<Vec<f64>, TrainError>) -> Result<Vec<f64>, TrainError> {
        let mine = mine.map(|numbers| numbers.into_iter().map(f64::to_bits).collect::<Vec<u64>>());
        Ok(self.agree(mine)?.into_iter().flatten().map(f64::from_bits).collect())
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
        let span = record::span("copy");
        let mut visitor = Values { path: Vec::new(), owners, rank: me, found: BTreeMap::new() };
        model.visit(&mut visitor);
        // Each rank gets the new values of its slice, and then sends them to all.
        let value = |piece: &Piece| {
            let found = visitor.found.get(&owners.parameters()[piece.parameter].name);
            bytes(found.and_then(|found| found.get(piece.values.clone())).unwrap_or_default())
        };
        let mut parts: Vec<Vec<u8>> = vec![Vec::new(); count];
        for (rank, part) in parts.iter_mut().enumerate().filter(|(rank, _)| *rank != me) {
            for piece in owners.pieces(owners.slice(rank)).filter(|piece| piece.owner == me) {
                part.extend(value(&piece));
            }
        }
        drop(span);
        let found = self.ranks.exchange(parts)?;
        let span = record::span("copy");
        let mut rests: Vec<Floats<'_>> = found.iter().map(|part| Floats(part)).collect();
        for (rank, rest) in rests.iter().enumerate().filter(|(rank, _)| *rank != me) {
            let pieces = owners.pieces(owners.slice(me)).filter(|piece| piece.owner == rank);
            expect(rank, rest.len(), pieces.map(|piece| piece.values.len()).sum())?;
        }
        let mut exchanges: Vec<Exchange> = Vec::new();
        for segment in 0..owners.segments() {
            let range = owners.segment(me, segment);
            let mut part = vec![0; 4 * range.len()];
            let (mut rest, mut tasks) = (part.as_mut_slice(), Vec::new());
            for piece in owners.pieces(range) {
                let (to, others) = rest.split_at_mut(4 * piece.values.len());
                rest = others;
                tasks.push(match piece.owner == me {
                    true => (to, value(&piece)),
                    false => (to, rests[piece.owner].take(piece.values.len())),
                });
            }
            copy(tasks);
            exchanges.push(self.ranks.start(Parts::Same(part)));
        }
        drop(span);
        let foreign = |parameter: &owners::Parameter| parameter.owner != me;
        let mut values: Vec<Option<Vec<f32>>> = Vec::new();
        for parameter in owners.parameters() {
            values.push(foreign(parameter).then(|| vec![0.0; parameter.place.len()]));
        }
        for (segment, exchange) in exchanges.into_iter().enumerate() {
            let found = exchange.wait()?;
            let _span = record::span("copy");
            let mut froms = Vec::new();
            for (rank, part) in found.iter().enumerate() {
                let (mut rest, range) = (Floats(part), owners.segment(rank, segment));
                expect(rank, rest.len(), range.len())?;
                froms.extend(owners.pieces(range).map(|piece| {
                    let from = rest.take(piece.values.len());
                    (piece, from)
                }));
            }
            copy(reduce::matched(values.iter_mut().map(|values| values.as_deref_mut()), froms));
        }
        let names = owners.parameters().iter().map(|parameter| parameter.name.clone());
        let values = names.zip(values).filter_map(|(name, values)| Some((name, values?))).collect();
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
        let mut parts = vec![Vec::new(); self.ranks.count()];
        parts[0] = bytes(&values).to_vec();
        let found = self.ranks.exchange(parts)?;
        if !self.is_first() {
            return Ok(BTreeMap::new());
        }
        let mut all = BTreeMap::new();
        for (rank, (shapes, part)) in shapes.into_iter().zip(&found).enumerate() {
            let mut rest = Floats(part);
            for (name, shape) in shapes {
                let size = shape.iter().product();
                let values = floats(rest.take(size));
                if values.len() != size {
                    return Err(TrainError::Rank { rank, reason: format!("it did not send all of {name}") });
                }
                all.insert(name, HostTensor { shape, values });
            }
        }
        Ok(all)
    }
}

/// What ranks tell each other.
pub(crate) enum Telling<T> {
    Alone(Result<T, TrainError>),
    All { own: Option<TrainError>, exchange: Exchange },
}

impl<T: DeserializeOwned> Telling<T> {
    /// What each rank told.
    ///
    /// # Errors
    /// The own error, or else that of another rank.
    pub fn heard(self) -> Result<Vec<T>, TrainError> {
        let (own, exchange) = match self {
            Self::Alone(mine) => return Ok(vec![mine?]),
            Self::All { own, exchange } => (own, exchange),
        };
        let all = exchange.wait()?;
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
}

fn wrong(error: serde_json::Error) -> TrainError {
    TrainError::Model(format!("a message between ranks: {error}"))
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
