//! `-o -`: a spoken text goes to standard output while it is made.

use std::{
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use tweedie::{
    media::{pcm16, wav_start},
    pipe::{Event, Pipeline, PipelineError, media::Audio},
};

use super::{Args, Work, tell_voice};
use crate::{interrupt, team::Team, ui::Ui};

/// Checks before the work what `-o -` cannot be combined with.
pub(super) fn check(args: &Args, team: &Team, ui: Ui) -> Result<()> {
    ensure!(!team.is_shared(), "-o - is not supported on several ranks; start one process");
    ensure!(!ui.is_json(), "-o -: --json writes to standard output, too; leave one of them out");
    ensure!(
        !io::stdout().is_terminal(),
        "-o -: standard output is a terminal; send the sound to a player, for example `| aplay`"
    );
    let others = [
        ("--filmstrip", args.filmstrip.is_some()),
        ("--animation", args.animation.is_some()),
        ("--singles", args.singles.is_some()),
        ("--save-tensors", args.save_tensors.is_some()),
    ];
    match others.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!("{flag} cannot be combined with -o -"),
        None => Ok(()),
    }
}

/// Writes the parts of the sound as they come.
pub(super) fn run(work: Work, pipeline: &Pipeline, ui: Ui) -> Result<ExitCode> {
    let Work::One(job) = work else { bail!("-o -: --refiner is only supported for images") };
    job.utterance().map(drop).context("-o -")?;
    tell_voice(pipeline, job.request(), ui);
    let cancelled = interrupt::flag(ui);
    let (start, bar) = (Instant::now(), ui.bar(0, "steps"));
    let (mut first, mut seconds, mut clipped) = (None, 0.0, 0);
    let mut failed = None;
    let made = job.speak(
        &cancelled,
        &mut |event| {
            let Event::Step { index, of, .. } = event else { return ControlFlow::Continue(()) };
            bar.set_length(of as u64);
            bar.set_position(index as u64);
            ControlFlow::Continue(())
        },
        &mut |part| match write(&part, first.is_none()) {
            Ok(loud) => {
                first.get_or_insert_with(|| start.elapsed().as_secs_f64());
                seconds += part.seconds();
                clipped += loud;
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    );
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error).context("standard output, before the sound was whole");
    }
    match made {
        Err(PipelineError::Cancelled) => {
            ui.warn(format!("interrupted: {seconds:.1} s of the sound were written"));
            return Ok(ExitCode::from(interrupt::INTERRUPTED));
        }
        other => other?,
    };
    if clipped > 0 {
        ui.warn(format!("{clipped} values were outside -1..1 and are clipped"));
    }
    let (first, all) = (first.unwrap_or(0.0), start.elapsed().as_secs_f64());
    ui.note(format!("{seconds:.1} s of sound in {all:.2} s; the first part after {first:.2} s"));
    Ok(ExitCode::SUCCESS)
}

/// Writes a part, the first one after the beginning of a WAV file. Returns how many values were clipped.
fn write(part: &Audio, begins: bool) -> io::Result<usize> {
    let mut out = io::stdout().lock();
    if begins {
        let start = wav_start(part.channels.len(), part.rate);
        out.write_all(&start.ok_or_else(|| io::Error::other("the sound has too many channels"))?)?;
    }
    let (values, clipped) = pcm16(part);
    out.write_all(&values)?;
    out.flush()?;
    Ok(clipped)
}
