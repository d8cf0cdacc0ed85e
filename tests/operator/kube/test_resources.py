"""Paths of the API server, and of Services behind it."""

from omni_operator.kube.resources import CHILDREN, PIPELINES, PODS
from omni_operator.kube.service_proxy import proxy_path


def test_the_path_of_a_resource_depends_on_its_group_and_scope() -> None:
    assert PODS.path(None) == "/api/v1/pods"
    assert PODS.path("gallery", "a") == "/api/v1/namespaces/gallery/pods/a"
    assert CHILDREN["Deployment"].path("gallery") == "/apis/apps/v1/namespaces/gallery/deployments"
    path = "/apis/omnipipeline.dev/v1alpha1/namespaces/gallery/omnipipelines/digits/status"
    assert PIPELINES.path("gallery", "digits", "status") == path


def test_the_proxy_path_names_the_scheme_only_for_https() -> None:
    assert proxy_path("gallery", "digits", "http", "http") == "/api/v1/namespaces/gallery/services/digits:http/proxy"
    path = "/api/v1/namespaces/gallery/services/https:digits:http/proxy"
    assert proxy_path("gallery", "digits", "http", "https") == path
