"""Self-signed certificates for localhost."""

import subprocess
from pathlib import Path

KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Create a certificate for `localhost` with `name` as its subject. Returns the files of certificate and key."""
    chain, key = folder / f"{name}.crt", folder / f"{name}.key"
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", *KEY.split(), *names, "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key
