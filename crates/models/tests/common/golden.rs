//! Golden files of single networks: outputs of a peer whose weights and inputs are functions of names.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)]

use std::{collections::BTreeMap, fs, path::Path};

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use safetensors::SafeTensors;
use serde_json::Value;
use tweedie_models::{HostTensor, params};
use tweedie_ops::to_host;

use crate::common::{sample, weight};

/// Relative to the output's root mean square.
const TOLERANCE: f64 = 1e-4;

pub struct Golden {
    pub name: String,
    bytes: Vec<u8>,
    pub config: String,
    shapes: Value,
    pub given: Value,
    names: BTreeMap<String, Vec<usize>>,
}

impl Golden {
    /// The file `name` in this folder of `golden`.
    pub fn open(folder: &str, name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
        let bytes = fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let json = |key: &str| -> Value { serde_json::from_str(&metadata[key]).unwrap() };
        let names = serde_json::from_value(json("names")).unwrap();
        let (shapes, given) = (json("shapes"), json("given"));
        Self { name: name.into(), config: metadata["config"].clone(), shapes, given, names, bytes }
    }

    pub fn input<const D: usize>(&self, name: &str) -> Tensor<D> {
        let shape: Vec<usize> = serde_json::from_value(self.shapes[name].clone()).unwrap();
        sample(name, shape.try_into().unwrap(), &Device::flex())
    }

    /// The peer's weights.
    pub fn all_weights(&self) -> BTreeMap<String, HostTensor> {
        self.names.iter().map(|(name, shape)| (name.clone(), weight(name, shape))).collect()
    }

    /// The same, after checking that the module has exactly these, by names that `theirs` translates.
    pub fn weights(
        &self,
        module: &impl Module,
        theirs: impl Fn(&str) -> String,
    ) -> BTreeMap<String, HostTensor> {
        let own: BTreeMap<String, Vec<usize>> =
            params::shapes(module).into_iter().map(|(name, shape)| (theirs(&name), shape)).collect();
        assert_eq!(own, self.names, "{}", self.name);
        self.all_weights()
    }

    pub fn expect<const D: usize>(&self, output: &str, found: Tensor<D>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(output).unwrap();
        let bytes = tensor.data().as_chunks::<4>().0;
        let expected: Vec<f64> = bytes.iter().map(|b| f32::from_le_bytes(*b).into()).collect();
        assert_eq!(found.shape().num_elements(), expected.len(), "{}: {output}", self.name);
        let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
        let worst = expected.iter().zip(to_host(found)).map(|(e, f)| (e - f64::from(f)).abs());
        let worst = worst.fold(0.0, |a: f64, d| if d.is_nan() { f64::INFINITY } else { a.max(d) }) / rms;
        eprintln!("{}: {output}: {worst:.1e} of RMS", self.name);
        assert!(worst < TOLERANCE, "{}: {output} differs by {worst:.1e} of RMS", self.name);
    }
}
