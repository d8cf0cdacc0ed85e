"""The one node: containerd, kubelet and kube-proxy, a network for pods, and GPUs to schedule on."""

from __future__ import annotations

import json

from hack.cluster.control_plane import JSON_PATCH, Api
from hack.cluster.dns import start_dns
from hack.cluster.images import load_archive, pause_image
from hack.cluster.instance import DNS_ADDRESS, NODE, POD_CIDR, Instance
from hack.cluster.sandbox import has_cgroup_v1, start
from hack.cluster.shell import succeeds, wait_until


def start_node(instance: Instance) -> None:
    """Start it and wait until Kubernetes calls it Ready."""
    _start_containerd(instance)
    load_archive(instance, pause_image())
    _start_kubelet(instance)
    _start_proxy(instance)
    start_dns(instance)
    api = Api(instance)
    wait_until("the node", 120, lambda: _is_ready(api), f"see {instance.state}/kubelet.log")


def advertise_gpus(instance: Instance, count: int) -> None:
    """Have the node offer `count` of nvidia.com/gpu: an extended resource that the scheduler counts; no device is."""
    changes = [
        {"op": "add", "path": f"/status/{where}/nvidia.com~1gpu", "value": str(count)}
        for where in ("capacity", "allocatable")
    ]
    Api(instance).text(f"/api/v1/nodes/{NODE}/status", "PATCH", changes, JSON_PATCH)


def _is_ready(api: Api) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for node in api.items("/api/v1/nodes")
        for condition in node["status"].get("conditions", [])
    )


def _start_containerd(instance: Instance) -> None:
    state = instance.state
    own = state / "containerd"
    own.mkdir()
    (state / "cni").mkdir()
    pods = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(state / "ipam"),
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "0.4.0", "name": "omni", "plugins": [pods, ports]}
    (state / "cni/10-omni.conflist").write_text(json.dumps(network, indent=2))
    # restrict_oom_score_adj: some machines withhold the right to lower a process's score.
    (state / "containerd.toml").write_text(f"""version = 2
root = "{own}/root"
state = "{own}/state"
[grpc]
  address = "{instance.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
""")
    programs = instance.programs
    # It looks for its shim and for runc on the PATH.
    start(
        instance, "containerd", "env", f"PATH={programs.path}", programs.find("containerd"),
        "--config", state / "containerd.toml",
    )  # fmt: skip
    version = (programs.find("ctr"), "--address", instance.containerd_socket, "version")
    wait_until("containerd", 60, lambda: succeeds(*version), f"see {state}/containerd.log")


def _start_kubelet(instance: Instance) -> None:
    state, programs = instance.state, instance.programs
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(state / "pki/ca.crt")}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{instance.name}",
        "failSwapOn": False,
        # This kubelet notices some ends of pods only when it looks at each anew; its default is once a minute.
        "syncFrequency": "5s",
        # How soon it says that it is ready. What has not changed it repeats once a minute.
        "nodeStatusUpdateFrequency": "1s",
        "nodeStatusReportFrequency": "1m",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "enforceNodeAllocatable": [],
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }
    if has_cgroup_v1() and programs.minor >= 31:
        settings["failCgroupV1"] = False
    # Before 1.24 the kubelet took Docker by default; the flag went with 1.27.
    remote = ["--container-runtime=remote"] if programs.minor < 27 else []
    (state / "kubelet.yaml").write_text(json.dumps(settings, indent=2))
    start(
        instance, "kubelet", programs.find("kubelet"), f"--config={state}/kubelet.yaml",
        f"--kubeconfig={state}/kubelet.kubeconfig", f"--hostname-override={NODE}",
        f"--node-ip={instance.node_address}", *remote,
        f"--container-runtime-endpoint=unix://{instance.containerd_socket}",
    )  # fmt: skip


def _start_proxy(instance: Instance) -> None:
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": "10.244.0.0/16",
        # Pods share one bridge: without this, an answer may take the short way back past the rewriting.
        "iptables": {"masqueradeAll": True},
        "conntrack": {"maxPerCore": 0},
        "clientConnection": {"kubeconfig": str(instance.state / "proxy.kubeconfig")},
    }
    (instance.state / "proxy.yaml").write_text(json.dumps(settings, indent=2))
    program = instance.programs.find("kube-proxy")
    start(instance, "proxy", program, f"--config={instance.state}/proxy.yaml", f"--hostname-override={NODE}")
