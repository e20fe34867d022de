//! Media beyond images, from training to files: a network learns them, is sampled, and its files are read again.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::{
    collections::BTreeMap, f64::consts::TAU, fs::File, io::BufReader, num::NonZeroUsize, ops::ControlFlow,
    path::Path, time::Instant,
};

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use tweedie::{
    hub::{Extras, SchedulerConfig},
    media::{self, Image},
    models::{
        Conditions, ExecContext, HostTensor, InputError, IoSpec, Mode, Network, Precision, UNet1DConfig,
        UNet1DModel, export, import, layers::Init, params,
    },
    ops::{Batch, ConvOptions, RowNoise, SampleShape, conv3d, from_host, silu},
    pipe::{
        Media, Output, Pipeline, Request,
        media::{read_request, write_sound, write_video},
    },
    train::{
        OptimizerConfig,
        optim::{GradientMap, Optimizer},
    },
};

/// Batch size in training.
const ROWS: usize = 32;
/// The network gets this many times sigma as time.
const TIME_SCALE: f64 = 1000.0;
/// Number of samples.
const COUNT: usize = 16;

fn device() -> Device {
    tweedie::ops::device("cpu").unwrap()
}

/// Even values in 0..1: item `i` of the sequence of multiples of `step`.
fn even(i: u64, step: f64) -> f64 {
    (i as f64 * step).fract()
}

/// Trains a rectified flow from noise to the samples of `data`, a function of the index of a sample.
fn trained<M: Module + Network>(
    mut model: M,
    shape: &SampleShape,
    steps: u64,
    data: &dyn Fn(u64) -> Vec<f32>,
) -> M {
    let (device, start) = (device(), Instant::now());
    let mut optimizer = Optimizer::new(&OptimizerConfig::default());
    let (mut sum, mut last) = (0.0, 0.0);
    for step in 0..steps {
        let first = step * ROWS as u64;
        let samples = (0..ROWS as u64).flat_map(|i| data(first + i)).collect();
        let x0: Tensor<2> = from_host(samples, [ROWS, shape.len()], &device);
        let eps: Tensor<2> = RowNoise((0..ROWS as u64).collect()).tensor([ROWS, shape.len()], step, &device);
        let sigma = |i: usize| ((i as f64 + even(step, 0.618_034)) / ROWS as f64) as f32;
        let sigmas: Vec<f32> = (0..ROWS).map(sigma).collect();
        let times: Vec<f32> = sigmas.iter().map(|s| s * TIME_SCALE as f32).collect();
        let t: Tensor<2> = from_host(sigmas, [ROWS, 1], &device);
        let x = x0.clone() * (1.0 - t.clone()) + eps.clone() * t;
        let x = Batch::of(x).shaped(shape);
        let output = model.forward(x, &times, &Conditions::none(), Mode::Train { dropout_seed: step });
        let error = output.rows().clone() - (eps - x0);
        let loss = (error.clone() * error).mean();
        sum += loss.clone().into_scalar::<f32>();
        if (step + 1) % (steps / 4) == 0 {
            last = sum / (steps / 4) as f32;
            sum = 0.0;
        }
        let gradients = GradientMap::take(&model, &mut loss.backward());
        let decay = 1.0 - step as f64 / steps as f64;
        model = optimizer.step(model, gradients, 4e-3 * decay);
    }
    eprintln!("{steps} training steps in {:.1} s, loss {last:.3}", start.elapsed().as_secs_f64());
    model
}

fn request(count: usize, chunk: usize) -> Request {
    Request {
        count: NonZeroUsize::new(count).unwrap(),
        chunk: NonZeroUsize::new(chunk),
        steps: NonZeroUsize::new(20),
        seed: 3,
        ..Request::default()
    }
}

fn sampled(pipeline: &Pipeline, request: &Request) -> Output {
    pipeline.run(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn pipeline(network: impl Network + 'static) -> Pipeline {
    let scheduler = SchedulerConfig::flow(TIME_SCALE as usize, 1.0).unwrap();
    Pipeline::of_network(network, scheduler, Extras::default(), &device())
}

/// Samples [`COUNT`] rows and checks that each is the same alone and in other batches.
fn rows_of(pipeline: &Pipeline) -> Output {
    let all = sampled(pipeline, &request(COUNT, 16));
    let each = all.tensors.values.len() / COUNT;
    assert_eq!(sampled(pipeline, &request(1, 16)).tensors.values, all.tensors.values[..each], "alone");
    assert_eq!(sampled(pipeline, &request(COUNT, 5)).tensors, all.tensors, "in batches of 5");
    all
}

// Audio.

const LENGTH: usize = 64;
/// Periods of a wave in [`LENGTH`] values.
const PERIODS: usize = 5;
const RATE: u32 = 6400;

/// The frequency with the largest magnitude, in periods per signal.
fn peak(signal: &[f32]) -> usize {
    let power = |k: usize| {
        let part = |f: fn(f64) -> f64| {
            let angle = |i: usize| TAU * (k * i) as f64 / signal.len() as f64;
            signal.iter().enumerate().map(|(i, v)| f64::from(*v) * f(angle(i))).sum::<f64>()
        };
        part(f64::cos).powi(2) + part(f64::sin).powi(2)
    };
    (0..=signal.len() / 2).max_by(|a, b| power(*a).total_cmp(&power(*b))).unwrap()
}

/// Writes the signals as WAV files, reads these, and counts those with the trained frequency.
fn right_signals(output: &Output, request: &Request, folder: &Path) -> usize {
    let Media::Audio(signals) = &output.media else { panic!("{:?}", output.media) };
    assert!(output.images.is_empty());
    assert_eq!(signals.len(), COUNT);
    let mut right = 0;
    for (i, signal) in signals.iter().enumerate() {
        let path = folder.join(format!("{i}.wav"));
        let clipped = write_sound(&path, signal, Some(request)).unwrap();
        assert_eq!(clipped, signal.channels[0].iter().filter(|v| v.abs() > 1.0).count());
        assert_eq!(read_request(&path).unwrap().as_ref(), Some(request));
        let found = media::read_sound(&path).unwrap();
        assert_eq!((found.rate, found.guessed, found.channels.len(), found.len()), (RATE, false, 1, LENGTH));
        let pairs = found.channels[0].iter().zip(&signal.channels[0]);
        assert!(pairs.map(|(f, e)| (f - e.clamp(-1.0, 1.0)).abs()).all(|d| d < 1e-4));
        right += usize::from(peak(&found.channels[0]) == PERIODS);
    }
    right
}

#[test]
fn signals_have_the_trained_frequency() {
    let config = UNet1DConfig::from_json(&format!(
        r#"{{"sample_size": {LENGTH}, "sample_rate": {RATE}, "in_channels": 1, "out_channels": 1,
            "extra_in_channels": 16, "block_out_channels": [16, 16, 32],
            "down_block_types": ["DownBlock1DNoSkip", "DownBlock1D", "DownBlock1D"],
            "up_block_types": ["UpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"]}}"#
    ));
    let network = UNet1DModel::new(&config.unwrap(), 0, &device().autodiff()).unwrap();
    // Its embedding is made for times in 0..1.
    let mut weights = export(&network);
    let embedding = weights.get_mut("time_proj.weight").unwrap();
    embedding.values.iter_mut().for_each(|v| *v /= TIME_SCALE as f32);
    let network = import(network, &weights).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let request = request(COUNT, 16);
    let before = sampled(&pipeline(network.clone().valid()), &request);
    assert!(right_signals(&before, &request, dir.path()) < COUNT / 2, "the untrained network is right");

    let wave = |index: u64| {
        let phase = even(index, 0.618_034);
        let value = |i: usize| 0.8 * (TAU * (phase + (PERIODS * i) as f64 / LENGTH as f64)).sin();
        (0..LENGTH).map(|i| value(i) as f32).collect()
    };
    let network = trained(network, &SampleShape::from([1, LENGTH]), 160, &wave);
    let after = rows_of(&pipeline(network.valid()));
    let right = right_signals(&after, &request, dir.path());
    eprintln!("{right} of {COUNT} signals have the trained frequency");
    assert!(right >= COUNT * 3 / 4, "{right} of {COUNT} are right");
}

// Clips.

const FRAMES: usize = 4;
const SIDE: usize = 8;
/// Side of the square that moves.
const SQUARE: usize = 3;
const WIDTH: usize = 24;
const LAYERS: usize = 6;

/// 3-D convolutions of the sample, its noise level and its place.
#[derive(Module, Debug)]
struct Clips {
    weights: Vec<Param<Tensor<5>>>,
    biases: Vec<Param<Tensor<1>>>,
}

impl Clips {
    fn new(seed: u64, device: &Device) -> Self {
        let widths = |i: usize| [if i + 1 == LAYERS { 1 } else { WIDTH }, if i == 0 { 3 } else { WIDTH }];
        let weight = |i: usize| {
            let [to, from] = widths(i);
            let bound = (3.0 / (27 * from) as f64).sqrt();
            Init::new(seed, device).at("weights").uniform(&i.to_string(), [to, from, 3, 3, 3], bound)
        };
        let bias =
            |i: usize| Init::new(seed, device).at("biases").constant(&i.to_string(), [widths(i)[0]], 0.0);
        params::settle(Self {
            weights: (0..LAYERS).map(weight).collect(),
            biases: (0..LAYERS).map(bias).collect(),
        })
    }
}

impl Network for Clips {
    fn spec(&self) -> IoSpec {
        IoSpec {
            native: Some(vec![FRAMES, SIDE, SIDE]),
            fixed: true,
            rate: Some(10),
            ..IoSpec::new("Clips", 3, [1, 1])
        }
    }

    fn check(&self, rows: usize, shape: &SampleShape, _: &[f32], c: &Conditions) -> Result<(), InputError> {
        c.only(&[], rows)?;
        match shape.dims() {
            [1, FRAMES, SIDE, SIDE] => Ok(()),
            _ => Err(InputError(format!("the samples have the shape {shape}"))),
        }
    }

    fn forward(&self, x: Batch, times: &[f32], _: &Conditions, _: Mode) -> Batch {
        let (rows, area) = (x.len(), SIDE * SIDE);
        let plane =
            |values: Vec<f32>| -> Tensor<5> { from_host(values, [rows, 1, FRAMES, SIDE, SIDE], &x.device()) };
        let level = |t: &f32| vec![2.0 * t / TIME_SCALE as f32 - 1.0; FRAMES * area];
        let time = plane(times.iter().flat_map(level).collect());
        let frame = |i: usize| vec![i as f32 - 1.5; area];
        let place = plane((0..rows * FRAMES).flat_map(|i| frame(i % FRAMES)).collect());
        let mut y = Tensor::cat(vec![x.tensor::<5>(), time, place], 1);
        for (i, (weight, bias)) in self.weights.iter().zip(&self.biases).enumerate() {
            let z = conv3d(y.clone(), weight.val(), Some(bias.val()), ConvOptions::same(1));
            y = match i {
                0 => silu(z),
                _ if i + 1 == LAYERS => z,
                _ => y + silu(z),
            };
        }
        Batch::of(y)
    }

    fn row_bytes(&self, shape: &SampleShape, _: Precision) -> u64 {
        (4 * WIDTH * LAYERS * shape.len()) as u64
    }

    fn in_context(&self, _: &ExecContext) -> Box<dyn Network> {
        Box::new(self.clone())
    }

    fn differentiable(&self) -> Box<dyn Network> {
        Box::new(self.clone().train().no_grad())
    }

    fn config_json(&self) -> String {
        "{}".into()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        export(self)
    }

    fn non_finite(&self) -> Option<String> {
        params::non_finite(self)
    }
}

/// The centre and the area of what is bright.
fn bright(image: &Image) -> ([f64; 2], usize) {
    let places: Vec<usize> = (0..SIDE * SIDE).filter(|i| image.pixels[3 * i] > 127).collect();
    let mean = |f: fn(usize) -> usize| places.iter().map(|i| f(*i) as f64).sum::<f64>() / places.len() as f64;
    ([mean(|i| i % SIDE), mean(|i| i / SIDE)], places.len())
}

/// Whether a square moves right by one pixel per frame.
fn moves_right(frames: &[Image]) -> bool {
    let found: Vec<_> = frames.iter().map(bright).collect();
    let steps = found.windows(2).all(|pair| {
        let ([x, y], [to_x, to_y]) = (pair[0].0, pair[1].0);
        (to_x - x - 1.0).abs() < 0.34 && (to_y - y).abs() < 0.34
    });
    steps && found.iter().all(|(_, area)| area.abs_diff(SQUARE * SQUARE) <= 3)
}

fn gif_frames(path: &Path) -> Vec<Image> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut decoder = options.read_info(BufReader::new(File::open(path).unwrap())).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = decoder.read_next_frame().unwrap() {
        assert_eq!(frame.delay, 10);
        let pixels = frame.buffer.chunks(4).flat_map(|p| p[..3].to_vec()).collect();
        frames.push(Image { width: SIDE, height: SIDE, pixels });
    }
    frames
}

fn apng_frames(path: &Path) -> Vec<Image> {
    let file = BufReader::new(File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let count = reader.info().animation_control.unwrap().num_frames;
    let frame = |_| {
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        Image { width: SIDE, height: SIDE, pixels }
    };
    (0..count).map(frame).collect()
}

/// Writes the clips as animations, reads these, and counts those with the trained motion.
fn right_clips(output: &Output, request: &Request, folder: &Path) -> usize {
    let Media::Clips(clips) = &output.media else { panic!("{:?}", output.media) };
    assert!(output.images.is_empty());
    assert_eq!(clips.len(), COUNT);
    let mut right = 0;
    for (i, clip) in clips.iter().enumerate() {
        let [gif, apng] = ["gif", "png"].map(|ending| folder.join(format!("{i}.{ending}")));
        write_video(&gif, clip, Some(request)).unwrap();
        write_video(&apng, clip, Some(request)).unwrap();
        assert_eq!(read_request(&apng).unwrap().as_ref(), Some(request));
        assert_eq!(apng_frames(&apng), clip.frames);
        let frames = gif_frames(&gif);
        assert_eq!(frames.len(), FRAMES);
        assert_eq!(moves_right(&frames), moves_right(&clip.frames));
        right += usize::from(moves_right(&frames));
    }
    right
}

#[test]
fn clips_have_the_trained_motion() {
    let network = Clips::new(0, &device().autodiff());
    let dir = tempfile::tempdir().unwrap();
    let request = request(COUNT, 16);
    let before = sampled(&pipeline(network.clone().valid()), &request);
    assert_eq!(right_clips(&before, &request, dir.path()), 0, "the untrained network is right");

    let square = |index: u64| {
        let free = SIDE - SQUARE;
        let top = (even(index, 0.618_034) * (free + 1) as f64) as usize;
        let left = (even(index, 0.414_214) * (free + 2 - FRAMES) as f64) as usize;
        let value = |i: usize| {
            let (frame, y, x) = (i / (SIDE * SIDE), i / SIDE % SIDE, i % SIDE);
            let inside =
                (top..top + SQUARE).contains(&y) && (left + frame..left + frame + SQUARE).contains(&x);
            if inside { 1.0 } else { -1.0 }
        };
        let clip: Vec<f32> = (0..FRAMES * SIDE * SIDE).map(value).collect();
        clip
    };
    let network = trained(network, &SampleShape::from([1, FRAMES, SIDE, SIDE]), 500, &square);
    let after = rows_of(&pipeline(network.valid()));
    let right = right_clips(&after, &request, dir.path());
    eprintln!("{right} of {COUNT} clips have the trained motion");
    assert!(right > COUNT / 2, "{right} of {COUNT} are right");
}

#[test]
fn the_measure_of_motion_rejects_other_motions() {
    let clip = |place: fn(usize) -> [usize; 2]| -> Vec<Image> {
        let frame = |f: usize| {
            let [left, top] = place(f);
            let inside = |i: usize| {
                (left..left + SQUARE).contains(&(i % SIDE)) && (top..top + SQUARE).contains(&(i / SIDE))
            };
            let pixels = (0..SIDE * SIDE).flat_map(|i| [if inside(i) { 255 } else { 0 }; 3]).collect();
            Image { width: SIDE, height: SIDE, pixels }
        };
        (0..FRAMES).map(frame).collect()
    };
    assert!(moves_right(&clip(|f| [f + 1, 2])));
    for wrong in [|_| [1, 2], |f| [3 - f, 2], |f| [1, f], |f| [f, f]] {
        assert!(!moves_right(&clip(wrong)));
    }
    assert!(!moves_right(&vec![Image::filled(SIDE, SIDE, media::Rgb([0; 3])); FRAMES]));
}
