"""The flags of the HTTP API."""

import pytest

from omni_worker.errors import UsageError

from .command_lines import parse


def test_the_length_of_a_prompt_bounds_conversations_too():
    limits = parse("--max-prompt-length", "1000").head.api.limits
    assert (limits.prompt, limits.conversation) == (1000, 1000)
    limits = parse().head.api.limits
    assert (limits.prompt, limits.conversation) == (32_000, 1_000_000)


def test_the_database_of_videos_may_come_by_the_environment(monkeypatch):
    monkeypatch.setenv("OMNI_DATABASE_URL", "sqlite://")
    assert parse().head.api.videos.database == "sqlite://"
    assert parse("--database-url", "sqlite:///a").head.api.videos.database == "sqlite:///a", "a flag goes before it"
    with pytest.raises(UsageError, match=r"--data-dir and \$OMNI_DATABASE_URL exclude each other"):
        parse("--data-dir", "/videos")
    monkeypatch.setenv("OMNI_DATABASE_URL", "")
    assert parse("--data-dir", "/videos").head.api.videos.database is None
