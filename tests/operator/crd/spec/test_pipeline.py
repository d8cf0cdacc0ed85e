"""Facts that follow from a pipeline's spec."""

from typing import Any

from omni_operator.crd.parsing import parse
from tests.operator.edits import edited


def test_a_stage_takes_the_common_count_unless_it_has_its_own(digits: dict[str, Any]) -> None:
    common = parse(digits)
    assert common.replicas_of(common.spec.stages[0]) == 2
    own = parse(edited(digits, {"spec.stages.0.replicas": 0}))
    assert own.replicas_of(own.spec.stages[0]) == 0


def test_the_head_belongs_to_the_first_stage_unless_told(digits: dict[str, Any]) -> None:
    assert parse(edited(digits, {"spec.head": {}})).head_stage == 0
