"""Damages held-out spoken digits, restores them by `tweedie restore` and by classical methods, and prints a table.

    python restore.py TWEEDIE MODEL RECORDINGS OUT [STEPS]

MODEL is a model of waveforms at 8 kHz (waveforms.py trains one). The track is zero to five, one by each
speaker, of the recordings 0. SNR is that of the whole track, but for gaps that of the gaps; LSD is the root mean square over the bins of
the difference of log spectra in dB (windows of 256, hops of 64), averaged over frames above -60 dB.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import scipy.linalg
import scipy.signal
import soundfile

RATE, SPEAKERS = 8000, ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
tweedie, model, recordings, out = sys.argv[1:5]
steps = sys.argv[5] if len(sys.argv) > 5 else "50"
recordings, out = pathlib.Path(recordings), pathlib.Path(out)
out.mkdir(parents=True, exist_ok=True)

parts = []
for digit in range(6):
    values, rate = soundfile.read(recordings / f"{digit}_{SPEAKERS[digit]}_0.wav")
    assert rate == RATE
    loud = np.flatnonzero(np.abs(values) > 0.02 * np.abs(values).max())
    values = values[loud[0] : loud[-1]]
    parts += [0.8 * values / np.abs(values).max(), np.zeros(400)]
track = np.round(np.concatenate(parts) * 32768) / 32768
track = track[: len(track) // 16 * 16]
ends = np.cumsum([len(p) for p in parts])[::2]
begins = ends - [len(p) for p in parts[::2]]


def save(name, values, rate=RATE):
    soundfile.write(out / name, values, rate, subtype="PCM_16")
    return str(out / name)


def restored(name, *flags):
    target = out / f"{name}-restored.wav"
    run = [tweedie, "restore", str(out / f"{name}.wav"), "--model", model, "--steps", steps, "-o", str(target), "--json"]
    done = subprocess.run([*run, *flags], check=True, capture_output=True, text=True)
    end = json.loads(done.stdout.splitlines()[-1])
    values, rate = soundfile.read(target)
    assert rate == RATE
    return values, end["seconds"]


def snr(values, part=slice(None)):
    error = track[part] - values[part]
    return 10 * np.log10((track[part] ** 2).sum() / max((error**2).sum(), 1e-20))


def lsd(values):
    spectra = [np.abs(scipy.signal.stft(v, RATE, nperseg=256, noverlap=192)[2]) for v in (track, values)]
    level = spectra[0].max(axis=0)
    frames = level > level.max() * 1e-3
    logs = [20 * np.log10(np.maximum(s[:, frames], 1e-5)) for s in spectra]
    return np.sqrt(((logs[0] - logs[1]) ** 2).mean(axis=0)).mean()


def linear(values, known):
    at = np.arange(len(values))
    return np.where(known, values, np.interp(at, at[known], values[known]))


def autoregressive(values, known, order=32, rounds=5, least=None):
    """Janssen, Veldhuis & Vries 1986: alternately fits a model to each surrounding and solves for the missing values."""
    result = linear(values, known)
    missing = np.flatnonzero(~known)
    # Gaps that are near each other are filled together.
    while len(missing):
        group = missing[missing < missing[0] + 400]
        missing = missing[len(group) :]
        start, end = max(group[0] - 512, 0), min(group[-1] + 513, len(values))
        piece, gone = result[start:end].copy(), np.isin(np.arange(start, end), group)
        p = min(order, max(2, (~gone).sum() // 4))
        for _ in range(rounds):
            full = np.correlate(piece, piece, "full")[len(piece) - 1 :][: p + 1]
            full[0] *= 1 + 1e-6
            if full[0] == 0:
                break
            a = np.concatenate([[1.0], -scipy.linalg.solve_toeplitz(full[:p], full[1 : p + 1])])
            rows = scipy.linalg.convolution_matrix(a, len(piece), mode="full")
            piece[gone] = np.linalg.lstsq(rows[:, gone], -rows[:, ~gone] @ piece[~gone], rcond=None)[0]
        result[start:end] = piece
    return result if least is None else np.where(known, values, np.sign(values) * np.maximum(np.abs(result), least))


rows = []


def row(what, how, values, part=slice(None), seconds=None):
    rows.append((what, how, snr(values, part), lsd(values), seconds))
    print(f"| {what} | {how} | {rows[-1][2]:.1f} | {rows[-1][3]:.1f} |" + (f" {seconds:.0f} s" if seconds else ""), flush=True)


print(f"track of {len(track) / RATE:.1f} s, {steps} steps")
for length in (0.01, 0.03):
    middles = (begins + ends) // 2
    half = int(length * RATE / 2)
    known = np.ones(len(track), bool)
    for middle in middles:
        known[middle - half : middle + half] = False
    damaged = np.where(known, track, 0)
    name = f"gap{length * 1000:.0f}"
    save(f"{name}.wav", damaged)
    gaps = [f"--gap={(m - half) / RATE}..{(m + half) / RATE}" for m in middles]
    what = f"gaps of {length * 1000:.0f} ms"
    row(what, "silence", damaged, ~known)
    row(what, "linear", linear(damaged, known), ~known)
    row(what, "autoregressive", autoregressive(damaged, known), ~known)
    for method in ("repaint=5,3", "pigdm"):
        values, seconds = restored(name, *gaps, "--method", method)
        assert np.array_equal(values[known], track[known]), "known values came back changed"
        row(what, f"tweedie, {method}", values, ~known, seconds)

band = scipy.fft.dct(track, norm="ortho")
low = band.copy()
low[len(track) // 2 :] = 0
narrow = scipy.fft.idct(low, norm="ortho")
save("band.wav", narrow)
row("above 2 kHz", "nothing", narrow)
mirrored = low.copy()
mirrored[len(track) // 2 :] = 0.25 * low[: len(track) - len(track) // 2][::-1]
row("above 2 kHz", "spectral folding", scipy.fft.idct(mirrored, norm="ortho"))
values, seconds = restored("band", "--bandwidth", "2000")
row("above 2 kHz", "tweedie", values, seconds=seconds)

level = 0.25
clipped = np.clip(track, -level, level)
save("clip.wav", clipped)
known = np.abs(track) < level
row("clipped at 0.25", "as it is", clipped)
row("clipped at 0.25", "autoregressive", autoregressive(clipped, known, least=level))
values, seconds = restored("clip", "--declip", str(level))
assert np.array_equal(values[known], track[known]), "known values came back changed"
row("clipped at 0.25", "tweedie", values, seconds=seconds)

sigma = 0.05
noisy = np.clip(track + sigma * np.random.default_rng(0).standard_normal(len(track)), -1, 1)
save("noise.wav", noisy)
row("noise of 0.05", "as it is", noisy)
f = scipy.signal.stft(noisy, RATE, nperseg=256, noverlap=192)[2]
floor = sigma**2 * (scipy.signal.get_window("hann", 256) ** 2).sum() / scipy.signal.get_window("hann", 256).sum() ** 2
gain = np.maximum(1 - floor / np.maximum(np.abs(f) ** 2, 1e-20), 0.01)
wiener = scipy.signal.istft(f * gain, RATE, nperseg=256, noverlap=192)[1][: len(track)]
row("noise of 0.05", "spectral Wiener filter", wiener)
for method in ("pigdm", "diffpir"):
    values, seconds = restored("noise", "--noise", str(sigma), "--method", method)
    row("noise of 0.05", f"tweedie, {method}", values, seconds=seconds)
