"""Refs inside a small result ride on the copy that was sealed with it; when its node dies, the process holds them itself."""

from shoal.ids import IdSource
from shoal.owner.objects import PENDING
from shoal.owner.table import ObjectTable
from shoal.wire import messages as m

HERE, THERE = b"\x01\x01\x01", b"\x02\x02\x02"
INNER = [bytes([number]) * 16 for number in (3, 4)]


def small_result(table, ids, stamp):
    entry = table.add(ids.next_id(), PENDING)
    table.fulfil(entry, (m.RESULT_INLINE, b"value", stamp))
    return entry


def test_contents_are_held_until_the_result_goes():
    ids = IdSource(tag=HERE)
    table = ObjectTable(ids.process_id)
    entry = small_result(table, ids, (THERE + b"proc.", 7))
    other = small_result(table, ids, (HERE + b"proc.", 7))
    assert table.riding_on(THERE) == [entry]
    table.take_node_messages()
    known = table.borrow(INNER[1])
    known.count = known.holds = 1
    table.hold_contents(entry, INNER)
    assert table.take_node_messages() == [[m.HOLD, table.proc, INNER[0]]]
    assert table.riding_on(THERE) == []
    table.validate()
    table.drop_uses([entry])
    [(tag, released)] = [message for message in table.take_node_messages() if message[0] == m.RELEASE]
    assert tag == m.RELEASE
    assert sorted(released[at : at + 16] for at in range(0, len(released), 16)) == sorted(
        [entry.id, INNER[0]]
    )
    table.drop_uses([other, known])
    assert not table.entries
