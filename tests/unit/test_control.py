"""ControlClient against a daemon played by a thread: answers, refusals, silence, garbage, impostors."""

import os
import socket
import threading

import pytest

from shoal.control import ControlClient, ControlError, request
from shoal.wire import auth
from shoal.wire.frames import FrameDecoder, decode_batch, encode_batch
from shoal.wire.messages import HELLO, LOG, REQUEST, RESPONSE

SECRET = b"s" * 32


def read(sock, size):
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def shake_hands(sock, secret=SECRET):
    preamble = read(sock, auth.PREAMBLE_SIZE)
    challenge = auth.make_challenge(secret, preamble)
    sock.sendall(challenge)
    auth.check_proof(secret, preamble, challenge, read(sock, auth.PROOF_SIZE))
    return auth.read_preamble(preamble)[0]


def messages(sock):
    decoder = FrameDecoder(2**20)
    while data := sock.recv(65536):
        for body in decoder.feed(data):
            yield from decode_batch(body)


def answer(*answers):
    """A daemon that answers requests one by one with messages made of (ok, data), or raw bytes."""

    def serve(sock):
        assert shake_hands(sock) == auth.KIND_CONTROL
        stream = messages(sock)
        hello = next(stream)
        assert (hello[0], hello[2], hello[3]) == (HELLO, "cli", os.getpid())
        for reply in answers:
            tag, number, method, params = next(stream)
            assert tag == REQUEST
            if isinstance(reply, bytes):
                sock.sendall(reply)
                continue
            ok, data = reply
            data = [method, params] if data == "echo" else data
            sock.sendall(encode_batch([[LOG, []], [RESPONSE, number + 100, True, "another's"]]))
            whole = encode_batch([[RESPONSE, number, ok, data]])
            sock.sendall(whole[:5])
            sock.sendall(whole[5:])
        sock.recv(1)

    return serve


@pytest.fixture
def daemon(tmp_path):
    """Starts a daemon of the given behaviour; returns its socket's path (relative, as paths are bounded)."""
    threads, listeners = [], []

    def start(behaviour):
        path = f"/tmp/shoal-test-{os.getpid()}-{len(listeners)}.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listeners.append((listener, path))

        def run():
            sock, _ = listener.accept()
            with sock:
                try:
                    behaviour(sock)
                except (OSError, auth.HandshakeFailed):
                    return

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)
        return path

    yield start
    for thread in threads:
        thread.join()
    for listener, path in listeners:
        listener.close()
        os.unlink(path)


def test_answers(daemon):
    with ControlClient(daemon(answer((True, "echo"), (True, {"a": [1, b"x"]}))), SECRET) as client:
        assert client.request("status", {"x": 1}) == ["status", {"x": 1}]
        assert client.request("status") == {"a": [1, b"x"]}


def test_one_question(daemon):
    assert request(daemon(answer((True, "echo"))), SECRET, "why", {"id": "ab"}) == ["why", {"id": "ab"}]


def test_a_refusal_is_its_reason(daemon):
    with pytest.raises(ControlError, match=r"^no such method$"):
        request(daemon(answer((False, "no such method"))), SECRET, "x")


def test_a_daemon_of_another_cluster(daemon):
    with pytest.raises(ControlError, match="wrong secret"):
        request(daemon(answer()), b"x" * 32, "status")


def test_nobody_there(tmp_path):
    with pytest.raises(ControlError, match="no daemon answers"):
        request("/tmp/shoal-test-nobody.sock", SECRET, "status")


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (lambda sock: None, "closed the connection|broke"),
        (lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 10), "not a shoal daemon|broke"),
        (lambda sock: shake_hands(sock) and None, "closed the connection|broke"),
        (answer(b"\xff" * 8), "makes no sense"),
        (answer(encode_batch([])[:8] + b"\xc1"), "makes no sense"),
    ],
)
def test_what_is_no_answer(daemon, behaviour, words):
    with pytest.raises(ControlError, match=words):
        request(daemon(behaviour), SECRET, "status")


def test_silence_is_bounded(daemon):
    with pytest.raises(ControlError, match=r"did not answer in 0\.1 s"):
        request(daemon(lambda sock: sock.recv(4096) and sock.recv(4096)), SECRET, "status", timeout_s=0.1)
