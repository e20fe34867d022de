//! Runs on several ranks, here threads: the bits do not depend on their number, and whatever differs or fails is told.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, thread};

use tweedie_hub::weights::{self, Precision};
use tweedie_models::{AutoencoderKl, AutoencoderKlConfig, export, unet::SampleSize};
use tweedie_ops::Device;
use tweedie_system::ranks::{Ranks, Threads};
use tweedie_train::{ConfigBuilder, RunConfig, TrainError, TrainEvent, TrainLoop};

/// Everything that draws random values is turned on.
const TOML: &str = r#"
    preset = "tiny"
    [run]
    steps = 4
    batch = 2
    accumulation = 8
    checkpoint_every = 2
    preview_every = 0
    validate_every = 2
    validation_images = 4
    log_every = 1
    [data]
    size = 8
    [model]
    base_channels = 8
    norm_groups = 4
    head_channels = 8
    dropout = 0.1
    [augment]
    flip = 0.5
    [augment.edm]
    p = 0.5
    [ema]
    kind = "power"
    stds = [0.05, 0.1]
    snapshot_every = 2
    [conditioning]
    label_dropout = 0.3
"#;

fn config(out: &Path, assignments: &[&str]) -> RunConfig {
    let builder = ConfigBuilder::text(TOML, "test").unwrap();
    let builder = assignments.iter().fold(builder, |b, a| b.set(a).unwrap());
    let mut config = builder.build().unwrap();
    config.run.out = out.into();
    config
}

type Ended = Result<Vec<TrainEvent>, TrainError>;

/// What `work` returns on each of `count` ranks.
fn on_all<T: Send>(count: usize, work: impl Fn(Arc<dyn Ranks>) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> =
            Threads::all(count).into_iter().map(|r| scope.spawn(move || work(Arc::new(r)))).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn start(config: &RunConfig, count: usize) -> Vec<Ended> {
    on_all(count, |ranks| TrainLoop::new_on(config.clone(), ranks)?.collect())
}

fn resume(config: &RunConfig, count: usize) -> Vec<Ended> {
    on_all(count, |ranks| TrainLoop::resume_on(config.clone(), ranks)?.collect())
}

/// The error of each rank.
fn errors(ended: Vec<Ended>) -> Vec<String> {
    ended.into_iter().map(|e| e.err().map(|e| e.to_string()).unwrap_or_default()).collect()
}

/// All files of tensors below a run's folder.
fn tensors(out: &Path) -> BTreeMap<String, Vec<u8>> {
    fn add(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(root, &path, found);
            } else if path.extension().is_some_and(|e| e == "safetensors") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    add(out, out, &mut found);
    found
}

/// The log without times.
fn log(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let line = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["images_per_s", "elapsed_s"] {
            value.as_object_mut().unwrap().remove(key);
        }
        value.to_string()
    };
    text.lines().map(line).collect()
}

fn assert_same(out: &Path, expected: &Path, what: &str) {
    let (found, expected_tensors) = (tensors(out), tensors(expected));
    assert!(!found.is_empty());
    assert_eq!(found.keys().collect::<Vec<_>>(), expected_tensors.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in found {
        assert!(bytes == expected_tensors[&name], "{what}: {name}");
    }
    assert_eq!(log(out), log(expected), "{what}");
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let alone = dir.path().join("alone");
    // Held-out images and previews are shared, too.
    let set = ["run.preview_every=4", "run.preview_images=5", "run.preview_steps=2"];
    TrainLoop::new(config(&alone, &set)).unwrap().for_each(|e| drop(e.unwrap()));
    let preview = |out: &Path| fs::read(out.join("previews/step-000004.png")).unwrap();
    for count in [1, 2, 3, 4, 8] {
        let out = dir.path().join(format!("ranks-{count}"));
        let ended = start(&config(&out, &set), count);
        assert!(ended.iter().all(Result::is_ok), "{:?}", errors(ended));
        assert_same(&out, &alone, &format!("{count} ranks"));
        assert!(preview(&out) == preview(&alone), "{count} ranks");
    }
}

#[test]
fn a_run_resumes_with_another_number_of_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    start(&config(&whole, &["run.steps=6"]), 1);
    assert!(start(&config(&parts, &["run.steps=2"]), 4).iter().all(Result::is_ok));
    assert!(resume(&config(&parts, &["run.steps=4"]), 3).iter().all(Result::is_ok));
    let last = resume(&config(&parts, &["run.steps=6"]), 1).remove(0).unwrap();
    assert!(matches!(last.first(), Some(TrainEvent::Started { step: 4, .. })));
    assert_same(&parts, &whole, "resumed");
}

#[test]
fn times_that_follow_the_losses_are_those_of_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let set =
        ["loss.times=loss-second-moment", "diffusion.train_steps=4", "run.accumulation=3", "run.batch=8"];
    let outs = [1, 3].map(|count| {
        let out = dir.path().join(format!("{count}"));
        let ended = start(&config(&out, &set), count);
        assert!(ended.iter().all(Result::is_ok), "{:?}", errors(ended));
        out
    });
    assert_same(&outs[1], &outs[0], "three ranks");
    assert!(tensors(&outs[0]).contains_key("checkpoints/step-000004/times.safetensors"));
}

#[test]
fn an_autoencoder_with_a_discriminator_has_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let outs = [1, 2].map(|count| {
        let out = dir.path().join(format!("{count}"));
        let set = [
            "run.steps=4",
            "run.batch=2",
            "run.accumulation=3",
            "run.checkpoint_every=2",
            "run.preview_every=0",
            "run.validate_every=2",
            "run.validation_images=5",
            "run.log_every=1",
            "data.size=16",
            "data.emoji.groups=[\"Smileys & Emotion\"]",
            "vae.channels=[8, 16]",
            "vae.norm_groups=4",
            "vae.perceptual=0",
            "vae.adversarial.start=1",
            "vae.adversarial.channels=8",
            "vae.adversarial.layers=1",
        ];
        let builder = ConfigBuilder::preset("vae").unwrap();
        let mut config = set.iter().fold(builder, |b, a| b.set(a).unwrap()).build().unwrap();
        config.run.out = out.clone();
        let ended = start(&config, count);
        assert!(ended.iter().all(Result::is_ok), "{:?}", errors(ended));
        out
    });
    assert_same(&outs[1], &outs[0], "two ranks");
    let discriminator = "checkpoints/step-000004/discriminator-optimizer.safetensors";
    assert!(tensors(&outs[0])[discriminator].len() > 1000);
}

#[test]
fn a_text_to_image_model_has_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let vae = AutoencoderKlConfig {
        block_out_channels: vec![8, 8],
        down_block_types: vec![tweedie_models::vae::EncoderBlockType::DownEncoderBlock2D; 2],
        up_block_types: vec![tweedie_models::vae::DecoderBlockType::UpDecoderBlock2D; 2],
        norm_num_groups: 4,
        sample_size: SampleSize::Square(16),
        ..AutoencoderKlConfig::default()
    };
    let folder = dir.path().join("vae");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), vae.to_json()).unwrap();
    let model = AutoencoderKl::new(&vae, 5, &Device::flex()).unwrap();
    let file = folder.join("diffusion_pytorch_model.safetensors");
    weights::write(&file, &export(&model), Precision::F32, &BTreeMap::new()).unwrap();
    let outs = [1, 3].map(|count| {
        let out = dir.path().join(format!("{count}"));
        let set = [
            "run.steps=2",
            "run.batch=2",
            "run.accumulation=4",
            "run.checkpoint_every=2",
            "run.preview_every=0",
            "run.validation_images=4",
            "run.log_every=1",
            "data.size=16",
            "data.emoji.groups=[\"Smileys & Emotion\"]",
            "model.base_channels=8",
            "model.multipliers=[1, 2]",
            "model.attention_levels=[1]",
            "model.head_channels=8",
            "model.norm_groups=4",
            "text.vocabulary=600",
            "text.tokens=12",
            "text.width=16",
            "text.layers=1",
            "text.heads=2",
            "text.latents.variants=2",
        ];
        let builder = ConfigBuilder::preset("text-to-image").unwrap();
        let builder = builder.set(&format!("text.vae={:?}", folder.to_str().unwrap())).unwrap();
        let mut config = set.iter().fold(builder, |b, a| b.set(a).unwrap()).build().unwrap();
        config.run.out = out.clone();
        let ended = start(&config, count);
        assert!(ended.iter().all(Result::is_ok), "{:?}", errors(ended));
        out
    });
    assert_same(&outs[1], &outs[0], "three ranks");
}

#[test]
fn archives_read_along_their_files_give_the_same_bits_on_ranks_and_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let shards = dir.path().join("shards");
    fs::create_dir(&shards).unwrap();
    for shard in 0..3u8 {
        let mut tar = tar::Builder::new(fs::File::create(shards.join(format!("{shard}.tar"))).unwrap());
        for i in 0..12u8 {
            let pixels = (0..192).map(|at| (at as u8).wrapping_mul(12 * shard + i + 1)).collect();
            let image = tweedie_media::Image { width: 8, height: 8, pixels };
            let bytes = image.to_png(Path::new("x.png")).unwrap();
            for (name, bytes) in
                [(format!("{i:03}.png"), &bytes[..]), (format!("{i:03}.cls"), &[b'0' + shard])]
            {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, name, bytes).unwrap();
            }
        }
        tar.finish().unwrap();
    }
    let source = format!("data.source={{ packed = {:?} }}", shards.to_str().unwrap());
    // More than one epoch, in windows of ten images.
    let set = [source.as_str(), "data.shuffle=10", "data.cache_mb=0", "run.accumulation=4", "run.batch=3"];
    let [alone, shared, stopped] = ["alone", "shared", "stopped"].map(|name| dir.path().join(name));
    let with = |steps| [&set[..], &[steps]].concat();
    assert!(start(&config(&alone, &with("run.steps=6")), 1).iter().all(Result::is_ok));
    let ended = start(&config(&shared, &with("run.steps=6")), 2);
    assert!(ended.iter().all(Result::is_ok), "{:?}", errors(ended));
    start(&config(&stopped, &with("run.steps=4")), 2);
    assert!(resume(&config(&stopped, &with("run.steps=6")), 1).iter().all(Result::is_ok));
    assert_same(&shared, &alone, "two ranks");
    assert_same(&stopped, &alone, "resumed");
}

#[test]
fn ranks_that_differ_are_told_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let images = ["a", "b"].map(|name| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        for i in 0..20u8 {
            let pixels = (0..192).map(|at| (at as u8).wrapping_mul(i + name.as_bytes()[0])).collect();
            let image = tweedie_media::Image { width: 8, height: 8, pixels };
            image.save_png(folder.join(format!("{i}.png"))).unwrap();
        }
        folder
    });
    let differ = |set: &(dyn Fn(usize) -> Vec<String> + Sync)| {
        let out = dir.path().join("run");
        let ended: Vec<Ended> = on_all(3, |ranks| {
            let set = set(ranks.rank());
            let set: Vec<&str> = set.iter().map(String::as_str).collect();
            TrainLoop::new_on(config(&out, &set), ranks)?.collect()
        });
        assert!(!out.exists(), "a run that did not begin left its folder");
        let errors = errors(ended);
        assert!(errors.iter().all(|e| *e == errors[0]), "{errors:?}");
        errors[0].clone()
    };
    let error = differ(&|rank| vec![format!("run.seed={}", u8::from(rank == 2))]);
    assert_eq!(error, "rank 2 differs from rank 0 in run.seed (1 instead of 0)");
    let error = differ(&|rank| vec![format!("run.steps={}", 4 + rank)]);
    assert_eq!(error, "rank 1 differs from rank 0 in run.steps (5 instead of 4)");
    // The same folder name, with other images on one machine.
    let error = differ(&|rank| {
        let folder = images[usize::from(rank == 1)].to_str().unwrap();
        vec![format!("data.source={{ folder = {folder:?} }}"), "conditioning.classes=false".into()]
    });
    assert!(error.starts_with("rank 1 differs from rank 0 in the images ("), "{error}");
}

#[test]
fn what_fails_on_one_rank_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let few = errors(start(&config(&out, &["run.accumulation=2", "run.batch=9"]), 4));
    let expected = "run.accumulation = 2: expected at least 4, one pass for each of 4 ranks; run.batch = 3 and \
                    run.accumulation = 6 keep 18 images per step";
    assert!(few.iter().all(|e| e == expected), "{few:?}");

    // One machine does not have the images.
    let ended: Vec<Ended> = on_all(2, |ranks| {
        let source =
            if ranks.rank() == 1 { "data.source={ folder = \"none\" }" } else { "data.source=\"emoji\"" };
        TrainLoop::new_on(config(&out, &[source]), ranks)?.collect()
    });
    let found = errors(ended);
    assert!(found[0].starts_with("rank 1: ") && found[0].contains("none"), "{found:?}");
    assert!(found[1].contains("none does not exist") && !found[1].contains("rank"), "{found:?}");

    // Values that are not finite in the passes of some ranks.
    let found = errors(start(
        &config(&out, &["learning_rate.peak=1e30", "learning_rate.warmup=0", "run.checkpoint_every=1"]),
        2,
    ));
    assert!(found.iter().all(|e| e.contains("not finite")), "{found:?}");
}

#[test]
fn images_that_only_one_rank_finds_to_be_corrupt_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    for i in 0..8u8 {
        let image = tweedie_media::Image { width: 8, height: 8, pixels: vec![i; 192] };
        image.save_png(images.join(format!("{i}.png"))).unwrap();
    }
    fs::write(images.join("4.png"), "no image").unwrap();
    let source = format!("data.source={{ folder = {:?} }}", images.to_str().unwrap());
    let warnings = |ended: Ended| -> Vec<String> {
        let warning = |event| if let TrainEvent::Warning(text) = event { Some(text) } else { None };
        ended.unwrap().into_iter().filter_map(warning).collect()
    };
    let mut finders = [0, 0];
    for seed in 0..6 {
        // One epoch, in which each image is read by one rank.
        let seed = format!("run.seed={seed}");
        let set = [&source, &seed, "data.holdout=0", "data.cache_mb=0", "run.batch=1", "run.accumulation=2"];
        let mut ended = start(&config(&dir.path().join(&seed), &set), 2);
        let first = warnings(ended.remove(0));
        // The other one may have prepared a step of the next epoch.
        assert!((1..=2).contains(&first.len()), "{first:?}");
        assert!(first.iter().all(|text| text.contains("skipped") && text.contains("4.png")), "{first:?}");
        finders[usize::from(first.iter().any(|text| text.starts_with("rank 1: ")))] += 1;
    }
    assert!(finders[0] > 0 && finders[1] > 0, "{finders:?}");
}

#[test]
fn a_rank_that_disappears_ends_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let ended: Vec<Ended> = on_all(3, |ranks| {
        let last = if ranks.rank() == 1 { 3 } else { usize::MAX };
        TrainLoop::new_on(config(&out, &["run.steps=4"]), ranks)?.take(last).collect()
    });
    let found = errors(ended);
    assert!(found[0].contains("rank 1 has ended") && found[2].contains("has ended"), "{found:?}");
}
