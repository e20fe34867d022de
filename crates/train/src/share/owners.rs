//! Which rank updates which parameter. Its optimizer alone has that parameter's running means (Rajbhandari et al. 2020,
//! arXiv:1910.02054, stage 1).

use std::collections::BTreeMap;

use burn::module::Module;
use tweedie_models::params::shapes;

/// The parameters of a module, dealt out to ranks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    /// For each rank its parameters, with their number of values, in the order of their names.
    of: Vec<BTreeMap<String, usize>>,
}

impl Owners {
    /// Deals out the parameters of `model`, the largest first, each to the rank with the fewest values.
    pub fn new<M: Module>(model: &M, ranks: usize) -> Self {
        let mut all: Vec<(usize, String)> =
            shapes(model).into_iter().map(|(name, shape)| (shape.iter().product(), name)).collect();
        all.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut of = vec![BTreeMap::new(); ranks];
        let mut loads = vec![0; ranks];
        for (size, name) in all {
            let Some(least) = (0..ranks).min_by_key(|&rank| loads[rank]) else { break };
            loads[least] += size;
            of[least].insert(name, size);
        }
        Self { of }
    }

    /// The parameters of a rank, with their number of values.
    pub fn of(&self, rank: usize) -> impl Iterator<Item = (&String, usize)> {
        self.of.get(rank).into_iter().flatten().map(|(name, size)| (name, *size))
    }

    /// Whether `rank` updates the parameter `name`.
    pub fn owns(&self, rank: usize, name: &str) -> bool {
        self.of.get(rank).is_some_and(|names| names.contains_key(name))
    }
}
