"""Trains on one folder of images with tweedie and with diffusers' train_unconditional, for equally many minutes.

The recipe of diffusers is that of examples/unconditional_image_generation/train_unconditional.py with its defaults: the
U-Net of 114 M parameters with six resolutions, batches of 16, AdamW at 1e-4 with 500 steps of warm-up and a cosine,
EMA, 1000 steps of noise, no mixed precision. Its only change is the resolution, which is the folder's. The samples of
both are scored by `tweedie eval`: those of diffusers are written as a folder.

    python benches/peers/train_folder.py --tweedie target/release/tweedie --data DIR --minutes 5
"""

import argparse
import json
import math
import subprocess
import time
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image


def images_of(folder):
    endings = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in endings)


def load(paths, side):
    """[N, 3, side, side] in -1..1, as the recipe's transforms make it: resize, centre crop, normalize."""
    out = torch.empty(len(paths), 3, side, side, dtype=torch.uint8)
    for i, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        scale = side / min(image.size)
        size = [max(side, round(scale * s)) for s in image.size]
        if size != list(image.size):
            image = image.resize(size, Image.BILINEAR)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
        out[i] = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1)
    return out


def train(args, out):
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    images = load(images_of(args.data), args.resolution)
    model = UNet2DModel(
        sample_size=args.resolution,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    )
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    total = 100 * math.ceil(len(images) / 16)  # its default is 100 epochs
    rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=total)
    start, steps = time.monotonic(), 0
    while time.monotonic() - start < 60 * args.minutes:
        batch = images[torch.randint(len(images), (16,))].float() / 127.5 - 1
        eps, times = torch.randn_like(batch), torch.randint(0, 1000, (16,))
        loss = torch.nn.functional.mse_loss(model(noise.add_noise(batch, eps, times), times).sample, eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        steps += 1
    ema.copy_to(model.parameters())
    out.mkdir(parents=True, exist_ok=True)
    pipeline = DDIMPipeline(unet=model, scheduler=DDIMScheduler.from_config(noise.config))
    pipeline.set_progress_bar_config(disable=True)
    side = args.size
    for first in range(0, args.count, 16):
        some = min(16, args.count - first)
        made = pipeline(batch_size=some, num_inference_steps=args.sample_steps).images
        for i, image in enumerate(made):
            if image.size != (side, side):
                image = image.resize((side, side), Image.BICUBIC)
            image.convert(args.mode).save(out / f"{first + i:05}.png")
    return {"steps": steps, "loss": loss.item(), "parameters": sum(p.numel() for p in model.parameters())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tweedie", default="target/release/tweedie")
    parser.add_argument("--data", required=True, help="a folder of images")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--count", type=int, default=1000, help="samples that are scored")
    parser.add_argument("--sample-steps", type=int, default=50, help="steps of diffusers' DDIM")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("target/peers/train_folder"))
    parser.add_argument("--only", choices=["tweedie", "diffusers"])
    args = parser.parse_args()
    first = Image.open(images_of(args.data)[0])
    args.mode = "L" if first.mode == "L" else "RGB"
    args.size = min(first.size)
    # Six resolutions need a multiple of 32.
    args.resolution = max(32, args.size // 32 * 32)
    args.out.mkdir(parents=True, exist_ok=True)

    def tweedie(*command):
        done = subprocess.run([args.tweedie, *map(str, command), "--threads", str(args.threads), "--json"],
                              check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])

    def score(*of):
        report = args.out / "eval.html"
        return tweedie("eval", *of, "--data", args.data, "--report", report, "-o", args.out / "neighbours.png")

    results = {}
    if args.only != "diffusers":
        run = args.out / "tweedie"
        made = tweedie("train", "--data", args.data, "--minutes", args.minutes, "--out", run)
        results["tweedie"] = {"steps": made["step"], "loss": made["loss"],
                              "quality": score("--model", run / "model", "-n", args.count)["quality"][0]}
    if args.only != "tweedie":
        results["diffusers"] = train(args, args.out / "diffusers")
        results["diffusers"]["quality"] = score("--images", args.out / "diffusers", "--adapt")["quality"][0]
    (args.out / "results.json").write_text(json.dumps(results, indent=1))
    print(f"{args.minutes:g} minutes on {args.data}, {args.threads} threads, {args.count} samples\n")
    print("| | steps | FID (built-in encoder) | precision | recall |\n|---|---|---|---|---|")
    for name, found in results.items():
        fid, precision, recall = (found["quality"][k].get("value", float("nan")) for k in ("fid", "precision", "recall"))
        print(f"| {name} | {found['steps']} | {fid:.3f} | {precision:.2f} | {recall:.2f} |")


if __name__ == "__main__":
    main()
