"""Nobody gets into the head: garbage, torn and unauthenticated input on its port disturbs nobody else.

The head runs in a process of its own; this one speaks raw bytes, and asks through a second process (gRPC
keeps a thread and descriptors for the life of a process).
"""

import random
import socket
import subprocess
import sys

import pytest

from shoald.head.channel import METHODS

SECRET = b"s" * 32
PATIENCE_S = 60.0
SERVE = """
import sys
from shoal.config import load
from shoald.head.server import HeadServer
from shoald.shell.identity import Identity

identity = Identity(bytes.fromhex(sys.argv[1]), "off", "")
head = HeadServer("127.0.0.1", 0, identity, sys.argv[2], load({"handshake_ms_max": 1000}))
print(head.start(), flush=True)
sys.stdin.read()
head.stop()
"""
# Calls every method: with no ticket, garbage, a wrong secret, and a good one twice; prints the outcomes.
CALL = """
import os, sys, time
from shoald.head import channel, tickets
import grpc

address, secret = sys.argv[1], bytes.fromhex(sys.argv[2])

def tries(path):
    def ticket(secret, path=path, skew_ms=0):
        return tickets.make_ticket(secret, path, int(time.time() * 1000) + skew_ms, os.urandom(32))
    good = ticket(secret)
    return {
        "none": (),
        "garbage": ((tickets.TICKET_KEY, bytes(range(105))),),
        "short": ((tickets.TICKET_KEY, b""),),
        "long": ((tickets.TICKET_KEY, b"x" * 8000),),
        "two": tuple((tickets.TICKET_KEY, ticket(secret)) for _ in range(2)),
        "wrong secret": ((tickets.TICKET_KEY, ticket(b"w" * 32)),),
        "other method": ((tickets.TICKET_KEY, ticket(secret, "/shoal.v1.Head/Other")),),
        "stale": ((tickets.TICKET_KEY, ticket(secret, skew_ms=-3_600_000)),),
        "good": ((tickets.TICKET_KEY, good),),
        "replayed": ((tickets.TICKET_KEY, good),),
    }

with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as opened:
    for name, method in channel.METHODS.items():
        for what, metadata in tries(method.path).items():
            try:
                if method.streaming:
                    # Garbage as the first message: not looked at before the ticket was.
                    connect = opened.stream_stream(method.path)
                    answer = b"".join(connect(iter([b"\\xff" * 100]), metadata=metadata, timeout=30))
                else:
                    answer = opened.unary_unary(method.path)(b"", metadata=metadata, timeout=30)
                outcome = "answered"
            except grpc.RpcError as error:
                outcome = error.code().name
            print(name, what, outcome, sep="|")
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    data = tmp_path_factory.mktemp("head")
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, SECRET.hex(), str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        port = int(process.stdout.readline())
        yield ("127.0.0.1", port)
        process.stdin.close()
        errors = process.stderr.read()
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in errors, errors


def ask(address):
    """What becomes of every method with every kind of ticket: {(method, ticket): outcome}."""
    command = [sys.executable, "-c", CALL, f"{address[0]}:{address[1]}", SECRET.hex()]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    rows = [line.split("|") for line in output.splitlines()]
    return {(method, what): outcome for method, what, outcome in rows}


def test_every_method_wants_a_good_ticket(address):
    outcomes = ask(address)
    methods = {method for method, _ in outcomes}
    assert methods == set(METHODS)
    for (method, what), outcome in outcomes.items():
        if what != "good":
            assert outcome == "UNAUTHENTICATED", (method, what)
        else:
            assert outcome != "UNAUTHENTICATED", method
    assert outcomes["Health", "good"] == "answered"


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def inputs():
    """Bytes as strangers and broken programs send them; the same in every run."""
    dice = random.Random(2)
    yield b""
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield PREFACE[:10]
    yield PREFACE
    yield PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    yield PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 100_000  # a frame of 16 MB
    yield PREFACE + b"\x00\x40\x00\x09" + b"\xff" * 20_000  # continuation without headers
    yield b"SHOAL\x00\x00\x01" + bytes(56)  # the preamble of another listener of ours
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)  # TLS
    for _ in range(60):
        size = dice.choice([1, 8, 9, 24, 100, 5000])
        yield (PREFACE if dice.random() < 0.5 else b"") + dice.randbytes(size)


def test_garbage_disturbs_nobody(address):
    held = socket.create_connection(address)  # one that never says anything, all along
    for data in inputs():
        with socket.create_connection(address, timeout=PATIENCE_S) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    continue
            except OSError:
                continue  # it was thrown out while it still spoke
    assert ask(address)["Health", "good"] == "answered"
    held.close()


def test_many_silent_connections_disturb_nobody(address):
    silent = [socket.create_connection(address) for _ in range(200)]
    try:
        assert ask(address)["Health", "good"] == "answered"
    finally:
        for sock in silent:
            sock.close()
