//! `tweedie restore`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use tweedie::pipe::{
    RecordedFile,
    known::{Degradation, Known, MaskSpec},
};

use super::{
    answers::{Answers, check_readable, is_sound, methods},
    edit::{Four, Gap, four, gap},
};
use crate::ui::Ui;

#[derive(ClapArgs, Debug)]
#[command(after_help = methods())]
pub struct Args {
    /// The image; for a model of sounds the sound, for a model of clips the clip.
    #[arg(required_unless_present = "like")]
    image: Option<PathBuf>,
    /// Enlarge by this factor. If nothing else is known of the image and no method is given, a model that was trained to enlarge
    /// does it: --model, or emoji-x4 for 4 times.
    #[arg(long, value_name = "TIMES", help_heading = "What has happened to the image")]
    enlarge: Option<usize>,
    /// How the image was made small [default: bicubic].
    #[arg(long, value_name = "NAME", requires = "enlarge", help_heading = "What has happened to the image")]
    filter: Option<Filter>,
    /// It was blurred by a Gaussian with this standard deviation in pixels, or by the kernel in a grey image with odd sides.
    #[arg(long, value_name = "SIGMA|FILE", help_heading = "What has happened to the image")]
    deblur: Option<String>,
    /// It has lost its colours.
    #[arg(long, help_heading = "What has happened to the image")]
    colour: bool,
    /// It was compressed by JPEG with this quality, 1 to 100.
    #[arg(long, value_name = "QUALITY", help_heading = "What has happened to the image")]
    jpeg: Option<u8>,
    /// It has noise with this standard deviation: of an image in 1/255, of a sound as a part of the largest possible value, for
    /// example 0.01 [default: 0, or 1 with --deblur].
    #[arg(long, value_name = "SIGMA", help_heading = "What has happened to the image")]
    noise: Option<f64>,
    /// Mask of scratches, of the same size: white and grey pixels are not known; in a mask with transparency, transparent
    /// pixels. May be repeated.
    #[arg(long, value_name = "FILE", help_heading = "What has happened to the image")]
    mask: Vec<PathBuf>,
    /// A rectangle that is not known: left, top, width and height in pixels; may be repeated.
    #[arg(long, value_name = "X,Y,W,H", value_parser = four, help_heading = "What has happened to the image")]
    rect: Vec<Four>,
    /// From one time to another, in seconds, for example 0.5..0.8, it is not known; may be repeated.
    #[arg(long, value_name = "FROM..TO", value_parser = gap, help_heading = SOUND)]
    gap: Vec<Gap>,
    /// This many frames are missing between each two of a clip: its rate rises, its duration stays.
    #[arg(long, value_name = "FRAMES", default_value_t = 0, help_heading = SOUND)]
    between: usize,
    /// Only frequencies below this are known, in Hz. The sound may have a lower rate than the model.
    #[arg(long, value_name = "HZ", help_heading = SOUND)]
    bandwidth: Option<f64>,
    /// It was clipped at this magnitude, > 0 and ≤ 1 [default without LEVEL: its largest].
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, help_heading = SOUND)]
    declip: Option<Option<f64>>,
    #[command(flatten)]
    answers: Answers,
}

const SOUND: &str = "What has happened to the sound or the clip";

/// How an image was made small.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Filter {
    /// Pillow's bicubic filter.
    Bicubic,
    /// Means of boxes.
    Box,
}

pub fn run(args: Args, ui: Ui, device: &str) -> Result<ExitCode> {
    if let (Some(image), Some(factor), true) = (&args.image, args.enlarge, args.only_enlarges()) {
        check_readable(image)?;
        if let Some(enlarger) = args.answers.enlarger(factor, device, ui)? {
            return args.answers.enlarge(image, &enlarger, ui);
        }
    }
    let known = args.image.as_ref().map(|_| args.known()).transpose()?;
    let request = args.answers.request(known, None, None)?;
    args.answers.make(request, ui, device)
}

impl Args {
    /// Whether nothing else has happened to the image.
    fn only_enlarges(&self) -> bool {
        let others = self.filter.is_some()
            || self.deblur.is_some()
            || self.jpeg.is_some()
            || self.noise.is_some()
            || self.colour
            || self.bandwidth.is_some()
            || self.declip.is_some()
            || !self.gap.is_empty()
            || self.between > 0;
        !others && self.mask.is_empty() && self.rect.is_empty()
    }

    fn known(&self) -> Result<Known> {
        let path = self.image.as_deref().context("expected an image")?;
        check_readable(path)?;
        let mask = MaskSpec {
            files: self.mask.iter().map(|path| RecordedFile::of(path)).collect::<Result<_, _>>()?,
            rectangles: self.rect.iter().map(|shape| shape.0).collect(),
            gaps: self.gap.iter().map(|gap| gap.0).collect(),
            between: self.between,
            ..MaskSpec::default()
        };
        let mask = (mask != MaskSpec::default()).then_some(mask);
        let degradations = self.degradations()?;
        let noisy = is_sound(path) && self.noise.is_some();
        ensure!(
            mask.is_some() || !degradations.is_empty() || noisy,
            "expected what has happened to the image: --enlarge, --deblur, --colour, --jpeg, --mask or --rect; or to the sound: \
             --gap, --bandwidth, --declip or --noise; or to the clip: --gap, --between, --mask or --rect"
        );
        let blurred = self.deblur.is_some();
        Ok(Known {
            image: RecordedFile::of(path)?,
            mask,
            degradations,
            // A blurred image without any noise would be that of any other: its bytes are rounded.
            noise: self.noise.unwrap_or(if blurred { 1.0 } else { 0.0 }),
            method: None,
        })
    }

    /// In the order in which it happens.
    fn degradations(&self) -> Result<Vec<Degradation>> {
        let mut all = Vec::new();
        if let Some(blur) = &self.deblur {
            all.push(match blur.parse() {
                Ok(sigma) => Degradation::Blur { sigma },
                Err(_) => Degradation::Kernel { file: RecordedFile::of(blur.as_ref())? },
            });
        }
        all.extend(self.enlarge.map(|factor| match self.filter {
            None | Some(Filter::Bicubic) => Degradation::Bicubic { factor },
            Some(Filter::Box) => Degradation::Box { factor },
        }));
        all.extend(self.colour.then_some(Degradation::Grey));
        all.extend(self.jpeg.map(|quality| Degradation::Jpeg { quality }));
        all.extend(self.bandwidth.map(|hertz| Degradation::Lowpass { hertz }));
        all.extend(self.declip.map(|level| Degradation::Clip { level }));
        Ok(all)
    }
}
