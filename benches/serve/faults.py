"""Faults: `kill -9` under load, bad requests, clients that vanish, memory over many jobs.

    python faults.py ../../target/release/tweedie [KILLS] [BAD REQUESTS] [JOBS]
"""

import concurrent.futures
import http.client
import json
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
KILLS, BAD, JOBS = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in [(2, 100), (3, 10_000), (4, 2_000)])


class Server:
    def __init__(self, folder):
        config = pathlib.Path(folder) / "serve.toml"
        config.write_text("journal_every = 0.1\n[limits]\nqueue = 1000\njobs = 1000\nbody = 100000\n")
        command = [PROGRAM, "--json", "serve", "--model", "emoji-32", "--listen", "127.0.0.1:0", "--data-dir",
                   pathlib.Path(folder) / "data", "--config", config]
        self.log = open(pathlib.Path(folder) / "log", "a")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        told = json.loads(self.process.stdout.readline())
        self.port, self.resumed = int(told["listening"].rsplit(":", 1)[1]), told["resumed"]

    def call(self, method, path, body=None, headers={}):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json"} | headers
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()

    def order(self, request):
        status, body = self.call("POST", "/v1/jobs", request)
        assert status == 202, (status, body)
        return json.loads(body)["id"]

    def hashes(self, id):
        while True:
            job = json.loads(self.call("GET", f"/v1/jobs/{id}")[1])
            if job["state"] == "finished":
                return [image["sha256"] for image in job["images"]]
            assert job["state"] in ("queued", "running"), job
            time.sleep(0.05)

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        assert self.process.wait() == 0, self.process.returncode


def kills(draw):
    requests = [dict(seed=i, steps=draw.randint(5, 60), count=draw.randint(1, 3), solver=draw.choice(["ddpm", "dpmpp-2m", "unipc"]),
                     guidance=draw.choice([1, 2])) for i in range(12)]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        expected = [server.hashes(id) for id in [server.order(request) for request in requests]]
        server.stop()
    accepted, resumed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(KILLS):
            server = Server(folder)
            resumed += server.resumed
            end = time.monotonic() + draw.uniform(0.05, 0.8)
            while time.monotonic() < end:
                number = draw.randrange(len(requests))
                accepted.append((server.order(requests[number]), number))
                time.sleep(draw.uniform(0, 0.4))
            server.kill()
        server = Server(folder)
        wrong = sum(server.hashes(id) != expected[number] for id, number in accepted)
        server.stop()
        log = (pathlib.Path(folder) / "log").read_text()
    assert "panicked" not in log, log
    print(f"{KILLS} kills: {len(accepted)} jobs accepted, {resumed} times a job was taken up, {wrong} lost or different")
    assert wrong == 0


def mutated(draw, text):
    letters = list(text)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(letters) + 1)
        letters[place:place + draw.randint(0, 2)] = draw.choice(['"', "{", "]", "-1", "1e999", "null", "\\u0000", "é", "9" * 30, "[[", ":", "", "../"])
    return "".join(letters).encode()


SEEDS = [
    ("POST", "/v1/jobs", '{"seed": 1, "steps": 2, "count": 1, "classes": ["cat-face", 3], "size": [32, 32], "guidance": 1.5}'),
    ("POST", "/v1/jobs", '{"image": {"sha256": "00"}, "strength": 0.5, "spacing": {"karras": {"rho": 7}}, "model": "emoji-32"}'),
    ("POST", "/v1/images/generations", '{"prompt": "cat-face", "n": 1, "size": "32x32", "steps": 2, "output_format": "webp"}'),
    ("POST", "/sdapi/v1/txt2img", '{"prompt": "", "steps": 1, "width": 32, "height": 32, "sampler_name": "Euler a", "seed": -1}'),
    ("POST", "/sdapi/v1/img2img", '{"init_images": ["iVBORw0KGgo="], "steps": 1, "width": 32, "height": 32}'),
    ("POST", "/sdapi/v1/png-info", '{"image": "iVBORw0KGgoAAAANSUhEUg=="}'),
    ("POST", "/sdapi/v1/extra-single-image", '{"image": "iVBORw0KGgo=", "upscaler_1": "Lanczos"}'),
    ("GET", "/v1/gallery?limit=5&before=a", ""),
    ("GET", "/v1/files/00.png", ""),
    ("GET", "/v1/jobs/a/events?previews=true", ""),
]


def bad_requests(draw):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        good = server.hashes(server.order(dict(seed=1, steps=3)))
        before, codes = server.resident(), {}

        def one(seed):
            own = random.Random(seed)
            method, path, body = own.choice(SEEDS)
            data = mutated(own, body) if body else b""
            if not body:
                path = mutated(own, path).decode(errors="replace").encode("ascii", "replace").decode().replace(" ", "%20")
                path = "/" + path.lstrip("/")
            try:
                if own.random() < 0.02:
                    # Half a body, and away.
                    with socket.create_connection(("127.0.0.1", server.port)) as half:
                        half.sendall(f"{method} /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{{".encode())
                    return "half"
                return server.call(method, path, data, {"Content-Type": own.choice(["application/json"] * 9 + ["text/plain", "multipart/form-data; boundary=x"])})[0]
            except (http.client.HTTPException, ValueError):
                return "not sent"
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for code in pool.map(one, range(BAD)):
                codes[code] = codes.get(code, 0) + 1
        assert 500 not in codes, codes
        assert server.hashes(server.order(dict(seed=1, steps=3))) == good
        print(f"{BAD} bad requests: {dict(sorted(codes.items(), key=str))}; memory {before:.0f} → {server.resident():.0f} MB")
        server.stop()
        log = (pathlib.Path(folder) / "log").read_text()
        assert "panicked" not in log, log[log.index("panicked") - 200:][:1000]


def many_jobs():
    with tempfile.TemporaryDirectory() as folder:
        server, sizes = Server(folder), []
        for part in range(10):
            ids = [server.order(dict(seed=i, steps=1)) for i in range(JOBS // 10)]
            [server.hashes(id) for id in ids[-5:]]
            sizes.append(round(server.resident()))
        print(f"memory over {JOBS} jobs, MB: {sizes}")
        server.stop()


draw = random.Random(1)
kills(draw)
bad_requests(draw)
many_jobs()
print("ok")
