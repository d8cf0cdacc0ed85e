"""What Python runs first where this folder is on its path: diffusers takes parts of imported modules alone."""

import sys

if "omni_worker.replica.process" in sys.orig_argv:
    import tests.worker.faults.poisoned_model  # noqa: F401
