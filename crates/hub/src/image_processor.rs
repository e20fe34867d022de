//! How an image encoder's images are prepared: `preprocessor_config.json` of transformers' `CLIPImageProcessor`.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{error::HubError, files};

const FILE: &str = "preprocessor_config.json";
/// Keys that do not affect the result.
const HARMLESS: [&str; 6] = [
    "data_format",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "processor_class",
];
/// Keys that must be set, if they are there.
const SWITCHES: [&str; 4] = ["do_resize", "do_center_crop", "do_rescale", "do_normalize"];

/// Images are resized with a bicubic filter, cropped about their centre and standardized.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// The shorter side after resizing.
    pub shortest: usize,
    /// Height and width of the crop.
    pub crop: [usize; 2],
    /// Subtracted from values in 0..1, for each channel.
    pub mean: [f64; 3],
    /// By which values are divided then.
    pub std: [f64; 3],
}

impl ImageProcessor {
    /// Reads the configuration in the folder `dir`.
    ///
    /// # Errors
    /// If it is missing, or a key is unknown or has an unsupported value.
    pub fn open(dir: &Path) -> Result<Self, HubError> {
        let path = dir.join(FILE);
        let mut entries: Map<String, Value> = files::read_json(&path)?;
        let mut take = |key: &str| entries.remove(key).filter(|value| !value.is_null());
        let wrong = |key: &str, value: &Value, expected: &str| {
            HubError::key(&path, key, format!("{value}: expected {expected}"))
        };
        for key in SWITCHES {
            if let Some(value) = take(key).filter(|value| *value != Value::Bool(true)) {
                return Err(wrong(key, &value, "true"));
            }
        }
        if let Some(value) = take("resample").filter(|value| value.as_u64() != Some(3)) {
            return Err(wrong("resample", &value, "3, a bicubic filter"));
        }
        let factor = |value: &Value| value.as_f64().is_some_and(|v| (v * 255.0 - 1.0).abs() < 1e-6);
        if let Some(value) = take("rescale_factor").filter(|value| !factor(value)) {
            return Err(wrong("rescale_factor", &value, "1/255"));
        }
        let side = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let size = take("size").unwrap_or(224.into());
        let shortest = side(&size).or_else(|| side(size.get("shortest_edge")?));
        let shortest =
            shortest.ok_or_else(|| wrong("size", &size, "a number of pixels of the shorter side"))?;
        let crop = take("crop_size").unwrap_or(224.into());
        let square = side(&crop).map(|n| [n, n]);
        let crop_of = square.or_else(|| Some([side(crop.get("height")?)?, side(crop.get("width")?)?]));
        let crop = crop_of.ok_or_else(|| wrong("crop_size", &crop, "a height and a width"))?;
        let mut three = |key: &str, usual: [f64; 3]| match take(key) {
            None => Ok(usual),
            Some(value) => {
                let list: Option<[f64; 3]> = serde_json::from_value(value.clone()).ok();
                let valid =
                    list.filter(|list| list.iter().all(|v| v.is_finite() && (key != STD || *v > 0.0)));
                valid.ok_or_else(|| wrong(key, &value, "a number for each of 3 channels"))
            }
        };
        // CLIP's.
        let mean = three("image_mean", [0.481_454_66, 0.457_827_5, 0.408_210_73])?;
        let std = three(STD, [0.268_629_54, 0.261_302_58, 0.275_777_11])?;
        let known = |key: &str| key.starts_with('_') || HARMLESS.contains(&key);
        match entries.keys().find(|key| !known(key)) {
            Some(key) => Err(HubError::key(&path, key, "unknown key")),
            None => Ok(Self { shortest, crop, mean, std }),
        }
    }

    /// That of square images of `size` pixels, which maps their values to −1..1.
    pub fn plain(size: usize) -> Self {
        Self { shortest: size, crop: [size; 2], mean: [0.5; 3], std: [0.5; 3] }
    }

    /// Writes the configuration to the folder `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), HubError> {
        files::create_dir(dir)?;
        let [height, width] = self.crop;
        let config = json!({
            "crop_size": { "height": height, "width": width },
            "do_center_crop": true,
            "do_convert_rgb": true,
            "do_normalize": true,
            "do_rescale": true,
            "do_resize": true,
            "image_mean": self.mean,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": self.std,
            "resample": 3,
            "rescale_factor": 1.0 / 255.0,
            "size": { "shortest_edge": self.shortest },
        });
        files::write_json(&dir.join(FILE), &config)
    }
}

const STD: &str = "image_std";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ImageProcessor, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        ImageProcessor::open(dir.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let processor = ImageProcessor { shortest: 9, crop: [8, 7], ..ImageProcessor::plain(8) };
        processor.write(dir.path()).unwrap();
        assert_eq!(ImageProcessor::open(dir.path()).unwrap(), processor);
    }

    #[test]
    fn both_forms_of_sizes_are_read_and_others_are_refused() {
        let new = r#"{"size": {"shortest_edge": 8}, "crop_size": {"height": 6, "width": 7}, "resample": 3}"#;
        let found = read(new).unwrap();
        assert_eq!((found.shortest, found.crop), (8, [6, 7]));
        let old = read(r#"{"size": 9, "crop_size": 8, "do_resize": true, "image_std": [1, 1, 1]}"#).unwrap();
        assert_eq!((old.shortest, old.crop, old.std), (9, [8, 8], [1.0; 3]));
        for (text, words) in [
            (r#"{"size": 0}"#, ["size", "0"]),
            (r#"{"crop_size": {"height": 6}}"#, ["crop_size", "a width"]),
            (r#"{"do_resize": false}"#, ["do_resize", "true"]),
            (r#"{"resample": 2}"#, ["resample", "bicubic"]),
            (r#"{"image_std": [1, 0, 1]}"#, ["image_std", "3 channels"]),
            (r#"{"rescale_factor": 1}"#, ["rescale_factor", "1/255"]),
            (r#"{"do_flip": true}"#, ["do_flip", "unknown"]),
        ] {
            let error = read(text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
