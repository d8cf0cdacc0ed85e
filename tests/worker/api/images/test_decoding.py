"""Images that clients send: what is accepted, what is refused before it is decoded, and how memory is bounded."""

import asyncio
import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from omni_worker.api.images import decoding
from omni_worker.api.images.data_urls import decode_data_url
from omni_worker.api.images.decoding import ImageDecoder
from omni_worker.api.images.headers import MAX_SCANS, read_header
from omni_worker.api.images.pixel_budget import PixelBudget
from omni_worker.errors import RequestError
from tests.worker.api.sample_images import half_transparent, solid_image

MAX_PIXELS = 64 * 64
RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))


def file_of(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode(*files, masks=(), max_pixels=MAX_PIXELS, **options):
    async def run():
        return await ImageDecoder(max_pixels).decode(files, "image", masks, **options)

    return asyncio.run(run())


def refusal(*files, **options):
    with pytest.raises(RequestError) as caught:
        decode(*files, **options)
    assert caught.value.kind == "invalid"
    return caught.value


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(png, *chunks):
    """A PNG file with more chunks after its header."""
    end = len(b"\x89PNG\r\n\x1a\n") + 25
    return png[:end] + b"".join(chunks) + png[end:]


# ---- what is the same image


@pytest.mark.parametrize(
    ("deep", "exact"),
    [
        (RAMP.astype(np.uint16) * 257, True),
        (RAMP.astype(np.uint16) * 256 + 128, False),
    ],
)
def test_a_16_bit_grey_image_is_its_8_bit_copy(deep, exact):
    (image,) = decode(file_of(Image.fromarray(deep))).images
    (expected,) = decode(file_of(Image.fromarray(RAMP))).images
    assert np.abs(image.astype(int) - expected).max() <= (0 if exact else 1)


def test_a_16_bit_grey_image_keeps_its_transparent_colour():
    values = np.where(RAMP > 127, 65535, 0).astype(np.uint16)
    decoded = decode(file_of(Image.fromarray(values), transparency=65535), takes_mask=True)
    assert (decoded.mask == np.where(RAMP > 127, 255, 0)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_png_is_accepted(mode):
    (image,) = decode(file_of(Image.fromarray(np.where(RAMP > 127, 255, 0).astype(np.uint8)).convert(mode))).images
    assert image.shape == (32, 32, 3)
    assert np.abs(image[..., 0].astype(int) - np.where(RAMP > 127, 255, 0)).max() == 0


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_mode_of_jpeg_is_accepted(mode):
    assert decode(file_of(solid_image("red", mode="RGB").convert(mode), "JPEG")).images[0].shape == (32, 32, 3)


def test_several_pictures_in_one_jpeg_are_the_first_one():
    pictures = [solid_image("red"), solid_image("blue")]
    (image,) = decode(file_of(pictures[0], "MPO", save_all=True, append_images=pictures[1:])).images
    assert image[0, 0, 0] > 200


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)), id="a long text"),
        pytest.param(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 2_000_000), id="a long description"),
        pytest.param(chunk(b"iCCP", b"profile\0\0" + b"not compressed"), id="a broken profile"),
        pytest.param(chunk(b"pHYs", b"short"), id="a short chunk"),
        pytest.param(chunk(b"eXIf", b"garbage"), id="broken Exif"),
        pytest.param(chunk(b"tEXt", b"a\0b")[:-4] + b"crc!", id="a wrong checksum of a text"),
        pytest.param(chunk(b"prVt", b"x") * 1000, id="unknown chunks"),
    ],
)
def test_metadata_does_not_make_a_png_unreadable(extra):
    (image,) = decode(with_chunks(file_of(Image.fromarray(RAMP)), extra)).images
    assert (image[..., 0] == RAMP).all()


def test_an_image_is_turned_as_its_camera_was_held():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = solid_image("blue").crop((0, 0, 32, 16))
    for format in ("JPEG", "PNG", "WEBP"):
        decoded = decode(file_of(image, format, exif=exif))
        assert decoded.images[0].shape == (32, 16, 3), format
        assert decoded.size == (16, 32)


def test_broken_exif_of_a_jpeg_is_ignored():
    plain = file_of(solid_image(), "JPEG")
    exif = b"Exif\0\0MM\0\x2a\xff\xff\xff\xff"
    broken = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert decode(broken).images[0].shape == (32, 32, 3)


# ---- data: URLs

PNG = file_of(solid_image())
BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"DATA:IMAGE/PNG;BASE64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:image/png;charset=utf-8;base64,{BASE64}",
        f"data:image/png; base64,{BASE64}",
        f"  data:image/png;base64,{BASE64}\n",
        "data:image/png;base64," + base64.encodebytes(PNG).decode(),
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        "data:image/png;base64," + base64.urlsafe_b64encode(PNG).decode(),
        "data:image/png;base64," + BASE64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
        f"data:image/jpeg;base64,{BASE64}",
    ],
)
def test_every_spelling_of_a_data_url_is_the_file(url):
    assert decode_data_url(url, "messages") == PNG


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://example.org/cat.png", "fetches nothing"),
        ("", "fetches nothing"),
        ("data:image/png;base64", "comma"),
        ("data:,", "no data"),
        ("data:image/png;base64,", "no data"),
        ("data:image/png;base64,???", "not in base64"),
        ("data:image/png;base64,aé", "not in base64"),
    ],
)
def test_other_urls_are_refused_with_the_reason(url, says):
    with pytest.raises(RequestError, match=says) as caught:
        decode_data_url(url, "messages")
    assert caught.value.param == "messages"


# ---- what is refused, with the reason


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "an empty file"),
        (b"no picture", "not an image"),
        (file_of(solid_image(), "GIF"), "a GIF file: send PNG"),
        (file_of(solid_image(), "BMP"), "a BMP file"),
        (file_of(solid_image(), "TIFF"), "a TIFF file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC file"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG file"),
        (PNG[:40], "the PNG file is broken"),
        (PNG[:-30], "the PNG file is broken"),
        (file_of(solid_image(), "JPEG")[:-50], "the JPEG file is broken"),
        (b"\xff\xd8\xff", "the JPEG file is broken"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "the WebP file is broken"),
        (with_chunks(PNG, chunk(b"prVt", b"") * 2**16), "more than 65536 chunks"),
    ],
)
def test_a_file_that_cannot_be_decoded_is_named(file, says):
    error = refusal(file)
    assert says in error.message
    assert error.param == "image"
    assert "0x" not in error.message, "no addresses of Python's objects"


@pytest.mark.parametrize(
    ("sides", "says"),
    [
        ([65 * 64], "4160x4160 pixels are more than the 4096"),
        ([33, 64], "2 images with 5185 pixels together are more than the 4096"),
        ([16] * 17, "17 images are more than the 16"),
    ],
)
def test_the_number_and_the_sum_of_pixels_are_checked_before_anything_is_decoded(monkeypatch, sides, says):
    monkeypatch.setattr(decoding, "_decode", lambda *_: pytest.fail("an image was decoded"))
    files = [file_of(Image.new("1", (side, side))) for side in sides]
    assert says in refusal(*files).message


def test_images_at_the_limit_are_accepted():
    assert len(decode(*[file_of(Image.new("L", (16, 16)))] * 16).images) == 16


def test_a_mask_must_have_the_size_of_the_image(monkeypatch):
    monkeypatch.setattr(decoding, "_decode", lambda *_: pytest.fail("an image was decoded"))
    error = refusal(PNG, masks=[file_of(Image.new("1", (4096, 4096)))])
    assert "4096x4096 pixels, where the image has 32x32" in error.message
    assert error.param == "mask"


def test_a_mask_is_where_its_file_is_transparent():
    decoded = decode(PNG, masks=[file_of(half_transparent())])
    assert (decoded.mask[:, :16] == 0).all()
    assert (decoded.mask[:, 16:] == 255).all()
    assert "nothing in it is transparent" in refusal(PNG, masks=[PNG]).message


# ---- scans


def many_scans(count, side=64):
    """A progressive JPEG whose last scan is repeated until there are `count`."""
    file = file_of(Image.new("L", (side, side), 128), "JPEG", progressive=True, quality=50)
    last = file.rindex(b"\xff\xda")
    own = file.count(b"\xff\xda")
    return file[:last] + file[last:-2] * (count - own + 1) + b"\xff\xd9"


def test_scans_are_counted():
    assert read_header(file_of(solid_image(), "JPEG"), "image").scans == 1
    assert read_header(file_of(solid_image(), "JPEG", progressive=True), "image").scans == 10
    assert read_header(many_scans(50), "image").scans == 50
    assert read_header(many_scans(5000), "image").scans == MAX_SCANS + 1


@pytest.mark.parametrize(("count", "side"), [(MAX_SCANS + 1, 8), (5000, 8), (25, 64)])
def test_too_many_scans_are_refused_before_they_are_decoded(monkeypatch, count, side):
    monkeypatch.setattr(decoding, "_decode", lambda *_: pytest.fail("an image was decoded"))
    assert "too many scans" in refusal(many_scans(count, side)).message


@pytest.mark.parametrize(("count", "side"), [(24, 64), (MAX_SCANS, 8)])
def test_as_many_scans_as_encoders_write_are_accepted(count, side):
    assert decode(many_scans(count, side)).images[0].shape == (side, side, 3)


def test_a_thumbnail_within_a_jpeg_has_no_scans_of_its_own():
    plain, thumbnail = (file_of(solid_image(), "JPEG"), file_of(solid_image(), "JPEG", progressive=True))
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert read_header(plain[:2] + segment + plain[2:], "image").scans == 1


# ---- memory


def test_decoded_images_count_until_they_are_deleted():
    async def run():
        decoder = ImageDecoder(MAX_PIXELS)
        total = decoder._budget.free
        first = await decoder.decode([PNG, PNG], "image")
        assert decoder._budget.free == total - 2 * 32 * 32
        view = first.images[0][:1]
        del first
        await asyncio.sleep(0)
        assert decoder._budget.free == total - 2 * 32 * 32, "a view keeps the memory"
        del view
        await asyncio.sleep(0.01)
        assert decoder._budget.free == total
        with pytest.raises(RequestError):
            await decoder.decode([PNG[:-30]], "image")
        assert decoder._budget.free == total

    asyncio.run(run())


def test_who_finds_no_memory_waits_for_it_and_is_told_after_a_while(monkeypatch):
    async def run():
        monkeypatch.setattr(decoding, "WAIT_SECONDS", 0.05)
        decoder = ImageDecoder(MAX_PIXELS)
        big = file_of(Image.new("L", (64, 64)))
        held = [await decoder.decode([big], "image") for _ in range(decoding.BUDGET_FACTOR)]
        with pytest.raises(RequestError) as caught:
            await decoder.decode([big], "image")
        assert caught.value.kind == "busy"
        monkeypatch.setattr(decoding, "WAIT_SECONDS", 30.0)
        waiting = asyncio.create_task(decoder.decode([big], "image"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        held.pop()
        assert len((await waiting).images) == 1

    asyncio.run(run())


def test_a_budget_is_given_out_in_order_and_survives_those_who_leave():
    async def run():
        budget = PixelBudget(10)
        await budget.acquire(8)
        large, small = (asyncio.create_task(budget.acquire(pixels)) for pixels in (5, 2))
        await asyncio.sleep(0)
        assert not large.done()
        assert not small.done(), "who came later does not overtake"
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)
        await small
        assert budget.free == 0
        budget.release(2)
        budget.release(8)
        await budget.acquire(1000)
        assert budget.free == 0, "more than there is counts as all"

    asyncio.run(run())


def test_who_leaves_while_others_are_decoded_is_not_decoded(monkeypatch):
    async def run():
        started, go_on = asyncio.Event(), asyncio.Event()
        loop, decoded = asyncio.get_running_loop(), []

        def slow(header, field):
            decoded.append(header.width)
            loop.call_soon_threadsafe(started.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)
            return Image.new("RGB", (header.width, header.height))

        monkeypatch.setattr(decoding, "_decode", slow)
        decoder = ImageDecoder(MAX_PIXELS)
        busy = [asyncio.create_task(decoder.decode([PNG], "image")) for _ in range(decoding.THREADS)]
        while len(decoded) < decoding.THREADS:
            await started.wait()
            await asyncio.sleep(0.01)
        left = asyncio.create_task(decoder.decode([file_of(Image.new("L", (8, 8)))], "image"))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        go_on.set()
        await asyncio.gather(*busy)
        assert decoded == [32] * decoding.THREADS
        assert decoder._waiting == 0

    asyncio.run(run())


def test_a_text_chunk_within_the_limits_of_pillow_is_no_reason_either():
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a red three")
    assert decode(file_of(solid_image(), pnginfo=info)).images[0].shape == (32, 32, 3)
