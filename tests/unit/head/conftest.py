"""A head and links to it."""

import functools
import queue

import pytest

from headparts import CONFIG, PATIENCE_S, SECRET
from shoald.head.link import HeadLink
from shoald.head.server import HeadServer
from shoald.shell.identity import Identity


@pytest.fixture(params=["off", "on"], ids=["clear", "tls"])
def identity(request, tmp_path):
    """Makes what head and nodes prove, without TLS and with it."""

    @functools.cache
    def made(secret=SECRET):
        directory = tmp_path / secret.hex()
        directory.mkdir()
        return Identity(secret, request.param, str(directory))

    return lambda secret=SECRET: made(secret)


@pytest.fixture
def head(tmp_path, identity):
    server = HeadServer("127.0.0.1", 0, identity(), str(tmp_path / "data"), CONFIG)
    server.address = f"127.0.0.1:{server.start()}"
    yield server
    server.stop()


@pytest.fixture
def join(identity):
    """Starts links; each has `heard`, a queue of its messages, and `hear(kind)`."""
    links = []

    def start(head_address, name="aa", secret=SECRET, incarnation="1", config=CONFIG, **more):
        heard = queue.Queue()
        node = {"node_id": name, "incarnation": incarnation, "pid": 1, "resources": {"CPU": 20000}, **more}
        link = HeadLink(head_address, identity(secret), node, heard.put, config)

        def hear(kind):
            while True:
                message = heard.get(timeout=PATIENCE_S)
                if message["kind"] == kind:
                    return message

        link.heard, link.hear = heard, hear
        links.append(link)
        link.start()
        return link

    yield start
    for link in links:
        link.stop()
