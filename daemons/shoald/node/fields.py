"""The fields of a message, looked at before anything is done with them. Pure."""

from __future__ import annotations

from typing import Any

from shoald.store.errors import ProtocolError


def checked(fields: Any, *kinds: type) -> list[Any]:
    """``fields`` if they are a list of values of just these ``kinds`` (object: any); raises ProtocolError."""
    if type(fields) is not list or len(fields) != len(kinds):
        raise ProtocolError(f"a message needs {len(kinds)} fields")
    for value, kind in zip(fields, kinds, strict=True):
        if kind is not object and type(value) is not kind:
            raise ProtocolError(f"a field is {type(value).__name__}, not {kind.__name__}")
    return fields
