#!/usr/bin/env python3
"""Writes the golden files of `tests/audio_ldm.rs`: outputs of the networks of AudioLDM in diffusers and transformers.

    python make_audio_ldm.py [NAME...]

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
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.numpy import save_file
from transformers import ClapTextConfig, ClapTextModelWithProjection, SpeechT5HifiGan, SpeechT5HifiGanConfig

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))
from make import sample, weight  # noqa: E402


def unet(kind, projected, heads, attention):
    config = dict(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=[32, 64],
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=heads,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=attention,
        class_embed_type=kind,
        projection_class_embeddings_input_dim=projected,
        class_embeddings_concat=kind == "simple_projection",
    )
    shapes = {"sample": [2, 4, 8, 4], "class_labels": [2, projected]}
    return UNet2DConditionModel, config, shapes, {"timestep": [3.0, 800.0]}


CASES = {
    "vocoder": (
        SpeechT5HifiGan,
        dict(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[5, 2, 4],
            upsample_kernel_sizes=[11, 4, 8],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3, 5], [1, 3]],
            normalize_before=False,
        ),
        {"spectrogram": [2, 9, 8]},
        {},
    ),
    "vocoder_normalized": (
        SpeechT5HifiGan,
        dict(
            model_in_dim=6,
            upsample_initial_channel=8,
            upsample_rates=[4, 2],
            upsample_kernel_sizes=[8, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 2]],
            leaky_relu_slope=0.2,
        ),
        {"spectrogram": [1, 5, 6]},
        {},
    ),
    "clap_text": (
        ClapTextModelWithProjection,
        dict(
            vocab_size=60,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=20,
            projection_dim=12,
        ),
        {},
        {"input_ids": [[0, 5, 9, 31, 2, 1, 1, 1], [0, 7, 2, 1, 1, 1, 1, 1], [0, 50, 51, 52, 53, 54, 55, 2]]},
    ),
    "unet_simple_projection": unet("simple_projection", 12, 4, [32, 64]),
    "unet_projection": unet("projection", 12, 4, [32, 64]),
    "vae_mel": (
        AutoencoderKL,
        dict(
            in_channels=1,
            out_channels=1,
            block_out_channels=[16, 32],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            norm_num_groups=8,
            latent_channels=4,
            scaling_factor=0.9,
        ),
        {"sample": [1, 1, 12, 8], "latents": [2, 4, 6, 4]},
        {},
    ),
}


def run(model, inputs, given):
    if isinstance(model, SpeechT5HifiGan):
        return {"waveform": model(inputs["spectrogram"])}
    if isinstance(model, ClapTextModelWithProjection):
        ids = torch.tensor(given["input_ids"])
        return {"text_embeds": model(ids, attention_mask=(ids != 1).long()).text_embeds}
    if isinstance(model, AutoencoderKL):
        posterior = model.encode(inputs["sample"]).latent_dist
        decoded = model.decode(inputs["latents"]).sample
        return {"latent_mean": posterior.mean, "latent_logvar": posterior.logvar, "decoded": decoded}
    times = torch.tensor(given["timestep"])
    return {"sample": model(inputs["sample"], times, None, class_labels=inputs["class_labels"]).sample}


def make(name):
    cls, config, shapes, given = CASES[name]
    wrapped = {SpeechT5HifiGan: SpeechT5HifiGanConfig, ClapTextModelWithProjection: ClapTextConfig}.get(cls)
    model = (cls(wrapped(**config)) if wrapped else cls(**config)).eval()
    tables = ("position_ids", "token_type_ids")
    state = {k: list(v.shape) for k, v in model.state_dict().items() if not k.endswith(tables)}
    model.load_state_dict({k: weight(k, s) for k, s in state.items()}, strict=False)
    inputs = {k: sample(k, s) for k, s in shapes.items()}
    with torch.no_grad():
        outputs = {k: v.numpy().copy() for k, v in run(model, inputs, given).items()}
    assert all(np.isfinite(v).all() for v in outputs.values())
    key = ("architectures", [cls.__name__]) if wrapped else ("_class_name", cls.__name__)
    metadata = {
        "config": json.dumps(dict([key]) | config),
        "shapes": json.dumps(shapes),
        "given": json.dumps(given),
        "names": json.dumps(dict(sorted(state.items()))),
        "versions": f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}",
    }
    save_file(outputs, HERE / f"{name}.safetensors", metadata)
    rms = {k: round(float(np.sqrt(np.mean(v.astype(np.float64) ** 2))), 4) for k, v in outputs.items()}
    print(f"{name}: rms {rms}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        make(case)
