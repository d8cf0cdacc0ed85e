"""The commands of the documentation and of the examples that are for a cluster; those of the runbooks have a test of
their own, tests/kubernetes/pods/test_runbooks.py."""

from tests.docs.test_docs import commands

TYPED = list(
    dict.fromkeys(
        command
        for where, command in commands()
        if command.startswith(("kubectl ", "openssl ")) and not where.startswith("docs/runbooks")
    )
)
NEED_PODS = ("logs", "port-forward")


def verb(command: str) -> str:
    """What a command does."""
    program, first, *_ = command.split()
    return first if program == "kubectl" else program


def needs_pods(command: str) -> bool:
    """Whether a command is about pods that run, of a pipeline or of the installed chart."""
    return verb(command) in NEED_PODS or command.startswith("kubectl --namespace omni-system")
