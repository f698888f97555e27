"""HeadLink over real gRPC on loopback: heads that go, or are others when they come back."""

import asyncio

from headparts import CONFIG, PATIENCE_S
from shoald.head.link import HeadLink
from shoald.head.server import HeadServer


def test_a_head_that_comes_back_finds_its_nodes(head, join, tmp_path, identity):
    link = join(head.address)
    before = link.hear("registered")
    link.call("StartJob", {"job": {"job_id": "j"}}).result(PATIENCE_S)
    head.stop()
    link.hear("disconnected")
    question = link.call("ListJobs")  # waits for the head
    port = int(head.address.rpartition(":")[2])
    again = HeadServer("127.0.0.1", port, identity(), str(tmp_path / "data"), CONFIG)
    again.start()
    try:
        after = link.hear("registered")
        assert after["cluster_id"] == before["cluster_id"]
        assert after["epoch"] != before["epoch"]
        assert [job["job_id"] for job in question.result(PATIENCE_S)["jobs"]] == ["j"]
    finally:
        link.stop()
        again.stop()


def test_a_report_as_the_stream_ends_costs_the_session_and_not_the_link(head, join, monkeypatch):
    """What is written between the end of a stream and its discovery is no RpcError, but an InvalidStateError."""
    opened = HeadLink._open

    async def open_one_that_ends(self, channel):
        monkeypatch.setattr(HeadLink, "_open", opened)
        stream = await opened(self, channel)
        write = stream.write

        async def end_before_a_report(message):
            if message.WhichOneof("kind") == "report":
                stream.cancel()
            await write(message)

        stream.write = end_before_a_report
        return stream

    monkeypatch.setattr(HeadLink, "_open", open_one_that_ends)
    link = join(head.address)
    link.report({"available": {"CPU": 1}})
    link.hear("disconnected")
    link.hear("registered")


def test_a_call_under_way_as_its_channel_is_closed_is_made_again(head, join, monkeypatch):
    """A head that is silent is given up, and its channel closed; gRPC cancels the calls that wait there."""
    ask = HeadLink._ask

    async def ask_one_that_is_given_up(self, *call):
        monkeypatch.setattr(HeadLink, "_ask", ask)
        asyncio.get_running_loop().call_soon(self._attempt.cancel)
        return await ask(self, *call)

    link = join(head.address)
    link.hear("registered")
    monkeypatch.setattr(HeadLink, "_ask", ask_one_that_is_given_up)
    assert link.call("ListJobs").result(PATIENCE_S) == {"jobs": []}
    link.hear("disconnected")


def test_an_impostor_on_the_port_of_a_dead_head_learns_nothing_and_ends_nothing(
    head, join, tmp_path, identity
):
    link = join(head.address)
    link.hear("registered")
    head.stop()
    link.hear("disconnected")
    port = int(head.address.rpartition(":")[2])
    impostor = HeadServer("127.0.0.1", port, identity(b"i" * 32), str(tmp_path / "impostor"), CONFIG)
    impostor.start()
    link.hear("disconnected")  # told again, as the reason is another one now
    impostor.stop()
    again = HeadServer("127.0.0.1", port, identity(), str(tmp_path / "data"), CONFIG)
    again.start()
    try:
        link.hear("registered")
    finally:
        link.stop()
        again.stop()
