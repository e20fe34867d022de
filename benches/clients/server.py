"""Starts `tweedie serve` in a folder of its own."""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile


@contextlib.contextmanager
def served(*flags):
    """Yields the address of a running server."""
    program = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--json", "serve", "--listen", "127.0.0.1:0", "--data-dir", folder, *flags]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            yield json.loads(server.stdout.readline())["listening"]
        finally:
            server.terminate()
            assert server.wait() == 0, server.returncode
