//! Image and animation files. Every file is written completely or not at all.

mod animation;
mod png;
mod webp;

use std::path::Path;

use tweedie_data::Image;
use tweedie_hub::files;

use crate::PipelineError;

pub use animation::{Animation, AnimationFormat, write_animation};
pub use png::{read_request, read_text, write_png};

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

fn store(path: &Path, bytes: &[u8]) -> Result<(), PipelineError> {
    Ok(files::write_atomic(path, bytes)?)
}

fn media(path: &Path, reason: impl ToString) -> PipelineError {
    PipelineError::Media { path: path.into(), reason: reason.to_string() }
}

/// Width and height, if `image` is not empty and has the right number of values.
fn size(path: &Path, image: &Image, most: u32) -> Result<(u32, u32), PipelineError> {
    let side = |n: usize| u32::try_from(n).ok().filter(|n| (1..=most).contains(n));
    let whole = image.pixels.len() == 3 * image.width * image.height;
    match (side(image.width), side(image.height)) {
        (Some(width), Some(height)) if whole => Ok((width, height)),
        _ => {
            let (w, h, n) = (image.width, image.height, image.pixels.len());
            Err(media(path, format!("{w}×{h} pixels with {n} values: expected sides from 1 to {most}")))
        }
    }
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
