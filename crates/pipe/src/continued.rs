//! Clips whose first frames are known: they are kept exactly, and the others are made to follow them, as a mask is filled
//! (Lugmayr et al. 2022, arXiv:2201.09865; for clips Ho et al. 2022, arXiv:2204.03458, section 3.1).

use tweedie_models::{Encoded, HostTensor};
use tweedie_ops::Batch;

use crate::{
    PipelineError,
    coding::joined,
    job::Job,
    posterior::{Method, Replacement},
};

/// How frames follow those that are known.
pub(crate) const CONTINUED: Method = Method::Repaint { jump: 5, times: 2 };

impl Job {
    /// Puts in the frames that are known.
    ///
    /// # Errors
    /// If they have another size, none is left to be made, or the autoencoder fails.
    pub(crate) fn keep_frames(&mut self) -> Result<(), PipelineError> {
        let fail = |reason: String| PipelineError::request("continue", reason);
        if self.kept.is_empty() {
            return Ok(());
        }
        let &[frames, height, width] = &*self.size else {
            return Err(fail("this model does not make clips".into()));
        };
        let kept = self.kept.len();
        if kept >= frames {
            return Err(fail(format!(
                "{kept} frames are kept of a window of {frames}; expected fewer, so that some are new"
            )));
        }
        let encoded = self.kept.iter().map(|frame| {
            if (frame.height, frame.width) != (height, width) {
                let (w, h) = (frame.width, frame.height);
                return Err(fail(format!("its frames have {w}×{h} pixels, expected {width}×{height}")));
            }
            let Encoded { mean, .. } = self.encode_frame(frame)?;
            Ok(mean)
        });
        let known = joined(encoded.collect::<Result<Vec<Batch>, _>>()?, 3);
        let Some(mut known) = known else { return Ok(()) };
        if let Some(codec) = &self.codec {
            known = codec.scaled(&known);
        }
        // The values of a sample are channels of frames.
        let &[channels, frames, h, w] = self.shape.dims() else {
            return Err(fail("this model does not make clips".into()));
        };
        let (each, values) = (h * w, known.to_host());
        let (mut sample, mut until) = (vec![0.0; self.shape.len()], vec![f64::INFINITY; self.shape.len()]);
        for channel in 0..channels {
            let (from, to) = (channel * kept * each, channel * frames * each);
            sample[to..to + kept * each].copy_from_slice(&values[from..from + kept * each]);
            until[to..to + kept * each].fill(-1.0);
        }
        let sample = Batch::from_host(sample, 1, &self.shape, &self.device);
        self.replacement = Some(Replacement::new(sample, until));
        Ok(())
    }

    /// Puts the known frames in the place of what the autoencoder made of them.
    pub(crate) fn with_kept(&self, mut made: HostTensor) -> HostTensor {
        let &[rows, channels, frames, height, width] = &*made.shape else { return made };
        let area = height * width;
        for row in 0..rows {
            for (f, frame) in self.kept.iter().enumerate().take(frames) {
                let Some(planes) = frame.planes_of(channels).filter(|p| p.len() == channels * area) else {
                    continue;
                };
                for channel in 0..channels {
                    let at = ((row * channels + channel) * frames + f) * area;
                    made.values[at..at + area].copy_from_slice(&planes[channel * area..(channel + 1) * area]);
                }
            }
        }
        made
    }
}
