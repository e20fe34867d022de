"""Writes metrics.json: scores of small sets of features, by the field's own code.

Python 3, numpy 2.4, scipy 1.17, scikit-learn 1.9, pytorch-fid 0.3.0, prdc 0.2, torch-fidelity 0.4.0.

The features are numbers of a formula that tests/metrics.rs repeats, so only scores are written.
"""

import json
from pathlib import Path

import numpy as np
from prdc import compute_prdc
from pytorch_fid.fid_score import calculate_frechet_distance
from scipy.special import softmax
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch_fidelity.metric_kid import mmd2

HASH, PRIME = 0xCBF29CE484222325, 0x100000001B3


def uniform(name, count):
    """Numbers in -1..1, a function of the name: FNV-1a, then SplitMix64."""
    start = HASH
    for byte in name.encode():
        start = ((start ^ byte) * PRIME) % 2**64
    i = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(start) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def features(name, n, dim, scale, shift):
    """Rows whose features correlate: each adds half of the feature before it."""
    x = uniform(name, n * dim).reshape(n, dim)
    y = x.copy()
    y[:, 1:] += 0.5 * x[:, :-1]
    return (scale * y + shift).astype(np.float32).astype(np.float64)


def scores(name, n, m, dim, scale, shift):
    a = features(name + ".a", n, dim, 1.0, 0.0)
    b = features(name + ".b", m, dim, scale, shift)
    moments = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (a, b)]
    ka, kb, kab = (polynomial_kernel(x, y, degree=3, gamma=1 / dim, coef0=1) for x, y in [(a, a), (b, b), (a, b)])
    distances, indices = NearestNeighbors(n_neighbors=1).fit(b).kneighbors(a)
    row = {
        "name": name, "n": n, "m": m, "dim": dim, "scale": scale, "shift": shift,
        "fid": calculate_frechet_distance(*moments[0], *moments[1]),
        "discrepancy": float((ka.sum() - ka.trace()) / (n * (n - 1)) + (kb.sum() - kb.trace()) / (m * (m - 1)) - 2 * kab.mean()),
        "nearest": [[int(i), float(d)] for i, d in zip(indices[:8, 0], distances[:8, 0])],
    }
    if n == m:
        assert np.isclose(row["discrepancy"], mmd2(ka, kab, kb), rtol=1e-9)
    for k in (3, 5):
        row[f"prdc{k}"] = {key: float(v) for key, v in compute_prdc(real_features=b, fake_features=a, nearest_k=k).items()}
    return row


def inception(name, n, classes):
    p = softmax(4 * features(name, n, classes, 1.0, 0.0), axis=1).astype(np.float32).astype(np.float64)
    kl = (p * (np.log(p) - np.log(p.mean(axis=0)))).sum(axis=1)
    return {"name": name, "n": n, "classes": classes, "score": float(np.exp(kl.mean()))}


if __name__ == "__main__":
    result = {
        "sets": [
            scores("near", 120, 150, 16, 1.1, 0.05),
            scores("far", 90, 70, 24, 1.7, 0.8),
            scores("same", 200, 200, 8, 1.0, 0.0),
        ],
        "probabilities": [inception("few", 100, 10), inception("many", 60, 101)],
    }
    Path(__file__).with_name("metrics.json").write_text(json.dumps(result, indent=1) + "\n")
