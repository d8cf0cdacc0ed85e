"""How much memory a head takes under attack: its peak since its start (VmHWM of Linux), each attack on a new head.

The clients of an attack send at the same time. A quick run has two of them, and the attacks by JSON alone.

    python -m benchmarks.head_memory [--quick]
"""

import base64
import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from benchmarks import common
from benchmarks.ports import free_ports
from PIL import Image
from rich.table import Table

import omni_worker.models

OMNI = str(Path(sys.executable).with_name("omni"))
DIGITS = Path(omni_worker.models.__file__).parent / "digits"
MIB = 2**20
SIDE = 4096
TIMEOUT = 300
HOLD_SECONDS = 8
CHAT, EDITS = "/v1/chat/completions", "/v1/images/edits"


@dataclass(frozen=True)
class Attack:
    """What `clients` clients send at once.

    send: takes the head's port and returns the status of the answer, or why there is none
    model, flags: of the head, which has one replica unless `model` is None
    is_quick: whether a quick run includes it
    """

    name: str
    clients: int
    send: Callable[[int], str]
    model: str | None = None
    flags: tuple[str, ...] = ()
    is_quick: bool = False


def main() -> None:
    """Measure, print a table, and write the figures."""
    args = common.parser(__doc__, "head_memory").parse_args()
    before = common.machine()
    table = Table("attack", "clients", "answers", "ready, MB", "peak, MB")
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for attack in attacks(Path(folder)):
            if args.quick and not attack.is_quick:
                continue
            clients = min(attack.clients, 2) if args.quick else attack.clients
            with served(attack) as (port, pid), ThreadPoolExecutor(clients) as pool:
                ready = megabytes(pid, "VmRSS")
                answers = Counter(pool.map(attack.send, [port] * clients))
                peak = megabytes(pid, "VmHWM")
            table.add_row(attack.name, str(clients), listed(answers), str(ready), str(peak))
            figures[attack.name] = {"clients": clients, "answers": answers, "ready_mb": ready, "peak_mb": peak}
    common.console.print(table)
    if not args.quick:
        common.write(args.output, before, {"attacks": figures})


def attacks(folder: Path) -> list[Attack]:
    """The attacks, with the models and files that they need in `folder`."""
    painter, stages = folder / "image-to-image", folder / "stages.json"
    shutil.copytree(DIGITS, painter)
    index = json.loads((painter / "model_index.json").read_text())
    (painter / "model_index.json").write_text(json.dumps(index | {"_class_name": "QwenImageImg2ImgPipeline"}))
    stages.write_text(json.dumps({"stages": [{"id": 0, "name": "writer", "engine": "autoregressive"}]}))
    writer, png = ("builtin://digits", (f"--stage-config={stages}",)), encoded("PNG", "1")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png).decode()}}
    message = partial(chat, content=[image] * 24)
    numbers = b'{"messages":[{"role":"user","content":[' + b",".join([b"1"] * (MIB // 2)) + b"]}]}"
    keys = b'{"prompt":"x",' + b",".join(b'"k%x":0' % key for key in range(MIB // 10)) + b"}"
    return [
        Attack("64 MiB of headers without an end", 4, endless_headers),
        Attack("headers or a body that never end", 400, unfinished),
        Attack("1 MiB of JSON, a list of numbers", 16, partial(post, path=CHAT, content=numbers), is_quick=True),
        Attack(
            "1 MiB of JSON, unknown keys", 16, partial(post, path="/v1/images/generations", content=keys), is_quick=True
        ),
        Attack("10 MB of text in a conversation", 16, partial(chat, content="two plus five " * 714_000), *writer),
        Attack("24 PNGs of 4096x4096, 2 KB each, to a model without", 16, message, "builtin://digits"),
        Attack("a PNG of 4096x4096, 2 KB", 32, partial(edit, file=png), str(painter)),
        Attack("a progressive JPEG of 125 scans, 70 KB", 32, partial(edit, file=many_scans(70_000)), str(painter)),
        Attack("bodies of 60 MiB", 24, partial(post, path=CHAT, content=b'{"a":"' + b"a" * (60 * MIB) + b'"}')),
    ]


@contextlib.contextmanager
def served(attack: Attack) -> Iterator[tuple[int, int]]:
    """A head, ready: its port and its process id."""
    api, master, router, pub, data = map(str, free_ports(5))
    command = [OMNI, "serve", attack.model or "builtin://digits", *attack.flags, "--host=127.0.0.1", f"--port={api}"]
    command += [f"--omni-dp-size-local={int(attack.model is not None)}", f"--omni-replica-port={data}"]
    command += ["--drain-timeout=1", "--omni-master-address=127.0.0.1", f"--omni-master-port={master}"]
    command += [f"--omni-coordinator-port={router}", f"--omni-coordinator-pub-port={pub}"]
    path = "/readyz" if attack.model else "/startupz"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + TIMEOUT
            while not answers_ok(f"http://127.0.0.1:{api}{path}"):
                assert time.monotonic() < deadline, "the head does not become ready"
                assert process.poll() is None, "the head ended"
                time.sleep(0.2)
            yield int(api), process.pid
        finally:
            process.terminate()


def answers_ok(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False


def megabytes(pid: int, field: str) -> int:
    """A process's VmRSS or VmHWM."""
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) // 1024


def listed(answers: Counter[str]) -> str:
    return ", ".join(f"{count} x {answer}" for answer, count in sorted(answers.items()))


def post(port: int, path: str, content: bytes) -> str:
    return _status(port, path, content=content, headers={"Content-Type": "application/json"})


def chat(port: int, content: object) -> str:
    body = json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 2}).encode()
    return post(port, CHAT, body)


def edit(port: int, file: bytes) -> str:
    form = {"prompt": "a red three", "size": "32x32", "num_inference_steps": "2"}
    return _status(port, EDITS, data=form, files={"image": ("image", file, "image/png")})


def _status(port: int, path: str, **request: object) -> str:
    try:
        return str(httpx.post(f"http://127.0.0.1:{port}{path}", timeout=TIMEOUT, **request).status_code)
    except httpx.TransportError:
        return "closed"


def endless_headers(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        try:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n")
            for number in range(64 * 16):
                connection.sendall(b"X-%d: " % number + b"a" * (MIB // 16) + b"\r\n")
            return connection.recv(64).split()[1].decode()
        except OSError:
            return "closed"


def unfinished(port: int) -> str:
    """Every second client ends its headers, and sends one byte of a body. All stay for some seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=HOLD_SECONDS) as connection:
        headers = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 60_000 + b"\r\n"
        if connection.getsockname()[1] % 2:
            headers += b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        try:
            connection.sendall(headers)
            return "answered" if connection.recv(64) else "closed"
        except TimeoutError:
            return "open"


def encoded(file_format: str, mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (SIDE, SIDE)).save(file, file_format, progressive=True, quality=50)
    return file.getvalue()


def many_scans(size: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until the file has `size` bytes."""
    whole = encoded("JPEG", "L")
    start = whole.rfind(b"\xff\xda")
    scan = whole[start:-2]
    return whole[:start] + scan * ((size - start) // len(scan)) + b"\xff\xd9"


if __name__ == "__main__":
    main()
