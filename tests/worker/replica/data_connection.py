"""Both ends of a data connection: a real server over an engine that obeys a request's prompt, and real clients."""

import asyncio
import contextlib
import threading
import time

import numpy as np

from omni_worker.engine.scheduler import Finished, RequestProgress, RequestStatus
from omni_worker.replica.client import ReplicaClient
from omni_worker.replica.server import ReplicaServer
from omni_worker.requests import Completion, GeneratedText, GenerationParams, GenerationResult

from ..serving import free_ports


class ScriptedEngine:
    """Answers each request in a thread of its own. The prompt says how:

    - `echo`: the result has the same embeddings; the engine keeps them if `keeps`
    - `write N`: N pieces of one word each, with a preview of 1 MB for each tenth, as fast as possible
    - `tell N`: N pieces of 2 kB, and their concatenation as the result
    - `rest`: it never answers
    """

    def __init__(self, server):
        self._server = server
        self.keeps, self.kept, self.aborted = False, [], set()

    def add(self, request):
        threading.Thread(target=self._run, args=(request.id, request.payload), daemon=True).start()

    def abort(self, id):
        self.aborted.add(id)

    def _run(self, id, params):
        verb, *count = params.prompt.split()
        result = GenerationResult(steps=1)
        if verb == "echo":
            result = GenerationResult(embeddings=params.embeddings)
            if self.keeps:
                self.kept.append(params.embeddings)
        elif verb == "write":
            self._write(id, int(count[0]))
        elif verb == "tell":
            result = self._tell(id, int(count[0]))
        elif verb == "rest":
            return
        del params
        self._server.on_event(Finished(id, RequestStatus.COMPLETED, result))

    def _write(self, id, count):
        for number in range(count):
            written = GeneratedText(text=f"{number} ", tokens=[number])
            self._server.on_event(RequestProgress(id, number + 1, count, written))
            if number % 10 == 0:
                self._server.on_event(
                    RequestProgress(id, number + 1, count, [np.full((512, 512, 4), number % 256, np.uint8)])
                )

    def _tell(self, id, count):
        pieces = [GeneratedText(text=f"{number:02000d}", tokens=[number]) for number in range(count)]
        for number, piece in enumerate(pieces):
            self._server.on_event(RequestProgress(id, number + 1, count, piece))
        whole = GeneratedText(text="".join(piece.text for piece in pieces), tokens=list(range(count)))
        return GenerationResult(completion=Completion(written=whole, finish_reason="stop", prompt_tokens=1))


@contextlib.asynccontextmanager
async def serving(keys=None):
    """A server, its port, and a function that connects a client."""
    (port,) = free_ports(1)
    server = ReplicaServer(64, keys)
    server.engine = ScriptedEngine(server)
    server.bind("127.0.0.1", port)
    task = asyncio.create_task(server.run())
    clients = []

    def connect(**options):
        clients.append(ReplicaClient(f"tcp://127.0.0.1:{port}", lambda is_open: None, keys, **options))
        return clients[-1]

    try:
        yield server, port, connect
    finally:
        for client in clients:
            await client.close()
        assert not task.done(), "the server serves to the end"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server._socket.close(linger=0)


class ReceivedUpdates:
    """The updates that a head received about a request."""

    def __init__(self):
        self.text, self.pieces, self.previews, self.step = "", 0, [], 0

    def __call__(self, update):
        self.step = max(self.step, getattr(update, "step", 0))
        if getattr(update, "written", None) is not None:
            self.text += update.written.text
            self.pieces += 1
        if getattr(update, "preview", None):
            self.previews.append(int(update.preview[0][0, 0, 0]))


async def ask(client, id, prompt, on_update=lambda update: None, seconds=30, **embeddings):
    """Run a request and return its result."""
    params = GenerationParams(prompt=prompt, embeddings=embeddings)
    return await asyncio.wait_for(client.generate(id, params, on_update), seconds)


async def eventually(check, seconds=60.0):
    """Wait until `check` is true."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.01)
