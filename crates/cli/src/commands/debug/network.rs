//! `tweedie debug run`.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::{Map, json};
use tweedie::{
    hub::{Component, ComponentDir, ModelDir, SafetensorsFile, weights},
    models::{
        ClipTextModel, Codec, CodecSpec, Conditions, Encoded, Entry, HostTensor, Mode, Network, TensorSource,
        conditions::{ADDED, CLASSES, EMBEDDING, GUIDANCE, POOLED, SIZES, TEXT},
        prior::Projected,
        stable_audio::ProjectedSound,
    },
    ops::{self, Batch, Device, SampleShape, Tensor},
};

use super::{RunArgs, known};
use crate::{commands::sample::check_place, tensors, ui::Ui};

const DENOISES: [&str; 7] = [
    "sample",
    "timestep",
    "class_labels",
    "guidance_scale",
    "encoder_hidden_states",
    "added_cond_kwargs.text_embeds",
    "added_cond_kwargs.time_ids",
];

pub fn run(args: RunArgs, ui: Ui, device: &str) -> Result<()> {
    check_place(&args.outputs)?;
    let device = ops::device(device)?;
    let inputs = SafetensorsFile::open(&args.inputs)?;
    let allow = |names: &[&str]| known(&inputs, &args.inputs, names).map(drop);
    let outputs = match load(&args, &device)? {
        Component::Codec(codec) => {
            allow(&["sample", "latents"])?;
            code(&*codec, &inputs, &device)?
        }
        Component::Text(encoder) => {
            allow(&["input_ids"])?;
            read(&encoder, &inputs)?
        }
        Component::Vision(encoder) => {
            allow(&["pixel_values"])?;
            let made = encoder.encode(given(&inputs, "pixel_values", "[B, 3, H, W]", &device)?)?;
            BTreeMap::from([("image_embeds".to_owned(), host(&Batch::of(made)))])
        }
        Component::Projection(projection) => {
            let names = ["image_embeddings", "prompt_embeds", "text_encoder_hidden_states"];
            allow(&names)?;
            let [image, text] = [names[0], names[1]].map(|name| given(&inputs, name, "[B, width]", &device));
            let tokens = given(&inputs, names[2], "[B, T, width]", &device)?;
            let Projected { tokens, embedding } = projection.project(image?, text?, tokens)?;
            let made = [("tokens", host(&Batch::of(tokens))), ("embedding", host(&Batch::of(embedding)))];
            made.into_iter().map(|(name, t)| (name.to_owned(), t)).collect()
        }
        Component::Clap(encoder) => {
            allow(&["input_ids"])?;
            let pad = encoder.config().pad_token_id;
            read_each("text_embeds", &inputs, pad, |text| Ok(Batch::of(encoder.encode(text)?)))?
        }
        Component::Vocoder(vocoder) => {
            allow(&["spectrogram"])?;
            let made = vocoder.forward(given(&inputs, "spectrogram", "[B, T, bands]", &device)?)?;
            BTreeMap::from([("waveform".to_owned(), host(&Batch::of(made)))])
        }
        Component::T5(encoder) => {
            allow(&["input_ids"])?;
            let pad = 0;
            read_each("last_hidden_state", &inputs, pad, |text| Ok(Batch::of(encoder.encode(text)?)))?
        }
        Component::SoundProjection(projection) => {
            allow(&["text_hidden_states", "seconds"])?;
            let text = given(&inputs, "text_hidden_states", "[B, T, width]", &device)?;
            let seconds = tensors::read(&inputs, "seconds")?.values;
            let &[start, end] = &*seconds else { bail!("seconds: expected 2 values, not {}", seconds.len()) };
            let ProjectedSound { text, start, end } = projection.project(text, [start, end].map(f64::from));
            let made = [("text", Batch::of(text)), ("start", Batch::of(start)), ("end", Batch::of(end))];
            made.into_iter().map(|(name, x)| (name.to_owned(), host(&x))).collect()
        }
        Component::Adapter(adapter) => {
            allow(&["sample"])?;
            let image = given::<4>(&inputs, "sample", "[B, channels, H, W]", &device)?;
            let ([_, channels, height, width], config) = (image.dims(), adapter.config());
            let fits = [height, width].iter().all(|n| n.is_multiple_of(config.downscale_factor));
            ensure!(
                channels == config.in_channels && fits,
                "sample: {channels} channels of {width}×{height} pixels; expected {} channels, and multiples of {}",
                config.in_channels,
                config.downscale_factor
            );
            let maps = adapter.forward(image).into_iter().enumerate();
            maps.map(|(i, map)| (format!("map_{i}"), host(&Batch::of(map)))).collect()
        }
        Component::Control(_) => bail!("{}: a ControlNet has no output of its own", args.model.display()),
        Component::Network(network) => {
            allow(&DENOISES).and_then(|()| denoise(&*network, &inputs, &device))?
        }
    };
    weights::write(&args.outputs, &outputs, weights::Precision::F32, &Default::default())?;
    let shapes: Map<_, _> = outputs.iter().map(|(name, t)| (name.clone(), json!(t.shape))).collect();
    let said: Vec<String> = outputs.iter().map(|(name, t)| format!("{name} {:?}", t.shape)).collect();
    let mut event = json!({ "outputs": args.outputs });
    if let Some(event) = event.as_object_mut() {
        event.extend(shapes);
    }
    ui.result(&event, format!("wrote {} to {}", said.join(", "), args.outputs.display()));
    Ok(())
}

/// The network of a pipeline with one U-Net, or the only network in a folder.
fn load(args: &RunArgs, device: &Device) -> Result<Component> {
    let pipeline = args.model.join("model_index.json").exists();
    if pipeline || !args.model.join("config.json").exists() {
        let folder = ModelDir::open(&args.model)?;
        return Ok(Component::Network(Box::new(folder.load_unet(device)?)));
    }
    Ok(ComponentDir::open(&args.model)?.load(device)?)
}

fn has(inputs: &SafetensorsFile, name: &str) -> bool {
    inputs.names().iter().any(|n| n == name)
}

/// A tensor with `D` dimensions; errors describe it as `expected`.
fn given<const D: usize>(
    inputs: &SafetensorsFile,
    name: &str,
    expected: &str,
    device: &Device,
) -> Result<Tensor<D>> {
    let HostTensor { shape, values } = tensors::read(inputs, name)?;
    ensure!(!values.is_empty(), "{name}: has shape {shape:?}, which is empty");
    match <[usize; D]>::try_from(shape) {
        Ok(shape) => Ok(ops::from_host(values, shape, device)),
        Err(shape) => bail!("{name}: has shape {shape:?}, expected {expected}"),
    }
}

fn host(x: &Batch) -> HostTensor {
    HostTensor { shape: [&[x.len()], x.shape().dims()].concat(), values: x.to_host() }
}

fn denoise(
    network: &dyn Network,
    inputs: &SafetensorsFile,
    device: &Device,
) -> Result<BTreeMap<String, HostTensor>> {
    let HostTensor { shape, values } = tensors::read(inputs, "sample")?;
    ensure!(
        shape.len() >= 2 && !values.is_empty(),
        "sample: has shape {shape:?}, expected [B, C, …], not empty"
    );
    let (b, shape) = (shape[0], SampleShape::from(&shape[1..]));
    let x = Batch::from_host(values, b, &shape, device);
    let times = per_row("timestep", tensors::read(inputs, "timestep")?, b)?;
    let mut conditions = Conditions::none();
    if has(inputs, "class_labels") && network.spec().embedding.is_some() {
        let vectors = given(inputs, "class_labels", "[B, width]", device)?;
        conditions = conditions.with(EMBEDDING, Entry::Vectors(vectors));
    } else if has(inputs, "class_labels") {
        let labels = per_row("class_labels", tensors::read(inputs, "class_labels")?, b)?;
        let classes = whole("class_labels", &labels)?.into_iter().map(|c| c as usize).collect();
        conditions = conditions.with(CLASSES, Entry::Indices(classes));
    }
    if has(inputs, "guidance_scale") {
        let scales = per_row("guidance_scale", tensors::read(inputs, "guidance_scale")?, b)?;
        let scales = scales.into_iter().map(|scale| vec![scale]).collect();
        conditions = conditions.with(GUIDANCE, Entry::Numbers(scales));
    }
    if has(inputs, "encoder_hidden_states") {
        let text = given(inputs, "encoder_hidden_states", "[B, T, width]", device)?;
        conditions = conditions.with(TEXT, Entry::Tokens(text));
    }
    if has(inputs, "added_time_ids") {
        let HostTensor { shape, values } = tensors::read(inputs, "added_time_ids")?;
        let &[rows, n] = &*shape else { bail!("added_time_ids: has shape {shape:?}, expected [B, 3]") };
        ensure!(rows > 0 && n > 0, "added_time_ids: the shape {shape:?} is empty");
        let numbers = values.chunks(n).map(<[f32]>::to_vec).collect();
        conditions = conditions.with(ADDED, Entry::Numbers(numbers));
    }
    let (embeds, ids) = ("added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids");
    if has(inputs, embeds) || has(inputs, ids) {
        let HostTensor { shape, values } = tensors::read(inputs, ids)?;
        let &[rows, n] = &*shape else { bail!("{ids}: has shape {shape:?}, expected [B, n]") };
        ensure!(rows > 0 && n > 0, "{ids}: the shape {shape:?} is empty");
        let sizes = values.chunks(n).map(<[f32]>::to_vec).collect();
        let pooled = given(inputs, embeds, "[B, width]", device)?;
        conditions = conditions.with(POOLED, Entry::Vectors(pooled)).with(SIZES, Entry::Numbers(sizes));
    }
    network.check(b, &shape, &times, &conditions)?;
    let y = network.forward(x, &times, &conditions, Mode::Eval);
    let shape = [&[b], y.shape().dims()].concat();
    Ok([("sample".to_owned(), HostTensor { shape, values: y.to_host() })].into())
}

fn code(
    codec: &dyn Codec,
    inputs: &SafetensorsFile,
    device: &Device,
) -> Result<BTreeMap<String, HostTensor>> {
    let mut outputs = BTreeMap::new();
    let mut latents = None;
    if has(inputs, "sample") {
        let sample = match codec.spec().axes {
            1 => Batch::of(given::<3>(inputs, "sample", "[B, C, T]", device)?),
            3 => Batch::of(given::<5>(inputs, "sample", "[B, C, F, H, W]", device)?),
            _ => Batch::of(given::<4>(inputs, "sample", "[B, C, H, W]", device)?),
        };
        let Encoded { mean, logvar } = codec.encode(sample)?;
        latents = Some(mean.clone());
        outputs.insert("latent_mean".to_owned(), host(&mean));
        if let Some(logvar) = logvar {
            outputs.insert("latent_logvar".to_owned(), host(&logvar));
        }
    }
    if has(inputs, "latents") {
        let CodecSpec { axes, stride, .. } = codec.spec();
        latents = Some(match codec.latent_axes(&vec![stride; axes]).len() {
            1 => Batch::of(given::<3>(inputs, "latents", "[B, C, t]", device)?),
            3 => Batch::of(given::<5>(inputs, "latents", "[B, C, f, h, w]", device)?),
            _ => Batch::of(given::<4>(inputs, "latents", "[B, C, h, w]", device)?),
        });
    }
    let latents = latents.ok_or_else(|| anyhow!("an autoencoder needs `sample` or `latents`"))?;
    outputs.insert("decoded".to_owned(), host(&codec.decode(latents)?));
    Ok(outputs)
}

fn read(encoder: &ClipTextModel, inputs: &SafetensorsFile) -> Result<BTreeMap<String, HostTensor>> {
    let HostTensor { shape, values } = tensors::read(inputs, "input_ids")?;
    let &[rows, n] = &*shape else { bail!("input_ids: has shape {shape:?}, expected [B, T]") };
    ensure!(rows > 0 && n > 0, "input_ids: the shape {shape:?} is empty");
    let texts: Vec<Vec<u32>> = whole("input_ids", &values)?.chunks(n).map(<[u32]>::to_vec).collect();
    let features = encoder.encode(&texts, 1)?;
    let pooled = if encoder.config().projects() { "text_embeds" } else { "pooler_output" };
    Ok([
        ("last_hidden_state".to_owned(), host(&Batch::of(features.last))),
        ("penultimate_hidden_state".to_owned(), host(&Batch::of(features.hidden))),
        (pooled.to_owned(), host(&Batch::of(features.pooled))),
    ]
    .into())
}

/// What `encode` gives for each text without the tokens `pad` that fill it up; texts must then be of one length.
fn read_each(
    name: &str,
    inputs: &SafetensorsFile,
    pad: u32,
    encode: impl Fn(&[u32]) -> Result<Batch>,
) -> Result<BTreeMap<String, HostTensor>> {
    let HostTensor { shape, values } = tensors::read(inputs, "input_ids")?;
    let &[rows, n] = &*shape else { bail!("input_ids: has shape {shape:?}, expected [B, T]") };
    ensure!(rows > 0 && n > 0, "input_ids: the shape {shape:?} is empty");
    let mut made: Vec<Batch> = Vec::new();
    for text in whole("input_ids", &values)?.chunks(n) {
        let text: Vec<u32> = text.iter().copied().filter(|id| *id != pad).collect();
        let features = encode(&text)?;
        if let Some(first) = made.first() {
            let same = first.shape() == features.shape();
            ensure!(same, "input_ids: without padding (token {pad}), all texts must have the same length");
        }
        made.push(features);
    }
    Ok([(name.to_owned(), host(&Batch::cat(&made)))].into())
}

fn whole(name: &str, values: &[f32]) -> Result<Vec<u32>> {
    let fits = values.iter().all(|v| v.fract() == 0.0 && *v >= 0.0);
    ensure!(fits, "{name}: expected integers ≥ 0, got {values:?}");
    Ok(values.iter().map(|v| *v as u32).collect())
}

/// One value per row; a single value is used for all.
fn per_row(name: &str, tensor: HostTensor, rows: usize) -> Result<Vec<f32>> {
    match tensor.values.len() {
        1 => Ok(vec![tensor.values[0]; rows]),
        n if n == rows => Ok(tensor.values),
        n => bail!("{name}: {n} values for a batch of {rows}, expected 1 or {rows}"),
    }
}
