"""One peer in a process of its own.

Makes its work ready, says so in a line of JSON, then runs as often as each line on stdin asks, answering
with the milliseconds of every run. At the end of its input it tells the most memory it held.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import network


def autocast(precision: str):
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def torch_forward(args):
    import torch

    unet = network.load(network.folder(args.work)).eval()
    x, t = network.inputs(args.batch)
    call = torch.compile(unet) if args.peer == "torch-compile" else unet

    @torch.no_grad()
    def run():
        with autocast(args.precision):
            call(x, t, return_dict=False)[0]

    return run


def torch_train(args):
    import torch

    unet = network.load(network.folder(args.work)).train()
    x, t = network.inputs(args.batch)
    parameters = list(unet.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    call = torch.compile(unet) if args.peer == "torch-compile" else unet

    def run():
        optimizer.zero_grad(set_to_none=True)
        with autocast(args.precision):
            loss = torch.nn.functional.mse_loss(call(x, t, return_dict=False)[0].float(), x)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1e-4)

    return run


def torch_sample(args):
    """One denoising step of diffusers' own pipeline parts per run, as its sampling loop makes them."""
    import torch
    from diffusers import DDPMPipeline

    pipe = DDPMPipeline.from_pretrained(network.folder(args.work), use_safetensors=True)
    if args.peer == "torch-bf16-weights":
        pipe = pipe.to(torch.bfloat16)
    pipe.scheduler.set_timesteps(50)
    x, _ = network.inputs(args.batch)
    state = {"x": x.to(pipe.unet.dtype).contiguous(), "i": 0}

    @torch.no_grad()
    def run():
        t = pipe.scheduler.timesteps[state["i"]]
        with autocast(args.precision if args.peer == "torch-eager" else "f32"):
            out = pipe.unet(state["x"], t).sample
        state["x"] = pipe.scheduler.step(out, t, state["x"]).prev_sample
        state["i"] += 1

    return run


def torch_attention(args):
    import torch

    q, k, v = (torch.randn(1, 8, 4096, 40) for _ in range(3))

    @torch.no_grad()
    def run():
        torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return run


def onnxruntime_forward(args):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(str(network.onnx(args.work, args.batch)), options)
    x, t = network.inputs(args.batch)
    feed = {"sample": x.contiguous().numpy(), "timestep": t.numpy()}
    return lambda: session.run(None, feed)


def openvino_forward(args):
    import openvino as ov

    core = ov.Core()
    model = core.read_model(network.openvino(args.work, args.batch))
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": args.threads,
            "INFERENCE_PRECISION_HINT": args.precision,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    x, t = network.inputs(args.batch)
    feed = [x.contiguous().numpy(), t.numpy()]
    request = compiled.create_infer_request()
    return lambda: request.infer(feed)


def work_of(args):
    if args.peer.startswith("torch"):
        import torch

        torch.set_num_threads(args.threads)
        return {
            "forward": torch_forward,
            "train": torch_train,
            "sample": torch_sample,
            "attention": torch_attention,
        }[args.piece](args)
    return {"onnxruntime": onnxruntime_forward, "openvino": openvino_forward}[args.peer](args)


def peak_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--piece", required=True)
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    # Answers go where stdout was; what libraries print there goes to stderr.
    answers, sys.stdout = sys.stdout, sys.stderr
    run = work_of(args)

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    answer({"ready": True})
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        answer({"ms": times})
    answer({"bytes": peak_memory()})


main()
