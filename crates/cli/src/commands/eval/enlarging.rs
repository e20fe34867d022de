//! `tweedie eval` of a model that enlarges images.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tweedie::{
    eval::{
        enlarging::{Scores, enlarge},
        extract::Encoder,
        quality::Outcome,
    },
    media::{Image, Rgb, grid},
    ops::Device,
    pipe::{
        Pipeline,
        media::{enlarge as zoomed, write_png},
    },
};

use super::{
    Args,
    scores::{images, watch},
};
use crate::{commands::sample::check_place, source, ui::Ui};

/// Steps if neither the flags nor the model say them.
const STEPS: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");
/// How many times as many steps are tried too, to see what they give.
const MORE: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");
/// Rows of the sheet.
const ROWS: usize = 6;

/// Reduces held-out images, or those of --data if none are held out, and compares what the model makes of them with the
/// originals.
pub fn run(args: &Args, ui: Ui, pipeline: &Pipeline, device: &Device) -> Result<()> {
    check_place(&args.output)?;
    let recorded = &pipeline.extras().training["config"]["data"]["size"];
    let size = recorded.as_u64().and_then(|size| usize::try_from(size).ok());
    let size = size.context(
        "tweedie.json: training.config.data.size is missing, so the size of the images is unknown",
    )?;
    let config = source::of_model(pipeline.extras(), args.data.as_deref(), size, args.holdout)?;
    let (train, held_out) = source::open(&config, ui)?.split();
    let set = if held_out.is_empty() { &train } else { &held_out };
    ensure!(!set.is_empty(), "{}: there are no images", config.source);
    let mut originals = images(set, ui)?;
    originals.truncate(args.count.get());
    let own = args.steps.or_else(|| NonZeroUsize::new(pipeline.extras().sampling.steps?));
    let own = own.unwrap_or(STEPS);
    let steps = [own, own.saturating_mul(MORE)];
    let bar = ui.bar(0, "");
    let encoder = Encoder::embedded(device)?;
    let found = enlarge(pipeline, &originals, &steps, args.seed, &encoder, &watch(&bar))?;
    bar.finish_and_clear();

    let factor = size / found.small[0].width;
    let row = |i: usize| -> Vec<Image> {
        let of_methods = found.images.iter().map(|images| images[i].clone());
        std::iter::once(zoomed(&found.small[i], factor))
            .chain(of_methods)
            .chain([originals[i].clone()])
            .collect()
    };
    let rows = ROWS.min(originals.len());
    let sheet: Vec<Image> = (0..rows).flat_map(|n| row(n * originals.len() / rows)).collect();
    write_png(&args.output, &grid(&sheet, found.images.len() + 2, 2, Rgb([255; 3])), None)?;

    let held = if held_out.is_empty() { "" } else { "held-out " };
    let mut text = format!(
        "{} {held}images of {}, reduced to {}x{} pixels by boxes\n",
        originals.len(),
        config.source,
        found.small[0].width,
        found.small[0].height
    );
    text.push_str(&format!(
        "{:<28}{:>12}{:>14}{:>16}{:>14}{:>12}\n",
        "", "evaluations", "PSNR, dB", "SSIM", "FID", "s/image"
    ));
    found.scores.iter().for_each(|scores| text.push_str(&line(scores)));
    let methods: String = found.scores.iter().map(|scores| format!("{} | ", scores.method)).collect();
    text.push_str(&format!("small | {methods}original: {}", args.output.display()));
    ui.result(
        &json!({ "images": originals.len(), "size": size, "scores": found.scores, "sheet": args.output }),
        text,
    );
    Ok(())
}

fn line(scores: &Scores) -> String {
    let with = |mean: f64, error: Option<f64>, digits: usize| match error {
        Some(error) => format!("{mean:.digits$} ± {:.digits$}", 1.96 * error),
        None => format!("{mean:.digits$}"),
    };
    let ssim = scores.ssim.map_or("-".into(), |s| with(s.mean, s.standard_error, 3));
    let fid = match &scores.fid {
        Outcome::Scored { value, standard_error, .. } => with(*value, *standard_error, 2),
        Outcome::Refused { .. } => "-".into(),
    };
    format!(
        "{:<28}{:>12}{:>14}{ssim:>16}{fid:>14}{:>12.3}\n",
        scores.method,
        scores.evaluations,
        with(scores.psnr.mean, scores.psnr.standard_error, 2),
        scores.seconds
    )
}
