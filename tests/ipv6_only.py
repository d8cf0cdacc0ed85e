"""Serves one request by a head and a replica on a machine that has only IPv6: python -m tests.ipv6_only FOLDER.

Run it in a network namespace of its own. It takes IPv4 away there, and starts the processes with the command lines that
the operator gives them, with the pod's address fd00::7. Prints what the probes and the request were answered with.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from omni_operator.crd.parsing import parse
from omni_operator.planning.topology.cluster import cluster_topology
from omni_operator.planning.topology.files import KEYS_DIR, STAGE_CONFIG_DIR
from omni_operator.planning.topology.records import Process

ADDRESS = "fd00::7"
HEAD_PORT, REPLICA_PORT = 8000, 8001  # as two pods, both would have 8000
SECONDS = 300
NETWORK = (
    "ip link set lo up",
    "ip -4 address flush dev lo",
    f"ip address add {ADDRESS}/128 dev lo nodad",
)


def main(folder: Path) -> None:
    for command in NETWORK:
        subprocess.run(command.split(), check=True)
    stages = [{"name": "painter", "engine": "diffusion"}]
    manifest = {
        "apiVersion": "omnipipeline.dev/v1alpha1",
        "kind": "OmniPipeline",
        "metadata": {"name": "digits", "namespace": "default"},
        "spec": {"model": {"source": "builtin://digits"}, "stages": stages},
    }
    topology = cluster_topology(parse(manifest))
    (folder / "stages.json").write_text(topology.stage_config)
    (folder / "secret").write_text("s" * 64)
    started = [start(folder, topology.head, HEAD_PORT), start(folder, topology.replicas[0], REPLICA_PORT)]
    try:
        answers = {f"{port}{path}": until_ok(port, path) for port in (HEAD_PORT, REPLICA_PORT) for path in PROBES}
        request = {"prompt": "a red three", "num_inference_steps": 2, "response_format": "b64_json"}
        response = httpx.post(url(HEAD_PORT, "/v1/images/generations"), json=request, timeout=SECONDS, trust_env=False)
        replicas = httpx.get(url(HEAD_PORT, "/omni/replicas"), timeout=SECONDS, trust_env=False).json()["replicas"]
        addresses = [replica["address"] for replica in replicas]
        print(json.dumps({"probes": answers, "status": response.status_code, "addresses": addresses}))
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


PROBES = ("/livez", "/readyz", "/metrics")


def start(folder: Path, process: Process, port: int) -> "subprocess.Popen[bytes]":
    """One of the pipeline's processes. Its log is in the folder."""
    replaced = {
        KEYS_DIR: str(folder),
        STAGE_CONFIG_DIR: str(folder),
        "$(POD_IP)": ADDRESS,
        "digits-head.default.svc": ADDRESS,
        "--port=8000": f"--port={port}",
    }
    arguments = list(process.arguments)
    for old, new in replaced.items():
        arguments = [argument.replace(old, new) for argument in arguments]
    log = (folder / f"{process.name}.log").open("wb")
    command = [str(Path(sys.executable).with_name("omni")), *arguments]
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)})


def url(port: int, path: str) -> str:
    return f"http://[{ADDRESS}]:{port}{path}"


def until_ok(port: int, path: str) -> int:
    """The status of a probe, once it is 200, or when the time is over."""
    deadline, status = time.monotonic() + SECONDS, 0
    while status != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
        try:
            status = httpx.get(url(port, path), timeout=10, trust_env=False).status_code
        except httpx.HTTPError:
            continue
    return status


if __name__ == "__main__":
    main(Path(sys.argv[1]))
