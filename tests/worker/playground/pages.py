"""The playground's page in a real Chromium. With OMNI_SCREENSHOTS=FOLDER the tests leave pictures of it there."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get("OMNI_SCREENSHOTS")
WAIT_MS = 180_000
SEEN = {f"{theme}, {width} wide": (theme, width) for theme in ("light", "dark") for width in (390, 820, 1280)}


@contextlib.contextmanager
def opened(browser, port) -> Iterator:
    """The page of a head, in a tab of its own, which must not complain."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "Content Security" in line.text else None)
    page.goto(f"http://127.0.0.1:{port}/")
    expect(page.get_by_text("ready", exact=True)).to_be_visible(timeout=WAIT_MS)
    yield page
    assert not complaints
    context.close()


def expect(locator):
    return playwright.expect(locator)


def ask(page, prompt: str, **settings) -> None:
    """Fill in the form, and send it."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    for label, value in settings.items():
        page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_role("button", name="Generate").click()


def shoot(page, name: str) -> None:
    """A picture of the page as it is, where pictures are wanted."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"playground-{name}.png", full_page=True)


def violations(page, name: str = "") -> dict[str, str]:
    """What axe finds on the page as it is, by theme and width; no width lets it scroll sideways."""
    found = {}
    for row, (theme, width) in SEEN.items():
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 900})
        results = Axe().run(page)
        found |= {row: results.generate_report()} if results.violations_count else {}
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shoot(page, f"{name}{theme}-{width}")
    return found
