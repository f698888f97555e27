"""HeadServer and HeadLink over real gRPC on loopback: register, hear and ask."""

import contextlib
import dataclasses
import select
import selectors
import socket
import threading
import time

import pytest

from headparts import CONFIG, PATIENCE_S, SECRET
from shoald.head.link import HeadLink, HeadRefusedError, HeadUnreachableError
from shoald.head.server import HeadServer, HeadStartError
from shoald.shell.identity import Identity
from shoald.shell.listener import listen_tcp

ID = b"o" * 16
ACTOR = {"actor_id": ID, "namespace": "s", "name": "n", "node_id": "aa"}


def test_a_node_registers_and_hears_of_others(head, join):
    first = join(head.address, "aa")
    first.wait_registered(PATIENCE_S)
    assert first.hear("registered")["nodes"][0]["node_id"] == "aa"
    second = join(head.address, "bb")
    second.wait_registered(PATIENCE_S)
    [changed] = first.hear("nodes")["nodes"]
    assert (changed["node_id"], changed["state"], changed["resources"]) == (
        "bb",
        "ALIVE",
        {"CPU": 20000},
    )
    second.stop()
    [changed] = first.hear("nodes")["nodes"]
    assert (changed["node_id"], changed["state"], changed["reason"]) == ("bb", "DEAD", "left")


def test_a_head_that_starts_by_the_first_attempt_is_found_by_the_next(tmp_path, identity, join):
    held = listen_tcp("127.0.0.1")
    port = held.getsockname()[1]
    patient = dataclasses.replace(CONFIG, reconnect_ms_max=PATIENCE_S * 1000)
    link = join(f"127.0.0.1:{port}", config=patient)
    assert select.select([held], [], [], PATIENCE_S)[0]
    server = HeadServer("127.0.0.1", port, identity(), str(tmp_path / "data"), CONFIG, held=held)
    try:
        assert server.start() == port
        assert held.fileno() < 0
        link.wait_registered(PATIENCE_S)
    finally:
        server.stop()
    assert link.heard.get(timeout=PATIENCE_S)["kind"] == "registered"


@contextlib.contextmanager
def at_a_distance(address, delay_s):
    """An address where ``address`` is reached, and answers, that much later; for one connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    ends = []

    def carry():
        ends.append(listener.accept()[0])
        ends.append(socket.create_connection(address.split(":")))
        poller = selectors.DefaultSelector()
        for end, other in (ends, ends[::-1]):
            poller.register(end, selectors.EVENT_READ, other)
        with poller, contextlib.suppress(OSError):  # one of them has gone
            while True:
                for key, _ in poller.select():
                    data = key.fileobj.recv(1 << 20)
                    if not data:
                        return
                    time.sleep(delay_s)
                    key.data.sendall(data)

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for each in (listener, *ends):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in (listener, *ends):
            each.close()


def test_a_head_may_be_far_away(head, join):
    config = dataclasses.replace(CONFIG, reconnect_ms_max=PATIENCE_S * 1000)
    with at_a_distance(head.address, 0.1) as address:
        link = join(address, config=config)
        link.wait_registered(PATIENCE_S)
        link.stop()


def test_reports_reach_the_directory_and_frees_come_back(head, join):
    link = join(head.address)
    link.hear("registered")
    link.report({"snapshot": True, "born": [(ID, 2**40)], "hold": [ID], "workers": 3})
    for _ in range(100):
        other, found = link.call("Locate", {"ids": [bytes(16), ID]}).result(PATIENCE_S)["objects"]
        if found["known"]:
            break
    assert not other["known"]
    assert found == {"known": True, "size_bytes": 2**40, "copies": ["aa"], "holders": ["aa"]}
    link.report({"release": [ID]})
    assert link.hear("free")["ids"] == [ID]
    [node] = link.call("GetCluster").result(PATIENCE_S)["nodes"]
    assert node["workers"] == 3


@pytest.mark.parametrize(
    ("bounds", "answered"), [({"locate_ids_max": 2}, 2), ({"locate_nodes_max": 0}, 1), ({}, 3)]
)
def test_what_an_answer_has_no_room_for_is_to_be_asked_for_again(tmp_path, identity, join, bounds, answered):
    config = dataclasses.replace(CONFIG, **bounds)
    server = HeadServer("127.0.0.1", 0, identity(), str(tmp_path / "data"), config)
    try:
        link = join(f"127.0.0.1:{server.start()}", config=config)
        link.hear("registered")
        ids, confirmed = [bytes([number]) * 16 for number in range(3)], threading.Event()
        link.report({"snapshot": True, "born": [(each, 100) for each in ids], "hold": ids}, confirmed.set)
        assert confirmed.wait(PATIENCE_S)
        found = link.call("Locate", {"ids": ids}).result(PATIENCE_S)["objects"]
        assert [each["copies"] for each in found] == [["aa"]] * answered
    finally:
        server.stop()


def test_calls(head, join):
    link = join(head.address)
    link.call("StartJob", {"job": {"job_id": "j", "node_id": "aa"}}).result(PATIENCE_S)
    assert link.call("EndJob", {"job_id": "j", "state": "FINISHED"}).result(PATIENCE_S) == {"known": True}
    [job] = link.call("ListJobs").result(PATIENCE_S)["jobs"]
    assert (job["job_id"], job["state"]) == ("j", "FINISHED")
    assert link.call("PutKey", {"key": "k", "value": b"v"}).result(PATIENCE_S) == {"stored": True}
    assert link.call("GetKey", {"key": "k"}).result(PATIENCE_S) == {"known": True, "value": b"v"}
    assert link.call("DeleteKey", {"key": "k"}).result(PATIENCE_S) == {"known": True}
    assert link.call("Health").result(PATIENCE_S)["nodes_alive"] == 1
    assert link.call("DrainNode", {"node_id": "aa", "reason": "why"}).result(PATIENCE_S) == {"known": True}
    assert link.hear("drain")["reason"] == "why"


@pytest.mark.parametrize(
    ("method", "params"),
    [("Nothing", {}), ("Connect", {}), ("Health", {"colour": 1}), ("Locate", {"ids": [b"short"]}),
     ("EndJob", {"job_id": "j", "state": "HAPPY"})],
)  # fmt: skip
def test_calls_that_make_no_sense(head, join, method, params):
    with pytest.raises(ValueError, match=r"."):
        join(head.address).call(method, params).result(PATIENCE_S)


def test_a_wrong_secret_is_final_and_told_once(head, join):
    link = join(head.address, secret=b"w" * 32)
    with pytest.raises(HeadRefusedError, match="wrong secret"):
        link.wait_registered(PATIENCE_S)
    assert "wrong secret" in link.hear("refused")["reason"]
    with pytest.raises(HeadRefusedError):
        link.call("Health").result(PATIENCE_S)
    link.stop()


def test_loopback_may_lead_to_a_head_with_tls(tmp_path):
    """It listens beyond loopback too; a node that begins in clear there finds out."""
    for name in ("head", "node"):
        (tmp_path / name).mkdir()
    server = HeadServer(
        "127.0.0.1", 0, Identity(SECRET, "on", str(tmp_path / "head")), str(tmp_path / "data"), CONFIG
    )
    identity = Identity(SECRET, "auto", str(tmp_path / "node"))
    address = f"127.0.0.1:{server.start()}"
    link = HeadLink(address, identity, {"node_id": "aa", "incarnation": "1"}, lambda _: None, CONFIG)
    link.start()
    try:
        link.wait_registered(PATIENCE_S)
    finally:
        link.stop()
        server.stop()


def test_tls_is_not_given_up_for_a_head_without(tmp_path):
    """Where it is wanted, nothing is ever said in clear."""
    server = HeadServer("127.0.0.1", 0, Identity(SECRET, "off", ""), str(tmp_path / "data"), CONFIG)
    identity = Identity(SECRET, "on", str(tmp_path))
    address = f"127.0.0.1:{server.start()}"
    link = HeadLink(address, identity, {"node_id": "aa", "incarnation": "1"}, lambda _: None, CONFIG)
    link.start()
    try:
        with pytest.raises(HeadUnreachableError, match=r"with TLS.*--tls is the same there"):
            link.wait_registered(1.0)
    finally:
        link.stop()
        server.stop()


def test_no_head(join):
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        link = join(f"127.0.0.1:{placeholder.getsockname()[1]}")
        with pytest.raises(HeadUnreachableError, match="no head answers"):
            link.wait_registered(0.3)
        link.hear("disconnected")


def test_the_port_in_use_is_one_clear_error(head, tmp_path, identity):
    port = int(head.address.rpartition(":")[2])
    with pytest.raises(HeadStartError, match="in use"):
        HeadServer("127.0.0.1", port, identity(), str(tmp_path / "other"), CONFIG).start()


def test_a_head_without_a_data_directory_keeps_nothing(tmp_path, identity, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    server = HeadServer("127.0.0.1", 0, identity(), "", CONFIG)
    link = HeadLink(
        f"127.0.0.1:{server.start()}",
        identity(),
        {"node_id": "a", "incarnation": "b"},
        lambda _: None,
        CONFIG,
    )
    link.start()
    try:
        link.wait_registered(PATIENCE_S)
    finally:
        link.stop()
        server.stop()
    assert list(here.iterdir()) == []


def test_the_data_directory_in_use_is_one_clear_error(head, tmp_path, identity):
    with pytest.raises(HeadStartError, match="another head"):
        HeadServer("127.0.0.1", 0, identity(), str(tmp_path / "data"), CONFIG).start()


def test_stopping_twice_and_before_the_start_is_harmless(tmp_path, identity):
    server = HeadServer("127.0.0.1", 0, identity(), str(tmp_path), CONFIG)
    server.stop()
    server.start()
    server.stop()
    server.stop()
    link = HeadLink("127.0.0.1:1", identity(), {"node_id": "a", "incarnation": "b"}, lambda _: None, CONFIG)
    link.stop()
    link.start()
    link.stop()
    link.stop()
    with pytest.raises(HeadUnreachableError):
        link.call("Health").result(PATIENCE_S)


def test_what_a_node_has_free_is_heard_by_the_others(head, join):
    first, second = join(head.address, "aa"), join(head.address, "bb")
    for link in (first, second):
        link.hear("registered")
    waiting = {"resources": {"CPU": 5}, "count": 3, "reason": "why"}
    second.report({"snapshot": True, "available": {"CPU": 7}, "store_used_bytes": 9, "pending": [waiting]})
    [row] = first.hear("gauges")["nodes"]
    assert row == {"node_id": "bb", "available": {"CPU": 7}, "store_used_bytes": 9, "waiting": 3}


def test_a_placement_group_is_prepared_and_committed_by_its_nodes(head, join):
    nodes = {name: join(head.address, name, resources={"CPU": 1}) for name in ("aa", "bb")}
    for link in nodes.values():
        link.hear("registered")
        link.report({"snapshot": True, "available": {"CPU": 1}})
        link.tell_groups({"snapshot": True})
    group = {
        "group_id": ID, "name": "n", "namespace": "s", "strategy": "STRICT_SPREAD", "detached": False, "job_id": "j",
        "bundles": [
            {"resources": {"CPU": 1}, "selector": {"shoal.io/node-id": "bb"}}, {"resources": {"CPU": 1}, "selector": {}},
        ],
        "node_id": "aa",
    }  # fmt: skip
    nodes["aa"].tell_groups({"wanted": [group]})

    heard = []

    def orders(link):
        """The next ones; an order may come twice, when the node's snapshot reaches the head only after it was given."""
        while True:
            found = [order for order in link.hear("groups")["orders"] if (link, order) not in heard]
            if found:
                heard.extend((link, order) for order in found)
                return found

    placed = {}
    for name, link in nodes.items():
        [order] = orders(link)
        assert (order["kind"], order["group_id"], order["bundles"]) == (
            "PREPARE",
            ID,
            [{"resources": {"CPU": 1}, "selector": {}}],
        )
        placed.update(dict.fromkeys(order["indices"], name))
        link.tell_groups({"answers": [{"group_id": ID, "attempt": order["attempt"], "ok": True}]})
    assert placed == {0: "bb", 1: "aa"}
    for link in nodes.values():
        assert [order["kind"] for order in orders(link)] == ["COMMIT"]
    found = nodes["bb"].call("FindGroup", {"name": "n", "namespace": "s"}).result(PATIENCE_S)
    assert found["group"]["state"] == "CREATED"
    assert found["group"]["nodes"] == [placed[0], placed[1]]
    assert found["group"]["group"] == group
    nodes["bb"].tell_groups({"removed": [ID]})
    for link in nodes.values():
        assert [order["kind"] for order in orders(link)] == ["RETURN"]
    [listed] = nodes["aa"].call("ListGroups").result(PATIENCE_S)["groups"]
    assert listed["state"] == "REMOVED"


@pytest.mark.parametrize(
    "news",
    [
        {"removed": [b"short"]},
        {"wanted": [{"group_id": ID, "strategy": "PACK"}]},
        {"wanted": [{"group_id": ID, "strategy": "TIGHT", "bundles": [{"resources": {"CPU": 1}}]}]},
        {"made": [{"group_id": ID, "strategy": "PACK", "bundles": [{"resources": {"CPU": -1}}]}]},
    ],
)
def test_news_of_groups_that_make_no_sense_end_the_session(head, join, news):
    link = join(head.address)
    link.hear("registered")
    link.tell_groups(news)
    assert "reason" in link.hear("refused")


def hosts(head, join):
    """Two nodes that host no actors yet."""
    links = join(head.address, "aa"), join(head.address, "bb")
    for link in links:
        link.hear("registered")
        link.report_actors([], snapshot=True)
    return links


def test_names_are_claimed_and_changes_of_actors_are_heard(head, join):
    host, asker = hosts(head, join)
    actor = {**ACTOR, "info": b"blob", "placement": {"CPU": 1}}
    claimed = host.call("ClaimActor", {"actor": actor}).result(PATIENCE_S)["actor"]
    assert claimed["actor_id"] == ID
    second = {**actor, "actor_id": b"p" * 16}
    assert asker.call("ClaimActor", {"actor": second}).result(PATIENCE_S)["actor"]["actor_id"] == ID
    found = asker.call("FindActor", {"namespace": "s", "name": "n", "node_id": "bb"}).result(PATIENCE_S)
    assert found["known"]
    assert (found["actor"]["info"], found["actor"]["placement"]) == (b"blob", {"CPU": 1})
    assert not asker.call("FindActor", {"actor_id": b"q" * 16}).result(PATIENCE_S)["known"]
    host.report_actors([{**actor, "state": "ALIVE"}])
    assert asker.hear("actor")["actor"]["state"] == "ALIVE"
    assert len(asker.call("ListActors").result(PATIENCE_S)["actors"]) == 1


def test_a_kill_is_confirmed_and_told_to_the_host_also_by_the_next_head(head, join, tmp_path, identity):
    host, killer = hosts(head, join)
    actor = {**ACTOR, "state": "ALIVE", "restarts_left": -1}
    host.call("ClaimActor", {"actor": actor}).result(PATIENCE_S)
    known = threading.Event()
    killer.report_kill(ID, "it was killed by us", known.set)
    assert known.wait(PATIENCE_S)
    assert host.hear("end_actor")["actor"]["reason"] == "it was killed by us"
    second = {**actor, "actor_id": b"p" * 16}
    assert killer.call("ClaimActor", {"actor": second}).result(PATIENCE_S)["actor"]["actor_id"] == b"p" * 16
    for link in (host, killer):
        link.stop()
    head.stop()
    again = HeadServer("127.0.0.1", 0, identity(), str(tmp_path / "data"), CONFIG)
    address = f"127.0.0.1:{again.start()}"
    try:
        third = join(address, "cc")
        third.hear("registered")
        third.report_actors([{**actor, "node_id": "cc"}], snapshot=True)
        assert third.hear("end_actor")["actor"]["actor_id"] == ID
        found = third.call("FindActor", {"actor_id": ID}).result(PATIENCE_S)["actor"]
        assert (found["state"], found["reason"]) == ("DEAD", "it was killed by us")
    finally:
        third.stop()
        again.stop()


def test_an_actor_goes_to_another_node_and_names_survive_the_head(head, join, tmp_path, identity):
    host, other = hosts(head, join)
    actor = {**ACTOR, "restarts_left": -1, "detached": True}
    host.call("ClaimActor", {"actor": actor}).result(PATIENCE_S)
    host.report_actors([{**actor, "state": "ALIVE"}])
    host.stop("it is switched off")
    given = other.hear("host_actor")["actor"]
    assert (given["actor_id"], given["node_id"], given["restarts"]) == (ID, "bb", 1)
    other.stop()
    head.stop()
    again = HeadServer("127.0.0.1", 0, identity(), str(tmp_path / "data"), CONFIG)
    address = f"127.0.0.1:{again.start()}"
    try:
        third = join(address, "cc")
        third.hear("registered")
        found = third.call("FindActor", {"namespace": "s", "name": "n"}).result(PATIENCE_S)
        assert found["known"]
    finally:
        third.stop()
        again.stop()


# --- whether the node can be reached ---


@pytest.fixture
def somebody():
    """A listening socket of no node."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_a_node_that_cannot_be_reached_is_refused_and_told_why(head, join, somebody):
    port = somebody.getsockname()[1]
    somebody.close()
    link = join(head.address, address=f"127.0.0.1:{port}")
    with pytest.raises(HeadRefusedError, match=rf"cannot reach this node at 127.0.0.1:{port} .*--host"):
        link.wait_registered(PATIENCE_S)


def test_whoever_answers_there_has_to_be_of_the_cluster(head, join, somebody):
    thread = threading.Thread(target=_say_nonsense, args=[somebody], daemon=True)
    thread.start()
    link = join(head.address, address=f"127.0.0.1:{somebody.getsockname()[1]}")
    with pytest.raises(HeadRefusedError, match="not a shoal daemon"):
        link.wait_registered(PATIENCE_S)
    somebody.shutdown(socket.SHUT_RDWR)
    thread.join()


def _say_nonsense(listener):
    """To everybody: a head whose node was slow to hear its refusal tries again."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:  # it was shut down
            return
        with sock, contextlib.suppress(ConnectionError):  # the head hangs up before it has read all of it
            sock.sendall(b"x" * 200)
            while sock.recv(4096):
                pass


def test_an_address_that_is_none(head, join):
    with pytest.raises(HeadRefusedError, match="is not host:port"):
        join(head.address, address="nowhere").wait_registered(PATIENCE_S)


def test_a_node_reports_as_often_as_the_head_wants_it(head, join):
    """Its own configuration would have it declared dead."""
    seldom = dataclasses.replace(CONFIG, heartbeat_ms=60_000.0)
    link = join(head.address, config=seldom)
    link.wait_registered(PATIENCE_S)
    other = join(head.address, name="bb")
    other.wait_registered(PATIENCE_S)
    deadline = time.monotonic() + 1.5 * CONFIG.node_suspect_ms / 1000
    while time.monotonic() < deadline:
        rows = other.call("GetCluster", {}).result(PATIENCE_S)["nodes"]
        assert {row["node_id"]: row["state"] for row in rows} == {"aa": "ALIVE", "bb": "ALIVE"}
        time.sleep(0.05)
