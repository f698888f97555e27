"""Submitted jobs: scripts that run in the cluster, their output, their environment, how they end; by command and by client."""

import json
import os
import signal
import subprocess
import sys

import pytest

import shoal
from commandline import PATIENCE_S, run, until
from marks import Marks
from processes import alive
from shoal.job_submission import JobStatus, JobSubmissionClient
from shoal.util import state
from wheels import wheel

SCRIPT = """
import os, shoal, helper
shoal.init(runtime_env={"env_vars": {"SIZE": "L"}})

@shoal.remote
def look():
    import helper
    return helper.WORD, os.environ["COLOR"], os.environ["SIZE"]

print(len(shoal.nodes()), "node", *shoal.get(look.remote()), flush=True)
"""


PACKAGE = """
import shoal, shoal_t_pip

@shoal.remote
def version():
    import shoal_t_pip
    return shoal_t_pip.VERSION

print(shoal_t_pip.VERSION, shoal.get(version.remote()), flush=True)
"""


@pytest.fixture
def head(no_leaks):
    """A cluster of the test's own; its head's address."""
    result = run("start-head", "--port", "0", "--num-cpus", "2", "--object-store-memory", "64MB", "--json")
    assert result.status == 0, result.err
    yield result.json["head_address"]
    run("stop")


@pytest.fixture
def client(head):
    """A client with a session of this process."""
    yield JobSubmissionClient(head)
    shoal.shutdown()


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path)


def waits(tmp_path):
    """A script that says that it is there, and waits in another process of its group; and the file with both ids."""
    pids = tmp_path / "pids"
    return f"sleep 600 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; echo there; wait", pids


def test_a_script_with_its_directory_and_variables(head, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("WORD = 'helped'\n")
    env = ("--working-dir", str(tmp_path), "--runtime-env-json", '{"env_vars": {"COLOR": "red"}}')
    done = run("job", "submit", "--submission-id", "first", *env, "--", "python", "script.py")
    assert (done.status, done.out) == (0, "1 node helped red L\n"), done.err
    assert "job first SUCCEEDED" in done.err
    assert run("job", "logs", "first").out == "1 node helped red L\n"
    row = run("job", "status", "first", "--json").json
    assert (row["status"], row["driver_exit_code"], row["entrypoint"]) == ("SUCCEEDED", 0, "python script.py")
    assert row["end_time"] > row["start_time"] > 0
    assert "SUCCEEDED" in run("job", "status", "first").out
    assert "python script.py" in run("job", "list").out
    assert "first is forgotten" in run("job", "delete", "first").out
    assert run("job", "list", "--json").json == {"rows": []}
    assert not os.path.exists(row["log_path"])


def test_a_script_with_packages_that_are_installed_for_it_and_its_tasks(head, tmp_path):
    (tmp_path / "script.py").write_text(PACKAGE)
    made = wheel(tmp_path, "shoal_t_pip", "1.0")
    env = {"pip": {"packages": [str(made)], "pip_install_options": ["--no-index"]}}
    options = ("--working-dir", str(tmp_path), "--runtime-env-json", json.dumps(env))
    done = run("job", "submit", *options, "--", "python", "script.py")
    assert (done.status, done.out) == (0, "1.0 1.0\n"), done.err
    env["pip"]["packages"] = ["shoal_t_absent"]
    done = run("job", "submit", "--runtime-env-json", json.dumps(env), "--", "true")
    assert done.status != 0
    assert "No matching distribution found for shoal_t_absent" in done.err, done.err


def test_packages_of_a_script_are_taken_along(client, tmp_path, marks):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "script.py").write_text(PACKAGE)
    made = wheel(tmp_path, "shoal_t_pip", "1.0")
    env = {"pip": {"packages": [str(made)], "pip_install_options": ["--no-index"]}}
    go_on = f"while ! ls {marks.folder}/go.* >/dev/null 2>&1; do sleep 0.05; done"
    job = client.submit_job(
        entrypoint=f"{go_on}; python script.py", runtime_env={**env, "working_dir": str(tmp_path / "w")}
    )
    until(lambda: client.get_job_status(job) is JobStatus.RUNNING)
    made.unlink()
    marks.add("go")
    assert "".join(client.tail_job_logs(job)) == "1.0 1.0\n"


def test_scripts_that_fail(head):
    failed = run("job", "submit", "--submission-id", "a", "--", "echo before; exit 3")
    assert (failed.status, failed.out) == (1, "before\n")
    assert "exit status 3" in failed.err
    assert run("job", "logs", "-f", "a").status == 1
    killed = run("job", "submit", "--json", "--", "kill -9 $$")
    assert (killed.status, killed.json["driver_exit_code"]) == (1, -9)
    assert "already" in run("job", "submit", "--submission-id", "a", "--", "true").error
    assert "cannot be the id" in run("job", "submit", "--submission-id", "a/b", "--", "true").error
    assert (
        "not supported" in run("job", "submit", "--runtime-env-json", '{"conda": ["x"]}', "--", "true").error
    )
    assert (
        "pass it to init()"
        in run("job", "submit", "--runtime-env-json", '{"py_modules": ["/"]}', "--", "true").error
    )
    for wrong in (("--runtime-env-json", "{"), ("--metadata-json", "[]"), ("--working-dir", "/nowhere")):
        assert run("job", "submit", *wrong, "--", "true").status == 2
    assert run("job", "submit").status == 2
    for command in ("status", "logs", "stop", "delete"):
        assert "no job 'b' is known" in run("job", command, "b").error


def test_without_jobs_or_a_cluster(no_leaks):
    assert "shoal start-head" in run("job", "list").error
    assert "shoal start-head" in run("job", "submit", "--", "true").error
    with pytest.raises(ConnectionError):
        JobSubmissionClient("auto")


def test_no_jobs_yet(head):
    assert run("job", "list", "--json").json == {"rows": []}
    assert "no job 'a' is known" in run("job", "status", "a").error


def test_a_job_is_stopped_with_all_of_its_processes(head, tmp_path):
    entrypoint, pids = waits(tmp_path)
    assert run("job", "submit", "--no-wait", "--submission-id", "a", "--json", "--", entrypoint).json == {
        "submission_id": "a"
    }
    until(pids.exists)
    assert run("job", "status", "a", "--json").json["status"] == "RUNNING"
    until(lambda: run("job", "logs", "a").out == "there\n")
    assert "RUNNING; stop it first" in run("job", "delete", "a").error
    assert run("job", "stop", "a").out == "job a STOPPED\n"
    assert not any(alive(pid) for pid in pids.read_text().split())
    assert "had ended: STOPPED" in run("job", "stop", "a").out


def test_one_that_does_not_want_to_stop(client, tmp_path):
    there = tmp_path / "there"
    job = client.submit_job(entrypoint=f"trap '' TERM; touch {there}; while :; do sleep 0.05; done")
    until(there.exists)
    assert client.stop_job(job)
    assert client.get_job_status(job) is JobStatus.STOPPED
    assert client.get_job_info(job).driver_exit_code == -signal.SIGKILL


def test_a_client_of_a_program(client):
    assert client.list_jobs() == []
    job = client.submit_job(
        entrypoint="echo $WORD; pwd", runtime_env={"env_vars": {"WORD": "w"}}, metadata={"a": "b"}
    )
    assert "".join(client.tail_job_logs(job)) == f"w\n{os.getcwd()}\n"
    assert client.get_job_status(job) == "SUCCEEDED"
    assert client.get_job_logs(job) == f"w\n{os.getcwd()}\n"
    [details] = client.list_jobs()
    assert (details.submission_id, details.metadata) == (job, {"a": "b"})
    assert client.delete_job(job)
    with pytest.raises(LookupError):
        client.get_job_info(job)
    for wrong in ("", " ", None):
        with pytest.raises(ValueError, match="entrypoint needs a command"):
            client.submit_job(entrypoint=wrong)


def test_output_is_followed_while_it_comes_also_without_ends_of_lines(client, marks):
    job = client.submit_job(
        entrypoint=f"printf 'one\\ntw'; while ! ls {marks.folder}/go.* >/dev/null 2>&1; do sleep 0.05; done; printf o"
    )
    texts = client.tail_job_logs(job)
    text = ""
    while text != "one\ntw":
        text += next(texts)
    marks.add("go")
    assert text + "".join(texts) == "one\ntwo"


def test_when_its_supervisor_dies_the_job_has_failed_and_its_script_ends(client, tmp_path):
    entrypoint, pids = waits(tmp_path)
    job = client.submit_job(entrypoint=entrypoint)
    until(pids.exists)
    shell = int(pids.read_text().split()[0])
    with open(f"/proc/{shell}/status", encoding="utf-8") as file:
        supervisor = next(int(line.split()[1]) for line in file if line.startswith("PPid:"))
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: client.get_job_status(job) is JobStatus.FAILED)
    assert "its supervisor failed" in client.get_job_info(job).message
    until(lambda: not any(alive(pid) for pid in pids.read_text().split()))


def kill_registry():
    registry = next(
        row for row in state.list_actors() if row["name"] == "registry" and row["state"] == "ALIVE"
    )
    os.kill(registry.pid, signal.SIGKILL)
    until(lambda: not alive(registry.pid))


def test_when_what_knows_the_jobs_dies_another_goes_on_from_there(client, tmp_path, marks):
    entrypoint, pids = waits(tmp_path)
    client.submit_job(entrypoint=entrypoint, submission_id="a")
    client.submit_job(entrypoint="true", submission_id="b")
    go_on = f"while ! ls {marks.folder}/go.* >/dev/null 2>&1; do sleep 0.05; done"
    client.submit_job(entrypoint=f"{go_on}; echo ended; exit 7", submission_id="c")
    until(pids.exists)
    until(lambda: client.get_job_status("b") is JobStatus.SUCCEEDED)
    until(lambda: client.get_job_status("c") is JobStatus.RUNNING)
    kill_registry()
    assert [(job.submission_id, str(job.status)) for job in client.list_jobs()] == [
        ("a", "RUNNING"),
        ("b", "SUCCEEDED"),
        ("c", "RUNNING"),
    ]
    kill_registry()
    marks.add("go")  # while nobody watches
    until(lambda: client.get_job_status("c") is JobStatus.FAILED)
    assert client.get_job_info("c").driver_exit_code == 7
    assert client.get_job_logs("c") == "ended\n"
    assert client.stop_job("a")
    assert client.get_job_status("a") is JobStatus.STOPPED
    assert not any(alive(pid) for pid in pids.read_text().split())
    with pytest.raises(ValueError, match="a job 'b' already"):
        client.submit_job(entrypoint="true", submission_id="b")


def test_jobs_end_with_their_cluster(head, tmp_path):
    entrypoint, pids = waits(tmp_path)
    run("job", "submit", "--no-wait", "--", entrypoint)
    until(pids.exists)
    assert run("stop").status == 0
    until(lambda: not any(alive(pid) for pid in pids.read_text().split()))


def test_who_submitted_it_may_go(head, tmp_path):
    entrypoint, _ = waits(tmp_path)
    command = [sys.executable, "-m", "shoal", "job", "submit", "--submission-id", "a", "--", entrypoint]
    submitter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert submitter.stdout.readline() == "there\n"
    submitter.send_signal(signal.SIGINT)
    _, err = submitter.communicate(timeout=PATIENCE_S)
    assert (submitter.returncode, "job a goes on (shoal job stop a)" in err) == (130, True), err
    assert run("job", "status", "a", "--json").json["status"] == "RUNNING"
    assert run("job", "stop", "a").status == 0
