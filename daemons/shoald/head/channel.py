"""How gRPC is set up on both sides: credentials, bounds, names of methods. The only place that knows.

Where TLS is on both sides show a certificate of the cluster's authority; names are not compared (`certificates`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Before grpc is imported: it writes to standard error from C, in its own format, about connections that
# break, which is a normal event here and logged in our words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from shoal.config import Config
from shoal.wire.tls import NAME
from shoald.head.events import Versions
from shoald.head.pb import head_pb2
from shoald.shell.identity import Identity

PROTOCOL_VERSION = 1


@dataclass(frozen=True)
class Method:
    """One method of the service: its path on the wire and the classes of its messages."""

    path: str
    request: type[Message]
    response: type[Message]
    streaming: bool


def _methods() -> dict[str, Method]:
    service = head_pb2.DESCRIPTOR.services_by_name["Head"]
    return {
        method.name: Method(
            f"/{service.full_name}/{method.name}",
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.client_streaming,
        )
        for method in service.methods
    }


METHODS = _methods()
SERVICE = head_pb2.DESCRIPTOR.services_by_name["Head"].full_name


def own_versions(python: tuple[int, int]) -> Versions:
    """The versions of this process, given the first two numbers of its Python."""
    return Versions(PROTOCOL_VERSION, *python)


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """What the head's port is opened with, where it has TLS. Raises TlsUnavailable, or OSError."""
    made = identity.certificates()
    return grpc.ssl_server_credentials([(made.key, made.leaf)], made.root, require_client_auth=True)


def open_channel(address: str, identity: Identity, tls: bool, config: Config) -> grpc.aio.Channel:
    """A channel to a head. Raises TlsUnavailable, or OSError."""
    options = channel_options(config)
    if not tls:
        return grpc.aio.insecure_channel(address, options=options)
    made = identity.certificates()
    credentials = grpc.ssl_channel_credentials(made.root, made.key, made.leaf)
    options.append(("grpc.ssl_target_name_override", NAME))
    return grpc.aio.secure_channel(address, credentials, options=options)


def server_options(config: Config) -> list[tuple[str, int]]:
    return [
        # Two heads on one port must not share it silently.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.head_message_bytes_max),
        ("grpc.max_send_message_length", config.head_message_bytes_max),
        ("grpc.max_metadata_size", 16 * 1024),
    ]


def channel_options(config: Config) -> list[tuple[str, int | str]]:
    return [
        # A proxy from the environment is for the web; the head is on this machine or network.
        ("grpc.enable_http_proxy", 0),
        # Each attempt is one: with what channels share it would fail at once by what the last one met.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", config.head_message_bytes_max),
        ("grpc.max_send_message_length", config.head_message_bytes_max),
        ("grpc.initial_reconnect_backoff_ms", int(config.reconnect_ms_min)),
        # What it calls so is how long a connection may take until the head has said a word over it.
        ("grpc.min_reconnect_backoff_ms", int(config.reconnect_ms_max)),
        ("grpc.max_reconnect_backoff_ms", int(config.reconnect_ms_max)),
    ]


def metadata_value(metadata: Iterable[tuple[str, str | bytes]] | None, key: str) -> bytes | None:
    """The binary entry ``key``, or None unless there is exactly one."""
    found = [value for name, value in metadata or () if name == key]
    return found[0] if len(found) == 1 and isinstance(found[0], bytes) else None


def quiet_poller(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Loop exception handler: gRPC's poller reports EAGAIN as an error when two loops share a process."""
    if isinstance(context.get("exception"), BlockingIOError):
        return
    loop.default_exception_handler(context)
