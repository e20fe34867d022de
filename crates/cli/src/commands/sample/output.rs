//! The files of `tweedie sample`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tweedie::{
    data::{Image, Rgb, grid},
    hub::{Component, ComponentDir, files, weights},
    media::Leveled,
    models::Codec,
    pipe::{
        Event, Media, Medium, Output, Pipeline, PipelineError, Preview, Request,
        film::{Film, Show},
        media::{
            Animation, AnimationFormat, Audio, Video, enlarge, write_animation, write_png, write_sound,
            write_video,
        },
    },
};

use super::{Args, DEFAULT_IMAGE, FRAMES, MOMENTS, check_place, noun};
use crate::ui::Ui;

const PAPER: Rgb = Rgb([255, 255, 255]);

/// Filmstrip and animation.
pub(super) struct Films {
    small: Option<Box<dyn Codec>>,
    strip: Film,
    frames: Film,
    wants: [bool; 2],
}

impl Films {
    pub fn new(args: &Args, animated: bool, pipeline: &Pipeline) -> Result<Self> {
        let wants = [args.filmstrip.is_some(), animated];
        let small = args.preview_vae.as_ref().map(|path| {
            ensure!(wants != [false; 2], "--preview-vae needs --filmstrip or --animation");
            let Some(own) = &pipeline.model().codec else {
                bail!("--preview-vae is only supported for latent models");
            };
            let Component::Codec(vae) = ComponentDir::open(path)?.load(pipeline.device())? else {
                bail!("--preview-vae {}: expected an AutoencoderTiny or AutoencoderKL", path.display());
            };
            let (found, expected) = (vae.spec().latents, own.spec().latents);
            ensure!(
                found == expected,
                "--preview-vae: the autoencoder has {found} latent channels, but the model has {expected}"
            );
            Ok(vae)
        });
        let show = if args.noisy { Show::Noisy } else { Show::Clean };
        let (strip, frames) = (Film::new(MOMENTS, show), Film::new(FRAMES, show));
        Ok(Self { small: small.transpose()?, strip, frames, wants })
    }

    pub fn see(&mut self, event: &Event<'_>, steps: usize) -> Result<(), PipelineError> {
        let small = self.small.as_deref();
        // Both may need the same frame.
        let mut decoded: Option<Vec<Image>> = None;
        let mut pictures = |preview: &Preview<'_>, show: Show| {
            if decoded.is_none() {
                decoded = Some(preview.images(show, small)?);
            }
            Ok::<_, PipelineError>(decoded.clone().unwrap_or_default())
        };
        for (film, wanted) in [&mut self.strip, &mut self.frames].into_iter().zip(self.wants) {
            if wanted {
                film.see(event, steps, &mut pictures)?;
            }
        }
        Ok(())
    }
}

impl Args {
    /// The output file for this medium, after checking before the work that everything can be written.
    pub(super) fn place(&self, medium: Medium, count: usize) -> Result<PathBuf> {
        let default = match medium {
            Medium::Image | Medium::Tensor => DEFAULT_IMAGE,
            Medium::Audio => "tweedie.wav",
            Medium::Clip => "tweedie.gif",
        };
        let path = self.output.clone().unwrap_or_else(|| default.into());
        let only = |flag: &str, given: bool, media: &str| {
            ensure!(!given, "{flag} is only supported for {media}; the model makes {}s", noun(medium));
            Ok(())
        };
        if medium != Medium::Image {
            only("--filmstrip", self.filmstrip.is_some(), "images")?;
            only("--animation", self.animation.is_some(), "images")?;
            only("--singles", self.singles.is_some() && medium != Medium::Clip, "images and clips")?;
        }
        match medium {
            Medium::Image => {}
            Medium::Audio => {
                let is =
                    |known: &str| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(known));
                ensure!(
                    is("wav") || is("flac"),
                    "-o {}: expected a file name with the extension .wav or .flac for audio",
                    path.display()
                );
                numbered(&path, count).iter().try_for_each(|path| check_place(path))?;
            }
            Medium::Clip => {
                Video::check(&path).context("-o")?;
                check_place(&path)?;
            }
            Medium::Tensor => {
                ensure!(
                    self.save_tensors.is_some(),
                    "the model's samples are not images; use --save-tensors"
                );
            }
        }
        Ok(path)
    }

    pub(super) fn write(
        &self,
        request: &Request,
        output: &Output,
        path: &Path,
        films: &Films,
        animation: Option<AnimationFormat>,
        ui: Ui,
    ) -> Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        if let Some(path) = &self.save_tensors {
            let named = [("samples".to_owned(), output.tensors.clone())].into();
            weights::write(path, &named, weights::Precision::F32, &Default::default())?;
            written.push(path.clone());
        }
        match &output.media {
            Media::Images(_) => self.write_images(request, output, path, films, animation, &mut written)?,
            Media::Audio(signals) => {
                tell_loudness(request, output, ui);
                write_signals(request, signals, path, ui, &mut written)?;
            }
            Media::Clips(clips) => {
                self.write_clips(request, clips, columns_of(request, output), path, &mut written)?;
            }
            _ => {}
        }
        Ok(written)
    }

    fn write_images(
        &self,
        request: &Request,
        output: &Output,
        path: &Path,
        films: &Films,
        animation: Option<AnimationFormat>,
        written: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let columns = columns_of(request, output);
        let sheet = enlarge(&grid(&output.images, columns, 2, PAPER), self.zoom);
        write_png(path, &sheet, Some(request))?;
        written.push(path.into());
        if let Some(folder) = &self.singles {
            files::create_dir(folder)?;
            for (i, image) in output.images.iter().enumerate() {
                write_png(&folder.join(format!("{i:04}.png")), image, Some(request))?;
            }
            written.push(folder.clone());
        }
        if let Some(path) = &self.filmstrip {
            write_png(path, &enlarge(&films.strip.strip(2, PAPER), self.zoom), Some(request))?;
            written.push(path.clone());
        }
        if let (Some(path), Some(format)) = (&self.animation, animation) {
            let sheets: Vec<Image> =
                films.frames.frames(columns, 2, PAPER).iter().map(|f| enlarge(f, self.zoom)).collect();
            write_animation(path, &Animation { frames: &sheets, delay: 80, last_delay: 2000 }, format)?;
            written.push(path.clone());
        }
        Ok(())
    }

    /// Writes one animation with the grid of clips, and the single clips.
    fn write_clips(
        &self,
        request: &Request,
        clips: &[Video],
        columns: usize,
        path: &Path,
        written: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let Some(first) = clips.first() else { return Ok(()) };
        let sheet = |frame: usize| {
            let images: Vec<Image> =
                clips.iter().filter_map(|clip| clip.frames.get(frame).cloned()).collect();
            enlarge(&grid(&images, columns, 2, PAPER), self.zoom)
        };
        let sheets = Video { frames: (0..first.frames.len()).map(sheet).collect(), delay: first.delay };
        write_video(path, &sheets, Some(request))?;
        written.push(path.into());
        if let Some(folder) = &self.singles {
            files::create_dir(folder)?;
            let ending = path.extension().unwrap_or_default();
            for (i, clip) in clips.iter().enumerate() {
                let path = folder.join(format!("{i:04}")).with_extension(ending);
                write_video(&path, clip, Some(request))?;
            }
            written.push(folder.clone());
        }
        Ok(())
    }
}

/// `count` files: `path`, or `x-0.wav`, `x-1.wav` and so on if there are several.
pub fn numbered(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.into()];
    }
    let [stem, ending] = [path.file_stem(), path.extension()].map(|part| part.unwrap_or_default());
    let name = |i: usize| {
        let mut name = stem.to_owned();
        name.push(format!("-{i}."));
        name.push(ending);
        path.with_file_name(name)
    };
    (0..count).map(name).collect()
}

/// Says what was changed to reach the loudness of the request.
fn tell_loudness(request: &Request, output: &Output, ui: Ui) {
    let Some(lufs) = request.loudness else { return };
    for (i, leveled) in output.leveled.iter().enumerate() {
        match leveled {
            Some(Leveled { before, gain, limited: false }) => {
                ui.note(format!("signal {i}: amplified by {gain:.1} dB, from {before:.1} LUFS to {lufs:.1} LUFS"));
            }
            Some(Leveled { before, gain, limited: true }) => ui.warn(format!(
                "signal {i}: amplified by {gain:.1} dB, from {before:.1} LUFS to {:.1} LUFS; more would clip it",
                before + gain
            )),
            None => ui.warn(format!(
                "signal {i}: its loudness is not changed: it is silent or shorter than the 0.4 s over which loudness is defined"
            )),
        }
    }
}

fn write_signals(
    request: &Request,
    signals: &[Audio],
    path: &Path,
    ui: Ui,
    written: &mut Vec<PathBuf>,
) -> Result<()> {
    if let Some(signal) = signals.first().filter(|signal| signal.guessed) {
        ui.warn(format!("the model does not say its sample rate; the files have {} Hz", signal.rate));
    }
    for (signal, path) in signals.iter().zip(numbered(path, signals.len())) {
        let clipped = write_sound(&path, signal, Some(request))?;
        if clipped > 0 {
            let all = signal.len() * signal.channels.len();
            ui.warn(format!(
                "{}: {clipped} of {all} values were outside -1..1 and are clipped",
                path.display()
            ));
        }
        written.push(path);
    }
    Ok(())
}

fn columns_of(request: &Request, output: &Output) -> usize {
    let turns = match (&output.classes, request.prompts.len()) {
        (Some(classes), _) => turns_of(classes),
        (None, prompts) => prompts,
    };
    columns(output.tensors.shape.first().copied().unwrap_or(0), turns)
}

/// The number of images after which the classes repeat; 0 if they do not.
fn turns_of(classes: &[usize]) -> usize {
    classes.iter().skip(1).position(|class| *class == classes[0]).map_or(0, |place| place + 1)
}

/// As square as possible; if classes or prompts are used in turn and there are not too many, one column for each.
fn columns(count: usize, turns: usize) -> usize {
    if (4..=16).contains(&turns) && count >= 2 * turns {
        return turns;
    }
    (count as f64).sqrt().ceil() as usize
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn clips_become_one_animation_and_single_files() {
        let dir = tempfile::tempdir().unwrap();
        let singles = dir.path().join("all");
        let args = Line::parse_from(["sample", "--singles", singles.to_str().unwrap(), "--zoom", "1"]).args;
        let clip = |v: u8| Video { frames: vec![Image::filled(4, 4, Rgb([v; 3])); 3], delay: 40 };
        let (path, mut written) = (dir.path().join("x.png"), Vec::new());
        args.write_clips(&Request::default(), &[clip(1), clip(2), clip(3)], 2, &path, &mut written).unwrap();
        assert_eq!(written, [path.clone(), singles.clone()]);
        // Two cells of 4 pixels with gaps of 2.
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[16..24], [0, 0, 0, 14, 0, 0, 0, 14]);
        assert!(bytes.windows(4).any(|name| name == b"acTL"));
        assert_eq!(tweedie::pipe::media::read_request(&path).unwrap(), Some(Request::default()));
        assert!(singles.join("0002.png").exists() && !singles.join("0003.png").exists());
    }

    #[test]
    fn several_signals_have_numbers() {
        assert_eq!(numbered(Path::new("a/x.wav"), 1), [Path::new("a/x.wav")]);
        assert_eq!(numbered(Path::new("a/x.y.WAV"), 2), ["a/x.y-0.WAV", "a/x.y-1.WAV"].map(Path::new));
    }

    #[test]
    fn classes_in_turn_make_the_columns() {
        assert_eq!(columns(36, 0), 6);
        assert_eq!(columns(10, 10), 4);
        assert_eq!(columns(20, 10), 10);
        let turns: Vec<_> = (0..36).map(|i| i % 9).collect();
        assert_eq!(columns(36, turns_of(&turns)), 9);
        assert_eq!(columns(16, turns_of(&[3; 16])), 4);
    }
}
