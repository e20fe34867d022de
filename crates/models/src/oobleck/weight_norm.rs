//! Weight normalization (Salimans & Kingma 2016, arXiv:1602.07868): each row of a weight is stored as a direction and a length.

use crate::params::{HostTensor, TensorSource};

const LENGTH: &str = "_g";
const DIRECTION: &str = "_v";
const WEIGHT: &str = ".weight";

/// A source with `weight` in place of `weight_g` and `weight_v`.
pub(super) struct Normalized<'a>(pub(super) &'a dyn TensorSource);

impl Normalized<'_> {
    /// The name of the direction, if `name` is a normalized weight.
    fn direction(&self, name: &str) -> Option<String> {
        let direction = format!("{name}{DIRECTION}");
        (name.ends_with(WEIGHT) && self.0.shape(&direction).is_some()).then_some(direction)
    }
}

impl TensorSource for Normalized<'_> {
    fn names(&self) -> Vec<String> {
        let named = |name: String| {
            let part = |end: &str| name.strip_suffix(end).filter(|rest| rest.ends_with(WEIGHT));
            match (part(LENGTH), part(DIRECTION)) {
                (Some(weight), _) if self.direction(weight).is_some() => None,
                (_, Some(weight)) => Some(weight.to_owned()),
                _ => Some(name),
            }
        };
        self.0.names().into_iter().filter_map(named).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.direction(name) {
            Some(direction) => self.0.shape(&direction),
            None => self.0.shape(name),
        }
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        let Some(direction) = self.direction(name) else { return self.0.read(name) };
        let length = format!("{name}{LENGTH}");
        let Some(shape) = self.0.shape(&length) else { return Err(format!("`{length}` is missing")) };
        let HostTensor { shape: full, mut values } = self.0.read(&direction)?;
        let rows = full.first().copied().unwrap_or(0);
        if shape.iter().product::<usize>() != rows || shape.first() != Some(&rows) {
            return Err(format!(
                "`{length}` has shape {shape:?}, expected one value for each of {rows} rows"
            ));
        }
        let lengths = self.0.read(&length)?.values;
        let each = (values.len() / rows.max(1)).max(1);
        for (row, length) in values.chunks_mut(each).zip(lengths) {
            let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let scale = f64::from(length) / norm;
            row.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
        }
        Ok(HostTensor { shape: full, values })
    }
}
