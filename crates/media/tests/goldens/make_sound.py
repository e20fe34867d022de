"""Golden values of the spectral functions: python make_sound.py > sound.json. Versions are recorded in the file."""

import json

import librosa
import numpy as np
import scipy
import torch
import torchaudio

RATE = 8000


def signal(length):
    i = np.arange(length, dtype=np.float64)
    return (np.sin(0.13 * i) + 0.3 * np.cos(0.71 * i) * np.sin(0.002 * i)).astype(np.float32)


def values(array):
    return [float(f"{v:.8g}") for v in np.asarray(array, dtype=np.float64).ravel()]


out = {
    "versions": {
        "librosa": librosa.__version__,
        "torchaudio": torchaudio.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
}
x = signal(600)
s = librosa.stft(x, n_fft=64, hop_length=16, pad_mode="constant")
out["stft"] = {"real": values(s.T.real), "imag": values(s.T.imag)}
t = torch.stft(
    torch.tensor(x), 64, 16, window=torch.hann_window(64), pad_mode="constant", return_complex=True
).numpy()
out["torch_stft"] = {"real": values(t.T.real), "imag": values(t.T.imag)}
# Other coefficients than those of a signal: what is closest to them.
changed = s * (1 + 0.5 * np.cos(np.arange(s.size).reshape(s.shape)))
out["inverse"] = values(librosa.istft(changed, hop_length=16, length=600))
out["changed"] = {"real": values(changed.T.real), "imag": values(changed.T.imag)}
out["slaney"] = values(librosa.filters.mel(sr=22050, n_fft=256, n_mels=24))
out["htk"] = values(librosa.filters.mel(sr=RATE, n_fft=256, n_mels=20, htk=True, norm=None))
out["torch_htk"] = values(
    torchaudio.functional.melscale_fbanks(129, 0.0, RATE / 2, 20, RATE, norm=None, mel_scale="htk").T
)
loud = np.zeros(20000, np.float32)
loud[5000:12000] = signal(7000)
loud += 1e-4 * np.sin(np.arange(20000, dtype=np.float32))
out["trim"] = {str(db): [int(v) for v in librosa.effects.trim(loud, top_db=db)[1]] for db in (20, 40, 60)}
out["trim_short"] = [
    int(v) for v in librosa.effects.trim(loud, top_db=40, frame_length=160, hop_length=40)[1]
]
print(json.dumps(out))
