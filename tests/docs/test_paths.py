"""Files and folders that the pages for developers name exist: a page that names a moved module fails here."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
BASES = (PROJECT, PROJECT / "operator/omni_operator", PROJECT / "worker/omni_worker")
PAGES = sorted([PROJECT / "CONTRIBUTING.md", PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")])
FILE = re.compile(r"`((?:[a-z_]+/)+[a-z_]+\.py|(?:[a-z_]+/)+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path):
    missing = [name for name in FILE.findall(page.read_text()) if not any((base / name).exists() for base in BASES)]
    assert not missing
