"""Fixtures for the tests of stage pools."""

import pytest

from omni_worker.orchestrator import stage_pool, suspects


@pytest.fixture
def hurried(monkeypatch):
    """Divide the pool's timeouts by 100."""
    for module, name in (
        (stage_pool, "DISPATCH_SECONDS"),
        (stage_pool, "RESTART_DISPATCH_SECONDS"),
        (stage_pool, "RETRY_DISPATCH_SECONDS"),
        (suspects, "SECOND_REPLICA_SECONDS"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) / 100)
