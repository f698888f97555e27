"""Session directories: private, locked, with a secret; and what is left of them."""

import os
import socket
import subprocess
import sys

import pytest

from shoald.node.session import Session, SessionError


def test_directory_is_made_private(tmp_path):
    session = Session(str(tmp_path / "s"))
    assert os.stat(session.path).st_mode & 0o777 == 0o700
    secret = session.secret("", make=True)
    assert len(secret) == 32
    assert os.stat(tmp_path / "s" / "secret").st_mode & 0o777 == 0o600
    assert session.secret("", make=False) == secret


def test_open_directory_is_refused(tmp_path):
    (tmp_path / "s").mkdir(mode=0o755)
    with pytest.raises(SessionError, match="0700"):
        Session(str(tmp_path / "s"))


def test_path_too_long_for_a_socket(tmp_path):
    with pytest.raises(SessionError, match="too long"):
        Session(str(tmp_path / ("x" * 100)))


def test_second_process_is_kept_out(tmp_path):
    session = Session(str(tmp_path / "s"))
    code = "import sys; from shoald.node.session import Session; Session(sys.argv[1])"
    ended = subprocess.run(
        [sys.executable, "-c", code, session.path], capture_output=True, text=True, check=False
    )
    assert "runs in" in ended.stderr


def test_stale_socket_is_removed(tmp_path):
    path = tmp_path / "s"
    path.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path / "node.sock"))
    assert not os.path.exists(Session(str(path)).socket_path)


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab", b"x" * 100])
def test_secret_that_is_none(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(SessionError, match="does not hold a secret"):
        Session(str(tmp_path / "s")).secret(str(tmp_path / "file"), make=True)


def test_missing_secret_of_a_cluster_to_join(tmp_path):
    with pytest.raises(SessionError, match="there is no secret"):
        Session(str(tmp_path / "s")).secret("", make=False)


def test_what_is_left(tmp_path):
    session = Session(str(tmp_path / "shoal-test" / "s"))
    session.secret("", make=True)
    session.write_facts({"pid": 1})
    session.remove(keep_logs=True)
    assert os.listdir(session.path) == ["logs"]
    session.remove(keep_logs=False)
    assert not (tmp_path / "shoal-test").exists(), "the last session takes the sessions' directory with it"
