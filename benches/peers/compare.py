"""Compares `tweedie` with PyTorch, onnxruntime and OpenVINO on this machine: the same network, the same
random weights, in turns. Prints a table and writes results as JSON, adding to what is there already.

    python benches/peers/compare.py --tweedie target/release/tweedie
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import network
import report
from contenders import Failed
from rows import ROWS, contenders

PACKAGES = ["torch", "diffusers", "onnxruntime", "openvino", "numpy"]


@contextlib.contextmanager
def meanwhile(command):
    """Keeps `command` running: it begins with a line of output and ends when its stdin is closed."""
    if command is None:
        yield
        return
    process = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()


def measure(row, args, folder):
    """What every contender of a row took: milliseconds of all runs, or bytes."""
    is_memory = row.startswith("peak memory")
    started, results = [], {}
    try:
        for start in contenders(
            row,
            program=args.tweedie,
            folder=folder,
            work=args.work,
            threads=args.threads,
            skip=args.skip,
        ):
            try:
                contender = start()
                if not is_memory:
                    contender.warm_up()
                started.append(contender)
            except Failed as e:
                if "'--precision'" not in str(e):
                    print(e, file=sys.stderr)
        for turn in range(min(1, args.rounds) if is_memory else args.rounds):
            print(f"{row}: round {turn + 1}", file=sys.stderr)
            for contender in started:
                if is_memory:
                    results[contender.name] = {"bytes": contender.peak()}
                    continue
                with meanwhile(args.meanwhile):
                    times = contender.turn(args.runs)
                results.setdefault(contender.name, {"ms": []})["ms"] += times
    finally:
        for contender in started:
            contender.close()
    for found in results.values():
        if "ms" in found:
            found["median_ms"] = statistics.median(found["ms"])
            found["min_ms"] = min(found["ms"])
    return results


def machine(args):
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        fields = {k.strip(): v.strip() for k, v in fields.items()}
        family = f"family {fields['cpu family']}, model {fields['model']}"
        cpu = f"{fields['model name']} ({family}, {os.cpu_count()} cores)"
    return {
        "cpu": cpu,
        "threads": args.threads,
        "tweedie": subprocess.check_output([args.tweedie, "--version"], text=True).split()[-1],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tweedie", type=Path, required=True, help="the program, built with --release")
    parser.add_argument("--work", type=Path, default=Path("target/peers"), help="folder for models and caches")
    parser.add_argument("--only", action="append", default=[], help="only rows that contain this; repeatable")
    parser.add_argument("--skip", action="append", default=[], help="leave this peer out; repeatable")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--runs", type=int, default=3, help="runs in a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--meanwhile",
        metavar="COMMAND",
        help="a shell command to keep running during every turn, for instance one that pauses other work:\n"
        "it prints a line when ready and ends when its stdin is closed",
    )
    parser.add_argument("--output", type=Path, help="results as JSON [default: WORK/results.json]")
    parser.add_argument("--prepare", action="store_true", help="only make models and fill caches")
    parser.add_argument("--report", action="store_true", help="only print the table of earlier results")
    args = parser.parse_args()
    args.tweedie, args.work = args.tweedie.resolve(), args.work.resolve()
    output = args.output or args.work / "results.json"

    results = json.loads(output.read_text()) if output.exists() else {"rows": {}}
    if not args.report:
        args.work.mkdir(parents=True, exist_ok=True)
        folder = network.folder(args.work)
        rows = [row for row in ROWS if not args.only or any(text in row for text in args.only)]
        if args.prepare:
            args.rounds, args.runs = 0, 0
        results["machine"] = machine(args)
        for row in rows:
            found = measure(row, args, folder)
            if not args.prepare:
                results["rows"][row] = {"time": time.strftime("%Y-%m-%d %H:%M"), "contenders": found}
                output.write_text(json.dumps(results, indent=1) + "\n")
    if not args.prepare:
        print(report.markdown(results))


main()
