"""Requests that schemathesis derives from `/openapi.json`, and every answer compared with that document.

    python schema.py ../../target/release/tweedie [--each 1000] [FLAGS OF schemathesis ...]
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

from server import Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"

read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
read.add_argument("program", type=pathlib.Path)
read.add_argument("--each", type=int, default=1000, help="number of requests to each path and method, at most")
args, more = read.parse_known_args()
Server.program = args.program.resolve()
program = pathlib.Path(sys.executable).with_name("schemathesis")
with tempfile.TemporaryDirectory() as folder:
    # Small jobs only, so that those that are valid by chance take little time.
    server = Server(folder, limits="queue = 300\njobs = 300\ncount = 2\nsteps = 4\npixels = 4096\n")
    before = server.resident()
    ran = subprocess.run([program if program.exists() else shutil.which("schemathesis"), "run", f"http://127.0.0.1:{server.port}/openapi.json",
                          "--checks", CHECKS, "--max-examples", str(args.each), "--workers", "2", "--request-timeout", "60",
                          "--suppress-health-check", "all", "--seed", "1", "--continue-on-failure", *more], cwd=folder)
    print(f"memory {before:.0f} → {server.resident():.0f} MB")
    server.stop()
    server.check_log()
sys.exit(ran.returncode)
