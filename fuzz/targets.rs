//! One target for each file format that may come from untrusted sources: none may panic, hang, or use memory out of
//! proportion to its input. Run by `cargo fuzz`, and by the test `fuzz` of the crate `tweedie`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tweedie::{
    data::{DataConfig, Dataset, OnError, Source},
    hub::{
        ClipTokenizer, Extras, Lora, RobertaTokenizer, SafetensorsFile, SchedulerConfig, UnigramTokenizer,
    },
    media::read_sound,
    models::{
        AutoencoderKlConfig, AutoencoderOobleckConfig, ClapTextConfig, ClipTextConfig, DitConfig,
        HifiGanConfig, StableAudioDitConfig, StableAudioProjectionConfig, T5Config, TensorSource,
        UNet2DConditionConfig, UNet2DConfig, UNet2DModel,
    },
    pipe::{Pipeline, Request, media::read_request},
    train::{Checkpoint, ConfigBuilder},
};

/// Reads an input; creates files in the folder.
pub type Target = fn(&[u8], &Path);

/// Targets by name, which is also the name of their folder of seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("config", config),
    ("state", state),
    ("safetensors", safetensors),
    ("scheduler", scheduler),
    ("tokenizer", tokenizer),
    ("network", network),
    ("request", request),
    ("captions", captions),
    ("picture", picture),
    ("parquet", parquet),
];

fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a temporary file");
    path
}

/// The configuration of a training run.
fn config(bytes: &[u8], _: &Path) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(config) = ConfigBuilder::text(&text, "fuzz").and_then(ConfigBuilder::build) else { return };
    let _ = (config.unet(3), config.to_toml());
}

/// A checkpoint's `state.json`.
fn state(bytes: &[u8], folder: &Path) {
    file(folder, "state.json", bytes);
    if let Ok(checkpoint) = Checkpoint::open(folder) {
        // As the program displays it.
        let _ = std::time::Duration::from_secs_f64(checkpoint.state.elapsed_s);
    }
}

/// Weights, also as a LoRA.
fn safetensors(bytes: &[u8], folder: &Path) {
    let path = file(folder, "a.safetensors", bytes);
    if let Ok(weights) = SafetensorsFile::open(&path) {
        for name in weights.names() {
            let _ = (weights.shape(&name), weights.read(&name));
        }
    }
    let _ = Lora::open(&path, 1.0);
}

/// `scheduler_config.json`.
fn scheduler(bytes: &[u8], _: &Path) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(config) = SchedulerConfig::from_json(&text, Path::new("fuzz")) else { return };
    for steps in [1, 7] {
        let _ = config.resolve(steps);
    }
    let _ = config.to_json();
}

const TEXT: &str = "a photo of 2 cats' café <|endoftext|> 日本 ﬁ½\t e\u{301}</s>";

/// `tokenizer.json` of any kind.
fn tokenizer(bytes: &[u8], folder: &Path) {
    file(folder, "tokenizer.json", bytes);
    if let Ok(tokenizer) = ClipTokenizer::open(folder) {
        let _ = tokenizer.encode(TEXT);
    }
    if let Ok(tokenizer) = RobertaTokenizer::open(folder) {
        let _ = tokenizer.encode(TEXT);
    }
    file(folder, "tokenizer_config.json", br#"{"model_max_length": 128}"#);
    if let Ok(tokenizer) = UnigramTokenizer::open(folder) {
        let _ = tokenizer.encode(TEXT);
    }
}

/// `config.json` of any network.
fn network(bytes: &[u8], _: &Path) {
    let text = String::from_utf8_lossy(bytes);
    let _ = UNet2DConfig::from_json(&text).map(|config| config.to_json());
    let _ = UNet2DConditionConfig::from_json(&text).map(|config| config.to_json());
    let _ = AutoencoderKlConfig::from_json(&text).map(|config| config.to_json());
    let _ = DitConfig::from_json(&text).map(|config| config.to_json());
    let _ = ClipTextConfig::from_json(&text);
    let _ = (ClapTextConfig::from_json(&text), T5Config::from_json(&text));
    let _ = HifiGanConfig::from_json(&text).map(|config| config.stride());
    let _ = AutoencoderOobleckConfig::from_json(&text).map(|config| config.stride());
    let _ = StableAudioDitConfig::from_json(&text).map(|config| config.spec());
    let _ = StableAudioProjectionConfig::from_json(&text);
}

/// A model that takes little time to check a request.
fn small_pipeline() -> &'static Pipeline {
    static PIPELINE: OnceLock<Pipeline> = OnceLock::new();
    PIPELINE.get_or_init(|| {
        let config = r#"{"sample_size": 8, "block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "num_class_embeds": 3}"#;
        let device = tweedie::ops::device("cpu").expect("the CPU");
        let config = UNet2DConfig::from_json(config).expect("a valid configuration");
        let unet = UNet2DModel::new(&config, 0, &device).expect("a valid network");
        let scheduler = SchedulerConfig::flow(1000, 1.0).expect("a valid schedule");
        let extras = Extras { null_class: Some(2), ..Extras::default() };
        Pipeline::of_network(unet, scheduler, extras, &device)
    })
}

/// A request and a model's defaults, in JSON or within a PNG or WAV file.
fn request(bytes: &[u8], folder: &Path) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let _ = small_pipeline().prepare(&request);
    }
    let _ = serde_json::from_slice::<Extras>(bytes);
    let path = file(folder, "a.png", bytes);
    let _ = read_request(&path);
    if bytes.starts_with(b"RIFF") {
        let _ = read_sound(&path);
    }
}

fn open(source: Source, on_error: OnError) {
    let config = DataConfig { source, on_error, size: 4, ..DataConfig::default() };
    if let Ok(set) = Dataset::open(&config) {
        let _ = (0..set.len().min(8)).map(|i| set.get(i).map(drop)).collect::<Vec<_>>();
    }
}

/// Captions in lines, in a table and beside an image.
fn captions(bytes: &[u8], folder: &Path) {
    tweedie::data::Image::filled(2, 2, tweedie::data::Rgb([9; 3]))
        .save_png(folder.join("a.png"))
        .expect("a temporary file");
    for name in ["metadata.jsonl", "metadata.csv", "a.txt"] {
        let path = file(folder, name, bytes);
        open(Source::Folder(folder.into()), OnError::Skip);
        open(Source::Folder(folder.into()), OnError::Fail);
        let _ = fs::remove_file(path);
    }
}

/// An image of any format.
fn picture(bytes: &[u8], folder: &Path) {
    let config = DataConfig { size: 4, ..DataConfig::default() };
    let _ = tweedie::data::open_image(&file(folder, "a", bytes), &config);
}

/// A table of images.
fn parquet(bytes: &[u8], folder: &Path) {
    open(Source::Parquet(file(folder, "a.parquet", bytes)), OnError::Skip);
}
