"""The argument of --cache."""

import argparse

import pytest

from omni_worker.config.cache_settings import parse
from omni_worker.requests import NO_CACHE, CacheSettings


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("none", NO_CACHE),
        ("skip", CacheSettings()),
        ("skip,tolerance=0.05", CacheSettings(tolerance=0.05)),
        ("skip,maxConsecutive=2,tolerance=0.5", CacheSettings(tolerance=0.5, max_consecutive=2)),
    ],
)
def test_settings_are_read(text, settings):
    assert parse(text) == settings


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "give none, or skip"),
        ("fast", "give none, or skip"),
        ("none,tolerance=0.1", "give none, or skip"),
        ("skip,much", "'much' is no setting"),
        ("skip,mode=skip", "'mode=skip' is no setting"),
        ("skip,tolerance=0.1,tolerance=0.2", "given twice"),
        ("skip,tolerance=much", "tolerance"),
        ("skip,tolerance=0", "above 0 and at most 1"),
        ("skip,tolerance=nan", "above 0 and at most 1"),
        ("skip,maxConsecutive=0", "from 1 to 100"),
        ("skip,maxConsecutive=1.5", "max_consecutive"),
    ],
)
def test_anything_else_is_refused_with_what_to_give(text, complaint):
    with pytest.raises(argparse.ArgumentTypeError, match=complaint):
        parse(text)
