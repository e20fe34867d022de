"""Who takes part: peers that stay loaded between their turns, and `tweedie bench`, a process per turn."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


class Failed(Exception):
    """What a contender said when it could not do its work."""


class Peer:
    """`worker.py` in a process that is stopped while others have their turn."""

    def __init__(self, peer, piece, *, work, threads, precision="f32", batch=8):
        self.name = peer if precision == "f32" else f"{peer} {precision}"
        args = ["--work", work, "--peer", peer, "--piece", piece, "--precision", precision]
        args += ["--batch", batch, "--threads", threads]
        env = environment(work, threads)
        self.process = subprocess.Popen(
            [sys.executable, HERE / "worker.py", *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("PEERS_VERBOSE") else None,
            text=True,
            env=env,
        )
        self._answer()

    def warm_up(self):
        """Compiles, allocates, fills caches."""
        self.turn(3)

    def turn(self, runs):
        """Milliseconds of `runs` runs; one more goes before them."""
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{runs + 1}\n")
        self.process.stdin.flush()
        times = self._answer()["ms"][1:]
        self.process.send_signal(signal.SIGSTOP)
        return times

    def peak(self):
        """Bytes, after some runs and the end."""
        self.turn(3)
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        return self._answer()["bytes"]

    def close(self):
        self.process.kill()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name}: ended (PEERS_VERBOSE=1 shows why)")
        return json.loads(line)


class Tweedie:
    """One measurement of `tweedie bench`."""

    def __init__(self, program, piece, *, work, threads, flags, precision="f32", name="tweedie"):
        self.name = name if precision == "f32" else f"{name} {precision}"
        self.command = [program, "bench", piece, "--json", "--threads", str(threads), *flags]
        if precision != "f32":
            self.command += ["--precision", precision]
        self.env = environment(work, threads)

    def warm_up(self):
        """A process that begins anew has nothing to keep warm but the file cache."""
        self.turn(1)

    def turn(self, runs):
        return [ms for row in self.rows(runs) if "ms" in row for ms in row["ms"]]

    def peak(self):
        return next(row["bytes"] for row in self.rows(2) if row["bench"] == "process")

    def rows(self, runs):
        """The lines of one process."""
        command = [*self.command, "--runs", str(runs), "--warm-up", "2"]
        ran = subprocess.run([*map(str, command)], capture_output=True, text=True, env=self.env, check=False)
        if ran.returncode != 0:
            raise Failed(f"{self.name}: {(ran.stderr or ran.stdout).strip()}")
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def close(self):
        pass


class FirstStep:
    """`first_step.py`, a process per run."""

    name = "diffusers"

    def __init__(self, folder, *, work, threads):
        self.command = [sys.executable, HERE / "first_step.py", folder, str(threads)]
        self.env = environment(work, threads)

    def warm_up(self):
        self.turn(1)

    def turn(self, runs):
        return [self._once() for _ in range(runs)]

    def _once(self):
        start = time.perf_counter()
        process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.env
        )
        done = process.stdout.readline()
        elapsed = 1e3 * (time.perf_counter() - start)
        process.kill()
        process.wait()
        if not done:
            raise Failed("diffusers: ended before its first step")
        return elapsed

    def close(self):
        pass


def environment(work, threads):
    """Offline, with caches inside the work folder and the given threads."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
    }
