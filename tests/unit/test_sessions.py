"""Session directories: private, found while their daemon lives, cleaned up after it."""

import errno
import os
import subprocess
import sys
import tempfile

import pytest

from shoal import sessions
from shoal.bootstrap import BootstrapError, normal_address, resolve_address
from shoal.sessions import Session, SessionError, make_session


@pytest.fixture
def temp_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("SHOAL_TEMP_DIR", raising=False)
    short = tmp_path / "t"
    # The path of a test may be too long for sockets, which is not what is tested here.
    monkeypatch.setattr(sessions, "_DIRECTORY_LENGTH_MAX", 4096)
    return str(short)


@pytest.fixture
def gone():
    """A pid that was a process's, and its start time."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = sessions.process_started(process.pid)
    process.communicate()
    return process.pid, started


def running(temp_dir, **more):
    session = make_session(Session(directory="", **more), temp_dir, None).with_process(os.getpid())
    return sessions.replace(session, socket="x").save()


def test_directories_and_secrets_are_private(temp_dir):
    session = make_session(Session(directory=""), temp_dir, None)
    for path in (os.path.dirname(session.directory), session.directory):
        assert os.stat(path).st_mode & 0o777 == 0o700
    for name in ("secret", "session.json"):
        assert os.stat(os.path.join(session.directory, name)).st_mode & 0o777 == 0o600
    assert len(session.secret) == 32
    other = make_session(Session(directory=""), temp_dir, session.secret)
    assert other.secret == session.secret
    assert other.directory != session.directory


def test_a_root_that_is_a_symlink_open_or_a_file_is_refused(temp_dir, tmp_path):
    root = sessions.root_directory(temp_dir)
    os.makedirs(os.path.dirname(root))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    os.symlink(tmp_path / "elsewhere", root)
    with pytest.raises(SessionError, match="symlink"):
        make_session(Session(directory=""), temp_dir, None)
    os.unlink(root)
    os.mkdir(root)
    os.chmod(root, 0o755)
    with pytest.raises(SessionError, match="chmod 700"):
        make_session(Session(directory=""), temp_dir, None)
    with pytest.raises(SessionError, match="chmod 700"):
        sessions.find_sessions(temp_dir)


def test_a_root_of_another_user_is_refused(temp_dir, monkeypatch):
    running(temp_dir)
    uid = os.getuid()
    root = sessions.root_directory(temp_dir)
    monkeypatch.setattr(sessions, "root_directory", lambda _temp_dir: root)
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(SessionError, match="another user"):
        sessions.find_sessions(temp_dir)


def test_a_directory_that_cannot_be_written_to_is_not_left(temp_dir, monkeypatch):
    def full(_path, _content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sessions, "_write_private", full)
    with pytest.raises(SessionError, match=r"cannot write to .*: No space left"):
        make_session(Session(directory=""), temp_dir, None)
    assert not os.path.exists(sessions.root_directory(temp_dir))


def test_a_path_too_long_for_sockets_is_refused(tmp_path):
    with pytest.raises(SessionError, match="too long"):
        make_session(Session(directory=""), str(tmp_path / ("x" * 100)), None)


def test_a_temporary_directory_too_long_for_sockets_is_not_used(tmp_path, monkeypatch):
    monkeypatch.delenv("SHOAL_TEMP_DIR", raising=False)
    long = str(tmp_path / ("x" * 100))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: long)
    assert sessions.root_directory() == f"/tmp/shoal-{os.getuid()}"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/short")
    assert sessions.root_directory() == f"/short/shoal-{os.getuid()}"
    monkeypatch.setenv("SHOAL_TEMP_DIR", long)  # chosen for shoal: it is not guessed where else
    assert sessions.root_directory().startswith(long)


def test_live_sessions_are_found_oldest_first(temp_dir):
    second = running(temp_dir, created_s=2.0)
    first = running(temp_dir, created_s=1.0)
    make_session(Session(directory=""), temp_dir, None)  # starting
    assert sessions.find_sessions(temp_dir) == [first, second]
    assert sessions.clean_stale(temp_dir) == []


def test_nothing_there_is_nothing_found(temp_dir):
    assert sessions.find_sessions(temp_dir) == []
    assert sessions.clean_stale(temp_dir) == []


def test_stale_directories_are_removed(temp_dir, gone):
    pid, started = gone
    live = running(temp_dir)
    ended = sessions.replace(running(temp_dir), pid=pid, pid_started=started).save()
    reused = sessions.replace(running(temp_dir), pid_started="1").save()
    given_up = sessions.replace(
        make_session(Session(directory=""), temp_dir, None), starter_pid=pid, starter_started=started
    ).save()
    starting = make_session(Session(directory=""), temp_dir, None)
    root = sessions.root_directory(temp_dir)
    young, old = os.path.join(root, "young"), os.path.join(root, "old")
    os.mkdir(young)
    os.mkdir(old)
    os.utime(old, (0, 0))
    removed = sessions.clean_stale(temp_dir)
    assert set(removed) == {ended.directory, reused.directory, given_up.directory, old}
    assert {live.directory, starting.directory, young} == {
        os.path.join(root, name) for name in os.listdir(root)
    }


def test_the_last_directory_takes_the_root_with_it(temp_dir):
    session = running(temp_dir)
    sessions.remove_directory(session.directory)
    sessions.remove_directory(session.directory)
    assert not os.path.exists(sessions.root_directory(temp_dir))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"colour": 1}', b"\xff"])
def test_a_broken_session_file_is_no_session(temp_dir, content):
    session = running(temp_dir)
    with open(os.path.join(session.directory, "session.json"), "wb") as file:
        file.write(content)
    assert sessions.load_session(session.directory) is None
    assert sessions.find_sessions(temp_dir) == []


def test_a_drivers_own_daemon_tells_its_address_later(temp_dir):
    session = running(temp_dir, head=True, kind="local")
    assert sessions.find_sessions(temp_dir)[0].head_address == ""
    with open(os.path.join(session.directory, "node.json"), "w") as file:
        file.write('{"address": "127.0.0.1:5"}')
    assert sessions.find_sessions(temp_dir)[0].head_address == "127.0.0.1:5"


def test_secrets(tmp_path):
    path = tmp_path / "secret"
    for content in (b"s" * 32, b"ab" * 32, b"ab" * 32 + b"\n"):
        path.write_bytes(content)
        path.chmod(0o600)
        assert len(sessions.read_secret(str(path))) == 32
    for content in (b"", b"short", b"zz" * 32):
        path.write_bytes(content)
        with pytest.raises(SessionError, match="not a shoal secret"):
            sessions.read_secret(str(path))
    path.chmod(0o644)
    with pytest.raises(SessionError, match="chmod 600"):
        sessions.read_secret(str(path))
    with pytest.raises(SessionError, match="No such file"):
        sessions.read_secret(str(tmp_path / "none"))


def test_processes_are_told_apart(gone):
    pid, _ = gone
    assert sessions.process_started(pid) is None
    assert sessions.process_started(os.getpid())
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    zombie.stdout.read()
    zombie.stdout.close()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert sessions.process_started(zombie.pid) is None
    zombie.wait()


class TestAddresses:
    def test_auto_is_the_one_cluster_here(self, temp_dir):
        running(temp_dir, kind="local", head=True, head_address="127.0.0.1:1")
        with pytest.raises(BootstrapError, match="no cluster runs"):
            resolve_address("auto", temp_dir)
        session = running(temp_dir, head=True, head_address="127.0.0.1:2")
        running(temp_dir, head_address="localhost:2")
        assert resolve_address("auto", temp_dir) == session
        running(temp_dir, head=True, head_address="127.0.0.1:3")
        with pytest.raises(BootstrapError, match="several clusters"):
            resolve_address("auto", temp_dir)

    def test_an_address_is_a_node_of_that_cluster_here(self, temp_dir):
        session = running(temp_dir, head_address="10.0.0.1:5")
        assert resolve_address("10.0.0.1:5", temp_dir) == session
        with pytest.raises(BootstrapError, match=r"start-node --address 10\.0\.0\.2:5"):
            resolve_address("10.0.0.2:5", temp_dir)

    @pytest.mark.parametrize("text", ["", "host", "host:", ":x", "host:0", "host:70000"])
    def test_what_is_no_address(self, text):
        with pytest.raises(BootstrapError, match="no address"):
            normal_address(text)

    def test_this_machine_has_one_spelling(self):
        assert normal_address("localhost:7462") == normal_address("0.0.0.0:7462") == "127.0.0.1:7462"
