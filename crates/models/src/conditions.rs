//! What a network is conditioned on: named entries with one value per row.
//!
//! A new kind of condition is a new name and an [`Entry`]. A network says which names it reads, and [`Conditions::only`]
//! rejects the others, so that no network needs to know those of another.

use std::ops::Range;

use burn::tensor::Tensor;
use tweedie_ops::Batch;

use crate::network::InputError;

/// The values of one condition, one per row.
#[derive(Clone, Debug)]
pub enum Entry {
    /// One index per row, such as a class.
    Indices(Vec<usize>),
    /// Some numbers per row, the same number for each.
    Numbers(Vec<Vec<f32>>),
    /// One vector per row, `[B, width]`.
    Vectors(Tensor<2>),
    /// Features of tokens, `[B, tokens, width]`.
    Tokens(Tensor<3>),
    /// A map with the axes of the sample, such as a mask or an image. Its channels follow those of the sample.
    Map(Batch),
    /// Feature maps for several layers or networks, each with axes of its own. They do not follow the channels of the sample.
    Features(Vec<Batch>),
}

impl Entry {
    /// Number of rows.
    fn len(&self) -> usize {
        match self {
            Self::Indices(all) => all.len(),
            Self::Numbers(all) => all.len(),
            Self::Vectors(all) => all.dims()[0],
            Self::Tokens(all) => all.dims()[0],
            Self::Map(all) => all.len(),
            Self::Features(all) => all.first().map_or(0, Batch::len),
        }
    }

    fn rows(&self, rows: Range<usize>) -> Self {
        let (start, len) = (rows.start, rows.len());
        match self {
            Self::Indices(all) => Self::Indices(all[rows].to_vec()),
            Self::Numbers(all) => Self::Numbers(all[rows].to_vec()),
            Self::Vectors(all) => Self::Vectors(all.clone().narrow(0, start, len)),
            Self::Tokens(all) => Self::Tokens(all.clone().narrow(0, start, len)),
            Self::Map(all) => Self::Map(all.narrow(rows)),
            Self::Features(all) => Self::Features(all.iter().map(|map| map.narrow(rows.clone())).collect()),
        }
    }

    /// The shape of one row; entries with different shapes cannot be concatenated.
    fn shape(&self) -> (u8, Vec<usize>) {
        match self {
            Self::Indices(_) => (0, Vec::new()),
            Self::Numbers(all) => (1, vec![all.first().map_or(0, Vec::len)]),
            Self::Vectors(all) => (2, all.dims()[1..].to_vec()),
            Self::Tokens(all) => (3, all.dims()[1..].to_vec()),
            Self::Map(all) => (4, all.shape().dims().to_vec()),
            Self::Features(all) => {
                let dims = |map: &Batch| [&[map.shape().dims().len()], map.shape().dims()].concat();
                (5, all.iter().flat_map(dims).collect())
            }
        }
    }

    /// The rows of all entries, which have one shape.
    fn cat(all: &[&Self]) -> Option<Self> {
        macro_rules! of {
            ($kind:ident) => {
                all.iter().map(|e| if let Self::$kind(v) = e { Some(v.clone()) } else { None }).collect()
            };
        }
        let tensors2 = || -> Option<Vec<Tensor<2>>> { of!(Vectors) };
        let tensors3 = || -> Option<Vec<Tensor<3>>> { of!(Tokens) };
        let maps = || -> Option<Vec<Batch>> { of!(Map) };
        let features = || -> Option<Vec<Vec<Batch>>> { of!(Features) };
        let indices = || -> Option<Vec<Vec<usize>>> { of!(Indices) };
        let numbers = || -> Option<Vec<Vec<Vec<f32>>>> { of!(Numbers) };
        match all.first()? {
            Self::Indices(_) => indices().map(|all| Self::Indices(all.concat())),
            Self::Numbers(_) => numbers().map(|all| Self::Numbers(all.concat())),
            Self::Vectors(_) => tensors2().map(|all| Self::Vectors(Tensor::cat(all, 0))),
            Self::Tokens(_) => tensors3().map(|all| Self::Tokens(Tensor::cat(all, 0))),
            Self::Map(_) => maps().map(|all| Self::Map(Batch::cat(&all))),
            Self::Features(first) => features().map(|all| {
                let place = |i: usize| all.iter().map(|one| one[i].clone()).collect::<Vec<_>>();
                Self::Features((0..first.len()).map(|i| Batch::cat(&place(i))).collect())
            }),
        }
    }
}

/// A network's inputs besides the noisy sample and the time.
/// Sorted by name.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Vec<(&'static str, Entry)>);

/// The class of each row: [`Entry::Indices`].
pub const CLASSES: &str = "classes";
/// A vector that joins the time embedding, of its width or of that of a projection to it: [`Entry::Vectors`].
pub const EMBEDDING: &str = "embedding";
/// A vector that is projected and added to the time before it is embedded, such as pooled text features in the upscaler of
/// latents: [`Entry::Vectors`].
pub const WITH_TIME: &str = "with_time";
/// Text features: [`Entry::Tokens`].
pub const TEXT: &str = "text";
/// Features of the parts of an image, for networks that attend to them besides [`TEXT`]: [`Entry::Tokens`].
pub const IMAGE: &str = "image";
/// Pooled text features: [`Entry::Vectors`].
pub const POOLED: &str = "pooled";
/// SDXL's sizes: height and width of the original image, top and left of the crop, height and width of the target. For the
/// refiner the first four and an aesthetic score. [`Entry::Numbers`].
pub const SIZES: &str = "sizes";
/// What Stable Video Diffusion is told of a clip: its frames per second less 1, how much moves, and the standard deviation of the
/// noise on the image. [`Entry::Numbers`].
pub const ADDED: &str = "added numbers";
/// The latents of each row's image, for each frame of the sample: [`Entry::Map`].
pub const PICTURE: &str = "picture";
/// The part of each row that is filled, 1 there and 0 elsewhere: [`Entry::Map`] of one channel.
pub const MASK: &str = "mask";
/// The latents of each row's image without that part: [`Entry::Map`]. They follow the channel of [`MASK`].
pub const MASKED: &str = "masked";
/// The small image of each row, of the axes of the sample, for networks that enlarge: [`Entry::Map`].
pub const SMALL: &str = "small";
/// Maps that are added inside the blocks of a network's down path, as many as there are: [`Entry::Features`].
pub const INTRABLOCK: &str = "intrablock";
/// How many of the tokens of [`TEXT`] count, from the first; the others are padding: [`Entry::Indices`].
pub const LENGTHS: &str = "lengths";
/// The guidance scale of each row, for guidance-distilled networks: [`Entry::Numbers`] of one number.
pub const GUIDANCE: &str = "guidance";
/// The images of ControlNets as these networks embed them, one each: [`Entry::Features`].
pub const CONTROL: &str = "control";
/// The factors of the outputs of ControlNets, one after the other: [`Entry::Numbers`].
pub const STRENGTHS: &str = "control strengths";
/// What is added to the skip connections of a U-Net and, last, to its middle: [`Entry::Features`].
pub const RESIDUALS: &str = "residuals";

impl Conditions {
    /// No conditions.
    pub fn none() -> Self {
        Self::default()
    }

    /// One class per row.
    pub fn of_classes(classes: Vec<usize>) -> Self {
        Self::none().with(CLASSES, Entry::Indices(classes))
    }

    /// The same with the entry `name`.
    #[must_use]
    pub fn with(mut self, name: &'static str, entry: Entry) -> Self {
        match self.place(name) {
            Ok(place) => self.0[place].1 = entry,
            Err(place) => self.0.insert(place, (name, entry)),
        }
        self
    }

    /// The same with an optional entry.
    #[must_use]
    pub fn with_some(self, name: &'static str, entry: Option<Entry>) -> Self {
        match entry {
            Some(entry) => self.with(name, entry),
            None => self,
        }
    }

    /// The same with all entries of `other`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        other.0.into_iter().fold(self, |all, (name, entry)| all.with(name, entry))
    }

    /// The entry `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.place(name).ok().map(|place| &self.0[place].1)
    }

    /// Where the entry `name` is, or would be.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (*other).cmp(name))
    }

    /// The class of each row.
    pub fn classes(&self) -> Option<&[usize]> {
        self.indices(CLASSES)
    }

    /// The indices called `name`, one per row.
    pub fn indices(&self, name: &str) -> Option<&[usize]> {
        match self.get(name) {
            Some(Entry::Indices(all)) => Some(all),
            _ => None,
        }
    }

    /// The vectors called `name`, `[B, width]`.
    pub fn vectors(&self, name: &str) -> Option<&Tensor<2>> {
        match self.get(name) {
            Some(Entry::Vectors(all)) => Some(all),
            _ => None,
        }
    }

    /// The numbers called `name`, one list per row.
    pub fn numbers(&self, name: &str) -> Option<&[Vec<f32>]> {
        match self.get(name) {
            Some(Entry::Numbers(all)) => Some(all),
            _ => None,
        }
    }

    /// The feature maps called `name`.
    pub fn features(&self, name: &str) -> Option<&[Batch]> {
        match self.get(name) {
            Some(Entry::Features(all)) => Some(all),
            _ => None,
        }
    }

    /// The text features, `[B, tokens, width]`.
    pub fn text(&self) -> Option<&Tensor<3>> {
        self.tokens(TEXT)
    }

    /// The features of tokens called `name`, `[B, tokens, width]`.
    pub fn tokens(&self, name: &str) -> Option<&Tensor<3>> {
        match self.get(name) {
            Some(Entry::Tokens(all)) => Some(all),
            _ => None,
        }
    }

    /// The maps that follow the channels of the sample, in the order of their names.
    pub fn maps(&self) -> impl Iterator<Item = &Batch> {
        self.0.iter().filter_map(|(_, entry)| if let Entry::Map(map) = entry { Some(map) } else { None })
    }

    /// The same without maps.
    #[must_use]
    pub fn without_maps(&self) -> Self {
        let rest = self.0.iter().filter(|(_, entry)| !matches!(entry, Entry::Map(_)));
        Self(rest.map(|(name, entry)| (*name, entry.clone())).collect())
    }

    /// The same without these entries.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> Self {
        let rest = self.0.iter().filter(|(name, _)| !names.contains(name));
        Self(rest.map(|(name, entry)| (*name, entry.clone())).collect())
    }

    /// Some rows of every entry.
    ///
    /// # Panics
    /// If an entry has fewer rows.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Self {
        Self(self.0.iter().map(|(name, entry)| (*name, entry.rows(rows.clone()))).collect())
    }

    /// The same as constants of a graph for gradients.
    #[must_use]
    pub fn autodiff(&self) -> Self {
        let constant = |map: &Batch| map.with_rows(map.rows().clone().autodiff());
        let entry = |entry: &Entry| match entry {
            Entry::Vectors(all) => Entry::Vectors(all.clone().autodiff()),
            Entry::Tokens(all) => Entry::Tokens(all.clone().autodiff()),
            Entry::Map(all) => Entry::Map(constant(all)),
            Entry::Features(all) => Entry::Features(all.iter().map(constant).collect()),
            other => other.clone(),
        };
        Self(self.0.iter().map(|(name, e)| (*name, entry(e))).collect())
    }

    /// Whether both can be the conditions of rows of one call of a network: the same names and shapes.
    pub fn fits(&self, other: &Self) -> bool {
        type Named = (&'static str, Entry);
        let same = |(a, b): (&Named, &Named)| a.0 == b.0 && a.1.shape() == b.1.shape();
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }

    /// The rows of all, in order; `None` if they do not [fit](Self::fits) or there are none.
    pub fn cat(all: &[&Self]) -> Option<Self> {
        let (first, rest) = all.split_first()?;
        if rest.is_empty() {
            return Some((*first).clone());
        }
        if !rest.iter().all(|other| first.fits(other)) {
            return None;
        }
        let entry = |(place, (name, _)): (usize, &(&'static str, Entry))| {
            let parts: Vec<&Entry> = all.iter().map(|one| &one.0[place].1).collect();
            Some((*name, Entry::cat(&parts)?))
        };
        first.0.iter().enumerate().map(entry).collect::<Option<_>>().map(Self)
    }

    /// Checks that each entry is one of the `known` ones and has `rows` rows.
    ///
    /// # Errors
    /// Names the entry.
    pub fn only(&self, known: &[&str], rows: usize) -> Result<(), InputError> {
        for (name, entry) in &self.0 {
            if !known.contains(name) {
                let reads = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(InputError(match *name {
                    CLASSES => "this network has no classes".into(),
                    _ => format!("this network does not read the condition `{name}`; conditions: {reads}"),
                }));
            }
            if entry.len() != rows {
                return Err(InputError(format!("{} {name} for {rows} samples", entry.len())));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(rows: usize, length: usize) -> Entry {
        let device = burn::tensor::Device::flex();
        let values = (0..rows * length).map(|v| v as f32).collect();
        Entry::Tokens(tweedie_ops::from_host(values, [rows, length, 1], &device))
    }

    #[test]
    fn rows_come_apart_and_together() {
        let all = Conditions::of_classes(vec![4, 5, 6])
            .with(TEXT, tokens(3, 2))
            .with(SIZES, Entry::Numbers(vec![vec![1.0], vec![2.0], vec![3.0]]));
        let parts = [all.rows(0..1), all.rows(1..3)];
        let again = Conditions::cat(&[&parts[1], &parts[0]]).unwrap();
        assert_eq!(again.classes(), Some(&[5, 6, 4][..]));
        assert_eq!(again.numbers(SIZES).unwrap()[0], [2.0]);
        let text = tweedie_ops::to_host(again.text().unwrap().clone());
        assert_eq!(text, [2.0, 3.0, 4.0, 5.0, 0.0, 1.0]);
    }

    #[test]
    fn other_names_or_shapes_do_not_fit() {
        let one = Conditions::none().with(TEXT, tokens(1, 2));
        assert!(!one.fits(&Conditions::none().with(TEXT, tokens(1, 3))));
        assert!(!one.fits(&Conditions::of_classes(vec![1])));
        assert!(Conditions::cat(&[&one, &Conditions::none()]).is_none());
        assert!(one.fits(&one.rows(0..1)));
    }

    #[test]
    fn what_a_network_does_not_read_is_an_error() {
        let given = Conditions::of_classes(vec![1, 2]);
        assert!(given.only(&[CLASSES], 2).is_ok());
        assert!(given.only(&[CLASSES], 3).unwrap_err().0.contains("2 classes for 3 samples"));
        assert!(given.only(&[], 2).unwrap_err().0.contains("no classes"));
        let text = Conditions::none().with(TEXT, tokens(1, 2));
        assert!(text.only(&[CLASSES], 1).unwrap_err().0.contains("`text`; conditions: classes"));
    }
}
