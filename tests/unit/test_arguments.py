"""The arguments of init."""

import inspect
import json
import logging
from pathlib import Path

import pytest

from shoal.arguments import InitArguments, parse_address
from shoal.config import Config

NONE = {}


def parse(*args, **kwargs):
    return InitArguments.parse(*args, environ=kwargs.pop("environ", NONE), **kwargs)


def test_nothing_given_is_a_local_cluster():
    arguments = parse()
    assert arguments == InitArguments()
    assert arguments.address is None
    assert arguments.log_to_driver
    assert arguments.resource_units() == {}


def test_none_is_not_given():
    names = [name for name in inspect.signature(InitArguments).parameters if name in {"num_cpus", "labels"}]
    assert (
        parse("auto", **dict.fromkeys([*names, "resources", "_system_config", "_temp_dir"])).address == "auto"
    )


@pytest.mark.parametrize(
    ("address", "environ", "expected"),
    [
        (None, {}, None),
        (None, {"SHOAL_ADDRESS": "auto"}, "auto"),
        (None, {"SHOAL_ADDRESS": " "}, None),
        (None, {"SHOAL_ADDRESS": "10.0.0.1:7462"}, "10.0.0.1:7462"),
        ("auto", {"SHOAL_ADDRESS": "10.0.0.1:7462"}, "auto"),
        ("local", {"SHOAL_ADDRESS": "10.0.0.1:7462"}, None),
        ("host.example:1", {}, "host.example:1"),
    ],
)
def test_addresses(address, environ, expected):
    assert parse(address, environ=environ).address == expected


def test_the_environment_of_the_process_counts(monkeypatch):
    monkeypatch.setenv("SHOAL_ADDRESS", "auto")
    assert InitArguments.parse().address == "auto"


@pytest.mark.parametrize(
    "text",
    ["host", "host:", ":1", "host:0", "host:70000", "host:x", "ray://host:1", "::1:80", "host:-1", "h:٣"],
)
def test_bad_addresses(text):
    with pytest.raises(ValueError, match="address"):
        parse(text)


def test_address_parts():
    assert parse_address("10.0.0.1:7462") == ("10.0.0.1", 7462)
    assert parse_address("[::1]:80") == ("::1", 80)
    with pytest.raises(TypeError):
        parse(7462)


@pytest.mark.parametrize(
    "argument",
    [
        {"num_cpus": 0},
        {"num_gpus": 1},
        {"resources": {"a": 1}},
        {"labels": {"a": "b"}},
        {"object_store_memory": 100 * 1024**2},
        {"huge_pages": True},
        {"object_spilling_directory": "/x"},
        {"_system_config": {"poll_us": 1}},
        {"_temp_dir": "/x"},
        {"_memory": 100},
    ],
)
def test_an_existing_cluster_cannot_be_described(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"{name}.*auto"):
        parse("auto", **argument)
    with pytest.raises(ValueError, match=f"{name}.*SHOAL_ADDRESS"):
        parse(environ={"SHOAL_ADDRESS": "auto"}, **argument)
    assert parse("local", environ={"SHOAL_ADDRESS": "auto"}, **argument).address is None
    assert parse("auto", resources={}).address == "auto"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("num_cpu", "num_cpus"), ("object_store_memroy", "object_store_memory"), ("adress", "address"),
     ("system_config", "_system_config"), ("ignore_reinit", "ignore_reinit_error"), ("tmp_dir", "_temp_dir")],
)  # fmt: skip
def test_an_unknown_argument_names_the_nearest(name, meant):
    with pytest.raises(ValueError, match=f"{name!r}; did you mean '{meant}'"):
        parse(**{name: 1})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("num_cpus", "4", TypeError),
        ("num_cpus", -1, ValueError),
        ("num_cpus", 0.00001, ValueError),
        ("num_gpus", 0.5, ValueError),
        ("resources", {"CPU": 1}, ValueError),
        ("labels", {"a": 1}, TypeError),
        ("object_store_memory", 1000, ValueError),
        ("object_store_memory", 1e9, TypeError),
        ("huge_pages", "yes", TypeError),
        ("object_spilling_directory", 3, TypeError),
        ("namespace", 3, TypeError),
        ("runtime_env", [], TypeError),
        ("ignore_reinit_error", 1, TypeError),
        ("log_to_driver", "no", TypeError),
        ("logging_level", "loud", ValueError),
        ("logging_level", [], TypeError),
        ("dashboard_port", 70000, ValueError),
        ("dashboard_host", 3, TypeError),
        ("_system_config", "x", TypeError),
        ("_system_config", {"poll_us": "x"}, ValueError),
        ("_system_config", {"poll_uss": 1}, ValueError),
        ("_temp_dir", "", ValueError),
    ],
)
def test_bad_values(name, value, kind):
    with pytest.raises(kind):
        parse(**{name: value})


def test_good_values():
    arguments = parse(
        num_cpus=2.5,
        num_gpus=1,
        _memory=100,
        resources={"disk": 0.5},
        labels={"zone": "a"},
        object_store_memory=Config.store_bytes_min,
        namespace="n",
        runtime_env={"env_vars": {"A": "1"}},
        ignore_reinit_error=True,
        log_to_driver=False,
        logging_level="warning",
        include_dashboard=False,
        dashboard_port=0,
        _temp_dir=Path("/x/y"),
        _system_config={"poll_us": "7", "max_direct_call_object_size": 10, "max_io_workers": 2},
        local_mode=False,
        configure_logging=True,
    )
    assert arguments.resource_units() == {"CPU": 25000, "GPU": 10000, "memory": 1000000, "disk": 5000}
    assert arguments.logging_level == logging.WARNING
    assert arguments.temp_dir == "/x/y"
    assert arguments.system_config == {"poll_us": "7", "inline_bytes_max": 10}
    assert arguments.ignored == ("local_mode", "configure_logging")
    assert parse(logging_level=logging.DEBUG).logging_level == logging.DEBUG


def test_where_objects_are_spilled():
    def spilling(**params):
        return {"object_spilling_config": json.dumps({"type": "filesystem", "params": params})}

    one = parse(_system_config=spilling(directory_path="/a"))
    assert one.spilling_directories == ("/a",)
    assert one.system_config == {}
    several = parse(_system_config=spilling(directory_path=["/a", "/b"], buffer_size=1000))
    assert several.spilling_directories == ("/a", "/b")
    assert parse(object_spilling_directory=Path("/c")).spilling_directories == ("/c",)
    same = parse(object_spilling_directory="/a", _system_config=spilling(directory_path="/a"))
    assert same.spilling_directories == ("/a",)
    as_dict = {"object_spilling_config": {"type": "filesystem", "params": {"directory_path": "/a"}}}
    assert parse(_system_config=as_dict).spilling_directories == ("/a",)
    with pytest.raises(ValueError, match="different places"):
        parse(object_spilling_directory="/b", _system_config=spilling(directory_path="/a"))


@pytest.mark.parametrize(
    "config",
    ["{", "[]", '{"type": "smart_open", "params": {}}', '{"type": "filesystem"}',
     '{"type": "filesystem", "params": {"directory_path": []}}',
     '{"type": "filesystem", "params": {"directory_path": [3]}}'],
)  # fmt: skip
def test_a_bad_spilling_configuration_shows_a_good_one(config):
    with pytest.raises((ValueError, TypeError), match="directory_path"):
        parse(_system_config={"object_spilling_config": config})
