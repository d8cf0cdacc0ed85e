"""`python -m omni_operator.commands.install_crd`: applies this version's CustomResourceDefinition to the cluster.

The chart's upgrade hook runs it, because Helm never upgrades definitions. An old API server gets no rules in CEL.
"""

import argparse
import re
import sys

from omni_operator.crd.schema import definition
from omni_operator.crd.spec.pipeline import GROUP, PLURAL
from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import DEFINITIONS


def main() -> int:
    argparse.ArgumentParser(prog="python -m omni_operator.commands.install_crd", description=__doc__).parse_args()
    try:
        install(Cluster())
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        print(error, file=sys.stderr)
        return int(code)
    print(f"applied {PLURAL}.{GROUP}")
    return 0


def install(cluster: Cluster) -> None:
    """Apply the definition of this version, as far as the API server knows its rules. Raises ApiError, Unreachable."""
    minor = int(re.sub(r"\D", "", cluster.version["minor"]))  # some providers' versions end with a plus
    # Helm 4 applies the definition as its own field manager. Any other manager would make its next installation fail.
    cluster.apply(DEFINITIONS, definition(minor), force=True, manager="helm")


if __name__ == "__main__":
    sys.exit(main())
