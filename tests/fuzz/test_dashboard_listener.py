"""The dashboard under garbage, torn, slow and oversized requests, and too many at once: it goes on, and lets nobody in."""

import http.client
import random
import select
import socket
import time
from urllib.parse import urlsplit

import pytest

import shoal
from nodeclient import until
from shoal import session
from shoal.sessions import read_secret
from shoal.util import metrics
from shoal.wire import web

LIMIT_S, CONNECTIONS, REQUEST_BYTES = 0.5, 8, 2048
ROUNDS = 150
WAIT_S = 30.0


@pytest.fixture(scope="module")
def shared(module_leaves_nothing):
    """(port, token) of a dashboard."""
    config = {
        "dashboard_request_ms_max": LIMIT_S * 1000,
        "dashboard_connections_max": CONNECTIONS,
        "dashboard_request_bytes_max": REQUEST_BYTES,
        "dashboard_restarts_max": 0,
        "tls": "off",
    }
    with shoal.init(num_cpus=1, dashboard_port=0, _system_config=config) as context:
        secret = read_secret(f"{session.runtime().identity.session_dir}/secret")
        yield urlsplit(context.dashboard_url).port, web.make_token(secret)


@pytest.fixture
def no_leaks(module_leaves_nothing):
    """The module's check covers the session that its tests share."""


@pytest.fixture
def dashboard(shared):
    """It must answer afterwards as before; it would not be started again."""
    yield shared
    port, token = shared
    assert ask(port, {"Authorization": f"Bearer {token}"}) == 200
    assert ask(port, {}) == 401
    assert not session.runtime().request("status", {})["dashboard"]["trouble"]


def ask(port, fields):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", "/api/state", headers=fields)
        return connection.getresponse().status
    finally:
        connection.close()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)


def answer(sock):
    """All that comes until the connection ends."""
    data = b""
    while True:
        try:
            part = sock.recv(65536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


def test_garbage_and_torn_requests_get_no_further(dashboard):
    port, token = dashboard
    rng = random.Random(7)
    good = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    for _ in range(ROUNDS):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            data = bytearray(rng.randbytes(rng.randrange(1, 200)))
        with connect(port) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            status = answer(sock)[9:12]
            assert status in (b"", b"200", b"400", b"401", b"403", b"404", b"405"), data
            # Where the token was not hit, and the line and the host neither, it may be let in; else never.
            assert status != b"200" or token.encode() in data, data


def test_a_request_without_end_is_refused_at_the_bound(dashboard):
    with connect(dashboard[0]) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * (3 * REQUEST_BYTES))
        assert answer(sock)[9:12] == b"400"


def test_slow_clients_hold_up_nobody_and_are_cut_off(dashboard):
    port, token = dashboard
    slow = [connect(port) for _ in range(3 * CONNECTIONS)]
    try:
        for sock in slow:
            sock.sendall(b"GET / HT")
        began = time.monotonic()
        for _ in range(3):
            assert ask(port, {"Authorization": f"Bearer {token}"}) == 200
        assert all(answer(sock) == b"" for sock in slow)
        assert time.monotonic() - began < WAIT_S
    finally:
        for sock in slow:
            sock.close()


@pytest.fixture
def much(monkeypatch):
    """Metrics that fit into no socket's buffer."""
    monkeypatch.setattr(metrics, "_families", {})
    gauge = metrics.Gauge("much", tag_keys=("tag",))
    for number in range(5000):
        gauge.set(number, {"tag": f"{number:01000}"})


def test_who_does_not_read_is_cut_off(dashboard, much):
    port, token = dashboard
    asked = f"GET /metrics HTTP/1.1\r\nHost: [::1]\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    deaf = [connect(port) for _ in range(CONNECTIONS)]
    try:
        for sock in deaf:
            sock.sendall(asked)
        for sock in deaf:
            select.select([sock], [], [], WAIT_S)
        # All places are taken by some who have said what they want: nobody else gets in until their time is up.
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            ask(port, {})
        until(lambda: is_answered(port), "its places are free again")
        assert any(len(answer(sock)) < 5_000_000 for sock in deaf)  # the first that was cut off
    finally:
        for sock in deaf:
            sock.close()


def is_answered(port):
    try:
        return ask(port, {}) == 401
    except (ConnectionError, http.client.BadStatusLine):
        return False
