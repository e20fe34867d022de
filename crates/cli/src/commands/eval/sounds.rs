//! `tweedie eval` of a model of sounds: the scores of images, for pictures of their spectrograms.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use tweedie::{
    data::{Audio, Dataset, Image, Sounds},
    eval::{
        compare::{Clock, Sets},
        recognizer::{Recognizer, WordErrors},
    },
    media::{resampled, sounding_in, spectrogram},
    ops::Device,
    pipe::{Pipeline, Request, media::Media},
};

use super::{Args, Networks, Subject, captions, compared, request, scores::made};
use crate::{source, ui::Ui};

/// Width and height of a spectrogram, in pixels.
const SIDE: usize = 64;
/// What is this much quieter than the loudest part of speech, in decibels, is silence; over this many seconds.
const SILENCE: f64 = 40.0;
const FRAME: f64 = 0.02;

/// How sounds become pictures.
struct View {
    rate: u32,
    /// Seconds that a picture shows.
    seconds: f64,
    /// Whether the silence around sounds is left out, as models that speak do.
    trimmed: bool,
}

impl View {
    fn picture(&self, sound: &Audio) -> Image {
        let mut values = sound.mono();
        if sound.rate != self.rate {
            values = resampled(&values, sound.rate, self.rate);
        }
        if self.trimmed {
            let frame = ((FRAME * f64::from(self.rate)) as usize).max(1);
            values = values[sounding_in(&values, SILENCE, frame, frame.div_ceil(4))].to_vec();
        }
        let sound = Audio { channels: vec![values], rate: self.rate, guessed: false };
        spectrogram(&sound, SIDE, SIDE, self.seconds)
    }

    /// The pictures of all sounds of a set; those that only now turn out to be corrupt are named.
    fn of_set(&self, set: &Dataset<Sounds>, ui: Ui) -> Result<Vec<Image>> {
        let known = set.skipped().len();
        let pictures = (0..set.len()).map(|i| Ok(self.picture(&set.get(i)?.sample))).collect();
        source::warn_of_skipped(set, known, ui);
        pictures
    }
}

/// Generates sounds, and compares them with those of the data.
pub fn run(args: &Args, ui: Ui, pipeline: &Pipeline, device: &Device) -> Result<()> {
    ensure!(!args.bound.bound, "--bound: bits per dimension are only computed for models of images");
    let rate =
        pipeline.rate().context("the model does not say how many values per second its sounds have")?;
    let length = pipeline.native_size().and_then(|size| size.first().copied());
    let length = length.context("the model does not say how long its sounds are")?;
    let speech = pipeline.extras().speech.as_ref();
    let view = View { rate, seconds: length as f64 / f64::from(rate), trimmed: speech.is_some() };
    let config = source::of_model(pipeline.extras(), args.data.as_deref(), SIDE, args.holdout)?;
    ensure!(
        source::has_sounds(&config),
        "{}: expected a folder or an archive of sounds; give one with --data",
        config.source
    );
    let recognizer = args.recognizer.as_deref().map(Recognizer::parse).transpose().context("--recognizer")?;
    ensure!(recognizer.is_none() || pipeline.reads_texts(), "--recognizer: this model does not read texts");
    let networks = Networks::open(args, device)?;
    let mut clock = Clock::default();
    let (train, held_out) = Dataset::open_by(&config, Sounds)?.split();
    ensure!(!train.is_empty(), "no training sounds: all of {} is held out", config.source);
    let requests = requests(args, pipeline, &train)?;
    let mut jobs = Vec::new();
    for request in &requests {
        jobs.push(pipeline.prepare(request)?);
    }
    let mut words = [None, None];
    if let Some(recognizer) = &recognizer {
        // First, because it is quickly seen whether the recognizer works.
        words[1] = of_recordings(recognizer, &held_out, args.count.get(), ui)?;
        words[0] = Some(WordErrors::new(recognizer));
        clock.lap("recognizing recordings");
    }
    let (train, held_out) = (view.of_set(&train, ui)?, view.of_set(&held_out, ui)?);
    clock.lap("reading the data");

    let (mut pictures, mut sampling) = (Vec::new(), String::new());
    for (job, request) in jobs.into_iter().zip(&requests) {
        let solver = job.recipe().solver.name();
        let steps = job.recipe().plan.solves();
        sampling = format!("{solver}, {steps} steps, guidance {}", job.scale_for(solver));
        let Media::Audio(sounds) = made(job, ui)?.media else { continue };
        if let (Some(recognizer), [Some(words), _]) = (&recognizer, &mut words) {
            let bar = ui.bar(sounds.len() as u64, "sounds heard");
            for (sound, text) in sounds.iter().zip(request.prompts.iter().cycle()) {
                words.add(text, &recognizer.hear(sound).context("--recognizer")?);
                bar.inc(1);
            }
            bar.finish_and_clear();
        }
        pictures.extend(sounds.iter().map(|sound| view.picture(sound)));
    }
    ensure!(!pictures.is_empty(), "the model's samples are not sounds");
    clock.lap("generating");

    let shown = format!(
        "spectrograms of {} sounds: {SIDE}×{SIDE} pixels for {:.2} s and 0 to {} Hz",
        pictures.len(),
        view.seconds,
        rate / 2
    );
    let mut facts = vec![("images".into(), shown), ("sampling".into(), sampling)];
    for (words, what) in words.iter().zip(["word errors", "word errors of held-out recordings"]) {
        facts.extend(words.as_ref().map(|words| (what.to_owned(), words.summary())));
    }
    let name = args.model.as_ref().map_or("the built-in model".into(), |m| m.display().to_string());
    let request = requests.into_iter().next();
    let subject = Subject { words, ..Subject::of_pictures(name, pictures, request, facts) };
    let data = format!("{}: {} sounds for training, {} held out", config.source, train.len(), held_out.len());
    let sets = Sets { generated: &subject.pictures, train: &train, held_out: &held_out };
    compared(args, &subject, data, &sets, &networks.all(), clock, None, ui)
}

/// What the recognizer hears in up to `most` recordings with texts, evenly spread; `None` if there are none.
fn of_recordings(
    recognizer: &Recognizer,
    set: &Dataset<Sounds>,
    most: usize,
    ui: Ui,
) -> Result<Option<WordErrors>> {
    let told: Vec<usize> =
        set.words().enumerate().filter(|(_, words)| words.caption.is_some()).map(|(i, _)| i).collect();
    let count = most.min(told.len());
    let mut words = WordErrors::new(recognizer);
    let bar = ui.bar(count as u64, "recordings heard");
    for i in 0..count {
        // One that cannot be read is replaced by the next, with its own text.
        let item = set.get(told[i * told.len() / count])?;
        let text = item.words.caption.as_deref().unwrap_or_default();
        words.add(text, &recognizer.hear(&item.sample).context("--recognizer")?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((count > 0).then_some(words))
}

/// One request, or one for each voice of a model that speaks. Texts are those of the arguments, else the words of the model, else
/// captions of the data.
fn requests(args: &Args, pipeline: &Pipeline, train: &Dataset<Sounds>) -> Result<Vec<Request>> {
    let speech = pipeline.extras().speech.as_ref();
    let words = speech.map(|speech| speech.words.clone()).unwrap_or_default();
    let prompts = match (pipeline.reads_texts(), &*args.prompt) {
        (true, []) if !words.is_empty() => words,
        (true, []) => captions(train, args.count.get())?,
        (_, prompts) => prompts.to_vec(),
    };
    let voices = speech.map(|speech| speech.voices.clone()).unwrap_or_default();
    if voices.is_empty() {
        return Ok(vec![request(args, prompts)]);
    }
    let (all, each) = (args.count.get(), voices.len());
    let share = |i: usize| NonZeroUsize::new(all / each + usize::from(i < all % each));
    let of_voice = |(i, voice): (usize, String)| {
        Some(Request { voice: Some(voice), count: share(i)?, ..request(args, prompts.clone()) })
    };
    Ok(voices.into_iter().enumerate().filter_map(of_voice).collect())
}
