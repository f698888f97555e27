"""Workers for tests of the node daemon alone: they do what short texts on their task connections say."""

import array
import os
import select
import signal
import socket
import time

from shoald.bare import skip_user_api

skip_user_api()  # these workers know the protocol only; it is loaded in a third of the time

from shoal.ids import new_process_id, node_tag  # noqa: E402
from shoal.wire import auth  # noqa: E402
from shoal.wire import messages as m  # noqa: E402
from shoal.wire.frames import FrameDecoder, decode_batch, encode_batch  # noqa: E402


def run_worker(worker_id, socket_path, secret, node_id, region, status, config):
    Worker(worker_id, socket_path, secret, node_id, status).run()


class Worker:
    def __init__(self, worker_id, socket_path, secret, node_id, status):
        self.status = status
        self.proc = new_process_id(node_tag(node_id))
        self.daemon = socket.socket(socket.AF_UNIX)
        self.daemon.connect(socket_path)
        preamble = auth.make_preamble(auth.KIND_CLIENT)
        self.daemon.sendall(preamble)
        challenge = self.daemon.recv(auth.CHALLENGE_SIZE, socket.MSG_WAITALL)
        self.daemon.sendall(auth.answer_challenge(secret, preamble, challenge))
        self.decoder = FrameDecoder(2**30)
        self.fds = []
        self.peers = []
        self.children = 0
        self.waiting = None
        self.say([m.HELLO, self.proc, "worker", os.getpid(), {"worker_id": worker_id}])

    def say(self, *messages):
        self.daemon.sendall(encode_batch(list(messages)))

    def run(self):
        while True:
            readable, _, _ = select.select([self.daemon, *self.peers], [], [])
            if self.daemon in readable:
                self.hear()
            for peer in [peer for peer in self.peers if peer in readable]:
                text = peer.recv(4096).decode()
                if text:
                    self.act(peer, *text.split())
                else:
                    self.peers.remove(peer)
                    peer.close()

    def hear(self):
        data, ancillary, _, _ = self.daemon.recvmsg(2**16, socket.CMSG_SPACE(256))
        if not data:
            os._exit(0)
        for _, _, content in ancillary:
            fds = array.array("i")
            fds.frombytes(content)
            self.fds.extend(fds)
        for body in self.decoder.feed(data):
            for message in decode_batch(body):
                if message[0] == m.WELCOME:
                    for _ in range(2):
                        os.close(self.fds.pop(0))
                elif message[0] == m.PEER:
                    self.peers.append(socket.socket(fileno=self.fds.pop(0)))
                elif message[0] == m.EXIT:
                    os._exit(0)
                elif message[0] == m.GRANT:
                    self.waiting.sendall(b"child %d" % message[4])

    def act(self, peer, verb, *words):
        if verb == "exit":
            self.status[:16] = words[1].encode().ljust(16)
            os._exit(int(words[0]))
        if verb == "kill":
            os.kill(os.getpid(), int(words[0]))
        if verb == "print":
            os.write(1, " ".join(words).encode() + b"\n")
        if verb == "stay":  # a descendant that leaves the group and ignores polite signals
            self.stay(peer)
            return
        if verb == "nest":  # block on a child task; the answer is the child's pid
            self.waiting = peer
            self.say([m.DEMAND, 1, {"CPU": 10_000}, 1, {}], [m.BLOCKED, True])
            return
        if verb == "answer":
            peer.sendall(b"x" * int(words[0]))
            return
        peer.sendall(b"done")

    @staticmethod
    def stay(peer):
        if os.fork() == 0:
            os.setsid()
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                peer.sendall(b"%d" % os.getpid())
                while True:
                    time.sleep(60)
            os._exit(0)
