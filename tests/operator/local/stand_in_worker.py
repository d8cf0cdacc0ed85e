"""A small real stand-in for `omni serve`: it serves the probes on --port, handles SIGTERM, and can misbehave.

Environment variables control it. STAND_IN_HEAD and STAND_IN_REPLICA are `serve`, `fail` (exit at once), `stuck` (never
ready), `stubborn` (ignore SIGTERM) or `parent` (start a child process). Each process appends its events to the file
STAND_IN_JOURNAL.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in sys.argv[3:])
    role = "replica" if "headless" in flags else "head"
    behaviour = os.environ.get(f"STAND_IN_{role.upper()}", "serve")
    journal(f"{role} started {os.getpid()}")
    if behaviour == "fail":
        print("loading the weights\nomni serve: the weights are missing", flush=True)
        sys.exit(3)
    if behaviour == "parent":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        journal(f"grandchild started {child.pid}")
    server = ThreadingHTTPServer(("127.0.0.1", int(flags["port"])), probes(is_ready=behaviour != "stuck"))

    def stop(*_: object) -> None:
        journal(f"{role} received SIGTERM {os.getpid()}")
        if behaviour != "stubborn":
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()
    journal(f"{role} ended {os.getpid()}")


def journal(line: str) -> None:
    with Path(os.environ["STAND_IN_JOURNAL"]).open("a") as file:
        file.write(f"{line}\n")


def probes(is_ready: bool) -> type[BaseHTTPRequestHandler]:
    class Probes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_ok = is_ready or self.path != "/readyz"
            body = json.dumps({"status": "ok" if is_ok else "no", "reason": "" if is_ok else "waits for Godot"})
            self.send_response(200 if is_ok else 503)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Probes


if __name__ == "__main__":
    main()
