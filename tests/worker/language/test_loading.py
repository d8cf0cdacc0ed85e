"""Which models are taken, what is refused and with which words, and what a folder says of its model."""

import json

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

from omni_worker.config import model_source
from omni_worker.errors import LoadError
from omni_worker.language import loading
from omni_worker.language.loading import load, wrap
from tests.worker.language import tiny_models


@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_every_kind_is_taken(kind):
    model = tiny_models.served(kind)
    assert model.context_length == tiny_models.CONTEXT
    assert model.slots.cache.ids == []


def test_a_recurrent_model_is_refused():
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=50, state_size=4))
    with pytest.raises(LoadError, match="linear_attention"):
        wrap(model, tiny_models.tokenizer())


def test_a_model_with_an_attention_of_its_own_is_refused():
    model = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=50))
    with pytest.raises(LoadError, match="attention of its own"):
        wrap(model, tiny_models.tokenizer())


def test_a_model_whose_scores_differ_in_a_batch_is_refused(monkeypatch):
    model = tiny_models.bare("llama")
    forward = model.model.layers[1].forward

    def forgetful(states, **kwargs):
        """Adds something that depends on which other tokens are in the call."""
        return forward(states, **kwargs) + states.mean(1, keepdim=True)

    monkeypatch.setattr(model.model.layers[1], "forward", forgetful)
    with pytest.raises(LoadError, match="other scores in a batch than alone"):
        wrap(model, tiny_models.tokenizer())


def test_a_model_whose_scores_differ_beyond_a_window_is_refused(monkeypatch):
    model = tiny_models.bare("qwen2, one layer sliding")
    forward = model.model.layers[1].forward

    def dependent(states, *args, position_ids, **kwargs):
        """Adds something if any text in the call is longer than the window."""
        more = 2.0 if position_ids.max() >= tiny_models.WINDOW else 0.0
        return forward(states, *args, position_ids=position_ids, **kwargs) + more * torch.arange(states.shape[-1])

    monkeypatch.setattr(model.model.layers[1], "forward", dependent)
    with pytest.raises(LoadError, match="other scores in a batch than alone"):
        wrap(model, tiny_models.tokenizer())


@pytest.mark.parametrize("kind", [kind for kind in tiny_models.KINDS if "longrope" in kind])
def test_a_text_beyond_the_border_of_longrope_has_embeddings_of_its_own(kind):
    assert tiny_models.served(kind).slots.length_borders == (tiny_models.BORDER,)


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("llama", tiny_models.CONTEXT),
        ("phi3, longrope", tiny_models.BORDER),
        ("phi3, longrope and sliding", tiny_models.WINDOW),
        ("llama4, chunked", tiny_models.WINDOW),
    ],
)
def test_texts_stay_below_a_border_that_is_too_far_to_be_checked(monkeypatch, kind, context):
    monkeypatch.setitem(loading.CHECKED_LENGTHS, "cpu", tiny_models.WINDOW)
    assert tiny_models.served(kind).context_length == context


def test_a_folder_of_transformers(tmp_path):
    tiny_models.save(tmp_path, "qwen3", eos_token_id=[7, tiny_models.END])
    model = load(model_source.parse(str(tmp_path)))
    assert model.name == "Qwen3ForCausalLM"
    assert model.defaults.eos_tokens == {7, tiny_models.END}
    assert model.defaults.temperature == 0.0


def test_the_models_own_way_of_drawing_is_the_default(tmp_path):
    tiny_models.save(tmp_path)
    told = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(told))
    defaults = load(model_source.parse(str(tmp_path))).defaults
    assert (defaults.temperature, defaults.top_p, defaults.top_k, defaults.eos_tokens) == (0.6, 0.9, 20, {3})


def test_a_folder_of_diffusers_names_its_language_model(tmp_path):
    tiny_models.save(tmp_path / "thinker")
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "omni.json").write_text(json.dumps({"language": {"subfolder": "thinker", "max_tokens": 16}}))
    assert load(model_source.parse(str(tmp_path))).defaults.max_tokens == 16


@pytest.mark.parametrize(
    ("told", "message"),
    [("{}", "names no language model"), ('{"language": {"max_tokens": "many"}}', "max_tokens"), ("{", "omni.json")],
)
def test_a_folder_that_does_not_say_it_right(tmp_path, told, message):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "omni.json").write_text(told)
    with pytest.raises(LoadError, match=message):
        load(model_source.parse(str(tmp_path)))


def test_a_model_that_is_not_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LoadError, match="cannot be loaded"):
        load(model_source.parse(str(tmp_path)))
