"""The dashboard of a running cluster: who gets in, what it tells, and that it ends with its daemon and only with it."""

import http.client
import json
import os
import signal
import ssl
import tempfile
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil
import pytest

import shoal
from commandline import PATIENCE_S, run, until


@pytest.fixture
def temp_dir(no_leaks):
    """One of its own, with a name that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="d") as directory:
        yield directory


@contextmanager
def started_head(temp_dir, *options):
    """The session of a head with a dashboard, as JSON; `shoal stop` at the end."""
    where = ("--temp-dir", temp_dir)
    started = run(
        "start-head",
        "--port",
        "0",
        "--num-cpus",
        "1",
        "--object-store-memory",
        "64MB",
        "--json",
        *options,
        *where,
    )
    assert started.status == 0, started.err
    try:
        yield started.json
    finally:
        run("stop", *where)


def ask(url, path, **fields):
    """(status, header fields, body) of a GET."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=PATIENCE_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def processes_of(session):
    """The dashboard's processes of a daemon."""
    try:
        children = psutil.Process(session["pid"]).children()
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if "shoald.dashboard" in command_of(child)]


def command_of(process):
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def open_link(link):
    parts = urlsplit(link)
    return ask(link, f"{parts.path}?{parts.query}")


@pytest.mark.parametrize("tls", ["auto", "on"])
def test_a_head_with_a_dashboard(temp_dir, tls):
    with started_head(temp_dir, "--dashboard-port", "0", "--tls", tls) as session:
        asked = ("--temp-dir", temp_dir)
        url = session["dashboard"]
        assert url.startswith("https://" if tls == "on" else "http://")
        assert ask(url, "/")[0] == ask(url, "/metrics")[0] == 401
        status, fields, _ = open_link(session["dashboard_url"])
        assert status == 200
        assert open_link(session["dashboard_url"])[0] == 401
        cookie = fields["Set-Cookie"].partition(";")[0]
        status, _, page = ask(url, "/", Cookie=cookie)
        assert (status, b"<title>shoal</title>" in page) == (200, True)
        state = json.loads(ask(url, "/api/state", Cookie=cookie)[2])
        assert [node["node_id"] for node in state["nodes"]] == [session["node_id"]]
        assert ask(url, "/api/state", Cookie=cookie, Host="evil.example")[0] == 403
        token = run("dashboard", "--token", *asked).out.strip()
        status, fields, text = ask(url, "/metrics", Authorization=f"Bearer {token}")
        assert (status, fields["Content-Type"].partition(";")[0]) == (200, "text/plain")
        assert f'shoal_workers{{node_id="{session["node_id"]}",state="idle"}}' in text.decode()
        assert open_link(run("dashboard", *asked).out.strip())[0] == 200
        [process] = processes_of(session)
    assert not process.is_running()


def test_it_is_started_again_where_it_was_and_takes_nothing_along(temp_dir):
    settings = '{"dashboard_restart_ms": 10, "dashboard_restarts_max": 1}'
    with started_head(
        temp_dir, "--include-dashboard", "--dashboard-port", "0", "--system-config", settings
    ) as session:
        [first] = processes_of(session)
        first.kill()
        [second] = until(lambda: [each for each in processes_of(session) if each.pid != first.pid])
        until(lambda: run("dashboard", "--temp-dir", temp_dir).status == 0)
        assert ask(session["dashboard"], "/")[0] == 401
        second.kill()
        until(lambda: "its process ended" in run("dashboard", "--temp-dir", temp_dir).err)
        assert run("health-check", "--temp-dir", temp_dir).status == 0
        assert not processes_of(session)


def test_it_ends_with_a_daemon_that_is_killed(temp_dir):
    with started_head(temp_dir, "--dashboard-port", "0") as session:
        port = str(urlsplit(session["dashboard"]).port)
        elsewhere = ("--temp-dir", f"{temp_dir}/o")
        refused = run("start-head", "--port", "0", "--num-cpus", "1", "--dashboard-port", port, *elsewhere)
        assert refused.status == 1
        assert "no dashboard: cannot listen on 127.0.0.1" in refused.err
        [process] = processes_of(session)
        os.kill(session["pid"], signal.SIGKILL)
        until(lambda: not command_of(process))


def test_a_driver_has_one_if_it_asks(no_leaks):
    often = {"dashboard_refresh_ms": 20}
    with shoal.init(num_cpus=1, include_dashboard=True, dashboard_port=0, _system_config=often) as context:
        status, fields, _ = open_link(context.dashboard_url)
        assert status == 200
        assert shoal.get(shoal.remote(lambda: 7).remote()) == 7
        cookie = fields["Set-Cookie"].partition(";")[0]

        def finished():
            state = json.loads(ask(context.dashboard_url, "/api/state", Cookie=cookie)[2])
            return state["sums"]["finished"] == 1 and state

        assert until(finished)["jobs"]["rows"][0]["pid"] == os.getpid()
