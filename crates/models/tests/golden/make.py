#!/usr/bin/env python3
"""Writes the golden files of `tests/golden.rs`: outputs of diffusers' UNet2DModel.

    python make.py [NAME...]

Weights and inputs are functions of a tensor's name and the element's index, so they need no storing; the
test computes the same ones. Files hold the output (all of it, or 256 elements and their places for a large
network), for small networks also the gradient of the output's mean square (for each parameter in the order of
names its root mean square and its last element), and as metadata the configuration, the other inputs, a digest of all tensor names and shapes, and
the versions used.
"""

import json
import math
import pathlib
import sys

import diffusers
import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
SQRT2 = math.sqrt(2.0)


def fnv(text):
    h = 0xCBF29CE484222325
    for b in text.encode():
        h = ((h ^ b) * 0x100000001B3) % 2**64
    return h


def noise(name, count):
    """`count` numbers in [-1, 1), exact in f32: SplitMix64 started at the hash of `name`."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0


def weight(name, shape):
    u = noise(name, math.prod(shape))
    if name.endswith("bias"):
        u = 0.1 * u
    elif name in ("time_proj.weight", "class_embedding.weight"):
        u = (16.0 if len(shape) == 1 else 1.0) * u
    elif len(shape) == 1:
        u = 1.0 + 0.2 * u
    else:
        u = math.sqrt(3.0 / math.prod(shape[1:])) * u
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def sample(name, shape):
    u = math.sqrt(3.0) * noise(name, math.prod(shape))
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def down(*names):
    return [f"{n}DownBlock2D" if n != "ResnetDownsample" else "ResnetDownsampleBlock2D" for n in names]


def up(*names):
    return [f"{n}UpBlock2D" if n != "ResnetUpsample" else "ResnetUpsampleBlock2D" for n in names]


# name: (configuration, shape of the sample, times, classes)
CASES = {
    # 35.7 M parameters, as published by Ho et al. 2020.
    "ddpm_cifar10": (
        dict(
            sample_size=32,
            block_out_channels=[128, 256, 256, 256],
            layers_per_block=2,
            down_block_types=down("", "Attn", "", ""),
            up_block_types=up("", "", "Attn", ""),
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            norm_num_groups=32,
        ),
        (1, 3, 32, 32),
        [573],
        None,
    ),
    "class_table": (
        dict(
            sample_size=16,
            block_out_channels=[16, 32, 32],
            layers_per_block=2,
            down_block_types=down("", "Attn", "Attn"),
            up_block_types=up("Attn", "Attn", ""),
            norm_num_groups=8,
            num_class_embeds=7,
            dropout=0.3,
        ),
        (2, 3, 16, 16),
        [0, 999],
        [6, 0],
    ),
    "scale_shift_resnet": (
        dict(
            sample_size=[8, 16],
            in_channels=4,
            out_channels=8,
            block_out_channels=[16, 32, 48],
            layers_per_block=1,
            down_block_types=down("ResnetDownsample", "Attn", "ResnetDownsample"),
            up_block_types=up("ResnetUpsample", "Attn", "ResnetUpsample"),
            norm_num_groups=4,
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=3,
        ),
        (2, 4, 8, 16),
        [12, 700],
        [1, 2],
    ),
    "ncsnpp": (
        dict(
            sample_size=16,
            block_out_channels=[32, 64, 64],
            layers_per_block=2,
            time_embedding_type="fourier",
            down_block_types=down("Skip", "AttnSkip", "Skip"),
            up_block_types=up("Skip", "AttnSkip", "Skip"),
            norm_num_groups=None,
            norm_eps=1e-6,
            mid_block_scale_factor=SQRT2,
            freq_shift=0,
        ),
        (2, 3, 16, 16),
        [0.37, 45.0],
        None,
    ),
    "attention_resnet_resampling": (
        dict(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=[16, 24],
            layers_per_block=2,
            down_block_types=down("Attn", "Attn"),
            up_block_types=up("Attn", "Attn"),
            downsample_type="resnet",
            upsample_type="resnet",
            attention_head_dim=4,
            norm_num_groups=8,
            attn_norm_num_groups=3,
            resnet_time_scale_shift="scale_shift",
            mid_block_scale_factor=1.5,
        ),
        (2, 1, 8, 8),
        [1, 250],
        None,
    ),
    "k_blocks": (
        dict(
            sample_size=16,
            block_out_channels=[32, 64, 128],
            layers_per_block=2,
            down_block_types=down("K", "K", "K"),
            up_block_types=up("K", "K", "K"),
            norm_num_groups=16,
            act_fn="gelu",
        ),
        (1, 3, 16, 12),
        [321],
        None,
    ),
    "k_and_plain": (
        dict(
            block_out_channels=[32, 64],
            layers_per_block=1,
            down_block_types=["UNetResKDownBlock2D", "UNetResDownBlock2D"],
            up_block_types=up("K", "K"),
            norm_num_groups=8,
            mid_block_type=None,
            resnet_time_scale_shift="scale_shift",
        ),
        (2, 3, 8, 8),
        [5, 6],
        None,
    ),
    # The lowest resolution is 3×5; an odd width of the time embedding; negative times, as EDM has them.
    "odd_sizes": (
        dict(
            sample_size=[12, 20],
            block_out_channels=[21, 42, 42],
            layers_per_block=1,
            down_block_types=down("", "", "Attn"),
            up_block_types=up("Attn", "", ""),
            downsample_padding=0,
            attention_head_dim=8,
            norm_num_groups=7,
            time_embedding_dim=30,
        ),
        (2, 3, 12, 20),
        [-0.71, 0.93],
        None,
    ),
    "learned_times": (
        dict(
            sample_size=8,
            block_out_channels=[16, 16],
            layers_per_block=2,
            down_block_types=down("Attn", ""),
            up_block_types=up("", "Attn"),
            time_embedding_type="learned",
            num_train_timesteps=50,
            mid_block_type=None,
            norm_num_groups=4,
            act_fn="relu",
        ),
        (2, 3, 8, 8),
        [0, 49],
        None,
    ),
    "class_as_time": (
        dict(
            sample_size=8,
            center_input_sample=True,
            block_out_channels=[16, 32],
            layers_per_block=1,
            down_block_types=down("", ""),
            up_block_types=up("", ""),
            class_embed_type="timestep",
            norm_num_groups=8,
            act_fn="Mish",
            add_attention=False,
            freq_shift=1,
        ),
        (2, 3, 8, 8),
        [3, 600],
        [5, 31],
    ),
    "class_embedding_given": (
        dict(
            block_out_channels=[20, 20],
            layers_per_block=1,
            down_block_types=down("Attn", "ResnetDownsample"),
            up_block_types=up("ResnetUpsample", ""),
            class_embed_type="identity",
            attention_head_dim=8,
            norm_num_groups=5,
            act_fn="swish",
        ),
        (2, 3, 8, 8),
        [30, 60],
        "embedding",
    ),
    "one_resolution": (
        dict(
            in_channels=2,
            out_channels=5,
            block_out_channels=[12],
            layers_per_block=3,
            down_block_types=down(""),
            up_block_types=up(""),
            norm_num_groups=3,
            attention_head_dim=3,
            downsample_padding=3,
        ),
        (3, 2, 7, 5),
        [10, 20, 30],
        None,
    ),
    # Skip blocks below and above plain ones; the class as a Fourier feature.
    "partly_skip": (
        dict(
            sample_size=16,
            block_out_channels=[32, 32, 64],
            layers_per_block=1,
            time_embedding_type="fourier",
            class_embed_type="timestep",
            down_block_types=down("Skip", "", "Attn"),
            up_block_types=up("", "AttnSkip", "Skip"),
            norm_num_groups=8,
            attention_head_dim=16,
        ),
        (2, 3, 16, 16),
        [2.5, 80.0],
        [1, 9],
    ),
}


def places(shape):
    """256 places in a large output: corners of each image and channel, then scattered ones."""
    b, c, h, w = shape
    corners = [
        ((i * c + j) * h + y) * w + x for i in range(b) for j in range(c) for y in (0, h - 1) for x in (0, w - 1)
    ]
    scattered = (noise("places", 256 - len(corners)) + 1.0) / 2.0 * (b * c * h * w)
    return np.array(corners + [int(s) for s in scattered], dtype=np.int64)


def make(name):
    config, shape, times, classes = CASES[name]
    model = UNet2DModel(**config).eval()
    state = model.state_dict()
    shapes = {k: list(v.shape) for k, v in state.items()}
    model.load_state_dict({k: weight(k, s) for k, s in shapes.items()})
    labels = classes
    if classes == "embedding":
        labels = sample("embedding", (shape[0], model.time_embedding.linear_2.out_features))
    elif classes is not None:
        labels = torch.tensor(classes)
    out = model(sample("sample", shape), torch.tensor(times), class_labels=labels).sample
    out.square().mean().backward()
    grads = {k: p.grad for k, p in sorted(model.named_parameters()) if p.grad is not None}
    out = out.detach().numpy()
    assert np.isfinite(out).all()

    listing = "".join(f"{k} {json.dumps(s)}\n" for k, s in sorted(shapes.items()))
    count = sum(math.prod(s) for s in shapes.values())
    if count > 10**7:
        at = places(out.shape)
        tensors = {"places": at, "values": out.reshape(-1)[at]}
    else:
        rms = [[g.square().mean().sqrt().item(), g.reshape(-1)[-1].item()] for g in grads.values()]
        tensors = {"output": np.ascontiguousarray(out), "gradients": np.array(rms, dtype=np.float32)}
    metadata = {
        "config": json.dumps({"_class_name": "UNet2DModel", **config}),
        "sample": json.dumps(shape),
        "times": json.dumps(times),
        "classes": json.dumps(classes),
        "output": json.dumps(out.shape),
        "rms": repr(float(np.sqrt(np.mean(out.astype(np.float64) ** 2)))),
        "tensors": str(len(shapes)),
        "parameters": str(count),
        "names": f"{fnv(listing):016x}",
        "versions": f"diffusers {diffusers.__version__}, torch {torch.__version__}, numpy {np.__version__}",
    }
    save_file(tensors, HERE / f"{name}.safetensors", metadata)
    print(f"{name}: {count} parameters, {len(shapes)} tensors, rms {metadata['rms']}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    for case in sys.argv[1:] or CASES:
        make(case)
