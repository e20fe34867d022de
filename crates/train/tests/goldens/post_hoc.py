"""Writes post_hoc.json: weights of snapshots of power-function averages that come closest to another one.

    python post_hoc.py > post_hoc.json

The integrals are done numerically (scipy) and the least squares, under sum(weights) = 1, by numpy.
"""

import json

import numpy as np
import scipy
from scipy.integrate import quad


def gamma(std):
    return np.roots([1, 7, 16 - std**-2, 12 - std**-2]).real.max()


def profile(std, images):
    g = gamma(std)
    return lambda t: (g + 1) * t**g / images ** (g + 1) if t <= images else 0.0


def overlap(a, b):
    end = min(a[1], b[1])
    p, q = profile(*a), profile(*b)
    return quad(lambda t: p(t) * q(t), 0, end, epsabs=0, epsrel=1e-13, limit=200)[0]


snapshots = [(std, images) for images in [1000.0, 2000.0, 3000.0, 4000.0] for std in [0.05, 0.1]]
cases = []
for target in [(0.07, 4000.0), (0.15, 4000.0), (0.2, 3000.0), (0.1, 2000.0)]:
    a = np.array([[overlap(p, q) for q in snapshots] for p in snapshots])
    b = np.array([overlap(p, target) for p in snapshots])
    # With a multiplier for sum(x) = 1.
    n = len(snapshots)
    kkt = np.block([[a, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    x = np.linalg.solve(kkt, np.append(b, 1.0))[:n]
    error = np.sqrt(max(0.0, 1 - 2 * x @ b / overlap(target, target) + x @ a @ x / overlap(target, target)))
    cases.append({"std": target[0], "images": target[1], "weights": x.tolist(), "error": error})
out = {"numpy": np.__version__, "scipy": scipy.__version__}
out |= {"stds": [s for s, _ in snapshots], "images": [i for _, i in snapshots], "cases": cases}
print(json.dumps(out))
