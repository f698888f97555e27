"""The daemon's command line."""

import pytest

from shoald.node.options import BadOptions, in_units, parse
from shoald.store import memory

MIB = 1024**2


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
        ["--session-dir", "/s", "--port", "many"],
        ["--session-dir", "/s", "--port"],
        ["--session-dir", "/s", "--no-such-option", "1"],
        ["--session-dir", "/s", "--head=1"],
        ["session-dir", "/s"],
    ],
)
def test_bad_command_lines(arguments):
    with pytest.raises(BadOptions):
        parse(arguments)


def test_what_is_given_is_there_and_the_rest_has_its_default():
    options = parse(
        [
            "--session-dir=/s",
            "--head",
            "--host",
            "h",
            "--port",
            "5",
            "--object-spilling-directory",
            "",
            "--name=",
        ]
    )
    assert (options.session_dir, options.head, options.host, options.port) == ("/s", True, "h", 5)
    assert (options.name, options.ready_fd, options.owner_pid, options.huge_pages) == ("", -1, 0, False)
    assert options.worker_main == "shoald.worker.main"


def test_where_others_are_reached():
    assert parse(["--session-dir", "/s", "--host", "h"]).hosts == ["h"]
    assert parse(["--session-dir", "/s", "--head-address", "[::1]:5"]).hosts == ["[::1]"]
    assert parse(["--session-dir", "/s"]).hosts == []


def test_settings_reach_the_config():
    options = parse(["--session-dir", "/s", "--config", '{"query_ms_max": 5, "poll_us": null}'])
    assert options.config.query_ms_max == 5.0


@pytest.mark.parametrize(
    ("pool", "wanted", "expected"),
    [
        ((2 * MIB, 100), 0, 200 * MIB),  # all there is
        ((2 * MIB, 100), 99 * MIB, 100 * MIB),  # whole pages
        ((2 * MIB, 100), 201 * MIB, "100 huge pages of 2 MiB are free, and the store needs 101"),
        ((2 * MIB, 0), 0, "0 huge pages of 2 MiB are free, and the store needs"),
        ((512 * MIB, 1), 600 * MIB, "sysctl -w vm.nr_hugepages=2"),
        ((0, 0), 64 * MIB, "this system has no huge pages"),
    ],
)
def test_a_store_of_huge_pages(monkeypatch, pool, wanted, expected):
    monkeypatch.setattr(memory, "huge_page_pool", lambda: pool)
    arguments = ["--session-dir", "/s", "--huge-pages", "--object-store-memory", str(wanted)]
    if isinstance(expected, int):
        assert parse(arguments).object_store_memory == expected
    else:
        with pytest.raises(BadOptions, match=expected):
            parse(arguments)


def test_the_pool_of_huge_pages(tmp_path):
    figures = tmp_path / "meminfo"
    figures.write_text(
        "MemTotal: 9 kB\nHugePages_Total: 70\nHugePages_Free: 64\nHugePages_Rsvd: 4\nHugepagesize: 2048 kB\n"
    )
    assert memory.huge_page_pool(figures) == (2 * MIB, 60)
    figures.write_text("MemTotal: 9 kB\n")
    assert memory.huge_page_pool(figures) == (0, 0)
    assert memory.huge_page_pool(tmp_path / "none") == (0, 0)
