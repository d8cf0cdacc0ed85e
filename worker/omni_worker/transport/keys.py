"""The secret that the processes of one pipeline share, as keys: without it nothing is registered, read or injected.

One CURVE key pair is derived from the secret, and is both ends' own. So a client proves that it has the secret by
knowing whom it talks to, and a server by being that one; the server also asks for the client's key. The public half is
never sent in clear, and is as good as secret here.
"""

import hashlib
import logging
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from omni_worker.errors import UsageError

log = logging.getLogger(__name__)
FLAG = "--omni-secret-file"
FEWEST_BYTES = 32
ZAP_ADDRESS = "inproc://zeromq.zap.01"


@dataclass(frozen=True)
class CurveKeys:
    """A CURVE key pair in Z85, as ZeroMQ takes it."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> "CurveKeys":
        """The pair that belongs to a secret; spaces and line ends around it do not count."""
        own = z85.encode(hashlib.blake2b(secret.strip(), digest_size=32, person=b"omni-curve").digest())
        return cls(zmq.curve_public(own), own)

    def protect(self, socket: "zmq.Socket[Any]", *, is_server: bool) -> None:
        """Have `socket` speak only with holders of the secret; before it binds or connects."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        if is_server:
            _guard(socket.context)
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.ZAP_DOMAIN, self.public)
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody gets in while nobody is there to ask
        else:
            socket.setsockopt(zmq.CURVE_SERVERKEY, self.public)


def read(file: str | None) -> CurveKeys | None:
    """The keys of the secret in `file`; None without one. Raises UsageError, naming the file and the remedy."""
    if file is None:
        return None
    try:
        secret = Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{FLAG} {file}: {error.strerror}") from error
    if len(secret.strip()) < FEWEST_BYTES:
        raise UsageError(
            f"{FLAG} {file}: {len(secret.strip())} bytes are too few for a secret; it needs {FEWEST_BYTES} or more: "
            f"openssl rand -hex 32 > {file}"
        )
    return CurveKeys.of(secret)


def check(file: str | None) -> None:
    """Raise UsageError where the secret cannot be used, and warn where others on this machine may read it."""
    read(file)
    if file is not None and Path(file).stat().st_mode & stat.S_IROTH:
        log.warning("%s %s may be read by every user of this machine: chmod o-r %s", FLAG, file, file)


def _guard(context: "zmq.Context[Any]") -> None:
    """Start, once for each context, the thread that ZeroMQ asks whether a client may come in (RFC 27, ZAP)."""
    door = context.socket(zmq.REP, socket_class=zmq.Socket)
    try:
        door.bind(ZAP_ADDRESS)
    except zmq.ZMQError as error:
        door.close(linger=0)
        if error.errno != zmq.EADDRINUSE:
            raise
    else:
        threading.Thread(target=_answer, args=(door,), name="zap", daemon=True).start()


def _answer(door: "zmq.Socket[bytes]") -> None:
    """Let in whose key is the one that the server named as its domain."""
    while True:
        try:
            _, request, domain, _, _, mechanism, *credentials = door.recv_multipart()
            is_known = mechanism == b"CURVE" and credentials == [z85.decode(domain)]
            status, text = (b"200", b"OK") if is_known else (b"400", b"another secret")
            door.send_multipart([b"1.0", request, status, text, b"", b""])
        except zmq.ContextTerminated:
            door.close(linger=0)
            return
