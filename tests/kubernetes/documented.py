"""The commands of the documentation and of the examples that are for a cluster, by what they need of it; those of the
runbooks have a test of their own, tests/kubernetes/pods/test_runbooks.py."""

from tests.docs.test_docs import commands

TYPED = list(
    dict.fromkeys(
        command
        for where, command in commands()
        if command.startswith(("kubectl ", "openssl ", "helm ")) and not where.startswith("docs/runbooks")
    )
)
NEED_PODS = ("logs", "port-forward", "test")


def verb(command: str) -> str:
    """What a command does."""
    program, first, *_ = command.split()
    return program if program == "openssl" else first


def needs_pods(command: str) -> bool:
    """Whether a command is about pods that run, of a pipeline or of the installed chart."""
    return verb(command) in NEED_PODS or command.startswith("kubectl --namespace omni-system")


WITHOUT_PODS = [command for command in TYPED if not needs_pods(command)]
HELM = [command for command in WITHOUT_PODS if command.startswith("helm ")]
# One forwards until it is stopped, and one is for a container that has died; the chart's own test has its own file.
WITH_PODS = [
    command
    for command in TYPED
    if needs_pods(command) and not {"port-forward", "--previous", "helm"} & set(command.split())
]
