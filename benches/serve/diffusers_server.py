"""The obvious server: FastAPI around diffusers, one request after the other."""

import io
import sys
import threading

import torch
import uvicorn
from diffusers import DDIMScheduler, UNet2DModel
from fastapi import FastAPI, Response
from PIL import Image

folder, port = sys.argv[1], int(sys.argv[2])
unet = UNet2DModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32).eval()
base = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
app, lock = FastAPI(), threading.Lock()


@app.post("/make")
def make(request: dict):
    count, steps, label = request["count"], request["steps"], request["classes"][0]
    with lock, torch.inference_mode():
        scheduler = DDIMScheduler.from_config(base.config)
        scheduler.set_timesteps(steps)
        x = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(request["seed"]))
        labels = torch.full((count,), label)
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t, class_labels=labels).sample, t, x).prev_sample
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).reshape(-1, 32, 3).numpy()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return Response(out.getvalue(), media_type="image/png")


@app.get("/healthz")
def health():
    return "ok"


uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")
