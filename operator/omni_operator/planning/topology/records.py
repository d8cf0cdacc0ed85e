"""The result of the planning of processes: a `Topology` of one head and the headless processes of every stage."""

from dataclasses import dataclass

from omni_operator.crd.spec.parts import SecretKey
from omni_operator.crd.spec.stage import Stage
from omni_operator.planning.topology.model_sources import ModelImage

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class HeadPorts:
    """The ports of a head. Each replica inside it has a data port of its own: `data`, `data` + 1, …"""

    api: int = 8000
    master: int = 9000
    coordinator: int = 9001
    coordinator_pub: int = 9002
    data: int = 9100


@dataclass(frozen=True)
class ReplicaPorts:
    """The ports of a headless process: probes and metrics, and one data port a replica: `data`, `data` + 1, …"""

    http: int = 8000
    data: int = 9100


CLUSTER_HEAD = HeadPorts()
CLUSTER_REPLICA = ReplicaPorts()


@dataclass(frozen=True)
class Process:
    """One kind of process. A cluster runs `copies` pods of it; one machine has a Process for each copy."""

    name: str
    stage: Stage
    """The stage of its replicas. A head has one even if it has no replicas."""
    stage_id: int
    is_head: bool
    arguments: tuple[str, ...]
    """The command line after `omni`."""
    http_port: int
    data_ports: tuple[int, ...]
    """One for each replica in the process."""
    copies: int
    devices: int
    """Accelerators of one copy, for all its replicas."""
    resource: str | None
    """The Kubernetes resource of one accelerator; None for the CPU, and for devices that are claimed."""
    claims: tuple[str, ...]
    """PersistentVolumeClaims of the models that the process reads."""
    image: ModelImage | None
    """The image of the model that the process loads; a head without replicas loads none."""
    lora_images: tuple[tuple[str, ModelImage], ...]
    """The images of the LoRA adapters that it loads, with the folders in which it finds them."""
    downloads: bool
    """Whether the process reads a model from the hub."""
    token: SecretKey | None
    """The Secret with the model hub's access token."""
    startup_seconds: int
    """Longest time until the process has started."""
    drain_seconds: int
    """Longest time the process may take to finish its requests."""

    @property
    def keeps_code(self) -> bool:
        """Whether its replicas keep what they compile next to the models from the hub."""
        return bool(self.data_ports and self.stage.load.compile and self.stage.load.compile.cache)

    @property
    def claims_devices(self) -> bool:
        """Whether its devices are allocated dynamically, by a claim of each replica."""
        return bool(self.devices and self.stage.accelerator and self.stage.accelerator.is_claimed)


@dataclass(frozen=True)
class Topology:
    """Every process of one pipeline."""

    pipeline: str
    namespace: str
    stages: tuple[Stage, ...]
    stage_config: str
    """The file that lists the stages for the head. It has no counts, so that scaling does not restart the head."""
    head: Process
    replicas: tuple[Process, ...]
    """The headless processes."""

    @property
    def processes(self) -> tuple[Process, ...]:
        return (self.head, *self.replicas)

    @property
    def stages_without_replicas(self) -> tuple[str, ...]:
        """Names of the stages that have a count of 0 everywhere, so that no request gets past them.

        A stage that autoscaling can wake from 0 is not one of them.
        """
        served = {process.stage.name for process in self.processes if process.copies and process.data_ports}
        served |= {stage.name for stage in self.stages if stage.may_be_at_zero or stage.is_endpoint}
        return tuple(stage.name for stage in self.stages if stage.name not in served)
