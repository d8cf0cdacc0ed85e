"""What a replica says about itself is checked before it is logged, connected to or computed with."""

import pytest
from msgspec.structs import replace

from omni_worker.coordinator.messages import ReplicaLoad, decode_report, encode
from omni_worker.coordinator.registration_check import why_unusable
from omni_worker.coordinator.registry import RegistrationError
from omni_worker.model_card import CallArgument, ModelCard, ServingDefaults

from .builders import CARD, make_registry, registration, report_of

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "address",
    ["tcp://10.0.0.1:9100", "tcp://painter-0.ns.svc:1", "tcp://[fd00::1]:65535", "tcp://h:80"],
)
def test_addresses_of_replicas(address):
    assert why_unusable(registration(address=address)) is None


@pytest.mark.parametrize(
    "address",
    [
        "ipc:///tmp/x",
        "inproc://x",
        "tcp://h:0",
        "tcp://fd00::1:9100",
        "tcp://h:65536",
        "tcp://h",
        "tcp://:9100",
        "tcp://*:9100",
        "tcp://h:9100;lo",
        "tcp://h:9100\n2026 ERROR forged line",
        "tcp://h\x1b[31m:9100",
        "tcp://" + "h" * 300 + ":1",
        "epgm://h:1",
        "tcp://h:١",
    ],
)
def test_other_addresses_are_refused_and_shown_without_control_characters(address):
    with pytest.raises(RegistrationError, match="its address is") as refusal:
        make_registry().register(registration(address=address), 0.0)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ({"size_multiple": 0}, "size_multiple 0: expected 1 to 4096"),
        ({"size_multiple": -8}, "size_multiple"),
        ({"fps": NAN}, "fps nan"),
        ({"fps": INF}, "fps"),
        ({"fps": 0.0}, "fps"),
        ({"frames": 0}, "frames"),
        ({"frame_multiple": 0}, "frame_multiple"),
        ({"steps": -1}, "steps"),
        ({"context_length": 0}, "context_length"),
        ({"mode": "root"}, "mode 'root': expected one of step"),
        ({"image": "many"}, "image"),
        ({"arguments": (CallArgument(name="a\nb", kinds=("text",)),)}, "1 arguments: expected up to 128"),
        ({"arguments": (CallArgument(name="a", kinds=("text",)),) * 129}, "129 arguments"),
        ({"arguments": (CallArgument(name="a", kinds=("code",)),)}, "the argument 'a' in an unknown way"),
        ({"arguments": (CallArgument(name="a", kinds=("text",), default="x" * 2000),)}, "the argument 'a'"),
        ({"pipeline": "P\n2026 ERROR forged"}, "pipeline"),
        ({"pipeline": "x" * 10_000}, "pipeline"),
        ({"defaults": ServingDefaults(guidance_scale=NAN)}, "guidance_scale"),
        ({"defaults": ServingDefaults(width=0)}, "width"),
        ({"defaults": ServingDefaults(negative_prompt="x" * 40_000)}, "negative prompt"),
    ],
)
def test_cards_that_no_model_has_are_refused_with_the_field(card, says):
    message = replace(registration(), card=replace(CARD, **card))
    with pytest.raises(RegistrationError, match=says) as refusal:
        make_registry().register(message, 0.0)
    assert len(str(refusal.value)) < 250


def test_a_complete_card_is_accepted():
    card = ModelCard(
        pipeline="WanPipeline",
        mode="step",
        defaults=ServingDefaults(num_inference_steps=50, guidance_scale=5.0, width=1280, height=720, fps=16.0),
        size_multiple=16,
        image="several",
        video=True,
        frames=81,
        frame_multiple=4,
    )
    assert why_unusable(replace(registration(), card=card)) is None


@pytest.mark.parametrize("field", ["uid", "host", "digest", "engine"])
def test_names_with_control_characters_are_refused(field):
    message = replace(registration(), **{field: "a\r\nb"})
    with pytest.raises(RegistrationError, match=f"its {field.replace('host', 'host name')} is"):
        make_registry().register(message, 0.0)


@pytest.mark.parametrize("step_ms", [NAN, INF, -1.0])
def test_a_load_that_is_no_number_is_malformed(step_ms):
    registry = make_registry()
    replica, _ = registry.register(registration(), 0.0)
    report = report_of(replica)
    with pytest.raises(ValueError, match="float"):
        decode_report(encode(replace(report, load=ReplicaLoad(step_ms=step_ms))))
