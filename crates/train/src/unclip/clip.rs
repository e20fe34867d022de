//! The finished CLIP, whose embeddings a run samples or reads.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::Tensor;
use tweedie_data::Dataset;
use tweedie_hub::{Clip, ClipTokenizer, ImageEncoder};
use tweedie_models::{
    ClipTextConfig, Codec, CodecSpec, Encoded, ExecContext, HostTensor, InputError, params::export,
};
use tweedie_ops::{Batch, Device, from_host};
use tweedie_pipe::enlarging::{in_bytes, resized};

use crate::error::TrainError;

/// Where CLIP may be: itself, or in a run.
const PLACES: [&str; 2] = ["", "model"];

/// CLIP, which is not trained here.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    clip: Arc<Clip>,
    device: Device,
}

/// What is read of texts.
pub(crate) struct TextsRead {
    /// Features of their tokens, `[B, tokens, width]`.
    pub tokens: Tensor<3>,
    /// Their embeddings, `[B, width]`.
    pub pooled: Tensor<2>,
    /// Number of tokens of each that are not padding.
    pub lengths: Vec<usize>,
}

impl Frozen {
    /// Loads the CLIP in the folder `dir`.
    ///
    /// # Errors
    /// If there is none, it is damaged, or its texts have another width than its embeddings.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, TrainError> {
        let found = PLACES.iter().map(|place| dir.join(place)).find(|p| p.join("image_encoder").is_dir());
        let Some(found): Option<PathBuf> = found else {
            let expected =
                "the folder of CLIP, with image_encoder and text_encoder, or of the run that trained it";
            return Err(TrainError::config("unclip.clip", dir.display(), expected));
        };
        let clip = Clip::open(&found, device)?;
        let text = clip.text.encoder.config();
        if text.hidden_size != text.projection_dim {
            let found = format!("{} (texts of width {})", dir.display(), text.hidden_size);
            let expected = format!("texts as wide as the embeddings, {}", text.projection_dim);
            return Err(TrainError::config("unclip.clip", found, expected));
        }
        Ok(Self { clip: Arc::new(clip), device: device.clone() })
    }

    /// Both encoders.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<ClipTokenizer> {
        &self.clip.text.tokenizer
    }

    /// The encoder of texts.
    pub fn text(&self) -> &ClipTextConfig {
        self.clip.text.encoder.config()
    }

    /// The embeddings of `rows` images of `size` pixels, `[B, 3, H, W]` in −1..1, prepared as for inference: `[B, width]`.
    pub fn embed(&self, planes: &[f32], rows: usize, size: usize) -> Result<Tensor<2>, TrainError> {
        let ImageEncoder { processor, encoder } = &self.clip.images;
        let side = encoder.config().image_size;
        let (pixels, inner) = (size * size, side * side);
        let mut values = Vec::with_capacity(rows * 3 * inner);
        for image in planes.chunks_exact(3 * pixels) {
            let own: Vec<f32> = match size == side {
                true => image.to_vec(),
                false => {
                    let resized = resized(image, [3, size, size], [side; 2]);
                    resized.into_iter().map(|v| in_bytes(v.into())).collect()
                }
            };
            for (channel, plane) in own.chunks_exact(inner).enumerate() {
                let (mean, std) = (processor.mean[channel], processor.std[channel]);
                values.extend(plane.iter().map(|v| (((f64::from(*v) + 1.0) / 2.0 - mean) / std) as f32));
            }
        }
        let images = from_host::<4>(values, [rows, 3, side, side], &self.device);
        encoder.encode(images).map_err(|e| TrainError::Model(e.to_string()))
    }

    /// What is read of texts, as tensors like `like`.
    pub fn read(&self, texts: &[Vec<u32>], like: &Batch) -> Result<TextsRead, TrainError> {
        let found = self.clip.text.encoder.encode(texts, 0).map_err(|e| TrainError::Model(e.to_string()))?;
        let end = self.tokenizer().end;
        let length =
            |text: &Vec<u32>| text.iter().position(|id| *id == end).map_or(text.len(), |end| end + 1);
        let tracked = like.rows().is_autodiff();
        Ok(TextsRead {
            tokens: if tracked { found.last.autodiff() } else { found.last },
            pooled: if tracked { found.pooled.autodiff() } else { found.pooled },
            lengths: texts.iter().map(length).collect(),
        })
    }

    /// A checksum of both encoders.
    pub fn fingerprint(&self) -> String {
        let tensors = [export(&self.clip.text.encoder), export(&self.clip.images.encoder)];
        let values = tensors.iter().flat_map(BTreeMap::values).flat_map(|tensor| &tensor.values);
        let sum = values.fold(0, |sum, v| crc32c::crc32c_append(sum, &v.to_le_bytes()));
        format!("{sum:08x} {}", self.tokenizer().fingerprint())
    }

    /// The encoder of images as a codec from images of the size of `data` to their embeddings.
    pub fn codec(&self, data: &Dataset) -> Arc<dyn Codec> {
        Arc::new(Embedder { frozen: self.clone(), size: data.size() })
    }
}

/// Images as their embeddings, `[width, 1, 1]`. They cannot be decoded.
#[derive(Clone, Debug)]
struct Embedder {
    frozen: Frozen,
    size: usize,
}

impl Codec for Embedder {
    fn spec(&self) -> CodecSpec {
        let width = self.frozen.text().projection_dim;
        CodecSpec {
            class: "CLIPVisionModelWithProjection",
            media: 3,
            latents: width,
            axes: 2,
            stride: self.size,
            width: 1,
            scale: vec![1.0; width],
            shift: vec![0.0; width],
        }
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        let rows = media.len();
        let found = self.frozen.embed(&media.to_host(), rows, self.size);
        let found = found.map_err(|e| InputError(e.to_string()))?;
        let width = found.dims()[1];
        Ok(Encoded { mean: Batch::of(found.reshape([rows, width, 1, 1])), logvar: None })
    }

    fn decode(&self, _: Batch) -> Result<Batch, InputError> {
        Err(InputError("an embedding cannot be decoded".into()))
    }

    fn in_context(&self, _: &ExecContext) -> Box<dyn Codec> {
        Box::new(self.clone())
    }

    fn differentiable(&self) -> Box<dyn Codec> {
        Box::new(self.clone())
    }

    fn config_json(&self) -> String {
        let clip = self.frozen.clip();
        format!("{} {:?}", clip.images.encoder.config().to_json(), clip.images.processor)
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        export(&self.frozen.clip().images.encoder)
    }

    fn non_finite(&self) -> Option<String> {
        None
    }
}
