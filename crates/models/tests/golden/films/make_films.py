#!/usr/bin/env python3
"""Writes the golden files of `tests/films.rs`: outputs of networks of video models in diffusers and transformers.

    python make_films.py [NAME...]

Weights and inputs are the functions of `../make.py`. Files hold the outputs, and as metadata the configuration, the inputs that
are no such functions, all tensor names with their shapes, and the versions used.
"""

import json
import pathlib
import sys

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKLTemporalDecoder, AutoencoderKLWan, WanTransformer3DModel
from safetensors.numpy import save_file
from transformers import UMT5Config, UMT5EncoderModel

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))
from make import sample, weight  # noqa: E402


def temporal(layers, **more):
    config = dict(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        layers_per_block=layers,
        sample_size=16,
    )
    # One clip of frames, and two of latents.
    shapes = {"sample": [1, 3, 2, 8, 12], "latents": [2, 4, 3, 4, 6]}
    return AutoencoderKLTemporalDecoder, config | more, shapes, {}


def wan(tokens, **more):
    config = dict(
        num_attention_heads=2,
        attention_head_dim=14,
        in_channels=6,
        out_channels=6,
        text_dim=20,
        freq_dim=16,
        ffn_dim=40,
        num_layers=2,
        rope_max_seq_len=32,
    )
    config |= more
    shapes = {"sample": [2, config["in_channels"], 3, 4, 6], "text": [2, tokens, 20]}
    if "image_dim" in config:
        shapes["image"] = [2, 5, config["image_dim"]]
    return WanTransformer3DModel, config, shapes, {"timestep": [3.0, 871.0]}


def wan_vae(**more):
    config = dict(
        base_dim=4,
        z_dim=6,
        dim_mult=[1, 2, 2, 4],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, -0.4, 0.5, -0.6],
        latents_std=[1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
    )
    shapes = {"sample": [1, 3, 9, 16, 24], "latents": [1, 6, 3, 2, 2]}
    return AutoencoderKLWan, config | more, shapes, {}


def umt5():
    config = dict(
        vocab_size=60,
        d_model=24,
        d_kv=5,
        d_ff=40,
        num_layers=3,
        num_heads=4,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=30,
        feed_forward_proj="gated-gelu",
    )
    long = [3 + (7 * i) % 50 for i in range(39)] + [1]
    texts = [[5, 9, 31, 1] + [0] * 36, long]
    return UMT5EncoderModel, config, {}, {"input_ids": texts}


CASES = {
    "temporal_decoder": temporal(2),
    "temporal_decoder_plain": temporal(1, scaling_factor=0.3),
    "wan": wan(5),
    # One that reads an image; the number of the text's tokens is fixed in diffusers.
    "wan_image": wan(512, in_channels=10, image_dim=18, added_kv_proj_dim=28, cross_attn_norm=False),
    "wan_vae": wan_vae(),
    "wan_vae_wide": wan_vae(decoder_base_dim=6, temperal_downsample=[True, False, True], num_res_blocks=2),
    "umt5": umt5(),
}


def run(model, config, inputs, given):
    if isinstance(model, AutoencoderKLTemporalDecoder):
        # Frames are rows.
        frames = inputs["sample"].transpose(1, 2).flatten(0, 1)
        latents = inputs["latents"].transpose(1, 2)
        posterior = model.encode(frames).latent_dist
        decoded = model.decode(latents.flatten(0, 1), num_frames=latents.shape[1]).sample
        decoded = decoded.unflatten(0, latents.shape[:2]).transpose(1, 2)
        clip = lambda x: x[None].transpose(1, 2)
        return {"latent_mean": clip(posterior.mean), "latent_logvar": clip(posterior.logvar), "decoded": decoded}
    if isinstance(model, AutoencoderKLWan):
        posterior = model.encode(inputs["sample"]).latent_dist
        decoded = model.decode(inputs["latents"]).sample
        return {"latent_mean": posterior.mean, "latent_logvar": posterior.logvar, "decoded": decoded}
    if isinstance(model, UMT5EncoderModel):
        ids = torch.tensor(given["input_ids"])
        mask = (ids != 0).long()
        return {"features": model(ids, attention_mask=mask)[0] * mask[:, :, None]}
    made = model(
        inputs["sample"],
        torch.tensor(given["timestep"]),
        encoder_hidden_states=inputs["text"],
        encoder_hidden_states_image=inputs.get("image"),
    )
    return {"sample": made.sample}


def make(name):
    kind, config, shapes, given = CASES[name]
    of_transformers = kind is UMT5EncoderModel
    model = (kind(UMT5Config(**config)) if of_transformers else kind(**config)).eval()
    state = {k: list(v.shape) for k, v in model.state_dict().items()}
    if of_transformers:
        # The same table as `shared`.
        state.pop("encoder.embed_tokens.weight", None)
        config["architectures"] = [kind.__name__]
    # Buffers of positions are no weights.
    model.load_state_dict({k: weight(k, s) for k, s in state.items()}, strict=not of_transformers)
    with torch.no_grad():
        outputs = run(model, config, {k: sample(k, s) for k, s in shapes.items()}, given)
    outputs = {k: np.ascontiguousarray(v.numpy()) for k, v in outputs.items()}
    assert all(np.isfinite(v).all() for v in outputs.values())
    metadata = {
        "config": json.dumps(config if of_transformers else {"_class_name": kind.__name__, **config}),
        "shapes": json.dumps(shapes),
        "given": json.dumps(given),
        "names": json.dumps(state),
        "versions": f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
    }
    save_file(outputs, HERE / f"{name}.safetensors", metadata)
    print(name, {k: (v.shape, round(float(np.sqrt(np.mean(v.astype(np.float64) ** 2))), 3)) for k, v in outputs.items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        make(case)
