"""What progress bars say, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.client.bars import Bars, Look, amount, cells, clock, fitted, speed
from shoal.wire.barlines import CLOSED, GONE, OPEN, Report

WIDE = Look(80, 10)


def report(n, bar="a", reporter=None, total=100, **fields):
    return Report(bar, reporter or bar, n, total, **fields)


def bars(bars_max=10, line_s=10.0):
    return Bars(bars_max, line_s)


def test_a_row_says_how_many_how_fast_and_how_long_yet():
    some = bars()
    some.handle(report(0, desc="rows", unit="row", postfix="loss=0.5"), "(f pid=1)", 0.0)
    some.handle(report(25, desc="rows", unit="row", postfix="loss=0.5"), "(f pid=1)", 5.0)
    (row,) = some.rows(WIDE, 5.0)
    assert row == "(f pid=1) rows:  25%|████            | 25/100 [00:05<00:15, 5.00row/s, loss=0.5]"
    assert some.rows(Look(80, 10, smooth=False), 5.0) == [row.replace("████            ", "####------------")]
    assert some.rows(Look(40, 10), 5.0) == [row.replace("|████            |", "")[:40]]


def test_without_a_total():
    some = bars()
    some.handle(report(0, total=None), "", 0.0)
    some.handle(report(12, total=None), "", 4.0)
    assert some.rows(WIDE, 4.0) == ["12it [00:04, 3.00it/s]"]


def test_the_rate_follows_what_happens_and_does_not_count_what_was_there_before():
    some = bars()
    some.handle(report(50, initial=50), "", 0.0)
    assert "?it/s" in some.rows(WIDE, 1.0)[0]
    some.handle(report(60, initial=50), "", 1.0)
    assert "10.00it/s" in some.rows(WIDE, 1.0)[0]
    for second in range(2, 30):
        some.handle(report(60 + second, initial=50), "", float(second))
    assert "1.00it/s" in some.rows(WIDE, 30.0)[0]


def test_the_first_report_may_come_late():
    some = bars()
    some.handle(report(20, age_s=4.0), "", 10.0)
    assert "20/100 [00:04<00:16, 5.00it/s]" in some.rows(WIDE, 10.0)[0]


def test_closed_bars_go_or_stay():
    some = bars()
    some.handle(report(1, "stays"), "", 0.0)
    some.handle(report(1, "goes"), "", 0.0)
    some.handle(report(2, "stays", state=CLOSED, leave=True), "", 1.0)
    some.handle(report(2, "goes", state=CLOSED), "", 1.0)
    some.handle(report(5, "at once", desc="short", state=CLOSED, leave=True), "", 1.0)
    assert some.rows(WIDE, 1.0) == []
    assert [row[:10] for row in some.take_ended(WIDE, 1.0)] == ["  2%|▌    ", "short:   5"]
    assert some.take_ended(WIDE, 1.0) == []
    assert len(some) == 0


def test_a_bar_that_several_add_to():
    some = bars()
    some.handle(report(7, "shared", "early"), "(f pid=2)", 0.0)  # nobody knows that bar: not yet, or no more
    assert len(some) == 0
    some.handle(report(0, "shared", desc="all"), "", 0.0)
    for count in (3, 5, 5):
        some.handle(report(count, "shared", "one"), "(f pid=2)", 1.0)
    some.handle(report(4, "shared", "other", desc="old"), "(f pid=3)", 1.0)
    some.handle(report(4, "shared", "other", state=GONE), "(f pid=3)", 1.0)
    assert some.count("shared") == 9
    assert some.rows(WIDE, 1.0)[0].startswith("all:   9%|")
    some.handle(report(1, "shared", state=CLOSED), "", 2.0)
    some.handle(report(6, "shared", "one"), "(f pid=2)", 3.0)
    assert len(some) == 0


def test_bars_of_dead_workers_go_and_leave_nothing():
    some = bars()
    some.handle(report(1, leave=True), "(f pid=1)", 0.0)
    some.handle(report(1, leave=True, state=GONE), "(f pid=1)", 1.0)
    assert len(some) == 0
    some.handle(report(1, "local"), "", 0.0)
    some.handle(report(1, "remote"), "(f pid=1)", 0.0)
    some.forget_workers()
    assert some.count("local") == 1
    assert some.count("remote") == 0


def test_more_bars_than_rows_and_than_there_may_be():
    some = bars(bars_max=5)
    for number in range(8):
        some.handle(report(number, str(number), desc=f"bar {number}"), "", 0.0)
    rows = some.rows(Look(80, 3), 0.0)
    assert [row[:6] for row in rows] == ["bar 3:", "bar 4:", "... an"]
    assert rows[-1] == "... and 3 more"
    assert len(some.rows(WIDE, 0.0)) == 5


def test_lines_where_there_is_no_terminal():
    some = bars(line_s=10.0)
    some.handle(report(0, "long", desc="long"), "", 0.0)
    some.handle(report(1, "short", leave=True, state=CLOSED), "", 0.0)
    assert some.take_lines(9.0) == []
    some.handle(report(2, "long", desc="long"), "", 10.0)
    assert some.take_lines(10.0) == ["long:   2% 2/100 [00:10<08:10, 5.00s/it]"]
    assert some.take_lines(15.0) == []
    assert some.take_lines(25.0) == [], "nothing has changed"
    some.handle(report(100, "long", desc="long", leave=True, state=CLOSED), "", 26.0)
    (last,) = some.take_lines(26.0)
    assert last.startswith("long: 100% 100/100 [00:26, ")


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc"),
        ("a\nb\x1b[2J\tc", 20, "a b [2J c"),
        ("日本語", 5, "日本"),
        ("e\u0301x", 2, "e\u0301x"),
    ],
)
def test_rows_fit(text, columns, shown):
    assert fitted(text, columns) == shown
    assert cells(shown) <= columns


def test_numbers_for_people():
    assert [amount(n) for n in (5, 2.5, 1e9, 1 / 3)] == ["5", "2.5", "1e+09", "0.333333"]
    assert [clock(s) for s in (0, 61.9, 3723, 1e9)] == ["00:00", "01:01", "1:02:03", "99:59:59"]
    assert [speed(rate, "it") for rate in (None, 0, 2, 0.5)] == ["?it/s", "?it/s", "2.00it/s", "2.00s/it"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from("abc"),
            st.integers(0, 200),
            st.sampled_from([OPEN, OPEN, CLOSED, GONE]),
        ),
        max_size=40,
    ),
    st.integers(1, 60),
    st.integers(1, 4),
)
def test_rows_always_fit_and_counts_are_what_was_said_last(said, columns, rows):
    some = bars(bars_max=3)
    said_last = {}
    for now, (bar, reporter, n, state) in enumerate(said):
        some.handle(report(n, bar, reporter, desc="日本", state=state, leave=n % 2 == 0), "", float(now))
        is_maker = bar == reporter
        if bar in said_last or (is_maker and state == OPEN):
            said_last.setdefault(bar, {})[reporter] = n
        if is_maker and state != OPEN:
            said_last.pop(bar, None)
        assert some.count(bar) == sum(said_last.get(bar, {}).values())
        shown = some.rows(Look(columns, rows), float(now))
        assert len(shown) <= rows
        assert all(cells(row) <= columns for row in shown)
