//! The weights that an adapter adds to a layer.

use std::collections::BTreeMap;

use tweedie_models::HostTensor;

use super::names::{LYCORIS_MAGNITUDE, Of, Part, Piece, sibling};

/// The adapter's tensors for one layer.
pub(super) type Parts = BTreeMap<Part, (String, HostTensor)>;

/// The adapter for one layer.
#[derive(Debug)]
pub(super) struct Change {
    product: Product,
    /// `alpha/rank`, or the factor given by the file or PEFT's configuration.
    pub(super) factor: f64,
    magnitude: Option<Magnitude>,
}

/// Magnitudes of the merged weights: DoRA, Liu et al. 2024, arXiv:2402.09353.
#[derive(Debug)]
struct Magnitude {
    lengths: Vec<f32>,
    /// Whether there is one per input, as in files of older LyCORIS, instead of one per output.
    by_input: bool,
}

impl Magnitude {
    fn of((name, tensor): (String, HostTensor)) -> Self {
        // LyCORIS has `[outputs, 1, …]` or `[1, inputs, …]`, PEFT `[outputs]` or `[1, outputs, 1, 1]`.
        let by_input = name.ends_with(LYCORIS_MAGNITUDE) && matches!(tensor.shape[..], [1, n, ..] if n > 1);
        Self { lengths: tensor.values, by_input }
    }
}

#[derive(Debug)]
enum Product {
    /// `up·down` (Hu et al. 2021, arXiv:2106.09685), or `up·mid·down`.
    Low(Matrix),
    /// The elementwise product of two of them (LoHa: Hyeon-Woo et al. 2021, arXiv:2108.06098).
    Hadamard(Matrix, Matrix),
    /// Their Kronecker product (LoKr: Yeh et al. 2023, arXiv:2309.14859).
    Kronecker(Matrix, Matrix),
}

/// The name of an invalid tensor, and the reason.
type Wrong = (String, String);

impl Change {
    /// Creates it from the tensors of a layer, with the factor 1.
    pub(super) fn of(mut parts: Parts) -> Result<Self, Wrong> {
        let kind = |part: &Part| match part {
            Part::Down | Part::Up | Part::Mid => Some(0),
            Part::Hada(..) => Some(1),
            Part::Lokr(..) => Some(2),
            Part::Alpha | Part::Magnitude => None,
        };
        let first = parts.iter().find(|(part, _)| kind(part).is_some());
        let Some((first, (name, _))) = first.map(|(part, named)| (*part, named.clone())) else {
            let name = parts.into_values().map(|(name, _)| name).next().unwrap_or_default();
            return Err((name, "is not part of a known LoRA format".into()));
        };
        if let Some((_, (other, _))) =
            parts.iter().find(|(part, _)| kind(part).is_some_and(|k| Some(k) != kind(&first)))
        {
            return Err((other.clone(), format!("has another format than `{name}`")));
        }
        let magnitude = parts.remove(&Part::Magnitude).map(Magnitude::of);
        let product = match first {
            Part::Hada(..) => {
                Product::Hadamard(hada(&mut parts, &name, Of::First)?, hada(&mut parts, &name, Of::Second)?)
            }
            Part::Lokr(..) => {
                Product::Kronecker(lokr(&mut parts, &name, Of::First)?, lokr(&mut parts, &name, Of::Second)?)
            }
            _ => {
                let (down_name, right) = take(&mut parts, &name, Part::Down)?;
                let (_, left) = take(&mut parts, &name, Part::Up)?;
                let core = parts.remove(&Part::Mid).map(|(_, tensor)| tensor);
                Product::Low(Matrix { left, right: Some(right), core }.checked(&down_name)?)
            }
        };
        let change = Self { product, factor: 1.0, magnitude };
        change.fits().map_err(|reason| (name, reason))?;
        Ok(change)
    }

    fn fits(&self) -> Result<(), String> {
        let Product::Hadamard(a, b) = &self.product else { return Ok(()) };
        match a.dims() == b.dims() {
            true => Ok(()),
            false => Err(format!("its two matrices have shapes {:?} and {:?}", a.dims(), b.dims())),
        }
    }

    /// The rank of its factors, if it has any.
    pub(super) fn rank(&self) -> Option<usize> {
        match &self.product {
            Product::Low(matrix) | Product::Hadamard(matrix, _) => matrix.rank(),
            Product::Kronecker(a, b) => b.rank().or(a.rank()),
        }
    }

    /// Adds `scale` times this to `tensor`.
    pub(super) fn apply(&self, tensor: &mut HostTensor, scale: f64) -> Result<(), String> {
        let [rows, columns] = self.dims();
        if tensor.shape.first() != Some(&rows) || tensor.values.len() != rows * columns {
            let shape = &tensor.shape;
            return Err(format!("has shape {shape:?}, but the LoRA has shape {rows}×{columns}"));
        }
        let scale = (scale * self.factor) as f32;
        tensor.values.iter_mut().zip(self.values()).for_each(|(w, d)| *w += scale * d);
        match &self.magnitude {
            Some(magnitude) => stretch(tensor, magnitude),
            None => Ok(()),
        }
    }

    fn dims(&self) -> [usize; 2] {
        match &self.product {
            Product::Low(matrix) | Product::Hadamard(matrix, _) => matrix.dims(),
            Product::Kronecker(a, b) => {
                let (a, b) = (a.dims(), b.dims());
                [a[0] * b[0], a[1] * b[1]]
            }
        }
    }

    fn values(&self) -> Vec<f32> {
        match &self.product {
            Product::Low(matrix) => matrix.values(),
            Product::Hadamard(a, b) => {
                let mut values = a.values();
                values.iter_mut().zip(b.values()).for_each(|(a, b)| *a *= b);
                values
            }
            Product::Kronecker(a, b) => {
                let ([_, a_columns], [b_rows, b_columns]) = (a.dims(), b.dims());
                let (a, b) = (a.values(), b.values());
                let mut values = Vec::with_capacity(a.len() * b.len());
                for a in a.chunks_exact(a_columns) {
                    for b in b.chunks_exact(b_columns).take(b_rows) {
                        values.extend(a.iter().flat_map(|a| b.iter().map(move |b| a * b)));
                    }
                }
                values
            }
        }
    }
}

fn take(parts: &mut Parts, known: &str, part: Part) -> Result<(String, HostTensor), Wrong> {
    parts.remove(&part).ok_or_else(|| {
        (known.to_owned(), format!("the matching tensor `{}` is missing", sibling(known, part)))
    })
}

fn hada(parts: &mut Parts, known: &str, of: Of) -> Result<Matrix, Wrong> {
    let (_, left) = take(parts, known, Part::Hada(of, Piece::Left))?;
    let (name, right) = take(parts, known, Part::Hada(of, Piece::Right))?;
    let core = parts.remove(&Part::Hada(of, Piece::Core)).map(|(_, tensor)| tensor);
    Matrix::cored(left, right, core).checked(&name)
}

fn lokr(parts: &mut Parts, known: &str, of: Of) -> Result<Matrix, Wrong> {
    if let Some((name, left)) = parts.remove(&Part::Lokr(of, Piece::Whole)) {
        return Matrix { left, right: None, core: None }.checked(&name);
    }
    let (_, left) = take(parts, known, Part::Lokr(of, Piece::Left))?;
    let (name, right) = take(parts, known, Part::Lokr(of, Piece::Right))?;
    let core = parts.remove(&Part::Lokr(of, Piece::Core)).map(|(_, tensor)| tensor);
    Matrix::cored(left, right, core).checked(&name)
}

/// A full matrix, or `left·right`, or in Tucker's form `Σ left[p, i]·core[i, j, …]·right[j, r]`.
#[derive(Debug)]
struct Matrix {
    /// `[rows, rank]`, or the full matrix `[rows, columns…]`.
    left: HostTensor,
    /// `[rank, columns…]`.
    right: Option<HostTensor>,
    /// `[rank, rank, …]`.
    core: Option<HostTensor>,
}

impl Matrix {
    /// With a core, LoHa and LoKr store `left` transposed.
    fn cored(left: HostTensor, right: HostTensor, core: Option<HostTensor>) -> Self {
        let left = if core.is_some() { transposed(left) } else { left };
        Self { left, right: Some(right), core }
    }

    /// Errors name the tensor `name`.
    fn checked(self, name: &str) -> Result<Self, Wrong> {
        let left = (self.left.shape.first().copied().unwrap_or(0), inner(&self.left));
        let right =
            self.right.as_ref().map(|right| (right.shape.first().copied().unwrap_or(0), inner(right)));
        let fits = match (right, &self.core) {
            (None, _) => left.0 > 0 && left.1 > 0,
            (Some((rank, columns)), None) => rank > 0 && left.1 == rank && left.0 > 0 && columns > 0,
            (Some((rank, columns)), Some(core)) => {
                rank > 0
                    && columns > 0
                    && left.0 > 0
                    && core.shape.len() >= 2
                    && core.shape[..2] == [left.1, rank]
                    && !core.values.is_empty()
            }
        };
        if fits {
            return Ok(self);
        }
        let shapes: Vec<String> = [Some(&self.left), self.core.as_ref()]
            .into_iter()
            .flatten()
            .map(|tensor| format!("{:?}", tensor.shape))
            .collect();
        let own = self.right.as_ref().unwrap_or(&self.left);
        Err((
            name.into(),
            format!("has shape {:?}, which does not match {}", own.shape, shapes.join(" and ")),
        ))
    }

    fn rank(&self) -> Option<usize> {
        self.right.as_ref().and_then(|right| right.shape.first().copied())
    }

    fn dims(&self) -> [usize; 2] {
        let rows = self.left.shape.first().copied().unwrap_or(0);
        let columns = inner(self.right.as_ref().unwrap_or(&self.left));
        let window = self.core.as_ref().map_or(1, |core| core.shape[2..].iter().product());
        [rows, columns * window]
    }

    fn values(&self) -> Vec<f32> {
        let Some(right) = &self.right else { return self.left.values.clone() };
        let columns = inner(right);
        let Some(core) = &self.core else {
            return multiplied(&self.left.values, inner(&self.left), &right.values, columns);
        };
        let window: usize = core.shape[2..].iter().product();
        let (ranks, rank) = (core.shape[0], core.shape[1]);
        // `core·right`, `[ranks, columns, window]`.
        let mut inside = vec![0.0; ranks * columns * window];
        for i in 0..ranks {
            for j in 0..rank {
                let kernel = &core.values[(i * rank + j) * window..][..window];
                for c in 0..columns {
                    let to = &mut inside[(i * columns + c) * window..][..window];
                    let by = right.values[j * columns + c];
                    to.iter_mut().zip(kernel).for_each(|(to, k)| *to += by * k);
                }
            }
        }
        multiplied(&self.left.values, ranks, &inside, columns * window)
    }
}

/// Elements after the first axis.
fn inner(tensor: &HostTensor) -> usize {
    tensor.values.len() / tensor.shape.first().copied().unwrap_or(1).max(1)
}

fn transposed(tensor: HostTensor) -> HostTensor {
    let (rows, columns) = (tensor.shape.first().copied().unwrap_or(0), inner(&tensor));
    let values = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c));
    let values = values.map(|i| tensor.values[i]).collect();
    HostTensor { shape: vec![columns, rows], values }
}

/// `[rows, inner]` times `[inner, columns]`.
fn multiplied(a: &[f32], inner: usize, b: &[f32], columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; a.len() / inner * columns];
    for (row, a) in out.chunks_exact_mut(columns).zip(a.chunks_exact(inner)) {
        for (a, b) in a.iter().zip(b.chunks_exact(columns)) {
            row.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    }
    out
}

/// Scales the weights of each output, or of each input, to their magnitudes.
fn stretch(tensor: &mut HostTensor, Magnitude { lengths, by_input }: &Magnitude) -> Result<(), String> {
    let rows = tensor.shape.first().copied().unwrap_or(0);
    let inputs = tensor.shape.get(1).copied().unwrap_or(1);
    let window: usize = tensor.shape.iter().skip(2).product();
    let (expected, what) = if *by_input { (inputs, "inputs") } else { (rows, "outputs") };
    if lengths.len() != expected {
        let (shape, found) = (&tensor.shape, lengths.len());
        return Err(format!("has shape {shape:?}, but the DoRA has {found} {what}"));
    }
    let place = |i: usize| if *by_input { i / window % inputs } else { i / (inputs * window) };
    let mut squares = vec![0f64; expected];
    tensor.values.iter().enumerate().for_each(|(i, v)| squares[place(i)] += f64::from(*v).powi(2));
    // Weights that are all zero have no direction.
    let factor = |(length, square): (&f32, &f64)| match *square > 0.0 {
        true => (f64::from(*length) / square.sqrt()) as f32,
        false => 0.0,
    };
    let factors: Vec<f32> = lengths.iter().zip(&squares).map(factor).collect();
    tensor.values.iter_mut().enumerate().for_each(|(i, v)| *v *= factors[place(i)]);
    Ok(())
}
