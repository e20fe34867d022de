"""Poisson arrivals of unlike requests against three servers. Prints a table in Markdown.

    python load.py ../../target/release/tweedie [--seconds 15] [--images 4] [--servers tweedie off diffusers]

With the defaults it takes about 6 minutes.
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
SERVERS = {"tweedie": "tweedie", "off": "tweedie, batching off", "diffusers": "diffusers"}
read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
read.add_argument("program", type=pathlib.Path)
read.add_argument("--seconds", type=float, default=15.0, help="of arrivals, for each load")
read.add_argument("--images", type=int, default=4, help="a request has 1 to this many; clients ask for 1 by default")
read.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.9, 2.0], help="shares of the capacity")
read.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
args = read.parse_args()
PROGRAM = args.program.resolve()
MODEL = HERE / "../../models/emoji-32"
# A request that has not ended this long after the last arrival is counted as that late.
DRAIN = 45.0
# Jobs that may wait; more are rejected with 429.
QUEUE = 48


def requests(seed, rate, seconds):
    """Arrival times and requests."""
    draw, at, all = random.Random(seed), 0.0, []
    while (at := at + draw.expovariate(rate)) < seconds:
        request = dict(count=draw.randint(1, args.images), steps=draw.randint(10, 30), classes=[draw.randint(0, 9)],
                       seed=draw.randrange(1 << 32), solver="ddim", guidance=1)
        all.append((at, request))
    return all


async def call(port, method, path, body=None):
    """Returns the status, and a reader at the start of the body with its length, or `None` if it is chunked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b"" if body is None else json.dumps(body).encode()
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = [int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")]
    return int(head.split(" ")[1]), reader, writer, length[0] if length else None


async def tweedie(port, request, record):
    status, reader, writer, length = await call(port, "POST", "/v1/jobs", request)
    body = await reader.readexactly(length)
    writer.close()
    if status != 202:
        record["rejected"] = status
        return
    status, reader, writer, _ = await call(port, "GET", f"/v1/jobs/{json.loads(body)['id']}/events")
    while line := await reader.readline():
        if line.startswith(b"event: "):
            name = line[7:].strip().decode()
            record.setdefault(name, time.monotonic())
            if name in ("finished", "failed"):
                break
    writer.close()


async def diffusers(port, request, record):
    status, reader, writer, length = await call(port, "POST", "/make", request)
    await reader.readexactly(length)
    writer.close()
    record["finished" if status == 200 else "rejected"] = time.monotonic()


async def drive(port, send, arrivals):
    """Sends every request at its time, whatever has become of the others."""
    begun, records, tasks = time.monotonic(), [], []
    for at, request in arrivals:
        await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
        record = dict(request=request, sent=time.monotonic())
        records.append(record)
        tasks.append(asyncio.create_task(send(port, request, record)))
    _, late = await asyncio.wait(tasks, timeout=DRAIN)
    for task in late:
        task.cancel()
    return records


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def figures(records):
    begun, end = records[0]["sent"], max(r.get("finished", r["sent"]) for r in records)
    accepted = [r for r in records if "rejected" not in r]
    took = lambda name: [r[name] - r["sent"] for r in accepted if name in r]
    late = len([r for r in accepted if "finished" not in r])
    finish = took("finished") + [float("inf")] * late
    images = sum(r["request"]["count"] for r in accepted if "finished" in r)
    return dict(rejected=len(records) - len(accepted), step=took("step"), preview=took("preview"), finish=finish,
                images=images, rate=images / (end - begun))


class Server:
    def __init__(self, name):
        self.name, self.folder = name, tempfile.TemporaryDirectory()
        if name == "diffusers":
            self.port, self.send = 7999, diffusers
            command = [sys.executable, HERE / "diffusers_server.py", MODEL, str(self.port)]
            self.process = subprocess.Popen(command)
        else:
            config = pathlib.Path(self.folder.name) / "serve.toml"
            config.write_text(f"[limits]\nqueue = {QUEUE}\njobs = {QUEUE}\n")
            command = [PROGRAM, "--json", "serve", "--model", MODEL, "--listen", "127.0.0.1:0", "--data-dir",
                       self.folder.name, "--config", config] + (["--no-batching"] if "off" in name else [])
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            address = json.loads(self.process.stdout.readline())["listening"]
            self.port, self.send = int(address.rsplit(":", 1)[1]), tweedie

    async def ready(self):
        while True:
            try:
                if (await call(self.port, "GET", "/healthz"))[0] == 200:
                    break
            except OSError:
                await asyncio.sleep(0.2)
        # The first requests load the model.
        await drive(self.port, self.send, [(0, r) for _, r in requests(1, 8, 1)])

    def cpu(self):
        """CPU seconds of the server so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        self.process.wait()


async def run(name, arrivals):
    server = Server(name)
    try:
        await server.ready()
        before = server.cpu()
        found = figures(await drive(server.port, server.send, arrivals))
        return found | dict(cpu=(server.cpu() - before) / max(1, found["images"]))
    finally:
        server.stop()


def main():
    burst = [(0, request) for _, request in requests(2, QUEUE - 4, 1)]
    capacity = asyncio.run(run("tweedie", burst))["rate"]
    print(f"capacity: {capacity:.1f} images/s, with 1 to {args.images} images in a request\n")
    print("| load | server | to first step, p50 | to first preview, p50 | to the end, p50 | p99 | images/s | CPU per image | rejected |")
    print("|---|---|---|---|---|---|---|---|---|")
    cell = lambda seconds: "–" if seconds != seconds else f"> {DRAIN:.0f} s" if seconds == float("inf") else f"{seconds:.2f} s"
    rates = {}
    for load in args.loads:
        arrivals = requests(3, load * capacity / ((1 + args.images) / 2), args.seconds)
        for name in map(SERVERS.get, args.servers):
            f = asyncio.run(run(name, arrivals))
            rates[load, name] = f["rate"]
            cells = [quantile(f["step"], 0.5), quantile(f["preview"], 0.5), quantile(f["finish"], 0.5), quantile(f["finish"], 0.99)]
            print(f"| {load} | {name} | {' | '.join(map(cell, cells))} | {f['rate']:.1f} | {f['cpu'] * 1000:.0f} ms | {f['rejected']} of {len(arrivals)} |", flush=True)
    print()
    for load in args.loads:
        own = rates.get((load, "tweedie"), float("nan"))
        shares = [f"{own / rate:.2f} × {name}" for (at, name), rate in rates.items() if at == load and name != "tweedie"]
        print(f"images/s at {load}: {', '.join(shares)}")


main()
