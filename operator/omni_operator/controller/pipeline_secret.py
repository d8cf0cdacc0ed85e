"""The secret that the processes of one pipeline share: random, generated once, and kept in a Secret of the pipeline.

The control plane needs randomness only here. Secrets are read and written by name, and never listed or watched. If
somebody deletes or edits the Secret, the pipeline gets another secret, and its pods restart with it.
"""

import base64
import logging
import secrets
from collections.abc import Callable

from omni_operator.controller.errors import NameConflict
from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import SECRETS
from omni_operator.planning.manifests.config import keys_name, keys_secret
from omni_operator.planning.manifests.ownership import controller_uid
from omni_operator.planning.topology.files import KEYS_FILE

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
"""Random bytes of a generated secret, and the least number of characters of any."""


def new_secret() -> str:
    """64 random hexadecimal digits."""
    return secrets.token_hex(SECRET_BYTES)


def shared_secret(cluster: Cluster, pipeline: OmniPipeline, before_write: Callable[[], None] = lambda: None) -> str:
    """The pipeline's secret. Generates one if there is no Secret, or if its content is too short.

    Calls `before_write` before it writes. Raises NameConflict if the Secret belongs to something else; ApiError; and
    what `before_write` raises.
    """
    name = keys_name(pipeline)
    live = cluster.get(SECRETS, pipeline.namespace, name)
    if live and controller_uid(live) != pipeline.metadata.uid:
        raise NameConflict(f"Secret {name} exists and is not ours; rename it, or the pipeline")
    current = content(live) if live else ""
    if len(current.strip()) >= SECRET_BYTES:
        return current
    before_write()
    generated = new_secret()
    cluster.apply(SECRETS, keys_secret(pipeline, generated), force=live is not None)
    logger.info("applied Secret %s/%s", pipeline.namespace, name)
    return generated


def content(secret: Object) -> str:
    """The value that pods read from a Secret; empty if it has none."""
    return base64.b64decode((secret.get("data") or {}).get(KEYS_FILE, "")).decode("latin-1")
