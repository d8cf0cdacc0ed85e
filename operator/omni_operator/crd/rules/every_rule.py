"""All rules, in the order in which problems are reported. Pure."""

from omni_operator.crd.rules.endpoints import endpoints_have_no_replicas, heads_run_no_endpoints
from omni_operator.crd.rules.models import (
    CLAIMS_STAY_WHAT_THEY_ARE,
    claims_have_a_name_or_a_size,
    gateways_end_tls,
    hub_settings_need_a_hub_model,
    image_settings_need_an_image,
    one_body_fits_into_the_total,
    one_cache_serves_all_models,
    only_load_balancers_have_a_class_and_ranges,
    videos_have_one_storage,
)
from omni_operator.crd.rules.order import head_stage_exists, stage_names_are_unique, stages_fit_together
from omni_operator.crd.rules.parallelism import calls_can_be_divided, devices_are_used
from omni_operator.crd.rules.rule import Rule
from omni_operator.crd.rules.stages import (
    TEMPLATES_CAN_BE_MERGED,
    bounds_suit_the_autoscaler,
    counts_have_one_writer,
    devices_are_named_once,
    loading_suits_the_stage,
    only_generators_have_generation_settings,
    only_stepped_stages_leave_out_calls,
    rollout_can_start,
    settings_suit_the_engine,
)

RULES: tuple[Rule, ...] = (
    hub_settings_need_a_hub_model,
    image_settings_need_an_image,
    one_cache_serves_all_models,
    claims_have_a_name_or_a_size,
    CLAIMS_STAY_WHAT_THEY_ARE,
    videos_have_one_storage,
    one_body_fits_into_the_total,
    only_load_balancers_have_a_class_and_ranges,
    gateways_end_tls,
    stage_names_are_unique,
    stages_fit_together,
    head_stage_exists,
    endpoints_have_no_replicas,
    heads_run_no_endpoints,
    settings_suit_the_engine,
    only_generators_have_generation_settings,
    loading_suits_the_stage,
    only_stepped_stages_leave_out_calls,
    devices_are_used,
    calls_can_be_divided,
    devices_are_named_once,
    rollout_can_start,
    counts_have_one_writer,
    bounds_suit_the_autoscaler,
    TEMPLATES_CAN_BE_MERGED,
)
