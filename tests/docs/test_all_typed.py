"""No command of the documentation goes untried: tests type it as it stands there, or the list below says who runs the
same otherwise; what is left is held against the help of its program.
"""

import itertools
import re
import shlex
import shutil
import subprocess

import pytest

from tests.docs import test_laptop
from tests.docs.test_docs import PROJECT, commands
from tests.kubernetes.documented import WITH_PODS, WITHOUT_PODS

TYPED = {*test_laptop.TYPED, *WITH_PODS, *WITHOUT_PODS}
# Command: why it is not typed as it stands, and who runs the same. test_docs.py parses those of omni and of make.
OTHERWISE = {
    r"\. \.venv/bin/activate": "the tests run in it",
    r"make \S+( CLUSTER=kind)?": "they make what the tests run in; .ci/run begins with them",
    r"docker build .*": "there is no daemon; hack/cluster/images.py builds the same files",
    r"omni up (examples/digits\S*|mine)\.yaml": "on any port: tests/docs/test_laptop.py",
    r"omni generate \"two plus five, in blue\"( -o seven.png)?": "at its own example: tests/docs/test_laptop.py",
    r"omni generate .* --pipeline \S+ .*": "where those pods are: tests/kubernetes/pods/test_stages.py; "
    "with tiny models: tests/examples/test_examples.py",
    r"omni serve builtin://digits --omni-secret-file secret": "on any port: tests/worker/coordinator/test_secret.py",
    r"OTEL_EXPORTER_OTLP_ENDPOINT=\S+ omni up \S+": "with a collector: tests/worker/telemetry/test_tracing.py",
    r"SSL_CERT_FILE=ca\.crt omni status .*": "with a certificate of its own: tests/worker/api/test_https.py",
    r"export OMNI_API_KEY=\.\.\.": "with a key of its own: tests/docs/test_laptop.py",
    r"kubectl port-forward service/digits 8000": "it never ends: tests/kubernetes/pods/traffic.py",
    r"kubectl logs \S+ --previous": "no container there has ended: tests/kubernetes/pods/test_serving.py",
    r"helm test omnipipeline --namespace omni-system": "its pods: tests/kubernetes/pods/test_chart.py",
}
LEFT = sorted({command for where, command in commands() if not where.startswith("docs/runbooks")} - TYPED)
DOCKER = [command for command in LEFT if command.startswith("docker ")]


def test_every_command_is_typed_or_has_a_reason_not_to_be() -> None:
    assert [command for command in LEFT if not any(re.fullmatch(each, command) for each in OTHERWISE)] == []


@pytest.mark.parametrize("pattern", OTHERWISE)
def test_a_reason_is_of_a_command_that_is_told_and_names_files_that_are_there(pattern: str) -> None:
    assert any(re.fullmatch(pattern, command) for command in LEFT)
    for file in re.findall(r"[\w./]+\.py", OTHERWISE[pattern]):
        assert (PROJECT / file).exists(), file


@pytest.mark.parametrize("command", DOCKER)
def test_an_image_is_built_from_files_and_arguments_that_are_there(command: str) -> None:
    words = shlex.split(command)
    (file,) = (after for word, after in itertools.pairwise(words) if word == "--file")
    declared = re.findall(r"^ARG (\w+)", (PROJECT / file).read_text(), re.MULTILINE)
    given = [after.partition("=")[0] for word, after in itertools.pairwise(words) if word == "--build-arg"]
    assert set(given) <= set(declared)
    assert words[-1] == "."
    if shutil.which("docker"):
        known = subprocess.run(["docker", "build", "--help"], capture_output=True, text=True, check=True).stdout
        assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", known))
