"""start_daemon and stop_session against daemons that misbehave in every way a daemon can."""

import os
import sys

import pytest

from shoal import bootstrap, sessions
from shoal.bootstrap import BootstrapError, DaemonOptions, start_daemon, stop_session

FACTS = {"ok": True, "socket": "s", "node_id": "ab", "address": "127.0.0.1:9"}
READY = f"os.write(fd, json.dumps({FACTS}).encode())"


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """Makes start_daemon run a script instead, which knows `fd` and `directory`; returns a starter."""
    monkeypatch.setenv("SHOAL_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(sessions, "_DIRECTORY_LENGTH_MAX", 4096)
    monkeypatch.setenv("SHOAL_START_MS_MAX", "400")
    monkeypatch.setenv("SHOAL_STOP_MS_MAX", "300")
    started = []

    def start(script, meanwhile=lambda: None, **options):
        prelude = "import json, os, signal, sys, time\nfd = int(sys.argv[1]); directory = sys.argv[2]\n"

        def command(session, _options, ready_fd):
            return [sys.executable, "-c", prelude + script, str(ready_fd), session.directory]

        monkeypatch.setattr(bootstrap, "_command", command)
        started.append(start_daemon(DaemonOptions(**{"head": True, **options}), meanwhile=meanwhile))
        return started[-1]

    yield start
    for info in started:
        stop_session(info.session)
        info.process.wait()
    assert not os.path.exists(sessions.root_directory()), "something is left"


def test_a_daemon_that_gets_ready(daemon):
    info = daemon(READY + "; os.write(fd, b'\\n'); time.sleep(60)")
    assert (info.socket, info.node_id, info.address, info.pid) == ("s", "ab", "127.0.0.1:9", info.process.pid)
    assert os.getpgid(info.pid) == info.pid, "it has a process group of its own"
    assert sessions.find_sessions() == [info.session]
    assert stop_session(info.session) == "stopped"
    info.process.wait()
    assert stop_session(info.session) == "gone"


def test_something_else_is_done_while_it_starts(daemon, tmp_path):
    done = tmp_path / "done"
    wait = f"while not os.path.exists({str(done)!r}): time.sleep(0.01)\n"
    daemon(wait + READY + "; os.write(fd, b'\\n'); time.sleep(60)", meanwhile=done.touch)
    done.unlink()


def test_when_that_fails_nothing_is_left_of_the_daemon(daemon):
    with pytest.raises(ZeroDivisionError):
        daemon("time.sleep(60)", meanwhile=lambda: 1 // 0)


def test_a_daemon_that_does_not_want_to_stop_is_killed(daemon):
    info = daemon(
        "signal.signal(signal.SIGINT, signal.SIG_IGN); " + READY + "; os.write(fd, b'\\n'); time.sleep(60)"
    )
    assert stop_session(info.session) == "killed"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('os.write(fd, b\'{"ok": false, "error": "port in use"}\\n\')', "^port in use$"),
        ("print('why it ended'); sys.exit(3)", r"exit status 3\):\n  why it ended"),
        ("os.kill(os.getpid(), 9)", r"signal 9\); it logged nothing"),
        ("os.write(fd, b'hello\\n'); time.sleep(60)", "not a shoal daemon"),
        ("os.close(fd); time.sleep(60)", r"ended while it started"),
        ("time.sleep(60)", "not ready in"),
        ("os.write(fd, b'{'); time.sleep(60)", "not ready in"),
    ],
)
def test_a_daemon_that_does_not_get_ready_leaves_an_error_and_nothing_else(daemon, script, words):
    with pytest.raises(BootstrapError, match=words):
        daemon(script)


def test_the_end_of_its_log_is_in_the_error(daemon):
    script = (
        "os.mkdir(directory + '/logs'); f = open(directory + '/logs/node.log', 'w')\n"
        "f.write(''.join(f'line {n}\\n' for n in range(100))); f.close(); sys.exit(1)"
    )
    with pytest.raises(BootstrapError) as caught:
        daemon(script)
    lines = str(caught.value).splitlines()
    assert lines[-1].strip() == "line 99"
    assert len(lines) == 13


def test_joining_needs_a_secret(daemon):
    with pytest.raises(BootstrapError, match="--secret-file"):
        daemon("", head=False, head_address="10.0.0.1:5")
    with pytest.raises(BootstrapError, match="no address"):
        daemon("", head=False, head_address="nowhere")


def test_a_node_finds_the_secret_of_the_head_here(daemon):
    head = daemon(READY + "; os.write(fd, b'\\n'); time.sleep(60)")
    node = daemon(READY + "; os.write(fd, b'\\n'); time.sleep(60)", head=False, head_address="localhost:9")
    assert node.secret == head.secret
    assert node.session_dir != head.session_dir


def test_of_several_nodes_here_the_heads_own_is_nearest(daemon):
    ready = READY + "; os.write(fd, b'\\n'); time.sleep(60)"
    old = daemon(ready)
    left = daemon(ready, head=False, head_address="localhost:9")
    stop_session(old.session)
    new = daemon(ready)
    assert sessions.find_sessions() == [left.session, new.session]
    for address in ("auto", "localhost:9"):
        assert bootstrap.resolve_address(address) == new.session
    joined = daemon(ready, head=False, head_address="127.0.0.1:9")
    assert joined.secret == new.secret != left.secret


def ready_at(address):
    return f"os.write(fd, json.dumps({ {**FACTS, 'address': address} }).encode() + b'\\n'); time.sleep(60)"


def test_whom_to_ask_among_several_clusters(daemon):
    with pytest.raises(BootstrapError, match="no cluster runs"):
        bootstrap.daemon_to_ask("auto")
    private = daemon(ready_at("127.0.0.1:7"), kind="local", owner_pid=os.getpid())
    assert bootstrap.daemon_to_ask("auto") == private.session
    other = daemon(ready_at("127.0.0.1:8"), kind="local", owner_pid=os.getpid())
    with pytest.raises(
        BootstrapError, match=rf"127.0.0.1:7 .*of process {os.getpid()}.*say which: --address"
    ):
        bootstrap.daemon_to_ask("auto")
    assert bootstrap.daemon_to_ask("localhost:8") == other.session
    first = daemon(ready_at("127.0.0.1:9"))
    assert bootstrap.daemon_to_ask("auto") == first.session, "one that stays goes before those of drivers"
    daemon(ready_at("127.0.0.1:10"))
    daemon(ready_at("127.0.0.1:11"), head=False, head_address="127.0.0.1:10")
    for find in (bootstrap.daemon_to_ask, bootstrap.resolve_address):
        with pytest.raises(BootstrapError, match="several clusters run") as caught:
            find("auto")
        assert [str(caught.value).count(f"127.0.0.1:{port} ") for port in (7, 8, 9, 10, 11)] == [
            0,
            0,
            1,
            1,
            0,
        ]
    assert bootstrap.is_of_cluster(first.session, "localhost:9")
    assert not bootstrap.is_of_cluster(first.session, "localhost:10")


def test_the_command(tmp_path):
    session = sessions.Session(directory="/d")
    options = DaemonOptions(
        head=True,
        host="10.0.0.7",
        port=5,
        num_cpus=2,
        resources={"a": 1},
        config={"x": 1},
        name="n",
        owner_pid=7,
    )
    command = " ".join(bootstrap._command(session, options, 9)[1:])
    assert command == (
        "-P -m shoald.node --session-dir /d --head --port 5 --ready-fd 9 --host 10.0.0.7 --num-cpus 2 "
        '--owner-pid 7 --resources {"a": 1} --config {"x": 1} --name n'
    )
    command = " ".join(bootstrap._command(session, DaemonOptions(head_address="h:1"), 9)[1:])
    assert (
        command
        == "-P -m shoald.node --session-dir /d --head-address h:1 --secret-file /d/secret --ready-fd 9"
    )
