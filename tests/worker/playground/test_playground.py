"""The playground in a real Chromium, in front of a thinker and a painter: ask, watch, cancel, fail, lose a replica.

With OMNI_SCREENSHOTS=FOLDER it leaves pictures of the page there, those of the docs among them.
"""

import json
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image

from ..api.audio.sounds import decoded, save_sound
from ..api.heads import head, save_specimen
from ..serving import Pipeline, eventually
from .pages import CHROMIUM, WAIT_MS, ask, expect, opened, shoot, violations

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def pipeline():
    pipeline = Pipeline(
        heartbeat_timeout=3.0,
        stages=[
            {"id": 0, "name": "thinker", "engine": "autoregressive"},
            {"id": 1, "name": "painter", "engine": "diffusion", "input": "text"},
        ],
    )
    try:
        for stage in (0, 1, 1):
            pipeline.add_stage(stage)
        eventually(lambda: len(pipeline.up()) == 3, "all replicas up")
        yield pipeline
    finally:
        pipeline.close()


@pytest.fixture
def page(browser, pipeline):
    with opened(browser, pipeline.head.port) as page:
        yield page


def test_a_picture_comes_with_its_seed_and_can_be_asked_for_again(page):
    ask(page, "two plus five, in blue", Steps=20, Seed=7, Images=2)
    cards = page.locator(".card")
    expect(cards).to_have_count(2)
    expect(page.locator(".card .state", has_text="done")).to_have_count(2, timeout=WAIT_MS)
    expect(cards.nth(1)).to_contain_text("seed 7")
    expect(cards.nth(0)).to_contain_text("seed 8")
    first, second = (cards.nth(i).locator("img").get_attribute("src") for i in (0, 1))
    assert first != second
    cards.nth(1).get_by_role("button", name="Reuse settings").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    page.get_by_label("Images", exact=True).fill("1")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".card .state", has_text="done")).to_have_count(3, timeout=WAIT_MS)
    assert cards.nth(0).locator("img").get_attribute("src") == second
    cards.nth(0).get_by_text("Request", exact=True).click()
    expect(cards.nth(0).locator("[data-code=curl]")).to_contain_text('"seed": 7')
    expect(cards.nth(0).locator("[data-code=python]")).to_contain_text("images.generate")
    shoot(page, "gallery")


def test_a_random_seed_is_part_of_the_request_once_it_is_known(page):
    ask(page, "two plus five, in blue", Steps=4)
    card = page.locator(".card").first
    expect(card.locator(".state", has_text="done")).to_have_count(1, timeout=WAIT_MS)
    seed = card.locator(".asked").text_content().split("seed ")[1].split()[0]
    image = card.locator("img").get_attribute("src")
    expect(card.locator("[data-code=curl]")).to_contain_text(f'"seed": {seed}')
    expect(card.locator("[data-code=python]")).to_contain_text(seed)
    card.get_by_role("button", name="Reuse settings").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value(seed)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".card .state", has_text="done")).to_have_count(2, timeout=WAIT_MS)
    assert page.locator(".card").first.locator("img").get_attribute("src") == image


def test_the_request_can_be_watched_and_cancelled(page, pipeline):
    ask(page, "one plus one, in red", Steps=1000, Previews=3)
    expect(page.locator(".card .state")).to_contain_text("painter-", timeout=WAIT_MS)
    expect(page.locator(".card .state")).to_contain_text("step", timeout=WAIT_MS)
    expect(page.locator("#pipeline .requests")).to_contain_text("request 1: on painter-", timeout=WAIT_MS)
    expect(page.locator(".card img")).to_be_visible(timeout=WAIT_MS)
    shoot(page, "running")
    page.locator(".card").get_by_role("button", name="Cancel").click()
    expect(page.locator(".card .state")).to_have_text("cancelled")
    eventually(lambda: not pipeline.running(), "the request is aborted")


def test_text_is_written_as_it_comes(page):
    page.get_by_label("Text", exact=True).check()
    ask(page, "nine minus three, in red on grey")
    expect(page.locator(".card .frame pre")).to_have_text("a red six on grey background", timeout=WAIT_MS)


def test_a_conversation_is_gone_on_with_until_it_is_begun_anew(page):
    page.get_by_label("Text", exact=True).check()
    ask(page, "one plus one, in red")
    page.get_by_role("button", name="Reply").click()
    expect(page.locator("#thread")).to_contain_text("Continues from “a red two on black background”")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "two plus two, in blue")
    messages = sent.value.post_data_json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    expect(page.locator(".card .state", has_text="done")).to_have_count(2, timeout=WAIT_MS)
    page.get_by_role("button", name="New conversation").click()
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "three plus one, in green")
    assert len(sent.value.post_data_json["messages"]) == 1


def test_what_is_shown_as_python_runs(page, tmp_path):
    ask(page, 'a "true" three, in red', Steps=2, Seed=7)
    page.get_by_text("Request", exact=True).click()
    code = page.locator("[data-code=python]").inner_text()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "answer.png") as picture:
        assert picture.size == (32, 32)
    body = re.search(r"-d '(.*?)' ", page.locator("[data-code=curl]").inner_text(), re.DOTALL)
    assert json.loads(body[1])["prompt"] == 'a "true" three, in red'


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A head with a tiny Wan."""
    model = save_specimen(
        "WanPipeline", tmp_path_factory.mktemp("wan"), width=32, height=32, num_frames=5, num_inference_steps=2
    )
    with head(model) as process:
        yield process


def test_a_video_is_made_and_shown(browser, films):
    with opened(browser, films.port) as page:
        expect(page.get_by_label("Images", exact=True)).to_be_hidden()
        expect(page.get_by_label("Steps", exact=True)).to_have_attribute("placeholder", "auto: 2")
        ask(page, "a paper boat", Seed=3)
        expect(page.locator(".card .state")).to_have_text("done", timeout=WAIT_MS)
        expect(page.locator(".card .asked")).to_have_text("a paper boat · seed 3 · 32x32 · 0.3125 s")
        page.wait_for_function("document.querySelector('video').readyState >= 1")
        assert page.evaluate("document.querySelector('video').videoWidth") == 32
        expect(page.locator("[data-code=python]")).to_contain_text("videos.create")
        shoot(page, "video")


def test_a_video_that_is_cancelled_ends_at_the_server_too(browser, films):
    with opened(browser, films.port) as page:
        ask(page, "a paper boat", Steps=1000)
        expect(page.locator(".card .state")).to_contain_text("step", timeout=WAIT_MS)
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".card .state")).to_have_text("cancelled")
    eventually(lambda: not films.get("/omni/requests").json()["requests"], "the video is aborted")


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """A head with a tiny Stable Audio."""
    model = save_sound("StableAudioPipeline", tmp_path_factory.mktemp("songs"), num_inference_steps=2, seconds=0.25)
    with head(model) as process:
        yield process


def test_a_sound_is_made_played_and_saved(browser, songs, tmp_path):
    with opened(browser, songs.port) as page:
        for label in ("Size", "Images", "Previews"):
            expect(page.get_by_label(label, exact=True)).to_be_hidden()
        expect(page.get_by_label("Seconds", exact=True)).to_have_attribute("placeholder", "auto: 0.25")
        page.get_by_role("combobox", name="Format", exact=True).select_option("flac")
        ask(page, "rain on a tin roof", Seed=3, Seconds=0.5)
        expect(page.locator(".card .state")).to_have_text("done", timeout=WAIT_MS)
        expect(page.locator(".card .asked")).to_have_text("rain on a tin roof · seed 3 · 16 kHz stereo")
        page.wait_for_function("document.querySelector('audio').readyState >= 1")
        assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(0.5, abs=0.01)
        with page.expect_download() as download:
            page.get_by_role("link", name="Save").click()
        download.value.save_as(tmp_path / "saved.flac")
        page.get_by_text("Request", exact=True).click()
        expect(page.locator("[data-code=curl]")).to_contain_text("-o sound.flac")
        code = page.locator("[data-code=python]").inner_text()
        assert violations(page, "sound-") == {}
        page.get_by_role("button", name="Reuse settings").click()
        expect(page.get_by_label("Seconds", exact=True)).to_have_value("0.5")
        expect(page.get_by_role("combobox", name="Format", exact=True)).to_have_value("flac")
        shoot(page, "sound")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    saved, written = ((tmp_path / name).read_bytes() for name in ("saved.flac", "sound.flac"))
    assert saved == written
    samples, rate = decoded(saved)
    assert (samples.shape, rate) == ((2, 8000), 16_000)


def test_a_sound_that_is_refused_says_why(browser, songs):
    with opened(browser, songs.port) as page:
        ask(page, "rain", Seconds=30)
        expect(page.get_by_role("alert")).to_contain_text("longer than the model maximum", timeout=WAIT_MS)


def test_everybody_can_use_it_in_both_themes_at_three_widths(page):
    """No violation that axe knows of, with a picture, a text, a failure, and a request under way on the page."""
    ask(page, "two plus five, in blue", Steps=4, Seed=7)
    ask(page, "a red three", Size="33x33")
    expect(page.get_by_role("alert")).to_contain_text("multiple of", timeout=WAIT_MS)
    page.get_by_label("Text", exact=True).check()
    ask(page, "one plus one, in red")
    expect(page.locator(".card .state", has_text="done")).to_have_count(2, timeout=WAIT_MS)
    page.get_by_text("Request", exact=True).first.click()
    page.get_by_role("button", name="Reply").click()
    page.get_by_label("Image", exact=True).check()
    ask(page, "one plus one, in red", Size="auto", Steps=1000)
    expect(page.locator(".card .state").first).to_contain_text("step", timeout=WAIT_MS)
    found = violations(page)
    page.get_by_role("button", name="Cancel").first.click()
    assert found == {}, "\n".join(found.values())


def test_a_refusal_says_what_to_do(page):
    ask(page, "a red three", Size="33x33")
    expect(page.get_by_role("alert")).to_contain_text("multiple of", timeout=WAIT_MS)


def test_the_keyboard_is_enough(page):
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.type("one plus two, in green")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".card .state")).to_have_text("done", timeout=WAIT_MS)


def test_a_phone_and_the_dark_show_all_of_it(browser, pipeline):
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{pipeline.head.port}/")
    expect(page.get_by_text("ready", exact=True)).to_be_visible(timeout=WAIT_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
    shoot(page, "phone")
    context.close()


def test_a_replica_that_is_lost_is_seen_and_its_request_goes_on(page, pipeline):
    ask(page, "one plus one, in red", Steps=300, Seed=3)
    expect(page.locator(".card .state")).to_contain_text("step", timeout=WAIT_MS)
    (running,) = pipeline.running()
    painters = [replica for replica in pipeline.replicas() if replica["stage"] == "painter"]
    (victim,) = [replica for replica in painters if replica["id"] == running["replica"]]
    (process,) = [one for one in pipeline.headless if f":{_data_port(one)}" in victim["address"]]
    process.popen.send_signal(signal.SIGKILL)
    expect(page.locator("#pipeline .ERROR, #pipeline .DOWN")).to_have_count(1, timeout=WAIT_MS)
    expect(page.locator(".card .state")).to_have_text("done", timeout=WAIT_MS)


def _data_port(process) -> str:
    return process.argv[process.argv.index("--omni-replica-port") + 1]
