"""Starts `tweedie serve` in a folder of its own, and speaks to it."""

import http.client
import json
import pathlib
import subprocess
import threading
import time


class Server:
    program = None

    def __init__(self, folder, limits="queue = 1000\njobs = 1000\n", tokens=None, port=0):
        self.folder, self.local, self.tokens = pathlib.Path(folder), threading.local(), tokens
        config = self.folder / "serve.toml"
        config.write_text(f"journal_every = 0.1\n[limits]\nbody = 100000\n{limits}")
        command = [self.program, "--json", "serve", "--model", "emoji-32", "--listen", f"127.0.0.1:{port}", "--data-dir",
                   self.folder / "data", "--config", config]
        if tokens:
            (self.folder / "tokens").write_text("".join(f"{name} {token}\n" for name, token in tokens.items()))
            command += ["--tokens", self.folder / "tokens"]
        self.log = open(self.folder / "log", "a")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        told = json.loads(self.process.stdout.readline())
        self.port, self.resumed = int(told["listening"].rsplit(":", 1)[1]), told["resumed"]

    def connection(self):
        """The connection of this thread."""
        if not hasattr(self.local, "open"):
            self.local.open = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return self.local.open

    def call(self, method, path, body=None, headers={}, client="good"):
        """The status and the body of the answer."""
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json"} | headers
        if self.tokens:
            headers = {"Authorization": f"Bearer {self.tokens[client]}"} | headers
        connection = self.connection()
        for last in (False, True):
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                return response.status, response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # An idle connection may have been closed in the meantime.
                connection.close()
                if last:
                    raise
            except BaseException:
                connection.close()
                raise

    def order(self, request, client="good", patient=False):
        """Orders a job and returns its name; a patient client waits while there is too much to do."""
        while True:
            status, body = self.call("POST", "/v1/jobs", request, client=client)
            if status != 429 or not patient:
                break
            time.sleep(0.2)
        assert status == 202, (status, body)
        return json.loads(body)["id"]

    def hashes(self, id, client="good"):
        """The results of a job, once it has finished."""
        while True:
            job = json.loads(self.call("GET", f"/v1/jobs/{id}", client=client)[1])
            if job["state"] == "finished":
                return [image["sha256"] for image in job["images"]]
            assert job["state"] in ("queued", "running"), job
            time.sleep(0.02)

    def events(self, id):
        """Times and names of the events of a job, as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", f"/v1/jobs/{id}/events?previews=false")
        response = connection.getresponse()
        try:
            while line := response.readline():
                if line.startswith(b"event: "):
                    yield time.monotonic(), line[7:].strip().decode()
        finally:
            connection.close()

    def figure(self, name, client="good"):
        text = self.call("GET", "/metrics", client=client)[1].decode()
        return next(float(line.split()[-1]) for line in text.splitlines() if line.split(" ")[0] == f"tweedie_{name}")

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        assert self.process.wait() == 0, self.process.returncode

    def check_log(self):
        log = (self.folder / "log").read_text()
        assert "panicked" not in log and "unexpectedly" not in log, log[max(0, log.find("panicked") - 500):][:2000]

    def lines(self):
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines() if line.startswith("{")]
