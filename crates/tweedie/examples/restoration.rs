//! Restores held-out images with every method, and prints the table of docs/editing.md:
//!
//! ```sh
//! cargo run --release --example restoration -- emoji-32 10         # a model in pixels, and the number of images
//! cargo run --release --example restoration -- emoji-32 27 "" 15   # all tasks ("×4": those whose name has this) in 15 steps
//! cargo run --release --example restoration -- emoji-32 sheet.png  # what is given, four answers and the true image
//! ```
//!
//! PSNR and SSIM compare with the true image; of masks only PSNR of the hole counts. "Features" is the mean distance of the
//! features of `tweedie eval`'s encoder, and "LPIPS" that of its layers as in LPIPS, summed over five layers without learned
//! weights; both are smaller for images that look alike. "KID" is the kernel distance of the encoder's features from those of
//! images that the model was trained on, times 1000; FID needs more images than the 64 features.

#![allow(clippy::print_stdout)]

use std::{error::Error, ops::ControlFlow, path::Path, time::Instant};

use serde_json::{Value, json};
use tweedie::{
    data::{DataConfig, Dataset, Image},
    eval::{
        extract::{Encoder, Extractor, bicubic as enlarged},
        metrics::{Features, kernel::kid},
    },
    hub::encoder::embedded,
    library,
    models::Perceptual,
    ops,
    pipe::{
        Pipeline, Request,
        operators::{Jpeg, Operator, bicubic, gaussian, grey},
    },
};

/// A task: its name, its degradations or mask as in requests, and the noise in 1/255.
struct Task {
    name: &'static str,
    known: Value,
    noise: f64,
    methods: &'static [&'static str],
}

const LINEAR: &[&str] = &["ddnm", "ddrm", "diffpir=2,1", "pigdm", "dps"];

/// The tasks for images of `side` pixels; those in `grey` have no colours to lose.
fn tasks(side: usize, is_grey: bool) -> Vec<Task> {
    let scratches: Vec<[usize; 4]> =
        vec![[0, 9, side, 2], [0, 21, side, 1], [7, 0, 2, side], [18, 0, 1, side], [25, 0, 2, side]];
    let masks =
        &["replacement", "repaint=5,3", "repaint=10,10", "ddnm", "ddrm", "diffpir=2,1", "pigdm", "dps"];
    let all = vec![
        Task {
            name: "hole 12×12",
            known: json!({ "mask": { "rectangles": [[10, 10, 12, 12]] } }),
            noise: 0.0,
            methods: masks,
        },
        Task {
            name: "scratches",
            known: json!({ "mask": { "rectangles": scratches } }),
            noise: 0.0,
            methods: masks,
        },
        Task {
            name: "×4",
            known: json!({ "degradations": [{ "kind": "bicubic", "factor": 4 }] }),
            noise: 0.0,
            methods: LINEAR,
        },
        Task {
            name: "colour",
            known: json!({ "degradations": [{ "kind": "grey" }] }),
            noise: 0.0,
            methods: LINEAR,
        },
        Task {
            name: "blur 1.5, noise 5",
            known: json!({ "degradations": [{ "kind": "blur", "sigma": 1.5 }] }),
            noise: 5.0,
            methods: LINEAR,
        },
        Task {
            name: "JPEG 10",
            known: json!({ "degradations": [{ "kind": "jpeg", "quality": 10 }] }),
            noise: 0.0,
            methods: &["ddnm", "dps"],
        },
    ];
    all.into_iter().filter(|task| !is_grey || task.name != "colour").collect()
}

/// What a task makes of an image.
fn degraded(task: &Task, image: &Image, seed: u64) -> Result<Image, Box<dyn Error>> {
    let dims = [3, image.height, image.width];
    let kind = task.known["degradations"][0]["kind"].as_str().unwrap_or("mask");
    let operator: Box<dyn Operator> = match kind {
        "bicubic" => Box::new(bicubic(&dims, 4)),
        "grey" => Box::new(grey(&dims)),
        "blur" => Box::new(gaussian(&dims, 1.5)),
        "jpeg" => Box::new(Jpeg::new(dims, 10)?),
        _ => return Ok(image.clone()),
    };
    let planes: Vec<f64> = image.to_planes().iter().map(|v| f64::from(*v)).collect();
    let mut noise = vec![0.0f32; operator.outputs()];
    tweedie::core::noise::fill_normal(seed, 0, &mut noise);
    let noisy = |(v, n): (f64, &f32)| (v + f64::from(*n) * task.noise / 127.5) as f32;
    let mut planes: Vec<f32> = operator.apply(&planes).into_iter().zip(&noise).map(noisy).collect();
    if kind == "grey" {
        planes = planes.repeat(3);
    }
    let shrink = if kind == "bicubic" { 4 } else { 1 };
    Ok(Image::from_planes(image.width / shrink, image.height / shrink, &planes))
}

/// Sums over the images of a row of the table.
#[derive(Default)]
struct Row {
    psnr: f64,
    ssim: f64,
    images: Vec<Image>,
    seconds: f64,
    evals: usize,
}

impl Row {
    fn add(&mut self, image: Image, truth: &Image, hole: Option<&[[usize; 4]]>) {
        let inside = |i: usize| {
            let (x, y) = (i / 3 % truth.width, i / 3 / truth.width);
            hole.is_none_or(|all| {
                all.iter().any(|[l, t, w, h]| (*l..l + w).contains(&x) && (*t..t + h).contains(&y))
            })
        };
        let pairs = image.pixels.iter().zip(&truth.pixels).enumerate().filter(|(i, _)| inside(*i));
        let squares: Vec<f64> = pairs.map(|(_, (a, b))| (f64::from(*a) - f64::from(*b)).powi(2)).collect();
        let mse = (squares.iter().sum::<f64>() / squares.len() as f64).max(0.1);
        self.psnr += 10.0 * (255.0f64 * 255.0 / mse).log10();
        self.ssim += ssim(&image, truth);
        self.images.push(image);
    }
}

/// The mean structural similarity of luma with windows of 8×8 pixels. Wang et al. 2004.
fn ssim(a: &Image, b: &Image) -> f64 {
    let luma = |image: &Image| -> Vec<f64> {
        let weigh = |p: &[u8]| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]);
        image.pixels.chunks_exact(3).map(weigh).collect()
    };
    let (x, y) = (luma(a), luma(b));
    let (mut sum, mut count) = (0.0, 0.0);
    for top in 0..=a.height - 8 {
        for left in 0..=a.width - 8 {
            let places = (0..64).map(|k| (top + k / 8) * a.width + left + k % 8);
            let (mut mx, mut my, mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for i in places {
                mx += x[i] / 64.0;
                my += y[i] / 64.0;
                xx += x[i] * x[i] / 64.0;
                yy += y[i] * y[i] / 64.0;
                xy += x[i] * y[i] / 64.0;
            }
            let (c1, c2) = (6.5025, 58.5225);
            let (vx, vy, cov) = (xx - mx * mx, yy - my * my, xy - mx * my);
            sum += (2.0 * mx * my + c1) * (2.0 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2));
            count += 1.0;
        }
    }
    sum / count
}

fn features(encoder: &Encoder, images: &[Image]) -> Result<Features, Box<dyn Error>> {
    Ok(encoder.extract(images, &mut |_, _| ControlFlow::Continue(()))?.features)
}

/// Compares with the true images.
struct Judge {
    encoder: Encoder,
    perceptual: Perceptual,
    images: Vec<Image>,
    features: Features,
    /// Those of images that the model was trained on.
    known: Features,
}

impl Judge {
    fn new(images: &[Image], known: &[Image], device: &ops::Device) -> Result<Self, Box<dyn Error>> {
        let encoder = Encoder::embedded(device)?;
        let (features, known) = (features(&encoder, images)?, features(&encoder, known)?);
        let perceptual = Perceptual::Encoder(Box::new(embedded(device)?));
        Ok(Self { encoder, perceptual, images: images.to_vec(), features, known })
    }

    /// The mean distance of the layers' features.
    fn lpips(&self, images: &[Image]) -> f32 {
        let device = ops::Device::flex();
        let see = |images: &[Image]| {
            let (width, height) = (images[0].width, images[0].height);
            let planes = images.iter().flat_map(Image::to_planes).collect();
            self.perceptual.see(ops::from_host(planes, [images.len(), 3, height, width], &device))
        };
        ops::to_host(self.perceptual.distance(&see(images), &see(&self.images)))[0]
    }

    fn print(&self, task: &str, method: &str, steps: &str, row: &Row) -> Result<(), Box<dyn Error>> {
        let n = row.images.len() as f64;
        let found = features(&self.encoder, &row.images)?;
        let rows = |features: &Features| {
            features.values().chunks(features.dim()).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let distance = |(a, b): (&Vec<f32>, &Vec<f32>)| {
            a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        let far: f64 = rows(&found).iter().zip(&rows(&self.features)).map(distance).sum();
        let kid = kid(&found, &self.known);
        println!(
            "| {task} | {method} | {steps} | {} | {:.2} | {:.3} | {:.2} | {:.3} | {} | {:.2} |",
            row.evals / row.images.len(),
            row.psnr / n,
            row.ssim / n,
            far / n,
            self.lpips(&row.images),
            kid.map_or("-".into(), |kid| format!("{:.1}", 1000.0 * kid.score.value)),
            row.seconds / n
        );
        Ok(())
    }
}

fn restored(
    pipeline: &Pipeline,
    known: &Value,
    steps: usize,
    seed: u64,
) -> Result<(Image, usize), Box<dyn Error>> {
    let mut request: Request =
        serde_json::from_value(json!({ "seed": seed, "steps": steps, "known": known }))?;
    if let Some(null) = pipeline.extras().null_class {
        request.classes = Some(vec![tweedie::pipe::ClassSelector::Index(null)]);
        request.guidance = Some(1.0);
    }
    let output = pipeline.run(&request, &mut |_| ControlFlow::Continue(()))?;
    let edited = output.edited.first().ok_or("no result")?;
    Ok((edited.picture.to_image(tweedie::data::Rgb([255; 3])), output.evals))
}

/// What is given: with white holes, or enlarged by the bicubic filter.
fn given(input: &Image, truth: &Image, hole: Option<&[[usize; 4]]>) -> Image {
    let (width, height) = (truth.width, truth.height);
    let Some(hole) = hole else {
        let values = enlarged(input, width, height);
        let pixels = values.iter().map(|v| v.round() as u8).collect();
        return Image { width, height, pixels };
    };
    let mut shown = input.clone();
    for [l, t, w, h] in hole {
        for (x, y) in (*t..t + h).flat_map(|y| (*l..l + w).map(move |x| (x, y))) {
            shown.pixels[3 * (y * width + x)..][..3].fill(255);
        }
    }
    shown
}

/// Writes an image for a model, which may only take grey ones.
fn save(image: &Image, is_grey: bool, path: &Path) -> Result<(), Box<dyn Error>> {
    if !is_grey {
        return Ok(image.save_png(path)?);
    }
    let size = [1, image.height, image.width];
    let planes = image.planes_of(1).ok_or("no grey values")?;
    Ok(tweedie::media::write_png_planes(path, &planes, size, tweedie::media::Depth::Eight)?)
}

/// Number of images on the sheet.
const SHOWN: usize = 12;
/// Images of each row of the sheet, and answers for each.
const ACROSS: usize = 2;
const ANSWERS: u64 = 4;

/// One row for each task, with other images in each: what is given, answers by the default method, and the true image.
fn sheet(
    pipeline: &Pipeline,
    images: &[Image],
    tasks: &[Task],
    is_grey: bool,
    folder: &Path,
) -> Result<Image, Box<dyn Error>> {
    let mut cells = Vec::new();
    let mut next = images.iter().cycle();
    for task in tasks {
        let hole: Option<Vec<[usize; 4]>> =
            serde_json::from_value(task.known["mask"]["rectangles"].clone()).ok();
        for truth in next.by_ref().take(ACROSS) {
            let input = degraded(task, truth, 0)?;
            let path = folder.join("input.png");
            save(&input, is_grey, &path)?;
            let mut known = task.known.clone();
            known["image"] = json!({ "path": path });
            known["noise"] = json!(task.noise);
            cells.push(match hole.is_none() && input.width < truth.width {
                true => tweedie::media::enlarge(&input, truth.width / input.width),
                false => given(&input, truth, hole.as_deref()),
            });
            for seed in 0..ANSWERS {
                cells.push(restored(pipeline, &known, 50, seed)?.0);
            }
            cells.push(truth.clone());
        }
    }
    let columns = ACROSS * (ANSWERS as usize + 2);
    Ok(tweedie::media::enlarge(&tweedie::media::grid(&cells, columns, 2, tweedie::data::Rgb([255; 3])), 2))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "emoji-32".into());
    let asked = args.next().unwrap_or_else(|| "10".into());
    let sheet_path = asked.ends_with(".png").then(|| std::path::PathBuf::from(&asked));
    let count: usize = if sheet_path.is_some() { SHOWN } else { asked.parse()? };
    let only = args.next();
    let asked_steps: Option<Vec<usize>> =
        args.next().map(|list| list.split(',').map(str::parse).collect::<Result<_, _>>()).transpose()?;
    let device = ops::device("cpu")?;
    let pipeline = library::load(Path::new(&model), &Default::default(), &device)?;
    let config: DataConfig = serde_json::from_value(pipeline.extras().training["config"]["data"].clone())?;
    let (trained, held_out) = Dataset::open(&config)?.split();
    let count = count.min(held_out.len());
    let images: Vec<Image> = (0..count)
        .map(|i| Ok(Image::clone(&held_out.get(i * held_out.len() / count)?.sample)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    let folder = tempfile::tempdir()?;
    let is_grey = pipeline.network().spec().outputs == 1;
    let mut tasks = tasks(images[0].width, is_grey);
    tasks.retain(|task| only.as_deref().is_none_or(|only| task.name.contains(only)));
    if let Some(path) = sheet_path {
        return Ok(sheet(&pipeline, &images, &tasks, is_grey, folder.path())?.save_png(path)?);
    }
    let compared = trained.len().min(1000);
    let known: Vec<Image> = (0..compared)
        .map(|i| Ok(Image::clone(&trained.get(i * trained.len() / compared)?.sample)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    let judge = Judge::new(&images, &known, &device)?;
    println!("{count} held-out images of {model}\n");
    println!(
        "| task | method | steps | evaluations | PSNR | SSIM | features | LPIPS | KID | s |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    let mut row = Row::default();
    images.iter().for_each(|image| row.add(image.clone(), image, None));
    judge.print("", "(the true images)", "", &row)?;
    for task in &tasks {
        let hole: Option<Vec<[usize; 4]>> =
            serde_json::from_value(task.known["mask"]["rectangles"].clone()).ok();
        let inputs: Vec<Image> = images
            .iter()
            .enumerate()
            .map(|(i, image)| degraded(task, image, i as u64))
            .collect::<Result<_, _>>()?;
        let mut row = Row::default();
        for (input, image) in inputs.iter().zip(&images) {
            let shown = given(input, image, hole.as_deref());
            row.add(shown, image, hole.as_deref());
        }
        let name = if task.name == "×4" { "bicubic" } else { "(as it is)" };
        judge.print(task.name, name, "", &row)?;
        for method in task.methods {
            let slow = matches!(*method, "pigdm" | "dps") || method.starts_with("repaint=10");
            let usual = if slow { vec![50] } else { vec![15, 50] };
            for steps in asked_steps.as_ref().unwrap_or(&usual) {
                let mut row = Row::default();
                for (i, (input, image)) in inputs.iter().zip(&images).enumerate() {
                    let path = folder.path().join("input.png");
                    save(input, is_grey, &path)?;
                    let mut known = task.known.clone();
                    known["image"] = json!({ "path": path });
                    known["method"] = json!(method);
                    known["noise"] = json!(task.noise);
                    let start = Instant::now();
                    let (result, evals) = restored(&pipeline, &known, *steps, i as u64)?;
                    row.seconds += start.elapsed().as_secs_f64();
                    row.evals += evals;
                    row.add(result, image, hole.as_deref());
                }
                judge.print(task.name, method, &steps.to_string(), &row)?;
            }
        }
    }
    Ok(())
}
