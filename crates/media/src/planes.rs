//! PNG files of one to four channels and 8 or 16 bits, such as depth maps and images with transparency.

use std::path::Path;

use crate::{Depth, MediaError, Picture};

/// Writes values `[channels, height, width]` in `[-1, 1]` as PNG: 1 channel is grey, 3 are red, green and blue, and opacity
/// follows with 2 or 4. Values outside are clamped.
///
/// # Errors
/// If there are other channels, the number of values does not match or is 0, or the file cannot be written.
pub fn write_png_planes(
    path: &Path,
    values: &[f32],
    [channels, height, width]: [usize; 3],
    depth: Depth,
) -> Result<(), MediaError> {
    let area = height.saturating_mul(width);
    let most = f32::from(depth.most());
    let level = |v: &f32| ((v + 1.0) / 2.0 * most).round().clamp(0.0, most) as u16;
    let pixel = |i: usize| values.iter().skip(i).step_by(area.max(1)).map(level);
    let pixels = (0..area.min(values.len())).flat_map(pixel).collect();
    let picture = Picture::new([height, width, channels], depth, pixels);
    picture.map_err(|e| MediaError::format(path, e))?.save_png(path, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_channels_and_depth_is_lossless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        for channels in 1..=4 {
            for (depth, most, bytes) in [(Depth::Eight, 255.0, 1), (Depth::Sixteen, 65535.0, 2)] {
                let level = |c: usize, i: usize| (most - 7.0) * (c * 6 + i) as f32 / 23.0;
                let planes =
                    (0..channels).flat_map(|c| (0..6).map(move |i| level(c, i).round() / most * 2.0 - 1.0));
                write_png_planes(&path, &planes.collect::<Vec<_>>(), [channels, 2, 3], depth).unwrap();
                let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
                let mut reader = png::Decoder::new(file).read_info().unwrap();
                let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
                reader.next_frame(&mut pixels).unwrap();
                let found: Vec<u32> =
                    pixels.chunks(bytes).map(|b| b.iter().fold(0, |n, b| n << 8 | u32::from(*b))).collect();
                let expected: Vec<u32> =
                    (0..6).flat_map(|i| (0..channels).map(move |c| level(c, i).round() as u32)).collect();
                assert_eq!(found, expected, "{channels} channels, {depth:?}");
            }
        }
        assert!(write_png_planes(&path, &[0.0; 5], [5, 1, 1], Depth::Eight).is_err());
        assert!(write_png_planes(&path, &[0.0; 5], [1, 2, 3], Depth::Eight).is_err());
    }
}
