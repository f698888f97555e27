"""Whether a node can be reached where it says: tried by the head before it admits the node.

Other nodes will connect there for tasks and data. One that announces an address of its own loopback, or behind a closed port,
would otherwise join and fail everybody later. The handshake shows that it is really a node of this cluster that answers.
"""

from __future__ import annotations

import asyncio

from shoal.wire import auth
from shoald.shell.identity import Identity
from shoald.shell.tcp import split_address


async def obstacle(address: str, identity: Identity, timeout_s: float) -> str:
    """Why nothing of this cluster answers at ``address`` ("host:port"); "" if it does."""
    try:
        async with asyncio.timeout(timeout_s):
            await _greet(address, identity)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except asyncio.IncompleteReadError:
        return "what answers there closes the connection (is --tls the same there as at the head?)"
    except auth.HandshakeFailed as error:
        return str(error)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


async def _greet(address: str, identity: Identity) -> None:
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        preamble = auth.make_preamble(auth.KIND_PEER, tls=identity.wants_tls(host))
        writer.write(preamble)
        auth.answer_challenge(identity.secret, preamble, await reader.readexactly(auth.CHALLENGE_SIZE))
    finally:
        writer.close()
