"""How the secret file is read and checked."""

import pytest

from omni_worker.errors import UsageError
from omni_worker.transport import keys


def test_the_secret_file_is_read_once_for_all_and_line_ends_do_not_count(tmp_path):
    for name, text in (("a", "s" * 32), ("b", "s" * 32 + "\n")):
        (tmp_path / name).write_text(text)
    assert keys.read(str(tmp_path / "a")) == keys.read(str(tmp_path / "b"))
    assert keys.read(None) is None
    assert "secret" not in repr(keys.read(str(tmp_path / "a")))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b"short\n", "5 bytes are too few.*openssl rand"), (b" " * 64, "0 bytes are too few")],
)
def test_a_secret_that_cannot_be_used_is_a_clear_message(tmp_path, content, says):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        keys.check(str(file))


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_secret_that_all_may_read_is_a_warning(tmp_path, mode, warns, caplog):
    file = tmp_path / "secret"
    file.write_bytes(b"s" * 40)
    file.chmod(mode)
    keys.check(str(file))
    assert bool(caplog.messages) is warns
