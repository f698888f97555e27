"""runtime_env on real clusters: variables, directories and modules, for jobs, tasks and actors, on one node and on two."""

import os
import zipfile
from pathlib import Path

import pytest

import shoal
from nodeclient import until
from shoal.exceptions import ActorDiedError, RuntimeEnvSetupError
from shoal.testing import Cluster

TIMEOUT_S = 60


def get(refs):
    return shoal.get(refs, timeout=TIMEOUT_S)


def variables(**values):
    return {"env_vars": values}


@shoal.remote
def variable(name="SHOAL_T"):
    return os.getpid(), os.environ.get(name)


@shoal.remote
def family(own):
    return variable_of(variable.remote()), variable_of(variable.options(runtime_env=own).remote("SHOAL_U"))


def variable_of(ref):
    return get(ref)[1]


@shoal.remote
class Keeper:
    def __init__(self):
        self.at_start = os.environ.get("SHOAL_T")

    def values(self):
        return self.at_start, variable_of(variable.remote())


@pytest.fixture
def project(tmp_path):
    """A directory with a module and data."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "shoal_t_helper.py").write_text("ANSWER = 42\n")
    (folder / "data" / "x.txt").write_text("content")
    (folder / "data" / "huge.bin").write_text("left out")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "run.sh").chmod(0o755)
    return folder


@pytest.fixture
def module(tmp_path):
    folder = tmp_path / "shoal_t_module"
    folder.mkdir()
    (folder / "__init__.py").write_text("from shoal_t_module.inner import NAME\n")
    (folder / "inner.py").write_text("NAME = 'inner'\n")
    return folder


@shoal.remote
def look():
    import shoal_t_helper

    mode = os.stat("run.sh").st_mode & 0o111
    return shoal_t_helper.ANSWER, Path("data/x.txt").read_text(), sorted(os.listdir("data")), bool(mode)


def test_environments_are_different_processes_and_the_same_one_shares_them(cluster):
    plain, plain_again = get(variable.remote()), get(variable.remote())
    one = get(variable.options(runtime_env=variables(SHOAL_T="1")).remote())
    one_again = get(variable.options(runtime_env=variables(SHOAL_T="1")).remote())
    two = get(variable.options(runtime_env=variables(SHOAL_T="2")).remote())
    assert plain[1] is plain_again[1] is None
    assert (one[1], one_again[1], two[1]) == ("1", "1", "2")
    assert one[0] == one_again[0]
    assert len({one[0], two[0]} & {plain[0], plain_again[0]}) == 0
    assert one[0] != two[0]


def test_many_tasks_in_several_environments_at_once(cluster):
    refs = {
        (value, number): variable.options(runtime_env=variables(SHOAL_T=value)).remote()
        for number in range(30)
        for value in ("a", "b", "c")
    }
    assert {key: value for key, (_, value) in zip(refs, get(list(refs.values())), strict=True)} == {
        key: key[0] for key in refs
    }


def test_children_inherit_and_add_variables(cluster):
    parent = family.options(runtime_env=variables(SHOAL_T="parent", SHOAL_U="parent"))
    assert get(parent.remote(variables(SHOAL_U="child"))) == ("parent", "child")
    assert get(family.remote(variables(SHOAL_U="child"))) == (None, "child")


def test_a_child_of_its_parents_environment_may_run_in_its_place():
    """On one CPU, with no further process, in the parent's environment: a child of a blocked parent ends."""
    shoal.init(num_cpus=1, runtime_env=variables(SHOAL_T="job"))
    try:
        assert get(family.remote(variables(SHOAL_U="x"))) == ("job", "x")
    finally:
        shoal.shutdown()


def test_the_jobs_environment_holds_for_all_and_is_shown(project):
    shoal.init(
        num_cpus=2,
        runtime_env={"env_vars": {"SHOAL_T": "job", "SHOAL_U": "${HOME}/x"}, "working_dir": project},
    )
    try:
        assert variable_of(variable.remote()) == "job"
        assert variable_of(variable.remote("SHOAL_U")) == f"{os.environ.get('HOME', '')}/x"
        assert variable_of(variable.options(runtime_env=variables(SHOAL_T="task")).remote()) == "task"
        assert get(look.options(runtime_env=variables(SHOAL_T="task")).remote())[0] == 42
        shown = shoal.get_runtime_context().runtime_env
        assert shown["env_vars"]["SHOAL_T"] == "job"
        assert shown["working_dir"].startswith("package://")
    finally:
        shoal.shutdown()


def test_actors_have_environments_and_hand_them_down(cluster, project):
    keeper = Keeper.options(runtime_env={**variables(SHOAL_T="actor"), "working_dir": str(project)}).remote()
    assert get(keeper.values.remote()) == ("actor", "actor")
    assert get(Keeper.remote().values.remote()) == (None, None)


def test_working_dir_and_modules_are_there_before_the_function_is_loaded(cluster, project, module):
    environment = {"working_dir": str(project), "py_modules": [str(module)], "excludes": ["*.bin"]}

    @shoal.remote(runtime_env=environment)
    def both():
        from shoal_t_module import NAME

        return NAME, get(look.remote())

    assert get(both.remote()) == ("inner", (42, "content", ["x.txt"], True))
    packages = Path(shoal.get_runtime_context().get_session_dir()) / "packages"
    assert len([each for each in packages.iterdir() if each.is_dir()]) == 2


def test_an_archive_as_working_dir(cluster, tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("shoal_t_helper.py", "ANSWER = 43")

    @shoal.remote(runtime_env={"working_dir": str(tmp_path / "p.zip")})
    def answer():
        import shoal_t_helper

        return shoal_t_helper.ANSWER

    assert get(answer.remote()) == 43


def test_a_package_that_cannot_be_unpacked_fails_its_tasks_and_actors_and_no_others(cluster, project):
    packages = Path(shoal.get_runtime_context().get_session_dir()) / "packages"
    packages.write_text("a file where the directory should be")
    environment = {"working_dir": str(project)}
    with pytest.raises(RuntimeEnvSetupError, match="could not be unpacked"):
        get(look.options(runtime_env=environment).remote())
    with pytest.raises(ActorDiedError, match="could not be unpacked"):
        get(Keeper.options(runtime_env=environment).remote().values.remote())
    assert variable_of(variable.remote()) is None
    packages.unlink()
    assert get(look.options(runtime_env=environment).remote())[0] == 42


def test_what_is_too_large_is_refused_at_the_call(project):
    with pytest.raises(RuntimeEnvSetupError, match=r"takes .*, and a package of runtime_env may have"):
        shoal.init(
            num_cpus=1, runtime_env={"working_dir": str(project)}, _system_config={"package_bytes_max": 10}
        )
    assert not shoal.is_initialized()
    shoal.init(num_cpus=1, _system_config={"package_bytes_max": 10})
    try:
        with pytest.raises(RuntimeEnvSetupError, match="excludes"):
            look.options(runtime_env={"working_dir": str(project)}).remote()
        assert variable_of(variable.remote()) is None
    finally:
        shoal.shutdown()


def test_packages_that_nobody_uses_make_room_for_others(tmp_path):
    shoal.init(num_cpus=1, _system_config={"package_cache_bytes_max": 15, "idle_worker_ms": 1.0})
    try:

        @shoal.remote(max_calls=1)
        def content():
            return os.getpid(), Path("x").read_text()

        packages = Path(shoal.get_runtime_context().get_session_dir()) / "packages"
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "x").write_text(f"content {number}")
            pid, found = get(content.options(runtime_env={"working_dir": str(folder)}).remote())
            assert found == f"content {number}"
            until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
        assert len([each for each in packages.iterdir() if each.is_dir()]) == 2
    finally:
        shoal.shutdown()


def test_on_another_node(project, module):
    with Cluster(num_cpus=0) as cluster:
        other = cluster.add_node(num_cpus=2)
        shoal.init(cluster.address)
        try:
            environment = {"working_dir": str(project), "py_modules": [str(module)], "excludes": ["*.bin"]}

            @shoal.remote(runtime_env={**environment, **variables(SHOAL_T="there")})
            def both():
                from shoal_t_module import NAME

                where = shoal.get_runtime_context().get_node_id()
                return NAME, get(look.remote()), variable_of(variable.remote()), where

            assert get(both.remote()) == ("inner", (42, "content", ["x.txt"], True), "there", other.node_id)
            keeper = Keeper.options(
                num_cpus=1, runtime_env={**environment, **variables(SHOAL_T="actor")}
            ).remote()
            assert get(keeper.values.remote()) == ("actor", "actor")
        finally:
            shoal.shutdown()
