"""Sums over processes that come, go, and crash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoald.node.tallies import NAMES, Tallies
from shoald.store.errors import ProtocolError


def counts(number):
    return dict.fromkeys(NAMES, number)


def test_what_a_process_said_last_stays_when_it_goes():
    tallies = Tallies()
    tallies.said(b"a", counts(3))
    tallies.said(b"b", counts(4))
    tallies.gone(b"a")
    tallies.said(b"b", counts(5))
    tallies.gone(b"never heard of")
    assert tallies.totals() == counts(8)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.none() | st.integers(0, 9)), max_size=30))
def test_sums_never_shrink(steps):
    tallies, last = Tallies(), 0
    for proc, number in steps:
        if number is None:
            tallies.gone(proc)
        else:
            tallies.said(proc, counts(number))
        total = tallies.totals()["finished"]
        assert total >= last
        last = total


@pytest.mark.parametrize(
    "said", [None, [], {}, {"finished": 1}, counts(-1), counts(1.0), counts(True), counts(2**63)]
)
def test_nonsense_changes_nothing(said):
    tallies = Tallies()
    tallies.said(b"a", counts(2))
    with pytest.raises(ProtocolError):
        tallies.said(b"a", said)
    assert tallies.totals() == counts(2)
