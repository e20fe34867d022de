"""Golden values of the schedules, spacings and samplers, from diffusers.

Run `python make.py` beside this file; versions.txt records what it ran with. Every file is lines of
`key value value ...`; in those with several cases, `case NAME` begins one.

The stand-in network is raw(x, t) = x·t/(t+1). Tables of betas are computed by diffusers in float32 and
written so; for the trajectories they are widened to float64 before anything is derived from them, so that
what is compared is the sampler's arithmetic and not the rounding of its table. (Euler, Heun and
DPM-Solver still round their noise levels and samples to float32.)
"""

import pathlib
import platform

import diffusers
import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)
from diffusers.schedulers import scheduling_ddpm, scheduling_euler_ancestral_discrete

HERE = pathlib.Path(__file__).parent
SIZE = 8
LATENT = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def line(key, values, digits):
    return key + " " + " ".join(f"%.{digits}g" % float(v) for v in np.asarray(values).reshape(-1))


def write(name, lines):
    (HERE / name).write_text("\n".join(lines) + "\n")


def betas():
    out = []
    for name, config in {
        "linear": dict(beta_schedule="linear"),
        "scaled_linear": LATENT,
        "squared_cosine": dict(beta_schedule="squaredcos_cap_v2"),
        "sigmoid": dict(beta_schedule="sigmoid"),
    }.items():
        scheduler = DDPMScheduler(**config)
        out.append(line(f"betas/{name}", scheduler.betas, 9))
        out.append(line(f"alphas_cumprod/{name}", scheduler.alphas_cumprod[::37], 9))
    rescaled = DDPMScheduler(**LATENT, rescale_betas_zero_snr=True)
    out.append(line("alphas_cumprod/zero_snr", rescaled.alphas_cumprod[::37].tolist() + [rescaled.alphas_cumprod[-1]], 9))
    write("betas.txt", out)


def spacings():
    out = []
    for n in (1, 2, 3, 10, 61, 999, 1000):
        for spacing in ("leading", "trailing", "linspace"):
            # For 61 steps (and 61 other numbers) diffusers' trailing answers one time more, which is -1.
            if (n, spacing) == (61, "trailing"):
                continue
            scheduler = DDIMScheduler(timestep_spacing=spacing)
            scheduler.set_timesteps(n)
            out.append(line(f"{spacing}/{n}", scheduler.timesteps, 6))
            if n < 1000:
                multistep = DPMSolverMultistepScheduler(timestep_spacing=spacing)
                multistep.set_timesteps(n)
                if spacing != "trailing":
                    out.append(line(f"{spacing}_without_cleanest/{n}", multistep.timesteps, 6))
            if n < 999 and spacing == "leading":
                scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
                scheduler.set_timesteps(n)
                out.append(line(f"leading_offset/{n}", scheduler.timesteps, 6))
    for n in (1, 2, 3, 10):
        euler = EulerDiscreteScheduler()
        euler.set_timesteps(n)
        out.append(line(f"linspace_fractional/{n}", euler.timesteps, 9))
    for n in (2, 3, 10):
        for key, config in {
            "karras": dict(use_karras_sigmas=True),
            "exponential": dict(use_exponential_sigmas=True),
            "beta": dict(use_beta_sigmas=True),
        }.items():
            euler = widen(EulerDiscreteScheduler(**LATENT, **config))
            euler.set_timesteps(n)
            out.append(line(f"{key}/{n}", euler.sigmas[:-1], 9))
            out.append(line(f"{key}_times/{n}", euler.timesteps, 9))
            flow = FlowMatchEulerDiscreteScheduler(**config)
            flow.set_timesteps(n)
            out.append(line(f"flow_{key}/{n}", flow.sigmas[:-1], 9))
    write("spacings.txt", out)


def widen(scheduler):
    """Everything from the float32 betas on in float64."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1.0 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    if hasattr(scheduler, "final_alpha_cumprod"):
        one = torch.tensor(1.0, dtype=torch.float64)
        scheduler.final_alpha_cumprod = one if scheduler.config.set_alpha_to_one else scheduler.alphas_cumprod[0]
    return scheduler


def network(x, t):
    t = torch.as_tensor(t, dtype=x.dtype)
    return x * (t / (t + 1))


def start():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, SIZE, generator=generator, dtype=torch.float64)


def run(name, scheduler, n, digits, noisy=False, dtype=torch.float64, **step):
    """One case: the initial sample, the noise fed, and the sample after every call of the scheduler."""
    scheduler.set_timesteps(n)
    generator = torch.Generator().manual_seed(2)
    noises = []

    def fed(shape, **_):
        noises.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        return noises[-1]

    scheduling_ddpm.randn_tensor = fed
    scheduling_euler_ancestral_discrete.randn_tensor = fed
    x = start().to(dtype)
    if hasattr(scheduler, "init_noise_sigma"):
        x = x * float(scheduler.init_noise_sigma)
    out = [f"case {name}/{n}", line("start", x, digits)]
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        raw = network(scaled, t)
        extra = dict(step)
        if noisy and isinstance(scheduler, DDIMScheduler):
            extra["variance_noise"] = fed(x.shape)
        x = scheduler.step(raw, t, x, **extra).prev_sample
        assert torch.isfinite(x).all(), name
        out.append(line("x", x, digits))
    out += [line("noise", noise, digits) for noise in noises]
    return out


def trajectories():
    exact, single = [], []
    for n in (1, 2, 3, 10):
        for variance in ("fixed_small", "fixed_large"):
            scheduler = widen(DDPMScheduler(variance_type=variance, clip_sample=False))
            exact += run(f"ddpm/{variance}", scheduler, n, 17, noisy=True)
        for eta in (0.0, 0.5, 1.0):
            scheduler = widen(DDIMScheduler(clip_sample=False))
            exact += run(f"ddim/{eta}", scheduler, n, 17, noisy=eta > 0, eta=eta)
    offset = widen(DDIMScheduler(**LATENT, clip_sample=False, steps_offset=1, set_alpha_to_one=False))
    exact += run("ddim_latent/0.0", offset, 10, 17, eta=0.0)
    # Here a step's end is not the next step's start.
    strided = widen(DDIMScheduler(**LATENT, clip_sample=False, timestep_spacing="trailing"))
    exact += run("ddim_strided/0.5", strided, 7, 17, noisy=True, eta=0.5)
    for kind in ("v_prediction", "sample"):
        scheduler = widen(
            DDIMScheduler(
                **LATENT,
                clip_sample=False,
                timestep_spacing="trailing",
                rescale_betas_zero_snr=True,
                prediction_type=kind,
            )
        )
        scheduler.alphas_cumprod[-1] = 0.0
        for eta in (0.0, 1.0):
            exact += run(f"ddim_zero_snr/{kind}/{eta}", scheduler, 5, 17, noisy=eta > 0, eta=eta)
    write("trajectories_f64.txt", exact)

    f32 = dict(digits=9, dtype=torch.float32)
    for n in (1, 2, 3, 10):
        for spacing in ("leading", "trailing", "linspace"):
            if n == 1 and spacing != "trailing":
                continue
            for name, kind in {
                "euler": EulerDiscreteScheduler,
                "heun": HeunDiscreteScheduler,
                "euler_ancestral": EulerAncestralDiscreteScheduler,
            }.items():
                scheduler = widen(kind(**LATENT, timestep_spacing=spacing))
                single += run(f"{name}/{spacing}", scheduler, n, noisy="ancestral" in name, **f32)
    for n in (2, 3, 10):
        for name, kind in {"euler": EulerDiscreteScheduler, "heun": HeunDiscreteScheduler}.items():
            single += run(f"{name}/karras", widen(kind(**LATENT, use_karras_sigmas=True)), n, **f32)
    for n in (1, 2, 3, 10, 20):
        for final in ("zero", "sigma_min"):
            scheduler = widen(DPMSolverMultistepScheduler(**LATENT, final_sigmas_type=final))
            single += run(f"dpmpp_2m/{final}", scheduler, n, **f32)
    for shift in (1.0, 3.0):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        single += run(f"flow_euler/{shift}", scheduler, 10, **f32)
        scheduler = FlowMatchHeunDiscreteScheduler(shift=shift)
        single += run(f"flow_heun/{shift}", scheduler, 10, **f32)
    write("trajectories_f32.txt", single)


betas()
spacings()
trajectories()
write(
    "versions.txt",
    [
        f"python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"numpy {np.__version__}",
        f"diffusers {diffusers.__version__}",
    ],
)
