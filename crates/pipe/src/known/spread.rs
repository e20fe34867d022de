//! How much several answers differ, pixel by pixel: what is not determined should be seen.

use tweedie_media::{Image, Picture};

/// The spread of several answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// The standard deviation of each pixel: black is none, white is the largest.
    pub image: Image,
    /// The largest standard deviation, in 1/255.
    pub largest: f64,
}

/// The standard deviation of pictures of one size over all of them, averaged over channels as a root mean square. `None` for
/// fewer than two.
pub fn spread(pictures: &[&Picture]) -> Option<Spread> {
    let (first, count) = (pictures.first()?, pictures.len());
    if count < 2 || pictures.iter().any(|p| (p.width(), p.height()) != (first.width(), first.height())) {
        return None;
    }
    let (width, height, channels) = (first.width(), first.height(), first.channels());
    let scale = 255.0 / f64::from(first.depth().most());
    let deviation = |i: usize| {
        let variance = |c: usize| {
            let values = || pictures.iter().map(|p| f64::from(p.pixel(i)[c]));
            let mean = values().sum::<f64>() / count as f64;
            values().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1) as f64
        };
        ((0..channels).map(variance).sum::<f64>() / channels as f64).sqrt() * scale
    };
    let all: Vec<f64> = (0..width * height).map(deviation).collect();
    let largest = all.iter().copied().fold(0.0, f64::max);
    let byte = |d: &f64| if largest > 0.0 { (d / largest * 255.0).round() as u8 } else { 0 };
    let pixels = all.iter().flat_map(|d| [byte(d); 3]).collect();
    Some(Spread { image: Image { width, height, pixels }, largest })
}

#[cfg(test)]
mod tests {
    use tweedie_media::Depth;

    use super::*;

    #[test]
    fn the_spread_is_the_standard_deviation_of_each_pixel() {
        let picture = |a, b| Picture::new([1, 2, 1], Depth::Eight, vec![a, b]).unwrap();
        let pictures = [picture(10, 7), picture(20, 7), picture(30, 10)];
        let spread = spread(&pictures.iter().collect::<Vec<_>>()).unwrap();
        assert!((spread.largest - 10.0).abs() < 1e-9);
        // √3 of 10.
        assert_eq!(spread.image.pixels, [255, 255, 255, 44, 44, 44]);
        assert_eq!(super::spread(&[&pictures[0]]), None);
    }
}
