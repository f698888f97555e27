"""Values and tables as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_bytes_that_differ_look_different():
    least, most = 17_690_000_000, 17_690_000_001
    assert fmt.bytes_text(least, beside=[most]) == "17.69 GB (17,690,000,000 bytes)"
    assert fmt.bytes_text(most, beside=[least]) == "17.69 GB (17,690,000,001 bytes)"
    assert fmt.bytes_text(most, beside=[most, 10**9]) == "17.69 GB"


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
    assert fmt.table_lines(table) == ["Title", "NAME   N", "a      1", "long  22", "note"]
    assert fmt.table_lines(table, 80) == fmt.table_lines(table)


def test_a_table_without_rows_says_so():
    assert fmt.table_lines(fmt.Table(("A",), [], "Title", ["note"])) == ["Title", "  none", "note"]
    assert fmt.table_lines(fmt.Table(("A",), [], empty="nobody")) == ["  nobody"]


WIDE = fmt.Table(
    ("ID", "BECAUSE", ">N", "FOR"),
    [("a", "it is long, and wraps", "1", "x"), ("b", "-", "2", "yy")],
    details=("BECAUSE", "FOR"),
    notes=["one two three"],
)


def test_details_go_below_their_rows_as_far_as_needed():
    assert fmt.table_lines(WIDE, 40)[0] == "ID  BECAUSE                N  FOR"
    assert fmt.table_lines(WIDE, 32) == [
        "ID  N  FOR",
        "a   1  x",
        "    because: it is long, and",
        "    wraps",
        "b   2  yy",
        "one two three",
    ]
    assert fmt.table_lines(WIDE, 8) == [
        "ID  N",
        "a   1",
        "    because: it is",
        "    long, and wraps;",
        "    for: x",
        "b   2",
        "    for: yy",
        "one two three",
    ]


def test_details_that_no_row_has_are_left_out():
    table = fmt.Table(("ID", "WHY", "N"), [("a", "-", "-"), ("b", "", "-")], details=("WHY",))
    assert fmt.table_lines(table) == ["ID  N", "a   -", "b   -"]


CELL = st.text("xyz ", max_size=30).map(str.strip)


@given(rows=st.lists(st.tuples(CELL, CELL, CELL, CELL), max_size=5), width=st.integers(1, 100))
def test_nothing_is_lost_in_any_width(rows, width):
    lines = fmt.table_lines(fmt.Table(("A", "B", ">C", "D"), rows, details=("D", "B")), width)
    for letter in "xyz":
        wanted = sum(cell.count(letter) for row in rows for cell in row)
        assert sum(line.count(letter) for line in lines) == wanted


def test_pairs():
    assert parse_pairs('{"a": 2}', float) == {"a": 2.0}
    assert parse_pairs("a=2, b=0.5", float) == {"a": 2.0, "b": 0.5}
    assert parse_pairs("", str) == {}
    for text in ("a", "=2", "{", '{"a": "x"}', "a=x"):
        with pytest.raises(ValueError, match=r"."):
            parse_pairs(text, float)
