//! The flags of ControlNets and T2I-Adapters, which `tweedie sample` and `tweedie edit` share.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use tweedie::pipe::{Control, RecordedFile, Request};

use crate::ui::counted;

#[derive(ClapArgs, Debug)]
pub struct ControlArgs {
    /// Folder of a ControlNet or T2I-Adapter beside the model; repeat to use several. A folder of a pipeline with ControlNets or
    /// adapters has its own.
    #[arg(long, visible_alias = "control", value_name = "DIR", help_heading = "ControlNet")]
    controlnet: Vec<PathBuf>,
    /// Image that it follows, such as edges, depth or a pose; one for each ControlNet or adapter, in their order. Without
    /// --size the result has the aspect ratio of the first.
    #[arg(long, value_name = "FILE", help_heading = "ControlNet")]
    control_image: Vec<PathBuf>,
    /// Follow the edges of the image instead, which are found by Canny's method with these thresholds, for example `100,200` as in
    /// OpenCV; one for all or one for each. `none` leaves an image as it is.
    #[arg(long, value_name = "LOW,HIGH", value_parser = thresholds, help_heading = "ControlNet", requires = "control_image")]
    canny: Vec<Thresholds>,
    /// How strongly it acts, one value for all or one for each [default: 1].
    #[arg(
        long,
        value_name = "X",
        help_heading = "ControlNet",
        requires = "control_image",
        allow_negative_numbers = true
    )]
    control_scale: Vec<f64>,
    /// The part of the steps in which it acts, one for all or one for each, for example `0,0.6` [default: 0,1].
    #[arg(long, value_name = "FROM,TO", value_parser = range, help_heading = "ControlNet", requires = "control_image")]
    control_range: Vec<Range>,
    /// Let ControlNets guess what to draw: they only act on the prediction for the prompt, which may be empty, and less on
    /// details. A guidance scale between 3 and 5 is recommended.
    #[arg(long, help_heading = "ControlNet", requires = "control_image")]
    guess: bool,
}

#[derive(Clone, Copy, Debug)]
struct Thresholds(Option<[f64; 2]>);

fn thresholds(text: &str) -> Result<Thresholds, String> {
    if text == "none" {
        return Ok(Thresholds(None));
    }
    two(text)
        .map(|both| Thresholds(Some(both)))
        .ok_or_else(|| "expected two numbers separated by a comma, for example 100,200, or `none`".into())
}

#[derive(Clone, Copy, Debug)]
struct Range([f64; 2]);

fn range(text: &str) -> Result<Range, String> {
    two(text)
        .map(Range)
        .ok_or_else(|| "expected two numbers from 0 to 1 separated by a comma, for example 0,0.6".into())
}

fn two(text: &str) -> Option<[f64; 2]> {
    let (from, to) = text.split_once(',')?;
    Some([from.trim().parse().ok()?, to.trim().parse().ok()?])
}

/// The value of ControlNet `i`: its own, or that of all.
fn of<T: Copy>(values: &[T], i: usize) -> Option<T> {
    if values.len() == 1 { values.first().copied() } else { values.get(i).copied() }
}

impl ControlArgs {
    /// Puts them into a request. The flags replace those of a stored request.
    pub fn put_into(&self, request: &mut Request) -> Result<()> {
        let images = self.control_image.len();
        for (flag, found) in [
            ("--canny", self.canny.len()),
            ("--control-scale", self.control_scale.len()),
            ("--control-range", self.control_range.len()),
        ] {
            ensure!(
                found <= 1 || found == images,
                "{flag}: expected one value or {images}, one for each --control-image; found {found}"
            );
        }
        if images == 0 && self.controlnet.is_empty() {
            return Ok(());
        }
        ensure!(
            self.controlnet.is_empty() || self.controlnet.len() == images,
            "{} for {}; expected one --control-image for each --controlnet",
            counted(images, "control image"),
            match self.controlnet.len() {
                1 => "1 ControlNet or adapter".to_owned(),
                n => format!("{n} ControlNets or adapters"),
            }
        );
        let one = |(i, path): (usize, &PathBuf)| -> Result<Control> {
            let mut control = Control::new(RecordedFile::of(path)?);
            control.canny = of(&self.canny, i).and_then(|thresholds| thresholds.0);
            control.scale = of(&self.control_scale, i).unwrap_or(control.scale);
            control.range = of(&self.control_range, i).map_or(control.range, |range| range.0);
            control.net = self.controlnet.get(i).map(|dir| RecordedFile::of(dir)).transpose()?;
            Ok(control)
        };
        request.controls = self.control_image.iter().enumerate().map(one).collect::<Result<_>>()?;
        request.guess = self.guess;
        Ok(())
    }
}

/// The folders of the ControlNets of a request that are beside the model.
pub fn folders(request: &Request) -> Vec<RecordedFile> {
    request.controls.iter().filter_map(|control| control.net.clone()).collect()
}
