"""Generates digits with `tweedie` for judge.py, and measures speed.

    python generate.py target/release/tweedie spoken-digits OUT [COUNT]

Writes OUT/digits/DIGIT_SPEAKER_INDEX.wav, COUNT (10) of each digit in each voice, and OUT/strings, twenty strings of five
digits, each cut at its pauses into digits again; prints the real-time factor of the strings and the time to the first sound.
"""

import pathlib
import random
import subprocess
import sys
import time
import wave

import numpy as np

WORDS = "zero one two three four five six seven eight nine".split()
VOICES = "george jackson lucas nicolas theo yweweler".split()


def read(path):
    with wave.open(str(path)) as f:
        return np.frombuffer(f.readframes(f.getnframes()), "<i2"), f.getframerate()


def write(path, values, rate):
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(values.astype("<i2").tobytes())


def cut(values, rate):
    """The parts between pauses, which are exact zeros of at least 50 ms."""
    parts, start, zeros = [], None, 0
    for i, v in enumerate(values):
        if v == 0:
            zeros += 1
            if start is not None and zeros == int(0.05 * rate):
                parts.append(values[start : i - zeros + 1])
                start = None
        else:
            if start is None:
                start = i
            zeros = 0
    return parts + ([values[start:]] if start is not None else [])


def main(tweedie, model, out, count=10):
    out, count = pathlib.Path(out), int(count)
    for folder in ("digits", "strings"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    sample = [tweedie, "--quiet", "sample", "--model", model]
    for voice in VOICES:
        prompts = [part for word in WORDS for part in ("--prompt", word)]
        path = out / "all.wav"
        subprocess.run([*sample, *prompts, "-n", str(10 * count), "--voice", voice, "-o", path], check=True)
        for i in range(10 * count):
            (out / f"all-{i}.wav").rename(out / "digits" / f"{i % 10}_{voice}_{i // 10}.wav")
    rng, spent, lasted = random.Random(0), 0.0, 0.0
    for i in range(20):
        voice, digits = VOICES[i % 6], [rng.randrange(10) for _ in range(5)]
        path = out / "string.wav"
        start = time.perf_counter()
        text = " ".join(WORDS[d] for d in digits)
        subprocess.run([*sample, "--prompt", text, "--voice", voice, "--seed", str(i), "-o", path], check=True)
        spent += time.perf_counter() - start
        values, rate = read(path)
        lasted += len(values) / rate
        parts = cut(values, rate)
        print(f"{text!r} by {voice}: {len(values) / rate:.2f} s, {len(parts)} parts")
        if len(parts) == 5:
            for j, (digit, part) in enumerate(zip(digits, parts)):
                write(out / "strings" / f"{digit}_{voice}_{5 * i + j}.wav", part, rate)
    print(f"20 strings: {lasted:.1f} s of speech in {spent:.1f} s with loading, real-time factor {spent / lasted:.3f}")
    times = []
    for i in range(5):
        start = time.perf_counter()
        subprocess.run([*sample, "--prompt", "three", "-o", out / "one.wav"], check=True)
        times.append(time.perf_counter() - start)
    print(f"model load to the sound of one word: {sorted(times)[2]:.3f} s (median of 5)")


if __name__ == "__main__":
    main(*sys.argv[1:])
