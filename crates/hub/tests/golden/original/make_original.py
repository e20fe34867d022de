#!/usr/bin/env python3
"""Writes the golden files of `tests/original.rs`: checkpoints of Stable Diffusion in the names of its first
code, in miniature, and what diffusers makes of them.

    python make_original.py

A file holds, for one family, names and shapes of all tensors of a checkpoint, and for each component the
configuration with which diffusers' or transformers' class takes all of what diffusers' converter makes of it, and
a digest of the converted names, shapes and values. Values are the function `values` of the original name.
"""

import json
import math
import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

HERE = pathlib.Path(__file__).parent


def fnv(text):
    h = 0xCBF29CE484222325
    for b in text.encode():
        h = ((h ^ b) * 0x100000001B3) % 2**64
    return h


def numbers(name, count):
    """Numbers below 2^24."""
    with np.errstate(over="ignore"):
        n = np.uint64(fnv(name)) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return n >> np.uint64(40)


def values(name, shape):
    n = numbers(name, math.prod(shape)).astype(np.float64) / 2**24 - 0.5
    return torch.from_numpy(n.astype(np.float32).reshape(shape))


def digest(tensors):
    """Of names, shapes and values: each line's hash follows from it and the one before."""
    h = ""
    for name in sorted(tensors):
        x = tensors[name].contiguous().numpy().astype(np.float64).reshape(-1)
        n = np.round((x + 0.5) * 2**24).astype(np.uint64)
        with np.errstate(over="ignore"):
            total = int((n * np.arange(1, n.size + 1, dtype=np.uint64)).sum())
        shape = "x".join(map(str, tensors[name].shape))
        h = f"{fnv(f'{h} {name} {shape} {total}'):016x}"
    return h


class Net(dict):
    """Shapes by name."""

    def layer(self, name, *weight):
        self[f"{name}.weight"] = list(weight)
        self[f"{name}.bias"] = [weight[0]]

    def norm(self, name, n):
        self.layer(name, n)


def unet(channels, depths, middle, layers, text, linear, adm=None):
    net, base = Net(), channels[0]
    time = 4 * base

    def residual(name, a, b):
        net.norm(f"{name}.in_layers.0", a)
        net.layer(f"{name}.in_layers.2", b, a, 3, 3)
        net.layer(f"{name}.emb_layers.1", b, time)
        net.norm(f"{name}.out_layers.0", b)
        net.layer(f"{name}.out_layers.3", b, b, 3, 3)
        if a != b:
            net.layer(f"{name}.skip_connection", b, a, 1, 1)

    def transformer(name, n, depth):
        net.norm(f"{name}.norm", n)
        around = [n, n] if linear else [n, n, 1, 1]
        net.layer(f"{name}.proj_in", *around)
        net.layer(f"{name}.proj_out", *around)
        for i in range(depth):
            block = f"{name}.transformer_blocks.{i}"
            for j, width in ((1, n), (2, text)):
                net[f"{block}.attn{j}.to_q.weight"] = [n, n]
                net[f"{block}.attn{j}.to_k.weight"] = [n, width]
                net[f"{block}.attn{j}.to_v.weight"] = [n, width]
                net.layer(f"{block}.attn{j}.to_out.0", n, n)
            net.layer(f"{block}.ff.net.0.proj", 8 * n, n)
            net.layer(f"{block}.ff.net.2", n, 4 * n)
            for j in (1, 2, 3):
                net.norm(f"{block}.norm{j}", n)

    net.layer("time_embed.0", time, base)
    net.layer("time_embed.2", time, time)
    if adm:
        net.layer("label_emb.0.0", time, adm)
        net.layer("label_emb.0.2", time, time)
    net.layer("input_blocks.0.0", base, 4, 3, 3)
    width, skips, n = base, [base], 1
    for level, (c, depth) in enumerate(zip(channels, depths)):
        for _ in range(layers):
            residual(f"input_blocks.{n}.0", width, c)
            if depth:
                transformer(f"input_blocks.{n}.1", c, depth)
            width, n = c, n + 1
            skips.append(c)
        if level + 1 < len(channels):
            net.layer(f"input_blocks.{n}.0.op", c, c, 3, 3)
            n += 1
            skips.append(c)
    residual("middle_block.0", width, width)
    transformer("middle_block.1", width, middle)
    residual("middle_block.2", width, width)
    n = 0
    for level, (c, depth) in reversed(list(enumerate(zip(channels, depths)))):
        for layer in range(layers + 1):
            residual(f"output_blocks.{n}.0", width + skips.pop(), c)
            if depth:
                transformer(f"output_blocks.{n}.1", c, depth)
            if level and layer == layers:
                net.layer(f"output_blocks.{n}.{2 if depth else 1}.conv", c, c, 3, 3)
            width, n = c, n + 1
    net.norm("out.0", base)
    net.layer("out.2", 4, base, 3, 3)
    return net


def autoencoder(channels, layers, latents=4):
    net = Net()

    def residual(name, a, b):
        net.norm(f"{name}.norm1", a)
        net.layer(f"{name}.conv1", b, a, 3, 3)
        net.norm(f"{name}.norm2", b)
        net.layer(f"{name}.conv2", b, b, 3, 3)
        if a != b:
            net.layer(f"{name}.nin_shortcut", b, a, 1, 1)

    def middle(name, n):
        residual(f"{name}.block_1", n, n)
        net.norm(f"{name}.attn_1.norm", n)
        for part in ("q", "k", "v", "proj_out"):
            net.layer(f"{name}.attn_1.{part}", n, n, 1, 1)
        residual(f"{name}.block_2", n, n)

    last = channels[-1]
    net.layer("encoder.conv_in", channels[0], 3, 3, 3)
    width = channels[0]
    for i, c in enumerate(channels):
        for j in range(layers):
            residual(f"encoder.down.{i}.block.{j}", width, c)
            width = c
        if i + 1 < len(channels):
            net.layer(f"encoder.down.{i}.downsample.conv", c, c, 3, 3)
    middle("encoder.mid", last)
    net.norm("encoder.norm_out", last)
    net.layer("encoder.conv_out", 2 * latents, last, 3, 3)
    net.layer("decoder.conv_in", last, latents, 3, 3)
    middle("decoder.mid", last)
    for i in reversed(range(len(channels))):
        for j in range(layers + 1):
            residual(f"decoder.up.{i}.block.{j}", width, channels[i])
            width = channels[i]
        if i:
            net.layer(f"decoder.up.{i}.upsample.conv", width, width, 3, 3)
    net.norm("decoder.norm_out", width)
    net.layer("decoder.conv_out", 3, width, 3, 3)
    net.layer("quant_conv", 2 * latents, 2 * latents, 1, 1)
    net.layer("post_quant_conv", latents, latents, 1, 1)
    return net


def clip(width, layers, vocabulary=60, places=12):
    net = Net()
    net["text_model.embeddings.position_ids"] = [1, places]
    net["text_model.embeddings.token_embedding.weight"] = [vocabulary, width]
    net["text_model.embeddings.position_embedding.weight"] = [places, width]
    for i in range(layers):
        layer = f"text_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            net.layer(f"{layer}.self_attn.{part}", width, width)
        net.norm(f"{layer}.layer_norm1", width)
        net.norm(f"{layer}.layer_norm2", width)
        net.layer(f"{layer}.mlp.fc1", 4 * width, width)
        net.layer(f"{layer}.mlp.fc2", width, 4 * width)
    net.norm("text_model.final_layer_norm", width)
    return net


def open_clip(width, layers, vocabulary=60, places=12):
    net = Net()
    net["positional_embedding"] = [places, width]
    net["text_projection"] = [width, width]
    net["logit_scale"] = []
    net["token_embedding.weight"] = [vocabulary, width]
    for i in range(layers):
        layer = f"transformer.resblocks.{i}"
        net[f"{layer}.attn.in_proj_weight"] = [3 * width, width]
        net[f"{layer}.attn.in_proj_bias"] = [3 * width]
        net.layer(f"{layer}.attn.out_proj", width, width)
        net.norm(f"{layer}.ln_1", width)
        net.norm(f"{layer}.ln_2", width)
        net.layer(f"{layer}.mlp.c_fc", 4 * width, width)
        net.layer(f"{layer}.mlp.c_proj", width, 4 * width)
    net.norm("ln_final", width)
    return net


def under(prefix, net):
    return {prefix + name: shape for name, shape in net.items()}


def text_config(width, layers, act, projection=None):
    return dict(
        architectures=["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        vocab_size=60,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=projection or width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=12,
        hidden_act=act,
        eos_token_id=2,
    )


def blocks(way, attends):
    return [f"{'CrossAttn' if a else ''}{way}Block2D" for a in attends]


def unet_config(channels, depths, middle, layers, text, linear, adm, heads, size):
    attends = [d > 0 for d in depths]
    config = dict(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=blocks("Down", attends),
        up_block_types=blocks("Up", attends[::-1]),
        cross_attention_dim=text,
        attention_head_dim=heads,
        transformer_layers_per_block=[max(d, 1) for d in depths[:-1]] + [middle],
        use_linear_projection=linear,
    )
    if adm:
        config |= dict(
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=adm,
        )
    return config


def vae_config(channels, layers, scaling):
    n = len(channels)
    return dict(
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=["DownEncoderBlock2D"] * n,
        up_block_types=["UpDecoderBlock2D"] * n,
        scaling_factor=scaling,
    )


FAMILIES = {
    # All blocks of the published networks, with fewer channels.
    "sd1": dict(
        unet=([32, 32, 64, 64], [1, 1, 1, 0], 1, 2, 768, False, None),
        heads=[8] * 4,
        size=64,
        vae=([32, 32, 64, 64], 2),
        scaling=0.18215,
        texts={"text_encoder": ("cond_stage_model.transformer.", clip, 768, 1)},
    ),
    "sd2": dict(
        unet=([64, 128, 128], [1, 1, 0], 1, 1, 128, True, None),
        heads=[1, 2, 2],
        size=96,
        vae=([32, 64], 1),
        scaling=0.18215,
        texts={"text_encoder": ("cond_stage_model.model.", open_clip, 128, 3)},
    ),
    "sdxl": dict(
        unet=([64, 64, 128], [0, 1, 2], 2, 1, 192, True, 1664),
        heads=[1, 1, 2],
        size=128,
        vae=([32, 64, 64], 1),
        scaling=0.13025,
        texts={
            "text_encoder": ("conditioner.embedders.0.transformer.", clip, 64, 2),
            "text_encoder_2": ("conditioner.embedders.1.model.", open_clip, 128, 2),
        },
    ),
}


def taken(model, tensors):
    model.load_state_dict({k: v.clone() for k, v in tensors.items()}, strict=True)


def main():
    for family, given in FAMILIES.items():
        shapes = under("model.diffusion_model.", unet(*given["unet"]))
        shapes |= under("first_stage_model.", autoencoder(*given["vae"]))
        for prefix, make, width, layers in given["texts"].values():
            shapes |= under(prefix, make(width, layers))
        checkpoint = {name: values(name, shape) for name, shape in shapes.items()}
        components = {}

        config = unet_config(*given["unet"], given["heads"], given["size"])
        model = UNet2DConditionModel(**config)
        # The converter reads these two keys of the configuration.
        made = convert_ldm_unet_checkpoint(dict(checkpoint), config | dict(class_embed_type=None))
        taken(model, made)
        components["unet"] = dict(config=config, digest=digest(made))

        config = vae_config(*given["vae"], given["scaling"])
        model = AutoencoderKL(**config)
        made = convert_ldm_vae_checkpoint(dict(checkpoint), dict(model.config))
        taken(model, made)
        components["vae"] = dict(config=config, digest=digest(made))

        for name, (prefix, make, width, layers) in given["texts"].items():
            opened = make is open_clip
            projected = opened and family == "sdxl"
            config = text_config(
                width,
                layers - (opened and not projected),
                "gelu" if opened else "quick_gelu",
                width if projected else None,
            )
            keys = {k: v for k, v in config.items() if k != "architectures"}
            cls = CLIPTextModelWithProjection if projected else CLIPTextModel
            model = cls(CLIPTextConfig(**keys))
            own = {k: v for k, v in checkpoint.items() if k.startswith(prefix)}
            if opened:
                made = convert_open_clip_checkpoint(model, own, prefix=prefix)
                if not projected:
                    # What diffusers leaves out of 2.x goes by the name of the last layer of the full size.
                    last = f"text_model.encoder.layers.{layers - 1}."
                    made = {k: v for k, v in made.items() if not k.startswith(last) and "projection" not in k}
            else:
                made = convert_ldm_clip_checkpoint(own)
            made = {k: v for k, v in made.items() if not k.endswith("position_ids")}
            known = {k.removeprefix("text_model."): v for k, v in model.state_dict().items()}
            assert {k.removeprefix("text_model."): v.shape for k, v in made.items()} == {
                k: v.shape for k, v in known.items() if not k.endswith("position_ids")
            }
            components[name] = dict(config=config, digest=digest(made))

        answers = dict(
            versions=dict(diffusers=diffusers.__version__, transformers=transformers.__version__),
            tensors=shapes,
            components=components,
        )
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in answers["tensors"].items()]
        answers["tensors"] = {}
        text = json.dumps(answers, indent=1).replace('"tensors": {}', '"tensors": {\n' + ",\n".join(lines) + "}")
        (HERE / f"{family}.json").write_text(text + "\n")


main()
