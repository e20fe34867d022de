//! A U-Net with ControlNets and T2I-Adapters.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};
use tweedie_ops::{Batch, ExecContext, Precision, SampleShape};

use super::Guide;
use crate::{
    conditions::{CONTROL, Conditions, Entry, INTRABLOCK, RESIDUALS, STRENGTHS},
    network::{InputError, IoSpec, Mode, Network},
    params::HostTensor,
};

/// A network to whose layers ControlNets and T2I-Adapters add theirs. It reads the conditions [`CONTROL`] and [`STRENGTHS`]
/// besides those of the network: the maps of an image for each guide ([`Guide::embed`]), and a factor for each of its outputs.
#[derive(Debug)]
pub struct Controlled {
    network: Box<dyn Network>,
    guides: Vec<Guide>,
}

/// What one guide gives.
struct Part<'a> {
    guide: &'a Guide,
    /// The maps of its image.
    maps: &'a [Batch],
    /// The factors of its outputs, for each row.
    factors: Vec<&'a [f32]>,
}

impl Controlled {
    /// `network` with these, which [fit](Guide::check_fit).
    pub fn new(network: Box<dyn Network>, guides: Vec<Guide>) -> Self {
        Self { network, guides }
    }

    /// Each guide with its maps, and its factors for each row.
    fn parts<'a>(&'a self, conditions: &'a Conditions) -> Vec<Part<'a>> {
        let (Some(mut maps), Some(strengths)) = (conditions.features(CONTROL), conditions.numbers(STRENGTHS))
        else {
            return Vec::new();
        };
        let (mut first, mut parts) = (0, Vec::new());
        for guide in &self.guides {
            let (own, rest) = maps.split_at(guide.maps());
            let factors = first..first + guide.outputs();
            (maps, first) = (rest, factors.end);
            let factors = strengths.iter().map(|row| &row[factors.clone()]).collect();
            parts.push(Part { guide, maps: own, factors });
        }
        parts
    }

    /// What the adapters add inside the blocks of the network; `None` if all factors are zero.
    fn inside(&self, conditions: &Conditions) -> Option<Entry> {
        let mut sum: Option<Vec<Tensor<4>>> = None;
        for Part { guide, maps, factors } in self.parts(conditions) {
            let acts = factors.iter().any(|row| row.iter().any(|factor| *factor != 0.0));
            if !acts || !matches!(guide, Guide::Adapter(_)) {
                continue;
            }
            let scaled = maps
                .iter()
                .enumerate()
                .map(|(i, map)| times_rows(map.tensor(), factors.iter().map(|row| row[i]).collect()));
            sum = Some(match sum {
                None => scaled.collect(),
                Some(all) => all.into_iter().zip(scaled).map(|(a, b)| a + b).collect(),
            });
        }
        sum.map(|all| Entry::Features(all.into_iter().map(Batch::of).collect()))
    }

    /// What the ControlNets add to the layers of the network; `None` if all factors are zero. Each only runs for the rows with
    /// factors that are not zero.
    fn residuals(&self, x: &Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Option<Entry> {
        let others = conditions.without(&[CONTROL, STRENGTHS]);
        let mut sum: Option<Vec<Tensor<4>>> = None;
        for Part { guide, maps, factors } in self.parts(conditions) {
            let (Guide::ControlNet(net), [hint]) = (guide, maps) else { continue };
            let rows: Vec<usize> =
                (0..x.len()).filter(|row| factors[*row].iter().any(|factor| *factor != 0.0)).collect();
            if rows.is_empty() {
                continue;
            }
            let some = |all: &Batch| match rows.len() == all.len() {
                true => all.clone(),
                false => Batch::cat(&rows.iter().map(|&row| all.narrow(row..row + 1)).collect::<Vec<_>>()),
            };
            let each: Vec<Conditions> = rows.iter().map(|&row| others.rows(row..row + 1)).collect();
            let given = match rows.len() == x.len() {
                true => others.clone(),
                false => Conditions::cat(&each.iter().collect::<Vec<_>>()).unwrap_or_default(),
            };
            let times: Vec<f32> = rows.iter().map(|&row| times[row]).collect();
            // Further channels of the network's input are maps.
            let x = some(x).channels(0..net.config().in_channels);
            let maps = net.forward(x.tensor(), &times, &given, some(hint).tensor(), mode);
            let scaled = maps.into_iter().enumerate().map(|(i, map)| {
                let by: Vec<f32> = rows.iter().map(|&row| factors[row][i]).collect();
                spread(times_rows(map, by), &rows, factors.len())
            });
            sum = Some(match sum {
                None => scaled.collect(),
                Some(all) => all.into_iter().zip(scaled).map(|(a, b)| a + b).collect(),
            });
        }
        sum.map(|all| Entry::Features(all.into_iter().map(Batch::of).collect()))
    }
}

/// Each row of `x` times its factor.
fn times_rows(x: Tensor<4>, factors: Vec<f32>) -> Tensor<4> {
    if factors.iter().all(|factor| *factor == 1.0) {
        return x;
    }
    let by = TensorData::new(factors, [x.dims()[0], 1, 1, 1]);
    let by: Tensor<4> = Tensor::from_data(by, (&x.device(), DType::F32));
    x * by
}

/// `x` as these of `count` rows; the others are zero.
fn spread(x: Tensor<4>, rows: &[usize], count: usize) -> Tensor<4> {
    if rows.len() == count {
        return x;
    }
    let one = |row: usize| match rows.binary_search(&row) {
        Ok(place) => x.clone().narrow(0, place, 1),
        Err(_) => x.clone().narrow(0, 0, 1).zeros_like(),
    };
    Tensor::cat((0..count).map(one).collect(), 0)
}

impl Network for Controlled {
    fn spec(&self) -> IoSpec {
        self.network.spec()
    }

    fn check(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        if let Some(maps) = conditions.features(CONTROL) {
            let expected: usize = self.guides.iter().map(Guide::maps).sum();
            if maps.len() != expected {
                return Err(InputError(format!(
                    "{} maps of control images, expected {expected}",
                    maps.len()
                )));
            }
            let mut rest = maps;
            for guide in &self.guides {
                let (own, others) = rest.split_at(guide.maps());
                rest = others;
                // The maps of adapters are checked by the network.
                let checks = |map: &&Batch| {
                    map.len() != rows
                        || matches!(guide, Guide::ControlNet(_)) && map.shape().axes() != shape.axes()
                };
                if let Some(map) = own.iter().find(checks) {
                    let found = format!("{} control images of shape {}", map.len(), map.shape());
                    return Err(InputError(format!("{found}, expected {rows} with the axes of {shape}")));
                }
            }
            let expected: usize = self.guides.iter().map(Guide::outputs).sum();
            let strengths = conditions.numbers(STRENGTHS).unwrap_or_default();
            if strengths.len() != rows || strengths.iter().any(|row| row.len() != expected) {
                return Err(InputError(format!("expected {expected} strengths for each of {rows} samples")));
            }
        }
        let given = conditions.without(&[CONTROL, STRENGTHS]).with_some(INTRABLOCK, self.inside(conditions));
        self.network.check(rows, shape, times, &given)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        let residuals = self.residuals(&x, times, conditions, mode);
        let given = conditions
            .without(&[CONTROL, STRENGTHS])
            .with_some(RESIDUALS, residuals)
            .with_some(INTRABLOCK, self.inside(conditions));
        self.network.forward(x, times, &given, mode)
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        // The maps that are added are about as many as those of the encoder.
        let one = self.network.row_bytes(shape, precision);
        one.saturating_add(one / 2)
    }

    fn in_context(&self, context: &ExecContext) -> Box<dyn Network> {
        let guides = self.guides.iter().map(|guide| guide.in_context(context)).collect();
        Box::new(Self { network: self.network.in_context(context), guides })
    }

    fn differentiable(&self) -> Box<dyn Network> {
        let guides = self.guides.iter().map(Guide::differentiable).collect();
        Box::new(Self { network: self.network.differentiable(), guides })
    }

    fn config_json(&self) -> String {
        self.network.config_json()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        self.network.tensors()
    }

    fn non_finite(&self) -> Option<String> {
        let own = || self.guides.iter().find_map(Guide::non_finite);
        self.network.non_finite().or_else(own)
    }
}
