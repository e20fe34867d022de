"""A network of Stable Diffusion 1.5's size, random weights, from a text to 512x512 pixels: time per step and the
most memory of `tweedie sample` and of diffusers, which take turns. What the pictures show is nothing.

    python benches/peers/stable_diffusion.py --tweedie target/release/tweedie
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from contenders import environment

HERE = Path(__file__).parent
PROMPT = "a photograph of an astronaut who rides a horse"
STEPS = 3


def folder(work: Path) -> Path:
    """The model, made at the first call, by a process of its own: the system counts what a process held before it
    starts a program towards that program's peak, and this one would hold all weights."""
    out = work / "stable-diffusion-1"
    if not out.exists():
        subprocess.run([sys.executable, __file__, "--make", "--work", work], check=True)
    return out


def make(work: Path):
    """The model's folder, with random weights."""
    out = work / "stable-diffusion-1"
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    words = work / "stable-diffusion-1-tokenizer"
    words.mkdir(parents=True, exist_ok=True)
    # Of CLIP's size, and letters only: no text is joined to longer tokens.
    letters = [chr(c) for c in range(33, 127)]
    entries = letters + [f"{c}</w>" for c in letters]
    entries += [f"unused{i}" for i in range(49406 - len(entries))] + ["<|startoftext|>", "<|endoftext|>"]
    (words / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            projection_dim=768,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(words, model_max_length=77),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
    )
    pipe.save_pretrained(out)


def diffusers(model: str, threads: int):
    """One picture; a line of JSON per step and one with the memory."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch.set_num_threads(threads)
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def step(_pipe, index, _t, kwargs):
        print(json.dumps({"event": "step", "index": index + 1}), flush=True)
        return kwargs

    pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=7.5, callback_on_step_end=step, height=512, width=512)


def watched(command: list, env: dict) -> dict:
    """Seconds per step after the first, seconds from the last step to the end, and the most bytes held."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("PEERS_VERBOSE") else subprocess.DEVNULL,
        text=True,
        env=env,
    )
    steps = []
    for line in process.stdout:
        if line.startswith("{") and json.loads(line).get("event") == "step":
            steps.append(time.perf_counter())
    _, status, usage = os.wait4(process.pid, 0)
    end = time.perf_counter()
    if status != 0 or len(steps) != STEPS:
        sys.exit(f"{command[0]} ended with {status} after {len(steps)} steps (PEERS_VERBOSE=1 shows why)")
    return {
        "steps": [b - a for a, b in zip(steps, steps[1:])],
        "first": steps[0] - start,
        "decode": end - steps[-1],
        "bytes": usage.ru_maxrss * 1024,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tweedie", type=Path, default=Path("target/release/tweedie"))
    parser.add_argument("--work", type=Path, default=Path("target/peers"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--diffusers", help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.work)
        return
    if args.diffusers:
        diffusers(args.diffusers, args.threads)
        return
    model = folder(args.work)
    picture = args.work / "stable-diffusion-1.png"
    sample = [args.tweedie, "sample", "--json", "--model", model, "--prompt", PROMPT, "--steps", STEPS]
    sample += ["--solver", "ddim", "--guidance", 7.5, "--size", 512, "--threads", args.threads]
    contenders = {
        "tweedie": [*sample, "--output", picture],
        "tweedie int8": [*sample, "--precision", "int8", "--output", picture],
        "diffusers": [sys.executable, __file__, "--diffusers", model, "--threads", args.threads],
    }
    env = environment(args.work, args.threads)
    runs = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, command in contenders.items():
            runs[name].append(watched(command, env))

    def median(name, key):
        found = [run[key] for run in runs[name]]
        return statistics.median(sum(found, []) if key == "steps" else found)

    rows = [
        ("a step (two rows, guidance)", "steps", 1, "s"),
        ("process start to the end of the first step", "first", 1, "s"),
        ("last step to the end of the process (decoding)", "decode", 1, "s"),
        ("peak memory", "bytes", 2**20, "MiB"),
    ]
    print("| 512x512, Stable Diffusion 1.5's size | diffusers | `tweedie` | ratio | with int8 | ratio |")
    print("|---|---|---|---|---|---|")
    for label, key, unit, name in rows:
        digits = 0 if name == "MiB" else 2
        theirs = median("diffusers", key) / unit
        cells = [f"{theirs:.{digits}f} {name}"]
        for ours in (median(who, key) / unit for who in ("tweedie", "tweedie int8")):
            cells += [f"{ours:.{digits}f} {name}", f"{ours / theirs:.2f} ×"]
        print(f"| {label} | {' | '.join(cells)} |")


main()
