"""Files of models on the hub: what the hub refuses, and what the user can do about it."""

from pathlib import Path

import pytest

from omni_operator.commands.hub_files import HubError
from tests.hub import Hub
from tests.operator.commands.conftest import MODELS, Omni


@pytest.mark.parametrize("stored_in", ["HF_TOKEN", "a file"])
def test_a_gated_model_can_be_read_with_a_token(
    hub: Hub, omni: Omni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored_in: str
) -> None:
    with pytest.raises(
        HubError, match=r"org/gated: it is gated; accept its terms at http.*/org/gated, and set HF_TOKEN"
    ):
        omni(MODELS, "hf://org/gated")
    if stored_in == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", hub.token)
    else:
        (tmp_path / "token").write_text(f"{hub.token}\n")
    assert "StableDiffusion3Pipeline" in omni(MODELS, "hf://org/gated")[1]


@pytest.mark.parametrize(
    ("name", "token", "says"),
    [
        pytest.param("org/none", "", "has no public model of this name; check the spelling, or set HF_TOKEN", id="401"),
        pytest.param("org/none", "hf_right", "has no model of this name that the token may read", id="404"),
        pytest.param("org/painter", "hf_wrong", "does not accept the token; check HF_TOKEN", id="a wrong token"),
        pytest.param("org/gated", "hf_other", "the account of the token has no access yet; ask for it at", id="403"),
        pytest.param("org/busy", "", "answers 503; try again later", id="503"),
    ],
)
def test_a_refusal_of_the_hub_is_reported_with_a_remedy(
    hub: Hub, omni: Omni, monkeypatch: pytest.MonkeyPatch, name: str, token: str, says: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=f"^{name}: .*{says}"):
        omni(MODELS, f"hf://{name}")


def test_an_unreachable_hub_is_reported(hub: Hub, omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="is not asked while HF_HUB_OFFLINE is set; unset it, or give a folder"):
        omni(MODELS, "hf://org/painter")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127.0.0.1:9 could not be asked \(.*\); check the connection"):
        omni(MODELS, "hf://org/painter")
