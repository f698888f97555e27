"""The RPCs of the head: authenticates each, turns messages into events, carries effects out.

Runs on the head's own loop, decides nothing. Every method goes through `_admit`, before anything of the
request is looked at. Effects are saved first (one transaction per event), then sent.

A stream's outbox is bounded (head_outbox_max): a node that does not read is cut off, comes back, and its
snapshot makes good for what it missed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError

from shoal.config import Config
from shoal.ids import OBJECT_ID_SIZE
from shoald.head import codec
from shoald.head import events as ev
from shoald.head.channel import METHODS, SERVICE, metadata_value
from shoald.head.core import HeadCore
from shoald.head.ephemeral import Storage
from shoald.head.pb import head_pb2 as pb
from shoald.head.tickets import PROOF_KEY, TICKET_KEY, TicketGate, TicketRefused

import grpc  # isort: skip  (after channel.py, which silences it)

log = logging.getLogger(__name__)
_CLOSE = None  # in an outbox: end the stream after what was queued before


class _Stream:
    """One node's connection: an outbox that its RPC drains."""

    def __init__(self, number: int, outbox_max: int) -> None:
        self.number = number
        self.outbox: asyncio.Queue[pb.HeadMessage | None] = asyncio.Queue(outbox_max)

    def put(self, message: pb.HeadMessage | None) -> bool:
        """False when the outbox is full."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True


class HeadService:
    """Answers the RPCs of one head; all methods run on its loop.

    Args:
        obstacle: says why a node cannot be reached at an address, "" if it can; see head.reach.
    """

    def __init__(
        self,
        core: HeadCore,
        storage: Storage,
        gate: TicketGate,
        config: Config,
        epoch: str,
        obstacle: Callable[[str], Awaitable[str]],
    ) -> None:
        self._obstacle = obstacle
        self._core = core
        self._storage = storage
        self._gate = gate
        self._config = config
        self._epoch = epoch
        self._streams: dict[int, _Stream] = {}
        self._encoded: tuple[ev.Message | None, Any] = (None, None)
        self._last_stream = 0
        self._timer: asyncio.TimerHandle | None = None
        self._started = time.monotonic()

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to answer for this service."""
        answers: dict[str, Callable[[Any], Any]] = {
            "Health": self._health,
            "GetCluster": self._get_cluster,
            "DrainNode": self._drain_node,
            "Locate": self._locate,
            "StartJob": self._start_job,
            "EndJob": self._end_job,
            "ListJobs": self._list_jobs,
            "ClaimActor": self._claim_actor,
            "FindActor": self._find_actor,
            "ListActors": self._list_actors,
            "FindGroup": self._find_group,
            "ListGroups": self._list_groups,
            "PutKey": self._put_key,
            "GetKey": self._get_key,
            "DeleteKey": self._delete_key,
        }
        rpcs: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for name, method in METHODS.items():
            parse, encode = method.request.FromString, method.response.SerializeToString
            if method.streaming:
                rpcs[name] = grpc.stream_stream_rpc_method_handler(self._connect, parse, encode)
            else:
                call = self._unary(method.path, answers[name])
                rpcs[name] = grpc.unary_unary_rpc_method_handler(call, parse, encode)
        return grpc.method_handlers_generic_handler(SERVICE, rpcs)

    def close(self) -> None:
        """End all streams; the nodes reconnect when a head is back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for stream in list(self._streams.values()):
            stream.put(_CLOSE)

    def handle(self, event: ev.Event) -> None:
        """Give an event to the core, and carry its effects out."""
        effects = self._core.handle(event, time.monotonic())
        self._storage.save(effects)
        for effect in effects:
            if isinstance(effect, ev.Send):
                self._send(effect)
            elif isinstance(effect, ev.CloseStream):
                stream = self._streams.get(effect.stream)
                if stream is not None and not stream.put(_CLOSE):
                    self._cut_off(stream)
            elif isinstance(effect, ev.Note):
                log.info("%s", effect.text)
        self._set_timer()

    # --- the stream ------------------------------------------------------------------------------

    async def _connect(
        self, requests: AsyncIterator[pb.NodeMessage], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        await self._admit(METHODS["Connect"].path, context)
        self._last_stream += 1
        stream = _Stream(self._last_stream, self._config.head_outbox_max)
        self._streams[stream.number] = stream
        reader = asyncio.ensure_future(self._read(stream, requests))
        try:
            while (message := await stream.outbox.get()) is not _CLOSE:
                await context.write(message)
        finally:
            del self._streams[stream.number]
            reader.cancel()
            self.handle(ev.StreamBreaks(stream.number))

    async def _read(self, stream: _Stream, requests: AsyncIterator[pb.NodeMessage]) -> None:
        registered = False
        try:
            async for message in requests:
                kind = message.WhichOneof("kind")
                if kind is None or (kind == "register") == registered:
                    raise ValueError("a stream starts with one Register, and known messages follow")
                if not registered:
                    await self._try_to_reach(message.register)
                registered = True
                self.handle(_event(stream.number, message))
        except (ValueError, DecodeError) as error:
            log.warning("head: a node's message makes no sense, its connection ends: %s", error)
            refused = ev.Refused(ev.REFUSED_INVALID, str(error))
            stream.put(codec.head_message(refused, self._storage.cluster_id, self._epoch))
        except Exception:
            log.exception("head: a fault of its own while it served a node; that connection ends")
        finally:
            if not stream.put(_CLOSE):
                self._cut_off(stream)

    async def _try_to_reach(self, register: pb.Register) -> None:
        """Raise ValueError if a node that is new cannot be reached where it says."""
        known = self._core.nodes.get(register.node_id)
        address = register.info.address
        if not address or (known is not None and known.incarnation == register.incarnation):
            return
        obstacle = await self._obstacle(address)
        if obstacle:
            raise ValueError(
                f"the head cannot reach this node at {address} ({obstacle}): open that port, or start the node with --host "
                "and an address of its machine that the head's machine can reach"
            )

    def _send(self, effect: ev.Send) -> None:
        stream = self._streams.get(effect.stream)
        if stream is None:
            return
        if effect.message is not self._encoded[0]:  # what goes to all nodes is encoded once
            message = codec.head_message(effect.message, self._storage.cluster_id, self._epoch)
            self._encoded = effect.message, message
        if not stream.put(self._encoded[1]):
            log.warning("head: a node reads too slowly; its connection ends (head_outbox_max)")
            self._cut_off(stream)

    def _cut_off(self, stream: _Stream) -> None:
        while not stream.outbox.empty():
            stream.outbox.get_nowait()
        stream.put(_CLOSE)

    # --- unary calls -----------------------------------------------------------------------------

    def _unary(self, path: str, answer: Callable[[Any], Any]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            await self._admit(path, context)
            try:
                return answer(request)
            except ValueError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        return call

    async def _admit(self, path: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        ticket = metadata_value(context.invocation_metadata(), TICKET_KEY)
        try:
            proof = self._gate.admit(path, ticket, int(time.time() * 1000))
        except TicketRefused as refusal:
            log.warning("head: refused %s from %s: %s", path, context.peer(), refusal)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(refusal))
        await context.send_initial_metadata(((PROOF_KEY, proof),))

    def _health(self, _request: pb.HealthRequest) -> pb.HealthReply:
        core = self._core
        return pb.HealthReply(
            cluster_id=self._storage.cluster_id,
            epoch=self._epoch,
            nodes_alive=sum(record.state == ev.ALIVE for record in core.nodes.live),
            nodes_dead=core.nodes.dead_count,
            objects=len(core.directory),
            uptime_ms=int((time.monotonic() - self._started) * 1000),
            recovering=core.recovering,
        )

    def _get_cluster(self, _request: pb.GetClusterRequest) -> pb.GetClusterReply:
        nodes = map(codec.node_message, self._core.views(time.monotonic()))
        return pb.GetClusterReply(cluster_id=self._storage.cluster_id, epoch=self._epoch, nodes=nodes)

    def _drain_node(self, request: pb.DrainNodeRequest) -> pb.DrainNodeReply:
        known = self._core.nodes.get(request.node_id) is not None
        self.handle(ev.DrainAsked(request.node_id, request.reason))
        return pb.DrainNodeReply(known=known)

    def _locate(self, request: pb.LocateRequest) -> pb.LocateReply:
        for object_id in request.ids:
            if len(object_id) != OBJECT_ID_SIZE:
                raise ValueError(f"an object id has {OBJECT_ID_SIZE} bytes, not {len(object_id)}")
        reply, room = pb.LocateReply(), self._config.locate_nodes_max
        for object_id in request.ids[: self._config.locate_ids_max]:
            entry = self._core.directory.get(object_id)
            if entry is None:
                reply.objects.add(known=False)
                continue
            copies, holders = sorted(entry.copies), sorted(entry.holders)
            room -= len(copies) + len(holders)
            if room < 0 and reply.objects:
                break
            reply.objects.add(known=True, size_bytes=entry.size_bytes, copies=copies, holders=holders)
        return reply

    def _start_job(self, request: pb.StartJobRequest) -> pb.StartJobReply:
        self.handle(codec.job_event(request.job))
        return pb.StartJobReply()

    def _end_job(self, request: pb.EndJobRequest) -> pb.EndJobReply:
        known = self._core.jobs.get(request.job_id) is not None
        self.handle(ev.JobEnds(request.job_id, request.state, request.message, time.time()))
        return pb.EndJobReply(known=known)

    def _list_jobs(self, _request: pb.ListJobsRequest) -> pb.ListJobsReply:
        return pb.ListJobsReply(jobs=map(codec.job_message, self._core.jobs.all()))

    def _claim_actor(self, request: pb.ClaimActorRequest) -> pb.ClaimActorReply:
        actor = codec.actor_of(request.actor)
        if not actor.name:
            raise ValueError("only a name can be claimed")
        self.handle(ev.ActorClaimed(actor))
        owner = self._core.actors.named(actor.namespace, actor.name)
        return pb.ClaimActorReply(actor=codec.actor_message(owner or actor))

    def _find_actor(self, request: pb.FindActorRequest) -> pb.FindActorReply:
        actors = self._core.actors
        actor_id = request.actor_id
        if not actor_id:
            owner = actors.named(request.namespace, request.name)
            actor_id = owner.actor_id if owner is not None else b""
        actor = actors.find(actor_id, request.node_id if self._core.nodes.get(request.node_id) else "")
        if actor is None:
            return pb.FindActorReply(known=False)
        return pb.FindActorReply(known=True, actor=codec.actor_message(actor))

    def _list_actors(self, _request: pb.ListActorsRequest) -> pb.ListActorsReply:
        return pb.ListActorsReply(actors=map(codec.actor_message, self._core.actors.all()))

    def _find_group(self, request: pb.FindGroupRequest) -> pb.FindGroupReply:
        state = self._core.groups.find(request.namespace, request.name)
        if state is None:
            return pb.FindGroupReply(known=False)
        return pb.FindGroupReply(known=True, group=codec.group_message(state))

    def _list_groups(self, _request: pb.ListGroupsRequest) -> pb.ListGroupsReply:
        return pb.ListGroupsReply(groups=map(codec.group_message, self._core.groups.views()))

    def _put_key(self, request: pb.PutKeyRequest) -> pb.PutKeyReply:
        stored = self._storage.put_key(request.key, request.value, only_new=request.only_new)
        return pb.PutKeyReply(stored=stored)

    def _get_key(self, request: pb.GetKeyRequest) -> pb.GetKeyReply:
        value = self._storage.get_key(request.key)
        return pb.GetKeyReply(known=value is not None, value=value or b"")

    def _delete_key(self, request: pb.DeleteKeyRequest) -> pb.DeleteKeyReply:
        return pb.DeleteKeyReply(known=self._storage.delete_key(request.key))

    # --- time ------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self.handle, ev.TimePasses())


def _event(stream: int, message: pb.NodeMessage) -> ev.Event:
    """The event that a node's message is; raises ValueError if it makes no sense."""
    match message.WhichOneof("kind"):
        case "register":
            return codec.registers_event(stream, message.register)
        case "report":
            return codec.reports_event(stream, message.report)
        case "groups":
            return codec.groups_event(stream, message.groups)
        case "actors":
            return codec.actors_event(stream, message.actors)
        case "kills":
            return codec.kills_event(stream, message.kills)
        case _:
            return ev.NodeLeaves(stream, message.goodbye.reason)
