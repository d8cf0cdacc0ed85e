"""Every command in the documentation is tested. Other tests run it as it is written, or the list below says which test
runs an equivalent command. The arguments of `docker build` are checked here.
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
# A pattern of commands: why no test runs them as they are written, and which test runs an equivalent command.
# test_docs.py parses the commands of omni and of make.
RUN_DIFFERENTLY = {
    r"\. \.venv/bin/activate": "the tests run in it",
    r"(OMNI_KUBERNETES=\S+ )?make \S+( CLUSTER=kind)?": "they make what the tests run in; .ci/run begins with them",
    r"docker build .*": "there is no daemon; hack/cluster/images.py builds the same files",
    r"docker push .*": "there is no registry; tests/kubernetes/pods/test_model_images.py imports such an image",
    r"omni up (examples/digits\S*|mine)\.yaml": "on any port: tests/docs/test_laptop.py",
    r"omni generate \"two plus five, in blue\"( -o seven.png)?": "at its own example: tests/docs/test_laptop.py",
    r"omni generate [a-z]\S+ .*": "where those pods are: tests/kubernetes/pods/test_stages.py; "
    "with tiny models: tests/examples/test_examples.py",
    r"omni serve builtin://digits --omni-secret-file secret": "on any port: tests/worker/coordinator/test_secret.py",
    r"omni serve \S+ --quantization .*": "with the built-in model: tests/worker/pipelines/test_quantization.py",
    r"omni serve \S+ --cfg-parallel-size .*": "with the built-in model: tests/worker/parallel/test_cfg_parallel.py",
    r"omni serve \S+ --dtype .*": "with the built-in model: tests/worker/pipelines/test_loading.py",
    r"omni generate flux .* --extra-arg .*": "tests/operator/commands/test_extra_args.py reads such options",
    r"omni serve .* --lora .*": "with adapters of the built-in model: tests/worker/api/test_loras.py",
    r"omni serve .* --prompt-cache-bytes .*": "with tiny models: "
    "tests/worker/pipelines/interception/test_prompt_cache.py",
    r"omni serve .* --result-cache-bytes .*": "with the built-in model: tests/worker/api/test_result_cache.py",
    r"omni serve .* --cache .*": "with tiny models: tests/worker/pipelines/interception/test_skipping.py",
    r"curl .*/v1/omni/loras.*": "with a file in place of the hub: tests/worker/api/test_loras_at_run_time.py",
    r"OTEL_EXPORTER_OTLP_ENDPOINT=\S+ omni up \S+": "with a collector: tests/worker/telemetry/test_tracing.py",
    r"SSL_CERT_FILE=ca\.crt omni status .*": "with a certificate of its own: tests/worker/api/http/test_https.py",
    r"export OMNI_API_KEY=\.\.\.": "with a key of its own: tests/docs/test_laptop.py",
    r"kubectl port-forward service/digits 8000": "it never ends: tests/kubernetes/pods/traffic.py",
    r"kubectl logs \S+ --previous": "no container there has ended: tests/kubernetes/pods/test_serving.py",
    r"helm test omnipipeline --namespace omni-system": "its pods: tests/kubernetes/pods/test_chart.py",
}
NOT_RUN_AS_WRITTEN = sorted({command for where, command in commands() if not where.startswith("docs/runbooks")} - TYPED)
DOCKER = [command for command in NOT_RUN_AS_WRITTEN if command.startswith("docker build ") and " --file " in command]


def test_every_command_is_run_or_has_a_reason() -> None:
    assert [
        command for command in NOT_RUN_AS_WRITTEN if not any(re.fullmatch(each, command) for each in RUN_DIFFERENTLY)
    ] == []


@pytest.mark.parametrize("pattern", RUN_DIFFERENTLY)
def test_a_reason_belongs_to_a_documented_command_and_names_existing_files(pattern: str) -> None:
    assert any(re.fullmatch(pattern, command) for command in NOT_RUN_AS_WRITTEN)
    for file in re.findall(r"[\w./]+\.py", RUN_DIFFERENTLY[pattern]):
        assert (PROJECT / file).exists(), file


@pytest.mark.parametrize("command", DOCKER)
def test_docker_build_uses_existing_files_and_arguments(command: str) -> None:
    words = shlex.split(command)
    (file,) = (after for word, after in itertools.pairwise(words) if word == "--file")
    declared = re.findall(r"^ARG (\w+)", (PROJECT / file).read_text(), re.MULTILINE)
    given = [after.partition("=")[0] for word, after in itertools.pairwise(words) if word == "--build-arg"]
    assert set(given) <= set(declared)
    assert words[-1] == "."
    if shutil.which("docker"):
        known = subprocess.run(["docker", "build", "--help"], capture_output=True, text=True, check=True).stdout
        assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", known))
