//! `tweedie eval` of a model of clips.

use std::ops::ControlFlow;

use anyhow::{Context, Result, bail, ensure};
use tweedie::{
    data::{
        Clips as ClipData, Dataset, Image, Order, Rgb, Source, Video, counted_endings, grid,
        moving::{Checker, Motion, Thing},
    },
    eval::{
        clips::{Clips, Frames, OverTime, strip},
        compare::{Clock, Sets},
        extract::Extractor,
    },
    ops::Device,
    pipe::{Media, Pipeline, media::enlarge},
};

use super::{Args, Networks, Subject, captions, compared, request, scores::made};
use crate::{source, ui::Ui};

/// Most clips of the data that are read, drawn at random.
const MOST: usize = 512;
/// Frames of a strip.
const SHOWN: usize = 8;

/// Clips of the data with their captions.
#[derive(Default)]
struct Real {
    clips: Vec<Vec<Image>>,
    captions: Vec<String>,
    /// How many there are in all.
    of: usize,
}

impl Real {
    fn read(set: &Dataset<ClipData>, frames: usize, ui: Ui) -> Result<Self> {
        let known = set.skipped().len();
        let mut found = Self { of: set.len(), ..Self::default() };
        let words: Vec<_> = set.words().cloned().collect();
        let count = set.len().min(MOST);
        let bar = ui.bar(count as u64, "clips of the data");
        // Even steps could meet the same of several kinds that take turns.
        let order = Order::new(0, set.len());
        for index in (0..count as u64).map(|i| order.index(i)) {
            let read = set.read(index, |film| match film.video(frames)? {
                Video { frames: own, .. } if own.len() == frames => Ok(own),
                Video { frames: own, .. } => {
                    Err(format!("it has {} frames at the model's rate, fewer than {frames}", own.len()))
                }
            })?;
            if let Some(clip) = read {
                found.clips.push(clip);
                found.captions.push(words[index].caption.clone().unwrap_or_default());
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        source::warn_of_skipped(set, known, ui);
        Ok(found)
    }

    fn strips(&self) -> Vec<Image> {
        self.clips.iter().map(|clip| strip(clip, SHOWN)).collect()
    }
}

/// Generates clips, and compares them with those of the data.
pub fn run(args: &Args, ui: Ui, pipeline: &Pipeline, device: &Device) -> Result<()> {
    ensure!(!args.bound.bound, "--bound: bits per dimension are only computed for models of images");
    ensure!(args.inception.is_none(), "--inception: clips are only scored by the built-in encoder");
    let native = pipeline.native_size().context("the model has no default size")?;
    let &[frames, height, width] = &*native else { bail!("the model does not make clips") };
    ensure!(
        height == width,
        "the model's frames have {width}×{height} pixels, but only square ones are supported here"
    );
    let mut config = source::of_model(pipeline.extras(), args.data.as_deref(), height, args.holdout)?;
    if !matches!(config.source, Source::Folder(_) | Source::MovingEmoji) {
        bail!("{}: expected `moving-emoji` or a folder of clips; give one with --data", config.source);
    }
    (config.moving.frames, config.clips.frames) = (frames, frames);
    if let Some(rate) = pipeline.rate() {
        (config.moving.fps, config.clips.fps) = (rate, rate);
    }
    let networks = Networks::open(args, device)?;
    let mut clock = Clock::default();
    let set = Dataset::open_by(&config, ClipData::of(&config))?;
    if !set.passed_over().is_empty() {
        let found = counted_endings(set.passed_over());
        ui.warn(format!("{}: ignoring files that are not clips: {found}", config.source));
    }
    let (train, held_out) = set.split();
    ensure!(!train.is_empty(), "no training clips: all of {} is held out", config.source);
    let prompts = match (pipeline.reads_texts(), &*args.prompt) {
        (true, []) => {
            let all = captions(&train, train.len())?;
            let order = Order::new(args.seed, all.len());
            let count = args.count.get().min(all.len()) as u64;
            (0..count).map(|i| all[order.index(i)].clone()).collect()
        }
        (_, prompts) => prompts.to_vec(),
    };
    let request = request(args, prompts.clone());
    let job = pipeline.prepare(&request)?;
    let (train, held_out) = (Real::read(&train, frames, ui)?, Real::read(&held_out, frames, ui)?);
    if train.clips.is_empty() {
        return Err(set.none_left().into());
    }
    clock.lap("reading the data");

    let (solver, steps) = (job.recipe().solver.name(), job.recipe().plan.solves());
    let sampling = format!("{solver}, {steps} steps, guidance {}", job.scale_for(solver));
    let Media::Clips(clips) = made(job, ui)?.media else {
        bail!("the model's samples are not clips in colour or grey")
    };
    let clips: Vec<Vec<Image>> = clips.into_iter().map(|clip| clip.frames).collect();
    clock.lap("generating");

    let asked: Vec<String> =
        (0..clips.len()).filter_map(|i| prompts.get(i % prompts.len().max(1)).cloned()).collect();
    let checker = (config.source == Source::MovingEmoji).then(|| Checker::new(config.background));
    let (fps, asked_for) = (config.moving.fps, args.count.get());
    let mut over_time = Vec::new();
    for (name, clips, captions) in [
        ("generated", &clips, &asked),
        ("training", &train.clips, &train.captions),
        ("held out", &held_out.clips, &held_out.captions),
    ] {
        // As many of the data as were generated, since the checker takes its time.
        let count = clips.len().min(asked_for);
        let some = || (0..count).map(|i| i * clips.len() / count);
        let captions: Vec<String> = some().filter_map(|i| captions.get(i).cloned()).collect();
        let clips: Vec<Vec<Image>> = some().map(|i| clips[i].clone()).collect();
        let checked = checker.as_ref().map_or_else(Vec::new, |by| checked(by, fps, &clips, &captions));
        let bar = ui.bar(0, "frames");
        over_time.push(OverTime::of(name, &clips, &checked, &networks.encoder, &mut |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            ControlFlow::Continue(())
        })?);
        bar.finish_and_clear();
    }
    clock.lap("over time");
    let shown = format!(
        "{} clips of {frames} frames; {} of each in pictures and scores",
        clips.len(),
        frames.min(SHOWN)
    );
    let subject = Subject {
        name: args.model.as_ref().map_or("the built-in model".into(), |m| m.display().to_string()),
        pictures: clips.iter().map(|clip| strip(clip, SHOWN)).collect(),
        request: Some(request),
        facts: vec![("clips".into(), shown), ("sampling".into(), sampling)],
        over_time,
        words: [None, None],
        animation: Some(animation(&clips, config.window().fps)),
    };
    let counted = |real: &Real, what: &str| format!("{} of {} clips {what}", real.clips.len(), real.of);
    let data =
        format!("{}: {}, {}", config.source, counted(&train, "for training"), counted(&held_out, "held out"));
    let (train, held_out) = (train.strips(), held_out.strips());
    let sets = Sets { generated: &subject.pictures, train: &train, held_out: &held_out };
    let by: [&dyn Extractor; 2] = [&Clips(&networks.encoder), &Frames(&networks.encoder)];
    compared(args, &subject, data, &sets, &by, clock, None, ui)
}

/// The first clips side by side.
fn animation(clips: &[Vec<Image>], fps: u32) -> Video {
    const FIRST: usize = 16;
    let first = &clips[..clips.len().min(FIRST)];
    let columns = (first.len() as f64).sqrt().ceil() as usize;
    let frames = first.iter().map(Vec::len).min().unwrap_or(0);
    let sheet = |at: usize| {
        let images: Vec<Image> = first.iter().map(|clip| clip[at].clone()).collect();
        enlarge(&grid(&images, columns, 2, Rgb([255; 3])), 2)
    };
    let delay = (1000 / fps.max(1)).clamp(1, 65535) as u16;
    Video { frames: (0..frames).map(sheet).collect(), delay }
}

/// Whether thing and motion of each clip are as its caption says; nothing for captions of other kinds.
fn checked(checker: &Checker, fps: u32, clips: &[Vec<Image>], captions: &[String]) -> Vec<[bool; 2]> {
    let parsed = |text: &String| {
        let rest = text.strip_prefix("a ")?;
        let of =
            |motion: &Motion| Some((Thing::named(rest.strip_suffix(motion.name())?.trim_end())?, *motion));
        Motion::ALL.iter().find_map(of)
    };
    let verdict = |(clip, text): (&Vec<Image>, &String)| {
        let (thing, motion) = parsed(text)?;
        let verdict = checker.check(clip, fps, motion)?;
        Some([verdict.shows(thing), verdict.follows])
    };
    clips.iter().zip(captions).filter_map(verdict).collect()
}
