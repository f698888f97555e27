"""When polling is given up: other work that takes a share of the time, not every moment in which something runs."""

from shoal.client.crowding import Crowding

LONG_S = 1000.0


def run(crowding, start_s, until_s, period_s, took_s):
    """Yields of ``took_s`` every ``period_s`` while polling; the times at which the machine was found crowded."""
    found = []
    now = start_s
    while now < until_s:
        now = max(now, crowding.sleepy_until) + period_s
        if crowding.lost(now, took_s):
            found.append(now)
    return found


def slept_s(crowding, until_s, period_s, took_s):
    """For how long in all waits are to sleep at once, until then."""
    now = slept = 0.0
    while now < until_s:
        now = max(now, crowding.sleepy_until) + period_s
        if crowding.lost(now, took_s):
            slept += crowding.sleepy_until - now
    return slept


def test_something_that_runs_for_a_moment_now_and_then_is_no_crowd():
    # It was: twenty milliseconds of sleep for each, and since they came soon after each other a second in the end.
    assert run(Crowding(), 0.0, 60.0, 0.13, 0.002) == []
    assert run(Crowding(), LONG_S, LONG_S + 60.0, 0.3, 0.004) == []


def test_many_yields_that_give_way_to_a_peer_are_no_crowd():
    assert run(Crowding(), 0.0, 1.0, 0.0003, 0.0003) == []


def test_who_loses_whole_time_slices_sleeps_nearly_always():
    assert run(Crowding(), LONG_S, LONG_S + 1.0, 0.008, 0.008)[0] <= LONG_S + 0.008
    assert slept_s(Crowding(), 60.0, 0.008, 0.008) > 0.9 * 60.0


def test_one_busy_neighbour_is_found():
    crowding = Crowding()
    now = 0.0
    found = False
    while not found and now < 1.0:  # a fifth of the time in small pieces, and a long one now and then
        for _ in range(50):
            now += 0.0005
            crowding.lost(now, 0.0001)
        now += 0.001
        found = crowding.lost(now, 0.001)
    assert found


def test_a_crowd_that_has_gone_is_soon_forgotten():
    crowding = Crowding()
    found = run(crowding, 0.0, 30.0, 0.005, 0.005)
    assert crowding.sleepy_until - found[-1] <= 1.0
    later = crowding.sleepy_until + 20.0
    assert not crowding.lost(later, 0.002)
    assert crowding.lost(later + 0.01, 0.008)
    assert crowding.sleepy_until - later < 0.1
