"""How rates are measured, and shown."""

import pytest

from shoal.cli.format import table_lines
from shoal.cli.microbenchmark import ROUNDS, Figure, figures_table, measure, rate_text


def test_rounds_of_equal_time_after_one_that_does_not_count():
    now, ran = [0.0], []

    def run():
        ran.append(now[0])
        now[0] += 0.25 if len(ran) > 1 else 9.0

    rates = measure(Figure("x", "/s", 10, run), 1.0, lambda: now[0])
    assert rates == [40.0] * ROUNDS
    assert len(ran) == 1 + 4 * ROUNDS


def test_a_round_runs_at_least_once_and_the_slowest_comes_first():
    now, took = [0.0], iter([0, 5, 1, 2])

    def run():
        now[0] += next(took)

    assert measure(Figure("x", "/s", 10, run), 0.5, lambda: now[0]) == [2.0, 5.0, 10.0]


@pytest.mark.parametrize(
    ("rate", "text"), [(123456.7, "123,457"), (100, "100"), (12.345, "12.3"), (0.5, "0.5")]
)
def test_rates(rate, text):
    assert rate_text(rate) == text


def test_the_table():
    rows = [{"name": "a", "unit": "/s", "rate": 2000.0, "rates": [1000.0, 2000.0, 3000.0]}]
    assert table_lines(figures_table(rows), None)[-1].split() == ["a", "2,000/s", "1,000", "to", "3,000"]
