"""`python -m omni_operator.commands.install_crd`: applies this version's CustomResourceDefinition to the cluster.

The chart's upgrade hook runs it, because Helm never upgrades definitions.
"""

import argparse
import sys

from omni_operator.crd.schema import definition
from omni_operator.crd.spec.pipeline import GROUP, PLURAL
from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import DEFINITIONS


def main() -> int:
    argparse.ArgumentParser(prog="python -m omni_operator.commands.install_crd", description=__doc__).parse_args()
    # Helm 4 applies the definition as its own field manager. Any other manager would make its next installation fail.
    Cluster().apply(DEFINITIONS, definition(), force=True, manager="helm")
    print(f"applied {PLURAL}.{GROUP}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
