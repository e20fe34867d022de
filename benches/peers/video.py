"""A training step and a sample of the U-Net for clips beside PyTorch, on the same network and in one run.

    python benches/peers/video.py target/release/tweedie models/moving-emoji models/emoji-vae-64

Prints seconds and peak memory (maximum resident set) of both, each in a process of its own with the same number of threads.
Written for torch 2.15.0 (CPU), diffusers 0.42.1 and transformers 5.24.0.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = 2
BATCH = 4
TRAIN_STEPS = 30
SAMPLE_STEPS = 10
GUIDANCE = 3.0
PROMPT = "a red heart bounces"

PEER = """
import json, resource, statistics, sys, time
import torch
from diffusers import TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.utils.logging import disable_progress_bar
torch.set_num_threads(THREADS)
disable_progress_bar()
kind, model = sys.argv[1:3]
out = {}
if kind == "train":
    unet = UNet3DConditionModel.from_pretrained(model + "/unet", torch_dtype=torch.float32).train()
    c = unet.config
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[sys.argv[3]]
    times = []
    for _ in range(TRAIN_STEPS):
        start = time.perf_counter()
        x = torch.randn(BATCH, c.in_channels, 16, c.sample_size, c.sample_size)
        text = torch.randn(BATCH, 16, c.cross_attention_dim)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            y = unet(x, torch.randint(0, 1000, (BATCH,)), text).sample
        loss = (y.float() - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        times.append(time.perf_counter() - start)
    out["seconds"] = statistics.median(times[2:])
else:
    pipe = TextToVideoSDPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    start = time.perf_counter()
    pipe(PROMPT, num_inference_steps=SAMPLE_STEPS, guidance_scale=GUIDANCE)
    out["seconds"] = time.perf_counter() - start
out["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(out))
"""


def peer(*args):
    text = PEER
    for name in ("THREADS", "BATCH", "TRAIN_STEPS", "SAMPLE_STEPS", "GUIDANCE", "PROMPT"):
        text = re.sub(rf"\b{name}\b", repr(globals()[name]), text)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", text, *map(str, args)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(command):
    """Output, seconds and MiB of a process."""
    start = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    text = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, command
    return text, time.perf_counter() - start, used.ru_maxrss / 1024


def ours_train(program, vae, precision, folder):
    run = Path(folder, precision)
    keys = ["data.moving.clips=24", "run.preview_every=0", "run.validate_every=0", "run.checkpoint_every=0", "run.log_every=1"]
    command = [program, "--threads", THREADS, "train", "--quiet", "--preset", "text-to-video", "--vae", vae, "--out", run]
    command += ["--steps", TRAIN_STEPS, "--batch", BATCH]
    command += [word for key in [*keys, f'run.precision="{precision}"'] for word in ("--set", key)]
    _, _, mib = measured(command)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    stamps = [line["elapsed_s"] for line in lines if line.get("event") == "step"]
    each = sorted(b - a for a, b in zip(stamps[1:], stamps[2:]))
    return dict(seconds=each[len(each) // 2], mib=mib)


def ours_sample(program, model, folder):
    command = [program, "--threads", THREADS, "--json", "sample", "--model", model, "--prompt", PROMPT]
    command += ["--steps", SAMPLE_STEPS, "--guidance", GUIDANCE, "--solver", "ddim", "-o", Path(folder, "x.webp")]
    text, _, mib = measured(command)
    done = [json.loads(line) for line in text.splitlines() if '"finished"' in line][-1]
    return dict(seconds=done["seconds"], mib=mib)


def main():
    program, model, vae = (Path(arg).resolve() for arg in sys.argv[1:4])
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            ("training step, f32", ours_train(program, vae, "f32", folder), peer("train", model, "f32")),
            ("training step, bf16", ours_train(program, vae, "bf16", folder), peer("train", model, "bf16")),
            ("sample, f32", ours_sample(program, model, folder), peer("sample", model)),
        ]
    for name, ours, theirs in rows:
        time_share, memory = ours["seconds"] / theirs["seconds"], ours["mib"] / theirs["mib"]
        print(
            f"{name}: {ours['seconds']:.2f} s, {ours['mib']:.0f} MiB; "
            f"PyTorch {theirs['seconds']:.2f} s, {theirs['mib']:.0f} MiB; {time_share:.2f} x the time, {memory:.2f} x the memory"
        )


main()
