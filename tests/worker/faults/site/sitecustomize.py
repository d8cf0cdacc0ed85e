"""Python imports this first if the folder is on its path: diffusers only loads classes of modules that are imported."""

import sys

if any(word.startswith("omni_worker.") for word in sys.orig_argv):
    import tests.worker.faults.poisoned_model  # noqa: F401
