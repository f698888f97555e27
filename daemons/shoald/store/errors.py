"""What a client can do wrong."""

from __future__ import annotations


class ProtocolError(Exception):
    """The client sent a message that the protocol does not allow; its connection must be closed.

    What earlier messages did stands; whatever the one at fault did, `StoreCore.drop` undoes.
    """
