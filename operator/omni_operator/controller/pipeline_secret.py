"""The Secret that the processes of one pipeline share: random, created once, and used until somebody deletes it.

The operator may create Secrets, and neither read nor change any. So each Secret has a name of its own, which the pods
name in their volumes: from there a pass knows it. To find out whether it still exists, the operator asks the server to
create it again, as a dry run. Another Secret has another name, with which the Deployments roll.
"""

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from omni_operator.crd.objects import Object, PipelineKey
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import SECRETS
from omni_operator.planning.manifests.config import keys_name, keys_secret
from omni_operator.planning.manifests.ownership import controller_uid
from omni_operator.planning.manifests.pod import keys_name_of

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
SUFFIX_BYTES = 4
"""Random bytes in the name of a Secret, so that nobody can create one of that name first."""


def new_secret() -> str:
    """64 random hexadecimal digits."""
    return secrets.token_hex(SECRET_BYTES)


@dataclass
class KnownSecret:
    """The name of a Secret of the pipeline with this uid, and whether it need not be looked for now."""

    uid: str
    name: str = ""
    is_current: bool = True


class PipelineSecrets:
    """The Secrets of all pipelines. Thread-safe, but two calls of `name_for` the same pipeline must not overlap."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[PipelineKey, KnownSecret] = {}

    def name_for(self, pipeline: OmniPipeline, live: Sequence[Object]) -> str:
        """The name of the pipeline's Secret. Creates one if it has none. Raises ApiError.

        `live`: the pipeline's children
        """
        key, uid = (pipeline.namespace, pipeline.name), pipeline.metadata.uid
        known = self._known.get(key)
        if known is None or known.uid != uid:
            known = KnownSecret(uid)
        elif known.name and known.is_current:
            return known.name
        # A call of `look_again` meanwhile changes this entry, and the next pass looks.
        self._known[key] = entry = KnownSecret(uid, known.name)
        mounted = mounted_names(live, uid)
        names = dict.fromkeys(name for name in (known.name, *mounted) if name)
        try:
            entry.name = next((name for name in names if self._exists(pipeline, name, name in mounted)), "")
            if not entry.name:
                entry.name = keys_name(pipeline, secrets.token_hex(SUFFIX_BYTES))
                self._create(pipeline, entry.name)
        except Exception:
            entry.is_current = False  # the answer may be lost, so the next pass looks for it first
            raise
        return entry.name

    def look_again(self, key: PipelineKey) -> None:
        """The next pass looks whether the pipeline's Secret still exists."""
        if known := self._known.get(key):
            known.is_current = False

    def look_for_all_again(self) -> None:
        """All next passes look whether their Secrets still exist."""
        for key in list(self._known):
            self.look_again(key)

    def forget(self, key: PipelineKey) -> None:
        """The pipeline is deleted."""
        self._known.pop(key, None)

    def _exists(self, pipeline: OmniPipeline, name: str, is_mounted: bool) -> bool:
        """Whether there is a Secret of this name.

        If the server does not say, one that pods mount is taken to exist, so that they need not restart. Of another
        one, which the operator tried to create, that is not known: raises ApiError.
        """
        try:
            self._cluster.create(SECRETS, keys_secret(pipeline, name, new_secret()), is_dry_run=True)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return True
            if not is_mounted:
                raise
            logger.warning("cannot see whether Secret %s/%s exists: %s", pipeline.namespace, name, error)
            return True
        return False

    def _create(self, pipeline: OmniPipeline, name: str) -> None:
        self._cluster.create(SECRETS, keys_secret(pipeline, name, new_secret()))
        logger.info("created Secret %s/%s", pipeline.namespace, name)


def mounted_names(live: Iterable[Object], uid: str) -> list[str]:
    """The Secrets that the Deployments of the pipeline with this uid give their pods, each once."""
    ours = [child for child in live if child["kind"] == "Deployment" and controller_uid(child) == uid]
    names = [keys_name_of(child["spec"]["template"]) for child in ours]
    return [name for name in dict.fromkeys(names) if name]
