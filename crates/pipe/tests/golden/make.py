"""Writes schedulers.json: what diffusers' schedulers make of a "network" that is a formula.

    python make.py

torch 2.15.0 (CPU), diffusers 0.42.1, numpy. Every case holds a scheduler's configuration, the number of
steps, the times it asks the network at, and the sample after each step (or, for many steps, some of them),
in the coordinates x = alpha·x0 + sigma·eps that the network sees.
"""

import json
import math
from pathlib import Path

import diffusers
import diffusers.schedulers.scheduling_ddim as ddim
import diffusers.schedulers.scheduling_ddpm as ddpm
import torch

ELEMENTS = 6
SHAPE = (1, 1, 2, 3)


def wave(draw):
    values = [1.3 * math.sin(12.9898 * (i + 1) + 78.233 * (draw + 1)) for i in range(ELEMENTS)]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32).reshape(SHAPE)


def network(x, t):
    """0.7·x + 0.3·tanh(2x) + 0.2·sin(t/37 + i), in double precision."""
    i = torch.arange(ELEMENTS, dtype=torch.float64).reshape(SHAPE)
    x = x.to(torch.float64)
    return (0.7 * x + 0.3 * torch.tanh(2 * x) + 0.2 * torch.sin(float(t) / 37 + i)).to(torch.float32)


class Waves:
    def __init__(self):
        self.draw = -1

    def __call__(self, *_, **__):
        self.draw += 1
        return wave(self.draw)


def to_unit(scheduler, x):
    """From the scheduler's coordinates to those of the network."""
    name = type(scheduler).__name__
    if name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler"):
        sigma = float(scheduler.sigmas[scheduler.step_index])
        return x / math.sqrt(sigma**2 + 1)
    return x


def run(cls, steps, eta=None, **config):
    scheduler = getattr(diffusers, cls)(**config)
    scheduler.set_timesteps(steps)
    waves = Waves()
    ddpm.randn_tensor = ddim.randn_tensor = waves
    x = wave(-1)
    if hasattr(scheduler, "sigmas") and cls not in ("FlowMatchEulerDiscreteScheduler",):
        x = x * float(scheduler.init_noise_sigma)
    times, samples = [], []
    for t in scheduler.timesteps:
        entry = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        raw = network(entry, t)
        extra = {} if eta is None else {"eta": eta}
        x = scheduler.step(raw, t, x, **extra).prev_sample
        times.append(float(t))
        if getattr(scheduler, "state_in_first_order", True):
            samples.append([float(v) for v in to_unit(scheduler, x).flatten()])
    assert all(math.isfinite(v) for s in samples for v in s), (cls, steps, config)
    keep = range(len(samples)) if steps <= 10 else sorted({0, 1, len(samples) // 2, len(samples) - 2, len(samples) - 1})
    kept_times = times if len(times) <= 20 else times[:3] + times[-3:]
    return {
        "config": json.loads(
            scheduler.to_json_string().replace("-Infinity", '"-Infinity"')
        ),
        "steps": steps,
        "eta": eta,
        "times": [round(t, 6) for t in kept_times],
        "samples": {str(i + 1): [float(f"{v:.8g}") for v in samples[i]] for i in keep},
    }


def cases():
    yield from (dict(cls="DDPMScheduler", steps=n) for n in (1, 2, 3, 10, 999, 1000))
    for spacing in ("trailing", "linspace"):
        yield from (dict(cls="DDPMScheduler", steps=n, timestep_spacing=spacing) for n in (2, 10))
    for variance in ("fixed_small_log", "fixed_large"):
        for spacing in ("leading", "trailing"):
            yield dict(cls="DDPMScheduler", steps=10, variance_type=variance, timestep_spacing=spacing)
    for schedule in ("scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"):
        yield dict(cls="DDPMScheduler", steps=7, beta_schedule=schedule)
    yield dict(cls="DDPMScheduler", steps=7, prediction_type="sample", clip_sample_range=0.6)
    yield dict(cls="DDPMScheduler", steps=7, prediction_type="v_prediction", steps_offset=1)
    yield dict(cls="DDPMScheduler", steps=7, thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=2.0)
    yield dict(cls="DDPMScheduler", steps=7, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    yield dict(cls="DDPMScheduler", steps=5, num_train_timesteps=10, trained_betas=[0.02 * (i + 1) for i in range(10)])

    yield from (dict(cls="DDIMScheduler", steps=n) for n in (1, 2, 3, 10, 999, 1000))
    for spacing in ("trailing", "linspace"):
        yield from (dict(cls="DDIMScheduler", steps=n, timestep_spacing=spacing, eta=0.5) for n in (3, 10))
    yield dict(cls="DDIMScheduler", steps=10, set_alpha_to_one=False, steps_offset=1, clip_sample=False, beta_schedule="scaled_linear")
    yield dict(cls="DDIMScheduler", steps=10, set_alpha_to_one=False, eta=1.0)
    yield dict(cls="DDIMScheduler", steps=10, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    yield dict(cls="DDIMScheduler", steps=10, prediction_type="sample", thresholding=True, dynamic_thresholding_ratio=0.7, sample_max_value=1.5)

    for cls in ("EulerDiscreteScheduler", "HeunDiscreteScheduler"):
        yield from (dict(cls=cls, steps=n) for n in (1, 2, 3, 10, 999, 1000))
        for spacing in ("leading", "trailing"):
            yield dict(cls=cls, steps=10, timestep_spacing=spacing, steps_offset=1)
        for switch in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
            yield dict(cls=cls, steps=9, beta_schedule="scaled_linear", **{switch: True})
        yield dict(cls=cls, steps=8, prediction_type="v_prediction")
    yield dict(cls="EulerDiscreteScheduler", steps=8, final_sigmas_type="sigma_min")
    yield dict(cls="EulerDiscreteScheduler", steps=8, interpolation_type="log_linear")
    yield dict(cls="EulerDiscreteScheduler", steps=8, use_karras_sigmas=True, sigma_min=0.1, sigma_max=20.0)
    yield dict(cls="EulerDiscreteScheduler", steps=8, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    yield dict(cls="HeunDiscreteScheduler", steps=8, clip_sample=True, clip_sample_range=0.8)
    yield dict(cls="HeunDiscreteScheduler", steps=8, beta_schedule="exp")

    cls = "DPMSolverMultistepScheduler"
    yield from (dict(cls=cls, steps=n) for n in (1, 2, 3, 10, 20, 999))
    for spacing in ("leading", "trailing"):
        yield dict(cls=cls, steps=10, timestep_spacing=spacing)
    yield dict(cls=cls, steps=10, solver_order=1)
    yield dict(cls=cls, steps=20, final_sigmas_type="sigma_min")
    yield dict(cls=cls, steps=10, final_sigmas_type="sigma_min")
    yield dict(cls=cls, steps=20, final_sigmas_type="sigma_min", euler_at_final=True)
    yield dict(cls=cls, steps=10, final_sigmas_type="sigma_min", lower_order_final=False)
    for switch in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"):
        yield dict(cls=cls, steps=9, beta_schedule="scaled_linear", **{switch: True})
    # Karras' spacing of the squared cosine has times twice, which breaks diffusers itself with few steps.
    for spacing in ("linspace", "leading", "trailing"):
        yield dict(cls=cls, steps=9, beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, timestep_spacing=spacing)
    yield dict(cls=cls, steps=9, thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=2.0)
    yield dict(cls=cls, steps=9, rescale_betas_zero_snr=True, prediction_type="v_prediction")

    cls = "FlowMatchEulerDiscreteScheduler"
    yield from (dict(cls=cls, steps=n) for n in (1, 2, 10))
    yield dict(cls=cls, steps=10, shift=3.0)
    yield dict(cls=cls, steps=10, use_karras_sigmas=True)

    cls = "EDMEulerScheduler"
    yield from (dict(cls=cls, steps=n) for n in (2, 10))
    yield dict(cls=cls, steps=8, sigma_schedule="exponential", sigma_max=20.0, sigma_data=1.0)
    yield dict(cls=cls, steps=8, final_sigmas_type="sigma_min")


out = [run(**case) for case in cases()]
path = Path(__file__).parent / "schedulers.json"
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in out) + "\n]\n")
print(len(out), "cases,", path.stat().st_size, "bytes")
