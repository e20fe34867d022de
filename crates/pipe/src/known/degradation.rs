//! What has happened to an image or a sound that is to be restored.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tweedie_data::open_picture;

use crate::{
    PipelineError, RecordedFile,
    operators::{Chain, Convolution, Jpeg, Operator, Separable, bicubic, boxes, gaussian, grey},
};

/// One step of the degradation of an image or a sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Degradation {
    /// Shrunk by Pillow's bicubic filter.
    Bicubic {
        /// To `1/factor` of each side.
        factor: usize,
    },
    /// Shrunk to means of boxes.
    Box {
        /// To `1/factor` of each side.
        factor: usize,
    },
    /// Blurred by a Gaussian.
    Blur {
        /// Its standard deviation in pixels of the restored image.
        sigma: f64,
    },
    /// Blurred by a kernel.
    Kernel {
        /// A grey image with odd sides.
        file: RecordedFile,
    },
    /// Without colour.
    Grey,
    /// Compressed.
    Jpeg {
        /// libjpeg's quality, 1 to 100.
        quality: u8,
    },
    /// Of a sound: only what is below a frequency is known.
    Lowpass {
        /// The frequency in Hz.
        hertz: f64,
    },
    /// Of a sound: clipped.
    Clip {
        /// The largest magnitude that was kept, > 0 and ≤ 1; by default the largest of the sound.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<f64>,
    },
}

/// Largest factor of shrinking.
const MOST_FACTOR: usize = 64;
/// Largest standard deviation of a blur.
const MOST_BLUR: f64 = 1000.0;
/// Largest side of a kernel.
const MOST_KERNEL: usize = 255;

/// By how much all steps together shrink.
///
/// # Errors
/// If a parameter is out of range.
pub(super) fn factor(steps: &[Degradation]) -> Result<usize, PipelineError> {
    let fail = |reason: String| PipelineError::request("degradations", reason);
    let mut all = 1;
    for step in steps {
        match *step {
            Degradation::Bicubic { factor } | Degradation::Box { factor } => {
                all *= factor;
                if !(2..=MOST_FACTOR).contains(&factor) || all > MOST_FACTOR {
                    return Err(fail(format!("factor {factor}: expected 2 to {MOST_FACTOR} in all")));
                }
            }
            Degradation::Blur { sigma } if !(sigma > 0.0 && sigma <= MOST_BLUR) => {
                return Err(fail(format!("blur of {sigma} pixels: expected > 0 and ≤ {MOST_BLUR}")));
            }
            _ => {}
        }
    }
    Ok(all)
}

/// The operator of all steps for images `[channels, height, width]`, and the dimensions of the measurement.
///
/// # Errors
/// If a step does not suit the images.
pub(super) fn operator(
    steps: &[Degradation],
    dims: [usize; 3],
) -> Result<(Arc<dyn Operator>, [usize; 3]), PipelineError> {
    let fail = |reason: String| PipelineError::request("degradations", reason);
    // Separable steps are one operator, whose decomposition is known.
    let mut parts: Vec<Arc<dyn Operator>> = Vec::new();
    let mut open: Option<Separable> = None;
    let mut dims = dims;
    for step in steps {
        let separable = match step {
            Degradation::Bicubic { factor } => bicubic(&dims, *factor),
            Degradation::Box { factor } => boxes(&dims, *factor),
            Degradation::Blur { sigma } => gaussian(&dims, *sigma),
            Degradation::Grey if dims[0] == 3 => grey(&dims),
            Degradation::Grey => {
                return Err(fail("this model makes grey images, so there is no colour to restore".into()));
            }
            Degradation::Lowpass { .. } | Degradation::Clip { .. } => {
                return Err(fail(
                    "`lowpass` and `clip` happen to sounds, but this model makes images".into(),
                ));
            }
            Degradation::Kernel { file } => {
                parts.extend(open.take().map(|one| Arc::new(one) as Arc<dyn Operator>));
                parts.push(Arc::new(kernel(file, dims)?));
                continue;
            }
            Degradation::Jpeg { quality } => {
                parts.extend(open.take().map(|one| Arc::new(one) as Arc<dyn Operator>));
                let jpeg = Jpeg::new(dims, *quality).map_err(|e| fail(format!("JPEG quality {e}")))?;
                parts.push(Arc::new(jpeg));
                continue;
            }
        };
        dims = separable.measured().try_into().unwrap_or(dims);
        open = Some(match open {
            Some(first) => separable.after(&first),
            None => separable,
        });
    }
    parts.extend(open.map(|one| Arc::new(one) as Arc<dyn Operator>));
    let all = parts.into_iter().reduce(|first, last| Arc::new(Chain::new(first, last)));
    Ok((all.ok_or_else(|| fail("expected at least one".into()))?, dims))
}

fn kernel(file: &RecordedFile, dims: [usize; 3]) -> Result<Convolution, PipelineError> {
    let fail = |reason: String| PipelineError::request("degradations", reason);
    file.check()?;
    let image = open_picture(&file.path).map_err(|e| fail(e.to_string()))?;
    let (height, width, path) = (image.height(), image.width(), file.path.display());
    if height > MOST_KERNEL || width > MOST_KERNEL {
        return Err(fail(format!(
            "{path}: {width}×{height} pixels, expected at most {MOST_KERNEL} on each side"
        )));
    }
    let weights: Option<Vec<f64>> = (0..height * width)
        .map(|i| {
            let pixel = &image.pixel(i)[..image.colors()];
            pixel.iter().all(|v| *v == pixel[0]).then_some(f64::from(pixel[0]))
        })
        .collect();
    let weights = weights.ok_or_else(|| fail(format!("{path}: expected a grey image")))?;
    Convolution::new(dims, [height, width], &weights).map_err(|e| fail(format!("{path}: {e}")))
}
