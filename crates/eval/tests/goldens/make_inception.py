"""Writes inception.safetensors: what pytorch-fid's Inception-v3 answers with weights of a formula;
inception.txt, the shapes of its convolutions; and
resize.safetensors: pictures brought to other sizes as clean-fid does it.

Python 3, torch 2.15, torchvision 0.29, pytorch-fid 0.3.0, clean-fid 0.1.35, pillow 13.0, numpy 2.4, safetensors 0.8.

tests/inception.rs repeats the formulas, so that no weights are kept.
"""

from pathlib import Path
from unittest import mock

import numpy as np
import pytorch_fid.inception as fid
import torch
from cleanfid.resize import make_resizer
from make_metrics import uniform
from safetensors.numpy import save_file


def tensor(name, shape):
    count = int(np.prod(shape))
    u = uniform(name, count)
    if name.endswith("running_var"):
        values = 1 + 0.3 * u
    elif name.endswith("bn.weight"):
        values = 1 + 0.2 * u
    elif len(shape) == 1:
        values = 0.1 * u
    else:
        values = np.sqrt(6 / np.prod(shape[1:])) * u
    return torch.tensor(values.astype(np.float32)).reshape(shape)


def picture(name, height, width):
    """A smooth pattern under noise."""
    noise = uniform(name, height * width * 3).reshape(height, width, 3)
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    wave = np.sin(0.3 * x + c) * np.cos(0.2 * y - c)
    return np.clip(127.5 + 80 * wave + 60 * noise, 0, 255).astype(np.uint8)


def weights():
    def load(*_, **__):
        shapes = {}
        with mock.patch.object(torch.nn.Module, "load_state_dict", lambda self, _: shapes.update(
            {k: v.shape for k, v in self.state_dict().items()})):
            with mock.patch.object(fid, "load_state_dict_from_url", lambda *_, **__: None):
                build()
        return {k: tensor(k, tuple(s)) if s else torch.tensor(0) for k, s in shapes.items()}

    build = fid.fid_inception_v3
    with mock.patch.object(fid, "load_state_dict_from_url", load):
        return build().eval()


if __name__ == "__main__":
    here = Path(__file__).parent
    net = weights()
    with mock.patch.object(fid, "fid_inception_v3", lambda: net):
        model = fid.InceptionV3([0, 1, 2, 3], resize_input=False).eval()
    shapes = (f"{name} {' '.join(map(str, p.shape))}" for name, p in net.named_parameters() if p.ndim > 1)
    (here / "inception.txt").write_text("\n".join(shapes) + "\n")
    image = make_resizer("PIL", False, "bicubic", (299, 299))(picture("inception", 40, 32))
    x = torch.tensor(image.transpose(2, 0, 1)[None] / 255, dtype=torch.float32)
    with torch.no_grad():
        blocks = model(x)
        pooled = blocks[3].flatten(1)
        logits = net.fc(pooled)
    out = {"features": pooled[0], "logits": logits[0]}
    for i in range(3):  # a few pixels of each earlier block, all channels
        out[f"block{i}"] = blocks[i][0][:, ::16, 5]
    for name, value in out.items():
        print(name, tuple(value.shape), value.pow(2).mean().sqrt().item())
    save_file({k: np.ascontiguousarray(v.numpy()) for k, v in out.items()}, here / "inception.safetensors")

    resized = {}
    for height, width, to in [(32, 32, 299), (40, 32, 24), (97, 130, 32), (200, 200, 32), (32, 32, 32), (1, 1, 5)]:
        name = f"{height}x{width}to{to}"
        value = make_resizer("PIL", False, "bicubic", (to, to))(picture(name, height, width))
        resized[name] = value if to < 299 else value[::40].copy()
    save_file(resized, here / "resize.safetensors")
