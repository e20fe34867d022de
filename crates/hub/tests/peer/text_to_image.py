"""A StableDiffusion folder makes the same pictures of the same latents in tweedie and in diffusers.

    python text_to_image.py target/release/tweedie models/emoji-text-64

Every number within 1e-3 of the pictures' RMS. Not part of CI, which has no Python; written for torch 2.15.0 (CPU),
diffusers 0.42.1 and transformers 5.24.0.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from safetensors.torch import load_file, save_file

PROMPTS = ["smiling cat", "red heart", "dog face", "a purple apple"]
STEPS = 20
GUIDANCE = 4.0


def main():
    disable_progress_bar()
    program, model = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    unet = pipe.unet.config
    torch.manual_seed(0)
    noise = torch.randn(len(PROMPTS), unet.in_channels, unet.sample_size, unet.sample_size)
    theirs = pipe(
        PROMPTS, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=noise, output_type="pt"
    ).images
    # Pictures in 0..1, cut there.
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "noise.safetensors"), Path(folder, "samples.safetensors")
        save_file({"noise": noise}, inputs)
        command = [program, "sample", "--quiet", "--model", model, "--steps", STEPS, "--guidance", GUIDANCE]
        command += ["--noise", inputs, "--save-tensors", outputs, "--output", Path(folder, "out.png")]
        command += [word for prompt in PROMPTS for word in ("--prompt", prompt)]
        subprocess.run([str(word) for word in command], check=True)
        ours = (load_file(outputs)["samples"] / 2 + 0.5).clamp(0, 1)
    for prompt, found, expected in zip(PROMPTS, ours, theirs):
        worst = float((found - expected).abs().max() / expected.pow(2).mean().sqrt())
        print(f"{prompt}: numbers differ by at most {worst:.1e} of the RMS")
        assert worst < 1e-3, prompt


main()
