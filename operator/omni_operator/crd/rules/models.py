"""Rules about models, and about the volumes of models and videos."""

from collections.abc import Iterable

from omni_operator.crd.problems import Problem
from omni_operator.crd.quantities import integer_quantity
from omni_operator.crd.rules.rule import Rule, Validation, in_cel
from omni_operator.crd.spec.pipeline import OmniPipeline

STORAGES = ("spec.model.cache", "spec.videos.storage")
OWN_CLAIM = "belongs to a claim that is created, and claimName names one of your own; remove one of the two"
FIXED = "of a claim cannot change; to replace the claim, remove it from the pipeline, then add it again"


@in_cel(
    *(
        Validation(
            part,
            f"!has(self.{key}) || self.source.startsWith('hf://')",
            "belongs to models of the hub; remove it",
            f".{key}",
        )
        for part in ("spec.model", "spec.stages[].model")
        for key in ("revision", "tokenSecretRef")
    )
)
def hub_settings_need_a_hub_model(pipeline: OmniPipeline) -> Iterable[Problem]:
    for path, model in pipeline.models.items():
        if not model.source.startswith("hf://"):
            for key, value in (("revision", model.revision), ("tokenSecretRef", model.token_secret_ref)):
                if value is not None:
                    yield Problem(
                        f"{path}.{key}", f"is only for models of the hub, and the source is {model.source}; remove it"
                    )


@in_cel(
    *(
        Validation(
            part, f"{has_none} || self.source.startsWith('oci://')", "belongs to models in images; remove it", key
        )
        for part in ("spec.model", "spec.stages[].model")
        for key, has_none in (
            (".pullPolicy", "!has(self.pullPolicy)"),
            (".pullSecrets", "!has(self.pullSecrets) || size(self.pullSecrets) == 0"),
        )
    )
)
def image_settings_need_an_image(pipeline: OmniPipeline) -> Iterable[Problem]:
    for path, model in pipeline.models.items():
        if not model.source.startswith("oci://"):
            for key, is_given in (("pullPolicy", model.pull_policy is not None), ("pullSecrets", model.pull_secrets)):
                if is_given:
                    yield Problem(
                        f"{path}.{key}", f"is only for models in images, and the source is {model.source}; remove it"
                    )


@in_cel(
    Validation(
        "spec.stages[].model",
        "!has(self.cache)",
        "one cache serves the models of all stages; move it to spec.model.cache",
        ".cache",
    ),
    Validation(
        "spec",
        "!has(self.model.cache) || self.model.source.startsWith('hf://')"
        " || self.stages.exists(stage, has(stage.model) && stage.model.source.startsWith('hf://'))"
        " || self.stages.exists(stage, has(stage.load) && has(stage.load.compile) && stage.load.compile.cache)",
        "belongs to models of the hub and to load.compile, and no stage has one of them; remove it",
        ".model.cache",
    ),
)
def one_cache_serves_all_models(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        if stage.model and stage.model.cache:
            yield Problem(
                f"spec.stages[{index}].model.cache",
                "is of a single stage, and one cache serves the models of all stages; move it to spec.model.cache",
            )
    downloads = any(model.source.startswith("hf://") for model in pipeline.models.values())
    compiles = any(stage.load.compile and stage.load.compile.cache for stage in pipeline.spec.stages)
    if pipeline.spec.model.cache is not None and not downloads and not compiles:
        yield Problem(
            "spec.model.cache", "is for models of the hub and for load.compile, and no stage has one of them; remove it"
        )


@in_cel(
    *(
        validation
        for part in STORAGES
        for validation in (
            Validation(
                part,
                "has(self.claimName) != has(self.size)",
                "give either claimName for a claim of your own, or size for one that is created",
            ),
            Validation(
                part, "!has(self.claimName) || has(self.size) || !has(self.storageClass)", OWN_CLAIM, ".storageClass"
            ),
            Validation(part, "!has(self.claimName) || has(self.size) || !self.retain", OWN_CLAIM, ".retain"),
        )
    )
)
def claims_have_a_name_or_a_size(pipeline: OmniPipeline) -> Iterable[Problem]:
    for path, storage in zip(STORAGES, (pipeline.spec.model.cache, pipeline.spec.videos.storage), strict=True):
        if storage is None:
            continue
        if (storage.claim_name is None) == (storage.size is None):
            which = "neither claimName nor size" if storage.size is None else "both claimName and size"
            yield Problem(path, f"has {which}; give claimName for a claim of your own, or size for one that is created")
        elif storage.claim_name is not None:
            for key, is_given in (("storageClass", storage.storage_class is not None), ("retain", storage.retain)):
                if is_given:
                    yield Problem(
                        f"{path}.{key}",
                        f"is for a claim that is created, and claimName names one of your own, {storage.claim_name!r};"
                        " remove one of the two",
                    )


def unchanged(key: str) -> str:
    """That a field of a claim that is created is the same as before."""
    return (
        f"!has(self.size) || !has(oldSelf.size) || has(self.{key}) == has(oldSelf.{key})"
        f" && (!has(self.{key}) || self.{key} == oldSelf.{key})"
    )


# Only the API server knows what the object was before.
CLAIMS_STAY_WHAT_THEY_ARE = Rule(
    check=lambda pipeline: (),
    validations=(
        *(Validation(part, unchanged("storageClass"), f"the class {FIXED}", ".storageClass") for part in STORAGES),
        *(
            Validation(
                part,
                "!has(self.size) || !has(oldSelf.size) || quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
                "a claim cannot shrink; to replace it, remove it from the pipeline, then add it again",
                ".size",
            )
            for part in STORAGES
        ),
        Validation(STORAGES[0], unchanged("accessMode"), f"the access mode {FIXED}", ".accessMode"),
    ),
)


@in_cel(
    Validation(
        "spec.videos",
        "!has(self.storage) || !has(self.databaseUrlSecretRef)",
        "videos are kept in a database or in spec.videos.storage; remove one of the two",
        ".databaseUrlSecretRef",
    )
)
def videos_have_one_storage(pipeline: OmniPipeline) -> Iterable[Problem]:
    videos = pipeline.spec.videos
    if videos.storage is not None and videos.database_url_secret_ref is not None:
        yield Problem(
            "spec.videos.databaseUrlSecretRef",
            f"names the Secret {videos.database_url_secret_ref.name!r}, and spec.videos.storage a volume, and videos"
            " are kept in one of them; remove the other",
        )


@in_cel(
    *(
        Validation(
            "spec.service",
            f"{absent} || self.type == 'LoadBalancer'",
            "belongs to a Service of type LoadBalancer; set the type, or remove it",
            key,
        )
        for key, absent in (
            (".loadBalancerClass", "!has(self.loadBalancerClass)"),
            (
                ".loadBalancerSourceRanges",
                "!has(self.loadBalancerSourceRanges) || size(self.loadBalancerSourceRanges) == 0",
            ),
        )
    ),
    Validation(
        "spec.service",
        "self.type != oldSelf.type || has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass)"
        " && (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass)",
        "the class of a Service cannot change; set the type to ClusterIP first",
        ".loadBalancerClass",
    ),
)
def only_load_balancers_have_a_class_and_ranges(pipeline: OmniPipeline) -> Iterable[Problem]:
    service = pipeline.spec.service
    for key, is_given in (
        ("loadBalancerClass", service.load_balancer_class is not None),
        ("loadBalancerSourceRanges", bool(service.load_balancer_source_ranges)),
    ):
        if is_given and service.type != "LoadBalancer":
            yield Problem(
                f"spec.service.{key}",
                f"is for a Service of type LoadBalancer, and the type is {service.type}; set the type, or remove it",
            )


@in_cel(
    Validation(
        "spec",
        "!has(self.service.route) || !has(self.api.tls)",
        "needs an API without TLS, because a Gateway speaks HTTP with it; remove spec.api.tls",
        ".service.route",
    )
)
def gateways_end_tls(pipeline: OmniPipeline) -> Iterable[Problem]:
    if pipeline.spec.service.route is not None and pipeline.spec.api.tls is not None:
        yield Problem(
            "spec.service.route",
            "needs an API without TLS, because a Gateway speaks HTTP with it; remove spec.api.tls, and give the"
            " certificate to the Gateway",
        )


@in_cel(
    Validation(
        "spec.api.limits",
        "!has(self.bodySize) || !has(self.totalBodySize)"
        " || quantity(self.totalBodySize).compareTo(quantity(self.bodySize)) >= 0",
        "must be at least bodySize, or the largest bodies never fit; raise it, or lower bodySize",
        ".totalBodySize",
    )
)
def one_body_fits_into_the_total(pipeline: OmniPipeline) -> Iterable[Problem]:
    one, total = pipeline.spec.api.limits.body_size, pipeline.spec.api.limits.total_body_size
    if one is not None and total is not None and integer_quantity(total) < integer_quantity(one):
        yield Problem(
            "spec.api.limits.totalBodySize",
            f"is {total}, and one body may have {one} (bodySize), so that the largest never fit; raise it, or lower"
            " bodySize",
        )
