"""runtime_env: what is accepted, what is refused at once, and how environments add up."""

import json

import pytest

import shoal
from shoal.options import ActorOptions, TaskOptions
from shoal.runtime_env import RuntimeEnv, check, merge


def test_a_good_environment_is_kept_with_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "one.py").write_text("")
    given = {"env_vars": {"A": "1"}, "working_dir": ".", "py_modules": ["pkg", "one.py", json, shoal.api]}
    found = check("runtime_env", given)
    assert found["working_dir"] == str(tmp_path)
    assert found["py_modules"][:2] == [str(tmp_path / "pkg"), str(tmp_path / "one.py")]
    assert found["py_modules"][2].endswith("/json")
    assert found["py_modules"][3].endswith("/api.py")
    assert RuntimeEnv(**given) == found


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ("x", TypeError, "needs a dict"),
        ({1: 2}, TypeError, "strings as keys"),
        ({"env_var": {}}, ValueError, "did you mean 'env_vars'"),
        ({"uv": ["torch"]}, ValueError, r"\['uv'\] is not supported"),
        ({"pip": 3}, TypeError, r"\['pip'\] needs a list"),
        ({"pip": "/does/not/exist.txt"}, ValueError, "cannot be read as a file of requirements"),
        ({"conda": "env"}, ValueError, "is not supported"),
        ({"container": {"image": "x"}}, ValueError, "is not supported"),
        ({"env_vars": ["A"]}, TypeError, "dict of strings"),
        ({"env_vars": {"A": 1}}, TypeError, "strings as names and values"),
        ({"env_vars": {"A=B": "1"}}, ValueError, "cannot be the name"),
        ({"working_dir": 3}, TypeError, "needs a path"),
        ({"working_dir": "/does/not/exist"}, ValueError, "neither a directory nor a .zip"),
        ({"working_dir": "s3://bucket/x.zip"}, ValueError, "only local"),
        ({"py_modules": "x"}, TypeError, "list of paths or modules"),
        ({"py_modules": ["/does/not/exist"]}, ValueError, "no directory"),
        ({"excludes": ["*.bin"]}, ValueError, "no effect without"),
        ({"working_dir": "/", "excludes": "x"}, TypeError, "list of patterns"),
    ],
)
def test_a_bad_environment_is_refused_where_it_is_given(given, kind, text):
    for refuse in (
        lambda: TaskOptions(runtime_env=given),
        lambda: ActorOptions().merged(runtime_env=given),
        lambda: shoal.remote(runtime_env=given)(len),
    ):
        with pytest.raises(kind, match=text):
            refuse()


def test_fields_of_the_child_replace_the_parents_and_variables_add_up():
    parent = {"env_vars": {"A": "1", "B": "2"}, "working_dir": "/p"}
    assert merge(parent, {"env_vars": {"B": "3"}, "py_modules": ["/m"]}) == {
        "env_vars": {"A": "1", "B": "3"},
        "working_dir": "/p",
        "py_modules": ["/m"],
    }
    assert merge(parent, None) == parent
    assert merge(None, None) == {}
    assert parent["env_vars"] == {"A": "1", "B": "2"}
