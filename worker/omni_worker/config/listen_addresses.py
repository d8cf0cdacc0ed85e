"""The addresses on which a process listens. Without a secret, only processes of this machine can connect.

Anyone who reaches the ports between processes without a secret can register as a replica, read prompts and forge
results.
"""

import argparse
from dataclasses import dataclass

from omni_worker.addresses import ALL, is_loopback, loopback
from omni_worker.errors import UsageError


@dataclass(frozen=True)
class ListenAddresses:
    """Where a process listens.

    http: for the API and the probes
    master: for the replicas of other processes, if it is a head: registration, reports and membership
    replicas: the data ports of its replicas
    """

    http: str
    master: str
    replicas: str


def listen_addresses(args: argparse.Namespace) -> ListenAddresses:
    """The addresses from the flags. Raises UsageError if a port between processes would be open to all."""
    is_protected = args.omni_secret_file is not None or args.insecure
    default = ALL if is_protected else loopback()
    master, replica = args.omni_master_address, args.omni_replica_address
    for flag, address in (("--omni-master-address", master), ("--omni-replica-address", replica)):
        if address and not is_protected and not is_loopback(address):
            raise UsageError(
                f"{flag} {address} without --omni-secret-file: anyone who reaches the ports between the processes "
                "could read and forge requests; give all of them one secret (openssl rand -hex 32 > FILE), or "
                "--insecure"
            )
    http = args.host or default
    if args.headless:
        reachable = replica or master  # replicas that join a head on loopback are reached there
        return ListenAddresses(http, "", _replica_host(reachable))
    return ListenAddresses(http, master or (loopback() if is_loopback(http) else default), _replica_host(replica))


def _replica_host(address: str | None) -> str:
    """Where replicas listen that heads reach at `address`; None: at loopback, as a head reaches its own."""
    return loopback() if address is None or is_loopback(address) else ALL
