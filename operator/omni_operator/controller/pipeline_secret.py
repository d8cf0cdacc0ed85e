"""The secret that the processes of one pipeline share: made once, at random, and kept in a Secret that it owns.

The one place in the control plane that needs chance, and the one child that is only ever read and made: Secrets are
neither listed nor watched. Whoever deletes or edits it gives the pipeline another secret, with which its pods start
anew.
"""

import base64
import logging
import secrets
from collections.abc import Callable

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import SECRETS
from omni_operator.planning.manifests.config import keys_name, keys_secret
from omni_operator.planning.manifests.ownership import controller_uid
from omni_operator.planning.topology.files import KEYS_FILE

logger = logging.getLogger(__name__)

BYTES = 32


class NotOurs(Exception):
    """Something else has the name of the pipeline's Secret."""


def new_secret() -> str:
    """64 hexadecimal digits that nobody can guess."""
    return secrets.token_hex(BYTES)


def shared_secret(cluster: Cluster, pipeline: OmniPipeline, confirm: Callable[[], None] = lambda: None) -> str:
    """The secret of a pipeline, made where there is none that serves, once `confirm` has not raised.

    Raises NotOurs, ApiError.
    """
    name = keys_name(pipeline)
    found = cluster.get(SECRETS, pipeline.namespace, name)
    if found and controller_uid(found) != pipeline.metadata.uid:
        raise NotOurs(f"Secret {name} exists and is not ours; rename it, or the pipeline")
    kept = content(found) if found else ""
    if len(kept.strip()) >= BYTES:
        return kept
    confirm()
    made = new_secret()
    cluster.apply(SECRETS, keys_secret(pipeline, made), force=found is not None)
    logger.info("applied Secret %s/%s", pipeline.namespace, name)
    return made


def content(found: Object) -> str:
    """What a Secret holds for the pods; empty where that is nothing."""
    return base64.b64decode((found.get("data") or {}).get(KEYS_FILE, "")).decode("latin-1")
