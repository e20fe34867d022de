#!/usr/bin/env python3
"""Writes `lora.json` for `tests/lora.rs`: names of layers in kohya's files and what diffusers makes of them.

    python make_lora.py

The U-Net's layers are all those of `sdxl.json` in the names of its first code; those of the text encoders are the
ones that are trained.
"""

import json
import pathlib
import types

import diffusers
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)

HERE = pathlib.Path(__file__).parent
UNET = "model.diffusion_model."


def layers():
    sdxl = json.loads((HERE / "sdxl.json").read_text())
    config = sdxl["components"]["unet"]["config"]
    for name, shape in sdxl["tensors"].items():
        if name.startswith(UNET) and name.endswith(".weight") and len(shape) > 1:
            yield config, f"lora_unet_{name.removeprefix(UNET).removesuffix('.weight').replace('.', '_')}"
    parts = ["self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"]
    for part in parts:
        for prefix in ["lora_te1_", "lora_te2_"]:
            yield config, f"{prefix}text_model_encoder_layers_1_{part}"


def diffusers_name(config, stem):
    one = torch.ones(1, 1)
    state = {f"{stem}.lora_down.weight": one, f"{stem}.lora_up.weight": one, f"{stem}.alpha": torch.tensor(1.0)}
    state = _maybe_map_sgm_blocks_to_diffusers(state, types.SimpleNamespace(**config))
    state, _ = _convert_non_diffusers_lora_to_diffusers(state)
    (down,) = [name for name in state if ".down." in name]
    return down.removesuffix(".weight").removesuffix(".down").removesuffix(".lora").removesuffix(".lora_linear_layer")


if __name__ == "__main__":
    pairs = {stem: diffusers_name(config, stem) for config, stem in layers()}
    out = {"versions": f"diffusers {diffusers.__version__}", "layers": pairs}
    (HERE / "lora.json").write_text(json.dumps(out, indent=1) + "\n")
    print(len(pairs))
