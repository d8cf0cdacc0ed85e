"""The kinds of objects that the operator reads and writes, and the paths under which the API server keeps them."""

from typing import NamedTuple

from omni_operator.crd.spec.pipeline import GROUP, KIND, PLURAL, VERSION


class Resource(NamedTuple):
    """A kind of object in one version, and where the API server keeps it."""

    kind: str
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}".removeprefix("/")

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of a list, of one object, or of a part of an object. Without a namespace: of all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return root + scope + "".join(f"/{part}" for part in (self.plural, name, subresource) if part)


PIPELINES = Resource(KIND, GROUP, VERSION, PLURAL)
DEFINITIONS = Resource("CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions")
PODS = Resource("Pod", "", "v1", "pods")
# Only created: a client that may get, list or patch Secrets can read all of them.
SECRETS = Resource("Secret", "", "v1", "secrets")
EVENTS = Resource("Event", "", "v1", "events")
LEASES = Resource("Lease", "coordination.k8s.io", "v1", "leases")

DAEMON_SETS = Resource("DaemonSet", "apps", "v1", "daemonsets")

CHILDREN = {
    resource.kind: resource
    for resource in (
        Resource("ServiceAccount", "", "v1", "serviceaccounts"),
        Resource("ConfigMap", "", "v1", "configmaps"),
        Resource("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims"),
        Resource("Service", "", "v1", "services"),
        Resource("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies"),
        Resource("Deployment", "apps", "v1", "deployments"),
        DAEMON_SETS,
        Resource("Job", "batch", "v1", "jobs"),
    )
}
"""The children's kinds that every cluster has in the same version."""

DISRUPTION_BUDGETS = tuple(
    Resource("PodDisruptionBudget", "policy", version, "poddisruptionbudgets") for version in ("v1", "v1beta1")
)
"""Newest version first. Kubernetes 1.21 added v1, and 1.25 removed v1beta1."""

CLAIM_TEMPLATES = Resource("ResourceClaimTemplate", "resource.k8s.io", "v1", "resourceclaimtemplates")
"""Of claims of devices that are allocated dynamically. Kubernetes 1.34 added it."""

POD_MONITORS = Resource("PodMonitor", "monitoring.coreos.com", "v1", "podmonitors")
HTTP_ROUTES = Resource("HTTPRoute", "gateway.networking.k8s.io", "v1", "httproutes")
ADD_ONS = (POD_MONITORS, HTTP_ROUTES)
"""Kinds of other projects, which a cluster may have."""
OPTIONAL_KINDS = (DAEMON_SETS.kind, *(resource.kind for resource in ADD_ONS))
"""Kinds of children that a pipeline does not need to serve."""

SECURITY_CONTEXT_CONSTRAINTS = Resource(
    "SecurityContextConstraints", "security.openshift.io", "v1", "securitycontextconstraints"
)
"""What OpenShift assigns user and group ids by."""
