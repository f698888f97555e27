"""Identifiers: unique from any thread, also when the counter runs out."""

import itertools
import threading

import pytest

from shoal import ids


def test_an_id_names_its_process_and_its_parts():
    source = ids.IdSource(b"PPPPPPPP")
    first, second = source.next_id(), source.next_id()
    assert first == b"PPPPPPPP" + (1).to_bytes(4, "big") + bytes(4)
    assert second[:8] == b"PPPPPPPP"
    assert first != second
    assert ids.return_id(first, 7) == first[:12] + (7).to_bytes(4, "big")
    assert ids.split_ids(first + second) == [first, second]
    with pytest.raises(ValueError, match="16-byte"):
        ids.split_ids(first + b"x")


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_ids_are_cut_where_they_were_joined(count):
    source = ids.IdSource()
    made = [source.next_id() for _ in range(count)]
    assert ids.split_ids(b"".join(made)) == made
    with pytest.raises(ValueError, match="16-byte"):
        ids.split_ids(b"".join(made) + bytes(15))


def test_many_ids_at_once_are_those_made_one_by_one():
    first = ids.IdSource().next_id()
    for count in (1, 2, 1024, 1025, 3000):
        assert ids.return_ids(first, count) == [ids.return_id(first, index) for index in range(count)]


def test_the_largest_counter_is_used_and_then_comes_a_new_prefix():
    source = ids.IdSource(b"PPPPPPPP")
    source._series = (b"PPPPPPPP", itertools.count(2**32 - 2).__next__)
    made = [source.next_id() for _ in range(5)]
    assert [each[:8] == b"PPPPPPPP" for each in made] == [True, True, False, False, False]
    assert len({each[:8] for each in made[2:]}) == 1
    assert [int.from_bytes(each[8:12], "big") for each in made[2:]] == [1, 2, 3]
    assert source.process_id == b"PPPPPPPP"


def test_ids_carry_the_tag_of_their_node_also_after_a_new_prefix():
    tag = ids.node_tag("c0ffee" + "00" * 13)
    assert tag == b"\xc0\xff\xee"
    source = ids.IdSource(tag=tag)
    assert ids.tag_of(source.process_id) == tag
    source._series = (source.process_id, itertools.count(2**32 - 1).__next__)
    made = [source.next_id() for _ in range(2)]
    assert made[0][:8] == source.process_id != made[1][:8]
    assert [ids.tag_of(each) for each in made] == [tag, tag]
    assert ids.new_process_id(tag) != ids.new_process_id(tag)


def test_threads_that_see_the_counter_run_out_at_once_make_no_id_twice():
    source = ids.IdSource()
    for _ in range(20):
        source._series = (source._series[0], itertools.count(2**32 - 30).__next__)
        source.process_id = source._series[0]
        made: list[list[bytes]] = [[] for _ in range(8)]
        start = threading.Barrier(8)

        def make(into, start=start, source=source):
            start.wait()
            into.extend(source.next_id() for _ in range(50))

        threads = [threading.Thread(target=make, args=(each,)) for each in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        everything = list(itertools.chain(*made))
        assert len(set(everything)) == len(everything)
        source = ids.IdSource()


def test_no_process_id_looks_like_a_client_that_the_daemon_itself_is(monkeypatch):
    # Their ids begin with a zero byte: what the store said to processes with such ids never reached them.
    drawn = iter([bytes(16), b"\0" + b"x" * 15, b"x" * 16])
    monkeypatch.setattr(ids.os, "urandom", lambda size: next(drawn))
    assert ids.new_node_id() == (b"x" * 16).hex()
