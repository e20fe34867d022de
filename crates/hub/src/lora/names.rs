//! Names of tensors in files of changes, and the layers that they mean.

use crate::error::HubError;

/// What the names of a layer's tensors end in, and which part of its change each is.
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

/// LyCORIS' and kohya's name of DoRA's lengths.
pub(super) const LYCORIS_MAGNITUDE: &str = ".dora_scale";

/// A tensor's part in the change of its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The second factor of a low-rank product, `[rank, inputs…]`.
    Down,
    /// The first factor, `[outputs, rank]`.
    Up,
    /// Between them in Tucker's form, `[rank, rank, height, width]`.
    Mid,
    /// What the change is multiplied by, times its rank.
    Alpha,
    /// DoRA's lengths of the changed weights' rows.
    Magnitude,
    /// Of an elementwise product (LoHa).
    Hada(Of, Piece),
    /// Of a Kronecker product (LoKr).
    Lokr(Of, Piece),
}

/// Which of a product's two matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    First,
    Second,
}

/// What of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Piece {
    Whole,
    Left,
    Right,
    Core,
}

/// What begins the names of a textual inversion that OneTrainer puts beside a change.
pub(super) const EMBEDDING: &str = "bundle_emb.";

/// Parts whose names PEFT's modules, though not its files, continue by the name of an adapter.
const ADAPTED: [&str; 5] = ["lora_A", "lora_B", "lora_magnitude_vector", "hada_", "lokr_"];

/// A name without that of an adapter, and the adapter: `x.lora_A.default.weight` is `x.lora_A.weight`.
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

/// The layer and the part of its change that a name means.
pub(super) fn part_of(name: &str) -> Option<(&str, Part)> {
    ENDS.iter().find_map(|(end, part)| Some((name.strip_suffix(end)?, *part)))
}

/// A name of `part` beside the tensor called `known`, for messages.
pub(super) fn sibling(known: &str, part: Part) -> String {
    let ends = || ENDS.iter().filter(|(_, other)| *other == part).map(|(end, _)| *end);
    let own = ENDS.iter().find_map(|(end, _)| Some((known.strip_suffix(end)?, *end)));
    let Some((stem, own)) = own else { return known.into() };
    let swapped =
        [("_A", "_B"), ("_B", "_A"), ("down", "up"), ("up", "down")].map(|(a, b)| own.replace(a, b));
    let end = ends().find(|end| swapped.iter().any(|s| s == end)).or_else(|| ends().next());
    format!("{stem}{}", end.unwrap_or_default())
}

/// What PEFT puts before a model's names.
const PEFT: &str = "base_model.model.";

/// diffusers' names of the components that can be changed.
pub(super) const COMPONENTS: [&str; 4] = ["unet", "transformer", "text_encoder", "text_encoder_2"];

/// What begins names with underscores for dots, and the component they belong to.
const UNDERSCORED: [(&str, &str); 4] = [
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
];

/// What begins the names of a component's own layers, where PEFT was given the component alone.
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

/// The component and layer that a name without its ending means.
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

/// A remark on the textual inversions among `names`, which are not read.
pub(super) fn embeddings<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut found: Vec<&str> = names
        .filter_map(|name| name.strip_prefix(EMBEDDING))
        .map(|rest| rest.split_once('.').map_or(rest, |(name, _)| name))
        .collect();
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then(|| {
        let names = found.join("`, `");
        format!("the embedding `{names}` that it brings along is not read: in prompts the name is plain text")
    })
}

/// The one adapter of a file.
pub(super) fn one_adapter(path: &std::path::Path, mut all: Vec<&str>) -> Result<(), HubError> {
    all.sort_unstable();
    all.dedup();
    match all.len() {
        0 | 1 => Ok(()),
        _ => Err(HubError::format(path, format!("holds the adapters {}: expected one", all.join(", ")))),
    }
}
