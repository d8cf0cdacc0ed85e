"""The secret that the processes of one pipeline share, as ZeroMQ keys. Without it, nobody can register, read or inject.

One CURVE key pair is derived from the secret, and both ends use it. Each end proves that it has the secret by having
the pair: a client must know the server's public key, and the server checks the client's. The public key is never sent
in clear, so it is a secret as well.
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
SECRET_FLAG = "--omni-secret-file"
MIN_SECRET_BYTES = 32
ZAP_ADDRESS = "inproc://zeromq.zap.01"


@dataclass(frozen=True)
class CurveKeys:
    """A CURVE key pair in Z85, as ZeroMQ needs it."""

    public: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @classmethod
    def from_secret(cls, secret: bytes) -> "CurveKeys":
        """Derive the key pair from a secret. Whitespace around the secret is ignored."""
        private = z85.encode(hashlib.blake2b(secret.strip(), digest_size=32, person=b"omni-curve").digest())
        return cls(zmq.curve_public(private), private)

    def protect(self, socket: "zmq.Socket[Any]", *, is_server: bool) -> None:
        """Let `socket` connect only to processes with the same secret. Call it before the socket binds or connects."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        if is_server:
            _start_authenticator(socket.context)
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.ZAP_DOMAIN, self.public)
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # reject clients until the authenticator runs
        else:
            socket.setsockopt(zmq.CURVE_SERVERKEY, self.public)


def read(file: str | None) -> CurveKeys | None:
    """Read the secret in `file` and derive its keys; None if there is no file.

    Raises UsageError if the file cannot be read, or its secret is too short.
    """
    if file is None:
        return None
    try:
        secret = Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{SECRET_FLAG} {file}: {error.strerror}") from error
    if len(secret.strip()) < MIN_SECRET_BYTES:
        raise UsageError(
            f"{SECRET_FLAG} {file}: {len(secret.strip())} bytes are too few for a secret; "
            f"it needs {MIN_SECRET_BYTES} or more: openssl rand -hex 32 > {file}"
        )
    return CurveKeys.from_secret(secret)


def check(file: str | None) -> None:
    """Check the secret in `file`. Logs a warning if every user of this machine may read it.

    Raises UsageError if the secret cannot be used.
    """
    read(file)
    if file is not None:
        warn_if_all_may_read(SECRET_FLAG, file)


def warn_if_all_may_read(flag: str, file: str) -> None:
    """Log a warning if every user of this machine may read the file of secrets that a flag names."""
    if Path(file).stat().st_mode & stat.S_IROTH:
        log.warning("%s %s may be read by every user of this machine: chmod o-r %s", flag, file, file)


def _start_authenticator(context: "zmq.Context[Any]") -> None:
    """Start the thread that authenticates clients, once for each context (ZAP, https://rfc.zeromq.org/spec/27/)."""
    socket = context.socket(zmq.REP, socket_class=zmq.Socket)
    try:
        socket.bind(ZAP_ADDRESS)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno != zmq.EADDRINUSE:
            raise
    else:
        threading.Thread(target=_authenticate, args=(socket,), name="zap", daemon=True).start()


def _authenticate(socket: "zmq.Socket[bytes]") -> None:
    """Accept clients whose public key is the one that the server set as its ZAP domain."""
    while True:
        try:
            _, request, domain, _, _, mechanism, *credentials = socket.recv_multipart()
            is_accepted = mechanism == b"CURVE" and credentials == [z85.decode(domain)]
            status, text = (b"200", b"OK") if is_accepted else (b"400", b"another secret")
            socket.send_multipart([b"1.0", request, status, text, b"", b""])
        except zmq.ContextTerminated:
            socket.close(linger=0)
            return
