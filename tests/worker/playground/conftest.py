"""A browser for the tests of the page."""

from collections.abc import Iterator

import pytest

from .pages import CHROMIUM, playwright


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
