"""Real held-out recordings, as they are and through the codec of a model, for judge.py.

    python resynthesize.py target/release/tweedie models/spoken-digits/codec RECORDINGS OUT

Writes OUT/real and OUT/codec: the recordings with an index below 5 without silence (40 dB), at most 0.64 s of each.
"""

import pathlib
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

from generate import write
from judge import RATE, label, read

LENGTH = 5120


def trimmed(x):
    powers = np.array([np.sum(x[max(0, i * 40 - 80) : i * 40 + 80] ** 2) for i in range(len(x) // 40 + 1)])
    loud = np.flatnonzero(powers > powers.max() * 1e-4)
    return x[loud[0] * 40 : (loud[-1] + 1) * 40]


def main(tweedie, codec, recordings, out):
    out = pathlib.Path(out)
    files = [f for f in sorted(pathlib.Path(recordings).glob("*.wav")) if label(f)[2] < 5]
    x = np.zeros((len(files), 1, LENGTH), np.float32)
    for folder in ("real", "codec"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i, f in enumerate(files):
        part = trimmed(read(f))[:LENGTH]
        x[i, 0, : len(part)] = 0.9 * part / np.abs(part).max()
        write(out / "real" / f.name, 32767 * x[i, 0], RATE)
    save_file({"sample": x}, out / "in.safetensors")
    paths = ["--inputs", out / "in.safetensors", "--outputs", out / "out.safetensors"]
    subprocess.run([tweedie, "debug", "run", codec, *paths], check=True)
    for f, y in zip(files, load_file(out / "out.safetensors")["decoded"]):
        write(out / "codec" / f.name, 32767 * np.clip(y[0], -1, 1), RATE)


if __name__ == "__main__":
    main(*sys.argv[1:])
