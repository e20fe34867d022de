//! The built-in encoder, cached features, and the report page.

#![allow(clippy::unwrap_used)]

use std::{fs, ops::ControlFlow, sync::LazyLock};

use tweedie_data::{DataConfig, Dataset, EmojiClasses, EmojiConfig, Image};
use tweedie_eval::{
    extract::{Encoder, ExtractError, Extracted, Extractor, stored},
    metrics::{Features, Moments, Reference, Watch, frechet},
    neighbours::{Memorisation, nearest_features},
    quality::{Outcome, Quality},
    report::{Evaluation, Pictures, html},
};
use tweedie_ops::Device;

static EMOJI: LazyLock<Vec<Image>> = LazyLock::new(|| {
    let data = Dataset::open(&DataConfig::default()).unwrap();
    (0..400).map(|i| (*data.get(i * data.len() / 400).unwrap().sample).clone()).collect()
});

static ENCODER: LazyLock<Encoder> = LazyLock::new(|| Encoder::embedded(&Device::flex()).unwrap());

const QUIET: Watch<'_> = &|_, _| {};

fn extract(images: &[Image]) -> Extracted {
    ENCODER.extract(images, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// Shifted right by one pixel, and darker.
fn moved(image: &Image) -> Image {
    let mut moved = image.clone();
    for (to, from) in
        moved.pixels.chunks_exact_mut(3 * image.width).zip(image.pixels.chunks_exact(3 * image.width))
    {
        to[3..].copy_from_slice(&from[..from.len() - 3]);
        to.iter_mut().for_each(|v| *v = (f64::from(*v) * 0.93) as u8);
    }
    moved
}

#[test]
fn a_changed_emoji_is_still_known() {
    let all = extract(&EMOJI);
    assert_eq!((all.features.dim(), ENCODER.dim()), (64, 64));
    let changed: Vec<Image> = EMOJI.iter().map(moved).collect();
    let set = Reference::new(&all.features);
    let found = nearest_features(&extract(&changed).features, &set, QUIET).unwrap();
    let known = found.iter().enumerate().filter(|(i, n)| n.index == *i).count();
    assert!(known > 340, "{known} of {}", EMOJI.len());
    let moments = Moments::of(&all.features);
    let variance = moments.covariance().iter().step_by(65).sum::<f64>() / 64.0;
    assert!((0.7..1.4).contains(&variance), "{variance}");
    assert!(moments.mean().iter().all(|m| m.abs() < 0.5));
    for p in all.probabilities.values().chunks_exact(all.probabilities.dim()) {
        assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn features_depend_on_the_picture_alone() {
    let together = extract(&EMOJI[..70]);
    let alone = extract(&EMOJI[69..70]);
    assert_eq!(together.features.values()[69 * 64..], *alone.features.values());
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one.install(|| extract(&EMOJI[..70])), together);
    assert!(matches!(ENCODER.extract(&[], &mut |_, _| ControlFlow::Continue(())), Err(ExtractError::Empty)));
    let stopped = ENCODER.extract(&EMOJI, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ExtractError::Cancelled)));
}

/// Different sets have a worse score than similar ones, and worse images a worse one than better images.
#[test]
fn scores_follow_what_eyes_see() {
    let group = |name: &str| {
        let emoji =
            EmojiConfig { classes: EmojiClasses::Group, groups: vec![name.into()], ..EmojiConfig::default() };
        let data = Dataset::open(&DataConfig { emoji, ..DataConfig::default() }).unwrap();
        (0..data.len()).map(|i| (*data.get(i).unwrap().sample).clone()).collect::<Vec<_>>()
    };
    let faces = group("Smileys & Emotion");
    let even: Vec<Image> = faces.iter().step_by(2).cloned().collect();
    let odd: Vec<Image> = faces.iter().skip(1).step_by(2).cloned().collect();
    let noisy = |by: u32| {
        let noise = |(i, v): (usize, &u8)| {
            let coin = (i as u32).wrapping_mul(2_654_435_761) >> 24;
            (i32::from(*v) + (coin as i32 - 128) * by as i32 / 128).clamp(0, 255) as u8
        };
        let change =
            |image: &Image| Image { pixels: image.pixels.iter().enumerate().map(noise).collect(), ..*image };
        odd.iter().map(change).collect::<Vec<_>>()
    };
    let data = Moments::of(&extract(&even).features);
    let fid = |images: &[Image]| frechet::fid(&extract(images).features, &data).unwrap().value;
    let blurred: Vec<Image> = odd.iter().map(blurred).collect();
    let scores = [fid(&odd), fid(&blurred), fid(&noisy(64)), fid(&noisy(96)), fid(&group("Food & Drink"))];
    let [plain, blurred, noisy, noisier, food] = scores;
    assert!(plain < blurred && plain < noisy && noisy < noisier && 2.0 * noisier < food, "{scores:?}");
}

/// The mean of 3×3 pixels, inside.
fn blurred(image: &Image) -> Image {
    let mut out = image.clone();
    let line = 3 * image.width;
    for at in line + 3..image.pixels.len() - line - 3 {
        let near = |d: usize| image.pixels[at + d - line - 3..].iter().step_by(3).take(3);
        let sum: u32 = [0, line, 2 * line].into_iter().flat_map(near).map(|v| u32::from(*v)).sum();
        out.pixels[at] = (sum / 9) as u8;
    }
    out
}

#[test]
fn features_are_kept_and_made_anew_when_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let run =
        |images: &[Image]| stored(&*ENCODER, images, folder.path(), &mut |_, _| ControlFlow::Continue(()));
    let first = run(&EMOJI[..5]).unwrap();
    assert!(!first.found && first.not_kept.is_none());
    let again = run(&EMOJI[..5]).unwrap();
    assert!(again.found);
    assert_eq!(again.extracted, first.extracted);
    // The smallest possible change, as from another instruction set or version.
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        bytes[8 + header] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let anew = run(&EMOJI[..5]).unwrap();
    assert!(!anew.found && anew.extracted == first.extracted);
    assert!(!run(&EMOJI[1..6]).unwrap().found, "other pictures");
    for entry in fs::read_dir(folder.path()).unwrap() {
        fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    let anew = run(&EMOJI[..5]).unwrap();
    assert!(!anew.found && run(&EMOJI[..5]).unwrap().found);
    assert_eq!(anew.extracted, first.extracted);
    fs::write(folder.path().join("file"), "").unwrap();
    let nowhere =
        stored(&*ENCODER, &EMOJI[..2], &folder.path().join("file"), &mut |_, _| ControlFlow::Continue(()));
    assert!(nowhere.unwrap().not_kept.is_some());
}

#[test]
fn the_page_holds_everything_and_needs_nothing() {
    let (a, b) = (extract(&EMOJI[..90]), extract(&EMOJI[90..200]));
    let data = Reference::new(&b.features);
    let quality = Quality::of(&*ENCODER, &a, &data, QUIET);
    assert!(quality.rows().iter().all(|(_, _, o)| matches!(o, Outcome::Scored { .. })), "{quality:?}");
    let few = extract(&EMOJI[..10]);
    let refused = Quality::of(&*ENCODER, &few, &data, QUIET);
    assert!(matches!(&refused.fid, Outcome::Refused { refused } if refused.contains("10 images for 64")));
    let near = |x: &Features| nearest_features(x, &data, QUIET).unwrap();
    let features = Memorisation { generated: near(&a.features), held_out: near(&few.features) };
    let found = Evaluation {
        subject: "a <model> & more".into(),
        data: "emoji".into(),
        seed: 7,
        facts: vec![("steps".into(), "30".into())],
        quality: vec![quality],
        held_out: vec![refused],
        pixels: None,
        features: Some(features),
        bound: None,
        ode: None,
        over_time: Vec::new(),
        words: None,
        words_held_out: None,
        cost: vec![("features".into(), 1.25), ("scores".into(), 0.5)],
    };
    let png = EMOJI[0].to_png("a.png".as_ref()).unwrap();
    let page = html(&found, &Pictures { samples: png.clone(), features: png, ..Pictures::default() });
    for text in [
        "a &lt;model&gt; &amp; more",
        "FID",
        "none [1]",
        "[1] FID needs",
        "neither with FID of Inception",
        "<svg",
        "90 generated",
        "1.8 s: features 1.2 s, scores 0.5 s",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert_eq!(page.matches("data:image/png;base64,iVBORw0KGgo").count(), 2);
    assert!(!page.contains("http") && !page.contains("NaN") && !page.contains("<script"));
    for tag in ["table", "tr", "td", "th", "svg", "figure", "p", "h2"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert!(serde_json::to_string(&found).unwrap().contains("\"refused\""));
}
