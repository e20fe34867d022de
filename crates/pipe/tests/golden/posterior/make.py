"""Single steps of crates/pipe/tests/posterior.rs, made with azula 0.11.1 and torch 2.15.0.

    python make.py > azula.json

Data is a mixture of two Gaussians with independent values, whose denoiser is exact; the measurement averages pairs.
"""

import json
import sys
from importlib.metadata import version

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance import DiffPIRDenoiser, DPSSampler, PGDMSampler

assert version("azula") == "0.11.1" and torch.__version__.startswith("2.15.0"), torch.__version__
torch.set_default_dtype(torch.float64)

MEANS = torch.tensor([[0.5, -0.2, 0.1, 0.8, -0.6, 0.3], [-0.4, 0.6, -0.7, 0.2, 0.5, -0.1]])
VARIANCES = torch.tensor([[0.1, 0.2, 0.05, 0.3, 0.15, 0.1], [0.2, 0.1, 0.25, 0.05, 0.1, 0.3]])
WEIGHTS = torch.tensor([0.4, 0.6])
Y = torch.tensor([0.3, -0.5, 0.2])
X = torch.tensor([0.7, -0.3, 0.4, 1.1, -0.9, 0.2])
NOISE = torch.tensor([0.2, -1.1, 0.7, 0.4, -0.6, 1.3])
LEVELS = [([0.3, 0.95], [0.5, 0.87]), ([0.8, 0.6], [0.9, 0.4]), ([0.2, 0.9], [0.7, 0.7])]


def A(x):
    return x.reshape(3, 2).mean(-1)


def A_inv(y):
    return y.repeat_interleave(2)


class Mixture(Denoiser):
    """The levels are the times 1 and 0."""

    def __init__(self, from_, to):
        super().__init__()
        self.levels = {1.0: from_, 0.0: to}

    @property
    def schedule(self):
        return lambda t: tuple(torch.tensor(v) for v in self.levels[float(t)])

    def forward(self, x, t, **kwargs):
        alpha, sigma = self.schedule(t)
        total = alpha**2 * VARIANCES + sigma**2
        away = x - alpha * MEANS
        logs = WEIGHTS.log() - 0.5 * (away**2 / total + total.log()).sum(-1)
        means = MEANS + alpha * VARIANCES / total * away
        return DiracPosterior(mean=(logs.softmax(0)[:, None] * means).sum(0))


torch.randn_like = lambda x: NOISE.clone()
out = {
    "y": Y.tolist(), "x": X.tolist(), "noise": NOISE.tolist(),
    "weights": WEIGHTS.tolist(), "means": MEANS.tolist(), "variances": VARIANCES.tolist(), "steps": [],
}
for from_, to in LEVELS:
    denoiser = Mixture(from_, to)
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    pgdm = {eta: PGDMSampler(denoiser, Y, A, A_inv, eta=eta).step(X, one, zero).tolist() for eta in (0.0, 1.0)}
    diffpir = DiffPIRDenoiser(denoiser, Y, A, var_y=0.01, lmbda=5.0, solver="cg", iterations=50)
    out["steps"].append({
        "from": from_, "to": to,
        "dps": DPSSampler(denoiser, Y, A, zeta=0.7).step(X, one, zero).tolist(),
        "pigdm_0": pgdm[0.0], "pigdm_1": pgdm[1.0],
        "diffpir_x0": diffpir(X, one).mean.tolist(),
    })
json.dump(out, sys.stdout, indent=1)
