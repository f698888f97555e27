"""Chunks from region to region: real sockets and threads, and what goes wrong on them."""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading

import pytest
import xxhash

from nodeclient import until
from shoal.config import Config
from shoal.store.checksums import checksum
from shoal.store.filecopies import FileCopy
from shoal.wire import auth, pieces
from shoald.objects.copies import Copy
from shoald.objects.landing import sum_file
from shoald.objects.processors import Receivers
from shoald.objects.pulls import CORRUPT, GONE, STALLED, UNREACHED, UNWRITTEN
from shoald.objects.receiving import Lane, Request
from shoald.objects.sending import DataServer
from shoald.objects.serving import Ticket
from shoald.objects.sockets import receive_exactly, send_all, set_blocking, stays_here
from shoald.shell.identity import Identity
from unit.objects.world import body

SECRET = b"s" * 32
READER = bytes(range(16))
CHUNK = 256 * 1024
WAIT_S = 60.0


def read(sock, size):
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


class Source:
    """A listener that proves itself and hands connections to `take`."""

    def __init__(self, take, identity):
        self.take = take
        self.identity = identity
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.accepted = 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def close(self):
        if self.thread.is_alive():
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            self.thread.join(WAIT_S)
        self.listener.close()

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                self.prove(sock)
            except (ConnectionError, auth.HandshakeFailed):
                sock.close()

    def prove(self, sock):
        preamble = read(sock, auth.PREAMBLE_SIZE)
        challenge = auth.make_challenge(SECRET, preamble)
        sock.sendall(challenge)
        auth.check_proof(SECRET, preamble, challenge, read(sock, auth.PROOF_SIZE))
        assert auth.wants_tls(preamble) is (self.identity.mode == "on")
        if auth.wants_tls(preamble):
            sock.setblocking(False)
            sock = self.identity.wrap(sock, server_side=True)
            sock.greet_within(WAIT_S)
        self.take(auth.read_preamble(preamble)[1], sock)


class Rig:
    """A source with one object and a reader with one lane."""

    def __init__(self, identity, size=3 * CHUNK + 17, **settings):
        self.identity = identity
        self.config = Config(**settings)
        self.data = body(size)
        self.there = bytearray(b"-" * 64 + self.data)
        self.here = bytearray(size + 128)
        self.copy = Copy(b"X" * 16, b"C" * 16, size, CHUNK, 64)
        self.copy.have = self.copy.all
        ticket = Ticket(READER.hex(), 7, self.copy.id)
        ticket.copy = self.copy
        self.tickets = {(READER.hex(), 7): ticket}
        self.lines = []
        self.damaged = []
        self.server = DataServer(
            self.tickets,
            lambda: memoryview(self.there),
            self.config,
            self.lines.append,
            lambda copy, why: self.damaged.append((copy.id, why)),
        )
        self.source = Source(self.server.take, identity)
        self.landed = queue.Queue()
        self.ended = queue.Queue()
        self.receivers = Receivers()
        self.lane = self.lane_to(self.source)

    def lane_to(self, source):
        return Lane(
            source.address,
            self.identity,
            READER,
            self.config,
            lambda: memoryview(self.here),
            lambda *landed: self.landed.put(landed),
            self.receivers,
            lambda file: self.ended.put(file),
        )

    def pieces(self, *chunks):
        """These chunks, to be written at the place they have in the object, 128 bytes further on."""
        wanted = []
        for chunk in chunks:
            offset, size = self.copy.place(chunk)
            wanted.append((7, chunk, offset + 64, size))
        return wanted

    def get(self, number, wanted):
        self.lane.receive(Request(number, wanted))
        found, outcomes, reason = self.landed.get(timeout=WAIT_S)
        assert found == number
        return outcomes, reason

    def close(self):
        self.lane.close()
        self.server.close()
        self.source.close()


@pytest.fixture(params=["off", "on"], ids=["clear", "tls"])
def rig(request, tmp_path):
    made = []
    identity = Identity(SECRET, request.param, str(tmp_path))

    def make(**settings):
        made.append(Rig(identity, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_chunks_come_with_their_checksums(rig):
    it = rig()
    outcomes, reason = it.get(1, it.pieces(0, 1, 2, 3))
    assert reason == ""
    assert outcomes == [xxhash.xxh3_64_intdigest(it.data[i * CHUNK : (i + 1) * CHUNK]) for i in range(4)]
    assert it.here[128:] == it.data
    assert bytes(it.here[:128]) == bytes(128)
    until(lambda: it.server.sent_bytes == len(it.data), "the count of what was sent")


def test_on_one_machine_the_source_is_never_far_ahead(rig):
    it = rig(size=4 * 1024**2, data_ahead_bytes=32 * 1024)
    it.copy.chunk = 4 * 1024**2
    ours = socket.socket()
    with socket.create_server(("127.0.0.1", 0)) as listener, ours:
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        assert stays_here(ours)
        assert stays_here(theirs)
        before = theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        it.server.take(READER, theirs)
        ours.sendall(pieces.encode_request([(7, 0)]))
        assert receive_exactly(ours, pieces.ANSWER_SIZE)
        assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < before


def test_what_is_no_plain_connection_of_this_machine_does_not_stay_here(tmp_path):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not stays_here(ours)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sock.connect(listener.getsockname())
        sock.setblocking(False)
        with Identity(SECRET, "on", str(tmp_path)).wrap(sock, server_side=False) as wrapped:
            assert not stays_here(wrapped)


def test_a_lane_that_has_nothing_to_do_may_run_anywhere(rig, monkeypatch):
    it = rig()
    seen = []
    monkeypatch.setattr(Receivers, "settle", lambda _: seen.append("settle"))
    monkeypatch.setattr(Receivers, "leave", lambda _: seen.append("leave"))
    assert it.get(1, it.pieces(0, 1))[1] == ""
    until(lambda: "leave" in seen)
    assert seen == (["leave"] if it.identity.mode == "on" else ["settle", "settle", "leave"])


def test_requests_are_answered_in_order_over_one_connection(rig):
    it = rig()
    for chunk in range(4):
        it.lane.receive(Request(chunk, it.pieces(chunk)))
    assert [it.landed.get(timeout=WAIT_S)[0] for _ in range(4)] == [0, 1, 2, 3]
    assert it.here[128:] == it.data
    assert it.source.accepted == 1


def test_a_request_is_sent_ahead_in_the_middle_of_a_chunk(rig):
    """Else the source has nothing to send from the end of that chunk until the reader has noticed it."""
    it = rig(pull_part_bytes=10_000)
    taken = queue.Queue()
    slow = Source(lambda _target, sock: taken.put(sock), it.identity)
    it.lane = it.lane_to(slow)
    it.lane.receive(Request(1, it.pieces(0)))
    sock = taken.get(timeout=WAIT_S)
    set_blocking(sock, WAIT_S, WAIT_S)
    asked = pieces.COUNT_SIZE + pieces.PIECE_SIZE
    assert receive_exactly(sock, asked) == pieces.encode_request([(7, 0)])
    data = memoryview(it.data[:CHUNK])
    send_all(sock, [memoryview(pieces.encode_answers([(pieces.HERE, CHUNK)])), data[:10_000]])
    until(lambda: it.here[128:10_128] == data[:10_000], "the first part")
    it.lane.receive(Request(2, it.pieces(1)))
    send_all(sock, [data[10_000:20_000]])
    assert receive_exactly(sock, asked) == pieces.encode_request([(7, 1)])
    checksum = xxhash.xxh3_64_intdigest(data)
    send_all(sock, [data[20_000:], memoryview(pieces.encode_answers([(pieces.HERE, checksum)]))])
    assert it.landed.get(timeout=WAIT_S) == (1, [checksum], "")
    sock.close()
    assert it.landed.get(timeout=WAIT_S)[:2] == (2, [UNREACHED])
    slow.close()


def test_many_pieces_in_one_request(rig):
    it = rig()
    small = Copy(b"Y" * 16, b"D" * 16, 1000, 1, 64)  # a thousand chunks of one byte
    small.have = small.all
    it.tickets[READER.hex(), 8] = ticket = Ticket(READER.hex(), 8, small.id)
    ticket.copy = small
    outcomes, _ = it.get(1, [(8, chunk, chunk, 1) for chunk in range(1000)])
    assert min(outcomes) >= 0
    assert it.here[:1000] == it.data[:1000]


def test_a_parcel_comes_from_several_places_in_one_piece(rig):
    it = rig(pull_part_bytes=10_000)
    parcel = Copy(b"", b"", 30_400, 30_400)
    parcel.have = parcel.all
    parcel.spans = [(128, 6400), (6528, 19_200), (64_000, 4800)]
    it.tickets[READER.hex(), 8] = ticket = Ticket(READER.hex(), 8, b"Y" * 48)
    ticket.copy = parcel
    outcomes, _ = it.get(1, [(8, 0, 64, 30_400)])
    data = it.there[128 : 128 + 25_600] + it.there[64_000:68_800]
    assert it.here[64 : 64 + 30_400] == data
    assert outcomes == [xxhash.xxh3_64_intdigest(bytes(data))]


def test_an_empty_object(rig):
    it = rig(size=0)
    outcomes, reason = it.get(1, it.pieces(0))
    assert outcomes == [xxhash.xxh3_64_intdigest(b"")]
    assert reason == ""


def test_what_is_not_there_is_said_and_the_rest_comes(rig):
    it = rig()
    it.copy.have &= ~0b10
    outcomes, reason = it.get(1, [*it.pieces(0, 1, 2), (99, 0, 0, 5)])
    assert [outcome >= 0 for outcome in outcomes] == [True, False, True, False]
    assert outcomes[1] == outcomes[3] == GONE
    assert "any more" in reason
    assert it.get(2, it.pieces(3))[0][0] >= 0
    assert it.source.accepted == 1


def test_somebody_elses_ticket_is_not_honoured(rig):
    it = rig()
    it.tickets["00" * 16, 7] = it.tickets.pop((READER.hex(), 7))
    assert it.get(1, it.pieces(0))[0] == [GONE]


def test_wrong_bytes_are_noticed(rig):
    it = rig()
    it.copy.sums[1] = xxhash.xxh3_64_intdigest(b"what it was at its origin")
    outcomes, reason = it.get(1, it.pieces(0, 1))
    assert outcomes[0] >= 0
    assert outcomes[1] == CORRUPT
    assert "checksum" in reason


def test_a_chunk_is_checked_in_parts(rig):
    """As if it had been in one: another node has, or makes, the checksum of the whole."""
    it = rig(pull_part_bytes=10_000)
    outcomes, _ = it.get(1, it.pieces(0, 3, 1, 2))
    assert outcomes == [xxhash.xxh3_64_intdigest(it.data[i * CHUNK : (i + 1) * CHUNK]) for i in (0, 3, 1, 2)]
    assert it.here[128:] == it.data
    it.there[64 + CHUNK + 30_000] ^= 1  # the source's memory has changed since it made its checksums
    assert it.get(2, it.pieces(0, 1, 2))[0] == [outcomes[0], CORRUPT, outcomes[3]]


def test_what_was_let_go_of_while_it_was_sent_is_not_there(rig, monkeypatch):
    """Without its pin the bytes may be those of another object, and a checksum of these would be right."""
    it = rig(pull_part_bytes=10_000)
    digest = it.server._digest

    def let_go(*args):
        made = digest(*args)
        it.tickets.clear()
        return made

    monkeypatch.setattr(it.server, "_digest", let_go)
    outcomes, reason = it.get(1, it.pieces(0))
    assert outcomes == [GONE]
    assert "any more" in reason
    assert not it.copy.sums


def test_a_server_is_busy_while_it_sends(rig):
    it = rig(size=16 * 1024**2)
    it.copy.chunk, it.copy.chunks = it.copy.size, 1
    it.copy.have = it.copy.all = 1
    assert not it.server.busy
    ours, theirs = socket.socketpair()
    it.server.take(READER, theirs)
    ours.sendall(pieces.encode_request([(7, 0)]))
    until(lambda: it.server.busy, "a request under way, which is not read")
    ours.close()
    until(lambda: not it.server.busy, "the end of it")


def test_a_source_that_goes_away_fails_what_is_under_way_and_the_next_request_dials_again(rig):
    it = rig()
    assert it.get(1, it.pieces(0))[0][0] >= 0
    it.server.close()
    outcomes, reason = it.get(2, it.pieces(1, 2))
    assert outcomes == [UNREACHED, UNREACHED]
    assert it.source.address in reason
    assert it.get(3, it.pieces(1))[0][0] >= 0
    assert it.source.accepted == 2


def test_nobody_listens(rig):
    it = rig()
    it.source.close()
    outcomes, reason = it.get(1, it.pieces(0))
    assert outcomes == [UNREACHED]
    assert it.source.address in reason


def test_a_wrong_secret_is_a_failure_like_others(rig, tmp_path):
    it = rig()
    it.lane = Lane(
        it.source.address,
        Identity(b"w" * 32, it.identity.mode, str(tmp_path)),
        READER,
        it.config,
        lambda: memoryview(it.here),
        lambda *landed: it.landed.put(landed),
        it.receivers,
        lambda file: it.ended.put(file),
    )
    outcomes, reason = it.get(1, it.pieces(0))
    assert outcomes == [UNREACHED]
    assert "secret" in reason


def test_a_source_that_stands_still_is_given_up(rig):
    it = rig(pull_stall_ms=50.0)
    held = []
    silent = Source(lambda _target, sock: held.append(sock), it.identity)
    it.lane = it.lane_to(silent)
    outcomes, reason = it.get(1, it.pieces(0))
    assert outcomes == [UNREACHED]
    assert "nothing for 0.05 s" in reason
    silent.close()


def test_a_chunk_of_another_size_is_refused(rig):
    it = rig()
    outcomes, reason = it.get(1, [(7, 0, 0, 10)])
    assert outcomes == [UNREACHED]
    assert "instead of 10" in reason


def test_rubbish_closes_the_connection_with_a_line(rig):
    it = rig()
    ours, theirs = socket.socketpair()
    it.server.take(READER, theirs)
    ours.sendall(b"\xff" * 64)
    ours.settimeout(WAIT_S)
    try:
        assert ours.recv(10) == b""
    except ConnectionResetError:
        pass  # it had not read all of the rubbish
    assert it.lines
    assert "pieces in one request" in it.lines[0]
    ours.close()


def test_connections_beyond_the_bound_are_refused(rig):
    it = rig(data_connections_max=1)
    assert it.get(1, it.pieces(0))[0][0] >= 0
    ours, theirs = socket.socketpair()
    it.server.take(READER, theirs)
    ours.settimeout(WAIT_S)
    assert ours.recv(10) == b""
    assert "data_connections_max" in it.lines[0]
    ours.close()


def test_an_idle_connection_is_closed_and_opened_again(rig):
    it = rig(data_idle_ms=20.0)
    assert it.get(1, it.pieces(0))[0][0] >= 0
    until(lambda: not it.server._socks, "the end of the connection")
    assert it.get(2, it.pieces(1))[0][0] >= 0
    assert it.source.accepted == 2


def test_close_ends_the_thread_and_what_is_under_way(rig):
    it = rig()
    held = []
    silent = Source(lambda _target, sock: held.append(sock), it.identity)
    lane = it.lane_to(silent)
    lane.receive(Request(1, it.pieces(0)))
    until(lambda: held, "the connection")
    lane.close()
    assert it.landed.get(timeout=WAIT_S)[1] == [UNREACHED]
    lane._thread.join(WAIT_S)
    assert not lane._thread.is_alive()
    silent.close()


def test_requests_read_back():
    asked = [(1, 0), (2**40, 2**33)]
    data = pieces.encode_request(asked)
    assert pieces.decode_count(data[: pieces.COUNT_SIZE]) == 2
    assert pieces.decode_pieces(data[pieces.COUNT_SIZE :]) == asked
    answers = [(pieces.HERE, 2**64 - 1), (pieces.NOT_HERE, 0)]
    assert pieces.decode_answers(pieces.encode_answers(answers)) == answers
    for count in (0, pieces.PIECES_MAX + 1):
        with pytest.raises(pieces.BrokenRequest):
            pieces.decode_count(count.to_bytes(8, "little"))


def test_a_fault_fails_the_request_and_the_lane_goes_on(rig, capsys):
    it = rig()
    outcomes, reason = it.get(1, [(7, 0, "no number", CHUNK)])
    assert outcomes == [UNREACHED]
    assert "a fault of this node" in reason
    assert "TypeError" in capsys.readouterr().err
    assert it.get(2, it.pieces(0))[0][0] >= 0


def test_no_thread_left_is_a_failure_like_others(rig, monkeypatch):
    it = rig()
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("shoal-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcomes, reason = it.get(1, it.pieces(0))
    assert outcomes == [UNREACHED]
    assert "new thread" in reason
    ours, theirs = socket.socketpair()
    it.server.take(READER, theirs)
    ours.settimeout(WAIT_S)
    assert ours.recv(1) == b""
    assert not it.server._socks
    ours.close()
    monkeypatch.undo()
    assert it.get(2, it.pieces(0))[0][0] >= 0


def test_an_object_that_there_is_no_room_for_is_served_out_of_its_spill_file(rig, tmp_path):
    it = rig()
    path = tmp_path / "5.spill"
    path.write_bytes(b"other" + bytes(59) + it.data)
    it.copy.offset = 0
    it.copy.file = str(path), 64, xxhash.xxh3_64_intdigest(it.data)
    wanted = it.pieces(0, 1, 2, 3)
    it.there[:] = bytes(len(it.there))
    assert min(it.get(1, wanted)[0]) >= 0
    assert it.here[64 : 64 + len(it.data)] == it.data
    path.unlink()
    assert min(it.get(2, wanted)[0]) >= 0, "it stays mapped"


@pytest.mark.parametrize("content", [None, b"something else" * 100_000])
def test_a_spill_file_that_has_gone_or_was_damaged_is_not_there(rig, tmp_path, content):
    it = rig()
    path = tmp_path / "5.spill"
    if content is not None:
        path.write_bytes(content)
    it.copy.offset = 0
    it.copy.file = str(path), 64, xxhash.xxh3_64_intdigest(it.data)
    assert it.get(1, it.pieces(0))[0] == [GONE]
    [(object_id, why)] = it.damaged
    assert object_id == it.copy.id
    assert ("checksum" if content else f"{path}: No such file") in why


def test_but_not_for_want_of_descriptors(rig, tmp_path, monkeypatch):
    it = rig()
    path = tmp_path / "5.spill"
    path.write_bytes(it.data)
    it.copy.offset = 0
    it.copy.file = str(path), 0, xxhash.xxh3_64_intdigest(it.data)

    def refuse(_copy, _patience_s):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(FileCopy, "open", refuse)
        assert it.get(1, it.pieces(0))[0] == [GONE]
    assert not it.damaged
    assert it.get(2, it.pieces(0))[0][0] >= 0, "it is well, and may be asked for again"


class Files:
    """Requests whose chunks go into a file."""

    def __init__(self, it, path):
        self.it = it
        self.path = str(path)
        open(self.path, "wb").close()

    def receive(self, number, chunk):
        offset, size = chunk * CHUNK, self.it.copy.place(chunk)[1]
        self.it.lane.receive(Request(number, [(7, chunk, offset, size)], 5, self.path))
        return self.it.landed.get(timeout=WAIT_S)


def test_chunks_into_a_file_are_checked_before_they_are_written(rig, tmp_path):
    it = rig()
    files = Files(it, tmp_path / "5.spill")
    for chunk in (3, 1, 0, 2):
        number, outcomes, reason = files.receive(chunk + 1, chunk)
        assert (number, reason) == (chunk + 1, "")
        assert outcomes == [xxhash.xxh3_64_intdigest(it.data[chunk * CHUNK : (chunk + 1) * CHUNK])]
    outcome, reason, hanging = sum_file(files.path, len(it.data), WAIT_S)
    assert (outcome, reason, hanging) == (checksum(memoryview(it.data)), "", None)
    padded = (tmp_path / "5.spill").read_bytes()
    assert padded[: len(it.data)] == it.data
    assert len(padded) % 64 == 0
    it.copy.sums[0] += 1
    assert files.receive(9, 0)[1] == [CORRUPT]
    assert (tmp_path / "5.spill").read_bytes() == padded


def test_a_file_that_takes_nothing_is_not_the_sources_fault(rig, tmp_path):
    it = rig()
    files = Files(it, tmp_path / "5.spill")
    files.path = "/dev/full"
    _, outcomes, reason = files.receive(1, 0)
    assert outcomes == [UNWRITTEN]
    assert reason == "/dev/full: No space left on device"
    assert sum_file(str(tmp_path / "gone"), 10, WAIT_S)[0] == UNWRITTEN
    files.path = str(tmp_path / "5.spill")
    assert files.receive(2, 1)[1][0] >= 0, "the connection goes on"


def test_a_write_that_hangs_is_left_behind(rig, tmp_path):
    """Nobody reads the pipe: who opens it to write into it hangs."""
    it = rig(pull_stall_ms=200.0)
    files = Files(it, tmp_path / "5.spill")
    files.path = str(tmp_path / "pipe")
    os.mkfifo(files.path)
    _, outcomes, reason = files.receive(1, 0)
    assert outcomes == [STALLED]
    assert "does its file system hang?" in reason
    assert it.ended.empty()
    files.path = str(tmp_path / "5.spill")
    assert files.receive(2, 1)[1][0] >= 0, "the connection goes on"
    os.close(os.open(str(tmp_path / "pipe"), os.O_RDONLY))
    assert it.ended.get(timeout=WAIT_S) == 5
