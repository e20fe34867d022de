//! What samples are: images, audio or video, by their shape.

use tweedie_media::{Audio, DEFAULT_DELAY, Image, Video};
use tweedie_models::HostTensor;

/// The kind of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// `[1 or 3, height, width]`.
    Image,
    /// `[1 or 2, length]`.
    Audio,
    /// `[1 or 3, frames, height, width]`.
    Clip,
    /// Everything else.
    Tensor,
}

impl Medium {
    /// The medium of samples with these channels and this number of axes.
    pub fn of(channels: usize, axes: usize) -> Self {
        match (axes, channels) {
            (1, 1 | 2) => Self::Audio,
            (2, 1 | 3) => Self::Image,
            (3, 1 | 3) => Self::Clip,
            _ => Self::Tensor,
        }
    }
}

/// Samples as media.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Media {
    /// Images.
    Images(Vec<Image>),
    /// Audio signals.
    Audio(Vec<Audio>),
    /// Videos.
    Clips(Vec<Video>),
    /// Tensors that are none of these.
    Tensors,
}

impl Media {
    /// The media of samples `[B, C, …]`. `rate` is that of [`IoSpec::rate`](tweedie_models::IoSpec::rate): without it, that
    /// of audio is guessed and marked so, and videos have frames of [`DEFAULT_DELAY`].
    pub fn of(samples: &HostTensor, rate: Option<u32>) -> Self {
        let [_, channels, axes @ ..] = &*samples.shape else { return Self::Tensors };
        let each = axes.iter().product::<usize>() * channels;
        let rows = || samples.values.chunks_exact(each.max(1));
        match (Medium::of(*channels, axes.len()), axes) {
            (Medium::Image, &[height, width]) => {
                let repeated = 3 / channels;
                let image = |row: &[f32]| Image::from_planes(width, height, &row.repeat(repeated));
                Self::Images(rows().map(image).collect())
            }
            (Medium::Audio, _) => {
                Self::Audio(rows().map(|row| Audio::from_rows(*channels, row, rate)).collect())
            }
            (Medium::Clip, &[frames, height, width]) => {
                let delay = rate.map_or(DEFAULT_DELAY, |rate| (1000 / rate.max(1)).clamp(1, 65535) as u16);
                let shape = [*channels, frames, height, width];
                Self::Clips(rows().map(|row| Video::from_planes(shape, row, delay)).collect())
            }
            _ => Self::Tensors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_tells_the_medium() {
        let samples = |shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|i| i as f32 / 100.0).collect();
            HostTensor { shape: shape.to_vec(), values }
        };
        let Media::Images(images) = Media::of(&samples(&[2, 1, 4, 3]), None) else { panic!() };
        assert_eq!((images.len(), images[1].width, images[1].height), (2, 3, 4));
        let Media::Audio(audio) = Media::of(&samples(&[2, 2, 5]), Some(8000)) else { panic!() };
        assert_eq!((audio[1].channels[1][0], audio[1].rate, audio[1].guessed), (0.15, 8000, false));
        let Media::Audio(audio) = Media::of(&samples(&[1, 1, 5]), None) else { panic!() };
        assert_eq!((audio[0].len(), audio[0].rate, audio[0].guessed), (5, 44_100, true));
        let Media::Clips(clips) = Media::of(&samples(&[2, 3, 4, 2, 2]), Some(25)) else { panic!() };
        assert_eq!((clips.len(), clips[0].frames.len(), clips[0].delay), (2, 4, 40));
        for shape in [&[2, 4, 8, 8][..], &[2, 3, 5], &[2, 2, 4, 2, 2], &[2, 3], &[2]] {
            assert_eq!(Media::of(&samples(shape), None), Media::Tensors, "{shape:?}");
        }
    }
}
