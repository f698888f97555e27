"""The join string: what another machine needs to join, in one line."""

import pytest

from shoal import sessions
from shoal.joining import BadJoinString, make_join_string, read_join_string

SECRET = bytes(range(32))


def test_there_and_back():
    assert read_join_string(make_join_string("10.0.0.7:7462", SECRET) + "\n") == ("10.0.0.7:7462", SECRET)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.7:7462",
        f"shoal-join {SECRET.hex()}",
        f"shoal-join a:1 {SECRET.hex()[:-2]}",
        "shoal-join a:1 xyz",
    ],
)
def test_anything_else_is_refused_without_repeating_it(text):
    with pytest.raises(BadJoinString) as caught:
        read_join_string(text)
    assert SECRET.hex()[:20] not in str(caught.value)


def test_a_secret_file_may_hold_one(tmp_path):
    path = tmp_path / "join"
    path.touch(mode=0o600)
    path.write_text(make_join_string("10.0.0.7:7462", SECRET))
    assert sessions.read_secret(str(path)) == SECRET
