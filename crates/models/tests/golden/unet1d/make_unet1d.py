#!/usr/bin/env python3
"""Writes the golden files of `tests/unet1d.rs`, and of hub's `tests/dance_diffusion.rs`: outputs of diffusers'
UNet1DModel.

    python make_unet1d.py [NAME...]

Weights and inputs are the functions of `../make.py`, except that the resampling filters remain diffusers'.
Files hold the output, the filters for halving and doubling, and the gradient of the output's mean square
(for each parameter in the order of names its root mean square and its last element), for Dance Diffusion
also what its scheduler samples in six steps, without the clamp of the pipeline, and as metadata the
configuration, the shape of the sample, the times, a digest of all tensor names and shapes, and the versions
used.
"""

import json
import pathlib
import sys

import diffusers
import numpy as np
import torch
from diffusers import IPNDMScheduler, UNet1DModel
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))
from make import fnv, sample, weight  # noqa: E402


def down(*names):
    return [f"{n}DownBlock1D" if n != "NoSkip" else "DownBlock1DNoSkip" for n in names]


def up(*names):
    return [f"{n}UpBlock1D" if n != "NoSkip" else "UpBlock1DNoSkip" for n in names]


# name: (configuration, shape of the sample, times)
CASES = {
    # Blocks in the order of Dance Diffusion.
    "dance_diffusion": (
        dict(
            sample_size=128,
            sample_rate=16000,
            extra_in_channels=16,
            time_embedding_dim=16,
            block_out_channels=[32, 32, 64],
            down_block_types=down("NoSkip", "", "Attn"),
            up_block_types=up("Attn", "", "NoSkip"),
        ),
        (2, 2, 128),
        [0.02, 0.93],
    ),
    # Attention elsewhere, one head of 48 and two of 35 channels, at the least length.
    "other_blocks": (
        dict(
            sample_size=96,
            in_channels=1,
            out_channels=3,
            extra_in_channels=6,
            time_embedding_dim=6,
            flip_sin_to_cos=False,
            block_out_channels=[8, 48, 32, 70],
            down_block_types=down("NoSkip", "Attn", "", "Attn"),
            up_block_types=up("Attn", "Attn", "", "NoSkip"),
        ),
        (3, 1, 48),
        [0.0, 0.37, 1.0],
    ),
    "one_length": (
        dict(
            sample_size=10,
            in_channels=3,
            out_channels=6,
            extra_in_channels=4,
            time_embedding_dim=4,
            block_out_channels=[32],
            down_block_types=down("NoSkip"),
            up_block_types=up("NoSkip"),
        ),
        (1, 3, 10),
        [0.5],
    ),
}


@torch.no_grad()
def sampled(model, noise, steps):
    """As in DanceDiffusionPipeline."""
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(steps)
    audio = noise
    for t in scheduler.timesteps:
        audio = scheduler.step(model(audio, t).sample, t, audio).prev_sample
    return audio.numpy()


def make(name):
    config, shape, times = CASES[name]
    model = UNet1DModel(**config).eval()
    state = model.state_dict()
    shapes = {k: list(v.shape) for k, v in state.items()}
    filters = {k: v for k, v in state.items() if k.endswith(".kernel")}
    model.load_state_dict({k: filters.get(k, weight(k, s)) for k, s in shapes.items()})
    out = model(sample("sample", shape), torch.tensor(times)).sample
    out.square().mean().backward()
    grads = [p.grad for _, p in sorted(model.named_parameters()) if p.grad is not None]
    out = out.detach().numpy()
    assert np.isfinite(out).all()

    listing = "".join(f"{k} {json.dumps(s)}\n" for k, s in sorted(shapes.items()))
    rms = [[g.square().mean().sqrt().item(), g.reshape(-1)[-1].item()] for g in grads]
    tensors = {
        "output": np.ascontiguousarray(out),
        "down": filters["mid_block.down.kernel"].numpy(),
        "up": filters["mid_block.up.kernel"].numpy(),
        "gradients": np.array(rms, dtype=np.float32),
    }
    if name == "dance_diffusion":
        tensors["sampled"] = sampled(model, sample("noise", shape), 6)
    metadata = {
        "config": json.dumps({"_class_name": "UNet1DModel", **config}),
        "sample": json.dumps(shape),
        "times": json.dumps(times),
        "names": f"{fnv(listing):016x}",
        "versions": f"diffusers {diffusers.__version__}, torch {torch.__version__}, numpy {np.__version__}",
    }
    save_file(tensors, HERE / f"{name}.safetensors", metadata)
    print(f"{name}: {len(shapes)} tensors, rms {np.sqrt(np.mean(out.astype(np.float64) ** 2)):.3f}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    for case in sys.argv[1:] or CASES:
        make(case)
