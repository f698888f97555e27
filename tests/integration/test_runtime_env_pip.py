"""runtime_env["pip"] on real clusters, without a network: packages are wheels and directories made here."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

import shoal
from nodeclient import until
from processes import alive
from shoal.exceptions import ActorDiedError, RuntimeEnvSetupError, TaskCancelledError, WorkerCrashedError
from shoal.testing import Cluster
from wheels import source, wheel

TIMEOUT_S = 100
NAME = "shoal_t_pip"
OFFLINE = ["--no-index"]


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


def offline(packages, *options, **others):
    return {"pip": {"packages": packages, "pip_install_options": [*OFFLINE, *options], **others}}


@shoal.remote
def version(name=NAME):
    module = __import__(name)
    return module.VERSION


@shoal.remote
def plain():
    return os.getpid()


@shoal.remote
class Versioned:
    def __init__(self):
        import shoal_t_pip

        self.version = shoal_t_pip.VERSION

    def versions(self):
        return self.version, get(version.remote())


@pytest.fixture
def index(tmp_path):
    """A directory in which pip finds wheels."""
    folder = tmp_path / "index"
    wheel(folder, NAME, "1.0")
    wheel(folder, NAME, "2.0", requires=["shoal_t_needed>=3"])
    wheel(folder, "shoal_t_needed", "3.1")
    return folder


def environments():
    packages = Path(shoal.get_runtime_context().get_session_dir()) / "packages"
    return sorted(each for each in packages.iterdir() if each.is_dir() and each.name.startswith("pip-"))


def test_two_versions_at_once_with_what_they_need_each_installed_once(cluster, index):
    options = "--find-links", str(index)
    one, two = offline([f"{NAME}==1.0"], *options), offline([f"{NAME}==2.0"], *options)
    refs = [version.options(runtime_env=each).remote() for _ in range(5) for each in (one, two)]
    assert get(refs) == ["1.0", "2.0"] * 5
    assert get(version.options(runtime_env=two).remote("shoal_t_needed")) == "3.1"
    with pytest.raises(ModuleNotFoundError):
        get(version.remote())
    assert len(environments()) == 2


def test_local_wheels_and_directories_go_along_and_a_changed_one_is_another(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wheel(tmp_path / "w", NAME, "1.0")
    source(tmp_path / "src", "shoal_t_made", "1.5")

    def versions():
        environment = offline([f"./w/{NAME}-1.0-py3-none-any.whl", "./src"])
        made = version.options(runtime_env=environment)
        return get([made.remote(), made.remote("shoal_t_made")])

    assert versions() == ["1.0", "1.5"]
    monkeypatch.chdir("/")  # what was given before stays what it was
    assert len(environments()) == 1


def test_a_file_of_requirements_for_a_job_and_its_children_and_actors(index, tmp_path):
    (tmp_path / "requirements.txt").write_text(f"--no-index\n--find-links ./index\n{NAME}<2  # older\n")
    shoal.init(num_cpus=2, runtime_env={"pip": str(tmp_path / "requirements.txt")})
    try:
        assert get(version.remote()) == "1.0"
        assert get(Versioned.remote().versions.remote()) == ("1.0", "1.0")
        newer = offline([NAME], "--find-links", str(index))
        assert get(Versioned.options(runtime_env=newer).remote().versions.remote()) == ("2.0", "2.0")
        with_variable = version.options(runtime_env={"env_vars": {"SHOAL_T": "1"}})
        assert get(with_variable.remote()) == "1.0"
        assert len(environments()) == 2
        assert shoal.get_runtime_context().runtime_env["pip"]["packages"][-1] == f"{NAME}<2"
    finally:
        shoal.shutdown()


def test_commands_and_child_processes_have_the_environment_and_what_the_node_has(cluster, tmp_path):
    made = wheel(
        tmp_path, NAME, "1.0", "def main():\n    print('ran')\n", scripts={"shoal_t_run": f"{NAME}:main"}
    )

    @shoal.remote(runtime_env=offline([str(made)]))
    def run():
        code = "import shoal_t_pip, numpy, msgpack; print(shoal_t_pip.VERSION)"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        command = subprocess.run(["shoal_t_run"], capture_output=True, text=True, check=True)
        return child.stdout.strip(), command.stdout.strip(), os.environ["VIRTUAL_ENV"] in sys.executable

    assert get(run.remote()) == ("1.0", "ran", True)


def test_the_working_directory_may_have_what_is_to_be_installed(cluster, tmp_path):
    wheel(tmp_path / "project", NAME, "1.0")
    line = f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{NAME}-1.0-py3-none-any.whl"
    environment = {**offline([line]), "working_dir": str(tmp_path / "project")}
    assert get(version.options(runtime_env=environment).remote()) == "1.0"


def test_what_cannot_be_installed_fails_all_who_wait_and_no_others_and_is_tried_again(index):
    shoal.init(num_cpus=2, _system_config={"environment_retry_ms": 3_600_000.0})
    try:
        environment = offline(["shoal_t_absent"], "--find-links", str(index))
        absent = version.options(runtime_env=environment)
        for ref in [absent.remote() for _ in range(20)]:
            with pytest.raises(
                RuntimeEnvSetupError, match="No matching distribution found for shoal_t_absent"
            ) as raised:
                get(ref)
            assert "No matching distribution" in Path(raised.value.log_path).read_text()
        with pytest.raises(ActorDiedError, match="No matching distribution found for shoal_t_absent"):
            get(Versioned.options(runtime_env=environment).remote().versions.remote())
        get(plain.remote())
        packages = Path(shoal.get_runtime_context().get_session_dir()) / "packages"
        (failed,) = packages.glob("*.failed")
        os.utime(failed, (0, 0))  # long ago
        wheel(index, "shoal_t_absent", "1.0")
        assert get(absent.remote("shoal_t_absent")) == "1.0"
    finally:
        shoal.shutdown()


@pytest.fixture
def replaced(tmp_path):
    """An environment with another version of what workers have imported."""
    folder = Path(cloudpickle.__file__).parent
    files = {f"cloudpickle/{file.name}": file.read_text() for file in folder.glob("*.py")}
    files["cloudpickle/__init__.py"] += "\nVERSION = '99.0'\n"
    return offline([str(wheel(tmp_path / "replaced", "cloudpickle", "99.0", files=files))])


@shoal.remote
def which():
    return os.getpid(), getattr(sys.modules["cloudpickle"], "VERSION", ""), sys.prefix


@shoal.remote
class Which:
    def __init__(self):
        self.at_start = sys.modules["cloudpickle"].VERSION

    def which(self):
        return (
            self.at_start,
            get(which.remote())[1],
            shoal.get_runtime_context().was_current_actor_reconstructed,
        )


def test_what_workers_have_imported_is_replaced_in_workers_with_another_interpreter(cluster, replaced):
    there = which.options(runtime_env=replaced)
    refs = [there.remote() for _ in range(20)]
    for _, found, prefix in get(refs):
        assert found == "99.0"
        assert prefix == str(environments()[0])
    again = get([there.remote() for _ in range(5)])
    assert len({pid for pid, _, _ in [*again, *get(refs)]}) <= 2, "they are reused"
    assert get(which.remote())[1] == ""
    array = np.arange(1_000_000)

    @shoal.remote(runtime_env=replaced, max_retries=0)
    def twice(values):
        return values * 2, os.environ["VIRTUAL_ENV"] == sys.prefix

    doubled, inside = get(twice.remote(shoal.put(array)))
    assert inside
    assert (doubled == array * 2).all()
    with pytest.raises(WorkerCrashedError):
        get(end.options(runtime_env=replaced, max_retries=0).remote())
    assert get(there.remote())[1] == "99.0"


@shoal.remote
def end():
    os.kill(os.getpid(), signal.SIGKILL)


def test_actors_and_their_children_have_their_interpreter(cluster, replaced):
    actor = Which.options(runtime_env=replaced).remote()
    assert get(actor.which.remote()) == ("99.0", "99.0", False)
    assert get(Which.options(runtime_env=replaced).remote().which.remote()) == ("99.0", "99.0", False)


def test_an_interpreter_that_has_gone_is_made_again(replaced):
    shoal.init(num_cpus=1, _system_config={"idle_worker_ms": 1.0})
    try:
        there = which.options(runtime_env=replaced, max_calls=1)
        pid, found, prefix = get(there.remote())
        assert found == "99.0"
        until(lambda: not alive(pid))
        shutil.rmtree(prefix)  # as if it had made room for another one
        assert get(there.remote())[1:] == ("99.0", prefix)
    finally:
        shoal.shutdown()


def test_an_interpreter_in_which_no_worker_can_run_is_refused(cluster, tmp_path):
    made = wheel(tmp_path, "cloudpickle", "99.0", "raise ImportError('not for you')")
    with pytest.raises(RuntimeEnvSetupError, match="no way to have workers run in it") as raised:
        get(which.options(runtime_env=offline([str(made)])).remote())
    assert "not for you" in str(raised.value)


def test_shoal_itself_cannot_be_replaced(cluster, tmp_path):
    environment = offline([str(wheel(tmp_path, NAME, "1.0", module="shoal"))])
    with pytest.raises(RuntimeEnvSetupError, match="has a shoal of its own"):
        get(version.options(runtime_env=environment).remote())


def test_an_environment_that_contradicts_itself_is_refused_if_it_is_to_be_checked(cluster, index):
    environment = offline([f"{NAME}==2.0"], "--find-links", str(index), "--no-deps", pip_check=True)
    with pytest.raises(RuntimeEnvSetupError, match="no way to check it") as raised:
        get(version.options(runtime_env=environment).remote())
    assert f"{NAME} 2.0 requires shoal" in str(raised.value).replace("-", "_")


@pytest.fixture
def slow(tmp_path):
    """A package whose building begins by saying that it did, and then waits for a file."""
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    before = (
        f"pathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\n"
        f"    while not os.path.exists({str(go_on)!r}): time.sleep(0.01)"
    )
    return offline([str(source(tmp_path / "slow", NAME, "1.0", before=before))]), begun, go_on


def building(begun):
    return int(until(lambda: begun.exists() and begun.read_text()))


def test_who_asks_is_told_what_is_being_installed(cluster, slow):
    environment, begun, go_on = slow
    refs = [version.options(runtime_env=environment).remote() for _ in range(4)]
    building(begun)
    from shoal import session

    request = session.runtime().request
    (said, *_) = until(lambda: request("status", {})["installing"])
    assert "is being installed for" in said
    assert "slow" in said
    until(lambda: any("is being installed for" in row["reason"] for row in request("status", {})["pending"]))
    lines = [
        line for row in request("why", {"id": refs[0].hex()[:24]})["rows"] for line in row.get("lines", ())
    ]
    assert any("is being installed for" in line for line in lines), lines
    go_on.touch()
    assert get(refs) == ["1.0"] * 4
    until(lambda: not request("status", {})["installing"])


def test_a_cancelled_task_ends_its_pip_and_others_have_it_made_again(cluster, slow):
    environment, begun, go_on = slow
    first = version.options(runtime_env=environment).remote()
    pid = building(begun)
    shoal.cancel(first)
    with pytest.raises(TaskCancelledError):
        get(first)
    until(lambda: not alive(pid))
    go_on.touch()
    assert get(version.options(runtime_env=environment).remote()) == "1.0"


def test_a_worker_that_is_killed_while_it_installs_leaves_nothing_in_the_way(cluster, slow):
    environment, begun, go_on = slow
    ref = version.options(runtime_env=environment).remote()
    pid = building(begun)
    begun.unlink()
    from shoal import session

    workers = session.runtime().request("workers", {})["rows"]
    os.kill(next(row["pid"] for row in workers if row["installing"]), signal.SIGKILL)
    until(lambda: not alive(pid))
    building(begun)  # again, since the task is run again
    go_on.touch()
    assert get(ref) == "1.0"


def test_pip_has_so_much_time(slow):
    environment, begun, _ = slow
    shoal.init(num_cpus=2, _system_config={"environment_build_ms_max": 8000.0, "environment_retry_ms": 0.0})
    try:
        ref = version.options(runtime_env=environment).remote()
        with pytest.raises(
            RuntimeEnvSetupError, match=r"was not there after 8 s \(environment_build_ms_max\)"
        ):
            get(ref)
        assert not alive(building(begun))
        assert environments() == []
    finally:
        shoal.shutdown()


def test_a_daemon_that_is_killed_leaves_no_pip_and_nothing_in_the_way(slow):
    environment, begun, go_on = slow
    shoal.init(num_cpus=1)
    folder = shoal.get_runtime_context().get_session_dir()
    ref = version.options(runtime_env=environment).remote()
    pid = building(begun)
    os.kill(node_facts(folder)["pid"], signal.SIGKILL)
    until(lambda: not alive(pid))
    with pytest.raises(shoal.exceptions.ShoalError):
        get(ref)
    shoal.shutdown()
    go_on.touch()
    shoal.init(num_cpus=1)
    try:
        assert not os.path.exists(folder)
        assert get(version.options(runtime_env=environment).remote()) == "1.0"
    finally:
        shoal.shutdown()


def node_facts(folder):
    return json.loads((Path(folder) / "node.json").read_text())


def test_a_driver_that_goes_takes_its_pip_along(slow):
    environment, begun, _ = slow
    shoal.init(num_cpus=1)
    version.options(runtime_env=environment).remote()
    pid = building(begun)
    shoal.shutdown()
    until(lambda: not alive(pid))


def test_on_another_node(index):
    with Cluster(num_cpus=0) as cluster:
        cluster.add_node(num_cpus=1)
        shoal.init(cluster.address)
        try:
            made = index / f"{NAME}-1.0-py3-none-any.whl"
            assert get(version.options(runtime_env=offline([str(made)])).remote()) == "1.0"
        finally:
            shoal.shutdown()
