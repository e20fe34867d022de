//! Tensor names in checkpoints of the original code, and the corresponding names in diffusers.

/// Replaces the last parts of a name by the first matching row of the table.
fn renamed(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(from, to)| {
        let rest = name.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}

/// Splits a number off: `3.block` is `(3, "block")`.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

const RESIDUAL: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

const AROUND_BLOCKS: [(&str, &str); 7] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// Names of the U-Net, whose down-path blocks have `layers` residual layers each.
pub(super) fn unet(name: &str, layers: usize) -> Option<String> {
    if let Some(known) = renamed(name, &AROUND_BLOCKS) {
        return Some(known);
    }
    // The layers of all levels, and what follows them, have consecutive values.
    let place = |n: usize| (n / (layers + 1), n % (layers + 1));
    let inside = |block: String, layer: usize, part: usize, rest: &str| match part {
        0 => Some(format!("{block}.resnets.{layer}.{}", renamed(rest, &RESIDUAL)?)),
        _ => Some(format!("{block}.attentions.{layer}.{rest}")),
    };
    if let Some(rest) = name.strip_prefix("input_blocks.") {
        let (n, rest) = numbered(rest)?;
        let (part, rest) = numbered(rest)?;
        let (level, layer) = place(n.checked_sub(1)?);
        return match rest.strip_prefix("op.") {
            Some(rest) => Some(format!("down_blocks.{level}.downsamplers.0.conv.{rest}")),
            None => inside(format!("down_blocks.{level}"), layer, part, rest),
        };
    }
    if let Some(rest) = name.strip_prefix("output_blocks.") {
        let (n, rest) = numbered(rest)?;
        let (part, rest) = numbered(rest)?;
        let (level, layer) = place(n);
        return match rest.strip_prefix("conv.") {
            Some(rest) => Some(format!("up_blocks.{level}.upsamplers.0.conv.{rest}")),
            None => inside(format!("up_blocks.{level}"), layer, part, rest),
        };
    }
    let (part, rest) = numbered(name.strip_prefix("middle_block.")?)?;
    match part {
        1 => inside("mid_block".into(), 0, 1, rest),
        _ => inside("mid_block".into(), part / 2, 0, rest),
    }
}

/// The original name of a U-Net layer from diffusers' name: the inverse of [`unet`]. `attends` says whether an up-path
/// block has attention, which precedes its upsampler.
pub(crate) fn original_unet(name: &str, layers: usize, attends: &dyn Fn(usize) -> bool) -> Option<String> {
    if let Some((from, _)) = AROUND_BLOCKS.iter().find(|(_, to)| *to == name) {
        return Some((*from).to_owned());
    }
    let residual = |name: &str| RESIDUAL.iter().find(|(_, to)| *to == name).map(|(from, _)| *from);
    if let Some(rest) = name.strip_prefix("mid_block.") {
        let (kind, rest) = rest.split_once('.')?;
        let (n, rest) = numbered(rest)?;
        return match kind {
            "resnets" => Some(format!("middle_block.{}.{}", 2 * n, residual(rest)?)),
            "attentions" => Some(format!("middle_block.1.{rest}")),
            _ => None,
        };
    }
    let (way, rest) = name.split_once('.')?;
    let (blocks, first) = match way {
        "down_blocks" => ("input_blocks", 1),
        "up_blocks" => ("output_blocks", 0),
        _ => return None,
    };
    let (level, rest) = numbered(rest)?;
    let place = |layer: usize| level * (layers + 1) + layer + first;
    let (kind, rest) = rest.split_once('.')?;
    match (kind, rest) {
        ("downsamplers", "0.conv") => Some(format!("{blocks}.{}.0.op", place(layers))),
        ("upsamplers", "0.conv") => {
            Some(format!("{blocks}.{}.{}.conv", place(layers), if attends(level) { 2 } else { 1 }))
        }
        _ => {
            let (layer, rest) = numbered(rest)?;
            match kind {
                "resnets" => Some(format!("{blocks}.{}.0.{}", place(layer), residual(rest)?)),
                "attentions" => Some(format!("{blocks}.{}.1.{rest}", place(layer))),
                _ => None,
            }
        }
    }
}

const AROUND_AUTOENCODER: [(&str, &str); 8] = [
    ("encoder.conv_in", "encoder.conv_in"),
    ("encoder.norm_out", "encoder.conv_norm_out"),
    ("encoder.conv_out", "encoder.conv_out"),
    ("decoder.conv_in", "decoder.conv_in"),
    ("decoder.norm_out", "decoder.conv_norm_out"),
    ("decoder.conv_out", "decoder.conv_out"),
    ("quant_conv", "quant_conv"),
    ("post_quant_conv", "post_quant_conv"),
];

const AUTOENCODER_RESIDUAL: [(&str, &str); 5] = [
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
];

const AUTOENCODER_MIDDLE: [(&str, &str); 5] = [
    ("attn_1.norm", "attentions.0.group_norm"),
    ("attn_1.q", "attentions.0.to_q"),
    ("attn_1.k", "attentions.0.to_k"),
    ("attn_1.v", "attentions.0.to_v"),
    ("attn_1.proj_out", "attentions.0.to_out.0"),
];

/// Names of an autoencoder with `levels` resolutions, which the original code counts from the highest in both halves.
pub(super) fn autoencoder(name: &str, levels: usize) -> Option<String> {
    if let Some(known) = renamed(name, &AROUND_AUTOENCODER) {
        return Some(known);
    }
    let (half, rest) = name.split_once('.')?;
    if let Some(rest) = rest.strip_prefix("mid.") {
        let inner = match rest.strip_prefix("block_") {
            Some(rest) => {
                let (n, rest) = numbered(rest)?;
                format!("resnets.{}.{}", n.checked_sub(1)?, renamed(rest, &AUTOENCODER_RESIDUAL)?)
            }
            None => renamed(rest, &AUTOENCODER_MIDDLE)?,
        };
        return Some(format!("{half}.mid_block.{inner}"));
    }
    let (way, rest) = rest.split_once('.')?;
    let (level, rest) = numbered(rest)?;
    let (blocks, level, sampler) = match (half, way) {
        ("encoder", "down") => ("down_blocks", level, ("downsample", "downsamplers.0")),
        ("decoder", "up") => ("up_blocks", levels.checked_sub(1 + level)?, ("upsample", "upsamplers.0")),
        _ => return None,
    };
    let inner = match rest.strip_prefix("block.") {
        Some(rest) => {
            let (layer, rest) = numbered(rest)?;
            format!("resnets.{layer}.{}", renamed(rest, &AUTOENCODER_RESIDUAL)?)
        }
        None => renamed(rest, &[sampler])?,
    };
    Some(format!("{half}.{blocks}.{level}.{inner}"))
}

const OPEN_CLIP: [(&str, &str); 4] = [
    ("token_embedding", "text_model.embeddings.token_embedding"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final", "text_model.final_layer_norm"),
    ("text_projection", "text_projection.weight"),
];

const OPEN_CLIP_LAYER: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
];

/// Splits a name of a text encoder in OpenCLIP's style into layer and rest, if it belongs to a layer.
pub(super) fn open_clip_layer(name: &str) -> Option<(usize, &str)> {
    numbered(name.strip_prefix("transformer.resblocks.")?)
}

/// Names of a text encoder in OpenCLIP's style: one name, or three for a joined query, key and value.
pub(super) fn open_clip(name: &str) -> Option<Vec<String>> {
    let Some((layer, rest)) = open_clip_layer(name) else {
        return Some(vec![renamed(name, &OPEN_CLIP)?]);
    };
    let layer = format!("text_model.encoder.layers.{layer}");
    match rest.strip_prefix("attn.in_proj_") {
        Some(kind) => {
            Some(["q_proj", "k_proj", "v_proj"].map(|p| format!("{layer}.self_attn.{p}.{kind}")).into())
        }
        None => Some(vec![format!("{layer}.{}", renamed(rest, &OPEN_CLIP_LAYER)?)]),
    }
}
