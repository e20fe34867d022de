//! Inception-v3 (Szegedy et al. 2016, arXiv:1512.00567) as used for FID: the network of 2015-12-05 with 1008 classes, which
//! differs from torchvision's in its pooling. Average pooling excludes the padding, and the last block uses maximum instead
//! of average pooling. Tensors are named as in pytorch-fid's file.

use std::{collections::BTreeSet, path::Path};

use burn::tensor::{
    Device, Tensor,
    activation::relu,
    module,
    ops::{AvgPoolOptions, MaxPoolOptions},
};
use rayon::prelude::*;
use tweedie_data::Image;
use tweedie_hub::{HubError, SafetensorsFile};
use tweedie_models::{HostTensor, ParamError, TensorSource};
use tweedie_ops::{ConvOptions, conv2d, from_host, linear, to_host};

use super::{ExtractError, Extracted, Extractor, Progress, in_batches, resize::planes, stored::Fnv};

/// Width and height of the network's input.
const SIDE: usize = 299;
const FEATURES: usize = 2048;
const CLASSES: usize = 1008;
/// Images per network call.
const BATCH: usize = 8;

/// The network of published FID, KID and Inception Scores.
pub struct Inception {
    device: Device,
    stem: [Conv; 5],
    blocks: Vec<Block>,
    /// `[1008, 2048]`, without the bias, as in the original Inception Score.
    classes: Tensor<2>,
    bias: Tensor<1>,
    fingerprint: u64,
}

/// Convolution, normalization with the training statistics (folded into the weights), ReLU.
struct Conv {
    weight: Tensor<4>,
    bias: Tensor<1>,
    options: ConvOptions,
}

/// Parallel branches; each is a chain, optionally with a forked end.
struct Block {
    branches: Vec<Branch>,
    pool: Pool,
}

struct Branch {
    chain: Vec<Conv>,
    fork: Vec<Conv>,
}

/// The pooling before the last convolution of a block, or beside its branches.
enum Pool {
    /// 3×3 average pooling, then the convolution.
    Average(Conv),
    /// 3×3 maximum pooling, then the convolution.
    Maximum(Conv),
    /// 3×3 maximum pooling with stride 2.
    Smaller,
}

impl Inception {
    /// Loads the weights: the tensors of pytorch-fid's `pt_inception-2015-12-05` as a safetensors file.
    ///
    /// # Errors
    /// If the file is missing, a pickle or corrupt, or a tensor is missing or has the wrong shape.
    pub fn open(path: &Path, device: &Device) -> Result<Self, ExtractError> {
        if !path.is_file() {
            return Err(ExtractError::Missing(path.into()));
        }
        let file = SafetensorsFile::open(path).map_err(|error| match error {
            HubError::Pickle { path } => ExtractError::Pickle(path),
            other => other.into(),
        })?;
        Self::load(&file, device).map_err(|source| ExtractError::Tensors { path: path.into(), source })
    }

    /// The network with these weights.
    ///
    /// # Errors
    /// If a tensor is missing, unexpected, has the wrong shape or cannot be read.
    pub fn load(source: &dyn TensorSource, device: &Device) -> Result<Self, ParamError> {
        let mut load = Load { source, device, used: BTreeSet::new(), hash: Fnv::default() };
        let stem = [
            load.conv("Conv2d_1a_3x3", [3, 32], [3, 3], 2, [0, 0])?,
            load.conv("Conv2d_2a_3x3", [32, 32], [3, 3], 1, [0, 0])?,
            load.conv("Conv2d_2b_3x3", [32, 64], [3, 3], 1, [1, 1])?,
            load.conv("Conv2d_3b_1x1", [64, 80], [1, 1], 1, [0, 0])?,
            load.conv("Conv2d_4a_3x3", [80, 192], [3, 3], 1, [0, 0])?,
        ];
        let blocks = vec![
            load.a("Mixed_5b", 192, 32)?,
            load.a("Mixed_5c", 256, 64)?,
            load.a("Mixed_5d", 288, 64)?,
            load.b("Mixed_6a", 288)?,
            load.c("Mixed_6b", 128)?,
            load.c("Mixed_6c", 160)?,
            load.c("Mixed_6d", 160)?,
            load.c("Mixed_6e", 192)?,
            load.d("Mixed_7a", 768)?,
            load.e("Mixed_7b", 1280, false)?,
            load.e("Mixed_7c", 2048, true)?,
        ];
        let classes = load.tensor("fc.weight", &[CLASSES, FEATURES])?;
        let bias = load.tensor("fc.bias", &[CLASSES])?;
        load.all_used()?;
        Ok(Self {
            device: device.clone(),
            stem,
            blocks,
            classes: from_host(classes.values, [CLASSES, FEATURES], device),
            bias: from_host(bias.values, [CLASSES], device),
            fingerprint: load.hash.finish(),
        })
    }

    /// Features `[B, 2048]` and logits `[B, 1008]` of images `[B, 3, H, W]` in `-1..=1`, at least 75×75.
    pub fn forward(&self, planes: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let mut x = planes;
        for (i, conv) in self.stem.iter().enumerate() {
            x = conv.forward(x);
            if i == 2 || i == 4 {
                x = smaller(x);
            }
        }
        for block in &self.blocks {
            x = block.forward(x);
        }
        let features: Tensor<2> = x.mean_dim(3).mean_dim(2).flatten::<2>(1, 3);
        let logits = linear(features.clone(), self.classes.clone(), Some(self.bias.clone()));
        (features, logits)
    }

    /// Features and logits of images, row after row.
    pub fn answer(&self, images: &[Image]) -> (Vec<f32>, Vec<f32>) {
        let (features, logits) = self.forward(self.input(images));
        (to_host(features), to_host(logits))
    }

    /// The images as the network's input.
    fn input(&self, images: &[Image]) -> Tensor<4> {
        let values: Vec<f32> = images.par_iter().flat_map_iter(|image| planes(image, SIDE)).collect();
        from_host(values, [images.len(), 3, SIDE, SIDE], &self.device)
    }
}

impl Extractor for Inception {
    fn name(&self) -> &str {
        "Inception-v3 (2015-12-05), images resized as in clean-fid"
    }

    fn comparable(&self) -> &str {
        "comparable with scores of pytorch-fid's weights and clean-fid's resizing for the same number of images"
    }

    fn dim(&self) -> usize {
        FEATURES
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn extract(&self, images: &[Image], on: Progress<'_>) -> Result<Extracted, ExtractError> {
        in_batches(images, BATCH, on, |chunk| {
            let (features, _) = self.forward(self.input(chunk));
            let logits = linear(features.clone(), self.classes.clone(), None);
            ([FEATURES, CLASSES], to_host(features), to_host(logits))
        })
    }
}

impl Conv {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = conv2d(x, self.weight.clone(), Some(self.bias.clone()), self.options);
        // The kernels return channels-last memory, which is dense in this order.
        relu(y.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
    }
}

impl Branch {
    fn forward(&self, x: &Tensor<4>) -> Vec<Tensor<4>> {
        let y = self.chain.iter().fold(x.clone(), |x, conv| conv.forward(x));
        match self.fork.is_empty() {
            true => vec![y],
            false => self.fork.iter().map(|conv| conv.forward(y.clone())).collect(),
        }
    }
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut parts: Vec<_> = self.branches.iter().flat_map(|branch| branch.forward(&x)).collect();
        parts.push(match &self.pool {
            Pool::Average(conv) => {
                let options = AvgPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]);
                conv.forward(module::avg_pool2d(x, options.with_count_include_pad(false)))
            }
            Pool::Maximum(conv) => {
                let options = MaxPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]);
                conv.forward(module::max_pool2d(x, options))
            }
            Pool::Smaller => smaller(x),
        });
        Tensor::cat(parts, 1)
    }
}

/// 3×3 maximum pooling with stride 2.
fn smaller(x: Tensor<4>) -> Tensor<4> {
    module::max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([2, 2]))
}

/// Epsilon of the folded normalizations.
const EPS: f64 = 1e-3;

struct Load<'a> {
    source: &'a dyn TensorSource,
    device: &'a Device,
    used: BTreeSet<String>,
    hash: Fnv,
}

impl Load<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<HostTensor, ParamError> {
        let Some(found) = self.source.shape(name) else {
            return Err(ParamError::Missing { name: name.into(), shape: shape.into(), others: 0 });
        };
        if found != shape {
            return Err(ParamError::Shape { name: name.into(), expected: shape.into(), found });
        }
        self.used.insert(name.into());
        let read = self.source.read(name);
        let tensor = read.map_err(|reason| ParamError::Read { name: name.into(), reason })?;
        self.hash.floats(&tensor.values);
        Ok(tensor)
    }

    /// Checks for unexpected tensors, except training counters and the auxiliary classifier.
    fn all_used(&self) -> Result<(), ParamError> {
        let training = |n: &str| n.ends_with("num_batches_tracked") || n.starts_with("AuxLogits.");
        let names = self.source.names().into_iter();
        let mut unused = names.filter(|name| !training(name) && !self.used.contains(name));
        match unused.next() {
            Some(name) => Err(ParamError::Unused { name, others: unused.count() }),
            None => Ok(()),
        }
    }

    fn conv(
        &mut self,
        name: &str,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 2],
        stride: usize,
        padding: [usize; 2],
    ) -> Result<Conv, ParamError> {
        let shape = [outputs, inputs, kernel[0], kernel[1]];
        let mut weight = self.tensor(&format!("{name}.conv.weight"), &shape)?.values;
        let mut part = |part: &str| Ok(self.tensor(&format!("{name}.bn.{part}"), &[outputs])?.values);
        let (scale, shift) = (part("weight")?, part("bias")?);
        let (mean, variance) = (part("running_mean")?, part("running_var")?);
        let mut bias = Vec::with_capacity(outputs);
        for (i, filter) in weight.chunks_exact_mut(inputs * kernel[0] * kernel[1]).enumerate() {
            let by = f64::from(scale[i]) / (f64::from(variance[i]) + EPS).sqrt();
            filter.iter_mut().for_each(|w| *w = (f64::from(*w) * by) as f32);
            bias.push((f64::from(shift[i]) - f64::from(mean[i]) * by) as f32);
        }
        let mut options = ConvOptions::strided(stride, 0);
        (options.pad_before, options.pad_after) = (padding, padding);
        let weight = from_host(weight, shape, self.device);
        Ok(Conv { weight, bias: from_host(bias, [outputs], self.device), options })
    }

    /// A convolution that preserves the size.
    fn same(
        &mut self,
        block: &str,
        name: &str,
        channels: [usize; 2],
        kernel: [usize; 2],
    ) -> Result<Conv, ParamError> {
        self.conv(&format!("{block}.{name}"), channels, kernel, 1, kernel.map(|k| k / 2))
    }

    /// A chain of convolutions that preserve the size: names and kernels, and the channels in between.
    fn chain(
        &mut self,
        block: &str,
        convs: &[(&str, [usize; 2])],
        channels: &[usize],
    ) -> Result<Branch, ParamError> {
        let pairs = convs.iter().zip(channels.windows(2));
        let chain = pairs.map(|((name, kernel), c)| self.same(block, name, [c[0], c[1]], *kernel));
        Ok(Branch { chain: chain.collect::<Result<_, _>>()?, fork: Vec::new() })
    }

    fn a(&mut self, block: &str, inputs: usize, pooled: usize) -> Result<Block, ParamError> {
        let branches = vec![
            self.chain(block, &[("branch1x1", [1, 1])], &[inputs, 64])?,
            self.chain(block, &[("branch5x5_1", [1, 1]), ("branch5x5_2", [5, 5])], &[inputs, 48, 64])?,
            self.chain(
                block,
                &[("branch3x3dbl_1", [1, 1]), ("branch3x3dbl_2", [3, 3]), ("branch3x3dbl_3", [3, 3])],
                &[inputs, 64, 96, 96],
            )?,
        ];
        let pool = Pool::Average(self.same(block, "branch_pool", [inputs, pooled], [1, 1])?);
        Ok(Block { branches, pool })
    }

    /// To half the size.
    fn b(&mut self, block: &str, inputs: usize) -> Result<Block, ParamError> {
        let large = self.conv(&format!("{block}.branch3x3"), [inputs, 384], [3, 3], 2, [0, 0])?;
        let mut double =
            self.chain(block, &[("branch3x3dbl_1", [1, 1]), ("branch3x3dbl_2", [3, 3])], &[inputs, 64, 96])?;
        double.chain.push(self.conv(&format!("{block}.branch3x3dbl_3"), [96, 96], [3, 3], 2, [0, 0])?);
        let branches = vec![Branch { chain: vec![large], fork: Vec::new() }, double];
        Ok(Block { branches, pool: Pool::Smaller })
    }

    /// Kernels of 7×7 as 1×7 and 7×1.
    fn c(&mut self, block: &str, c: usize) -> Result<Block, ParamError> {
        let branches = vec![
            self.chain(block, &[("branch1x1", [1, 1])], &[768, 192])?,
            self.chain(
                block,
                &[("branch7x7_1", [1, 1]), ("branch7x7_2", [1, 7]), ("branch7x7_3", [7, 1])],
                &[768, c, c, 192],
            )?,
            self.chain(
                block,
                &[
                    ("branch7x7dbl_1", [1, 1]),
                    ("branch7x7dbl_2", [7, 1]),
                    ("branch7x7dbl_3", [1, 7]),
                    ("branch7x7dbl_4", [7, 1]),
                    ("branch7x7dbl_5", [1, 7]),
                ],
                &[768, c, c, c, c, 192],
            )?,
        ];
        let pool = Pool::Average(self.same(block, "branch_pool", [768, 192], [1, 1])?);
        Ok(Block { branches, pool })
    }

    /// To half the size.
    fn d(&mut self, block: &str, inputs: usize) -> Result<Block, ParamError> {
        let mut small = self.chain(block, &[("branch3x3_1", [1, 1])], &[inputs, 192])?;
        small.chain.push(self.conv(&format!("{block}.branch3x3_2"), [192, 320], [3, 3], 2, [0, 0])?);
        let mut large = self.chain(
            block,
            &[("branch7x7x3_1", [1, 1]), ("branch7x7x3_2", [1, 7]), ("branch7x7x3_3", [7, 1])],
            &[inputs, 192, 192, 192],
        )?;
        large.chain.push(self.conv(&format!("{block}.branch7x7x3_4"), [192, 192], [3, 3], 2, [0, 0])?);
        Ok(Block { branches: vec![small, large], pool: Pool::Smaller })
    }

    /// Forks of 1×3 and 3×1.
    fn e(&mut self, block: &str, inputs: usize, last: bool) -> Result<Block, ParamError> {
        let mut fork = |name: &str| {
            [("a", [1, 3]), ("b", [3, 1])]
                .into_iter()
                .map(|(end, kernel)| self.same(block, &format!("{name}{end}"), [384, 384], kernel))
                .collect::<Result<Vec<_>, _>>()
        };
        let forks = [fork("branch3x3_2")?, fork("branch3x3dbl_3")?];
        let mut branches = vec![
            self.chain(block, &[("branch1x1", [1, 1])], &[inputs, 320])?,
            self.chain(block, &[("branch3x3_1", [1, 1])], &[inputs, 384])?,
            self.chain(
                block,
                &[("branch3x3dbl_1", [1, 1]), ("branch3x3dbl_2", [3, 3])],
                &[inputs, 448, 384],
            )?,
        ];
        branches.iter_mut().skip(1).zip(forks).for_each(|(branch, fork)| branch.fork = fork);
        let pool = self.same(block, "branch_pool", [inputs, 192], [1, 1])?;
        Ok(Block { branches, pool: if last { Pool::Maximum(pool) } else { Pool::Average(pool) } })
    }
}
