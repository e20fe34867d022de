//! `tweedie sample --continue`: a clip, window after window.

use std::{ops::ControlFlow, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tweedie::{
    data::{Image, clip, fitted},
    pipe::{
        Event, Inputs, Media, Medium, Pipeline, PipelineError, Request,
        media::{Video, enlarge, write_video},
        row_seed,
    },
};

use super::{Args, check_place};
use crate::{
    interrupt, memory,
    ui::{Ui, counted},
};

pub(super) fn run(args: &Args, request: Request, pipeline: &Pipeline, ui: Ui) -> Result<ExitCode> {
    let Some(file) = &request.continued else { bail!("--keep needs --continue") };
    ensure!(pipeline.network().spec().axes == 3, "--continue needs a model that makes clips");
    ensure!(request.count.get() == 1, "--continue makes one clip; remove --count");
    ensure!(args.singles.is_none() && args.save_tensors.is_none(), "--continue only writes --output");
    file.check()?;
    // Everything but the clip itself, for one window.
    let window = Request { continued: None, keep: None, frames: None, ..request.clone() };
    let probe = pipeline.prepare(&window)?;
    let &[length, height, width] = probe.size() else { bail!("--continue needs a model that makes clips") };
    let keep = request.keep.map_or(length / 2, std::num::NonZeroUsize::get);
    ensure!((1..length).contains(&keep), "--keep {keep}: expected 1 to {} for this model", length - 1);
    let path = args.place(Medium::Clip, 1)?;
    check_place(&path)?;

    let clip = clip::read(&file.path, clip::Part::All)?;
    clip.remarks.iter().for_each(|remark| ui.warn(format!("{}: {remark}", file.path.display())));
    let Video { frames, delay } = clip.video;
    let given = frames.len();
    let seen = frames.first().map_or([0, 0], |frame| [frame.height, frame.width]);
    if seen != [height, width] {
        let [h, w] = seen;
        ui.warn(format!(
            "{}: its frames of {w}×{h} pixels are cropped and resized to {width}×{height}",
            file.path.display()
        ));
    }
    let mut frames: Vec<Image> = frames.iter().map(|frame| fitted(frame, [height, width])).collect();
    let total = request.frames.map_or(given + length - keep, std::num::NonZeroUsize::get);
    ensure!(total > given, "--frames {total}: the clip already has {given} frames");
    memory::check_sheets(1, [height, width], args.zoom, total, "--frames or --zoom")?;

    let cancelled = interrupt::flag(ui);
    let (start, bar) = (Instant::now(), ui.bar(total as u64, "frames"));
    let (mut evaluations, mut round) = (0, 0);
    while frames.len() < total {
        bar.set_position(frames.len() as u64);
        let kept = frames[frames.len().saturating_sub(keep)..].to_vec();
        let from = kept.len();
        let seed = if round == 0 { request.seed } else { row_seed(request.seed, round) };
        let job = pipeline.prepare_with(
            &Request { seed, ..window.clone() },
            Inputs { frames: kept, ..Inputs::default() },
        )?;
        let run = job.run(&cancelled, &mut |event| {
            if let Event::Step { index, of, .. } = event {
                ui.event(&json!({ "event": "step", "window": round, "index": index, "of": of }));
            }
            ControlFlow::Continue(())
        });
        let output = match run {
            Err(PipelineError::Cancelled) => {
                bar.finish_and_clear();
                return Ok(interrupt::nothing_written(ui));
            }
            other => other?,
        };
        evaluations += output.evals;
        let Media::Clips(clips) = output.media else {
            bail!("the model does not make clips in colour or grey")
        };
        let made = clips.into_iter().next().context("the model made nothing")?;
        frames.extend(made.frames.into_iter().skip(from));
        round += 1;
    }
    bar.finish_and_clear();
    frames.truncate(total);
    let delay = request.fps.map_or(delay, |fps| (1000 / fps.get().max(1)).clamp(1, 65535) as u16);
    let shown = frames.iter().map(|frame| enlarge(frame, args.zoom)).collect();
    write_video(&path, &Video { frames: shown, delay }, Some(&request))?;
    let seconds = start.elapsed().as_secs_f64();
    ui.result(
        &json!({ "event": "finished", "request": request, "frames": total, "given": given, "windows": round,
            "evaluations": evaluations, "seconds": seconds, "files": [path.display().to_string()] }),
        format!(
            "{}, {given} of them given, in {} and {seconds:.1} s\n{}",
            counted(total, "frame"),
            counted(round as usize, "window"),
            path.display()
        ),
    );
    Ok(ExitCode::SUCCESS)
}
