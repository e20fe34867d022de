#!/usr/bin/env python3
"""Writes the golden files of `tests/peft.rs`: adapters that PEFT and diffusers have trained and saved, and the weights
that they merge them into.

    python make_peft.py

torch 2.15.0, peft 0.21.2, diffusers 0.42.1. A folder per case holds the adapter as it was saved. `expected.safetensors`
holds `base/LAYER.weight`, the weights before, and `CASE/LAYER.weight`, those after merging at the scale of the case.
The files of kohya's and LyCORIS' kind, which neither library writes, are made here; what they mean is computed by
convolutions and torch's own products.
"""

import pathlib
import shutil

import diffusers
import peft
import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_base import _pack_dict_with_prefix
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
SCALE = 0.75
EXPECTED = {}


class Attention(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)

    def forward(self, x, y):
        return torch.tanh(self.to_q(x)) * self.to_v(y) + self.to_k(y)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn1 = Attention(8, 8)
        self.attn2 = Attention(8, 6)
        self.conv = nn.Conv2d(8, 4, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.attn2(self.attn1(x, x), x[..., :6])
        return self.conv(x.transpose(1, 2).reshape(-1, 8, 4, 4))


class Net(nn.Module):
    """Layers with names of a U-Net."""

    def __init__(self):
        super().__init__()
        self.down_blocks = nn.ModuleList([Block()])
        self.mid_block = Block()

    def forward(self, x):
        return self.down_blocks[0](x) + self.mid_block(x)


LINEAR = ["to_q", "to_k", "to_v"]


def base():
    torch.manual_seed(1)
    return Net()


def trained(model, steps=20):
    """Far enough that no factor is near where it began."""
    torch.manual_seed(2)
    x, y = torch.randn(3, 16, 8), torch.randn(3, 4, 4, 4)
    some = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(some, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return model


def keep(case, model):
    for name, tensor in model.state_dict().items():
        EXPECTED[f"{case}/{name}"] = tensor.detach().clone().contiguous()


def adapter(case, config, raw=False):
    folder = HERE / case
    shutil.rmtree(folder, ignore_errors=True)
    model = trained(get_peft_model(base(), config))
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    if raw:
        # The names of the modules, with that of the adapter.
        some = {k: v.detach().clone() for k, v in model.state_dict().items() if "lora_" in k}
        assert any(".default" in k for k in some)
        save_file(some, folder / "adapter_model.safetensors")
    keep(case, model.merge_and_unload())


def adapters():
    adapter(
        "patterns",
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=[*LINEAR, "conv"],
            alpha_pattern={r".*\.attn1\.(to_q|to_v)": 32, "mid_block.attn2.to_k": 3, "to_k": 5},
            rank_pattern={"attn2.*": 2, "conv": 3},
        ),
    )
    adapter("rslora", LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, use_rslora=True))
    adapter("named", LoraConfig(r=2, lora_alpha=6, target_modules=LINEAR), raw=True)
    adapter("dora", LoraConfig(r=2, lora_alpha=4, target_modules=[*LINEAR, "conv"], use_dora=True))
    adapter(
        "dora_named", LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "conv"], use_dora=True), raw=True
    )
    adapter("loha", LoHaConfig(r=2, alpha=4, target_modules=[*LINEAR, "conv"], alpha_pattern={"attn1.*": 1}))
    adapter("loha_tucker", LoHaConfig(r=2, alpha=4, target_modules=["conv"], use_effective_conv2d=True))
    adapter("lokr", LoKrConfig(r=1, alpha=4, target_modules=[*LINEAR, "conv"], decompose_both=True))
    adapter("lokr_tucker", LoKrConfig(r=1, alpha=4, target_modules=["conv"], use_effective_conv2d=True))
    # Factors that are whole tell no rank: PEFT's configuration does.
    adapter(
        "lokr_whole", LoKrConfig(r=16, alpha=8, target_modules=LINEAR, rank_pattern={"to_k": 32}, init_weights=False)
    )


def by_diffusers():
    """A file of diffusers, whose header holds PEFT's configuration."""
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=[8],
        down_block_types=["CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D"],
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=8,
    )
    layers = [name for name, module in unet.named_modules() if name.endswith(tuple(LINEAR))]
    for name, tensor in unet.state_dict().items():
        if name.removesuffix(".weight") in layers:
            EXPECTED[f"unet/{name}"] = tensor.clone()
    config = LoraConfig(
        r=2, lora_alpha=8, target_modules=LINEAR, init_lora_weights=False, alpha_pattern={r".*\.attn1\.(to_q|to_v)": 32}
    )
    unet.add_adapter(config)
    folder = HERE / "diffusers"
    shutil.rmtree(folder, ignore_errors=True)
    metadata = _pack_dict_with_prefix({k: v for k, v in config.to_dict().items() if v is not None}, "unet")
    metadata = {k: sorted(v) if isinstance(v, set) else v for k, v in metadata.items()}
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata={k.removeprefix("unet."): v for k, v in metadata.items()},
    )
    unet.fuse_lora(lora_scale=SCALE)
    unet.unload_lora()
    for name, tensor in unet.state_dict().items():
        if name.removesuffix(".weight") in layers:
            EXPECTED[f"diffusers/{name}"] = tensor.detach().clone()


def changed_by(make):
    """The weight of a 3×3 convolution that `make` is, from its answers to unit impulses."""
    x = torch.eye(8).reshape(8, 8, 1, 1)
    x = F.pad(x, (2, 2, 2, 2))
    return make(x).flip(2, 3).transpose(0, 1)


def stretched(weight, lengths, axes):
    norm = weight.pow(2).sum(dim=axes, keepdim=True).sqrt()
    return weight * (lengths / norm)


def by_kohya():
    """What kohya's scripts and LyCORIS write."""
    net = base()
    state = {k: v.detach().clone() for k, v in net.state_dict().items()}
    torch.manual_seed(4)
    conv, linear = "mid_block_conv", "mid_block_attn1_to_q"
    names = {conv: "mid_block.conv.weight", linear: "mid_block.attn1.to_q.weight"}

    def write(case, tensors, changes):
        folder = HERE / case
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        save_file({f"lora_unet_{k}": v.contiguous() for k, v in tensors.items()}, folder / "lora.safetensors")
        for stem, weight in changes.items():
            EXPECTED[f"{case}/{names[stem]}"] = weight.detach().clone().contiguous()

    # Three convolutions one after another: LoCon in Tucker's form.
    down, mid, up = torch.randn(3, 8, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(4, 3, 1, 1)
    delta = changed_by(lambda x: F.conv2d(F.conv2d(F.conv2d(x, down), mid), up))
    assert torch.allclose(delta, torch.einsum("i j h w, p i, j r -> p r h w", mid, up[:, :, 0, 0], down[:, :, 0, 0]), atol=1e-5)
    parts = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": torch.tensor(1.5)}
    write(
        "locon_tucker",
        {f"{conv}.{k}": v for k, v in parts.items()},
        {conv: state[names[conv]] + SCALE * (1.5 / 3) * delta},
    )

    # Lengths by output and, as older files have them, by input.
    a, b = torch.randn(2, 8), torch.randn(8, 2)
    weight = state[names[linear]] + SCALE * b @ a
    down, up = torch.randn(2, 8, 3, 3), torch.randn(4, 2, 1, 1)
    wide = state[names[conv]] + SCALE * torch.einsum("p i, i r h w -> p r h w", up[:, :, 0, 0], down)
    for case, (linear_axes, conv_axes) in {"dora_by_output": ((1,), (1, 2, 3)), "dora_by_input": ((0,), (0, 2, 3))}.items():
        lengths = [torch.rand_like(w.sum(dim=axes, keepdim=True)) + 0.5 for w, axes in ((weight, linear_axes), (wide, conv_axes))]
        write(
            case,
            {
                f"{linear}.lora_down.weight": a,
                f"{linear}.lora_up.weight": b,
                f"{linear}.dora_scale": lengths[0],
                f"{conv}.lora_down.weight": down,
                f"{conv}.lora_up.weight": up,
                f"{conv}.dora_scale": lengths[1],
            },
            {
                linear: stretched(weight, lengths[0], linear_axes),
                conv: stretched(wide, lengths[1], conv_axes),
            },
        )

    # Whole factors are not scaled, whatever alpha says; those of a product are by their rank.
    w1, w2, w2a, w2b = torch.randn(2, 4), torch.randn(4, 2), torch.randn(2, 3), torch.randn(3, 4 * 9)
    write(
        "lokr_kohya",
        {
            f"{linear}.lokr_w1": w1,
            f"{linear}.lokr_w2": w2,
            f"{linear}.alpha": torch.tensor(7.0),
            f"{conv}.lokr_w1": w1[:, :2],
            f"{conv}.lokr_w2_a": w2a,
            f"{conv}.lokr_w2_b": w2b,
            f"{conv}.alpha": torch.tensor(6.0),
        },
        {
            linear: state[names[linear]] + SCALE * torch.kron(w1, w2),
            conv: state[names[conv]] + SCALE * 2.0 * torch.kron(w1[:, :2, None, None], (w2a @ w2b).reshape(2, 4, 3, 3)),
        },
    )


def main():
    keep("base", base())
    adapters()
    by_diffusers()
    by_kohya()
    versions = f"torch {torch.__version__}, peft {peft.__version__}, diffusers {diffusers.__version__}"
    save_file(EXPECTED, HERE / "expected.safetensors", {"versions": versions, "scale": str(SCALE)})
    print(len(EXPECTED))


if __name__ == "__main__":
    main()
