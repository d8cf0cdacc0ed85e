"""Cluster DNS: dnsmasq, fed with the addresses of Services and, behind headless ones, of their pods.

`follow` is a process of its own inside the sandbox; it keeps dnsmasq's hosts file equal to what the API server says.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from hack.cluster.control_plane import Api
from hack.cluster.instance import DNS_ADDRESS, Instance
from hack.cluster.sandbox import start


def start_dns(instance: Instance) -> None:
    """Make the Service that pods ask, and start what answers behind it."""
    meta = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    service = {"clusterIP": DNS_ADDRESS, "ports": ports}
    answering = [{"addresses": [{"ip": instance.node_address}], "ports": ports}]
    api = Api(instance)
    for plural, kind, content in (
        ("services", "Service", {"spec": service}),
        ("endpoints", "Endpoints", {"subsets": answering}),
    ):
        body = {"apiVersion": "v1", "kind": kind, "metadata": meta, **content}
        api.text(f"/api/v1/namespaces/kube-system/{plural}", "POST", body)
    _hosts(instance).touch()
    start(
        instance, "dnsmasq", "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts",
        f"--addn-hosts={_hosts(instance)}", "--local=/cluster.local/", f"--listen-address={instance.node_address}",
        "--bind-interfaces", "--user=root", f"--pid-file={instance.state}/dnsmasq.pid", "--local-ttl=1",
    )  # fmt: skip
    start(instance, "dns", sys.executable, Path(__file__).parent, "dns", "--name", instance.name)


def follow(instance: Instance) -> None:
    """Write the hosts file whenever it changes, for ever; an API server that is away for a while is waited for."""
    api, hosts = Api(instance), _hosts(instance)
    while True:
        try:
            text = _records(api)
        except (OSError, ValueError):
            time.sleep(1)
            continue
        server = instance.state / "dnsmasq.pid"
        if text != hosts.read_text() and server.exists() and (pid := server.read_text().strip()):
            hosts.write_text(text)
            os.kill(int(pid), signal.SIGHUP)
        time.sleep(0.5)


def _records(api: Api) -> str:
    """The lines of a hosts file: an address and the name it answers to."""
    endpoints = {_key(each): each for each in api.items("/api/v1/endpoints")}
    lines = set()
    for service in api.items("/api/v1/services"):
        key = _key(service)
        name = f"{key[1]}.{key[0]}.svc.cluster.local"
        if service["spec"].get("clusterIP") != "None":
            lines.add(f"{service['spec']['clusterIP']} {name}")
            continue
        everyone = service["spec"].get("publishNotReadyAddresses", False)
        for subset in endpoints.get(key, {}).get("subsets") or []:
            addresses = list(subset.get("addresses") or [])
            addresses += (subset.get("notReadyAddresses") or []) if everyone else []
            for address in addresses:
                lines.add(f"{address['ip']} {name}")
                if address.get("hostname"):
                    lines.add(f"{address['ip']} {address['hostname']}.{name}")
    return "".join(f"{line}\n" for line in sorted(lines))


def _key(item: dict[str, dict[str, str]]) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _hosts(instance: Instance) -> Path:
    return instance.state / "hosts"
