"""Tickets: what opens the head's door, and what does not."""

import pytest

from shoald.head import tickets

SECRET = b"s" * 32
PATH = "/shoal.v1.Head/Health"
NOW = 1_700_000_000_000


def make(secret=SECRET, path=PATH, at=NOW, nonce=b"n" * 32):
    return tickets.make_ticket(secret, path, at, nonce)


def gate(tickets_max=100):
    return tickets.TicketGate(SECRET, 60_000, tickets_max)


def test_a_good_ticket_is_answered_with_a_proof():
    ticket = make()
    tickets.check_proof(SECRET, PATH, ticket, gate().admit(PATH, ticket, NOW + 100))


@pytest.mark.parametrize(
    ("ticket", "words"),
    [
        (None, "no ticket"),
        (b"", "no ticket"),
        (make()[:-1], "no ticket"),
        (b"\x02" + make()[1:], "no ticket"),
        (make(secret=b"x" * 32), "wrong secret"),
        (make(path="/shoal.v1.Head/Connect"), "wrong secret"),
        (make()[:-1] + bytes([make()[-1] ^ 1]), "wrong secret"),
        (make(at=NOW - 61_000), "clock"),
        (make(at=NOW + 61_000), "clock"),
    ],
)
def test_others_are_refused(ticket, words):
    with pytest.raises(tickets.TicketRefused, match=words):
        gate().admit(PATH, ticket, NOW)


def test_a_ticket_is_good_once_for_as_long_as_it_would_be_good():
    door = gate()
    ticket = make(at=NOW + 59_000)
    door.admit(PATH, ticket, NOW)
    for later in (0, 60_000, 119_000):
        with pytest.raises(tickets.TicketRefused, match="used before"):
            door.admit(PATH, ticket, NOW + later)
    with pytest.raises(tickets.TicketRefused, match="clock"):
        door.admit(PATH, ticket, NOW + 120_001)


def test_memory_is_bounded_and_recovers():
    door = gate(tickets_max=2)
    for number in range(2):
        door.admit(PATH, make(nonce=bytes([number]) * 32), NOW)
    with pytest.raises(tickets.TicketRefused, match="tickets_max"):
        door.admit(PATH, make(), NOW)
    later = NOW + 120_000
    door.admit(PATH, make(at=later), later)


def test_tickets_that_are_refused_take_no_memory():
    door = gate(tickets_max=1)
    for number in range(5):
        with pytest.raises(tickets.TicketRefused):
            door.admit(PATH, make(secret=b"x" * 32, nonce=bytes([number]) * 32), NOW)
    door.admit(PATH, make(), NOW)


def test_who_does_not_know_the_secret_cannot_prove_itself():
    ticket = make()
    for proof in (
        None,
        b"",
        tickets.make_proof(b"x" * 32, PATH, ticket),
        tickets.make_proof(SECRET, PATH, b"other"),
    ):
        with pytest.raises(tickets.HeadNotProven):
            tickets.check_proof(SECRET, PATH, ticket, proof)
