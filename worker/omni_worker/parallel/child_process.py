"""What every child process with a model needs: a safe environment, and to end with its parent.

The parent has the other end of the child's stdin, which closes with it.
"""

import os
import threading
from collections.abc import Mapping


def safe_path(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which a child finds its modules, but none in the folder where it happens to run.

    Somebody may run it in the folder of a model, whose files would shadow modules or be imported as such.
    """
    folders = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    absolute = os.pathsep.join(folder for folder in folders if os.path.isabs(folder))  # noqa: PTH117
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": absolute}


def end_with_parent() -> None:
    """End this process as soon as its stdin closes. Read everything else from stdin before."""
    threading.Thread(target=_exit_at_end_of_stdin, name="parent", daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
