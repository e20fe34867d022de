"""Trains a small UNet1DModel of diffusers on waveforms, for the table of restored sounds in docs/sound.md.

    python waveforms.py RECORDINGS OUT [SECONDS]

RECORDINGS is the folder of the Free Spoken Digit Dataset; the recordings 0 to 4 are kept for testing. OUT becomes a folder of
`DanceDiffusionPipeline`: v-prediction along alpha = cos(pi t/2), sigma = sin(pi t/2).
"""

import copy
import pathlib
import sys
import time

import numpy as np
import soundfile
import torch
from diffusers import DanceDiffusionPipeline, IPNDMScheduler, UNet1DModel

RATE, LENGTH, BATCH = 8000, 2048, 16

recordings, out = map(pathlib.Path, sys.argv[1:3])
limit = float(sys.argv[3]) if len(sys.argv) > 3 else 540.0
torch.manual_seed(0)
torch.set_num_threads(1)
sounds = []
for path in sorted(recordings.glob("*.wav")):
    if int(path.stem.split("_")[2]) >= 5:
        values, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE and values.ndim == 1, path
        sounds.append(values / np.abs(values).max())
print(len(sounds), "recordings,", sum(map(len, sounds)) / RATE, "s")
# Long recordings are seen more often; silence of a window's length lies between them.
starts = np.cumsum([0] + [len(s) + LENGTH for s in sounds])
track = np.zeros(starts[-1] + LENGTH, np.float32)
for start, sound in zip(starts, sounds):
    track[start : start + len(sound)] = sound

model = UNet1DModel(
    sample_size=LENGTH,
    sample_rate=RATE,
    in_channels=1,
    out_channels=1,
    extra_in_channels=16,
    time_embedding_dim=16,
    time_embedding_type="fourier",
    flip_sin_to_cos=True,
    use_timestep_embedding=False,
    down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "DownBlock1D", "DownBlock1D", "AttnDownBlock1D"),
    up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    block_out_channels=(16, 24, 32, 64, 96),
)
print(sum(p.numel() for p in model.parameters()), "parameters")
mean = copy.deepcopy(model)
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
rng = np.random.default_rng(0)
begun, step, sums = time.time(), 0, []
while (past := (time.time() - begun) / limit) < 1:
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * min(1, step / 100) * max(0.02, 1 - past)
    at = rng.integers(0, len(track) - LENGTH, BATCH)
    gain = rng.uniform(0.3, 1.0, (BATCH, 1)).astype(np.float32)
    x0 = torch.tensor(np.stack([track[a : a + LENGTH] for a in at]) * gain)[:, None]
    t = torch.tensor((np.arange(BATCH) + rng.uniform()) / BATCH, dtype=torch.float32)
    alpha, sigma = torch.cos(t * np.pi / 2)[:, None, None], torch.sin(t * np.pi / 2)[:, None, None]
    eps = torch.randn_like(x0)
    v = model(alpha * x0 + sigma * eps, t).sample
    loss = torch.nn.functional.mse_loss(v, alpha * eps - sigma * x0)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    keep = min(0.995, step / (step + 10))
    with torch.no_grad():
        for slow, fast in zip(mean.parameters(), model.parameters()):
            slow.lerp_(fast, 1 - keep)
    step += 1
    sums.append(loss.item())
    if step % 100 == 0:
        print(step, f"{np.mean(sums):.5f}", f"{time.time() - begun:.0f} s", flush=True)
        sums = []
DanceDiffusionPipeline(mean, IPNDMScheduler()).save_pretrained(out)
print(step, "steps")
