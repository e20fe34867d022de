"""Two replicas behind nginx, with the configuration of packaging/compose: a client stays with its replica, results are found
wherever they are, and a replica that is killed and started again finishes its jobs. Needs `nginx`.

    python replicas.py ../../target/release/tweedie
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from server import Server

CONFIG = pathlib.Path(__file__).parent / "../../packaging/compose/nginx.conf"
CLIENTS = {f"client{i}": f"token-{i}-0123456789abcdef" for i in range(8)}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Proxy:
    def __init__(self, folder, replicas):
        self.port = free_port()
        site = CONFIG.read_text().replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        for name, replica in zip(("one", "two"), replicas):
            site = site.replace(f"{name}:7860", f"127.0.0.1:{replica.port}")
        (folder / "site.conf").write_text(site)
        places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\n"
            f"http {{ access_log off; {places} include {folder}/site.conf; }}\n")
        self.process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)

    def call(self, path, client=None, body=None):
        """The status, the body, and the answer itself."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {CLIENTS[client]}"} if client else {})
        data = json.dumps(body).encode() if body else None
        try:
            with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers), timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def results(self, id, client):
        while True:
            status, body = self.call(f"/v1/jobs/{id}", client)
            job = json.loads(body) if status == 200 else {}
            if job.get("state") == "finished":
                return [self.call(image["url"]) for image in job["images"]]
            assert job.get("state") not in ("failed", "cancelled"), body
            time.sleep(0.05)


def main():
    Server.program = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folders = [pathlib.Path(folder) / name for name in ("one", "two", "nginx")]
        for one in folders:
            one.mkdir()
        start = lambda number, port=0: Server(folders[number], tokens=CLIENTS, port=port)
        replicas = [start(0), start(1)]
        proxy = Proxy(folders[2], replicas)
        try:
            for _ in range(100):
                try:
                    assert proxy.call("/readyz")[0] == 200
                    break
                except (urllib.error.URLError, AssertionError):
                    time.sleep(0.05)
            orders = {}
            for client in CLIENTS:
                for seed in range(3):
                    status, body = proxy.call("/v1/jobs", client, dict(seed=seed, steps=4))
                    assert status == 202, body
                    orders[json.loads(body)["id"]] = client
            for id, client in orders.items():
                [(status, png)] = proxy.results(id, client)
                assert status == 200 and png.startswith(b"\x89PNG")
            for client in CLIENTS:
                jobs = json.loads(proxy.call("/v1/gallery", client)[1])["jobs"]
                assert len(jobs) == 3, (client, len(jobs))
            shares = [int(one.figure("jobs_accepted_total", client="client0")) for one in replicas]
            assert sum(shares) == len(orders) and min(shares) > 0, shares

            # Events come as they happen.
            body = json.loads(proxy.call("/v1/jobs", "client0", dict(steps=200, solver="ddpm"))[1])
            request = urllib.request.Request(f"http://127.0.0.1:{proxy.port}{body['links']['events']}",
                                             headers={"Authorization": f"Bearer {CLIENTS['client0']}"})
            with urllib.request.urlopen(request, timeout=60) as events:
                begun = time.monotonic()
                while not events.readline().startswith(b"event: step"):
                    pass
                first = time.monotonic() - begun
                while not events.readline().startswith(b"event: finished"):
                    pass
                last = time.monotonic() - begun
            assert first < last / 2, (first, last)

            # A replica dies with jobs of its clients: they are finished once it is there again.
            long = {client: json.loads(proxy.call("/v1/jobs", client, dict(steps=150, solver="ddpm", seed=1))[1])["id"] for client in CLIENTS}
            port = replicas[0].port
            replicas[0].kill()
            meanwhile = [proxy.call("/v1/jobs", client, dict(seed=9, steps=2))[0] for client in CLIENTS]
            replicas[0] = start(0, port)
            files = {proxy.results(id, client)[0][1] for client, id in long.items()}
            assert len(files) == 1, "the same request has different results"
            print(f"{len(CLIENTS)} clients, {shares[0]} and {shares[1]} jobs; a replica was killed with {replicas[0].resumed} jobs: "
                  f"all finished, and new ones meanwhile had status {sorted(set(meanwhile))}")
            assert set(meanwhile) == {202}, meanwhile
        finally:
            proxy.process.terminate()
            proxy.process.wait()
            for one in replicas:
                one.stop()
    print("ok")


main()
