"""Cluster DNS: dnsmasq, fed with the addresses of Services and, behind headless ones, of their pods.

`follow` is a process of its own inside the sandbox; it keeps dnsmasq's hosts file equal to what the API server says.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hack.cluster.control_plane import Api
from hack.cluster.instance import DNS_ADDRESS, Instance
from hack.cluster.sandbox import start

SERVICE = "kubernetes.io/service-name"
"""The label by which an EndpointSlice names its Service."""


def start_dns(instance: Instance) -> None:
    """Make the Service that pods ask, and start what answers behind it."""
    meta = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    service = {"clusterIP": DNS_ADDRESS, "ports": ports}
    api, slices = Api(instance), _slices_version(instance)
    api.text("/api/v1/namespaces/kube-system/services", "POST",
             {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service})  # fmt: skip
    answering = {
        "apiVersion": slices,
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {SERVICE: meta["name"]}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [instance.node_address], "conditions": {"ready": True}}],
        "ports": ports,
    }
    api.text(f"/apis/{slices}/namespaces/kube-system/endpointslices", "POST", answering)
    _hosts(instance).touch()
    start(
        instance, "dnsmasq", "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts",
        f"--addn-hosts={_hosts(instance)}", "--local=/cluster.local/", f"--listen-address={instance.node_address}",
        "--bind-interfaces", "--user=root", f"--pid-file={instance.state}/dnsmasq.pid", "--local-ttl=1",
    )  # fmt: skip
    start(instance, "dns", sys.executable, Path(__file__).parent, "dns", "--name", instance.name)


def follow(instance: Instance) -> None:
    """Write the hosts file whenever it changes, for ever; an API server that is away for a while is waited for."""
    api, slices, hosts = Api(instance), _slices_version(instance), _hosts(instance)
    while True:
        try:
            text = _records(api, slices)
        except (OSError, ValueError):
            time.sleep(1)
            continue
        server = instance.state / "dnsmasq.pid"
        if text != hosts.read_text() and server.exists() and (pid := server.read_text().strip()):
            hosts.write_text(text)
            os.kill(int(pid), signal.SIGHUP)
        time.sleep(0.5)


def _slices_version(instance: Instance) -> str:
    return "discovery.k8s.io/v1" if instance.programs.minor >= 21 else "discovery.k8s.io/v1beta1"


def _records(api: Api, slices: str) -> str:
    """The lines of a hosts file: an address and the name it answers to."""
    endpoints: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in api.items(f"/apis/{slices}/endpointslices"):
        service_of = (each["metadata"]["namespace"], each["metadata"].get("labels", {}).get(SERVICE, ""))
        endpoints.setdefault(service_of, []).extend(each.get("endpoints") or [])
    lines = set()
    for service in api.items("/api/v1/services"):
        key = _key(service)
        name = f"{key[1]}.{key[0]}.svc.cluster.local"
        if service["spec"].get("clusterIP") != "None":
            lines.add(f"{service['spec']['clusterIP']} {name}")
            continue
        everyone = service["spec"].get("publishNotReadyAddresses", False)
        for endpoint in endpoints.get(key, []):
            # No condition means ready, says the API.
            if not everyone and endpoint.get("conditions", {}).get("ready") is False:
                continue
            for address in endpoint["addresses"]:
                lines.add(f"{address} {name}")
                if endpoint.get("hostname"):
                    lines.add(f"{address} {endpoint['hostname']}.{name}")
    return "".join(f"{line}\n" for line in sorted(lines))


def _key(item: dict[str, dict[str, str]]) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _hosts(instance: Instance) -> Path:
    return instance.state / "hosts"
