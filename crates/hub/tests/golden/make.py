"""Writes the model folders in this directory with diffusers, and what its networks and pipelines answer.

    python make.py

torch 2.15.0 (CPU), diffusers 0.42.1, safetensors, numpy. The weights are random; the folders are for
tests of reading alone.
"""

import json
import math
import shutil
from pathlib import Path

import diffusers.pipelines.ddim.pipeline_ddim as ddim_module
import diffusers.pipelines.ddpm.pipeline_ddpm as ddpm_module
import diffusers.schedulers.scheduling_ddim as ddim_scheduler
import diffusers.schedulers.scheduling_ddpm as ddpm_scheduler
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file

HERE = Path(__file__).parent
STEPS = 10
ROWS = 2


def tiny(**more):
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
        **more,
    ).eval()


def wave(draw, shape):
    """Noise that needs no file: value i of draw k is 1.3·sin(12.9898·(i+1) + 78.233·(k+1))."""
    n = math.prod(shape)
    values = [1.3 * math.sin(12.9898 * (i + 1) + 78.233 * (draw + 1)) for i in range(n)]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32).reshape(shape)


class Waves:
    """Stands in for randn_tensor: the first draw is the initial noise, number -1."""

    def __init__(self):
        self.draw = -1

    def __call__(self, shape, **_):
        self.draw += 1
        return wave(self.draw - 1, tuple(shape))


def patched(call):
    modules = (ddim_module, ddpm_module, ddim_scheduler, ddpm_scheduler)
    kept = [m.randn_tensor for m in modules]
    waves = Waves()
    for m in modules:
        m.randn_tensor = waves
    try:
        return call()
    finally:
        for m, f in zip(modules, kept):
            m.randn_tensor = f


def raw(pipeline, **call):
    """The pipeline's result before it is turned into a picture, taken from its last scheduler step."""
    last = {}
    step = pipeline.scheduler.step

    def keep(*args, **kwargs):
        result = step(*args, **kwargs)
        last["x"] = result.prev_sample.clone()
        return result

    pipeline.scheduler.step = keep
    pipeline.set_progress_bar_config(disable=True)
    patched(lambda: pipeline(batch_size=ROWS, num_inference_steps=STEPS, **call))
    return last["x"].contiguous()


@torch.no_grad()
def main():
    for name in ("ddpm", "classes"):
        shutil.rmtree(HERE / name, ignore_errors=True)

    torch.manual_seed(7)
    unet = tiny()
    # Fresh networks answer with little; the wider last layer makes mistakes visible.
    unet.conv_out.weight *= 8
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(HERE / "ddpm")
    x = wave(5, (ROWS, 3, 8, 8))
    answers = {"sample": unet(x, torch.tensor([3, 777])).sample}
    answers["ddpm"] = raw(DDPMPipeline(unet, DDPMScheduler()))
    answers["ddpm_large_trailing"] = raw(
        DDPMPipeline(unet, DDPMScheduler(variance_type="fixed_large", timestep_spacing="trailing"))
    )
    answers["ddim"] = raw(DDIMPipeline(unet, DDIMScheduler()))
    answers["ddim_eta"] = raw(DDIMPipeline(unet, DDIMScheduler(timestep_spacing="trailing")), eta=0.6)
    answers["ddim_threshold"] = raw(
        DDIMPipeline(unet, DDIMScheduler(thresholding=True, sample_max_value=1.5, clip_sample=False))
    )
    save_file(answers, HERE / "ddpm_answers.safetensors")

    # In pieces, and in half precision.
    torch.manual_seed(8)
    unet = tiny(num_class_embeds=5, resnet_time_scale_shift="scale_shift").to(torch.bfloat16)
    unet.save_pretrained(HERE / "classes", max_shard_size="12KB")
    unet = unet.to(torch.float32)
    classes = torch.tensor([4, 1])
    save_file({"sample": unet(x, torch.tensor([10, 500]), class_labels=classes).sample}, HERE / "classes_answers.safetensors")
    for path in sorted(HERE.rglob("*.json")):
        json.loads(path.read_text())
        print(path.relative_to(HERE))


main()
