"""Real `omni serve` processes on loopback, for the tests of the serving stack."""

import base64
import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from openai import OpenAI
from PIL import Image

from omni_operator.local.ports import FreePorts
from omni_worker.addresses import is_loopback
from omni_worker.parallel.forked_popen import ForkedPopen

from . import warm

START_SECONDS = 600
PORTS_PER_PROCESS = 4
choose_port = FreePorts()


def free_ports(count: int) -> list[int]:
    """Free ports, each followed by PORTS_PER_PROCESS - 1 free ones: a process needs one for each replica."""
    return [choose_port(PORTS_PER_PROCESS) for _ in range(count)]


def eventually(check, what: str, seconds: float = START_SECONDS):
    """Wait until `check` returns something true, and return it. The failure names `what`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if answer := check():
                return answer
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:g} s")


@functools.cache
def client_of(port: int) -> OpenAI:
    """The official client, without retries."""
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)


def draw(port: int, prompt="a red three on black background", size="32x32", n=1, **extra) -> list[Image.Image]:
    """Generate images as a user of the official client does."""
    return draw_with(client_of(port), prompt, size, n, **extra)


def draw_with(client: OpenAI, prompt: str, size="32x32", n=1, **extra) -> list[Image.Image]:
    """Generate images with this client."""
    answer = client.images.generate(prompt=prompt, size=size, n=n, response_format="b64_json", extra_body=extra)
    return [Image.open(io.BytesIO(base64.b64decode(item.b64_json))) for item in answer.data]


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Process:
    """One `omni serve` process with a log file. `inside` is a command that starts it, for a network namespace."""

    def __init__(self, *argv: str, port: int, inside: tuple[str, ...] = ()) -> None:
        self.argv, self.port, self.inside = argv, port, inside
        self.scheme = "https" if "--ssl-certfile" in argv else "http"
        self._log = tempfile.NamedTemporaryFile(suffix=".log", delete=False)  # noqa: SIM115 - closed in `stop`
        self.start()

    def start(self) -> None:
        """Start the process, or start it again."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # several replicas share this machine's few cores
        command = [sys.executable, "-m", warm.CLI, "serve", *self.argv]
        self.popen: subprocess.Popen[bytes] | ForkedPopen
        if self.inside:
            self.popen = subprocess.Popen([*self.inside, *command], stdout=self._log, stderr=self._log, env=environment)
        else:
            self.popen = warm.popen(warm.CLI, command[3:], environment, self._log.fileno())

    @property
    def log(self) -> str:
        """Everything that the process has printed."""
        return Path(self._log.name).read_text()

    @property
    def replicas(self) -> list[int]:
        """The process ids of the replicas."""
        (fork_server,) = children(self.popen.pid)
        return children(fork_server)

    def get(self, path: str) -> httpx.Response:
        """GET a path of the HTTP server. Fails if the process has ended."""
        assert self.popen.poll() is None, f"omni serve ended with {self.popen.returncode}:\n{self.log}"
        return httpx.get(f"{self.scheme}://127.0.0.1:{self.port}{path}", timeout=60, verify=False)

    def is_ready(self) -> bool:
        """Whether /readyz returns 200."""
        return self.get("/readyz").status_code == 200

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        code = self.popen.wait(START_SECONDS)
        self._log.flush()
        return code

    def close(self) -> None:
        """Stop the process if it runs, and delete the log."""
        if self.popen.poll() is None:
            self.stop()
        self._log.close()
        Path(self._log.name).unlink()


class Pipeline:
    """A head and headless processes of `model`, on free ports. `stages` are the entries of its --stage-config."""

    def __init__(
        self,
        model: str = "builtin://digits",
        heartbeat_timeout: float = 5.0,
        stages: list[dict] | None = None,
        listen: str = "127.0.0.1",
    ) -> None:
        self.model, self.stages = model, stages or []
        api, master, router, pub = free_ports(4)
        self.master = master
        self.head = Process(
            model, "--host", "127.0.0.1", "--port", str(api), "--omni-master-address", listen,
            "--omni-master-port", str(master), "--omni-coordinator-port", str(router),
            "--omni-coordinator-pub-port", str(pub), "--omni-dp-size-local", "0",
            "--omni-heartbeat-timeout", str(heartbeat_timeout), "--served-model-name", "digits",
            *self._stage_config(), *([] if is_loopback(listen) else ["--insecure"]), port=api,
        )  # fmt: skip
        self.headless: list[Process] = []

    def _stage_config(self) -> list[str]:
        if not self.stages:
            return []
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
            json.dump({"stages": self.stages}, file)
        return ["--stage-config", file.name]

    def add_stage(self, id: int, *extra: str) -> Process:
        """Start one more headless process of a stage, with one replica."""
        stage = next(stage for stage in self.stages if stage["id"] == id)
        flags = ["--stage-id", str(id), "--engine", stage["engine"]]
        return self.add_headless(*flags, *extra, model=stage.get("model"))

    def add_headless(
        self, *extra: str, head: str = "127.0.0.1", inside: tuple[str, ...] = (), model: str | None = None
    ) -> Process:
        """Start one more headless process with one replica, by default of the pipeline's model.

        In a namespace (`inside`), the head has another address (`head`).
        """
        port, data = free_ports(2)
        process = Process(
            model or self.model, "--headless", "--host", "127.0.0.1", "--port", str(port),
            "--omni-master-address", head, "--omni-master-port", str(self.master), "--omni-replica-port", str(data),
            *([] if is_loopback(head) else ["--insecure"]), *extra, port=port, inside=inside,
        )  # fmt: skip
        self.headless.append(process)
        return process

    def replicas(self) -> list[dict]:
        """All replicas that the head lists."""
        return self.head.get("/omni/replicas").json()["replicas"]

    def up(self) -> list[dict]:
        """The replicas in state UP."""
        return [replica for replica in self.replicas() if replica["state"] == "UP"]

    def running(self) -> list[dict]:
        """The running requests."""
        return self.head.get("/omni/requests").json()["requests"]

    def close(self) -> None:
        """Stop everything."""
        for process in (*self.headless, self.head):
            process.close()


@contextlib.contextmanager
def pipeline_with_two_replicas() -> Iterator[Pipeline]:
    """A head and two headless processes with one replica each, all up."""
    pipeline = Pipeline()
    try:
        for _ in range(2):
            pipeline.add_headless()
        eventually(lambda: len(pipeline.up()) == 2, "two replicas up")
        yield pipeline
    finally:
        pipeline.close()


def recover(pipeline: Pipeline) -> None:
    """Restart the headless processes that have ended, and wait until two replicas are up and idle."""
    for process in pipeline.headless:
        if process.popen.poll() is not None:
            process.start()
    eventually(lambda: len(pipeline.up()) == 2 and not pipeline.running(), "two replicas up and idle")
