#!/usr/bin/env python3
"""Writes similarity.json: PSNR and SSIM of scikit-image, of planes in -1..1."""

import json
import pathlib

import numpy as np
import skimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

rng = np.random.default_rng(7)
cases = []
for width, noise in [(11, 0.1), (16, 0.4), (13, 0.02)]:
    y, x = np.mgrid[0:width, 0:width] / width
    a = np.stack([np.sin(7 * x + c) * np.cos(5 * y - c) for c in range(3)])
    b = np.clip(a + noise * rng.standard_normal(a.shape), -1, 1)
    a, b = (np.round(v, 4).astype(np.float32) for v in (a, b))
    cases.append({
        "width": width,
        "psnr": float(peak_signal_noise_ratio(a.astype(float), b.astype(float), data_range=2.0)),
        "ssim": float(structural_similarity(
            a.astype(float), b.astype(float), data_range=2.0, channel_axis=0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False)),
        "a": [round(float(v), 4) for v in a.ravel()],
        "b": [round(float(v), 4) for v in b.ravel()],
    })
out = {"scikit-image": skimage.__version__, "numpy": np.__version__, "cases": cases}
pathlib.Path(__file__).with_name("similarity.json").write_text(json.dumps(out) + "\n")
