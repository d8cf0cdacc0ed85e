"""Python imports this first if the folder is on its path: diffusers only loads classes of modules that are imported."""

import sys

if "omni_worker.replica.process" in sys.orig_argv:
    import tests.worker.faults.poisoned_model  # noqa: F401
