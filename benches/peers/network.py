"""The network under comparison, made once and handed to everybody: a diffusers folder and ONNX files."""

import json
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "crates/cli/src/commands/bench/ddpm-cifar10.json"
SIZE = 32


def folder(work: Path) -> Path:
    """A diffusers folder with random weights."""
    path = work / "ddpm-cifar10"
    if not (path / "model_index.json").exists():
        import torch
        from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

        torch.manual_seed(0)
        config = {k: v for k, v in json.loads(CONFIG.read_text()).items() if not k.startswith("_")}
        DDPMPipeline(UNet2DModel(**config), DDPMScheduler()).save_pretrained(path)
    return path


def load(path: Path):
    """The network in float32, channels-last."""
    import torch
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(path, subfolder="unet", use_safetensors=True)
    return unet.to(memory_format=torch.channels_last)


def inputs(batch: int):
    """A noisy batch and one time per row."""
    import torch

    torch.manual_seed(1)
    x = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    return x, torch.arange(batch) * 97 % 1000


def plain(unet):
    """The network with a tensor for an answer, which is what exporters follow."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unet = unet

        def forward(self, sample, timestep):
            return self.unet(sample, timestep, return_dict=False)[0]

    return Plain().eval()


def onnx(work: Path, batch: int) -> Path:
    """The same network as ONNX, for one batch size."""
    path = work / f"ddpm-cifar10-{batch}.onnx"
    if not path.exists():
        import torch

        x, t = inputs(batch)
        names = {"input_names": ["sample", "timestep"], "output_names": ["out"]}
        with torch.no_grad():
            model = plain(load(folder(work)))
            torch.onnx.export(model, (x.contiguous(), t), path, dynamo=True, external_data=False, **names)
    return path


def openvino(work: Path, batch: int) -> Path:
    """The same network as OpenVINO converts it from PyTorch, for one batch size."""
    path = work / f"ddpm-cifar10-{batch}.xml"
    if not path.exists():
        import openvino as ov

        x, t = inputs(batch)
        model = ov.convert_model(plain(load(folder(work))), example_input=(x.contiguous(), t))
        model.reshape({0: list(x.shape), 1: list(t.shape)})
        ov.save_model(model, path, compress_to_fp16=False)
    return path
