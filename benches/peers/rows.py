"""What is compared: the rows of the table, each with its contenders and its bounds."""

from contenders import FirstStep, Peer, Tweedie

# Ratio to the best peer: at most, and aimed at. The row of threads is a speed-up: at least.
ROWS = {
    "forward f32 batch 8": (0.50, 0.42),
    "forward f32 batch 1": (0.70, 0.55),
    "forward bf16 batch 8": (0.75, 0.62),
    "forward bf16 batch 1": (0.85, 0.70),
    "training step f32 batch 8": (0.50, 0.38),
    "training step bf16 batch 8": (0.80, 0.60),
    "peak memory sampling f32 batch 8": (0.75, 0.50),
    "peak memory sampling bf16 batch 8": (0.40, 0.30),
    "peak memory training f32 batch 8": (0.70, 0.50),
    "start-up to first step": (0.06, 0.03),
    "attention 4096 tokens, 8 heads of 40": (1.0, None),
    "2 threads against 1, forward f32 batch 8": (1.8, 1.95),
}
# Rows whose bounds are meant against this peer; the others are held against the best.
AGAINST = {row: "openvino" for row in ROWS if row.startswith("forward")}


def contenders(row, *, program, folder, work, threads, skip):
    """Functions that start the contenders of a row, tweedie first."""
    words = row.split()
    precision = "bf16" if "bf16" in words else "f32"
    batch = words[-1]
    common = {"work": work, "threads": threads}
    model = ["--model", str(folder), "--batch", batch]

    def tweedie(piece, flags, **more):
        return lambda: Tweedie(program, piece, flags=flags, **{**common, "precision": precision, **more})

    def peers(piece, names):
        more = {"precision": precision, **common}
        if piece != "attention":
            more["batch"] = batch
        return [lambda n=n: Peer(n, piece, **more) for n in names if n not in skip]

    if row.startswith("forward"):
        names = ["torch-eager", "torch-compile"]
        names += ["onnxruntime", "openvino"] if precision == "f32" else ["openvino"]
        return [tweedie("forward", model), *peers("forward", names)]
    if row.startswith("training"):
        return [tweedie("train", model), *peers("train", ["torch-eager", "torch-compile"])]
    if row.startswith("peak memory sampling"):
        names = ["torch-eager"] if precision == "f32" else ["torch-eager", "torch-bf16-weights"]
        return [tweedie("sample", [*model, "--steps", "2"]), *peers("sample", names)]
    if row.startswith("peak memory training"):
        return [tweedie("train", model), *peers("train", ["torch-eager"])]
    if row.startswith("start-up"):
        start = tweedie("startup", ["--model", str(folder)])
        return [start] if "diffusers" in skip else [start, lambda: FirstStep(folder, **common)]
    if row.startswith("attention"):
        kernel = ["--only", "attention 1x8 heads x4096x40"]
        return [tweedie("kernels", kernel), *peers("attention", ["torch-eager"])]
    if row.startswith("2 threads"):
        two, one = [
            tweedie("forward", model, threads=n, name=f"{n} thread{'s' * (n > 1)}") for n in (2, 1)
        ]
        return [two, one]
    raise ValueError(row)
