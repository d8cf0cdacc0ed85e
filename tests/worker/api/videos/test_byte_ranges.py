"""Which bytes of a file a request's headers select."""

import pytest

from omni_worker.api.errors import ApiError
from omni_worker.api.videos.byte_ranges import range_response
from omni_worker.api.videos.records import VideoFile

FILE = VideoFile("video/mp4", b"0123456789")
TAG = '"of this file"'
PARTS = {
    "the first bytes": ("bytes=0-3", b"0123", "bytes 0-3/10"),
    "one byte": ("bytes=9-9", b"9", "bytes 9-9/10"),
    "from one on": ("bytes=7-", b"789", "bytes 7-9/10"),
    "the last bytes": ("bytes=-3", b"789", "bytes 7-9/10"),
    "more than there is": ("bytes=8-99", b"89", "bytes 8-9/10"),
    "more of the end than there is": ("bytes=-99", b"0123456789", "bytes 0-9/10"),
    "everything, as a player begins": ("bytes=0-", b"0123456789", "bytes 0-9/10"),
}


@pytest.mark.parametrize("row", PARTS)
@pytest.mark.parametrize("same", [{}, {"if-range": TAG}], ids=["any", "of the same file"])
def test_a_part_is_what_was_asked_for_and_says_so(row, same):
    range, data, content_range = PARTS[row]
    answer = range_response(FILE, TAG, {"range": range, **same})
    assert (answer.status_code, answer.body, answer.headers["content-range"]) == (206, data, content_range)
    assert (answer.headers["content-length"], answer.media_type) == (str(len(data)), "video/mp4")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no range"),
        pytest.param({"range": "bytes=0-3", "if-range": '"of another file"'}, id="a part of another file"),
        pytest.param({"range": "bytes=0-3", "if-range": "Sat, 21 Nov 2026 00:00:00 GMT"}, id="a part by date"),
        pytest.param({"range": "bytes=0-1,4-5"}, id="several ranges"),
        pytest.param({"range": "frames=0-3"}, id="a unit that is not bytes"),
        pytest.param({"range": "bytes=5-3"}, id="an end before the begin"),
        pytest.param({"range": "bytes=-"}, id="neither begin nor end"),
        pytest.param({"range": "bytes=a-b"}, id="no numbers"),
    ],
)
def test_all_of_it_is_given_otherwise(headers):
    answer = range_response(FILE, TAG, headers)
    assert (answer.status_code, answer.body, answer.headers.get("content-range")) == (200, FILE.data, None)
    assert (answer.headers["accept-ranges"], answer.headers["etag"]) == ("bytes", TAG)


@pytest.mark.parametrize("range", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_part_that_is_not_there_is_refused_with_the_size(range):
    with pytest.raises(ApiError) as refusal:
        range_response(FILE, TAG, {"range": range})
    assert (refusal.value.status, refusal.value.headers) == (416, {"Content-Range": "bytes */10"})
