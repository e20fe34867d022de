"""Models go from diffusers to tweedie and back, and answer alike on both sides.

    cargo build --release -p tweedie-hub --example copy_model
    python roundtrip.py target/release/examples/copy_model

For several networks: diffusers writes a folder; tweedie reads it, answers inputs, and writes the model again;
diffusers opens that folder as a pipeline and as a component. The weights must be the same to the bit, the
configuration the same, and the answers of both within 1e-4 of their RMS. Not part of CI, which has no
Python; written for torch 2.15.0 (CPU) and diffusers 0.42.1.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from diffusers.utils.logging import disable_progress_bar
from safetensors.torch import load_file, save_file

NETWORKS = {
    "plain": {},
    "classes": dict(num_class_embeds=7, resnet_time_scale_shift="scale_shift"),
    "fourier": dict(
        time_embedding_type="fourier",
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        block_out_channels=(32, 64),
        norm_num_groups=8,
    ),
    "resampled": dict(
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
    ),
}
SCHEDULERS = [
    (DDPMPipeline, DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")),
    (DDIMPipeline, DDIMScheduler(timestep_spacing="trailing")),
    (DDPMPipeline, FlowMatchEulerDiscreteScheduler(shift=2.0)),
    (DDPMPipeline, EDMEulerScheduler(sigma_data=0.4)),
]


def network(**more):
    config = dict(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return UNet2DModel(**{**config, **more}).eval()


def distance(found, expected):
    return float((found - expected).abs().max() / expected.pow(2).mean().sqrt())


@torch.no_grad()
def check(program, folder, name, unet, pipeline, scheduler):
    model, copy = folder / name, folder / f"{name}_copy"
    inputs, outputs = folder / f"{name}_in.safetensors", folder / f"{name}_out.safetensors"
    pipeline(unet, scheduler).save_pretrained(model)
    x, t = torch.randn(3, 3, 16, 16), torch.tensor([1.0, 333.0, 999.0])
    tensors, extra = {"sample": x, "timestep": t}, {}
    if unet.config.num_class_embeds:
        tensors["class_labels"] = extra["class_labels"] = torch.tensor([0, 6, 2])
    save_file(tensors, inputs)
    subprocess.run([program, model, inputs, outputs, copy], check=True)

    expected = unet(x, t, **extra).sample
    answer = load_file(outputs)["sample"]
    again = UNet2DModel.from_pretrained(copy, subfolder="unet")
    opened = DiffusionPipeline.from_pretrained(copy)
    assert isinstance(opened, DDPMPipeline) and isinstance(DDPMPipeline.from_pretrained(copy), DDPMPipeline)
    before, after = unet.state_dict(), again.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before), name
    # None and a default may stand for each other; the network does not care.
    assert distance(again(x, t, **extra).sample, expected) == 0, name
    theirs, ours = dict(scheduler.config), dict(opened.scheduler.config)
    for key in theirs:
        if not key.startswith("_"):
            assert theirs[key] == ours[key], (name, key, theirs[key], ours[key])
    worst = distance(answer, expected)
    assert worst < 1e-4, (name, worst)
    print(f"{name}: answers differ by {worst:.1e} of their RMS; {type(opened.scheduler).__name__}")


def main():
    disable_progress_bar()
    torch.manual_seed(0)
    program = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        for (name, config), (pipeline, scheduler) in zip(NETWORKS.items(), SCHEDULERS):
            check(program, Path(folder), name, network(**config), pipeline, scheduler)


main()
