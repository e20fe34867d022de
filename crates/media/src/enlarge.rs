//! Enlarging without interpolation.

use crate::Image;

/// Repeats every pixel `factor` times in both directions.
pub fn enlarge(image: &Image, factor: usize) -> Image {
    let factor = factor.max(1);
    let mut pixels = Vec::with_capacity(image.pixels.len() * factor * factor);
    for row in image.pixels.chunks_exact((3 * image.width).max(1)) {
        let wide: Vec<u8> = row.as_chunks::<3>().0.iter().flat_map(|p| p.repeat(factor)).collect();
        (0..factor).for_each(|_| pixels.extend_from_slice(&wide));
    }
    Image { width: image.width * factor, height: image.height * factor, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enlarging_repeats_pixels() {
        let image = Image { width: 2, height: 1, pixels: vec![1, 2, 3, 4, 5, 6] };
        let large = enlarge(&image, 2);
        assert_eq!((large.width, large.height), (4, 2));
        assert_eq!(large.pixels[..12], [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
        assert_eq!(large.pixels[..12], large.pixels[12..]);
        assert_eq!(enlarge(&image, 1), image);
    }
}
