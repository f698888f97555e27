"""The object manager asks the head where objects are: many in one question, what has no room in an answer again."""

from types import SimpleNamespace

import pytest

from shoald.objects.effects import Locate
from shoald.objects.manager import ObjectManager

IDS = [bytes([number]) * 16 for number in range(5)]


class Head:
    """Answers for so many objects at a time, or not at all; nobody has the second one."""

    def __init__(self, room):
        self.room = room
        self.asked = []

    def call(self, method, params, then):
        ids = params["ids"]
        self.asked.append((method, ids))
        if self.room:
            rows = [{"copies": [] if each == IDS[1] else ["own", each.hex()]} for each in ids[: self.room]]
            then(True, {"objects": rows})
        else:
            then(False, "the head does not answer")


@pytest.mark.parametrize(("room", "questions"), [(5, 1), (2, 3), (1, 5), (0, 1)])
def test_every_object_that_is_looked_up_gets_one_answer(room, questions):
    head, found = Head(room), []
    manager = object.__new__(ObjectManager)
    manager._daemon = SimpleNamespace(node_id="own", head=head, loop=SimpleNamespace(now=lambda: 1.0))
    manager.core = SimpleNamespace(pulls=SimpleNamespace(located=lambda *answer: found.append(answer)))
    manager._carry_out(Locate(IDS))
    nobody = [] if room else None
    assert found == [(each, nobody if each == IDS[1] or not room else [each.hex()], 1.0) for each in IDS]
    assert head.asked[0] == ("Locate", IDS)
    assert len(head.asked) == questions
