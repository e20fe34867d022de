//! `tweedie eval`.

mod bound;
mod clips;
mod enlarging;
pub mod scores;
mod show;
mod sounds;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    data::{
        CaptionConfig, DataConfig, Dataset, Decode, Image, ImageFacts, Source, Video, Words, image_facts,
    },
    eval::{
        clips::OverTime,
        compare::{Clock, Sets},
        extract::{Encoder, Extractor, Inception},
        neighbours::Memorisation,
        recognizer::WordErrors,
        report::{Evaluation, Pictures, html},
    },
    hub::{Extras, files},
    ops::Device,
    pipe::{
        Pipeline, Request,
        media::{write_png, write_video},
    },
};

use super::sample::check_place;
use crate::{model, source, team::Team, ui::Ui};
use scores::{Cache, generate_on, images, tell_not_kept, watch};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder or file, or a name of `tweedie models` [default: emoji-32].
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Prompt, for text-to-image models; repeat to use several in turn [default: captions of the data].
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Evaluate a folder of images of one size instead of a model.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["model", "bound"])]
    images: Option<PathBuf>,
    /// Resize the data to the size of the images in `--images`, and treat grey images as colour, where they differ. Without
    /// this flag that is an error, because the scores then also measure the resizing.
    #[arg(long)]
    adapt: bool,
    /// `emoji`, a folder of images, a zip or tar archive, IDX, CIFAR's batches, NPY, NPZ or Parquet [default: the model's
    /// training data]. For a model of clips, `moving-emoji` or a folder of clips; for one of sounds, a folder of sounds.
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Fraction of the data held out from training [default: as in training].
    #[arg(long, value_name = "FRACTION")]
    holdout: Option<f64>,
    /// Number of images to generate. FID needs more images than features: 64 for the built-in encoder, 2048 for
    /// Inception-v3.
    #[arg(short = 'n', long, default_value = "256", value_name = "N")]
    count: NonZeroUsize,
    /// Random seed. The same seed gives the same images.
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Number of solver steps [default: the model's].
    #[arg(long, value_name = "N")]
    steps: Option<NonZeroUsize>,
    /// Guidance scale; 1 means no guidance [default: the model's].
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f64>,
    /// Also score with Inception-v3, using pytorch-fid's weights from this safetensors file.
    #[arg(long, value_name = "FILE.safetensors")]
    inception: Option<PathBuf>,
    /// For a model that reads texts and makes sounds: a program that prints what it hears in a sound file, `{}` in its arguments.
    /// Its words are compared with the prompts, and those of held-out recordings with their texts. It is not run by a shell.
    #[arg(long, value_name = "COMMAND")]
    recognizer: Option<String>,
    #[command(flatten)]
    cache: Cache,
    /// Image file with generated images, closest first, each above its nearest training image. For a model that enlarges: rows of
    /// a small image, what each method makes of it, and the original.
    #[arg(short, long, value_name = "FILE.png", default_value = "neighbours.png")]
    output: PathBuf,
    /// HTML report. A JSON file of the same name is written beside it.
    #[arg(long, value_name = "FILE.html", default_value = "eval.html")]
    report: PathBuf,
    #[command(flatten)]
    bound: bound::Args,
}

/// The networks whose features are compared.
struct Networks {
    encoder: Encoder,
    inception: Option<Inception>,
}

impl Networks {
    fn open(args: &Args, device: &Device) -> Result<Self> {
        let inception = args.inception.as_deref().map(|path| Inception::open(path, device)).transpose()?;
        Ok(Self { encoder: Encoder::embedded(device)?, inception })
    }

    fn all(&self) -> Vec<&dyn Extractor> {
        let inception = self.inception.iter().map(|i| i as &dyn Extractor);
        std::iter::once(&self.encoder as &dyn Extractor).chain(inception).collect()
    }
}

/// What is evaluated.
struct Subject {
    name: String,
    pictures: Vec<Image>,
    request: Option<Request>,
    facts: Vec<(String, String)>,
    /// Of clips, of which the pictures are strips.
    over_time: Vec<OverTime>,
    /// What a recognizer hears in sounds, and in held-out recordings.
    words: [Option<WordErrors>; 2],
    animation: Option<Video>,
}

impl Subject {
    fn of_pictures(
        name: String,
        pictures: Vec<Image>,
        request: Option<Request>,
        facts: Vec<(String, String)>,
    ) -> Self {
        Self { name, pictures, request, facts, over_time: Vec::new(), words: [None, None], animation: None }
    }
}

pub fn run(args: Args, ui: Ui, device: &str, team: &Team) -> Result<()> {
    ensure!(args.images.is_some() || !args.adapt, "--adapt needs --images");
    ensure!(args.images.is_none() || args.recognizer.is_none(), "--recognizer is only for models of sounds");
    ensure!(
        !team.is_shared() || (args.images.is_none() && !args.bound.bound),
        "several ranks only share the generation of images; start one process for --images and --bound"
    );
    let only_bound = args.bound.bound && !args.bound.quality;
    let beside = args.report.with_extension("json");
    if !only_bound {
        check_place(&args.output)?;
        check_place(&args.report)?;
        ensure!(beside != args.report, "{}: expected the name of an HTML file", args.report.display());
        check_place(&beside)?;
    }
    let device = tweedie::ops::device(device)?;
    let (pipeline, config) = match &args.images {
        Some(folder) => (None, of_folder(&args, folder)?),
        None => {
            let pipeline = model::pipeline_for(args.model.as_deref(), &args.prompt, &device, ui)?;
            if pipeline.model().small.is_some() {
                ensure!(!team.is_shared(), "a model that enlarges images is evaluated by one process");
                return enlarging::run(&args, ui, &pipeline, &device);
            }
            if pipeline.axes() == 1 {
                ensure!(!team.is_shared(), "a model of sounds is evaluated by one process");
                return sounds::run(&args, ui, &pipeline, &device);
            }
            ensure!(args.recognizer.is_none(), "--recognizer is only for models of sounds");
            if pipeline.axes() == 3 {
                ensure!(!team.is_shared(), "a model of clips is evaluated by one process");
                return clips::run(&args, ui, &pipeline, &device);
            }
            let size = pipeline.result_size().context("the model has no default size")?;
            let &[height, width] = &*size else { bail!("this model does not make images") };
            ensure!(
                height == width,
                "the model's images have {width}×{height} pixels, but only square images are supported here"
            );
            if !pipeline.reads_texts() {
                // Finds what is wrong before the data is read.
                pipeline.prepare(&request(&args, Vec::new()))?;
            }
            if only_bound {
                ensure!(
                    pipeline.model().unclip.is_none(),
                    "--bound: this model is a cascade, which has no bound"
                );
                return bound::run(&args, ui, &pipeline, &device, height);
            }
            let config = source::of_model(pipeline.extras(), args.data.as_deref(), height, args.holdout)?;
            (Some(pipeline), config)
        }
    };
    // Checks everything that can be wrong before images are generated.
    let networks = Networks::open(&args, &device)?;
    let mut clock = Clock::default();
    let (train, held_out) = source::open(&config, ui)?.split();
    let prompts = match &pipeline {
        Some(pipeline) if pipeline.reads_texts() && args.prompt.is_empty() => {
            captions(&train, args.count.get())?
        }
        _ => args.prompt.clone(),
    };
    ensure!(
        !train.is_empty(),
        "no training images: all of {} is held out (holdout {})",
        config.source,
        config.holdout
    );
    let (train, held_out) = (images(&train, ui)?, images(&held_out, ui)?);
    clock.lap("reading the data");
    let Some(subject) = subject(&args, pipeline.as_ref(), prompts, config.size, ui, team)? else {
        return Ok(());
    };
    clock.lap(if pipeline.is_some() { "generating" } else { "reading the images" });

    let sets = Sets { generated: &subject.pictures, train: &train, held_out: &held_out };
    let data = format!(
        "{}, at {}×{}: {} for training, {} held out",
        config.source,
        config.size,
        config.size,
        train.len(),
        held_out.len()
    );
    let bits = || match pipeline.as_ref().filter(|_| args.bound.bound) {
        Some(pipeline) => bound::compute(&args, ui, pipeline, &device, config.size).map(Some),
        None => Ok(None),
    };
    compared(&args, &subject, data, &sets, &networks.all(), clock, Some(&bits), ui)
}

/// Computes the bits per dimension, if they are asked for.
type Bits<'a> = &'a dyn Fn() -> Result<Option<bound::Computed>>;

/// Compares all sets, and tells and writes the results.
#[allow(clippy::too_many_arguments)]
fn compared(
    args: &Args,
    subject: &Subject,
    data: String,
    sets: &Sets<'_>,
    networks: &[&dyn Extractor],
    mut clock: Clock,
    bits: Option<Bits<'_>>,
    ui: Ui,
) -> Result<()> {
    let beside = args.report.with_extension("json");
    let mut found = Evaluation {
        subject: subject.name.clone(),
        data,
        seed: args.seed,
        facts: subject.facts.clone(),
        quality: Vec::new(),
        held_out: Vec::new(),
        pixels: None,
        features: None,
        bound: None,
        ode: None,
        over_time: subject.over_time.clone(),
        words: subject.words[0].clone(),
        words_held_out: subject.words[1].clone(),
        cost: Vec::new(),
    };
    let bar = ui.bar(0, "");
    let not_kept =
        sets.compare(networks, args.cache.folder().as_deref(), &mut found, &mut clock, &watch(&bar))?;
    bar.finish_and_clear();
    tell_not_kept(&not_kept, ui);
    let bits = bits.map_or(Ok(None), |bits| bits())?;
    if let Some(computed) = &bits {
        (found.bound, found.ode) = (Some(computed.report.clone()), computed.ode.clone());
        clock.lap("bits per dimension");
    }
    found.cost = clock.laps();
    write(args, &found, sets, subject)?;
    files::write_json(&beside, &found)?;

    let mut text = show::text(&found);
    if let Some(bits) = &bits {
        text.push_str(&format!("\n\n{}", bits.text()));
    }
    text.push_str(&format!(
        "\n\npairs: {}\nreport: {} and {}",
        args.output.display(),
        args.report.display(),
        beside.display()
    ));
    let mut value = show::json(&found);
    value["counts"] = json!({ "generated": sets.generated.len(), "training": sets.train.len(),
        "held_out": sets.held_out.len() });
    value["pairs"] = json!(args.output);
    value["report"] = json!(args.report);
    ui.result(&value, text);
    Ok(())
}

/// The captions of up to `count` items, evenly spread.
fn captions<D: Decode>(data: &Dataset<D>, count: usize) -> Result<Vec<String>> {
    let words: Vec<&Words> = data.words().collect();
    ensure!(
        words.iter().any(|words| **words != Words::default()),
        "this model reads texts, and the data has no captions; give prompts with --prompt"
    );
    let n = count.min(words.len());
    let compose = |i: usize| CaptionConfig::default().compose(words[i * words.len() / n], 0, 0);
    Ok((0..n).map(compose).collect())
}

fn request(args: &Args, prompts: Vec<String>) -> Request {
    Request {
        prompts,
        count: args.count,
        seed: args.seed,
        steps: args.steps,
        guidance: args.guidance,
        ..Request::default()
    }
}

/// The data at the size of the images in `folder`.
fn of_folder(args: &Args, folder: &Path) -> Result<DataConfig> {
    let pictures = facts_of(folder)?;
    let ImageFacts { width, height, grey } = pictures;
    ensure!(
        width == height,
        "the images in {} have {width}×{height} pixels, but only square images are supported here",
        folder.display()
    );
    let config = source::of_model(&Extras::default(), args.data.as_deref(), width, args.holdout)?;
    // Emoji can be drawn at any size.
    if let (Source::Folder(data), false) = (&config.source, args.adapt) {
        let ImageFacts { width: columns, height: rows, grey: without_colour } =
            facts_of(data).context("the data has images of different sizes; use --adapt to resize it")?;
        ensure!(
            (columns, rows) == (width, height),
            "{} has images of {width}×{height} pixels, {} has {columns}×{rows}. Scores need one size, and resizing \
             changes them; resize one of them, or use --adapt to resize the data",
            folder.display(),
            data.display()
        );
        let kind = |grey| if grey { "grey" } else { "coloured" };
        ensure!(
            grey == without_colour,
            "the images in {} are {}, those in {} {}; convert one of them, or use --adapt to treat grey images as colour \
             images",
            folder.display(),
            kind(grey),
            data.display(),
            kind(without_colour)
        );
    }
    Ok(config)
}

/// The common properties of all images in a folder. Grey means that no image is in colour.
fn facts_of(folder: &Path) -> Result<ImageFacts> {
    let config =
        DataConfig { source: Source::Folder(folder.into()), size: 1, cache_mb: 0, ..DataConfig::default() };
    let listed = Dataset::open(&config)?;
    let mut first: Option<(String, ImageFacts)> = None;
    for name in listed.names() {
        let found = image_facts(&folder.join(name))?;
        match &mut first {
            None => first = Some((name.to_owned(), found)),
            Some((other, all)) if (all.width, all.height) != (found.width, found.height) => bail!(
                "{}: {name} has {}×{} pixels, expected {}×{} like {other}; all images must have one size",
                folder.display(),
                found.width,
                found.height,
                all.width,
                all.height
            ),
            Some((_, all)) => all.grey &= found.grey,
        }
    }
    first.map(|(_, facts)| facts).with_context(|| format!("{}: no images", folder.display()))
}

/// What is evaluated; `None` if another rank has the generated images.
fn subject(
    args: &Args,
    pipeline: Option<&Pipeline>,
    prompts: Vec<String>,
    size: usize,
    ui: Ui,
    team: &Team,
) -> Result<Option<Subject>> {
    if let (Some(folder), None) = (&args.images, pipeline) {
        let config = DataConfig { source: Source::Folder(folder.clone()), size, ..DataConfig::default() };
        let pictures = images(&source::open(&config, ui)?, ui)?;
        let facts = vec![("pictures".into(), format!("{} in the folder", pictures.len()))];
        return Ok(Some(Subject::of_pictures(folder.display().to_string(), pictures, None, facts)));
    }
    let pipeline = pipeline.context("expected a model or a folder of images")?;
    let request = request(args, prompts);
    let job = pipeline.prepare(&request)?;
    let (solver, steps) = (job.recipe().solver.name(), job.recipe().plan.solves());
    let (scale, spacing) = (job.scale_for(solver), job.sampling().spacing);
    let Some(made) = generate_on(job, ui, &*team.ranks())? else { return Ok(None) };
    ensure!(!made.is_empty(), "the model's samples are not images");
    let spacing = match spacing {
        None => String::new(),
        Some(spacing) => format!(", {spacing} spacing"),
    };
    let of = if pipeline.reads_texts() { "prompts" } else { "classes" };
    let facts = vec![
        ("pictures".into(), format!("{}, of all {of} in turn", made.len())),
        ("sampling".into(), format!("{solver}, {steps} steps{spacing}, guidance {scale}")),
    ];
    let name = args.model.as_ref().map_or("the built-in model".into(), |m| m.display().to_string());
    Ok(Some(Subject::of_pictures(name, made, Some(request), facts)))
}

/// Number of pairs on the page.
const SHOWN: usize = 64;

fn write(args: &Args, found: &Evaluation, sets: &Sets<'_>, subject: &Subject) -> Result<()> {
    let sheet = |of: &Option<Memorisation>, most: usize| {
        of.as_ref().map(|m| show::pairs(sets.generated, sets.train, m, most))
    };
    let png = |image: Option<Image>| image.map_or(Ok(Vec::new()), |i| i.to_png(&args.report));
    let pictures = Pictures {
        samples: png(Some(show::sheet(&sets.generated[..sets.generated.len().min(2 * SHOWN)])))?,
        pixels: png(sheet(&found.pixels, SHOWN))?,
        features: png(sheet(&found.features, SHOWN))?,
        animation: match &subject.animation {
            Some(video) => {
                let path = args.report.with_extension("webp");
                write_video(&path, video, subject.request.as_ref())?;
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?
            }
            None => Vec::new(),
        },
    };
    if let Some(all) = sheet(&found.pixels, usize::MAX) {
        write_png(&args.output, &all, subject.request.as_ref())?;
    }
    files::write_atomic(&args.report, html(found, &pictures).as_bytes())?;
    Ok(())
}
