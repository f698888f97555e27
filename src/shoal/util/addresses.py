"""Where this machine is, for libraries that have processes of several nodes talk to each other (torch.distributed, say)."""

from __future__ import annotations

import contextlib
import socket

_LOOPBACK = "127.0.0.1"
_ELSEWHERE = (
    "192.0.2.1",
    9,
)  # an address for documentation: nobody's; a UDP socket sends nothing when it is connected


def get_node_ip_address() -> str:
    """The address at which other nodes of the cluster reach the node that this code runs on.

    In a cluster of one machine that is a loopback address. Outside of a session it is the address that this machine has on
    its way to others, or a loopback address if there is none.
    """
    from shoal import api, session  # which import this package

    runtime = session.current()
    if runtime is None:
        return _outward()
    own = runtime.identity.node_id
    return next((str(row["NodeManagerAddress"]) for row in api.nodes() if row["NodeID"] == own), _LOOPBACK)


def _outward() -> str:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_ELSEWHERE)
        return str(probe.getsockname()[0])
    return _LOOPBACK
