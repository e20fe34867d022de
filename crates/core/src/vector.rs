//! The operations of tensors that solvers need: linear combinations and a norm.

/// A sample or a batch of samples, as solvers see it.
pub trait Vector: Clone {
    /// `Σ cᵢ·vᵢ`. All terms have the same shape; there is at least one.
    fn lin(terms: &[(f64, &Self)]) -> Self;

    /// Root mean square over all elements.
    fn rms(&self) -> f64;

    /// `Σ selfᵢ·otherᵢ` over all elements. Same shapes.
    fn dot(&self, other: &Self) -> f64;

    /// `self·e^log`, element by element: noise of a learned variance. Same shapes.
    fn times_exp(&self, log: &Self) -> Self;
}

impl Vector for f64 {
    fn lin(terms: &[(f64, &Self)]) -> Self {
        terms.iter().map(|(c, v)| c * **v).sum()
    }

    fn rms(&self) -> f64 {
        self.abs()
    }

    fn dot(&self, other: &Self) -> f64 {
        self * other
    }

    fn times_exp(&self, log: &Self) -> Self {
        self * log.exp()
    }
}

impl Vector for Vec<f64> {
    fn lin(terms: &[(f64, &Self)]) -> Self {
        let mut out = vec![0.0; terms.first().map_or(0, |(_, v)| v.len())];
        for (c, v) in terms {
            for (o, x) in out.iter_mut().zip(v.iter()) {
                *o += c * x;
            }
        }
        out
    }

    fn rms(&self) -> f64 {
        (self.iter().map(|x| x * x).sum::<f64>() / self.len().max(1) as f64).sqrt()
    }

    fn dot(&self, other: &Self) -> f64 {
        self.iter().zip(other).map(|(a, b)| a * b).sum()
    }

    fn times_exp(&self, log: &Self) -> Self {
        self.iter().zip(log).map(|(x, l)| x * l.exp()).collect()
    }
}

/// A linear combination in the order that it is read: `lin![a => &x, -b => &y]`.
#[macro_export]
macro_rules! lin {
    ($($c:expr => $v:expr),+ $(,)?) => {
        $crate::vector::Vector::lin(&[$(($c, $v)),+])
    };
}
