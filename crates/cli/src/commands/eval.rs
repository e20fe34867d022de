//! `tweedie eval`.

mod bound;

use std::{num::NonZeroUsize, ops::ControlFlow, path::PathBuf};

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    data::{Dataset, Image, Rgb, grid},
    eval::neighbours::{nearest, quantile},
    pipe::{
        Event, Request,
        media::{enlarge, write_png},
    },
};

use super::sample::check_place;
use crate::{model, source, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// A model folder [default: the built-in emoji model].
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// `emoji`, a folder of images, or a Parquet file or folder [default: what it was trained on].
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// The part of the data that was held out of training [default: as in training].
    #[arg(long, value_name = "FRACTION")]
    holdout: Option<f64>,
    /// How many pictures are generated.
    #[arg(short = 'n', long, default_value = "64", value_name = "N")]
    count: NonZeroUsize,
    /// The same seed makes the same pictures.
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Generated pictures, closest first, each above its nearest training picture.
    #[arg(short, long, value_name = "FILE.png", default_value = "neighbours.png")]
    output: PathBuf,
    #[command(flatten)]
    bound: bound::Args,
}

/// Pairs in a row of the sheet.
const COLUMNS: usize = 16;

pub fn run(args: Args, ui: Ui, device: &str) -> Result<()> {
    if !args.bound.bound {
        check_place(&args.output)?;
    }
    let device = tweedie::ops::device(device)?;
    let pipeline = model::pipeline(args.model.as_deref(), &device)?;
    let request = Request { count: args.count, seed: args.seed, ..Request::default() };
    let (resolved, _) = pipeline.resolve(&request)?;
    let [_, height, width] = resolved.shape;
    ensure!(height == width, "the model's pictures are {width}×{height}; data sets here are square");
    if args.bound.bound {
        return bound::run(&args, ui, &pipeline, &device, height);
    }
    let config = source::of_model(pipeline.extras(), args.data.as_deref(), height, args.holdout)?;
    let (train, held_out) = Dataset::open(&config)?.split();
    let bar = ui.bar(0, "steps");
    let made = pipeline.run(&request, &mut |event| {
        let Event::Step { index, of, .. } = event else { return ControlFlow::Continue(()) };
        bar.set_length(of as u64);
        bar.set_position(index as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();

    let train = images(&train)?;
    let held_out = images(&held_out)?;
    let found = nearest(&made.images, &train)?;
    let unseen = if held_out.is_empty() { Vec::new() } else { nearest(&held_out, &train)? };
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|a, b| found[*a].distance.total_cmp(&found[*b].distance));
    let mut sheet = Vec::new();
    for row in order.chunks(COLUMNS) {
        let blank = || Image::filled(width, height, Rgb([255; 3]));
        let pad = |n: usize| (n..COLUMNS.min(order.len())).map(|_| blank());
        sheet.extend(row.iter().map(|i| made.images[*i].clone()).chain(pad(row.len())));
        sheet.extend(row.iter().map(|i| train[found[*i].index].clone()).chain(pad(row.len())));
    }
    let sheet = grid(&sheet, COLUMNS.min(order.len()), 2, Rgb([255; 3]));
    write_png(&args.output, &enlarge(&sheet, 2), Some(&request))?;

    let five = |n: &[_]| [0.0, 0.05, 0.5, 0.95, 1.0].map(|q| quantile(n, q));
    let show =
        |values: [Option<f64>; 5]| values.map(|v| v.map_or("-".into(), |v| format!("{v:>8.4}"))).join(" ");
    let below = quantile(&unseen, 0.05).map(|limit| found.iter().filter(|n| n.distance < limit).count());
    let mut text = format!(
        "distance to the nearest of {} training pictures (RMS of pixels in 0..1)\n{:<24} {:>8} {:>8} {:>8} {:>8} {:>8}\n\
         {:<24} {}\n{:<24} {}\n",
        train.len(),
        "",
        "least",
        "5 %",
        "median",
        "95 %",
        "most",
        format!("{} generated, seed {}", found.len(), args.seed),
        show(five(&found)),
        format!("{} held out", unseen.len()),
        show(five(&unseen)),
    );
    if let Some(below) = below {
        text.push_str(&format!(
            "{below} of {} generated pictures are closer than the closest 5 % of held-out ones\n",
            found.len()
        ));
    }
    text.push_str(&format!("pairs: {}", args.output.display()));
    ui.result(
        &json!({ "seed": args.seed, "generated": five(&found), "held_out": five(&unseen),
            "quantiles": [0.0, 0.05, 0.5, 0.95, 1.0], "closer_than_held_out": below,
            "counts": { "generated": found.len(), "training": train.len(), "held_out": unseen.len() },
            "pairs": args.output }),
        text,
    );
    Ok(())
}

fn images(set: &Dataset) -> Result<Vec<Image>> {
    (0..set.len()).map(|i| Ok((*set.get(i)?.image).clone())).collect()
}
