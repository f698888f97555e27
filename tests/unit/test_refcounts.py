"""References to an object, counted from inside: the same on every interpreter."""

from shoal.refcounts import LISTED, count_each


def test_who_is_only_in_the_list_has_the_references_of_who_counts():
    assert count_each([object(), object()]) == [LISTED, LISTED]


def test_each_reference_of_others_counts():
    one, two = object(), object()
    also_two = two
    assert count_each([one, two, object()]) == [LISTED + 1, LISTED + 2, LISTED]
    assert also_two is two
    listed = [one, two]
    del one
    assert count_each(listed) == [LISTED, LISTED + 2]
