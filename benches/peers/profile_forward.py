"""Where the time of a forward pass goes: the share per kind of layer, by sampling call stacks with Linux's
`perf`. One thread, so that a stack tells for which layer a kernel works. The program needs its symbols, as
builds with --release have them.

    python benches/peers/profile_forward.py --tweedie target/release/tweedie [-- flags of `tweedie bench forward`]
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

# A stack belongs to the first of these that is in it: products serve the others too.
KINDS = [
    ("tweedie_kernels::bf16::winograd", "convolutions 3×3, Winograd"),
    ("tweedie_kernels::bf16::attention", "attention"),
    ("tweedie_kernels::bf16::group_norm", "group normalization + SiLU"),
    ("tweedie_kernels::bf16::elementwise", "additions, activations"),
    ("tweedie_kernels::bf16::resample", "resampling"),
    ("tweedie_kernels::bf16::convert", "between f32 and bf16"),
    ("engine::half::linear", "linear layers"),
    ("engine_linear", "linear layers"),
    ("engine::half::conv2d", "convolutions, direct"),
    ("tweedie_kernels::winograd", "convolutions 3×3, Winograd"),
    ("tweedie_kernels::conv", "convolutions, direct"),
    ("tweedie_kernels::attention", "attention"),
    ("tweedie_kernels::group_norm", "group normalization + SiLU"),
    ("tweedie_kernels::layer_norm", "layer normalization"),
    ("tweedie_kernels::gemm::product", "linear layers"),
    ("tweedie_kernels::gemm::blocks", "linear layers"),
    ("tweedie_kernels::elementwise", "additions, activations"),
    ("tweedie_kernels::resample", "resampling"),
    ("tweedie_kernels::layout", "memory layout"),
]
REST = "memory and dispatch"
# What is done once, before the passes that count.
ONCE = ["UNet2DModel::build", "UNet2DModel::new", "transform_kernels"]


def kind(stack):
    """The kind of layer that a stack (innermost first) belongs to, or nothing."""
    if not any(mark in frame for frame in stack for mark in ("tweedie_kernels::", "UNet2DModel::forward")):
        return None
    if any(mark in frame for frame in stack for mark in ONCE):
        return None
    return next((name for mark, name in KINDS if any(mark in frame for frame in stack)), REST)


def stacks(text):
    """The call stacks of `perf script`, innermost function first."""
    for block in text.split("\n\n"):
        frames = [re.sub(r"^\s*[0-9a-f]+ ", "", line) for line in block.splitlines()[1:]]
        if frames:
            yield frames


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tweedie", type=Path, required=True)
    parser.add_argument("--frequency", type=int, default=499, help="samples per second")
    parser.add_argument("flags", nargs="*", help="for `tweedie bench forward`")
    args = parser.parse_args()
    flags = args.flags or ["--batch", "8", "--runs", "15"]
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(args.frequency), "-o", data]
        record += ["--call-graph", "dwarf,16384"]
        run = [args.tweedie.resolve(), "bench", "forward", "--json", "--threads", "1", *flags]
        subprocess.run([*record, "--", *run], check=True, stdout=subprocess.DEVNULL)
        script = ["perf", "script", "-i", data, "--no-inline", "-F", "comm,ip,sym"]
        text = subprocess.run(script, check=True, capture_output=True, text=True).stdout

    kinds, inner = Counter(), Counter()
    for stack in stacks(text):
        found = kind(stack)
        if found is None:
            continue
        kinds[found] += 1
        own = re.sub(r"(::\{\{closure\}\}|::on_avx512bf16|::on_avx512|::on_avx2|::h[0-9a-f]{16})+$", "", stack[0])
        inner[own if len(own) < 80 else own[:77] + "..."] += 1
    total = sum(kinds.values())
    print(f"`tweedie bench forward --threads 1 {' '.join(flags)}`, {total} samples\n")
    print("| kind of layer | share |\n|---|---|")
    for name, count in kinds.most_common():
        print(f"| {name} | {100 * count / total:.1f} % |")
    print("\n| function | share |\n|---|---|")
    for name, count in inner.most_common(10):
        print(f"| `{name}` | {100 * count / total:.1f} % |")


main()
