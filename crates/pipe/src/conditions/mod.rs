//! What a model is conditioned on, from a request: each kind of condition is a [`Conditioner`].

mod classes;
mod control;
mod embeddings;
mod enlarging;
mod filling;
mod first_frame;
mod picture;
mod sounds;
mod texts;
mod umt5;
mod variation;

use std::{ops::Range, sync::Arc};

use burn::tensor::Device;
use tweedie_hub::Model;
use tweedie_models::{Conditions, Entry, ExecContext, HostTensor, conditions::GUIDANCE};
use tweedie_ops::SampleShape;

use crate::{Image, NoiseOfRows, PipelineError, Request, known::Canvas};

pub(crate) use classes::classes;
pub(crate) use control::remark;
pub(crate) use enlarging::{planes_of, small_size};
pub(crate) use filling::fills;
pub(crate) use picture::{guidance_rises, reads_picture, remark_on_picture};
pub(crate) use sounds::reads_start;
pub(crate) use variation::{embedding, varies};

/// What conditioners read.
pub(crate) struct Asked<'a> {
    pub model: &'a Model,
    pub request: &'a Request,
    /// The initial image, which takes the place of the request's.
    pub image: Option<&'a Image>,
    /// Images to enlarge, `[n, C, H, W]`, that take the place of the request's.
    pub small: Option<&'a HostTensor>,
    /// Embeddings of images, `[n, width]`, that take the place of those of an image or of a prior's.
    pub embeddings: Option<&'a HostTensor>,
    /// Whether it is for variations of an image.
    pub varies: bool,
    /// The existing image that is changed.
    pub canvas: Option<&'a Canvas>,
    /// The axes of the media.
    pub size: &'a [usize],
    /// The shape of a sample of the network.
    pub shape: &'a SampleShape,
    /// Whether unconditional predictions are needed.
    pub guided: bool,
    pub draws: &'a Arc<dyn NoiseOfRows>,
    pub device: &'a Device,
    /// What networks run in.
    pub context: &'a ExecContext,
}

/// One kind of condition.
pub(crate) trait Conditioner {
    /// The fields of a request that only it reads, and whether they are set.
    fn fields(&self, request: &Request) -> Vec<(&'static str, bool)>;

    /// Why a model that does not read it rejects its fields.
    fn unsupported(&self) -> &'static str;

    /// Whether the model reads it for this request.
    fn is_read(&self, asked: &Asked<'_>) -> bool;

    /// The conditions of all images.
    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError>;
}

/// All kinds.
const CONDITIONERS: [&dyn Conditioner; 8] = [
    &classes::ByClass,
    &texts::ByText,
    &enlarging::BySmallImage,
    &filling::ByMask,
    &variation::ByImage,
    &picture::ByPicture,
    &first_frame::ByFirstFrame,
    &control::ByControl,
];

/// The conditions of one kind: image `i` has entry `i mod n` of these `n`.
#[derive(Debug)]
pub(crate) struct Part {
    pub given: Vec<Conditions>,
    /// The unconditional ones; `None` if the kind has none or they are not needed.
    pub null: Option<Vec<Conditions>>,
}

fn rows_of(all: &[Conditions], rows: Range<usize>) -> Conditions {
    let each: Vec<&Conditions> = rows.map(|row| &all[row % all.len()]).collect();
    Conditions::cat(&each).expect("rows whose conditions have one shape")
}

/// The conditions of all images, and the unconditional ones for guidance.
#[derive(Debug)]
pub(crate) struct Prepared {
    parts: Vec<Part>,
    /// The guidance scale, for networks that take it as an input.
    pub(crate) scale: Option<f32>,
}

impl Prepared {
    /// The conditions of these images, and the unconditional ones. Kinds without unconditional ones have their own in both.
    pub(crate) fn rows(&self, rows: Range<usize>) -> (Conditions, Option<Conditions>) {
        let guidance = self.scale.map(|scale| Entry::Numbers(vec![vec![scale]; rows.len()]));
        let given = |part: &Part| rows_of(&part.given, rows.clone());
        let null = |part: &Part| rows_of(part.null.as_ref().unwrap_or(&part.given), rows.clone());
        let all = self.parts.iter().map(given).fold(Conditions::none(), Conditions::and);
        let guided = self.parts.iter().any(|part| part.null.is_some());
        let nulls = guided.then(|| self.parts.iter().map(null).fold(Conditions::none(), Conditions::and));
        (all.with_some(GUIDANCE, guidance), nulls)
    }

    /// The class of each of `count` images, if they have classes.
    pub(crate) fn classes(&self, count: usize) -> Option<Vec<usize>> {
        let part = self.parts.iter().find(|part| part.null.is_some() || part.given[0].classes().is_some())?;
        (0..count).map(|row| part.given[row % part.given.len()].classes()?.first().copied()).collect()
    }

    /// Whether images have conditions of different shapes, such as texts of different lengths, which cannot share a call of
    /// the network.
    pub(crate) fn is_ragged(&self) -> bool {
        let ragged = |all: &[Conditions]| all.windows(2).any(|pair| !pair[0].fits(&pair[1]));
        self.parts.iter().any(|part| ragged(&part.given))
    }
}

/// Makes the conditions of a request.
///
/// # Errors
/// If a field is set that the model does not read, or a conditioner fails.
pub(crate) fn prepare(asked: &Asked<'_>) -> Result<Prepared, PipelineError> {
    type Kinds = Vec<&'static dyn Conditioner>;
    let (read, others): (Kinds, Kinds) = CONDITIONERS.into_iter().partition(|kind| kind.is_read(asked));
    let known: Vec<&str> = read.iter().flat_map(|kind| kind.fields(asked.request)).map(|(f, _)| f).collect();
    for kind in others {
        let mut fields = kind.fields(asked.request).into_iter();
        if let Some((field, _)) = fields.find(|(field, set)| *set && !known.contains(field)) {
            return Err(PipelineError::request(field, kind.unsupported()));
        }
    }
    let parts = read.into_iter().map(|kind| kind.prepare(asked)).collect::<Result<_, _>>()?;
    Ok(Prepared { parts, scale: None })
}
