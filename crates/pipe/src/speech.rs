//! Spoken texts. A model that speaks says one unit, a word or a sentence, at a time; texts are cut into units, which are
//! sampled together, cut out of the silence around them, and joined with pauses.

use std::num::NonZeroUsize;

use tweedie_hub::{Extras, Speech};
use tweedie_media::{Audio, sounding_in};

use crate::{PipelineError, Request};

/// Seconds of silence between words, after a comma or another sign within a sentence, and after a sentence.
const PAUSES: [f64; 3] = [0.06, 0.25, 0.45];
/// What is this much quieter than the loudest part of a unit is silence, in decibels.
const SILENCE: f64 = 40.0;
/// Seconds over which loudness is measured, and of the fades at both ends of a unit.
const FRAME: f64 = 0.02;
const FADE: f64 = 0.008;
/// The names of the digits: numbers are read digit by digit.
const DIGITS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// A unit, and the pause after it in seconds.
#[derive(Clone, Debug, PartialEq)]
struct Unit {
    text: String,
    pause: f64,
}

/// The texts of a request as units.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spoken {
    /// The units of each result.
    results: Vec<Vec<Unit>>,
    voice: Option<String>,
    /// Whether units are words, not sentences.
    words: bool,
}

impl Spoken {
    /// The units of a request; `None` for models that do not speak.
    ///
    /// # Errors
    /// If the request asks for a voice or a word that the model does not know, or has no text.
    pub fn of(request: &Request, extras: &Extras) -> Result<Option<Self>, PipelineError> {
        let Some(speech) = &extras.speech else {
            return match &request.voice {
                Some(_) => Err(PipelineError::request("voice", "this model does not speak")),
                None => Ok(None),
            };
        };
        let voice = match &request.voice {
            Some(voice) if speech.voices.contains(voice) => Some(voice.clone()),
            Some(voice) if speech.voices.is_empty() => {
                return Err(PipelineError::request(
                    "voice",
                    format!("`{voice}`: this model has no voices to choose from"),
                ));
            }
            Some(voice) => {
                let known = speech.voices.join(", ");
                return Err(PipelineError::request("voice", format!("`{voice}`: expected one of {known}")));
            }
            None => speech.voices.first().cloned(),
        };
        let texts: Vec<Vec<Unit>> =
            request.prompts.iter().map(|text| units(text, speech)).collect::<Result<_, _>>()?;
        if texts.is_empty() {
            return Err(PipelineError::request("prompt", "this model speaks; expected a text"));
        }
        let count = request.checked_count()?;
        let results = texts.into_iter().cycle().take(count).collect();
        Ok(Some(Self { results, voice, words: !speech.words.is_empty() }))
    }

    /// Number of results.
    pub fn count(&self) -> usize {
        self.results.len()
    }

    /// The same request with one prompt for each unit.
    ///
    /// # Errors
    /// If there are too many units.
    pub fn expanded(&self, request: &Request) -> Result<Request, PipelineError> {
        let prompt = |unit: &Unit| match &self.voice {
            Some(voice) => format!("{}, {voice}", unit.text),
            None => unit.text.clone(),
        };
        let prompts: Vec<String> = self.results.iter().flatten().map(prompt).collect();
        let count = NonZeroUsize::new(prompts.len()).unwrap_or(NonZeroUsize::MIN);
        let expanded = Request { prompts, count, ..request.clone() };
        expanded.checked_count()?;
        Ok(expanded)
    }

    /// The sounds of all units as one sound per result.
    pub fn joined(&self, units: Vec<Audio>) -> Vec<Audio> {
        let mut sounds = units.into_iter();
        let join = |units: &Vec<Unit>| Joiner::of(units).joined(sounds.by_ref().take(units.len()).collect());
        self.results.iter().filter_map(join).collect()
    }

    /// Joins the units of the first result as they come.
    pub fn joiner(&self) -> Joiner {
        Joiner::of(self.results.first().map_or(&[], Vec::as_slice))
    }

    /// Number of units that are made before any other, so that a sound begins soon.
    pub fn first_units(&self) -> usize {
        if self.words { 4 } else { 1 }
    }
}

/// Joins the sounds of the units of a text.
pub(crate) struct Joiner {
    /// The pauses after the units that are to come.
    pauses: std::vec::IntoIter<f64>,
    /// The pause before the next one.
    silence: Option<f64>,
}

impl Joiner {
    fn of(units: &[Unit]) -> Self {
        let pauses: Vec<f64> = units.iter().map(|unit| unit.pause).collect();
        Self { pauses: pauses.into_iter(), silence: None }
    }

    /// What the next units add to the sound: each without the silence around it, after the pause.
    pub fn joined(&mut self, units: Vec<Audio>) -> Option<Audio> {
        let mut joined: Option<Audio> = None;
        for (sound, pause) in units.into_iter().zip(&mut self.pauses) {
            let sound = within_range(cut_out(sound));
            let gap =
                self.silence.replace(pause).map_or(0, |silence| (silence * f64::from(sound.rate)) as usize);
            let all = joined
                .get_or_insert_with(|| Audio { channels: vec![Vec::new(); sound.channels.len()], ..sound });
            for (channel, more) in all.channels.iter_mut().zip(sound.channels) {
                channel.resize(channel.len() + gap, 0.0);
                channel.extend(more);
            }
        }
        joined
    }
}

/// The sound of a unit, made quieter if a value is outside -1..1.
fn within_range(mut sound: Audio) -> Audio {
    let most = sound.channels.iter().flatten().fold(1.0f32, |most, v| most.max(v.abs()));
    sound.channels.iter_mut().flatten().for_each(|v| *v /= most);
    sound
}

/// A unit without the silence around it, faded in and out. Silence remains as it is.
fn cut_out(mut sound: Audio) -> Audio {
    let values = |seconds: f64| ((seconds * f64::from(sound.rate)) as usize).max(1);
    let (frame, fade) = (values(FRAME), values(FADE));
    let part = sounding_in(&sound.mono(), SILENCE, frame, frame.div_ceil(4));
    if part.is_empty() {
        return sound;
    }
    let part = part.start.saturating_sub(fade)..(part.end + fade).min(sound.len());
    for channel in &mut sound.channels {
        *channel = channel[part.clone()].to_vec();
        let length = channel.len();
        let fade = fade.min(length / 2);
        for i in 0..fade {
            let gain = i as f32 / fade as f32;
            channel[i] *= gain;
            channel[length - 1 - i] *= gain;
        }
    }
    sound
}

/// The units of a text.
fn units(text: &str, speech: &Speech) -> Result<Vec<Unit>, PipelineError> {
    let fail = |reason: String| PipelineError::request("prompt", reason);
    if text.len() > crate::prompt::MOST_BYTES {
        let reason =
            format!("the text has {} bytes, expected at most {}", text.len(), crate::prompt::MOST_BYTES);
        return Err(fail(reason));
    }
    let units = if speech.words.is_empty() { sentences(text) } else { words(text, speech).map_err(fail)? };
    match units.is_empty() {
        true => Err(fail(format!("`{text}` has no words"))),
        false => Ok(units),
    }
}

fn pause_after(sign: Option<char>) -> f64 {
    match sign {
        Some('.' | '!' | '?') => PAUSES[2],
        Some(',' | ';' | ':') => PAUSES[1],
        _ => PAUSES[0],
    }
}

fn sentences(text: &str) -> Vec<Unit> {
    let parts = text.split_inclusive(['.', '!', '?', ';', '\n']);
    let spoken = parts.map(str::trim).filter(|part| part.chars().any(char::is_alphanumeric));
    spoken.map(|part| Unit { text: part.to_owned(), pause: pause_after(part.chars().last()) }).collect()
}

fn words(text: &str, speech: &Speech) -> Result<Vec<Unit>, String> {
    let known = |word: &str| speech.words.iter().any(|own| own == word);
    let unknown = |word: &str| {
        format!("this model does not know the word `{word}`; it knows {}", speech.words.join(", "))
    };
    let mut units = Vec::new();
    for token in text.split_whitespace() {
        let word = token.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        if word.is_empty() {
            continue;
        }
        let pause = pause_after(token.chars().last().filter(|c| !c.is_alphanumeric()));
        let digits = word.bytes().all(|b| b.is_ascii_digit());
        if !known(&word) && digits && DIGITS.iter().all(|name| known(name)) {
            let names = word.bytes().map(|b| DIGITS[usize::from(b - b'0')]);
            units.extend(names.map(|name| Unit { text: name.to_owned(), pause: PAUSES[0] }));
            units.iter_mut().next_back().into_iter().for_each(|last| last.pause = pause);
        } else if known(&word) {
            units.push(Unit { text: word, pause });
        } else {
            return Err(unknown(&word));
        }
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits() -> Extras {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let speech = Speech { voices: list(&["ann", "theo"]), words: list(&DIGITS) };
        Extras { speech: Some(speech), ..Extras::default() }
    }

    fn request(prompts: &[&str], voice: Option<&str>, count: usize) -> Request {
        Request {
            prompts: prompts.iter().map(|p| (*p).to_owned()).collect(),
            voice: voice.map(str::to_owned),
            count: NonZeroUsize::new(count).unwrap(),
            ..Request::default()
        }
    }

    #[test]
    fn texts_become_units_in_a_voice() {
        let asked = request(&["Three, one four.", "90"], Some("theo"), 3);
        let spoken = Spoken::of(&asked, &digits()).unwrap().unwrap();
        let expanded = spoken.expanded(&asked).unwrap();
        let expected =
            ["three", "one", "four", "nine", "zero", "three", "one", "four"].map(|w| format!("{w}, theo"));
        assert_eq!((expanded.prompts, expanded.count.get(), spoken.count()), (expected.to_vec(), 8, 3));
        let pauses: Vec<f64> = spoken.results[0].iter().map(|unit| unit.pause).collect();
        assert_eq!(pauses, [0.25, 0.06, 0.45]);
        let first = Spoken::of(&request(&["one"], None, 1), &digits()).unwrap().unwrap();
        assert_eq!(first.voice.as_deref(), Some("ann"));
    }

    #[test]
    fn what_the_model_does_not_know_is_named() {
        let error = |request: &Request, extras: &Extras| Spoken::of(request, extras).unwrap_err().to_string();
        let voice = error(&request(&["one"], Some("bob"), 1), &digits());
        assert!(voice.contains("`bob`") && voice.contains("ann, theo"), "{voice}");
        let word = error(&request(&["one eleven"], None, 1), &digits());
        assert!(word.contains("`eleven`") && word.contains("zero, one"), "{word}");
        assert!(error(&request(&["..."], None, 1), &digits()).contains("has no words"));
        assert!(error(&request(&[], None, 1), &digits()).contains("expected a text"));
        assert!(error(&request(&["x"], Some("ann"), 1), &Extras::default()).contains("does not speak"));
        assert_eq!(Spoken::of(&request(&["x"], None, 1), &Extras::default()).unwrap(), None);
    }

    #[test]
    fn models_of_sentences_get_sentences() {
        let found = sentences("Hello there. How are you?\nFine; thanks");
        let texts: Vec<&str> = found.iter().map(|unit| unit.text.as_str()).collect();
        assert_eq!(texts, ["Hello there.", "How are you?", "Fine;", "thanks"]);
    }

    #[test]
    fn units_are_cut_out_and_joined() {
        let spoken = Spoken::of(&request(&["one, two"], None, 1), &digits()).unwrap().unwrap();
        let sound = |from: usize| {
            let mut values = vec![0.0; 5120];
            (from..from + 1600).for_each(|i| values[i] = (i as f32 * 0.5).sin());
            Audio { channels: vec![values], rate: 8000, guessed: false }
        };
        let joined = spoken.joined(vec![sound(800), sound(2000)]);
        assert_eq!(joined.len(), 1);
        // Two sounds of 0.2 s and a pause of 0.25 s; frames and fades reach a little further.
        let seconds = joined[0].seconds();
        assert!((0.65..0.75).contains(&seconds), "{seconds}");
        let silent = joined[0].channels[0].split(|v| v.abs() > 1e-3).map(<[f32]>::len).max().unwrap();
        assert!((1900..2500).contains(&silent), "{silent}");
        let nothing = Audio { channels: vec![vec![0.0; 100]], rate: 8000, guessed: false };
        assert_eq!(cut_out(nothing.clone()), nothing);
    }
}
