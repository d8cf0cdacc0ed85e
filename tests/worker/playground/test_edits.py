"""Pictures to start from, in the playground: chosen, dropped, pasted, painted over, and taken from the gallery."""

import base64
import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ..api.heads import digits_as, head, save_specimen
from ..pipelines.survey import specimens
from ..pipelines.zoo.text_llm import qwen3
from .pages import CHROMIUM, WAIT_MS, ask, expect, opened, shoot, violations

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
PROMPT = "a red three on black background"
ODD_NAME = 'my "mask"; it\'s.png'
# What a person does with a mouse or a clipboard, as the page hears of it: an event that carries files.
CARRY = """([kind, files]) => {
  const carried = new DataTransfer();
  for (const [name, type, data] of files) {
    carried.items.add(new File([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], name, { type }));
  }
  const event = kind === "paste"
    ? new ClipboardEvent(kind, { clipboardData: carried, bubbles: true, cancelable: true })
    : new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def starting(tmp_path_factory):
    """Digits that start from a picture."""
    with head(digits_as("QwenImageImg2ImgPipeline", tmp_path_factory.mktemp("img2img"))) as process:
        yield process.port


@pytest.fixture(scope="module")
def painting(tmp_path_factory):
    """Digits that paint within a mask."""
    with head(digits_as("QwenImageInpaintPipeline", tmp_path_factory.mktemp("inpaint"))) as process:
        yield process.port


@pytest.fixture(scope="module")
def referring(tmp_path_factory):
    """A tiny pipeline that takes any number of pictures, or none."""
    (specimen,) = (one for one in specimens() if one.name == "Flux2KleinPipeline")
    pipe, folder = specimen.build(), tmp_path_factory.mktemp("klein")
    pipe.text_encoder = qwen3(layers=28)  # the pipeline reads its ninth, eighteenth and twenty-seventh
    pipe.save_pretrained(folder)
    with head(folder) as process:
        yield process.port


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """A tiny pipeline that makes a picture move."""
    folder = tmp_path_factory.mktemp("moving")
    model = save_specimen(
        "StableVideoDiffusionPipeline", folder, width=32, height=32, num_frames=2, num_inference_steps=2
    )
    with head(model) as process:
        yield process.port


def png(colour="blue", side=32, hole=False) -> bytes:
    """A picture; with a hole, its right half is transparent."""
    picture = Image.new("RGBA", (side, side), colour)
    if hole:
        picture.paste((0, 0, 0, 0), (side // 2, 0, side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def choose(page, *pictures: bytes, label="Input image") -> None:
    files = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": one} for n, one in enumerate(pictures, 1)]
    page.get_by_label(label, exact=True).set_input_files(files)


def choose_mask(page, name="half.png") -> None:
    file = {"name": name, "mimeType": "image/png", "buffer": png(hole=True)}
    page.get_by_label("Mask file").set_input_files(file)


def clear(page):
    return page.locator("#mask").get_by_role("button", name="Clear")


def drag(page, *points: tuple[float, float]) -> None:
    """The mouse over the mask, pressed; from 0 to 1 each way."""
    canvas = page.locator("#mask canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for n, (right, down) in enumerate(points):
        page.mouse.move(box["x"] + right * box["width"], box["y"] + down * box["height"], steps=4)
        if not n:
            page.mouse.down()
    page.mouse.up()


def drawn(page, prompt=PROMPT, **settings) -> np.ndarray:
    """What comes of one more request."""
    done = page.locator(".card .state", has_text="done").count()
    ask(page, prompt, **settings)
    return pixels(finished(page, done + 1))


def carry(page, kind: str, *names: str, type="image/png") -> None:
    file = base64.b64encode(png(side=64)).decode()
    page.evaluate(CARRY, [kind, [[name, type, file] for name in names]])


def finished(page, count: int = 1):
    expect(page.locator(".card .state", has_text="done")).to_have_count(count, timeout=WAIT_MS)
    return page.locator(".card").first


def pixels(card) -> np.ndarray:
    """What a card shows."""
    return decoded(base64.b64decode(card.locator(".frame img").get_attribute("src").partition(",")[2]))


def decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def test_a_picture_is_edited_and_the_edit_edited_again(browser, starting):
    with opened(browser, starting) as page:
        ask(page, PROMPT)
        expect(page.locator("#pictures input:invalid")).to_be_focused()
        choose(page, png())
        little = drawn(page, Strength=0.3, Seed=1)
        card = page.locator(".card").first
        expect(card.get_by_role("img", name="image: 1.png")).to_be_visible()
        much = drawn(page, Strength=1)
        assert np.abs(much - (0, 0, 255)).mean() > np.abs(little - (0, 0, 255)).mean() + 10
        page.locator(".card").first.get_by_role("button", name="Edit", exact=True).click()
        expect(page.get_by_role("button", name="Remove image 1: playground-")).to_be_visible()
        assert np.abs(drawn(page, Strength=0.3) - much).mean() < np.abs(much - (0, 0, 255)).mean() / 2
        page.locator(".card").last.get_by_role("button", name="Reuse settings").click()
        expect(page.get_by_label("Strength", exact=True)).to_have_value("0.3")
        expect(page.get_by_role("button", name="Remove image 1: 1.png")).to_be_visible()


def test_an_edit_is_seen_while_it_is_made_and_can_be_cancelled(browser, starting):
    with opened(browser, starting) as page:
        choose(page, png())
        ask(page, PROMPT, Strength=1, Steps=1000)
        expect(page.locator(".card .state")).to_contain_text("step", timeout=WAIT_MS)
        expect(page.locator(".card .frame img")).to_be_visible(timeout=WAIT_MS)
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".card .state")).to_have_text("cancelled")


def test_what_is_painted_is_made_anew_and_the_rest_is_kept(browser, painting):
    with opened(browser, painting) as page:
        expect(page.get_by_label("Mask file")).to_be_hidden()
        choose(page, png())
        page.get_by_label("Brush").fill("50")
        for right in (0.75, 0.99):
            drag(page, (right, 0.01), (right, 0.99))
        shoot(page, "mask")
        black = drawn(page, Seed=1, Strength=1)
        grey = drawn(page, prompt=PROMPT.replace("black", "grey"))
        changed = np.abs(black - grey).mean(axis=(0, 2))
        assert changed[:8].mean() < 15
        assert changed[24:].mean() > 40
        clear(page).click()
        choose_mask(page)
        assert np.abs(drawn(page) - black).mean() < 5
        clear(page).click()
        ask(page, PROMPT)
        expect(page.get_by_role("alert")).to_contain_text("send a mask", timeout=WAIT_MS)


def test_a_mask_that_was_chosen_is_shown_and_can_be_erased(browser, painting):
    painted_at = "([x, y]) => document.querySelector('#mask canvas').getContext('2d').getImageData(x, y, 1, 1).data[3]"
    with opened(browser, painting) as page:
        choose(page, png())
        choose_mask(page)
        page.wait_for_function(f"({painted_at})([31, 16]) === 255")
        assert page.evaluate(painted_at, [2, 16]) == 0
        page.get_by_label("Erase").check()
        drag(page, (0.95, 0.5))
        assert page.evaluate(painted_at, [30, 16]) == 0
        assert page.evaluate(painted_at, [30, 2]) == 255


def test_several_are_dropped_and_pasted_and_what_is_none_is_told(browser, referring):
    with opened(browser, referring) as page:
        several = page.get_by_label("Input images (optional)", exact=True)
        carry(page, "drop", "1.png", "image.png")
        carry(page, "paste", "image.png")
        expect(page.locator("#pictures .thumbs li")).to_have_count(3)
        carry(page, "drop", "notes.txt", type="text/plain")
        expect(page.get_by_role("alert")).to_contain_text("notes.txt is not a PNG, JPEG or WebP image")
        page.get_by_role("button", name="Remove image 1: 1.png").click()
        expect(several).to_be_focused()
        ask(page, PROMPT, Steps=2, Seed=1, Size="64x64")
        card = finished(page)
        expect(card.locator(".thumbs li")).to_have_count(2)
        card.get_by_text("Request", exact=True).click()
        expect(card.locator("[data-code=python]")).to_contain_text(
            'image=[open("image.png", "rb"), open("3-image.png", "rb")]'
        )
        made = [pixels(card)]
        for count in (1, 0):
            page.get_by_role("button", name="Remove image 1").click()
            ask(page, PROMPT)
            made.append(pixels(finished(page, 3 - count)))
            expect(page.locator(".card").first.locator(".thumbs li")).to_have_count(count)
        assert all(np.abs(one - other).max() > 2 for one, other in itertools.combinations(made, 2)), "all are looked at"


def test_a_picture_is_made_to_move(browser, moving):
    with opened(browser, moving) as page:
        choose(page, png())
        ask(page, "a paper boat")
        card = finished(page)
        expect(card.locator("[data-code=python]")).to_contain_text('input_reference=open("1.png", "rb")')
        expect(card.get_by_role("button", name="Edit", exact=True)).to_be_hidden()


def test_an_edit_that_is_shown_as_code_runs_and_draws_the_same(browser, painting, tmp_path):
    with opened(browser, painting) as page:
        choose(page, png())
        choose_mask(page, ODD_NAME)
        ask(page, "@a red three, it's on black", Seed=1, Strength=0.9)
        card = finished(page)
        shown = pixels(card)
        for link in card.locator(".thumbs a").all():
            with page.expect_download() as saved_file:
                link.click()
            saved_file.value.save_as(tmp_path / link.get_attribute("download"))
        assert {file.name for file in tmp_path.iterdir()} == {"1.png", ODD_NAME}
        card.get_by_text("Request", exact=True).click()
        for language, command in (("curl", ["bash", "-o", "pipefail", "-c"]), ("python", [sys.executable, "-c"])):
            code = card.locator(f"[data-code={language}]").inner_text()
            done = subprocess.run([*command, code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr
            assert np.abs(decoded((tmp_path / "answer.png").read_bytes()) - shown).max() <= 2, language
            (tmp_path / "answer.png").unlink()


def test_everybody_can_edit_in_both_themes_at_three_widths(browser, painting):
    with opened(browser, painting) as page:
        choose(page, png())
        page.get_by_role("button", name="Remove image 1: 1.png").focus()
        for field in (
            page.get_by_label("Brush"),
            page.get_by_label("Erase"),
            clear(page),
            page.get_by_label("Mask file"),
        ):
            page.keyboard.press("Tab")
            expect(field).to_be_focused()
        choose_mask(page)
        ask(page, PROMPT, Seed=1, Strength=1)
        finished(page).get_by_text("Request", exact=True).click()
        carry(page, "paste", "notes.txt", type="text/plain")
        shoot(page, "edit")
        found = violations(page, "edit-")
    assert found == {}, "\n".join(found.values())
