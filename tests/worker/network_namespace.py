"""Network namespaces with one link to this machine, for tests of partitions. They need root and `ip`."""

import itertools
import os
import subprocess

_numbers = itertools.count()


class Namespace:
    """A network with two addresses: `host` (this machine) and `address`. Raises OSError if it cannot be created."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.name = f"omni-{os.getpid()}-{number}"
        self._link = f"om{os.getpid() % 100_000}x{number}"
        network = f"10.{200 + number % 50}.{os.getpid() % 250}"
        self.host, self.address = f"{network}.1", f"{network}.2"
        try:
            _ip("netns", "add", self.name)
            _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            _ip("addr", "add", f"{self.host}/30", "dev", self._link)
            _ip("link", "set", self._link, "up")
            for words in (f"addr add {self.address}/30 dev eth0", "link set eth0 up", "link set lo up"):
                _ip("-n", self.name, *words.split())
        except OSError:
            self.close()
            raise

    @property
    def inside(self) -> tuple[str, ...]:
        """The words before a command that runs it in the namespace."""
        return "ip", "netns", "exec", self.name

    def cut(self) -> None:
        """Drop all packets from now on, without closing connections."""
        _ip("link", "set", self._link, "down")

    def heal(self) -> None:
        """Let packets pass again."""
        _ip("link", "set", self._link, "up")

    def close(self) -> None:
        """Remove the namespace and the link."""
        for words in (("link", "delete", self._link), ("netns", "delete", self.name)):
            subprocess.run(["ip", *words], capture_output=True, check=False)


def _ip(*words: str) -> None:
    """Run `ip`. Raises OSError with its error message."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
