//! What requests of other APIs have in common: fields that may be texts of a form or JSON, and what a prompt means.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tweedie_pipe::{ClassSelector, Pipeline};

use crate::{Fault, desk::Offer, service::Service};

/// The fields of a request, taken one by one.
#[derive(Clone, Debug, Default)]
pub struct Fields(pub Map<String, Value>);

impl Fields {
    /// Takes a field that is not null.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a text.
    ///
    /// # Errors
    /// If it is none.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Fault::field(name, format!("{other}: expected a text"))),
        }
    }

    /// Takes a number, which in a form is a text.
    ///
    /// # Errors
    /// If it is none.
    pub fn number(&mut self, name: &str) -> Result<Option<f64>, Fault> {
        let wrong = |value: &Value| Fault::field(name, format!("{value}: expected a number"));
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = match &value {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_f64(),
        };
        number.filter(|number: &f64| number.is_finite()).map(Some).ok_or_else(|| wrong(&value))
    }

    /// Takes an integer in a range, which in a form is a text.
    ///
    /// # Errors
    /// If it is none, or outside.
    pub fn whole(&mut self, name: &str, least: i64, most: i64) -> Result<Option<i64>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = match &value {
            Value::String(text) => text.trim().parse().ok(),
            // Some clients write 1.0.
            value => value.as_i64().or_else(|| value.as_f64().filter(|v| v.fract() == 0.0).map(|v| v as i64)),
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Fault::field(name, format!("{value}: expected an integer from {least} to {most}"))),
        }
    }

    /// Takes a truth value, which in a form is a text.
    ///
    /// # Errors
    /// If it is none.
    pub fn flag(&mut self, name: &str) -> Result<bool, Fault> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
            Some(other) => Err(Fault::field(name, format!("{other}: expected true or false"))),
        }
    }

    /// Takes the fields of this list that are set, for a note that they have no effect.
    pub fn ignored(&mut self, names: &[&str]) -> Vec<String> {
        names.iter().filter(|name| self.take(name).is_some()).map(|name| (*name).to_owned()).collect()
    }
}

/// What a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Texts.
    Texts,
    /// Classes.
    Classes,
    /// Nothing.
    Nothing,
}

/// What a model reads. Loads it.
///
/// # Errors
/// If there is no such model, or it cannot be loaded.
pub async fn reads(service: &Arc<Service>, model: Option<&str>) -> Result<Reads, Fault> {
    let number = service.desk.find(model)?;
    let reads = service.desk.ask(number, |pipeline| match pipeline.reads_texts() {
        true => Reads::Texts,
        false if pipeline.network().spec().classes.count.is_some() => Reads::Classes,
        false => Reads::Nothing,
    });
    reads.await
}

/// The model that a request means: the one that it names. Without a name it is the first model, unless that neither reads texts
/// nor has the prompt's classes: then the first one that reads texts.
pub async fn model_for(service: &Arc<Service>, model: Option<String>, prompt: &str) -> Option<String> {
    if model.is_some() || prompt.trim().is_empty() {
        return model;
    }
    let classes: Vec<ClassSelector> =
        class_names(prompt).map(|name| ClassSelector::Name(name.into())).collect();
    let understands = move |pipeline: &Pipeline| {
        pipeline.reads_texts() || classes.iter().all(|class| pipeline.classes().find(class).is_ok())
    };
    let first = service.desk.find(None).ok()?;
    if service.desk.ask(first, understands).await.unwrap_or(true) {
        return None;
    }
    for Offer { name, .. } in service.desk.offers().iter().filter(|offer| offer.enlarges.is_none()) {
        if reads(service, Some(name)).await.is_ok_and(|reads| reads == Reads::Texts) {
            return Some(name.clone());
        }
    }
    None
}

fn class_names(prompt: &str) -> impl Iterator<Item = &str> {
    prompt.split(',').map(str::trim)
}

/// Sets what a prompt means: a text, or the names of classes separated by commas. Without a prompt, models without texts
/// are asked for anything.
///
/// # Errors
/// If the model reads neither texts nor classes.
pub fn set_prompt(request: &mut Map<String, Value>, reads: Reads, prompt: &str) -> Result<(), Fault> {
    match (reads, prompt.trim()) {
        (Reads::Texts, _) => {
            request.insert("prompt".into(), prompt.into());
        }
        (_, "") => {}
        (Reads::Classes, classes) => {
            let classes: Vec<&str> = class_names(classes).collect();
            request.entry("classes").or_insert_with(|| json!(classes));
        }
        (Reads::Nothing, _) => {
            return Err(Fault::field(
                "prompt",
                "this model makes images without prompts; expected an empty text",
            ));
        }
    }
    Ok(())
}

/// A random seed that every client can store.
pub fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u128() as u64 & u64::from(u32::MAX)
}

/// Width and height like `512x768` as height and width.
///
/// # Errors
/// If it is something else.
pub fn size(field: &str, text: &str) -> Result<[usize; 2], Fault> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some([h.parse().ok()?, w.parse().ok()?]));
    sides.ok_or_else(|| {
        Fault::field(field, format!("`{text}`: expected `auto`, or width and height like `512x768`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_forms_and_json_are_the_same() {
        let mut fields = Fields(
            json!({ "n": "2", "m": 2.0, "steps": 3, "flag": "true", "g": "1.5", "bad": 1.5, "null": null, "t": 5 })
                .as_object()
                .unwrap()
                .clone(),
        );
        assert_eq!(fields.whole("n", 1, 10).unwrap(), Some(2));
        assert_eq!(fields.whole("m", 1, 10).unwrap(), Some(2));
        assert!(fields.whole("steps", 4, 10).unwrap_err().message.contains("from 4 to 10"));
        assert!(fields.flag("flag").unwrap());
        assert_eq!(fields.number("g").unwrap(), Some(1.5));
        assert!(fields.whole("bad", 1, 10).is_err());
        assert!(fields.text("t").is_err());
        assert_eq!(fields.text("null").unwrap(), None);
        assert!(fields.0.is_empty());
    }

    #[test]
    fn prompts_are_texts_or_classes() {
        let set = |reads, prompt: &str| {
            let mut request = Map::new();
            set_prompt(&mut request, reads, prompt).map(|()| Value::Object(request))
        };
        assert_eq!(set(Reads::Texts, "a, b").unwrap(), json!({ "prompt": "a, b" }));
        assert_eq!(set(Reads::Classes, "a, b").unwrap(), json!({ "classes": ["a", "b"] }));
        assert_eq!(set(Reads::Classes, " ").unwrap(), json!({}));
        assert_eq!(set(Reads::Nothing, "").unwrap(), json!({}));
        assert!(set(Reads::Nothing, "a").is_err());
        assert_eq!(size("size", "512x768").unwrap(), [768, 512]);
        assert!(size("size", "large").is_err());
    }
}
