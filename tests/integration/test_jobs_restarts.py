"""Submitted jobs when their head is killed and started again with its data directory: alone, and with a node that lives on."""

import os
import signal
import tempfile

import pytest

import shoal
from nodeclient import until
from processes import alive
from shoal.bootstrap import DaemonOptions, start_daemon, stop_session
from shoal.job_submission import JobStatus, JobSubmissionClient
from shoal.util import state

CONFIG = {"heartbeat_ms": 200, "node_suspect_ms": 600, "node_dead_ms": 1500, "reconnect_ms_max": 200}


class Head:
    """A head that can be killed and started again, and nodes that live on."""

    def __init__(self, folder):
        self.options = DaemonOptions(
            head=True, num_cpus=1, data_dir=os.path.join(folder, "data"), config=CONFIG
        )
        self.daemons = []
        self.start()

    def start(self):
        self.now = start_daemon(self.options)
        self.daemons.append(self.now)
        port = int(self.now.address.rpartition(":")[2])
        self.options = DaemonOptions(**{**vars(self.options), "port": port})

    def add_node(self):
        self.daemons.append(
            start_daemon(DaemonOptions(head_address=self.now.address, num_cpus=1, config=CONFIG))
        )

    def kill(self):
        os.kill(self.now.pid, signal.SIGKILL)
        self.now.process.wait()

    def end(self):
        for daemon in reversed(self.daemons):
            stop_session(daemon.session)
            daemon.process.wait()


@pytest.fixture
def head(no_leaks, monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("SHOAL_TEMP_DIR", folder)
        made = Head(folder)
        yield made
        shoal.shutdown()
        made.end()


def client_of(head):
    shoal.shutdown()
    return JobSubmissionClient(head.now.address)


@pytest.mark.parametrize("nodes", [0, 1])
def test_jobs_are_remembered_with_their_logs(head, tmp_path, nodes):
    for _ in range(nodes):
        head.add_node()
    client = client_of(head)
    first = client.submit_job(entrypoint="echo first; exit 3", submission_id="first", metadata={"a": "b"})
    until(lambda: client.get_job_status(first).is_terminal())
    before = client.get_job_info(first)
    pid = tmp_path / "pid"
    second = client.submit_job(
        entrypoint=f"echo second; echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600",
        submission_id="second",
    )
    until(pid.exists)
    until(lambda: client.get_job_status(second) is JobStatus.RUNNING)
    shoal.shutdown()
    head.kill()
    until(lambda: not alive(int(pid.read_text())), "the script ends with the head's node")
    head.start()

    client = client_of(head)
    assert [job.submission_id for job in client.list_jobs()] == [first, second]
    assert client.get_job_info(first) == before
    assert client.get_job_logs(first) == "first\n"
    lost = client.get_job_info(second)
    assert (lost.status, lost.driver_exit_code) == (JobStatus.FAILED, None)
    assert "ended while nobody watched" in lost.message
    assert client.get_job_logs(second) == "second\n"
    with pytest.raises(ValueError, match="a job 'first' already"):
        client.submit_job(entrypoint="true", submission_id="first")
    third = client.submit_job(entrypoint="echo third")
    assert "".join(client.tail_job_logs(third)) == "third\n"
    [registry] = [row for row in state.list_actors() if row["name"] == "registry" and row["state"] == "ALIVE"]
    assert registry.node_id == head.now.node_id, "records and logs are there"
    assert client.delete_job(second)
    assert [job.submission_id for job in client.list_jobs()] == [first, third]
    assert (
        sorted(name for name in os.listdir(os.path.join(head.options.data_dir, "jobs")) if "second" in name)
        == []
    )


def test_a_head_that_was_stopped_in_order_has_its_jobs_again(head, tmp_path):
    client = client_of(head)
    pid = tmp_path / "pid"
    client.submit_job(entrypoint=f"echo $$ > {pid}; exec sleep 600", submission_id="a")
    until(lambda: client.get_job_status("a") is JobStatus.RUNNING)
    shoal.shutdown()
    stop_session(head.now.session)
    head.now.process.wait()
    head.start()
    client = client_of(head)
    assert client.get_job_status("a") is JobStatus.FAILED
