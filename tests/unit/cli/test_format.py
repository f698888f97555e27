"""Values and tables as people read them."""

import pytest

from shoal.cli import format as fmt
from shoal.cli.common import parse_pairs


@pytest.mark.parametrize(
    ("size", "units", "text"),
    [
        (0, "auto", "0 B"),
        (999, "auto", "999 B"),
        (1000, "auto", "1.0 KB"),
        (12_345_678, "auto", "12.35 MB"),
        (2**40, "auto", "1.10 TB"),
        (1_500_000, "KB", "1500.0 KB"),
        (1_500_000, "B", "1500000 B"),
        (1, "GB", "0.00 GB"),
    ],
)
def test_bytes(size, units, text):
    assert fmt.bytes_text(size, units) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1e9", 10**9),
        ("2GB", 2 * 10**9),
        ("512 MiB", 2**29),
        ("4g", 2**32),
        ("1.5kb", 1500),
        ("7b", 7),
    ],
)
def test_sizes_are_read(text, size):
    assert fmt.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "two", "1XB", "inf", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="no size"):
        fmt.parse_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.35, "350 ms"), (12, "12 s"), (180, "3 min"), (9000, "2.5 h"), (400_000, "5 d")],
)
def test_ages(seconds, text):
    assert fmt.age_text(seconds) == text


def test_resources():
    assert fmt.resources_text({"CPU": 2.0, "GPU": 0.5, "memory": 1e9}) == "2 CPU, 0.5 GPU, 1.00 GB memory"
    assert fmt.resources_text({}) == "nothing"
    assert fmt.usage_text({"CPU": 0.5}, {"CPU": 2.0, "disk": 1.0}) == "1.5/2 CPU, 0/1 disk"
    assert fmt.usage_text({"CPU": 0.7}, {"CPU": 1.0}) == "0.3/1 CPU"


def test_shorten_keeps_the_end():
    assert fmt.shorten("/a/long/path/script.py:12", 12) == "…cript.py:12"
    assert fmt.shorten("short", 5) == "short"


def test_tables_are_aligned():
    table = fmt.Table(("NAME", ">N"), [("a", "1"), ("long", "22")], "Title", ["note"])
    assert fmt.plain_lines(table) == ["Title", "NAME   N", "a      1", "long  22", "note"]


def test_pairs():
    assert parse_pairs('{"a": 2}', float) == {"a": 2.0}
    assert parse_pairs("a=2, b=0.5", float) == {"a": 2.0, "b": 0.5}
    assert parse_pairs("", str) == {}
    for text in ("a", "=2", "{", '{"a": "x"}'):
        with pytest.raises(ValueError, match=r"."):
            parse_pairs(text, float)
