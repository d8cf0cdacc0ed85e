"""A process that has imported the large packages, and forks others from itself.

torch, diffusers and transformers take seconds to import. A forked process has them from its first moment, and shares
the memory of their code with its siblings. So a replica restarts sooner, and several replicas import them only once.

The server has one thread, and uses no device and no event loop, so that a fork of it is like a new process. A process
whose environment would change what the imports do is a new one: it starts its own interpreter.
"""

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omni_worker.importing import importing
from omni_worker.parallel.child_process import safe_path

IS_SUPPORTED = sys.platform == "linux"
"""Elsewhere there are no descriptors of processes and no signal when a parent ends."""
MAX_REQUEST_BYTES = 4 << 20
MAX_FILES = 16
PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Finding devices through NVML does not initialise CUDA, which a forked process could not use then.
WITHOUT_CUDA = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# What Python, numpy, torch, diffusers, transformers and their libraries read only once, mostly where to find files.
READ_BY_IMPORTS = (
    "ACCELERATE_", "BLIS_", "DIFFUSERS_", "GOMP_", "HF_", "HOME", "HUGGING", "LD_", "MKL_", "NPY_", "OMP_", "OPENBLAS_",
    "PYTORCH_", "SAFETENSORS_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "USE_", "VECLIB_", "XDG_CACHE_HOME",
)  # fmt: skip
SET_LATER = ("OMP_NUM_THREADS", *WITHOUT_CUDA)


class ForkServer:
    """The client's side. Use `forked` or `spawned`.

    The server ends when this object is closed, or with its process, and all that it has started ends with the server.
    """

    def __init__(self, connection: socket.socket, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self._connection = connection
        self._process = process
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST_BYTES)

    @classmethod
    def forked(cls, modules: Sequence[str]) -> "ForkServer":
        """Fork a server from this process, which must have no other thread and no event loop yet.

        Returns in this process, while the server imports `modules`. In processes that the server starts, this raises
        SystemExit when they end.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        if os.fork():
            its.close()
            return cls(ours)
        ours.close()
        end_with(parent)
        serve(its, modules)

    @classmethod
    def spawned(cls, modules: Sequence[str], environment: Mapping[str, str] | None = None) -> "ForkServer":
        """Start a server as a new process, from one that may have threads."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = [sys.executable, "-m", __name__, str(its.fileno()), *modules]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()], env=environment)
        return cls(ours, process)

    def start(
        self,
        module: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        files: Sequence[int],
        folder: str | None = None,
    ) -> int:
        """Ask for a process that runs `main()` of `module` in a session of its own, and in `folder`.

        files: the process's fds 0, 1 and 2, and more that it inherits; the numbers that these have there follow `argv`

        Returns a descriptor to read: a line with the process id once it runs, and one with its exit code (negative for
        a signal) when it has ended. It ends early if the server does. Raises OSError if the server has ended already.
        """
        status, write_status = os.pipe()
        request = {"module": module, "argv": list(argv), "environment": dict(environment), "folder": folder}
        try:
            socket.send_fds(self._connection, [json.dumps(request).encode()], [*files, write_status])
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(write_status)
        return status

    def close(self) -> None:
        """End the server, and all that it has started."""
        self._connection.close()
        if self._process is not None:
            self._process.wait()


def end_with(parent: int) -> None:
    """Let the kernel end this process when the one that forked it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def read_by_imports(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that changes what the imports do, or where they find their files."""
    return {
        name: value for name, value in environment.items() if name.startswith(READ_BY_IMPORTS) and name not in SET_LATER
    }


IMPORTED_IN = read_by_imports(os.environ)
"""Of the environment in which this process, or the one that it has been forked from, imports everything."""


def serve(connection: socket.socket, modules: Sequence[str]) -> NoReturn:
    """Import the modules, and serve until the client closes. In a process that is forked here, run its main."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # it ends with its client, which may still have to drain
    _name_process("omni fork server")
    sys.path[:] = [folder for folder in sys.path if os.path.isabs(folder) and not _is_own_folder(folder)]  # noqa: PTH117
    os.environ.update(WITHOUT_CUDA)
    with importing():
        for module in modules:
            with contextlib.suppress(ImportError):  # a process that needs it raises this
                importlib.import_module(module)
    children: dict[int, tuple[int, int]] = {}  # by pidfd: the process id, and where to write its status
    events = select.poll()
    events.register(connection, select.POLLIN)
    while True:
        for ready, _ in events.poll():
            if ready in children:
                events.unregister(ready)
                pid, status = children.pop(ready)
                _report(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os.close(status)
                os.close(ready)
                continue
            message, fds, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, MAX_FILES)
            if not message:
                os._exit(0)
            *files, status = fds
            pid = _fork()
            if pid == 0:
                for inherited in (connection.detach(), status, *children, *(fd for _, fd in children.values())):
                    os.close(inherited)
                sys.exit(_run(json.loads(message), files))
            for file in files:
                os.close(file)
            pidfd = os.pidfd_open(pid)
            children[pidfd] = pid, status
            events.register(pidfd, select.POLLIN)
            _report(status, pid)


def _fork() -> int:
    """Fork a process that ends with this one, and that loses no signal: it unblocks them when it handles them."""
    server = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    pid = os.fork()
    if pid == 0:
        end_with(server)
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    return pid


def _is_own_folder(folder: str) -> bool:
    """Whether Python added this folder to the path because the process runs in it. A model's files may be there."""
    is_named = folder in os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return folder == sys.path[0] and folder == str(Path.cwd()) and not sys.flags.safe_path and not is_named


def _report(status: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the client has given the process up
        os.write(status, b"%d\n" % number)


def _run(request: Mapping[str, Any], files: Sequence[int]) -> int:
    """Become the requested process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    standard, inherited = files[:3], files[3:]
    for target, file in enumerate(standard):
        os.dup2(file, target)
        os.close(file)
    if request["folder"] is not None:
        os.chdir(request["folder"])
    module, environment = request["module"], request["environment"]
    argv = [*request["argv"], *map(str, inherited)]
    if _has_used_a_device() or read_by_imports(environment) != IMPORTED_IN or not _has_path(environment):
        for file in inherited:
            os.set_inheritable(file, True)
        os.execve(sys.executable, [sys.executable, "-P", "-m", module, *argv], environment)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *argv]
    if environment.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    _name_process(f"omni {'.'.join(module.split('.')[1:2])}")
    _renew_libraries(environment)
    return int(importlib.import_module(module).main() or 0)


def _has_used_a_device() -> bool:
    """Whether an import has initialised the driver of a device, which no forked process could use then."""
    kinds = [getattr(sys.modules.get("torch"), kind, None) for kind in ("cuda", "xpu", "mtia")]
    return any(getattr(kind, "_is_in_bad_fork", bool)() for kind in kinds)


def _has_path(environment: Mapping[str, str]) -> bool:
    """Whether this process looks for modules in all folders where one with this environment would."""
    folders = safe_path(environment)["PYTHONPATH"].split(os.pathsep)
    return set(filter(None, folders)) <= set(sys.path)


def _renew_libraries(environment: Mapping[str, str]) -> None:
    """What the libraries read once, when they are imported: the number of threads, and randomness of the system."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    threads = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    if "torch" in sys.modules and threads.isdigit():
        sys.modules["torch"].set_num_threads(int(threads))


def _name_process(name: str) -> None:
    """The name that `ps` and `top` show."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
