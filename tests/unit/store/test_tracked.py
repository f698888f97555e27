"""Which arrays the kernel watches: the decisions, and the bookkeeping of ranges."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.store.tracked import History, TrackedRanges

PAGES = 10_000


def watched(saved=0):
    """The history of an array that was found unchanged by a hash, is tracked, and was found unwritten so often."""
    history = History()
    history.found_unchanged()
    assert history.wants()
    history.protected(1)
    for _ in range(saved):
        history.found_unwritten()
    return history


def calls_until_wanted(history):
    """How many hashes it takes that find it unchanged."""
    calls = 0
    while not history.wants():
        history.found_unchanged()
        calls += 1
    return calls


def test_an_array_is_tracked_when_a_hash_found_it_unchanged():
    history = History()
    assert not history.wants()
    history.found_changed()
    assert not history.wants()
    history.found_unchanged()
    assert history.wants()


def test_what_is_tracked_wants_nothing():
    history = watched()
    assert history.token == 1
    history.found_unchanged()
    assert not history.wants()


def test_a_change_makes_it_be_looked_at_again():
    history = History()
    history.found_unchanged()
    history.found_changed()
    assert not history.wants()


def test_writes_all_over_make_it_wait_twice_as_long_each_time():
    history = watched()
    for patience in (2, 4, 8, 16):
        history.found_written(PAGES, PAGES)
        assert history.token is None
        assert calls_until_wanted(history) == patience
        history.protected(2)


def test_the_wait_is_bounded():
    history = watched()
    for _ in range(40):
        history.found_written(None, PAGES)
        history.protected(2)
    history.found_written(None, PAGES)
    assert calls_until_wanted(history) == 1024


def test_writes_all_over_are_worth_it_after_many_calls():
    history = watched(saved=8)
    history.found_written(PAGES, PAGES)
    assert calls_until_wanted(history) == 1


def test_what_was_written_in_a_few_places_is_tracked_at_once():
    history = watched(saved=1)
    history.found_written(1, PAGES)
    assert history.token is None
    assert history.wants()
    history.protected(2)
    history.found_written(PAGES // 64 + 1, PAGES)
    assert not history.wants()


def test_what_is_written_before_each_call_is_not_tracked_at_once():
    history = watched(saved=0)
    history.found_written(1, PAGES)
    assert not history.wants()
    assert calls_until_wanted(history) == 1


def test_what_cannot_be_tracked_is_tried_less_and_less_often():
    history = History()
    history.found_unchanged()
    for patience in (2, 4, 8):
        history.refused()
        assert calls_until_wanted(history) == patience


class RangesMachine(RuleBasedStateMachine):
    """Ranges against a model: a token is good until something was protected on top of its range, or too much since its use."""

    COUNT_MAX = 3

    def __init__(self):
        super().__init__()
        self.ranges = TrackedRanges(self.COUNT_MAX)
        self.model = {}  # token → range, in the order of use
        self.tokens = []

    @rule(start=st.integers(0, 20), size=st.integers(1, 6))
    def track(self, start, size):
        end = start + size
        in_the_way = [token for token, (a, b) in self.model.items() if a < end and start < b]
        gone = [self.model.pop(token) for token in in_the_way]
        while len(self.model) >= self.COUNT_MAX:
            gone.append(self.model.pop(next(iter(self.model))))
        assert sorted(self.ranges.make_room(start, end)) == sorted(gone)
        token = self.ranges.add(start, end)
        assert token not in self.tokens
        self.tokens.append(token)
        self.model[token] = (start, end)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def find(self, data):
        token = data.draw(st.sampled_from(self.tokens))
        expected = self.model.pop(token, None)
        if expected is not None:
            self.model[token] = expected
        assert self.ranges.find(token) == expected

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def remove(self, data):
        token = data.draw(st.sampled_from(self.tokens))
        assert self.ranges.remove(token) == self.model.pop(token, None)

    @rule()
    def clear(self):
        assert sorted(self.ranges.clear()) == sorted(self.model.values())
        self.model.clear()

    @invariant()
    def holds(self):
        self.ranges.validate()


TestRanges = RangesMachine.TestCase
