"""A real node daemon under test, and a client small enough to say exactly what goes over the wire."""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from shoal.ids import new_process_id, node_tag
from shoal.wire import auth
from shoal.wire import messages as m
from shoal.wire.frames import FrameDecoder, decode_batch, encode_batch

TESTS = Path(__file__).parent
CPU1 = {"CPU": 10_000}
WAIT_S = 60.0


def until(condition, what="the condition"):
    """Wait until `condition()` is true, and return what it returned."""
    deadline = time.monotonic() + WAIT_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {WAIT_S:g} s"
        time.sleep(0.005)
    return result


class Daemon:
    """A daemon process with stub workers (nodeworker.py)."""

    def __init__(self, *arguments, cpus=2, owner=0, config=None, directory=None, workers="nodeworker"):
        self.directory = directory or tempfile.mkdtemp(prefix="n-")
        read_end, write_end = os.pipe()
        command = [sys.executable, "-m", "shoald.node", "--session-dir", self.directory]
        command += ["--ready-fd", str(write_end), "--num-cpus", str(cpus), "--worker-main", workers]
        command += ["--object-store-memory", str(64 * 1024**2), "--config", json.dumps(config or {})]
        command += ["--owner-pid", str(owner)] if owner else []
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [*command, *arguments],
            pass_fds=[write_end],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        os.close(write_end)
        with open(read_end, "rb") as ready:
            line = ready.readline()
        self.ready = json.loads(line) if line else {}
        self.clients = []

    @property
    def secret(self):
        return bytes.fromhex((Path(self.directory) / "secret").read_text())

    @property
    def log(self):
        return (Path(self.directory) / "logs" / "node.log").read_text()

    def client(self, kind="driver", **options):
        client = Client(self.ready["socket"], self.secret, self.ready["node_id"], kind, **options)
        self.clients.append(client)
        return client

    def descendants(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def fork_server(self):
        return psutil.Process(self.process.pid).children()[0]

    def stop(self):
        """Stop in order; returns the exit code."""
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(WAIT_S)
        for folder in sorted(Path(self.directory).glob("**/*"), reverse=True):
            folder.rmdir() if folder.is_dir() else folder.unlink()
        if os.path.isdir(self.directory):
            os.rmdir(self.directory)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Client:
    """A connection after its handshake; says HELLO unless it is a command line."""

    def __init__(self, path, secret, node_id, kind="driver", hello=True, **info):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(path)
        preamble = auth.make_preamble(auth.KIND_CONTROL if kind == "cli" else auth.KIND_CLIENT)
        self.sock.sendall(preamble)
        challenge = b""
        while len(challenge) < auth.CHALLENGE_SIZE:
            piece = self.sock.recv(auth.CHALLENGE_SIZE - len(challenge))
            assert piece, "closed during the handshake"
            challenge += piece
        self.sock.sendall(auth.answer_challenge(secret, preamble, challenge))
        self.decoder = FrameDecoder(2**30)
        self.fds = []
        self.messages = []
        self.peers = []
        self.proc = new_process_id(node_tag(node_id))
        self.requests = 0
        if hello:
            self.send([m.HELLO, self.proc, kind, os.getpid(), info])
            self.welcome = self.receive(m.WELCOME)[1]

    def send(self, *messages, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        data = encode_batch(list(messages))
        sent = self.sock.sendmsg([data], rights)
        if sent < len(data):  # an empty rest raises as well, if the daemon has closed the connection by now
            self.sock.sendall(data[sent:])

    def read(self):
        """Read once; False at the end of the stream."""
        try:
            data, ancillary, _, _ = self.sock.recvmsg(2**16, socket.CMSG_SPACE(256))
        except ConnectionResetError:
            return False
        for _, _, content in ancillary:
            fds = array.array("i")
            fds.frombytes(content)
            self.fds.extend(fds)
        for body in self.decoder.feed(data):
            self.messages += decode_batch(body)
        return bool(data)

    def receive(self, tag):
        """The next message with this tag; others are kept."""
        while True:
            for position, message in enumerate(self.messages):
                if message[0] == tag:
                    return self.messages.pop(position)
            assert self.read(), f"the daemon closed the connection; {self.messages}"

    def closed_by_daemon(self):
        """Read to the end of the stream; True when it came."""
        while self.read():
            pass
        return True

    def request(self, method, **params):
        self.requests += 1
        self.send([m.REQUEST, self.requests, method, params])
        _, number, ok, data = self.receive(m.RESPONSE)
        assert number == self.requests
        assert ok, data
        return data

    def lease(self, shape=1, resources=None, count=1):
        """Ask for leases; returns [(grant message, socket to the worker)]."""
        self.send(
            [m.DEMAND, shape, CPU1 if resources is None else resources, count, {"name": f"shape{shape}"}]
        )
        return [self.granted() for _ in range(count)]

    def granted(self):
        grant = self.receive(m.GRANT)
        fds = self.fds[2 + len(self.peers) :]
        peer = socket.socket(fileno=fds[0])
        peer.settimeout(WAIT_S)
        self.peers.append(peer)
        return grant, peer

    def close(self):
        self.sock.close()
        for fd in self.fds[:2] + self.fds[2 + len(self.peers) :]:
            os.close(fd)
        for peer in self.peers:
            peer.close()
        self.fds = []
        self.peers = []


def tell(peer, text):
    """Have the worker at the other end do something; its answer."""
    peer.sendall(text.encode())
    return peer.recv(4096).decode()
