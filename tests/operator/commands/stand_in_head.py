"""A small real HTTP server that responds like a head. The test sets its topology, replicas and requests."""

import base64
import json
import threading
import time
from typing import Any

from tests.loopback import Loopback, QuietHandler

PAINTER = {"name": "painter", "engine": "diffusion", "task": None, "pipeline": "QwenImagePipeline"}
THINKER = {"name": "thinker", "engine": "autoregressive", "task": "generate", "pipeline": "Qwen3ForCausalLM"}

CARD = {"steps": 20, "sized": True, "size_multiple": 8, "guidance": True, "defaults": {"guidance_scale": 4.0}}


def replica(id: str, **other: Any) -> dict[str, Any]:
    """An idle replica that is UP, with other values from the keyword arguments."""
    return {
        "id": id, "state": "UP", "host": "here", "address": "tcp://127.0.0.1:1", "queue_length": 0, "running": 0,
        "in_flight": 0, "capacity": 8, "completed": 0, "step_ms": 12.5, **other,
    }  # fmt: skip


def stage(kind: dict[str, Any], *replicas: dict[str, Any]) -> dict[str, Any]:
    """A stage with these replicas."""
    return {
        "id": 0, "input": None, "model": None, "requests": 0, "tokens": 0, "images": 0, "replicas": list(replicas),
        **kind,
    }  # fmt: skip


def running(id: str, stage: str = "painter", step: int = 0, total: int = 0) -> dict[str, Any]:
    """A running request."""
    return {"id": id, "stage": stage, "replica": "0", "step": step, "total_steps": total, "state": "running",
            "client_id": None}  # fmt: skip


class StandInHead(Loopback):
    """Each image takes `seconds`. If `fails_each` is not 0, every `fails_each`-th request gets HTTP 429."""

    def __init__(self, seconds: float = 0.0, fails_each: int = 0) -> None:
        self.not_ready = ""
        self.stages = [stage(PAINTER, replica("painter-0"))]
        self.requests: list[dict[str, Any]] = []
        self.seconds, self.fails_each = seconds, fails_each
        self.received: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        head = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer = head.get(self.path)
                self.reply(*((404, {"detail": "no such page"}) if answer is None else answer))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply(*head.post(self.path, body))

            def reply(self, status: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler)

    def get(self, path: str) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None for an unknown path."""
        if path == "/readyz":
            return (503, {"status": "unavailable", "reason": self.not_ready}) if self.not_ready else (200, {})
        pages: dict[str, dict[str, Any]] = {
            "/v1/omni/topology": {"model": "digits", "requests": len(self.requests), "stages": self.stages},
            "/omni/requests": {"requests": self.requests},
            "/v1/models": {"object": "list", "data": [{"id": "digits", "object": "model", "created": 1}]},
            "/omni/replicas": {
                "replicas": [
                    {**each, "stage": stage["name"], "pipeline": stage["pipeline"], "mode": "step", "card": CARD}
                    for stage in self.stages
                    for each in stage["replicas"]
                ]
            },
        }
        return (200, pages[path]) if path in pages else None

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The response to a request for an image."""
        with self.lock:
            self.received.append(body)
            number = len(self.received)
        if self.fails_each and number % self.fails_each == 0:
            return 429, {"error": {"message": "all queues are full", "type": "rate_limit_error"}}
        time.sleep(self.seconds)
        return 200, {"created": 1, "data": [{"b64_json": base64.b64encode(b"png").decode(), "seed": 7}]}
