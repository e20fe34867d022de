"""From nothing to the end of the first denoising step, as a user of diffusers gets there."""

import sys

import torch
from diffusers import DDPMPipeline

torch.set_num_threads(int(sys.argv[2]))
pipe = DDPMPipeline.from_pretrained(sys.argv[1], use_safetensors=True)
pipe.scheduler.set_timesteps(50)
t = pipe.scheduler.timesteps[0]
x = torch.randn(1, 3, 32, 32)
with torch.no_grad():
    x = pipe.scheduler.step(pipe.unet(x, t).sample, t, x).prev_sample
print("done", flush=True)
