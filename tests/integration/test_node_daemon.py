"""The node daemon as a process: joining, leases, output, questions, and that nothing of it is ever left
behind.
"""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nodeclient import Client, Daemon, tell, until
from shoal.wire import messages as m


@pytest.fixture
def daemon():
    with Daemon() as running:
        yield running


def gone(pids):
    return until(lambda: not any(psutil.pid_exists(pid) for pid in pids), f"the end of {pids}")


def worker_pids(client):
    return {row["pid"] for row in client.request("workers")["rows"]}


# --- joining ---


def test_ready_line_and_files(daemon):
    ready = daemon.ready
    assert ready["ok"]
    assert ready["pid"] == daemon.process.pid
    assert ready["address"] == ""
    folder = Path(daemon.directory)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    facts = until(lambda: (folder / "node.json").exists() and json.loads((folder / "node.json").read_text()))
    assert facts["node_id"] == ready["node_id"]
    assert facts["socket"] == ready["socket"]


def test_welcome_carries_the_region_and_its_reading_end_cannot_be_written(daemon):
    client = daemon.client()
    readable, writable = client.fds
    assert client.welcome["capacity"] == os.fstat(readable).st_size
    assert client.welcome["resources"]["CPU"] == 20_000
    assert len(client.welcome["job_id"]) == 8
    with pytest.raises(PermissionError):
        mmap.mmap(readable, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    os.pwrite(writable, b"seen", 0)
    assert os.pread(readable, 4, 0) == b"seen"


def test_second_daemon_in_a_directory_is_refused_in_one_line(daemon):
    second = Daemon(directory=daemon.directory)
    assert not second.ready["ok"]
    assert "already" in second.ready["error"]
    assert second.process.wait(60) == 1
    assert daemon.client().welcome


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--config", '{"no_such": 1}'], "no_such"),
        (["--resources", '{"tape": -1}'], "tape"),
        (["--what"], "--what"),
    ],
)
def test_bad_options_are_one_line(arguments, part):
    command = [sys.executable, "-m", "shoald.node", "--session-dir", "/tmp/never-made", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert part in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not os.path.exists("/tmp/never-made")


# --- leases ---


def test_grant_connects_submitter_and_worker(daemon):
    client = daemon.client()
    (grant, peer), (other_grant, other_peer) = client.lease(count=2)
    assert grant[4] != other_grant[4], "two leases are two workers"
    assert tell(peer, "hello") == tell(other_peer, "hello") == "done"
    client.send([m.RETURN, grant[2], m.RETURN_OK], [m.DEMAND, 1, {"CPU": 10_000}, 1, {}])
    again, _ = client.granted()
    assert again[4] == grant[4], "the same worker, warm"


def test_grants_of_one_turn_arrive_with_their_descriptors():
    with Daemon(cpus=1) as daemon:
        client = daemon.client()
        leases = client.lease(resources={"CPU": 200}, count=50)
        assert len({grant[4] for grant, _ in leases}) == 50
        assert {tell(peer, "hello") for _, peer in leases} == {"done"}


@pytest.mark.parametrize(("order", "code", "number"), [("exit 7 task", 7, 0), ("kill 11", 0, 11)])
def test_death_is_confirmed_with_what_was_running(daemon, order, code, number):
    client = daemon.client()
    ((grant, peer),) = client.lease()
    peer.sendall(order.encode())
    died = client.receive(m.WORKER_DIED)
    assert died[1:4] == [grant[2], code, number]
    assert died[4] == (b"task".ljust(16) if code else bytes(16))
    assert client.lease(), "there is another worker"


def test_cancel_with_force_kills_the_worker(daemon):
    client = daemon.client()
    ((grant, _),) = client.lease()
    client.send([m.KILL_WORKER, grant[2], "cancelled with force", bytes(16)])
    died = client.receive(m.WORKER_DIED)
    assert died[3] == signal.SIGKILL
    assert "cancelled with force" in died[5]


def test_blocked_parent_lends_its_cpu_to_its_child():
    with Daemon(cpus=1) as daemon:
        client = daemon.client()
        ((grant, peer),) = client.lease()
        child = tell(peer, "nest")
        assert child.startswith("child")
        assert int(child.split()[1]) != grant[4]
        assert client.request("status")["workers"]["blocked"] == 1


def test_descendants_of_a_worker_end_with_it(daemon):
    client = daemon.client()
    ((grant, peer),) = client.lease()
    stayer = int(tell(peer, "stay"))
    assert psutil.pid_exists(stayer)
    peer.sendall(b"exit 0 task")
    client.receive(m.WORKER_DIED)
    gone([stayer, grant[4]])


# --- output ---


def test_output_reaches_the_driver_and_the_last_of_it_before_the_goodbye(daemon):
    client = daemon.client()
    ((_, peer),) = client.lease()
    tell(peer, "print first line")
    assert "first line" in str(client.receive(m.LOG))
    tell(peer, "print last line")
    client.send([m.GOODBYE])
    client.receive(m.GOODBYE_OK)
    assert "last line" in str([message for message in client.messages if message[0] == m.LOG])


def test_no_output_is_lost_of_a_worker_that_is_faster_than_the_report_of_its_fork():
    with Daemon(workers="lateforks") as daemon:
        client = daemon.client()
        ((grant, peer),) = client.lease()
        tell(peer, "print last line")
        client.send([m.GOODBYE])
        client.receive(m.GOODBYE_OK)
        entries = [entry for message in client.messages if message[0] == m.LOG for entry in message[1]]
        assert entries == [["", grant[4], "", "stdout", ["last line"]]]


def test_a_worker_is_read_before_its_fork_is_reported():
    with Daemon(workers="lateforks") as daemon:
        client = daemon.client()
        ((grant, peer),) = client.lease()
        tell(peer, "print first line")
        assert client.receive(m.LOG)[1] == [["", grant[4], "", "stdout", ["first line"]]]


# --- questions ---


def test_questions_of_the_command_line(daemon):
    driver = daemon.client(argv0="train.py")
    ((grant, _),) = driver.lease()
    cli = daemon.client("cli", hello=False)
    status = cli.request("status")
    assert status["resources"].pop("memory") > 2**20  # what the store leaves of the machine's
    assert status["resources"] == {"CPU": 2.0}
    assert status["available"]["CPU"] == 1.0
    assert [job["entrypoint"] for job in status["jobs"]] == ["train.py"]
    assert cli.request("cluster_resources")["CPU"] == 2.0
    assert cli.request("available_resources")["CPU"] == 1.0
    assert cli.request("nodes")["rows"][0]["node_id"] == daemon.ready["node_id"]
    assert cli.request("memory")["stats"]["capacity"] == 64 * 1024**2
    leased = [row for row in cli.request("workers")["rows"] if row["state"] == "leased"]
    assert [row["pid"] for row in leased] == [grant[4]]
    assert leased[0]["submitter"] == f"driver {os.getpid()} train.py"
    cli.send([m.REQUEST, 99, "no_such", {}])
    assert cli.receive(m.RESPONSE)[1:3] == [99, False]


def test_question_to_all_processes_names_those_that_do_not_answer():
    with Daemon(config={"query_ms_max": 300}) as daemon:
        driver = daemon.client()
        until(lambda: len(daemon.client("cli", hello=False).request("workers")["rows"]) == 2)
        cli = daemon.client("cli", hello=False)

        def answered():
            """Asked again if this process, which has to answer in time, stood still meanwhile."""
            cli.send([m.REQUEST, 1, "tasks", {}])
            query = driver.receive(m.QUERY)
            assert query[2] == "tasks"
            driver.send([m.ANSWER, query[1], [{"id": "ab", "name": "f"}]])
            _, _, ok, data = cli.receive(m.RESPONSE)
            assert ok
            return data if data["rows"] else None

        data = until(answered)
        [row] = data["rows"]
        assert {"id": "ab", "name": "f", "process": f"driver {os.getpid()}"}.items() <= row.items()
        assert len([name for name in data["silent"] if name.startswith("worker")]) == len(data["silent"])


def test_why_tells_what_demands_wait_for(daemon):
    driver = daemon.client()
    driver.send([m.DEMAND, 5, {"tape": 10_000}, 1, {"name": "spool"}])
    assert driver.receive(m.DEMAND_STATUS)[2] == "infeasible"
    pending = daemon.client("cli", hello=False).request("status")["pending"]
    assert pending[0]["name"] == "spool"
    assert "needs tape 1" in pending[0]["reason"]


def test_stop_request_ends_the_daemon(daemon):
    assert daemon.client("cli", hello=False).request("stop") == "stopping"
    assert daemon.process.wait(60) == 0


# --- nothing is left ---


def test_driver_that_is_gone_takes_its_workers_and_nobody_elses(daemon):
    mine, other = daemon.client(), daemon.client()
    ((grant, _),) = mine.lease()
    ((other_grant, other_peer),) = other.lease()
    mine.close()
    gone([grant[4]])
    assert tell(other_peer, "hello") == "done"
    assert other_grant[4] in worker_pids(other)
    until(lambda: len(other.request("jobs")["rows"]) == 1)


def test_stop_leaves_only_the_logs(daemon):
    client = daemon.client()
    client.lease()
    children = [process.pid for process in daemon.descendants()]
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    gone(children)
    assert client.closed_by_daemon()
    assert {entry.name for entry in Path(daemon.directory).iterdir()} == {"logs"}


def test_daemon_of_a_driver_goes_with_it_and_leaves_nothing():
    owner = subprocess.Popen(["sleep", "1000"])
    daemon = Daemon(owner=owner.pid)
    children = [process.pid for process in daemon.descendants()]
    owner.kill()
    owner.wait()
    assert daemon.process.wait(60) == 0
    gone(children)
    assert not os.path.exists(daemon.directory)


def test_daemon_of_a_driver_goes_after_its_goodbye():
    daemon = Daemon(owner=os.getpid())
    client = daemon.client()
    client.lease()
    client.send([m.GOODBYE])
    client.receive(m.GOODBYE_OK)
    client.close()
    assert daemon.process.wait(60) == 0
    assert not os.path.exists(daemon.directory)


def test_killed_daemon_leaves_no_process(daemon):
    client = daemon.client()
    ((_, peer),) = client.lease()
    stayer = int(tell(peer, "stay"))
    children = [process.pid for process in daemon.descendants()]
    daemon.process.kill()
    daemon.process.wait(60)
    gone([*children, stayer])


def test_killed_fork_server_is_replaced_and_its_workers_deaths_are_told(daemon):
    client = daemon.client()
    ((grant, peer),) = client.lease()
    stayer = int(tell(peer, "stay"))
    server = daemon.fork_server()
    server.kill()
    died = client.receive(m.WORKER_DIED)
    assert died[1] == grant[2]
    assert died[3] == signal.SIGKILL
    gone([grant[4], stayer])
    ((again, new_peer),) = client.lease()
    assert again[4] != grant[4]
    assert tell(new_peer, "hello") == "done"


# --- those who do not behave ---


def test_client_that_does_not_read_is_closed_and_others_are_served():
    with Daemon(config={"outbox_bytes_max": 100_000}) as daemon:
        deaf = daemon.client()
        fine = daemon.client()
        request = [m.REQUEST, 1, "status", {}]
        try:
            for _ in range(20_000):
                deaf.send(request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was closed while we were still asking
        until(lambda: "does not read" in daemon.log, "the log line")
        assert fine.request("status")["node_id"] == daemon.ready["node_id"]


def test_message_that_makes_no_sense_closes_only_its_connection(daemon):
    wrong, fine = daemon.client(), daemon.client()
    wrong.send([m.DEMAND, 1, {"CPU": -5}, 1, {}])
    assert wrong.closed_by_daemon()
    until(lambda: "not negative" in daemon.log, "the log line")
    assert fine.lease()


def test_worker_cannot_be_impersonated(daemon):
    client = Client(daemon.ready["socket"], daemon.secret, daemon.ready["node_id"], hello=False)
    client.send([m.HELLO, client.proc, "worker", os.getpid(), {"worker_id": bytes(16)}])
    assert client.closed_by_daemon()
    client.close()


def test_fork_message_keeps_its_pipe_until_the_child_is_gone(daemon):
    client = daemon.client()
    read_end, write_end = os.pipe()
    client.send([m.FORK], fds=[read_end])
    os.close(read_end)
    assert client.request("status")
    os.close(write_end)
    assert client.request("status")
    client.send([m.FORK])
    assert client.closed_by_daemon(), "a FORK without its descriptor"


def test_stale_socket_of_a_killed_daemon_is_no_obstacle(daemon):
    daemon.process.kill()
    daemon.process.wait(60)
    assert os.path.exists(daemon.ready["socket"])
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(daemon.ready["socket"])
    again = Daemon(directory=daemon.directory)
    assert again.ready["ok"]
    assert again.client().lease()
    again.stop()


# --- with a head ---


def test_daemon_that_hosts_a_head_is_ready_with_its_address_and_others_join(tmp_path):
    with Daemon("--head", "--host", "127.0.0.1") as first:
        address = first.ready["address"]
        assert address.startswith("127.0.0.1:")
        port = Daemon("--head", "--port", address.rpartition(":")[2])
        assert not port.ready["ok"]
        assert "in use" in port.ready["error"]
        port.stop()
        (tmp_path / "wrong").write_text("00" * 32)
        wrong = Daemon("--head-address", address, "--secret-file", str(tmp_path / "wrong"))
        assert not wrong.ready["ok"]
        assert "secret" in wrong.ready["error"]
        assert wrong.process.wait(60) == 1
        wrong.stop()
        secret = os.path.join(first.directory, "secret")
        with Daemon("--head-address", address, "--secret-file", secret, cpus=3) as second:
            assert second.ready["address"] == address
            cli = second.client("cli", hello=False)
            until(lambda: cli.request("cluster_resources")["CPU"] == 5.0, "both nodes in the table")
            assert cli.request("status")["head"] == {"address": address, "trouble": ""}
            assert len(cli.request("nodes")["rows"]) == 2
