//! Augmentation and the stream of samples: pure functions of the seed and the position.

#![allow(clippy::unwrap_used)]

use tweedie_data::{
    AugmentConfig, Batch, DataConfig, Dataset, EdmConfig, Image, JitterConfig, Order, Padding, Rgb, Stream,
    augment,
};

fn picture() -> Image {
    Image { width: 16, height: 16, pixels: (0..768).map(|i| (i * 97 % 256) as u8).collect() }
}

fn mirrored(image: &Image) -> Image {
    let pixels = (0..256).flat_map(|i| image.pixel(15 - i % 16, i / 16)).collect();
    Image { pixels, ..image.clone() }
}

#[test]
fn nothing_asked_for_nothing_done() {
    let image = picture();
    for n in 0..50 {
        assert_eq!(augment(&image, &AugmentConfig::default(), 3, n), (image.to_planes(), [0.0; 9]));
    }
}

#[test]
fn flips_are_exact_and_as_frequent_as_asked() {
    let (image, flip) = (picture(), mirrored(&picture()).to_planes());
    let config = AugmentConfig { flip: 0.3, ..AugmentConfig::default() };
    let flipped = (0..2000).filter(|&n| {
        let (planes, label) = augment(&image, &config, 3, n);
        assert_eq!(label, [0.0; 9], "a plain flip is not told");
        assert!(planes == flip || planes == image.to_planes());
        planes == flip
    });
    let share = flipped.count() as f64 / 2000.0;
    assert!((share - 0.3).abs() < 0.04, "{share}");
}

#[test]
fn shifts_are_whole_pixels_and_symmetric() {
    let dot =
        Image { pixels: (0..256).flat_map(|i| [255 * u8::from(i == 8 * 16 + 8); 3]).collect(), ..picture() };
    let config =
        AugmentConfig { shift: 0.2, padding: Padding::Color(Rgb([0; 3])), ..AugmentConfig::default() };
    let mut seen = [[0_u32; 7]; 7];
    for n in 0..4900 {
        let (planes, _) = augment(&dot, &config, 1, n);
        let lit: Vec<usize> = (0..256).filter(|&i| planes[i] == 1.0).collect();
        assert_eq!((lit.len(), planes[..256].iter().filter(|&&v| v == -1.0).count()), (1, 255));
        seen[lit[0] / 16 - 5][lit[0] % 16 - 5] += 1;
    }
    assert!(seen.iter().flatten().all(|&count| (50..150).contains(&count)), "{seen:?}");
}

#[test]
fn the_edm_label_is_zero_exactly_when_nothing_was_done() {
    let image = picture();
    let edm = EdmConfig { p: 0.12, ..EdmConfig::default() };
    let config = AugmentConfig { edm, ..AugmentConfig::default() };
    let (mut untouched, mut counts) = (0, [0; 9]);
    for n in 0..4000 {
        let (planes, label) = augment(&image, &config, 11, n);
        assert_eq!(label == [0.0; 9], planes == image.to_planes(), "sample {n}: {label:?}");
        assert!(planes.iter().all(|v| (-1.0..=1.0).contains(v)));
        untouched += u32::from(label == [0.0; 9]);
        label.iter().zip(&mut counts).for_each(|(v, count)| *count += u32::from(*v != 0.0));
        if label[0] == 1.0 && label[1..] == [0.0; 8] {
            assert_eq!(planes, mirrored(&image).to_planes());
        }
        let turned = (label[3] + 1.0).hypot(label[4]);
        assert!((turned - 1.0).abs() < 1e-6, "cosine and sine");
    }
    // Half mirrored; 0.06 upside down; 0.12 each scaled, turned, stretched (half of them rotated) and moved.
    let expected = [0.5, 0.06, 0.12, 0.12, 0.12, 0.12, 0.06, 0.12, 0.12];
    for (count, share) in counts.into_iter().zip(expected) {
        let found = f64::from(count) / 4000.0;
        assert!((found - share).abs() < 0.03, "{counts:?}");
    }
    let share = f64::from(untouched) / 4000.0;
    let want = 0.5 * 0.94 * 0.88_f64.powi(4);
    assert!((share - want).abs() < 0.03, "{share} against {want}");
}

/// Mass and centre of a soft spot follow the label: scale, stretch and rotation keep the centre, a translation moves it by
/// its label times the deviation times the side.
#[test]
fn the_label_tells_the_geometry() {
    let spot = |i: usize| {
        let (x, y) = ((i % 32) as f64 - 15.5, (i / 32) as f64 - 15.5);
        (250.0 * (-(x * x + y * y) / 12.0).exp()).round() as u8
    };
    let image = Image { width: 32, height: 32, pixels: (0..1024).flat_map(|i| [spot(i); 3]).collect() };
    let edm = EdmConfig { p: 1.0, translate: 0.05, ..EdmConfig::default() };
    let config = AugmentConfig { edm, padding: Padding::Color(Rgb([0; 3])), ..AugmentConfig::default() };
    let only = |change: fn(&mut EdmConfig)| {
        let mut config = config;
        let none = EdmConfig { scale: 0.0, rotate: 0.0, aniso: 0.0, translate: 0.0, ..config.edm };
        config.edm = EdmConfig { xflip: false, yflip: false, ..none };
        change(&mut config.edm);
        config
    };
    let moments = |planes: &[f32]| {
        let weight = |i: usize| f64::from(planes[i] + 1.0);
        let sum: f64 = (0..1024).map(weight).sum();
        let mean = |of: &dyn Fn(usize) -> f64| (0..1024).map(|i| weight(i) * of(i)).sum::<f64>() / sum;
        (sum / 2.0, mean(&|i| (i % 32) as f64 - 15.5), mean(&|i| (i / 32) as f64 - 15.5))
    };
    let mass = moments(&image.to_planes()).0;
    for n in 0..60 {
        let (planes, label) = augment(&image, &only(|e| e.translate = 0.05), 5, n);
        let (area, x, y) = moments(&planes);
        assert!((area / mass - 1.0).abs() < 0.01);
        assert!((x - 1.6 * f64::from(label[7])).abs() < 0.05 && (y - 1.6 * f64::from(label[8])).abs() < 0.05);
        let (planes, label) = augment(&image, &only(|e| e.scale = 0.2), 5, n);
        let (area, x, y) = moments(&planes);
        let want = mass * (0.4 * f64::from(label[2])).exp2();
        assert!((area / want - 1.0).abs() < 0.05 && x.hypot(y) < 0.02, "{area} against {want}");
        let (planes, _) = augment(&image, &only(|e| (e.rotate, e.aniso) = (1.0, 0.2)), 5, n);
        let (area, x, y) = moments(&planes);
        assert!((area / mass - 1.0).abs() < 0.05 && x.hypot(y) < 0.02, "{area}");
    }
}

fn stream(seed: u64) -> Stream {
    let config = DataConfig { size: 16, ..DataConfig::default() };
    let dataset = Dataset::open(&config).unwrap().split().0;
    let augment = AugmentConfig {
        flip: 0.5,
        shift: 0.1,
        jitter: JitterConfig { hue: 0.05, ..JitterConfig::default() },
        edm: EdmConfig { p: 0.15, ..EdmConfig::default() },
        ..AugmentConfig::default()
    };
    let order = Order::new(seed, dataset.len());
    Stream::new(dataset, order, augment, seed).unwrap()
}

#[test]
fn batches_threads_and_interruptions_change_nothing() {
    let whole = stream(4).batch(1000, 12).unwrap();
    let mut parts = stream(4).batch(1000, 5).unwrap();
    let rest = stream(4).batch(1005, 7).unwrap();
    parts.images.extend(rest.images);
    parts.augment_labels.extend(rest.augment_labels);
    parts.classes.extend(rest.classes);
    parts.captions.extend(rest.captions);
    assert_eq!(whole, parts);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one.install(|| stream(4).batch(1000, 12)).unwrap(), whole);
    let other: Batch = stream(5).batch(1000, 12).unwrap();
    assert_ne!(other.images, whole.images);
    assert!(whole.images.iter().all(|v| (-1.0..=1.0).contains(v)));
}

#[test]
fn what_is_out_of_range_is_refused() {
    let dataset = Dataset::open(&DataConfig { size: 8, ..DataConfig::default() }).unwrap();
    let order = || Order::new(0, dataset.len());
    let bad = AugmentConfig { flip: 1.5, ..AugmentConfig::default() };
    let error = Stream::new(dataset.clone(), order(), bad, 0).err().unwrap();
    assert_eq!(error.to_string(), "augment.flip = 1.5: expected 0 to 1");
    assert!(Stream::new(dataset.clone(), Order::new(0, 3), AugmentConfig::default(), 0).is_err());
    let text = "padding = \"#00ff00\"\n[edm]\np = 0.12\n";
    let read: AugmentConfig = toml::from_str(text).unwrap();
    assert_eq!(read.padding, Padding::Color(Rgb([0, 255, 0])));
    assert_eq!(toml::from_str::<AugmentConfig>(&toml::to_string(&read).unwrap()).unwrap(), read);
    assert!(
        toml::from_str::<AugmentConfig>("padding = \"mirror\"").unwrap_err().to_string().contains("mirror")
    );
}
