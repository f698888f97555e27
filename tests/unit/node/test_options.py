"""The daemon's command line."""

import pytest

from shoald.node.options import BadOptions, in_units, parse


def test_defaults_are_of_this_machine():
    options = parse(["--session-dir", "relative"])
    assert options.session_dir.startswith("/")
    assert options.resources["CPU"] >= 10_000
    assert options.object_store_memory == 0
    assert not options.head


def test_amounts_are_whole_numbers_of_a_ten_thousandth():
    options = parse(["--session-dir", "/s", "--num-cpus", "2", "--resources", '{"tape": 0.25}'])
    assert options.resources == {"CPU": 20_000, "tape": 2_500}
    assert in_units({"memory": 2**40}) == {"memory": 2**40 * 10_000}


@pytest.mark.parametrize("amount", [-1, "1", True, None, 2**70, float("nan")])
def test_what_is_no_amount(amount):
    with pytest.raises(BadOptions, match="needs a number"):
        in_units({"tape": amount})


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--session-dir", "/s", "--head", "--head-address", "h:1"],
        ["--session-dir", "/s", "--config", "[1]"],
        ["--session-dir", "/s", "--config", '{"poll_us": "many"}'],
        ["--session-dir", "/s", "--resources", "{"],
        ["--session-dir", "/s", "--object-store-memory", str(2**60)],
    ],
)
def test_bad_command_lines(arguments):
    with pytest.raises(BadOptions):
        parse(arguments)


def test_settings_reach_the_config():
    options = parse(["--session-dir", "/s", "--config", '{"query_ms_max": 5, "poll_us": null}'])
    assert options.config.query_ms_max == 5.0
