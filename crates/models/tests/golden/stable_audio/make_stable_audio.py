#!/usr/bin/env python3
"""Writes the golden files of `tests/stable_audio.rs`: outputs of the networks of Stable Audio in diffusers and transformers.

    python make_stable_audio.py [NAME...]

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
from diffusers import AutoencoderOobleck, StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from safetensors.numpy import save_file
from transformers import T5Config, T5EncoderModel

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))
from make import sample, weight  # noqa: E402


def t5(kind, **more):
    config = dict(
        vocab_size=60,
        d_model=24,
        d_kv=5,
        d_ff=40,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=30,
        feed_forward_proj=kind,
    )
    long = [3 + (7 * i) % 50 for i in range(39)] + [1]
    texts = [[5, 9, 31, 1] + [0] * 36, long]
    return T5EncoderModel, config | more, {}, {"input_ids": texts}


def dit(**more):
    config = dict(
        sample_size=9,
        in_channels=6,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=6,
        cross_attention_dim=20,
        time_proj_dim=16,
        global_states_input_dim=28,
        cross_attention_input_dim=14,
    )
    shapes = {
        "sample": [2, 6, 9],
        "encoder_hidden_states": [2, 5, 14],
        "global_hidden_states": [2, 1, 28],
    }
    return StableAudioDiTModel, config | more, shapes, {"timestep": [0.3, 1.2]}


def projection(text, conditioning):
    config = dict(text_encoder_dim=text, conditioning_dim=conditioning, min_value=0, max_value=40)
    return StableAudioProjectionModel, config, {"text": [1, 4, text]}, {"seconds": [1.5, 30.0]}


CASES = {
    "t5": t5("relu"),
    "t5_gated": t5("gated-gelu"),
    "dit": dit(),
    "dit_equal_heads": dit(num_key_value_attention_heads=4),
    "oobleck": (
        AutoencoderOobleck,
        dict(
            encoder_hidden_size=12,
            downsampling_ratios=[2, 4],
            channel_multiples=[1, 3],
            decoder_channels=8,
            decoder_input_channels=6,
            audio_channels=2,
            sampling_rate=4000,
        ),
        {"sample": [2, 2, 80], "latents": [2, 6, 7]},
        {},
    ),
    "projection": projection(10, 14),
    "projection_identity": projection(10, 10),
}


def run(model, config, inputs, given):
    if isinstance(model, T5EncoderModel):
        ids = torch.tensor(given["input_ids"])
        mask = (ids != 0).long()
        return {"features": model(ids, attention_mask=mask)[0] * mask[:, :, None]}
    if isinstance(model, AutoencoderOobleck):
        latents = model.encode(inputs["sample"]).latent_dist
        decoded = model.decode(inputs["latents"]).sample
        return {"latent_mean": latents.mean, "latent_logvar": latents.logvar, "decoded": decoded}
    if isinstance(model, StableAudioProjectionModel):
        start, end = [torch.tensor([second]) for second in given["seconds"]]
        made = model(inputs["text"], start, end)
        start, end = made.seconds_start_hidden_states, made.seconds_end_hidden_states
        return {"text": made.text_hidden_states, "start": start, "end": end}
    length = inputs["sample"].shape[2] + 1
    rotary = get_1d_rotary_pos_embed(
        config["attention_head_dim"] // 2, length, use_real=True, repeat_interleave_real=False
    )
    times = torch.tensor(given["timestep"])
    made = model(
        inputs["sample"],
        times,
        encoder_hidden_states=inputs["encoder_hidden_states"],
        global_hidden_states=inputs["global_hidden_states"],
        rotary_embedding=rotary,
    )
    return {"sample": made.sample}


def make(name):
    cls, config, shapes, given = CASES[name]
    wrapped = cls is T5EncoderModel
    model = (cls(T5Config(**config)) if wrapped else cls(**config)).eval()
    state = {k: list(v.shape) for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    model.load_state_dict({k: weight(k, s) for k, s in state.items()}, strict=False)
    if wrapped:
        assert torch.equal(model.encoder.embed_tokens.weight, model.shared.weight)
    inputs = {k: sample(k, s) for k, s in shapes.items()}
    with torch.no_grad():
        outputs = {k: v.numpy().copy() for k, v in run(model, config, inputs, given).items()}
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
