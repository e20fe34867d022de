"""An independent judge of spoken digits: a small CNN trained on real recordings of the Free Spoken Digit Dataset.

    python judge.py train RECORDINGS judge.pt
    python judge.py test judge.pt FOLDER [FOLDER ...]

`train` uses the recordings with an index of 5 or more, and prints the accuracy on the others (0 to 4), which is the
dataset's own split. `test` judges WAV files named DIGIT_SPEAKER_INDEX.wav: how often the digit and the speaker of the
name are heard, with Wilson's 95 % intervals.
"""

import pathlib
import sys
import wave

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

RATE, LENGTH = 8000, 8000
WINDOW, HOP, BANDS = 200, 100, 40


def read(path):
    with wave.open(str(path)) as f:
        assert (f.getframerate(), f.getnchannels(), f.getsampwidth()) == (RATE, 1, 2), path
        return np.frombuffer(f.readframes(f.getnframes()), "<i2").astype(np.float32) / 32768


def label(path):
    digit, speaker, index = path.stem.split("_")
    return int(digit), speaker, int(index)


def filters():
    mel = lambda f: 1127 * np.log1p(f / 700)
    corners = 700 * np.expm1(np.linspace(mel(60.0), mel(RATE / 2), BANDS + 2) / 1127)
    f = np.linspace(0, RATE / 2, 257)
    low, mid, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return torch.tensor(np.maximum(0, np.minimum((f - low) / (mid - low), (high - f) / (high - mid))), dtype=torch.float32)


FILTERS = filters()


def features(x):
    spectrum = torch.stft(x, 512, HOP, WINDOW, torch.hann_window(WINDOW), return_complex=True).abs()
    mels = torch.log(FILTERS @ spectrum + 1e-3)
    return (mels - mels.mean((1, 2), keepdim=True)) / mels.std((1, 2), keepdim=True)


def placed(sound, start):
    out = np.zeros(LENGTH, np.float32)
    sound = sound[:LENGTH]
    peak = np.abs(sound).max()
    start = min(start, LENGTH - len(sound))
    out[start : start + len(sound)] = sound / max(peak, 1e-6)
    return out


class Judge(nn.Module):
    def __init__(self, speakers):
        super().__init__()
        def block(i, o):
            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(block(1, 24), block(24, 48), block(48, 64), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU())
        self.drop = nn.Dropout(0.3)
        self.digit, self.speaker = nn.Linear(192, 10), nn.Linear(192, speakers)

    def forward(self, x):
        x = self.body(features(x)[:, None])
        x = self.drop(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
        return self.digit(x), self.speaker(x)


def wilson(k, n, z=1.96):
    p, d = k / n, 1 + z * z / n
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    middle = (p + z * z / (2 * n)) / d
    return f"{100 * p:.1f} % ({100 * (middle - half):.1f} to {100 * (middle + half):.1f})"


def judged(net, files, speakers):
    x = torch.tensor(np.stack([placed(read(f), 800) for f in files]))
    with torch.no_grad():
        digit, speaker = net(x)
    heard = digit.argmax(1).tolist(), speaker.argmax(1).tolist()
    right = [[], []]
    for f, d, s in zip(files, *heard):
        digit, name, _ = label(f)
        right[0].append(d == digit)
        right[1].append(speakers[s] == name)
    return heard, right


def report(name, right):
    n = len(right[0])
    print(f"{name}: {n} sounds, digit {wilson(sum(right[0]), n)}, speaker {wilson(sum(right[1]), n)}", flush=True)


def train(folder, out):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    files = sorted(pathlib.Path(folder).glob("*.wav"))
    speakers = sorted({label(f)[1] for f in files})
    test = [f for f in files if label(f)[2] < 5]
    files = [f for f in files if label(f)[2] >= 5]
    sounds = [read(f) for f in files]
    digits = torch.tensor([label(f)[0] for f in files])
    voices = torch.tensor([speakers.index(label(f)[1]) for f in files])
    net = Judge(len(speakers))
    epochs, batch = 14, 64
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    steps = epochs * (len(files) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for epoch in range(epochs):
        net.train()
        order = rng.permutation(len(files))
        for start in range(0, len(files) - batch + 1, batch):
            rows = order[start : start + batch]
            x = torch.tensor(np.stack([placed(sounds[i], int(rng.integers(0, 2400))) for i in rows]))
            x = x * torch.tensor(rng.uniform(0.3, 1, (batch, 1)), dtype=torch.float32)
            x = x + torch.randn_like(x) * torch.tensor(10 ** rng.uniform(-4, -2, (batch, 1)), dtype=torch.float32)
            digit, speaker = net(x)
            loss = F.cross_entropy(digit, digits[rows], label_smoothing=0.05) + F.cross_entropy(speaker, voices[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        report(f"epoch {epoch + 1}, loss {loss.item():.3f}, held out", judged(net, test, speakers)[1])
    torch.save({"weights": net.state_dict(), "speakers": speakers}, out)


def test(weights, folders):
    saved = torch.load(weights)
    speakers = saved["speakers"]
    net = Judge(len(speakers))
    net.load_state_dict(saved["weights"])
    net.eval()
    for folder in folders:
        files = sorted(pathlib.Path(folder).glob("*_*_*.wav"))
        heard, right = judged(net, files, speakers)
        report(folder, right)
        wrong = [f"{f.name}: {d}" for f, d, ok in zip(files, heard[0], right[0]) if not ok]
        if wrong:
            print("  heard as another digit:", ", ".join(wrong[:20]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "train":
        train(sys.argv[2], sys.argv[3])
    else:
        test(sys.argv[2], sys.argv[3:])
