//! Measures clips of moving emoji by the laws of the data: how often the thing is recognized, and how often its motion follows
//! its law, beside real clips. Half of the pairs of thing and motion are those that training holds out.
//!
//! ```sh
//! cargo run --release -p tweedie-data --example moving_emoji -- prompts 200 > prompts.txt
//! tweedie sample --model moving-emoji -n 200 --singles clips -o all.webp $(sed 's/.*/--prompt "&"/' prompts.txt)
//! cargo run --release -p tweedie-data --example moving_emoji -- check 200 clips
//! ```
//!
//! `check` reads the files of the folder in the order of their names, which is that of the prompts.

#![allow(clippy::print_stdout)]

use std::{error::Error, path::PathBuf};

use tweedie_data::{
    Image, MovingConfig, Rgb,
    clip::{Part, read},
    moving::{Checker, Motion, Scene, THINGS, is_held_out},
};

const WHITE: Rgb = Rgb([255; 3]);
const SIDE: usize = 64;

type Pair = (usize, Motion);

/// The shares of some clips.
#[derive(Default)]
struct Shares {
    clips: usize,
    recognized: usize,
    follows: usize,
    both: usize,
    by_motion: [[usize; 3]; 8],
}

impl Shares {
    fn add(&mut self, checker: &Checker, frames: &[Image], fps: u32, (thing, motion): Pair) {
        let verdict = checker.check(frames, fps, motion);
        let shown = verdict.as_ref().is_some_and(|v| v.shows(thing));
        let follows = verdict.as_ref().is_some_and(|v| v.follows);
        self.clips += 1;
        self.recognized += usize::from(shown);
        self.follows += usize::from(follows);
        self.both += usize::from(shown && follows);
        if let Some(row) = self.by_motion.get_mut(motion as usize) {
            row[0] += 1;
            row[1] += usize::from(shown);
            row[2] += usize::from(follows);
        }
    }

    fn row(&self, name: &str) -> String {
        let share = |n: usize| format!("{:.0} %", 100.0 * n as f64 / self.clips.max(1) as f64);
        let all = [self.recognized, self.follows, self.both].map(share);
        format!("{name:<28} {:>5} {:>11} {:>11} {:>7}", self.clips, all[0], all[1], all[2])
    }
}

/// `count` pairs in turn, of those that were held out or of the others; things and motions are mixed.
fn pairs(held: bool, count: usize) -> Vec<Pair> {
    let motions = || Motion::ALL.into_iter().filter(|motion| *motion != Motion::Passes);
    let all = motions().flat_map(|motion| (0..THINGS.len()).map(move |thing| (thing, motion)));
    let mut all: Vec<Pair> = all.filter(|(thing, motion)| is_held_out(*thing, *motion) == held).collect();
    all.sort_by_key(|(thing, motion)| (7 * thing + 11 * *motion as usize) % 13);
    all.into_iter().cycle().take(count).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "expected `prompts N` or `check N FOLDER`";
    let (what, count) = (args.first().ok_or(usage)?, args.get(1).ok_or(usage)?.parse::<usize>()?);
    let config = MovingConfig::default();
    let halves =
        [("seen pairs", false), ("held-out pairs", true)].map(|(name, held)| (name, pairs(held, count / 2)));
    if what == "prompts" {
        for (thing, motion) in halves.iter().flat_map(|(_, pairs)| pairs) {
            println!("{}", Scene::of(&config, *thing, *motion, 0).caption());
        }
        return Ok(());
    }
    let folder = args.get(2).ok_or(usage)?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.sort();
    let mut files = files.into_iter();
    let checker = Checker::new(WHITE);
    println!("{:<28} {:>5} {:>11} {:>11} {:>7}", "", "clips", "recognized", "by its law", "both");
    let mut made = Vec::new();
    for (name, pairs) in &halves {
        let (mut real, mut shares) = (Shares::default(), Shares::default());
        for (i, &pair) in pairs.iter().enumerate() {
            // Beyond the clips of training.
            let video = Scene::of(&config, pair.0, pair.1, 1_000_000 + i as u64).video(SIDE, WHITE);
            real.add(&checker, &video.frames, config.fps, pair);
            let file = files.next().ok_or("the folder has fewer clips than prompts")?;
            shares.add(&checker, &read(&file, Part::All)?.video.frames, config.fps, pair);
        }
        println!("{}\n{}", real.row(&format!("{name}, real")), shares.row(&format!("{name}, these")));
        made.push(shares);
    }
    println!("\nby motion: clips, recognized, by its law");
    for motion in Motion::ALL.into_iter().filter(|motion| *motion != Motion::Passes) {
        let rows = made.iter().map(|shares| shares.by_motion[motion as usize]);
        let text: Vec<_> = rows.map(|[n, a, b]| format!("{n:>3} {a:>3} {b:>3}")).collect();
        println!("{:<14} {}", motion.name(), text.join("   held out "));
    }
    Ok(())
}
