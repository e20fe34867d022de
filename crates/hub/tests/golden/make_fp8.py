#!/usr/bin/env python3
"""Writes fp8.safetensors: all 256 values of torch's two eight-bit floating-point types, and the same in 32 bits.

    python make_fp8.py

torch 2.15.0, safetensors 0.8.0. NaN is 12345 in 32 bits.
"""

import pathlib

import torch
from safetensors.torch import save_file

bits = torch.arange(256, dtype=torch.uint8)
tensors = {}
for name, kind in (("e4m3fn", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
    tensors[name] = bits.clone().view(kind)
    tensors[f"{name}.f32"] = torch.nan_to_num(tensors[name].float(), nan=12345.0, posinf=torch.inf, neginf=-torch.inf)
save_file(tensors, pathlib.Path(__file__).parent / "fp8.safetensors", {"torch": torch.__version__})
