"""Writes trajectories/<class>.txt: what diffusers' schedulers do with a "network" that is a formula.

    python make_trajectories.py [CLASS...]

torch 2.15.0 (CPU), diffusers 0.42.1, numpy, scipy, torchsde. diffusers computes its tables, levels and most samples
in float32; here the names torch.float32 and np.float32 are bound to float64 while its code runs, so that
what is compared is its formulas and not its rounding. Every case is run a second time as it is, in
float32; how far that strays is recorded as `float32`, relative to the root mean square of the row.

A file holds one line of JSON per case:
    config    the scheduler's configuration: the keys that are not defaults, or all of them
    steps     as passed to set_timesteps
    begin     the first step, if the schedule is begun at a later one (set_begin_index)
    strength  of an image-to-image start: rows[0] is then add_noise of the clean sample
    eta, mu   as passed to step and set_timesteps
    model     linear: x·t/(t+1); wave: a smooth function that is not linear; learned: that, and a variance
    calls     how often the network is asked
    times     what it is told, in some of the calls
    rows      the scheduler's sample before some of the calls, and the last one
Noise is `wave`, which needs no file. What diffusers cannot do (it raises, or answers NaN) is listed in
trajectories/refused.txt.
"""

import importlib
import json
import math
import sys
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch

warnings.filterwarnings("ignore")
diffusers.utils.logging.set_verbosity_error()
HERE = Path(__file__).parent / "trajectories"
ELEMENTS = 4
SHAPE = (1, 1, 2, 2)
START = [0.9, -1.3, 0.4, 2.1]
CLEAN = [0.5, -0.8, 0.1, -0.2]
STEPS = (1, 2, 3, 7, 20, 50, 999, 1000)
FLOAT32 = torch.float32, np.float32


class precision:
    """Within, float32 means float64."""

    def __init__(self, double):
        self.double = double

    def __enter__(self):
        if self.double:
            torch.float32, np.float32 = torch.float64, np.float64
            torch.set_default_dtype(torch.float64)

    def __exit__(self, *_):
        torch.float32, np.float32 = FLOAT32
        torch.set_default_dtype(FLOAT32[0])


def tensor(values):
    return torch.tensor(values, dtype=torch.float32).reshape(SHAPE)


def wave(draw):
    """Element i of draw k is 1.3·sin(12.9898·(i+1) + 78.233·(k+1))."""
    return tensor([1.3 * math.sin(12.9898 * (i + 1) + 78.233 * (draw + 1)) for i in range(ELEMENTS)])


class Waves:
    def __init__(self):
        self.draw = -1

    def __call__(self, *_, **__):
        self.draw += 1
        return wave(self.draw)


class NoisePath:
    """Stands in for a Brownian path: one wave for every level that a step ends at, one for all others."""

    scheduler, first = None, 0

    def __init__(self, *_, **__):
        pass

    def __call__(self, _, to):
        levels = self.scheduler.sigmas[self.first :: self.scheduler.order].tolist()
        ends = [i for i, level in enumerate(levels) if abs(level - float(to)) < 1e-6 * level]
        return wave(ends[0] - 1 if ends else len(levels))


def network(kind, x, t):
    t = float(t)
    if kind == "linear":
        return x * (t / (t + 1))
    if kind == "learned":
        i = torch.arange(ELEMENTS, dtype=x.dtype).reshape(SHAPE)
        return torch.cat([network("wave", x, t), 0.8 * torch.sin(t / 50 + i)], dim=1)
    i = torch.arange(ELEMENTS, dtype=torch.float64).reshape(SHAPE)
    return (0.7 * x + 0.3 * torch.tanh(2 * x) + 0.2 * torch.sin(t / 37 + i)).to(x.dtype)


def run(cls, steps, config, model, begin, strength, eta, mu, start):
    module = importlib.import_module(getattr(diffusers, cls).__module__)
    module.randn_tensor = Waves()
    module.BrownianTreeNoiseSampler = NoisePath
    scheduler = getattr(diffusers, cls)(**config)
    NoisePath.scheduler = scheduler
    scheduler.set_timesteps(steps, **({} if mu is None else {"mu": mu}))
    if strength is not None:
        begin = steps - min(int(steps * strength), steps)
    first = (begin or 0) * getattr(scheduler, "order", 1)
    NoisePath.first = first
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    times = scheduler.timesteps[first:]
    x = tensor(START)
    if strength is not None:
        if hasattr(scheduler, "add_noise"):
            x = scheduler.add_noise(tensor(CLEAN), wave(-2), times[:1])
        else:
            x = scheduler.scale_noise(tensor(CLEAN), times[:1], wave(-2))
    elif start == "scaled":
        x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    rows = [x]
    old = None
    for k, (t, following) in enumerate(zip(times, [*times[1:], None])):
        entry = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        if cls == "CogVideoXDPMScheduler":
            # Its pipelines pass the last clean sample and its time. It draws up to twice a step and takes one.
            module.randn_tensor = lambda *_, **__: wave(k)
            back = times[k - 1] if k else None
            x, old = scheduler.step(network(model, entry, t), old, t, back, x)
            rows.append(x)
            continue
        extra = {} if eta is None else {"eta": eta}
        if cls == "UnCLIPScheduler":
            extra["prev_timestep"] = following  # as its pipelines do
        x = scheduler.step(network(model, entry, t), t, x, **extra).prev_sample
        rows.append(x)
    rows = np.array([r.flatten().tolist() for r in rows])
    if not np.isfinite(rows).all():
        raise ValueError("not finite")
    return scheduler, [float(t) for t in times], rows


def case(cls, steps, model="wave", begin=None, strength=None, eta=None, mu=None, full=False, **config):
    where = dict(model=model, begin=begin, strength=strength, eta=eta, mu=mu, start="scaled")
    key = {"_class_name": cls, **config}
    label = {"config": key, "steps": steps, **{k: v for k, v in where.items() if v is not None and k != "start"}}
    try:
        with precision(double=True):
            scheduler, times, rows = run(cls, steps, config, **where)
    except Exception as error:
        return None, json.dumps(label) + " " + (str(error).splitlines() or [type(error).__name__])[0][:120]
    try:
        _, _, single = run(cls, steps, config, **where)
        scale = np.sqrt((rows**2).mean(axis=1, keepdims=True))
        label["float32"] = float("%.2g" % (np.abs(single - rows) / np.maximum(scale, 1e-9)).max())
    except Exception:
        label["float32"] = None
    if full:
        label["config"] = json.loads(scheduler.to_json_string().replace("-Infinity", '"-Infinity"'))
    label["calls"] = len(times)
    last = len(times)
    some = range(last + 1) if last <= 7 else sorted({0, 1, 2, 3, 4, last // 2, last - 3, last - 2, last - 1, last})
    label["times"] = {str(i): float("%.10g" % times[i]) for i in some if i < last}
    label["rows"] = {str(i): [float("%.12g" % v) for v in rows[i]] for i in some}
    return json.dumps(label, separators=(",", ":")), None


def product(cls, **options):
    """Every combination of the options' values."""
    todo = [dict(cls=cls)]
    for name, values in options.items():
        todo = [{**t, name: v} for t in todo for v in values]
    return todo


TYPES = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")
SWITCHES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
LATENT = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SOME = (1, 2, 7, 20)
BETAS = [
    LATENT,
    dict(beta_schedule="squaredcos_cap_v2"),
    dict(beta_schedule="linear", num_train_timesteps=100),
    dict(trained_betas=[0.02 * (i + 1) for i in range(10)], num_train_timesteps=10),
]
THRESHOLD = dict(thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=1.5)


def partial(cls, **config):
    """Schedules begun later."""
    for strength in (0.2, 0.75, 1.0):
        yield dict(cls=cls, steps=10, strength=strength, **config)
        yield dict(cls=cls, steps=20, strength=strength, **config)
    for begin in (1, 4):
        yield dict(cls=cls, steps=7, begin=begin, **config)


def table(cls, types=TYPES, spacings=SPACINGS, sized=STEPS, small=5):
    """What all classes with a table of betas have."""
    yield from product(cls, timestep_spacing=spacings, steps=sized)
    yield from product(cls, prediction_type=types, timestep_spacing=spacings, steps=(2, 7, 50))
    yield from product(cls, prediction_type=types[:1], model=("linear",), timestep_spacing=spacings, steps=(3, 20))
    yield dict(cls=cls, steps=7, full=True)
    for betas in BETAS:
        n = small if betas.get("num_train_timesteps") == 10 else 10
        yield dict(cls=cls, steps=n, **betas)
    if "leading" in spacings:
        yield from product(cls, timestep_spacing=("leading",), steps_offset=(1,), steps=(1, 7, 999))


def spaced(cls, **config):
    for switch in SWITCHES:
        for n in (2, 7, 20, 50):
            yield dict(cls=cls, steps=n, **LATENT, **{switch: True}, **config)
        yield dict(cls=cls, steps=7, timestep_spacing="trailing", **{switch: True}, **config)
        yield dict(cls=cls, steps=10, beta_schedule="squaredcos_cap_v2", **{switch: True}, **config)


def zero_snr(cls, types=("v_prediction", "sample"), **config):
    for spacing in ("trailing", "linspace"):
        for kind in types:
            yield dict(cls=cls, steps=7, rescale_betas_zero_snr=True, prediction_type=kind, timestep_spacing=spacing, **config)


def flow_sigmas(cls, **config):
    for n in (1, 2, 7, 20):
        yield dict(cls=cls, steps=n, use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, **config)
    yield dict(cls=cls, steps=7, use_flow_sigmas=True, prediction_type="flow_prediction", **config)
    yield dict(cls=cls, steps=7, use_flow_sigmas=True, prediction_type="epsilon", flow_shift=3.0, **config)
    yield dict(cls=cls, steps=7, use_flow_sigmas=True, prediction_type="flow_prediction", use_dynamic_shifting=True, mu=0.8, **config)


def clamps(cls, types=TYPES):
    for kind in types:
        yield dict(cls=cls, steps=7, prediction_type=kind, **THRESHOLD)


CASES = {}


def family(f):
    CASES[f.__name__] = list(f(f.__name__))
    return f


@family
def DDPMScheduler(c):
    yield from table(c)
    yield from partial(c, clip_sample=False)
    yield from clamps(c)
    yield from zero_snr(c)
    for variance in ("fixed_small_log", "fixed_large"):
        yield from product(c, variance_type=(variance,), timestep_spacing=SPACINGS, steps=(1, 7, 50))
    for n in (1, 7, 50):
        yield dict(cls=c, steps=n, variance_type="learned_range", model="learned")
    for schedule in ("sigmoid", "laplace"):
        yield dict(cls=c, steps=7, beta_schedule=schedule)
    yield from product(c, clip_sample=(False,), prediction_type=TYPES, steps=(7, 50))
    yield dict(cls=c, steps=7, clip_sample_range=0.6)


@family
def DDPMParallelScheduler(c):
    yield from product(c, timestep_spacing=SPACINGS, prediction_type=TYPES, steps=(7,))
    yield from product(c, variance_type=("fixed_large",), steps=(1, 7, 50))
    yield dict(cls=c, steps=7, full=True)
    yield dict(cls=c, steps=1000)


@family
def UnCLIPScheduler(c):
    yield from product(c, prediction_type=("epsilon", "sample"), steps=(2, 3, 7, 20, 50))
    yield from product(c, steps=(999, 1000))
    yield from product(c, clip_sample=(False,), model=("wave", "linear"), steps=(7,))
    yield dict(cls=c, steps=7, clip_sample_range=0.6)
    yield from product(c, variance_type=("learned_range",), model=("learned",), steps=(2, 7, 50))
    yield dict(cls=c, steps=7, full=True)
    yield dict(cls=c, steps=10, num_train_timesteps=100)


@family
def DDIMScheduler(c):
    yield from table(c)
    yield from partial(c, clip_sample=False)
    yield from partial(c, clip_sample=False, timestep_spacing="trailing", eta=0.5)
    yield from clamps(c)
    yield from zero_snr(c)
    yield from product(c, eta=(0.5, 1.0), timestep_spacing=SPACINGS, clip_sample=(False,), steps=(1, 7, 20))
    yield from product(c, set_alpha_to_one=(False,), timestep_spacing=SPACINGS, clip_sample=(False,), steps=(1, 7, 20))
    yield from product(c, set_alpha_to_one=(False,), eta=(1.0,), clip_sample=(False,), steps=(7,))
    yield from product(c, clip_sample=(False,), prediction_type=TYPES, steps=(7, 50))
    yield dict(cls=c, steps=7, clip_sample_range=0.6, prediction_type="v_prediction")


@family
def DDIMParallelScheduler(c):
    yield from product(c, timestep_spacing=SPACINGS, prediction_type=TYPES, steps=(7,))
    yield from product(c, eta=(0.5,), timestep_spacing=SPACINGS, clip_sample=(False,), steps=(1, 7))
    yield dict(cls=c, steps=7, full=True)
    yield dict(cls=c, steps=1000)
    yield from product(c, set_alpha_to_one=(False,), clip_sample=(False,), steps=(1, 20))


@family
def CogVideoXDDIMScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from zero_snr(c)
    yield from product(c, set_alpha_to_one=(False,), timestep_spacing=SPACINGS, steps=(1, 7))
    yield from product(c, snr_shift_scale=(1.0, 2.0), steps=(7,))
    yield dict(cls=c, steps=50, prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing")


@family
def CogVideoXDPMScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from zero_snr(c)
    yield from product(c, set_alpha_to_one=(False,), timestep_spacing=SPACINGS, steps=(1, 7, 20))
    yield from product(c, snr_shift_scale=(1.0, 2.0), steps=(7,))
    yield dict(cls=c, steps=50, prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing")


@family
def DDIMInverseScheduler(c):
    yield from table(c, spacings=("leading", "trailing"))
    yield from zero_snr(c)
    yield from product(c, set_alpha_to_one=(True, False), clip_sample=(False,), timestep_spacing=("leading", "trailing"), steps=(1, 7, 20))
    yield dict(cls=c, steps=7, clip_sample_range=0.6, prediction_type="v_prediction")


@family
def PNDMScheduler(c):
    both = ("epsilon", "v_prediction")
    yield from table(c, types=both, sized=(7, 20, 50, 999, 1000))
    yield from product(c, skip_prk_steps=(True,), timestep_spacing=SPACINGS, steps=STEPS)
    yield from product(c, skip_prk_steps=(True,), prediction_type=both, timestep_spacing=SPACINGS, steps=(2, 7, 50))
    yield from product(c, skip_prk_steps=(True, False), set_alpha_to_one=(True,), steps=(4, 7, 20))
    yield dict(cls=c, steps=20, skip_prk_steps=True, steps_offset=1, **LATENT)
    yield dict(cls=c, steps=20, skip_prk_steps=True, model="linear")
    yield from partial(c, skip_prk_steps=True)
    yield from product(c, skip_prk_steps=(True,), prediction_type=both, timestep_spacing=SPACINGS, begin=(1, 2, 6), steps=(7,))
    yield from product(c, skip_prk_steps=(True,), set_alpha_to_one=(True,), begin=(1,), steps=(2, 3))
    yield dict(cls=c, steps=50, strength=0.8, skip_prk_steps=True, steps_offset=1, **LATENT)
    yield from partial(c)
    for kind in both:
        yield from product(c, prediction_type=(kind,), timestep_spacing=SPACINGS, begin=(1, 2, 3, 6), steps=(7,))
    yield from product(c, set_alpha_to_one=(True,), begin=(1, 2, 3), steps=(4,))
    yield from product(c, strength=(0.1, 0.5, 0.8), steps_offset=(1,), steps=(50,))


@family
def IPNDMScheduler(c):
    yield from product(c, model=("wave", "linear"), steps=STEPS)
    yield dict(cls=c, steps=7, full=True)


@family
def LMSDiscreteScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from spaced(c)


@family
def EulerDiscreteScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from spaced(c)
    yield from zero_snr(c)
    yield from spaced(c, final_sigmas_type="sigma_min")
    yield from product(c, final_sigmas_type=("sigma_min",), timestep_spacing=SPACINGS, steps=(1, 7, 20))
    yield from product(c, interpolation_type=("log_linear",), steps=(1, 7, 20))
    yield dict(cls=c, steps=7, interpolation_type="log_linear", use_karras_sigmas=True)
    yield dict(cls=c, steps=7, use_karras_sigmas=True, sigma_min=0.1, sigma_max=20.0)
    for switch in ("use_karras_sigmas", "use_exponential_sigmas"):
        yield dict(cls=c, steps=10, timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.05, sigma_max=50.0, **{switch: True})


@family
def EulerAncestralDiscreteScheduler(c):
    yield from table(c, types=("epsilon", "v_prediction"))
    yield from partial(c)
    yield from zero_snr(c, types=("v_prediction",))


@family
def HeunDiscreteScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from spaced(c)
    yield dict(cls=c, steps=7, beta_schedule="exp")
    yield from product(c, clip_sample=(True,), prediction_type=TYPES, clip_sample_range=(0.8,), steps=(7,))


@family
def KDPM2DiscreteScheduler(c):
    yield from table(c, types=("epsilon", "v_prediction"))
    yield from partial(c)
    yield from spaced(c)


@family
def KDPM2AncestralDiscreteScheduler(c):
    yield from table(c, types=("epsilon", "v_prediction"))
    yield from partial(c)
    yield from spaced(c)


@family
def DPMSolverSDEScheduler(c):
    yield from table(c, types=("epsilon", "v_prediction"), sized=(1, 2, 3, 7, 20, 50))
    yield from product(c, steps=(999, 1000))
    yield from spaced(c)


@family
def DPMSolverMultistepScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from partial(c, solver_order=3)
    yield from partial(c, algorithm_type="sde-dpmsolver++")
    yield from spaced(c)
    yield from clamps(c)
    yield from zero_snr(c)
    yield from flow_sigmas(c)
    for n in (2, 7, 20, 50):
        yield dict(cls=c, steps=n, use_lu_lambdas=True, **LATENT)
    for algorithm in ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"):
        end = "zero" if algorithm.endswith("++") else "sigma_min"
        orders = (1, 2) if algorithm == "sde-dpmsolver" else (1, 2, 3)
        same = dict(algorithm_type=(algorithm,), final_sigmas_type=(end,))
        yield from product(c, **same, solver_order=orders, solver_type=("midpoint", "heun"), steps=(1, 2, 3, 7, 20, 50))
        yield from product(c, **same, solver_order=orders[-1:], prediction_type=TYPES, steps=(7, 20))
        yield from product(c, **same, solver_order=orders[-1:], timestep_spacing=SPACINGS, steps=(7, 20, 999))
        yield dict(cls=c, steps=7, algorithm_type=algorithm, final_sigmas_type=end, **THRESHOLD)
    same = dict(solver_order=(2, 3), final_sigmas_type=("sigma_min",))
    yield from product(c, **same, lower_order_final=(True, False), euler_at_final=(True, False), steps=(3, 7, 20))
    yield from product(c, solver_order=(3,), lower_order_final=(False,), steps=(3, 7, 20))
    yield from product(c, use_karras_sigmas=(True,), final_sigmas_type=("sigma_min",), lower_order_final=(True, False), steps=(7, 20))
    yield from product(c, beta_schedule=("squaredcos_cap_v2",), lambda_min_clipped=(-5.1,), timestep_spacing=SPACINGS, steps=(7, 20))


@family
def DPMSolverMultistepInverseScheduler(c):
    yield from table(c)
    yield from spaced(c)
    yield from clamps(c)
    for algorithm in ("dpmsolver++", "dpmsolver"):
        yield from product(c, algorithm_type=(algorithm,), solver_order=(1, 2, 3), solver_type=("midpoint", "heun"), steps=(3, 7, 20))
    yield from product(c, solver_order=(2, 3), lower_order_final=(True, False), euler_at_final=(True, False), steps=(7, 20))


@family
def DPMSolverSinglestepScheduler(c):
    yield from product(c, steps=STEPS)
    yield from product(c, prediction_type=TYPES, steps=(2, 7, 50))
    yield from product(c, model=("linear",), steps=(3, 20))
    yield dict(cls=c, steps=7, full=True)
    for betas in BETAS[:3]:
        yield dict(cls=c, steps=10, **betas)
    yield from partial(c)
    yield from partial(c, solver_order=3)
    yield from (s for s in spaced(c) if "timestep_spacing" not in s)
    yield from clamps(c)
    yield from flow_sigmas(c)
    for algorithm in ("dpmsolver++", "sde-dpmsolver++", "dpmsolver"):
        end = "zero" if algorithm.endswith("++") else "sigma_min"
        same = dict(algorithm_type=(algorithm,), final_sigmas_type=(end,))
        yield from product(c, **same, solver_order=(1, 2, 3), solver_type=("midpoint", "heun"), steps=(3, 6, 7, 8, 20))
    yield from product(c, solver_order=(2, 3), final_sigmas_type=("sigma_min",), lower_order_final=(True, False), steps=(6, 12))
    yield dict(cls=c, steps=7, beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)


@family
def DEISMultistepScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from spaced(c)
    yield from clamps(c)
    yield from flow_sigmas(c)
    yield from product(c, solver_order=(1, 2, 3), lower_order_final=(True, False), steps=(3, 7, 20))
    yield from partial(c, solver_order=3)


@family
def UniPCMultistepScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from partial(c, solver_order=3)
    yield from spaced(c)
    yield from spaced(c, final_sigmas_type="sigma_min")
    yield from clamps(c)
    yield from zero_snr(c)
    yield from flow_sigmas(c)
    same = dict(solver_type=("bh1", "bh2"), predict_x0=(True, False))
    yield from product(c, **same, solver_order=(1, 2, 3, 4), final_sigmas_type=("sigma_min",), steps=(3, 7, 20))
    yield from product(c, **same, solver_order=(3,), final_sigmas_type=("sigma_min",), prediction_type=TYPES, steps=(7,))
    yield from product(c, solver_order=(2, 3), disable_corrector=([0], [0, 1, 2]), steps=(7, 20))
    yield dict(cls=c, steps=9, begin=2, disable_corrector=[1, 4], solver_order=3)
    yield from product(c, solver_order=(2, 3), lower_order_final=(False,), final_sigmas_type=("sigma_min",), steps=(7, 20))
    yield dict(cls=c, steps=7, use_flow_sigmas=True, prediction_type="flow_prediction", use_dynamic_shifting=True, time_shift_type="linear", mu=2.5)
    yield dict(cls=c, steps=7, use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="sigma_min")
    yield dict(cls=c, steps=7, use_flow_sigmas=True, prediction_type="flow_prediction", shift_terminal=0.1)
    yield dict(cls=c, steps=7, use_flow_sigmas=True, prediction_type="flow_prediction", use_karras_sigmas=True)


@family
def SASolverScheduler(c):
    yield from table(c)
    yield from partial(c)
    yield from spaced(c)
    yield from clamps(c)
    for algorithm in ("data_prediction", "noise_prediction"):
        for orders in ((1, 1), (2, 2), (3, 3), (3, 4), (1, 2), (2, 1)):
            for n in (3, 7, 20):
                yield dict(cls=c, steps=n, algorithm_type=algorithm, predictor_order=orders[0], corrector_order=orders[1])
    yield from product(c, lower_order_final=(False,), steps=(7, 20))


@family
def EDMEulerScheduler(c):
    yield from product(c, sigma_schedule=("karras", "exponential"), steps=STEPS)
    yield from product(c, prediction_type=("epsilon", "v_prediction"), final_sigmas_type=("zero", "sigma_min"), steps=(2, 7, 20))
    yield dict(cls=c, steps=8, sigma_max=20.0, sigma_min=0.01, sigma_data=1.0, rho=5.0)
    yield dict(cls=c, steps=7, full=True)
    yield from partial(c)
    yield from product(c, model=("linear",), steps=(3, 20))


@family
def EDMDPMSolverMultistepScheduler(c):
    yield from product(c, sigma_schedule=("karras", "exponential"), steps=STEPS)
    yield from product(c, prediction_type=("epsilon", "v_prediction"), final_sigmas_type=("zero", "sigma_min"), steps=(2, 7, 20))
    for algorithm, orders in (("dpmsolver++", (1, 2, 3)), ("sde-dpmsolver++", (1, 2))):
        yield from product(c, algorithm_type=(algorithm,), solver_order=orders, solver_type=("midpoint", "heun"), steps=(2, 7, 20))
    yield from product(c, solver_order=(3,), lower_order_final=(True, False), euler_at_final=(True, False), final_sigmas_type=("sigma_min",), steps=(7, 20))
    yield dict(cls=c, steps=7, full=True)
    yield dict(cls=c, steps=7, **THRESHOLD)
    yield dict(cls=c, steps=8, sigma_max=20.0, sigma_min=0.01, sigma_data=1.0, rho=5.0)
    yield from partial(c)


@family
def CosineDPMSolverMultistepScheduler(c):
    yield from product(c, sigma_schedule=("karras", "exponential"), steps=STEPS)
    yield from product(c, prediction_type=("epsilon", "v_prediction"), final_sigmas_type=("zero", "sigma_min"), steps=(2, 7))
    yield from product(c, solver_order=(1, 2), solver_type=("midpoint", "heun"), steps=(2, 7, 20))
    yield from product(c, lower_order_final=(True, False), euler_at_final=(True, False), final_sigmas_type=("sigma_min",), steps=(7, 20))
    yield dict(cls=c, steps=7, full=True)
    yield dict(cls=c, steps=8, sigma_max=20.0, sigma_min=0.01, sigma_data=0.5, rho=5.0, sigma_schedule="karras")
    yield from partial(c)


@family
def CMStochasticIterativeScheduler(c):
    yield from product(c, model=("wave", "linear"), steps=(1, 2, 3, 7, 20, 40))
    yield dict(cls=c, steps=7, full=True)
    yield from product(c, num_train_timesteps=(1000,), steps=(50, 999, 1000))
    yield from product(c, clip_denoised=(False,), s_noise=(1.0, 0.5), steps=(1, 3, 7))
    yield dict(cls=c, steps=7, sigma_max=20.0, sigma_min=0.01, sigma_data=1.0, rho=5.0, num_train_timesteps=18)
    yield from partial(c)


@family
def LCMScheduler(c):
    yield from product(c, prediction_type=TYPES, steps=(1, 2, 3, 4, 7, 20, 50))
    yield from product(c, model=("linear",), steps=(4,))
    yield dict(cls=c, steps=4, full=True)
    yield dict(cls=c, steps=4, original_inference_steps=20, timestep_scaling=3.0, beta_schedule="linear")
    yield dict(cls=c, steps=60, original_inference_steps=1000)
    yield dict(cls=c, steps=4, clip_sample=True, clip_sample_range=0.7)
    yield dict(cls=c, steps=4, **THRESHOLD)
    yield dict(cls=c, steps=4, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    yield dict(cls=c, steps=8, begin=3)
    yield from product(c, original_inference_steps=(1000,), steps=(999, 1000))
    yield from product(c, strength=(0.3, 0.75, 1.0), steps=(4, 10))


@family
def TCDScheduler(c):
    yield from product(c, prediction_type=TYPES, steps=(1, 2, 3, 4, 7, 20, 50))
    yield from product(c, eta=(0.0, 0.7, 1.0), steps=(1, 4, 20))
    yield from product(c, model=("linear",), steps=(4,))
    yield dict(cls=c, steps=4, full=True)
    yield dict(cls=c, steps=4, original_inference_steps=20, beta_schedule="linear")
    yield dict(cls=c, steps=4, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    yield dict(cls=c, steps=8, begin=3)
    yield from product(c, original_inference_steps=(1000,), steps=(999, 1000))
    yield from product(c, strength=(0.3, 0.75, 1.0), steps=(4, 10))


@family
def FlowMatchEulerDiscreteScheduler(c):
    yield from product(c, shift=(1.0, 3.0), steps=STEPS)
    yield from product(c, model=("linear",), steps=(3, 20))
    yield dict(cls=c, steps=7, full=True)
    for switch in SWITCHES:
        yield from product(c, **{switch: (True,)}, shift=(1.0, 3.0), steps=(2, 7, 20))
    for kind in ("exponential", "linear"):
        yield from product(c, use_dynamic_shifting=(True,), time_shift_type=(kind,), mu=(0.5, 1.15), steps=(1, 7, 20))
    yield from product(c, shift_terminal=(0.1,), shift=(1.0, 3.0), steps=(2, 7, 20))
    yield from product(c, stochastic_sampling=(True,), shift=(1.0, 3.0), steps=(1, 7, 20))
    yield from partial(c, shift=3.0)
    yield dict(cls=c, steps=10, num_train_timesteps=100, shift=2.0)


@family
def FlowMatchHeunDiscreteScheduler(c):
    yield from product(c, shift=(1.0, 3.0), steps=STEPS)
    yield from product(c, model=("linear",), steps=(3, 20))
    yield dict(cls=c, steps=7, full=True)
    yield dict(cls=c, steps=7, num_train_timesteps=100, shift=2.0)
    yield dict(cls=c, steps=7, begin=4)
    yield from product(c, strength=(0.2, 0.75, 1.0), shift=(1.0, 3.0), steps=(10,))


@family
def FlowMatchLCMScheduler(c):
    yield from product(c, shift=(1.0, 3.0), steps=STEPS)
    yield from product(c, model=("linear",), steps=(3,))
    yield dict(cls=c, steps=7, full=True)
    for switch in SWITCHES:
        yield from product(c, **{switch: (True,)}, steps=(2, 7))
    for kind in ("exponential", "linear"):
        yield from product(c, use_dynamic_shifting=(True,), time_shift_type=(kind,), mu=(0.5,), steps=(1, 7))
    yield from product(c, shift_terminal=(0.1,), shift=(3.0,), steps=(2, 7))
    yield from partial(c, shift=3.0)


def main():
    HERE.mkdir(exist_ok=True)
    chosen = sys.argv[1:] or list(CASES)
    refused_path = HERE / "refused.txt"
    refused = {} if not refused_path.exists() else {
        name: [line for line in refused_path.read_text().splitlines() if f'"{name}"' in line] for name in CASES
    }
    total = 0
    for name in chosen:
        seen, lines, refusals = set(), [], []
        for c in CASES[name]:
            c = dict(c)
            key = json.dumps(c, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
            line, refusal = case(**c)
            (lines if line else refusals).append(line or refusal)
        path = HERE / f"{name}.txt"
        path.write_text("\n".join(lines) + "\n")
        refused[name] = refusals
        single = [json.loads(line)["float32"] for line in lines]
        worst = max((s for s in single if s is not None), default=0.0)
        total += path.stat().st_size
        print(f"{name}: {len(lines)} cases, {path.stat().st_size} bytes, {len(refusals)} refused, float32 strays by {worst:.1e}")
    refused_path.write_text("\n".join(line for lines in refused.values() for line in lines) + "\n")
    print(total, "bytes")


main()
