"""Short sounds in several formats for sound.rs: python make_sounds.py. Written with soundfile 0.14.0 (libsndfile 1.2.2)."""

import numpy as np
import soundfile

RATE = 16000
i = np.arange(4000)
left = 0.5 * np.sin(2 * np.pi * 440 * i / RATE) * np.sin(np.pi * i / len(i))
both = np.stack([left, 0.25 * np.sin(2 * np.pi * 1000 * i / RATE)], 1)

for name, options in {
    "tone.flac": {"subtype": "PCM_16"},
    "tone.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "tone.mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    "tone-u8.wav": {"subtype": "PCM_U8"},
    "tone-24.wav": {"subtype": "PCM_24"},
    "tone-32.wav": {"subtype": "PCM_32"},
    "tone-float.wav": {"subtype": "FLOAT"},
}.items():
    soundfile.write(f"sounds/{name}", both[:1000] if name.endswith("wav") else both, RATE, **options)
