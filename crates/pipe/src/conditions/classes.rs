//! Classes.

use tweedie_hub::Model;
use tweedie_models::Conditions;

use super::{Asked, Conditioner, Part};
use crate::{PipelineError, Request, class::Classes};

/// The class of each image: the selected ones in turn, by default all but the null class.
pub(super) struct ByClass;

impl Conditioner for ByClass {
    fn fields(&self, request: &Request) -> Vec<(&'static str, bool)> {
        vec![("classes", request.classes.is_some())]
    }

    fn unsupported(&self) -> &'static str {
        "this model has no classes"
    }

    fn is_read(&self, asked: &Asked<'_>) -> bool {
        let model = asked.model;
        let classes = model.network.spec().classes;
        // Those of a network that enlarges are the level of the noise.
        // A vector may be that of a text.
        model.small.is_none()
            && model.unclip.is_none()
            && model.sound.is_none()
            && (classes.count.is_some() || classes.other.is_some())
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let fail = |reason: String| PipelineError::request("classes", reason);
        let (model, spec) = (asked.model, asked.model.network.spec().classes);
        if let Some(other) = spec.other {
            return Err(fail(format!("this model's classes are {other}, which requests do not support")));
        }
        let all = classes(model);
        let mut chosen: Vec<usize> = match &asked.request.classes {
            None => (0..all.count).filter(|class| Some(*class) != model.null_class()).collect(),
            Some(list) => list.iter().map(|class| all.find(class).map_err(fail)).collect::<Result<_, _>>()?,
        };
        if chosen.is_empty() {
            return Err(fail("the list is empty; expected at least one class".into()));
        }
        chosen.truncate(asked.request.count.get());
        let of = |class: usize| Conditions::of_classes(vec![class]);
        let null = model.null_class().filter(|_| asked.guided);
        Ok(Part { given: chosen.into_iter().map(of).collect(), null: null.map(|class| vec![of(class)]) })
    }
}

/// The classes that requests can select.
pub(crate) fn classes(model: &Model) -> Classes<'_> {
    let count = model.network.spec().classes.count.filter(|_| model.small.is_none()).unwrap_or(0);
    Classes { count, names: &model.extras.class_names, listed: model.kind.listed }
}
