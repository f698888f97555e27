"""What a caller sends to an actor, looked at before any of it counts as received: a malformed message ends its connection.

A caller of this job is trusted (it runs code here), but it may be wrong: of another version, or half written over. What
cannot be a call is noticed here, where the caller is known and only its connection goes; on the main thread, amid the calls of
all, it would take the actor down. What only a call's own fields are to blame for (its payload, its arguments) is left to
the call, which fails for that.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from shoal.ids import OBJECT_ID_SIZE
from shoal.wire import messages as m
from shoal.wire.frames import BrokenFrame

if TYPE_CHECKING:
    from collections.abc import Callable

_TYPES = (int, bytes, bytes, bytes, tuple)
PLAIN_CALL = (
    *_TYPES,
    type(None),
)  # without options, as most are: what is this needs no closer look, but for its id
_CALL_WITH_OPTIONS = (*_TYPES, dict)
# Options of a call, as `encode_task` makes them, with what their values may be.
_OPTIONS: dict[str, Callable[[Any], bool]] = {
    "returns": lambda value: type(value) is int and value >= 0,
    "stream": lambda value: type(value) is bool,
    "depth": lambda value: type(value) is int and value >= 0,
    "name": lambda value: value is None or type(value) is str,
    "stamp": lambda value: value is None or type(value) is tuple,
    "stamps": lambda value: value is None or type(value) is dict,
    "attempt": lambda value: type(value) is int and 0 <= value < m.ERROR_INDEX,
    "backlog": lambda value: value is None or (type(value) is int and value > 0),
    "taken": lambda value: type(value) is int and value >= 0,
    "received": lambda value: type(value) is int and value >= 0,
    "only": lambda value: value is None or type(value) is tuple,
}


def messages_of(body: bytes) -> list[Any]:
    """The messages of a frame; raises BrokenFrame if it is none."""
    try:
        messages = pickle.loads(body)
    except Exception as error:  # pickle raises anything, and here all of it means the same
        raise BrokenFrame(f"a frame that is no pickle: {type(error).__name__}: {error}") from error
    if type(messages) is not list:
        raise BrokenFrame(f"a frame with {type(messages).__name__} instead of a list of messages")
    return messages


def unheard(_connection: object, _bodies: list[bytes]) -> None:
    """What comes over a connection that is about to be closed counts for nothing: its session is over."""


def check_call(message: Any) -> None:
    """Raise BrokenFrame unless ``message`` (which says TASK) can be a call."""
    kinds = tuple(map(type, message))
    if kinds != PLAIN_CALL:
        if kinds != _CALL_WITH_OPTIONS:
            raise BrokenFrame(f"a call of {_described(kinds)}")
        for name, fits in _OPTIONS.items():
            if name not in message[5] or not fits(message[5][name]):
                raise BrokenFrame(f"a call whose option {name!r} is {message[5].get(name, 'missing')!r:.100}")
    if len(message[1]) != OBJECT_ID_SIZE:
        raise BrokenFrame(f"a call whose id has {len(message[1])} bytes")


def _described(kinds: tuple[type, ...]) -> str:
    return f"fields ({', '.join(kind.__name__ for kind in kinds[:10])}) instead of (tag, id, method, payload, arguments, options)"


def opening(messages: list[Any]) -> tuple[bool, int, int]:
    """(whether it begins anew, session, frames heard) of a connection's first messages; raises BrokenFrame."""
    first = messages[0] if messages else None
    if type(first) is tuple and len(first) == 2 and first[0] == m.JOB and type(first[1]) is dict:
        session, heard, begins = first[1].get("session"), 0, True
    elif type(first) is tuple and len(first) == 3 and first[0] == m.RESUME:
        _, session, heard = first
        begins = False
    else:
        raise BrokenFrame(f"a caller begins with {first!r:.100}")
    if type(session) is not int or type(heard) is not int:
        raise BrokenFrame(f"a caller begins with session {session!r:.100}, having heard {heard!r:.100}")
    return begins, session, heard
