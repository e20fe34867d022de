#!/usr/bin/env python3
"""Writes lpips.json, for `tests/perceptual.rs`: distances of the package lpips with VGG-16, and their gradient.

Weights and pictures are the functions of `make.py`; the weights of channels are taken without their sign.
"""

import json
import pathlib
import warnings

import lpips
import torch
import torchvision
from make import sample, weight

warnings.simplefilter("ignore")
HERE = pathlib.Path(__file__).parent

net = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False).eval()
tensors = {}
for name, tensor in net.state_dict().items():
    if name.startswith(("scaling_layer.", "lins.")):
        continue
    value = weight(name, list(tensor.shape))
    tensors[name] = value.abs() if name.startswith("lin") else value
for number in range(5):
    tensors[f"lins.{number}.model.1.weight"] = tensors[f"lin{number}.model.1.weight"]
net.load_state_dict(tensors, strict=False)

shape = [2, 3, 32, 32]
a = sample("a", shape).clamp(-1, 1)
b = (0.6 * sample("a", shape) + 0.4 * sample("b", shape)).clamp(-1, 1).requires_grad_()
distances = net(a, b).flatten()
distances.mean().backward()
gradient = b.grad.flatten()
out = {
    "versions": {"lpips": lpips.__version__ if hasattr(lpips, "__version__") else "0.1.4",
                 "torch": torch.__version__, "torchvision": torchvision.__version__},
    "shape": shape,
    "distances": distances.tolist(),
    "gradient_rms": gradient.square().mean().sqrt().item(),
    "gradient_every_97th": gradient[::97].tolist(),
}
(HERE / "lpips.json").write_text(json.dumps(out) + "\n")
print(out["distances"], out["gradient_rms"])
