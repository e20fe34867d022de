#!/usr/bin/env python3
"""Writes the golden files of `tests/unet3d.rs`: outputs of diffusers' UNet3DConditionModel, UNetMotionModel and
UNetSpatioTemporalConditionModel.

    python make_unet3d.py [NAME...]

Weights and inputs are the functions of `../make.py`. Files hold the output and the gradient of its mean
square (for each parameter in the order of names its root mean square and its last element), and as
metadata the configuration, the shapes of sample and text, the times, additional numbers, a digest of all
tensor names and shapes, and the versions used. The last convolutions over time have weights, although they start at zero in
training.
"""

import json
import pathlib
import sys

import diffusers
import numpy as np
import torch
from diffusers import UNet3DConditionModel, UNetMotionModel, UNetSpatioTemporalConditionModel
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))
from make import fnv, sample, weight  # noqa: E402


def blocks(kind, names):
    return [f"{'CrossAttn' if n else ''}{kind}Block3D" for n in names]


def spatio_temporal(kind, names):
    return [f"{'CrossAttn' if n else ''}{kind}BlockSpatioTemporal" for n in names]


# name: (configuration, shape of the sample, shape of the text, times)
CASES = {
    # Blocks in the order of ModelScope's network.
    "modelscope": (
        dict(
            sample_size=8,
            block_out_channels=[16, 32, 32],
            down_block_types=blocks("Down", [1, 1, 0]),
            up_block_types=blocks("Up", [0, 1, 1]),
            layers_per_block=2,
            norm_num_groups=8,
            cross_attention_dim=12,
            attention_head_dim=8,
        ),
        (2, 4, 5, 8, 8),
        (2, 7, 12),
        [3.0, 981.0],
    ),
    # Sizes that are not multiples, one frame, other options.
    "one_frame": (
        dict(
            in_channels=3,
            out_channels=6,
            block_out_channels=[8, 24],
            down_block_types=blocks("Down", [0, 1]),
            up_block_types=blocks("Up", [1, 0]),
            layers_per_block=1,
            norm_num_groups=4,
            norm_eps=1e-4,
            mid_block_scale_factor=1.5,
            downsample_padding=1,
            cross_attention_dim=20,
            attention_head_dim=4,
        ),
        (1, 3, 1, 7, 10),
        (1, 3, 20),
        [500.0],
    ),
    # As Stable Diffusion 1 with an adapter.
    "motion": (
        dict(
            sample_size=8,
            block_out_channels=[16, 32],
            down_block_types=["CrossAttnDownBlockMotion", "DownBlockMotion"],
            up_block_types=["UpBlockMotion", "CrossAttnUpBlockMotion"],
            layers_per_block=2,
            norm_num_groups=8,
            cross_attention_dim=12,
            num_attention_heads=2,
            motion_num_attention_heads=4,
            motion_max_seq_length=6,
        ),
        (2, 4, 5, 8, 8),
        (2, 7, 12),
        [3.0, 981.0],
    ),
    # No module in the middle, linear projections, other heads and layers in each block.
    "motion_options": (
        dict(
            in_channels=3,
            out_channels=6,
            block_out_channels=[8, 24],
            down_block_types=["DownBlockMotion", "CrossAttnDownBlockMotion"],
            up_block_types=["CrossAttnUpBlockMotion", "UpBlockMotion"],
            layers_per_block=1,
            norm_num_groups=4,
            norm_eps=1e-4,
            mid_block_scale_factor=1.5,
            cross_attention_dim=20,
            use_linear_projection=True,
            num_attention_heads=[2, 3],
            motion_num_attention_heads=[4, 6],
            transformer_layers_per_block=2,
            temporal_transformer_layers_per_block=2,
            motion_max_seq_length=4,
            use_motion_mid_block=False,
        ),
        (1, 3, 4, 7, 10),
        (1, 3, 20),
        [500.0],
    ),
    # Blocks in the order of Stable Video Diffusion's network.
    "spatio_temporal": (
        dict(
            sample_size=8,
            block_out_channels=[32, 64, 64],
            down_block_types=spatio_temporal("Down", [1, 1, 0]),
            up_block_types=spatio_temporal("Up", [0, 1, 1]),
            addition_time_embed_dim=6,
            projection_class_embeddings_input_dim=18,
            layers_per_block=1,
            cross_attention_dim=12,
            transformer_layers_per_block=[1, 2, 1],
            num_attention_heads=[2, 4, 4],
            num_frames=6,
        ),
        (2, 8, 5, 8, 8),
        (2, 2, 12),
        [-0.5, 1.6],
    ),
    # Sizes that are not multiples, one frame, other options.
    "spatio_temporal_one_frame": (
        dict(
            in_channels=6,
            out_channels=3,
            block_out_channels=[32, 32],
            down_block_types=spatio_temporal("Down", [0, 1]),
            up_block_types=spatio_temporal("Up", [1, 0]),
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12,
            layers_per_block=[2, 1],
            cross_attention_dim=[20, 20],
            num_attention_heads=4,
        ),
        (1, 6, 1, 7, 10),
        (1, 1, 20),
        [0.25],
    ),
}
KINDS = {"motion": UNetMotionModel, "spatio": UNetSpatioTemporalConditionModel}
ADDED = [[6.0, 127.0, 0.02], [11.0, 30.0, 0.1]]


def make(name):
    config, shape, text_shape, times = CASES[name]
    kind = KINDS.get(name.split("_")[0], UNet3DConditionModel)
    model = kind(**config).eval()
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict({k: weight(k, s) for k, s in shapes.items()})
    text = sample("text", text_shape)
    if kind is UNetMotionModel:
        # Its pipelines repeat the text for each frame.
        text = text.repeat_interleave(shape[2], dim=0)
    if kind is UNetSpatioTemporalConditionModel:
        # Frames come before channels.
        x, added = sample("sample", shape).transpose(1, 2), torch.tensor(ADDED[: shape[0]])
        out = model(x, torch.tensor(times), text, added).sample.transpose(1, 2)
    else:
        out = model(sample("sample", shape), torch.tensor(times), text).sample
    out.square().mean().backward()
    grads = [p.grad for _, p in sorted(model.named_parameters())]
    out = out.detach().numpy()
    assert np.isfinite(out).all()

    listing = "".join(f"{k} {json.dumps(s)}\n" for k, s in sorted(shapes.items()))
    rms = [[g.square().mean().sqrt().item(), g.reshape(-1)[-1].item()] for g in grads]
    metadata = {
        "config": json.dumps({"_class_name": kind.__name__, **config}),
        "sample": json.dumps(shape),
        "text": json.dumps(text_shape),
        "times": json.dumps(times),
        "added": json.dumps(ADDED[: shape[0]]),
        "names": f"{fnv(listing):016x}",
        "versions": f"diffusers {diffusers.__version__}, torch {torch.__version__}, numpy {np.__version__}",
    }
    tensors = {"output": np.ascontiguousarray(out), "gradients": np.array(rms, dtype=np.float32)}
    save_file(tensors, HERE / f"{name}.safetensors", metadata)
    print(f"{name}: {len(shapes)} tensors, rms {np.sqrt(np.mean(out.astype(np.float64) ** 2)):.3f}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    for case in sys.argv[1:] or CASES:
        make(case)
