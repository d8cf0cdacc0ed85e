"""The tiny pipelines that several test modules use."""

import pytest

from .tiny import QWEN, build


@pytest.fixture(scope="module")
def qwen():
    return build(QWEN)
