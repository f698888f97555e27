"""Traffic between nodes, for who populates pages."""

from shoald.objects.traffic import Traffic


def test_without_any_there_is_none():
    traffic = Traffic(0.25)
    assert not traffic.goes_on(False, 0, 1.0)


def test_it_goes_on_until_nothing_has_moved_for_a_while():
    traffic = Traffic(0.25)
    assert traffic.goes_on(True, 0, 1.0)
    assert traffic.goes_on(False, 0, 1.24)
    assert not traffic.goes_on(False, 0, 1.25)


def test_what_moved_between_two_looks_is_seen_once():
    traffic = Traffic(0.25)
    assert traffic.goes_on(False, 100, 5.0)
    assert traffic.goes_on(False, 100, 5.2)
    assert not traffic.goes_on(False, 100, 5.3)
    assert traffic.goes_on(False, 101, 5.4)
