//! Access to a module's parameters by name.
//!
//! The name of a parameter is its path: field names and list indices joined by dots, for example
//! `down_blocks.0.resnets.1.conv1.weight`. Modules of this crate name their fields after PyTorch's modules, so these are
//! the tensor names of published checkpoints.

use std::collections::{BTreeMap, BTreeSet};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{DType, Tensor, TensorData},
};

/// A tensor in main memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Size of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, the last dimension fastest.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// Converts to tensor data.
    ///
    /// # Errors
    /// If the number of elements does not match the shape.
    pub fn into_data(self) -> Result<TensorData, String> {
        let Self { shape, values } = self;
        if values.len() != shape.iter().product::<usize>() {
            return Err(format!("has {} elements, which do not match shape {shape:?}", values.len()));
        }
        Ok(TensorData::new(values, shape))
    }
}

/// Named tensors to import from: a file, or a map in memory.
pub trait TensorSource {
    /// The names of all tensors.
    fn names(&self) -> Vec<String>;

    /// The shape of `name`, or `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// Reads one tensor, converted to `f32`. The error says what is wrong with it.
    fn read(&self, name: &str) -> Result<HostTensor, String>;

    /// Like [`Self::read`], as tensor data; without a copy if possible.
    fn data(&self, name: &str) -> Result<TensorData, String> {
        self.read(name)?.into_data()
    }
}

impl TensorSource for BTreeMap<String, HostTensor> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.get(name).map(|t| t.shape.clone())
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        self.get(name).cloned().ok_or_else(|| format!("there is no tensor `{name}`"))
    }
}

/// Why tensors cannot be used as a module's parameters.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParamError {
    /// A required tensor is missing.
    #[error("tensor `{name}` is missing (shape {shape:?}){}", and_more(*.others))]
    Missing {
        /// The first missing tensor.
        name: String,
        /// Its expected shape.
        shape: Vec<usize>,
        /// Number of further missing tensors.
        others: usize,
    },
    /// A tensor does not belong to the module.
    #[error("unexpected tensor `{name}`, which is not part of this network{}", and_more(*.others))]
    Unused {
        /// The first such tensor.
        name: String,
        /// Number of further ones.
        others: usize,
    },
    /// A tensor has another shape than the parameter.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape of the parameter.
        expected: Vec<usize>,
        /// Shape of the tensor.
        found: Vec<usize>,
    },
    /// A tensor could not be read.
    #[error("tensor `{name}`: {reason}")]
    Read {
        /// Name of the tensor.
        name: String,
        /// The reason given by the source.
        reason: String,
    },
}

fn and_more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(", and {others} more") }
}

/// The identifier of the parameter called `path`. It is the same in every run, so that an optimizer's state matches its
/// parameter again.
pub fn param_id(path: &str) -> ParamId {
    ParamId::from(hash(path))
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Sets every parameter's identifier from its path, and computes its initial value now instead of at first use. Modules
/// of this crate are returned settled.
pub fn settle<M: Module>(module: M) -> M {
    module.map(&mut Settle(Path::default()))
}

/// Names and shapes of all parameters.
pub fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    let mut visitor = Shapes::default();
    module.visit(&mut visitor);
    visitor.found
}

/// The number of parameters.
pub fn count<M: Module>(module: &M) -> usize {
    module.num_params()
}

/// Copies all parameters to main memory as `f32`.
pub fn export<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    let mut visitor = Export::default();
    module.visit(&mut visitor);
    visitor.found
}

/// The name of the first parameter with a value that is not finite.
pub fn non_finite<M: Module>(module: &M) -> Option<String> {
    let mut visitor = NonFinite::default();
    module.visit(&mut visitor);
    visitor.found
}

/// Replaces all parameters by the source's tensors with the same names.
///
/// # Errors
/// Names the tensor that is missing, unexpected, has the wrong shape or cannot be read. All names and shapes are
/// compared before the first tensor is read.
pub fn import<M: Module>(module: M, source: &dyn TensorSource) -> Result<M, ParamError> {
    let expected = shapes(&module);
    let names: BTreeSet<String> = source.names().into_iter().collect();

    let mut missing = expected.iter().filter(|(name, _)| !names.contains(*name));
    if let Some((name, shape)) = missing.next() {
        let (name, shape, others) = (name.clone(), shape.clone(), missing.count());
        return Err(ParamError::Missing { name, shape, others });
    }
    let mut unused = names.iter().filter(|name| !expected.contains_key(*name));
    if let Some(name) = unused.next() {
        return Err(ParamError::Unused { name: name.clone(), others: unused.count() });
    }
    for (name, expected) in &expected {
        let found = source.shape(name).unwrap_or_default();
        if found != *expected {
            return Err(ParamError::Shape { name: name.clone(), expected: expected.clone(), found });
        }
    }

    let mut mapper = Import { path: Path::default(), source, error: None };
    let module = module.map(&mut mapper);
    match mapper.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

/// The current position of a traversal.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn name(&self) -> String {
        self.0.join(".")
    }
}

struct Settle(Path);

impl ModuleMapper for Settle {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.0.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.0.pop();
    }

    fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (_, value, mapper) = p.consume();
        Param::from_mapped_value(param_id(&self.0.name()), value, mapper)
    }
}

#[derive(Default)]
struct Shapes {
    path: Path,
    found: BTreeMap<String, Vec<usize>>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        self.found.insert(self.path.name(), p.lazy_shape().as_slice().to_vec());
    }
}

#[derive(Default)]
struct Export {
    path: Path,
    found: BTreeMap<String, HostTensor>,
}

impl ModuleVisitor for Export {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        let value = p.val();
        let shape = value.dims().to_vec();
        let values = value.into_data().convert::<f32>().try_into_vec().expect("just converted to f32");
        self.found.insert(self.path.name(), HostTensor { shape, values });
    }
}

#[derive(Default)]
struct NonFinite {
    path: Path,
    found: Option<String>,
}

impl ModuleVisitor for NonFinite {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        if self.found.is_none() && p.val().into_data().iter::<f32>().any(|v| !v.is_finite()) {
            self.found = Some(self.path.name());
        }
    }
}

struct Import<'a> {
    path: Path,
    source: &'a dyn TensorSource,
    error: Option<ParamError>,
}

impl ModuleMapper for Import<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }

    fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return p;
        }
        let name = self.path.name();
        let shape = p.lazy_shape().as_slice().to_vec();
        match self.source.data(&name) {
            Err(reason) => self.error = Some(ParamError::Read { name, reason }),
            Ok(data) if data.shape().as_slice() != shape => {
                let reason = format!("has values of shape {:?}, expected {shape:?}", data.shape().as_slice());
                self.error = Some(ParamError::Read { name, reason });
            }
            Ok(data) => {
                let value = Tensor::from_data(data, (&p.lazy_device(), DType::F32));
                let id = p.id;
                return p.transform_for_load(value, id);
            }
        }
        p
    }
}

/// Implements what is the same for every module that has `fn build(&$config, &Init) -> Result<Self, ConfigError>` and a field
/// `config`. `$names` wraps a [`TensorSource`] whose names may be those of other versions.
macro_rules! constructors {
    ($config:ident $(, $names:path)?) => {
        /// Creates it with initial weights, which only depend on `seed`, from the distributions of PyTorch or of the class in
        /// diffusers or transformers.
        ///
        /// # Errors
        /// If the configuration is invalid.
        pub fn new(
            config: &$config,
            seed: u64,
            device: &tweedie_ops::Device,
        ) -> Result<Self, $crate::ConfigError> {
            let init = $crate::layers::Init::new(seed, device);
            Ok($crate::params::settle(Self::build(config, &init)?))
        }

        /// Creates it with the weights of `source`, named as in diffusers or transformers, of which older names are known, too.
        ///
        /// # Errors
        /// If the configuration is invalid, and those of [`import`]($crate::params::import).
        pub fn load(
            config: &$config,
            source: &dyn $crate::params::TensorSource,
            device: &tweedie_ops::Device,
        ) -> Result<Self, $crate::LoadError> {
            let init = $crate::layers::Init::new(0, device);
            $(let source = &$names(source);)?
            Ok($crate::params::import(Self::build(config, &init)?, source)?)
        }

        /// Its configuration.
        pub fn config(&self) -> &$config {
            &self.config
        }
    };
}
pub(crate) use constructors;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{Init, Linear};
    use burn::tensor::Device;

    fn linear(seed: u64) -> Linear {
        Linear::new(&Init::new(seed, &Device::flex()), 3, 2, true)
    }

    #[test]
    fn a_round_trip_is_exact() {
        let tensors = export(&linear(1));
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["bias", "weight"]);
        assert_eq!(tensors["weight"].shape, [2, 3]);
        let copy = import(linear(2), &tensors).unwrap();
        assert_eq!(export(&copy), tensors);
        assert_ne!(export(&linear(2)), tensors);
        assert_eq!(count(&copy), 8);
    }

    #[test]
    fn errors_name_the_tensor() {
        let good = export(&linear(1));

        let mut bad = good.clone();
        bad.remove("bias");
        let e = import(linear(1), &bad).unwrap_err();
        assert_eq!(e.to_string(), "tensor `bias` is missing (shape [2])");

        let mut bad = good.clone();
        bad.insert("gain".into(), HostTensor { shape: vec![], values: vec![1.0] });
        let e = import(linear(1), &bad).unwrap_err();
        assert_eq!(e.to_string(), "unexpected tensor `gain`, which is not part of this network");

        let mut bad = good.clone();
        bad.get_mut("weight").unwrap().shape = vec![3, 2];
        let e = import(linear(1), &bad).unwrap_err();
        assert_eq!(e.to_string(), "tensor `weight` has shape [3, 2], expected [2, 3]");

        let mut bad = good;
        bad.get_mut("weight").unwrap().values.pop();
        let e = import(linear(1), &bad).unwrap_err();
        assert_eq!(e.to_string(), "tensor `weight`: has 5 elements, which do not match shape [2, 3]");
    }
}
