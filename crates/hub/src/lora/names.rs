//! Tensor names in LoRA files, and the layers they refer to.

use crate::error::HubError;

/// Suffixes of a layer's tensor names, and the part that each one is.
const ENDS: [(&str, Part); 28] = [
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".alpha", Part::Alpha),
    (LYCORIS_MAGNITUDE, Part::Magnitude),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".hada_w1_a", Part::Hada(Of::First, Piece::Left)),
    (".hada_w1_b", Part::Hada(Of::First, Piece::Right)),
    (".hada_t1", Part::Hada(Of::First, Piece::Core)),
    (".hada_w2_a", Part::Hada(Of::Second, Piece::Left)),
    (".hada_w2_b", Part::Hada(Of::Second, Piece::Right)),
    (".hada_t2", Part::Hada(Of::Second, Piece::Core)),
    (".lokr_w1", Part::Lokr(Of::First, Piece::Whole)),
    (".lokr_w1_a", Part::Lokr(Of::First, Piece::Left)),
    (".lokr_w1_b", Part::Lokr(Of::First, Piece::Right)),
    (".lokr_w2", Part::Lokr(Of::Second, Piece::Whole)),
    (".lokr_w2_a", Part::Lokr(Of::Second, Piece::Left)),
    (".lokr_w2_b", Part::Lokr(Of::Second, Piece::Right)),
    (".lokr_t2", Part::Lokr(Of::Second, Piece::Core)),
];

/// LyCORIS' and kohya's name of DoRA's magnitudes.
pub(super) const LYCORIS_MAGNITUDE: &str = ".dora_scale";

/// The role of a tensor in the adapter of its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The second factor of a low-rank product, `[rank, inputs…]`.
    Down,
    /// The first factor, `[outputs, rank]`.
    Up,
    /// Between them in Tucker's form, `[rank, rank, height, width]`.
    Mid,
    /// The factor of the adapter times its rank.
    Alpha,
    /// DoRA's magnitudes.
    Magnitude,
    /// Of an elementwise product (LoHa).
    Hada(Of, Piece),
    /// Of a Kronecker product (LoKr).
    Lokr(Of, Piece),
}

/// One of the two matrices of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    First,
    Second,
}

/// The part of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Piece {
    Whole,
    Left,
    Right,
    Core,
}

/// Prefix of the tensor names of a textual inversion that OneTrainer adds to a LoRA.
pub(super) const EMBEDDING: &str = "bundle_emb.";

/// Parts whose names are followed by an adapter's name in PEFT's modules, but not in its files.
const ADAPTED: [&str; 5] = ["lora_A", "lora_B", "lora_magnitude_vector", "hada_", "lokr_"];

/// A tensor name without the adapter's name, and the adapter: `x.lora_A.default.weight` is `x.lora_A.weight`.
pub(super) fn without_adapter(name: &str) -> (String, Option<&str>) {
    let parts: Vec<&str> = name.split('.').collect();
    let marks = |part: &&str| {
        ADAPTED.iter().any(|mark| if mark.ends_with('_') { part.starts_with(mark) } else { part == mark })
    };
    let Some(place) = parts.iter().position(marks) else { return (name.into(), None) };
    let adapter = match parts[place + 1..] {
        [adapter] | [adapter, "weight"] if adapter != "weight" => adapter,
        _ => return (name.into(), None),
    };
    let kept: Vec<&str> = parts[..=place].iter().chain(&parts[place + 2..]).copied().collect();
    (kept.join("."), Some(adapter))
}

/// The layer and the part that a tensor name refers to.
pub(super) fn part_of(name: &str) -> Option<(&str, Part)> {
    ENDS.iter().find_map(|(end, part)| Some((name.strip_suffix(end)?, *part)))
}

/// The name of `part` in the format of the tensor `known`, for messages.
pub(super) fn sibling(known: &str, part: Part) -> String {
    let ends = || ENDS.iter().filter(|(_, other)| *other == part).map(|(end, _)| *end);
    let own = ENDS.iter().find_map(|(end, _)| Some((known.strip_suffix(end)?, *end)));
    let Some((stem, own)) = own else { return known.into() };
    let swapped =
        [("_A", "_B"), ("_B", "_A"), ("down", "up"), ("up", "down")].map(|(a, b)| own.replace(a, b));
    let end = ends().find(|end| swapped.iter().any(|s| s == end)).or_else(|| ends().next());
    format!("{stem}{}", end.unwrap_or_default())
}

/// PEFT's prefix of a model's names.
const PEFT: &str = "base_model.model.";

/// diffusers' names of the components that support adapters.
pub(super) const COMPONENTS: [&str; 4] = ["unet", "transformer", "text_encoder", "text_encoder_2"];

/// Prefixes of names with underscores instead of dots, and their component.
const UNDERSCORED: [(&str, &str); 4] = [
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
];

/// Prefixes of layer names if PEFT was only given the component.
const LAYERS: [(&str, &str); 8] = [
    ("down_blocks.", "unet"),
    ("mid_block.", "unet"),
    ("up_blocks.", "unet"),
    ("conv_in", "unet"),
    ("conv_out", "unet"),
    ("time_embedding.", "unet"),
    ("transformer_blocks.", "transformer"),
    ("text_model.", "text_encoder"),
];

/// A layer's name without `.weight`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    Dotted(String),
    Underscored(String),
}

impl Layer {
    pub(super) fn underscored(name: &str) -> Self {
        Self::Underscored(name.replace('.', "_"))
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Dotted(name) | Self::Underscored(name) => name,
        }
    }
}

/// A component and one of its layers.
pub(super) type Place = (&'static str, Layer);

/// The component and layer of a name without its suffix.
pub(super) fn place(stem: &str) -> Option<Place> {
    for (prefix, component) in UNDERSCORED {
        if let Some(rest) = stem.strip_prefix(prefix) {
            return Some((component, Layer::Underscored(rest.into())));
        }
    }
    let bare = stem.strip_prefix(PEFT).unwrap_or(stem);
    let named = COMPONENTS.iter().find_map(|c| Some((bare.strip_prefix(c)?.strip_prefix('.')?, *c)));
    let own = || LAYERS.iter().find(|(start, _)| bare.starts_with(start)).map(|(_, c)| (bare, *c));
    let (rest, component) = named.or_else(|| own().filter(|_| bare.len() < stem.len()))?;
    let rest = rest.strip_prefix(PEFT).unwrap_or(rest);
    // `attn1.processor.to_q` of diffusers before 0.22 is `attn1.to_q`, and in text encoders `self_attn.to_q` is
    // `self_attn.q_proj`.
    let layer = if let Some((attention, projection)) = rest.split_once(".processor.") {
        let index = if projection == "to_out" { ".0" } else { "" };
        format!("{attention}.{projection}{index}")
    } else if let Some((layer, projection)) = rest.split_once(".self_attn.to_") {
        format!("{layer}.self_attn.{projection}_proj")
    } else {
        rest.to_owned()
    };
    Some((component, Layer::Dotted(layer)))
}

/// A warning about textual inversions among `names`, which are skipped.
pub(super) fn embeddings<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut found: Vec<&str> = names
        .filter_map(|name| name.strip_prefix(EMBEDDING))
        .map(|rest| rest.split_once('.').map_or(rest, |(name, _)| name))
        .collect();
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then(|| {
        let names = found.join("`, `");
        format!("skipped the embedding `{names}`; in prompts its name is plain text")
    })
}

/// The one adapter of a file.
pub(super) fn one_adapter(path: &std::path::Path, mut all: Vec<&str>) -> Result<(), HubError> {
    all.sort_unstable();
    all.dedup();
    match all.len() {
        0 | 1 => Ok(()),
        _ => Err(HubError::format(
            path,
            format!("contains the adapters {}, expected a single one", all.join(", ")),
        )),
    }
}
