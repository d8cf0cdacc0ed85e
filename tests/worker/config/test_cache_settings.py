"""The argument of --cache, which the operator writes and `omni generate` reads, too."""

import argparse

import pytest

from omni_settings.cache import SETTINGS, Cache
from omni_settings.cache import parse as parse_cache
from omni_worker.config.cache_settings import parse
from omni_worker.requests import NO_CACHE, CacheSettings


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("none", NO_CACHE),
        ("none,tolerance=0.1", NO_CACHE),
        ("skip", CacheSettings()),
        ("skip,tolerance=0.05", CacheSettings(tolerance=0.05)),
        ("skip,maxConsecutive=2,tolerance=1", CacheSettings(tolerance=1, max_consecutive=2)),
        ("first-block,threshold=0.2", CacheSettings(mode="first-block", threshold=0.2)),
        ("taylor-seer,interval=3,order=2", CacheSettings(mode="taylor-seer", interval=3, order=2)),
        ("faster", CacheSettings(mode="faster", interval=2)),
        ('{"mode": "mag", "ratios": [1, 0.99]}', CacheSettings(
            mode="mag", threshold=0.06, max_consecutive=3, ratios=(1.0, 0.99)
        )),
    ],
)  # fmt: skip
def test_settings_are_read(text, settings):
    assert parse(text) == settings


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "give one of none, skip, first-block"),
        ("fast", "give one of none, skip, first-block"),
        ("skip,much", "'much' is no setting"),
        ("skip,mode=skip", "'mode=skip' is no setting"),
        ("skip,tolerance=0.1,tolerance=0.2", "given twice"),
        ("skip,tolerance=much", "tolerance: .*number"),
        ("skip,tolerance=0", "tolerance: .*greater than 0"),
        ("skip,tolerance=nan", "tolerance: .*less than or equal to 1"),
        ("skip,maxConsecutive=0", "maxConsecutive: .*greater than or equal to 1"),
        ("skip,maxConsecutive=1.5", "maxConsecutive: .*integer"),
        ("skip,threshold=0.1", "threshold is no setting of skip, which has tolerance and maxConsecutive; remove it"),
        ("text-kv,interval=2", "interval is no setting of text-kv, which has none; remove it"),
        ('{"mode": "mag", "ratios": []}', "ratios: "),
        ("{", "give one of"),
    ],
)
def test_anything_else_is_refused_with_what_to_give(text, complaint):
    with pytest.raises(argparse.ArgumentTypeError, match=complaint):
        parse(text)


@pytest.mark.parametrize("mode", SETTINGS)
def test_a_written_argument_is_read_as_the_same(mode):
    values = {"max_consecutive": 7, "ratios": [1.0, 0.5], "interval": 9, "order": 3}
    settings = {str(Cache.model_fields[name].alias): values.get(name, 0.25) for name in SETTINGS[mode]}
    cache = Cache.model_validate({"mode": mode, **settings})
    assert parse_cache(cache.argument) == cache
