//! `tweedie edit`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use tweedie::pipe::{
    RecordedFile,
    known::{Known, MaskSpec},
};

use super::answers::{Answers, check_readable, methods};
use crate::{control::ControlArgs, ui::Ui};

#[derive(ClapArgs, Debug)]
#[command(after_help = methods())]
pub struct Args {
    /// The image; for a model of sounds the sound, for a model of clips the clip. All values outside the mask stay as they are.
    #[arg(required_unless_present = "like")]
    image: Option<PathBuf>,
    /// Mask of the same size: white is changed, black is kept, grey is changed as by a lower strength. In a mask with
    /// transparency, transparent pixels are changed. Repeat to unite several.
    #[arg(long, value_name = "FILE", help_heading = "Mask")]
    mask: Vec<PathBuf>,
    /// Change a rectangle: left, top, width and height in pixels; may be repeated.
    #[arg(long, value_name = "X,Y,W,H", value_parser = four, help_heading = "Mask")]
    rect: Vec<Four>,
    /// Change the ellipse that fills a rectangle; may be repeated.
    #[arg(long, value_name = "X,Y,W,H", value_parser = four, help_heading = "Mask")]
    ellipse: Vec<Four>,
    /// Change the transparent pixels of the image, which are opaque afterwards.
    #[arg(long, help_heading = "Mask")]
    transparent: bool,
    /// Extend the image beyond its left, top, right and bottom border by this many pixels.
    #[arg(long, value_name = "L,T,R,B", value_parser = four, help_heading = "Mask")]
    extend: Option<Four>,
    /// Of a sound or a clip: change from one time to another, in seconds, for example 0.5..0.8; may be repeated.
    #[arg(long, value_name = "FROM..TO", value_parser = gap, help_heading = "Mask")]
    gap: Vec<Gap>,
    /// Of a clip: add this many frames that lead from the last one back to the first, so that it can be repeated without a jump.
    #[arg(long, value_name = "FRAMES", default_value_t = 0, help_heading = "Mask")]
    close: usize,
    /// Width in pixels over which the change sets in, inside the mask.
    #[arg(long, value_name = "PIXELS", default_value_t = 0, help_heading = "Mask")]
    feather: usize,
    /// How much the marked part is changed, > 0 and ≤ 1. Below 1 the result follows the image or sound, and without a mask all
    /// of it is changed.
    #[arg(long, value_name = "S")]
    strength: Option<f64>,
    /// Width and height of the part around the mask that the network works on [default: the model's size, or as large as the
    /// mask needs].
    #[arg(long, value_name = "WxH", value_parser = size)]
    window: Option<[usize; 2]>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    answers: Answers,
}

/// Four numbers.
#[derive(Clone, Copy, Debug)]
pub struct Four(pub [usize; 4]);

/// Parses four numbers.
pub fn four(text: &str) -> Result<Four, String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    let four = numbers.ok().and_then(|all| all.try_into().ok());
    four.map(Four)
        .ok_or_else(|| "expected four whole numbers separated by commas, for example 8,8,16,16".into())
}

/// A beginning and an end in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Gap(pub [f64; 2]);

/// Parses a part of a sound.
pub fn gap(text: &str) -> Result<Gap, String> {
    let both = text.split_once("..");
    let both = both.and_then(|(from, to)| Some([from.trim().parse().ok()?, to.trim().parse().ok()?]));
    both.filter(|[from, to]| from < to)
        .map(Gap)
        .ok_or_else(|| "expected a beginning and a later end in seconds, for example 0.5..0.8".into())
}

fn size(text: &str) -> Result<[usize; 2], String> {
    let both = text.split_once(['x', 'X', '×']);
    let both = both.and_then(|(w, h)| Some([h.trim().parse().ok()?, w.trim().parse().ok()?]));
    both.ok_or_else(|| "expected width and height like 64x48".into())
}

pub fn run(args: Args, ui: Ui, device: &str) -> Result<ExitCode> {
    let known = args.image.as_ref().map(|_| args.known()).transpose()?;
    let size = args.window.map(|size| size.to_vec());
    let mut request = args.answers.request(known, args.strength, size)?;
    args.control.put_into(&mut request)?;
    args.answers.make(request, ui, device)
}

impl Args {
    fn known(&self) -> Result<Known> {
        let path = self.image.as_deref().context("expected an image")?;
        check_readable(path)?;
        let shapes = |all: &[Four]| all.iter().map(|shape| shape.0).collect::<Vec<_>>();
        let mask = MaskSpec {
            files: self.mask.iter().map(|path| RecordedFile::of(path)).collect::<Result<_, _>>()?,
            rectangles: shapes(&self.rect),
            ellipses: shapes(&self.ellipse),
            transparent: self.transparent,
            extend: self.extend.map_or([0; 4], |sides| sides.0),
            gaps: self.gap.iter().map(|gap| gap.0).collect(),
            between: 0,
            close: self.close,
            feather: self.feather,
        };
        let marks = MaskSpec { feather: 0, ..mask.clone() } != MaskSpec::default();
        ensure!(
            marks || self.strength.is_some(),
            "expected a mask (--mask, --rect, --ellipse, --transparent or --extend; --gap for a sound; --gap or --close for a \
             clip), or --strength to change everything"
        );
        ensure!(marks || self.feather == 0, "--feather has no effect without a mask; remove it");
        Ok(Known {
            image: RecordedFile::of(path)?,
            mask: marks.then_some(mask),
            degradations: Vec::new(),
            noise: 0.0,
            method: None,
        })
    }
}
