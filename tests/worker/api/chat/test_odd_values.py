"""Odd values of every field of a conversation, at a real head with a real language model."""

import json

import pytest

from tests.worker.api.heads import head
from tests.worker.api.odd_values import check_json, client_at

pytestmark = pytest.mark.processes
STAGES = {"stages": [{"id": 0, "name": "thinker", "engine": "autoregressive"}]}
REST = '"max_tokens": 2, "messages": '
USER = '{"role": "user", "content": "two plus five"}'


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A language model alone."""
    config = tmp_path_factory.mktemp("stages") / "stages.json"
    config.write_text(json.dumps(STAGES))
    with head("builtin://digits", "--engine", "autoregressive", "--stage-config", str(config)) as process:
        yield process.port


def test_odd_values_are_no_errors_of_the_server(port):
    nested = {
        "a message": f"{{{REST}[%]}}",
        "an earlier message": f"{{{REST}[%, {USER}]}}",
        "content": f'{{{REST}[{{"role": "user", "content": %}}]}}',
        "a role": f'{{{REST}[{{"role": %, "content": "x"}}, {USER}]}}',
        "a name": f'{{{REST}[{{"role": "user", "content": "x", "name": %}}]}}',
        "a refusal": f'{{{REST}[{{"role": "assistant", "refusal": %}}, {USER}]}}',
        "a part": f'{{{REST}[{{"role": "user", "content": [%, {{"type": "text", "text": "x"}}]}}]}}',
        "a part's type": f'{{{REST}[{{"role": "user", "content": [{{"type": %, "text": "x"}}]}}]}}',
        "a part's text": f'{{{REST}[{{"role": "user", "content": [{{"type": "text", "text": %}}]}}]}}',
        "a part's image": f'{{{REST}[{{"role": "user", "content": [{{"type": "image_url", "image_url": %}}]}}]}}',
        "an image's url": f'{{"modalities": ["image"], {REST}[{{"role": "user", "content": ['
        '{"type": "image_url", "image_url": {"url": %}}]}]}',
        "logprobs": f'{{"logprobs": true, "top_logprobs": %, {REST}[{USER}]}}',
        "usage": f'{{"stream": true, "stream_options": {{"include_usage": %}}, {REST}[{USER}]}}',
        "a stream's stop": f'{{"stream": true, "stop": %, {REST}[{USER}]}}',
        "stops": f'{{"stop": [%, "x"], {REST}[{USER}]}}',
    }
    base = {"messages": [json.loads(USER)], "max_tokens": 2}
    with client_at(port) as client:
        check_json(client, "/v1/chat/completions", base, nested)
