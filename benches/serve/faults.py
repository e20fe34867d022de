"""What goes wrong in a server's life: `kill -9` under load, bad requests, clients that vanish or are slow, cancellations, a full
disk, and many jobs.

    python faults.py ../../target/release/tweedie                      # all of it
    python faults.py ../../target/release/tweedie cancels disk --cancels 50
"""

import argparse
import json
import os
import pathlib
import random
import socket
import subprocess
import tempfile
import threading
import time

from fuzz import attack
from server import Server

LONG = dict(steps=250, solver="ddpm", guidance=1)
SHORT = dict(seed=1, steps=3)
TOKENS = dict(good="good-0123456789abcdef", bad="bad-0123456789abcdef")


def expected(requests):
    """The results of these requests on a server that nothing disturbs."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        found = [server.hashes(id) for id in [server.order(request) for request in requests]]
        server.stop()
        return found


def quantiles(values):
    values = sorted(values)
    at = lambda q: 1000 * values[min(len(values) - 1, int(q * len(values)))]
    return f"{at(0.5):.1f} / {at(0.99):.1f} / {at(1):.1f}"


def kills(draw, count):
    requests = [dict(seed=i, steps=draw.randint(5, 60), count=draw.randint(1, 3), solver=draw.choice(["ddpm", "dpmpp-2m", "unipc"]),
                     guidance=draw.choice([1, 2])) for i in range(12)]
    right, accepted, resumed = expected(requests), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            server = Server(folder)
            resumed += server.resumed
            end = time.monotonic() + draw.uniform(0.05, 0.8)
            while time.monotonic() < end:
                number = draw.randrange(len(requests))
                accepted.append((server.order(requests[number]), number))
                time.sleep(draw.uniform(0, 0.4))
            server.kill()
        server = Server(folder)
        wrong = sum(server.hashes(id) != right[number] for id, number in accepted)
        server.stop()
        server.check_log()
    print(f"{count} kills: {len(accepted)} jobs accepted, {resumed} times a job was taken up, {wrong} lost or different")
    assert wrong == 0


def bad_requests(draw, count):
    """Mutated and random requests by eight clients, while another one orders and checks its results."""
    right = expected([SHORT])[0]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, limits="queue = 300\njobs = 40\ncount = 2\nsteps = 4\npixels = 4096\n", tokens=TOKENS)
        over, good, wrong = threading.Event(), [], []

        def orders():
            while not over.is_set():
                begun = time.monotonic()
                if server.hashes(server.order(SHORT, client="good"), client="good") != right:
                    wrong.append(begun)
                good.append(time.monotonic() - begun)
                time.sleep(0.2)

        server.hashes(server.order(SHORT))
        thread = threading.Thread(target=orders, daemon=True)
        thread.start()
        before, begun = server.resident(), time.monotonic()
        codes = attack(server, draw, count)
        seconds, after = time.monotonic() - begun, server.resident()
        over.set()
        thread.join()
        server.stop()
        server.check_log()
    print(f"{count} bad requests in {seconds:.0f} s: {dict(sorted(codes.items(), key=str))}; memory {before:.0f} → {after:.0f} MB; "
          f"{len(good)} good ones beside them, {len(wrong)} different, ms (p50 / p99 / most): {quantiles(good)}")
    assert not wrong and not any(str(code).startswith("5") and code != 503 for code in codes), codes


def cancels(draw, count):
    """Jobs join two others and are cancelled. How long are their rows in the way, and how long is a step?"""
    neighbours = [dict(LONG, seed=seed, count=2) for seed in (5, 6)]
    right, steps = expected(neighbours), []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        freed, rounds, wrong, ids = 0, 0, 0, []

        def watch(id):
            """The times between the steps of a neighbour, which takes part in every call."""
            times = [at for at, name in server.events(id) if name == "step"]
            steps.extend(b - a for a, b in zip(times, times[1:]))

        while freed < count:
            if not ids:
                ids = [server.order(request) for request in neighbours]
                watcher = threading.Thread(target=watch, args=(ids[0],))
                watcher.start()
            victim = server.order(dict(LONG, seed=draw.randrange(1000), count=draw.randint(1, 8)))
            events = server.events(victim)
            for _ in range(draw.randint(1, 6)):
                next(name for _, name in events if name == "step")
            server.call("DELETE", f"/v1/jobs/{victim}")
            freed += 1
            if freed % 20 == 0 or freed == count:
                wrong += sum(server.hashes(id) != one for id, one in zip(ids, right))
                watcher.join()
                rounds, ids = rounds + 1, []
        server.stop()
        server.check_log()
        took = [line["seconds"] for line in server.lines() if line["message"].startswith("freed the rows")]
    print(f"{count} cancellations: freed within ms (p50 / p99 / most) {quantiles(took)}; a step took {quantiles(steps)}; "
          f"{wrong} of {2 * rounds} neighbours different")
    assert wrong == 0 and len(took) == count, (wrong, len(took))


def full_disk(draw):
    """The data folder is on a disk that becomes full, and then empty again."""
    requests = [dict(LONG, seed=seed, steps=120, count=2) for seed in range(4)]
    right = expected(requests)
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        data.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", data], capture_output=True).returncode:
            return print("a full disk: skipped, because only root may mount one")
        try:
            server = Server(folder)
            ids = [server.order(request) for request in requests]
            with open(data / "ballast", "wb", buffering=0) as ballast:
                try:
                    while True:
                        ballast.write(bytes(4096))
                except OSError:
                    pass
            answers, until = {}, time.monotonic() + 4
            while time.monotonic() < until:
                status, body = server.call("POST", "/v1/jobs", SHORT)
                code = json.loads(body).get("error", {}).get("code", "accepted")
                answers[status, code] = answers.get((status, code), 0) + 1
                if status == 202:
                    ids.append(json.loads(body)["id"])
                time.sleep(0.1)
            upload = server.call("POST", "/v1/uploads", os.urandom(50_000))
            states = [json.loads(server.call("GET", f"/v1/jobs/{id}")[1])["state"] for id in ids[:4]]
            (data / "ballast").unlink()
            wrong = sum(server.hashes(id) != one for id, one in zip(ids, right))
            late = [server.hashes(id) for id in ids[4:]]
            accepts = server.order(SHORT)
            same = all(one == server.hashes(accepts) for one in late)
            server.stop()
            server.check_log()
        finally:
            subprocess.run(["umount", "-l", data])
    print(f"a full disk: new jobs {answers}, an upload {upload[0]} {json.loads(upload[1])['error']['code']}; accepted jobs were {states}; "
          f"with room again {wrong} of {len(right)} lost or different, and jobs are accepted")
    assert wrong == 0 and same and any(status == 503 for status, _ in answers), answers


def slow_clients(draw, count):
    """Readers that do not read, half-sent requests, and clients that leave."""
    right = expected([SHORT])[0]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        server.hashes(server.order(SHORT))
        before, sockets = server.resident(), []
        long = server.order(dict(LONG, count=8, size=[64, 64]))
        for i in range(count):
            one = socket.create_connection(("127.0.0.1", server.port))
            kind = i % 4
            if kind == 0:
                one.sendall(f"GET /v1/jobs/{long}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            elif kind == 1:
                one.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"ste")
            elif kind == 2:
                one.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.")
            else:
                body = json.dumps(dict(prompt="", steps=250, n=2)).encode()
                one.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                            b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                one.close()
            sockets.append(one)
        took = []
        for _ in range(40):
            begun = time.monotonic()
            assert server.hashes(server.order(SHORT)) == right
            took.append(time.monotonic() - begun)
        after = server.resident()
        for one in sockets:
            one.close()
        server.call("DELETE", f"/v1/jobs/{long}")
        while (left := server.figure("jobs_waiting") + server.figure("jobs_running")) and time.monotonic() < begun + 60:
            time.sleep(0.1)
        server.stop()
        server.check_log()
    print(f"{count} connections that do not read, send half a request, or leave: memory {before:.0f} → {after:.0f} MB; "
          f"40 good jobs beside them, ms (p50 / p99 / most) {quantiles(took)}; {left:.0f} jobs of those that left go on")
    assert left == 0


def many_jobs(draw, count):
    """Jobs in waves of 100, so that as many wait at the end as in the beginning."""
    with tempfile.TemporaryDirectory() as folder:
        server, sizes, wave = Server(folder), [], 100
        right = expected([SHORT])[0]
        for done in range(wave, count + 1, wave):
            ids = [server.order(dict(seed=done + i, steps=2)) for i in range(wave - 1)] + [server.order(SHORT)]
            assert server.hashes(ids[-1]) == right
            while server.figure("jobs_waiting") + server.figure("jobs_running"):
                time.sleep(0.02)
            if done * 10 % count == 0:
                sizes.append(round(server.resident()))
                print(f"  {done} jobs: {sizes[-1]} MB", flush=True)
        server.stop()
        server.check_log()
    print(f"memory over {count} jobs, MB: {sizes}")
    # Calls of other sizes need buffers of their own in the beginning.
    assert sizes[-1] <= sizes[2] + 8, sizes


def main():
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("program", type=pathlib.Path)
    read.add_argument("parts", nargs="*", help="kills, bad, cancels, disk, slow, many; by default all")
    read.add_argument("--kills", type=int, default=100)
    read.add_argument("--bad", type=int, default=100_000, help="number of bad requests")
    read.add_argument("--cancels", type=int, default=300)
    read.add_argument("--slow", type=int, default=200, help="number of connections")
    read.add_argument("--jobs", type=int, default=10_000)
    args = read.parse_args()
    Server.program = args.program.resolve()
    draw = random.Random(1)
    parts = dict(kills=lambda: kills(draw, args.kills), bad=lambda: bad_requests(draw, args.bad), cancels=lambda: cancels(draw, args.cancels),
                 disk=lambda: full_disk(draw), slow=lambda: slow_clients(draw, args.slow), many=lambda: many_jobs(draw, args.jobs))
    for name in args.parts or parts:
        parts[name]()
    print("ok")


if __name__ == "__main__":
    main()
