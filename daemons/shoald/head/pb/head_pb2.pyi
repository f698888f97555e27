# mypy: disable-error-code="type-arg"
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeMessage(_message.Message):
    __slots__ = ("register", "report", "goodbye", "groups", "actors", "kills")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    register: Register
    report: Report
    goodbye: Goodbye
    groups: GroupNews
    actors: ActorReport
    kills: KillReport
    def __init__(self, register: _Optional[_Union[Register, _Mapping]] = ..., report: _Optional[_Union[Report, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., groups: _Optional[_Union[GroupNews, _Mapping]] = ..., actors: _Optional[_Union[ActorReport, _Mapping]] = ..., kills: _Optional[_Union[KillReport, _Mapping]] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("node_id", "incarnation", "info", "versions")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: str
    info: NodeInfo
    versions: Versions
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., info: _Optional[_Union[NodeInfo, _Mapping]] = ..., versions: _Optional[_Union[Versions, _Mapping]] = ...) -> None: ...

class Versions(_message.Message):
    __slots__ = ("protocol", "python_major", "python_minor")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PYTHON_MAJOR_FIELD_NUMBER: _ClassVar[int]
    PYTHON_MINOR_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    python_major: int
    python_minor: int
    def __init__(self, protocol: _Optional[int] = ..., python_major: _Optional[int] = ..., python_minor: _Optional[int] = ...) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("address", "hostname", "pid", "name", "resources", "labels", "store_capacity_bytes")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STORE_CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    address: str
    hostname: str
    pid: int
    name: str
    resources: _containers.ScalarMap[str, int]
    labels: _containers.ScalarMap[str, str]
    store_capacity_bytes: int
    def __init__(self, address: _Optional[str] = ..., hostname: _Optional[str] = ..., pid: _Optional[int] = ..., name: _Optional[str] = ..., resources: _Optional[_Mapping[str, int]] = ..., labels: _Optional[_Mapping[str, str]] = ..., store_capacity_bytes: _Optional[int] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("number", "gauges", "objects", "snapshot", "more")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    number: int
    gauges: Gauges
    objects: ObjectBatch
    snapshot: bool
    more: bool
    def __init__(self, number: _Optional[int] = ..., gauges: _Optional[_Union[Gauges, _Mapping]] = ..., objects: _Optional[_Union[ObjectBatch, _Mapping]] = ..., snapshot: _Optional[bool] = ..., more: _Optional[bool] = ...) -> None: ...

class Gauges(_message.Message):
    __slots__ = ("available", "store_used_bytes", "store_objects", "workers", "pending")
    class AvailableEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    STORE_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    available: _containers.ScalarMap[str, int]
    store_used_bytes: int
    store_objects: int
    workers: int
    pending: _containers.RepeatedCompositeFieldContainer[Demand]
    def __init__(self, available: _Optional[_Mapping[str, int]] = ..., store_used_bytes: _Optional[int] = ..., store_objects: _Optional[int] = ..., workers: _Optional[int] = ..., pending: _Optional[_Iterable[_Union[Demand, _Mapping]]] = ...) -> None: ...

class Demand(_message.Message):
    __slots__ = ("resources", "count", "reason")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.ScalarMap[str, int]
    count: int
    reason: str
    def __init__(self, resources: _Optional[_Mapping[str, int]] = ..., count: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ObjectBatch(_message.Message):
    __slots__ = ("born", "born_bytes", "hold", "release", "freed")
    BORN_FIELD_NUMBER: _ClassVar[int]
    BORN_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    FREED_FIELD_NUMBER: _ClassVar[int]
    born: bytes
    born_bytes: _containers.RepeatedScalarFieldContainer[int]
    hold: bytes
    release: bytes
    freed: bytes
    def __init__(self, born: _Optional[bytes] = ..., born_bytes: _Optional[_Iterable[int]] = ..., hold: _Optional[bytes] = ..., release: _Optional[bytes] = ..., freed: _Optional[bytes] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ActorReport(_message.Message):
    __slots__ = ("actors", "snapshot")
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    actors: _containers.RepeatedCompositeFieldContainer[Actor]
    snapshot: bool
    def __init__(self, actors: _Optional[_Iterable[_Union[Actor, _Mapping]]] = ..., snapshot: _Optional[bool] = ...) -> None: ...

class KillReport(_message.Message):
    __slots__ = ("number", "kills")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    number: int
    kills: _containers.RepeatedCompositeFieldContainer[Kill]
    def __init__(self, number: _Optional[int] = ..., kills: _Optional[_Iterable[_Union[Kill, _Mapping]]] = ...) -> None: ...

class Kill(_message.Message):
    __slots__ = ("actor_id", "reason")
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    actor_id: bytes
    reason: str
    def __init__(self, actor_id: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class Actor(_message.Message):
    __slots__ = ("actor_id", "namespace", "name", "class_name", "node_id", "state", "incarnation", "restarts_left", "restarts", "detached", "job_id", "driver_node", "placement", "strategy", "info", "reason", "details")
    class PlacementEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_LEFT_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DRIVER_NODE_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    actor_id: bytes
    namespace: str
    name: str
    class_name: str
    node_id: str
    state: str
    incarnation: int
    restarts_left: int
    restarts: int
    detached: bool
    job_id: str
    driver_node: str
    placement: _containers.ScalarMap[str, int]
    strategy: bytes
    info: bytes
    reason: str
    details: bytes
    def __init__(self, actor_id: _Optional[bytes] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., class_name: _Optional[str] = ..., node_id: _Optional[str] = ..., state: _Optional[str] = ..., incarnation: _Optional[int] = ..., restarts_left: _Optional[int] = ..., restarts: _Optional[int] = ..., detached: _Optional[bool] = ..., job_id: _Optional[str] = ..., driver_node: _Optional[str] = ..., placement: _Optional[_Mapping[str, int]] = ..., strategy: _Optional[bytes] = ..., info: _Optional[bytes] = ..., reason: _Optional[str] = ..., details: _Optional[bytes] = ...) -> None: ...

class GroupNews(_message.Message):
    __slots__ = ("snapshot", "held", "made", "wanted", "answers", "removed", "watched")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    snapshot: bool
    held: _containers.RepeatedCompositeFieldContainer[HeldBundles]
    made: _containers.RepeatedCompositeFieldContainer[Group]
    wanted: _containers.RepeatedCompositeFieldContainer[Group]
    answers: _containers.RepeatedCompositeFieldContainer[GroupAnswer]
    removed: _containers.RepeatedScalarFieldContainer[bytes]
    watched: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, snapshot: _Optional[bool] = ..., held: _Optional[_Iterable[_Union[HeldBundles, _Mapping]]] = ..., made: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., wanted: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., answers: _Optional[_Iterable[_Union[GroupAnswer, _Mapping]]] = ..., removed: _Optional[_Iterable[bytes]] = ..., watched: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("group_id", "name", "namespace", "strategy", "bundles", "detached", "job_id", "node_id")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    group_id: bytes
    name: str
    namespace: str
    strategy: str
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    detached: bool
    job_id: str
    node_id: str
    def __init__(self, group_id: _Optional[bytes] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., strategy: _Optional[str] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., detached: _Optional[bool] = ..., job_id: _Optional[str] = ..., node_id: _Optional[str] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("resources", "selector")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class SelectorEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.ScalarMap[str, int]
    selector: _containers.ScalarMap[str, str]
    def __init__(self, resources: _Optional[_Mapping[str, int]] = ..., selector: _Optional[_Mapping[str, str]] = ...) -> None: ...

class HeldBundles(_message.Message):
    __slots__ = ("group_id", "prepared", "committed")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    group_id: bytes
    prepared: _containers.RepeatedScalarFieldContainer[int]
    committed: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, group_id: _Optional[bytes] = ..., prepared: _Optional[_Iterable[int]] = ..., committed: _Optional[_Iterable[int]] = ...) -> None: ...

class GroupAnswer(_message.Message):
    __slots__ = ("group_id", "attempt", "ok", "reason")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    group_id: bytes
    attempt: int
    ok: bool
    reason: str
    def __init__(self, group_id: _Optional[bytes] = ..., attempt: _Optional[int] = ..., ok: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class HeadMessage(_message.Message):
    __slots__ = ("registered", "refused", "nodes", "acked", "free", "lost", "drain", "gauges", "groups", "actor", "host_actor", "kills_acked", "end_actor")
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    HOST_ACTOR_FIELD_NUMBER: _ClassVar[int]
    KILLS_ACKED_FIELD_NUMBER: _ClassVar[int]
    END_ACTOR_FIELD_NUMBER: _ClassVar[int]
    registered: Registered
    refused: Refused
    nodes: NodesChanged
    acked: Acked
    free: ObjectIds
    lost: ObjectIds
    drain: Drain
    gauges: GaugesChanged
    groups: GroupOrders
    actor: Actor
    host_actor: Actor
    kills_acked: KillsAcked
    end_actor: Actor
    def __init__(self, registered: _Optional[_Union[Registered, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., nodes: _Optional[_Union[NodesChanged, _Mapping]] = ..., acked: _Optional[_Union[Acked, _Mapping]] = ..., free: _Optional[_Union[ObjectIds, _Mapping]] = ..., lost: _Optional[_Union[ObjectIds, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., gauges: _Optional[_Union[GaugesChanged, _Mapping]] = ..., groups: _Optional[_Union[GroupOrders, _Mapping]] = ..., actor: _Optional[_Union[Actor, _Mapping]] = ..., host_actor: _Optional[_Union[Actor, _Mapping]] = ..., kills_acked: _Optional[_Union[KillsAcked, _Mapping]] = ..., end_actor: _Optional[_Union[Actor, _Mapping]] = ...) -> None: ...

class KillsAcked(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("cluster_id", "epoch", "nodes", "heartbeat_ms")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    heartbeat_ms: float
    def __init__(self, cluster_id: _Optional[str] = ..., epoch: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., heartbeat_ms: _Optional[float] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason", "message")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Refused.Reason]
        REASON_DEAD: _ClassVar[Refused.Reason]
        REASON_REPLACED: _ClassVar[Refused.Reason]
        REASON_VERSION: _ClassVar[Refused.Reason]
        REASON_INVALID: _ClassVar[Refused.Reason]
    REASON_UNSPECIFIED: Refused.Reason
    REASON_DEAD: Refused.Reason
    REASON_REPLACED: Refused.Reason
    REASON_VERSION: Refused.Reason
    REASON_INVALID: Refused.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: Refused.Reason
    message: str
    def __init__(self, reason: _Optional[_Union[Refused.Reason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class NodesChanged(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class Acked(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class GaugesChanged(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeGauges]
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeGauges, _Mapping]]] = ...) -> None: ...

class NodeGauges(_message.Message):
    __slots__ = ("node_id", "available", "store_used_bytes", "waiting")
    class AvailableEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    STORE_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    available: _containers.ScalarMap[str, int]
    store_used_bytes: int
    waiting: int
    def __init__(self, node_id: _Optional[str] = ..., available: _Optional[_Mapping[str, int]] = ..., store_used_bytes: _Optional[int] = ..., waiting: _Optional[int] = ...) -> None: ...

class GroupOrders(_message.Message):
    __slots__ = ("orders", "states")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[GroupOrder]
    states: _containers.RepeatedCompositeFieldContainer[GroupState]
    def __init__(self, orders: _Optional[_Iterable[_Union[GroupOrder, _Mapping]]] = ..., states: _Optional[_Iterable[_Union[GroupState, _Mapping]]] = ...) -> None: ...

class GroupOrder(_message.Message):
    __slots__ = ("kind", "group_id", "attempt", "indices", "bundles")
    KIND_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    group_id: bytes
    attempt: int
    indices: _containers.RepeatedScalarFieldContainer[int]
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    def __init__(self, kind: _Optional[str] = ..., group_id: _Optional[bytes] = ..., attempt: _Optional[int] = ..., indices: _Optional[_Iterable[int]] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ...) -> None: ...

class GroupState(_message.Message):
    __slots__ = ("group", "state", "reason", "nodes")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    group: Group
    state: str
    reason: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, group: _Optional[_Union[Group, _Mapping]] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class ObjectIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: bytes
    def __init__(self, ids: _Optional[bytes] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("node_id", "incarnation", "info", "state", "reason", "draining", "silent_ms", "gauges")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: str
    info: NodeInfo
    state: str
    reason: str
    draining: bool
    silent_ms: int
    gauges: Gauges
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., info: _Optional[_Union[NodeInfo, _Mapping]] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., draining: _Optional[bool] = ..., silent_ms: _Optional[int] = ..., gauges: _Optional[_Union[Gauges, _Mapping]] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthReply(_message.Message):
    __slots__ = ("cluster_id", "epoch", "nodes_alive", "nodes_dead", "objects", "uptime_ms", "recovering")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODES_ALIVE_FIELD_NUMBER: _ClassVar[int]
    NODES_DEAD_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    RECOVERING_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: str
    nodes_alive: int
    nodes_dead: int
    objects: int
    uptime_ms: int
    recovering: bool
    def __init__(self, cluster_id: _Optional[str] = ..., epoch: _Optional[str] = ..., nodes_alive: _Optional[int] = ..., nodes_dead: _Optional[int] = ..., objects: _Optional[int] = ..., uptime_ms: _Optional[int] = ..., recovering: _Optional[bool] = ...) -> None: ...

class GetClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetClusterReply(_message.Message):
    __slots__ = ("cluster_id", "epoch", "nodes")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, cluster_id: _Optional[str] = ..., epoch: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class DrainNodeRequest(_message.Message):
    __slots__ = ("node_id", "reason")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    reason: str
    def __init__(self, node_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DrainNodeReply(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: bool
    def __init__(self, known: _Optional[bool] = ...) -> None: ...

class LocateRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, ids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LocateReply(_message.Message):
    __slots__ = ("objects",)
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[LocatedObject]
    def __init__(self, objects: _Optional[_Iterable[_Union[LocatedObject, _Mapping]]] = ...) -> None: ...

class LocatedObject(_message.Message):
    __slots__ = ("known", "size_bytes", "copies", "holders")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    known: bool
    size_bytes: int
    copies: _containers.RepeatedScalarFieldContainer[str]
    holders: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, known: _Optional[bool] = ..., size_bytes: _Optional[int] = ..., copies: _Optional[_Iterable[str]] = ..., holders: _Optional[_Iterable[str]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "node_id", "name", "namespace", "pid", "state", "message", "started_s", "ended_s")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STARTED_S_FIELD_NUMBER: _ClassVar[int]
    ENDED_S_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    node_id: str
    name: str
    namespace: str
    pid: int
    state: str
    message: str
    started_s: float
    ended_s: float
    def __init__(self, job_id: _Optional[str] = ..., node_id: _Optional[str] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., message: _Optional[str] = ..., started_s: _Optional[float] = ..., ended_s: _Optional[float] = ...) -> None: ...

class StartJobRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class StartJobReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndJobRequest(_message.Message):
    __slots__ = ("job_id", "state", "message")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    state: str
    message: str
    def __init__(self, job_id: _Optional[str] = ..., state: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class EndJobReply(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: bool
    def __init__(self, known: _Optional[bool] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListJobsReply(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class PutKeyRequest(_message.Message):
    __slots__ = ("key", "value", "only_new")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    only_new: bool
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., only_new: _Optional[bool] = ...) -> None: ...

class PutKeyReply(_message.Message):
    __slots__ = ("stored",)
    STORED_FIELD_NUMBER: _ClassVar[int]
    stored: bool
    def __init__(self, stored: _Optional[bool] = ...) -> None: ...

class GetKeyRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class GetKeyReply(_message.Message):
    __slots__ = ("known", "value")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    known: bool
    value: bytes
    def __init__(self, known: _Optional[bool] = ..., value: _Optional[bytes] = ...) -> None: ...

class DeleteKeyRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class DeleteKeyReply(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: bool
    def __init__(self, known: _Optional[bool] = ...) -> None: ...

class ClaimActorRequest(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: Actor
    def __init__(self, actor: _Optional[_Union[Actor, _Mapping]] = ...) -> None: ...

class ClaimActorReply(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: Actor
    def __init__(self, actor: _Optional[_Union[Actor, _Mapping]] = ...) -> None: ...

class FindActorRequest(_message.Message):
    __slots__ = ("actor_id", "namespace", "name", "node_id")
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    actor_id: bytes
    namespace: str
    name: str
    node_id: str
    def __init__(self, actor_id: _Optional[bytes] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., node_id: _Optional[str] = ...) -> None: ...

class FindActorReply(_message.Message):
    __slots__ = ("known", "actor")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    known: bool
    actor: Actor
    def __init__(self, known: _Optional[bool] = ..., actor: _Optional[_Union[Actor, _Mapping]] = ...) -> None: ...

class ListActorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListActorsReply(_message.Message):
    __slots__ = ("actors",)
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    actors: _containers.RepeatedCompositeFieldContainer[Actor]
    def __init__(self, actors: _Optional[_Iterable[_Union[Actor, _Mapping]]] = ...) -> None: ...

class FindGroupRequest(_message.Message):
    __slots__ = ("name", "namespace")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class FindGroupReply(_message.Message):
    __slots__ = ("known", "group")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    known: bool
    group: GroupState
    def __init__(self, known: _Optional[bool] = ..., group: _Optional[_Union[GroupState, _Mapping]] = ...) -> None: ...

class ListGroupsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGroupsReply(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[GroupState]
    def __init__(self, groups: _Optional[_Iterable[_Union[GroupState, _Mapping]]] = ...) -> None: ...
