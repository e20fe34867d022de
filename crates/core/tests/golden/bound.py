"""Golden values of the variational bound, in 40 digits by mpmath.

Run `python bound.py` beside this file; the first line of bound.txt records what it ran with. The formulas are
those of Ho et al. 2020 (arXiv:2006.11239, eqs. 5-7 and 13) and Nichol & Dhariwal 2021 (arXiv:2102.09672,
eq. 15), written out for one number; where the posterior's variance is zero, at the first time, that of the
second time stands for it. All results are in nats.

    decoder X0 MEAN LOG_VARIANCE  NATS D_MEAN D_LOG_VARIANCE
    prior SCHEDULE X0             NATS
    term SCHEDULE VARIANCE T X0 X0_HAT V   NATS D_X0_HAT D_V
"""

import itertools
import pathlib
import platform

import mpmath
from mpmath import mp, mpf

mp.dps = 40
HERE = pathlib.Path(__file__).parent
STEPS = 1000


def show(*values):
    return " ".join(v if isinstance(v, str) else mpmath.nstr(v, 17) for v in values)


def value(byte):
    return mpf(byte) / mpf("127.5") - 1


def decoder(byte, mean, log_variance):
    """-ln of the normal's mass on the byte's bin; the first and the last bin reach to infinity."""
    x0, half, std = value(byte), 1 / mpf(255), mpmath.exp(log_variance / 2)
    low = -mp.inf if byte == 0 else (x0 - half - mean) / std
    high = mp.inf if byte == 255 else (x0 + half - mean) / std
    if low > 0:
        low, high = -high, -low
    with mp.workdps(400):
        return -mpmath.log(mpmath.ncdf(high) - mpmath.ncdf(low))


def slope(f, at):
    with mp.workdps(60):
        return mpmath.diff(f, at)


def linear(t):
    return mpf("1e-4") + (mpf("0.02") - mpf("1e-4")) * t / (STEPS - 1)


def cosine(t):
    bar = lambda i: mpmath.cos((mpf(i) / STEPS + mpf("0.008")) / mpf("1.008") * mp.pi / 2) ** 2
    return min(1 - bar(t + 1) / bar(t), mpf("0.999"))


SCHEDULES = {"linear": linear, "squared-cosine": cosine}


class Process:
    def __init__(self, beta):
        self.betas = [beta(t) for t in range(STEPS)]
        self.bars, product = [], mpf(1)
        for b in self.betas:
            product *= 1 - b
            self.bars.append(product)

    def prior(self, x0):
        bar = self.bars[-1]
        return (bar * x0**2 + (1 - bar) - 1 - mpmath.log(1 - bar)) / 2

    def posterior(self, t):
        """Coefficient of x0 in the mean, and the variance."""
        before = self.bars[t - 1] if t else mpf(1)
        return mpmath.sqrt(before) * self.betas[t] / (1 - self.bars[t]), (1 - before) / (1 - self.bars[t]) * self.betas[t]

    def term(self, kind, t, byte, x0_hat, v):
        x0 = value(byte)
        c, posterior = self.posterior(t)
        small = mpmath.log(self.posterior(max(t, 1))[1])
        large = mpmath.log(self.betas[t])
        if kind == "fixed-small":
            log_variance = small
        elif kind == "fixed-large":
            log_variance = large if t else small
        else:
            share = (v + 1) / 2
            log_variance = share * large + (1 - share) * small
        if t == 0:
            return decoder(byte, c * x0_hat, log_variance)
        variance = mpmath.exp(log_variance)
        return (log_variance - mpmath.log(posterior) + (posterior + (c * (x0 - x0_hat)) ** 2) / variance - 1) / 2


lines = [f"# python {platform.python_version()}, mpmath {mpmath.__version__}"]
for byte, mean, log_variance in itertools.product(
    [0, 1, 100, 254, 255], map(mpf, ["-1.7", "-1", "-0.2", "0.3", "0.9999"]), map(mpf, ["-14", "-9.2", "-3", "2"])
):
    lines.append(
        show(
            "decoder",
            value(byte),
            mean,
            log_variance,
            decoder(byte, mean, log_variance),
            slope(lambda m: decoder(byte, m, log_variance), mean),
            slope(lambda l: decoder(byte, mean, l), log_variance),
        )
    )
for name, beta in SCHEDULES.items():
    process = Process(beta)
    for byte in [0, 77, 255]:
        lines.append(show("prior", name, value(byte), process.prior(value(byte))))
    for kind in ["fixed-small", "fixed-large", "learned-range"]:
        for t, (byte, x0_hat, v) in itertools.product(
            [0, 1, 2, 10, 500, 998, 999],
            [(0, "-0.97", "0.3"), (131, "0.05", "-0.8"), (255, "0.2", "1.4")],
        ):
            x0_hat, v = mpf(x0_hat), mpf(v)
            lines.append(
                show(
                    "term",
                    name,
                    kind,
                    str(t),
                    value(byte),
                    x0_hat,
                    v,
                    process.term(kind, t, byte, x0_hat, v),
                    slope(lambda x: process.term(kind, t, byte, x, v), x0_hat),
                    slope(lambda s: process.term(kind, t, byte, x0_hat, s), v),
                )
            )
(HERE / "bound.txt").write_text("\n".join(lines) + "\n")
