//! Infers configurations of networks from the shapes of their tensors, for checkpoints without a configuration.

use serde_json::{Value, json};

use super::Part;

/// Channels per attention head, except in SD 1.x's U-Net, which has eight heads everywhere.
const HEAD: usize = 64;
/// Width of the text features of SD 1.x.
const SD1_TEXT: usize = 768;

/// A configuration, or what is missing in a checkpoint.
type Found = Result<Value, String>;

fn dim(part: &Part<'_>, name: &str, axis: usize) -> Result<usize, String> {
    let shape = part.original_shape(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
    shape.get(axis).copied().ok_or_else(|| format!("tensor `{name}` has an unexpected shape {shape:?}"))
}

/// How many of the tensors `name(0), name(1), …` exist.
fn count(part: &Part<'_>, name: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|&i| part.original_shape(&name(i)).is_some()).count()
}

/// Residual layers per block of the U-Net's down path.
pub(super) fn unet_layers(part: &Part<'_>) -> usize {
    count(part, |i| format!("input_blocks.{}.0.in_layers.0.weight", i + 1))
}

/// `UNet2DConditionModel`.
pub(super) fn unet(part: &Part<'_>) -> Found {
    let layers = unet_layers(part);
    let first = |level: usize| level * (layers + 1) + 1;
    let levels = count(part, |level| format!("input_blocks.{}.0.in_layers.0.weight", first(level))).max(1);
    let depth = |block: &str| count(part, |i| format!("{block}.1.transformer_blocks.{i}.norm1.weight"));
    let mut channels = Vec::new();
    let mut depths = Vec::new();
    for level in 0..levels {
        let block = format!("input_blocks.{}", first(level));
        channels.push(dim(part, &format!("{block}.0.in_layers.2.weight"), 0)?);
        depths.push(depth(&block));
    }
    let attends = |level: usize| (0..levels).contains(&level) && depths[level] > 0;
    let reader = depths.iter().position(|&n| n > 0).ok_or("the U-Net has no layer with cross-attention")?;
    let reader = format!("input_blocks.{}.1", first(reader));
    let text = dim(part, &format!("{reader}.transformer_blocks.0.attn2.to_k.weight"), 1)?;
    let linear = part.original_shape(&format!("{reader}.proj_in.weight")).is_some_and(|s| s.len() == 2);
    let heads: Vec<usize> = match text {
        SD1_TEXT => vec![8; levels],
        _ => channels.iter().map(|n| n / HEAD).collect(),
    };
    let block = |level: usize, way: &str| match attends(level) {
        true => format!("CrossAttn{way}Block2D"),
        false => format!("{way}Block2D"),
    };
    let downs: Vec<_> = (0..levels).map(|level| block(level, "Down")).collect();
    let ups: Vec<_> = (0..levels).rev().map(|level| block(level, "Up")).collect();
    // The middle block has the depth of the last level; where that has none, its entry is not used otherwise.
    let mut per_block: Vec<usize> = depths.iter().map(|n| (*n).max(1)).collect();
    if let Some(last) = per_block.last_mut() {
        *last = depth("middle_block").max(1);
    }
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "in_channels": dim(part, "input_blocks.0.0.weight", 1)?,
        "out_channels": dim(part, "out.2.weight", 0)?,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": downs,
        "up_block_types": ups,
        "cross_attention_dim": text,
        "attention_head_dim": heads,
        "transformer_layers_per_block": per_block,
        "use_linear_projection": linear,
    });
    if part.original_shape("label_emb.0.0.weight").is_some() {
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(256);
        config["projection_class_embeddings_input_dim"] = json!(dim(part, "label_emb.0.0.weight", 1)?);
    }
    Ok(config)
}

/// Number of resolutions of the autoencoder.
pub(super) fn autoencoder_levels(part: &Part<'_>) -> usize {
    count(part, |i| format!("encoder.down.{i}.block.0.norm1.weight"))
}

/// `AutoencoderKL`.
pub(super) fn autoencoder(part: &Part<'_>, scaling_factor: f64) -> Found {
    let levels = autoencoder_levels(part);
    let channels: Vec<usize> = (0..levels)
        .map(|i| dim(part, &format!("encoder.down.{i}.block.0.conv1.weight"), 0))
        .collect::<Result<_, _>>()?;
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "in_channels": dim(part, "encoder.conv_in.weight", 1)?,
        "out_channels": dim(part, "decoder.conv_out.weight", 0)?,
        "latent_channels": dim(part, "decoder.conv_in.weight", 1)?,
        "block_out_channels": channels,
        "layers_per_block": count(part, |i| format!("encoder.down.0.block.{i}.norm1.weight")),
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "scaling_factor": scaling_factor,
    }))
}

/// `CLIPTextModel` with tensors named as in transformers.
pub(super) fn clip(part: &Part<'_>) -> Found {
    let layer = |i: usize| format!("text_model.encoder.layers.{i}");
    let width = dim(part, "text_model.embeddings.token_embedding.weight", 1)?;
    Ok(json!({
        "architectures": ["CLIPTextModel"],
        "vocab_size": dim(part, "text_model.embeddings.token_embedding.weight", 0)?,
        "hidden_size": width,
        "intermediate_size": dim(part, &format!("{}.mlp.fc1.weight", layer(0)), 0)?,
        "projection_dim": width,
        "num_hidden_layers": count(part, |i| format!("{}.layer_norm1.weight", layer(i))),
        "num_attention_heads": width / HEAD,
        "max_position_embeddings": dim(part, "text_model.embeddings.position_embedding.weight", 0)?,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
    }))
}

/// Number of layers of a text encoder with tensors named as in OpenCLIP.
pub(super) fn open_clip_layers(part: &Part<'_>) -> usize {
    count(part, |i| format!("transformer.resblocks.{i}.ln_1.weight"))
}

/// The same for tensors named as in OpenCLIP: its first `layers` layers, and optionally the projection.
pub(super) fn open_clip(part: &Part<'_>, layers: usize, projected: bool) -> Found {
    let width = dim(part, "token_embedding.weight", 1)?;
    let (class, projection) = match projected {
        true => ("CLIPTextModelWithProjection", dim(part, "text_projection", 1)?),
        false => ("CLIPTextModel", width),
    };
    Ok(json!({
        "architectures": [class],
        "vocab_size": dim(part, "token_embedding.weight", 0)?,
        "hidden_size": width,
        "intermediate_size": dim(part, "transformer.resblocks.0.mlp.c_fc.weight", 0)?,
        "projection_dim": projection,
        "num_hidden_layers": layers,
        "num_attention_heads": width / HEAD,
        "max_position_embeddings": dim(part, "positional_embedding", 0)?,
        "hidden_act": "gelu",
        "eos_token_id": 2,
    }))
}
