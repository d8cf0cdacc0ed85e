"""Fields of image requests as the parameters of a generation."""

import pytest
from pydantic import ValidationError

from omni_worker.api.images.schemas import ImageGenerationRequest


def test_a_request_may_ask_for_exact_results():
    assert ImageGenerationRequest.model_validate({"prompt": "p"}).generation["exact"] is False
    assert ImageGenerationRequest.model_validate({"prompt": "p", "exact": True}).generation["exact"] is True
    with pytest.raises(ValidationError):
        ImageGenerationRequest.model_validate({"prompt": "p", "exact": "yes"})
