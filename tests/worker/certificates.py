"""Certificates of this machine, as anybody makes one that signs itself."""

import subprocess
from pathlib import Path

KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate and its key, in files; it is for `localhost`, and its own name is in its subject."""
    chain, key = folder / f"{name}.crt", folder / f"{name}.key"
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", *KEY.split(), *names, "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key
