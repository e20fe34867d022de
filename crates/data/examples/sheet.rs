//! Shows what a training run sees as two grids: the images, and augmented samples.
//!
//! `cargo run --release -p tweedie-data --example sheet -- images.png augmented.png [size]`

use tweedie_data::{
    AugmentConfig, DataConfig, Dataset, EdmConfig, Image, JitterConfig, Order, Padding, Rgb, Stream, grid,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let path = |at: usize, default: &str| arguments.get(at).cloned().unwrap_or(default.into());
    let size = path(3, "32").parse().unwrap_or(32);
    let grey = Rgb([128; 3]);
    let dataset = Dataset::open(&DataConfig { size, ..DataConfig::default() })?;

    let order = Order::new(1, dataset.len());
    let images = (0..64).map(|n| Ok(dataset.get(order.index(n))?.sample.as_ref().clone()));
    let images = images.collect::<Result<Vec<Image>, tweedie_data::DataError>>()?;
    grid(&images, 16, 2, grey).save_png(path(1, "images.png"))?;

    // Each row shows one image: unchanged, then as the stream would show it.
    let augment = AugmentConfig {
        padding: Padding::Reflect,
        jitter: JitterConfig { brightness: 0.1, contrast: 0.1, saturation: 0.2, hue: 0.03 },
        edm: EdmConfig { p: 0.4, ..EdmConfig::default() },
        ..AugmentConfig::default()
    };
    let mut rows = Vec::new();
    for image in &images[..6] {
        rows.push(image.clone());
        for counter in 0..15 {
            let (planes, _) = tweedie_data::augment(image, &augment, 7, counter);
            rows.push(Image::from_planes(size, size, &planes));
        }
    }
    grid(&rows, 16, 2, grey).save_png(path(2, "augmented.png"))?;

    let stream = Stream::new(dataset.clone(), order, augment, 7)?;
    let batch = stream.batch(0, 128)?;
    assert_eq!(batch.images.len(), 128 * 3 * size * size);
    Ok(())
}
