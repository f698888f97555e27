"""The messages, as tags. A message is a list (msgpack) or tuple (pickle) that starts with its tag.

Conventions: `proc` is the 8-byte id of a client process (it begins with its node's tag, see ids); `ids` is a concatenation of 16-byte object ids;
sizes and offsets are bytes within the region; `req` is a number the asker chose, repeated in the answer.

**Order.** Messages from one client to the daemon are numbered from 1 (HELLO is 1). What travels another way
and depends on them carries a *stamp* `(proc, number)`: the daemon parks it until it has processed that
stream so far, or that stream has ended.

**Holds.** The daemon counts holds per (object, holder); a holder is a process (8 bytes) or a container object
(16 bytes). Whoever hands a ref over registers the receiver's hold in its own stream *before* it releases
its own: so nothing can be freed on the way, whatever the order between streams. The receiver's release may
therefore arrive first, and a count may be negative for a moment; an object is freed when its holds sum
up to nothing, per holder, and no process pins it.
"""

# --- client → node daemon (msgpack) -------------------------------------------------------------

HELLO = 1  # [proc, kind "driver"|"worker"|"cli", pid, info: dict]   → WELCOME
# info of a driver: {"namespace", "sys_path", "cwd", "argv0", "log_to_driver"}; of a worker: {"worker_id"}

# Store
ALLOC = 10  # [req, size_min, size_wanted, ways?] → EXTENT | ALLOC_FAILED. Leases an extent to the client. Ways: ALLOC_…
EXTENT_RETURN = 11  # [offset, size]: a leased (part of an) extent that will not be used
SEAL = 12  # [id, offset, size, contained ids, flags, holder proc, callsite: str, content hash: 16 B or b""]
#   The object takes [offset, offset+size rounded up to 64) out of the sender's leased extent. One hold for `holder`.
HOLD = 13  # [holder proc, ids]: one more hold each, for that process (unknown or dead process: ignored)
RELEASE = 14  # [ids]: the sender drops one hold each (an id may be repeated)
#   [ids, kept]: it has so many holds of each; those that others registered for it besides, and have not told it of, go
PIN = 15  # [req, id, stamp proc, stamp number, priority] → PINNED | PIN_FAILED (parked while the object is pending)
UNPIN = 16  # [ids]: the sender has no views into them any more
WATCH = 17  # [id, stamp proc, stamp number] → AVAILABLE, once, when it is sealed (on whatever node), failed or lost
#   [id, stamp proc, stamp number, priority]: the same, when it is in this node's store; it is fetched to here
EXPECT = 18  # [ids]: the sender will seal these later (a pending ref that escaped); dies with the sender
DEDUP = 19  # [req, content hash, size] → DEDUP_FOUND; takes a hold for the sender in the same step
FORK = 20  # [] + descriptor: the sender forks; its live pins stay until the read end of this pipe closes
UNRECOVERABLE = 21  # [id, kind as in PIN_FAILED, why]: the answer to RECOVER if nothing will come; otherwise EXPECT, and the seal in time
#   [ids, "full", why]: there is no room for values whose refs the sender has given away; not asked, and not for ever
PIN_TOGETHER = 22  # [[id, stamp proc, stamp number, id, …], priority]: PINNED or PIN_FAILED for each, with req 0; those that are in
#   this store are answered when all of them can be pinned: two readers that each hold half of what they need would wait for ever

ALLOC_FILE = 23  # [req, size]: after ALLOC_FAILED → FILE_LENT | ALLOC_FAILED. A file for one object, for lack of memory
FILE_RETURN = 24  # [number]: a lent file that will not be used
#   [number, times]: one that PINNED_IN_FILE has named so often: no part of it is mapped any more
SEAL_IN_FILE = 25  # [number, proof, id, size, contained ids, flags, holder proc, callsite, content hash]: as SEAL, of a lent file
#   proof: a checksum, or below zero the file's time (store.proofs)
UNEXPECT = 26  # [ids]: announced by the sender (EXPECT), and sealed on a node that died: if it did not say so, it never will
FILE_DAMAGED = 27  # [id, path, why]: what PINNED_IN_FILE named is not what was written; the sender asks for the object again
SEAL_RUN = 28  # [ids, offset, sizes, flags, holder proc, callsites]: SEAL of several that contain nothing, one after the other from
#   offset on, each padded to 64 bytes
FILE_STALLED = 29  # [number, ms]: a lent file has taken nothing for so long; it is returned when the sender's write ends

PRIORITY_GET = 0  # of a PIN whose object has to be fetched: somebody waits for it,
PRIORITY_WAIT = 1  # somebody will,
PRIORITY_ARGUMENT = 2  # a task needs it before it can start;
PRIORITY_ASK = 3  # between nodes: nobody wants the object, only to know whether it is there (WATCH)

# Tasks
DEMAND = 30  # [shape_id, resources: {name: units of 1/10,000}, backlog, options: dict]: how many leases the sender
#   could use now for this shape. Declarative: the newest counts; backlog 0 withdraws, for which the shape_id is enough.
#   options: {"name": function name, "depth": nesting depth} and where it may run (shoald.node.constraints): {"labels":
#   conditions (wire.labels), "prefer": tag of the node with most bytes of the arguments, "prefer_bytes",
#   "strategy": "SPREAD" | ["affinity", node id, soft]
#   | ["labels", hard, soft] | ["group", group id, bundle or -1, capture children]}. "env": the key of its runtime_env
RETURN = 31  # [lease_id, state RETURN_*]
BLOCKED = 32  # [bool]: a worker's task waits (its resources are lent out), or goes on
KILL_WORKER = 33  # [lease_id, reason, task id]: cancel with force; without an effect if the worker runs another task
WORKER_NOTE = 34  # [dict]: what a worker is doing, for people (task name, since)

# Questions
REQUEST = 40  # [req, method, params: dict] → RESPONSE. Methods: see shoald.node.requests
ANSWER = 41  # [req, data]: the answer to a QUERY
GOODBYE = 42  # []: a driver leaves in order; the daemon answers GOODBYE_OK after its worker output is forwarded
CANCEL_TASK = 43  # [object id, force, recursive]: from one who has a ref, for the process that submitted its task
TIMELINE = 44  # [pid, rows]: from a worker that ends: what it ran (shoal.client.timeline)
COUNTED = 45  # [{"submitted", "finished", "failed", "retried"}]: from a process that ends: its tasks since its start

RETURN_OK = 0
RETURN_RECYCLE = 1  # the worker is used up (max_calls) and ends
RETURN_BROKEN = 2  # the connection to the worker broke

SEAL_PINNED = 1  # the sender keeps a (cached) pin
SEAL_ERROR = 2  # the value is an exception
SEAL_PRIMARY = 4  # the first copy (not one that was pulled)

ALLOC_KEEPS = 1  # until the answer the sender gives up no ref (one thread, which waits, and no task under way)
ALLOC_OR_FILE = 2  # rather a file (ALLOC_FILE) than a long wait

# Actors. `actor` is the 16-byte id of the actor's lifetime object, which its creator has sealed before.
CREATE_ACTOR = 50  # [req, actor, info: dict] → RESPONSE unless req is 0; data: {"actor", "table"} of the actor that has the name
# info: {"name", "namespace", "class", "resources", "placement", "constraints", "max_restarts", "detached",
#   "get_if_exists", "table": bytes}
#   `table` is opaque (what callers need to make a handle); amounts in units of 1/10,000. The creator is connected by this.
CONNECT_ACTOR = 51  # [actor, incarnation]: → ACTOR_PEER with a newer connection, when there is one, and ACTOR_STATE at changes
DISCONNECT_ACTOR = 52  # [actor]: the sender has no handle any more
KILL_ACTOR = 53  # [req, actor, no_restart: bool] → RESPONSE when nothing can undo it any more; data: whether the head has said so
ACTOR_READY = 54  # a worker: [actor]: the constructor has returned
ACTOR_FAILED = 55  # a worker: [actor, error: bytes]: the constructor raised; the error is opaque, for callers
ACTOR_EXITS = 56  # a worker: [actor, reason]: it ends on purpose (exit_actor), and is not restarted

# Placement groups. `group` is a 16-byte id that its maker chose.
CREATE_GROUP = 60  # [req, group, info: dict] → GROUP_STATE; with a name also RESPONSE, once the head has given that
#   info: {"name", "namespace", "strategy", "bundles": [{name: units of 1/10,000}], "detached",
#     "selectors": [{label: text} for each bundle, or nothing]}
REMOVE_GROUP = 61  # [group]
WATCH_GROUP = 62  # [group] → GROUP_STATE

# --- node daemon → client (msgpack) -------------------------------------------------------------

WELCOME = 101  # [info: dict] + descriptors (region read-only, region writable)
#   {"node_id", "session_dir", "capacity", "job_id", "address", "resources", "session", "namespace", "head"}
EXTENT = 110  # [req, offset, size]
ALLOC_FAILED = 111  # [req, kind "full"|"never"|"disk"|"file", message]; file: one can be had at once (ALLOC_OR_FILE)
PINNED = 115  # [req, id, offset, size, flags]
PINNED_MANY = 112  # [ids, offsets, sizes, flags]: as many PINNED with req 0, of what came together
PIN_FAILED = 116  # [req, id, kind "lost"|"freed"|"owner_died"|"full"|"disk"|"unrecoverable", message]
FILE_LENT = 113  # [req, number, path]: a file to write one object into; what it has is of no use
PINNED_IN_FILE = 114  # [req, id, path, offset, size, flags, proof, number]: it can be read in this file, for lack of room → FILE_RETURN
UNPIN_RECALL = 117  # [ids]: unpin them as soon as no view lives (at once for cached pins)
EXTENT_RECALL = 118  # []: return unused leased extents
AVAILABLE = 119  # [id, size, flags, error message or ""]
DEDUP_FOUND = 120  # [req, id or b"", offset, size]
NODE_DIED = 122  # [node_id]: another node is dead, and with it what small results from there were sealed in (see RESULT_INLINE)
RECOVER = 121  # to an owner: [id]: somebody wants to read it, and no copy is left → EXPECT | UNRECOVERABLE

GRANT = 130  # [shape_id, lease_id, worker proc, worker pid, resources, node_id of the worker, whether with TLS] + descriptor of the task connection
RECALL_LEASE = 131  # [lease_id]: return it when its tasks are done, send no new ones
WORKER_DIED = 132  # [lease_id, exit_code, signal, current task id 16 B, message, facts]: confirmed; the lease is gone
#   facts: {} or {"kind": "memory", "used_bytes", "limit_bytes"}: it was ended because memory was short
DEMAND_STATUS = 133  # [shape_id, kind "ok"|"infeasible"|"limit"|"never", message]: the last two fail what waits
PEER = 134  # to a worker: [lease_id, submitter proc, job_id, resources, submitter kind, group, whether with TLS, and but to an actor the numbers of the lease's GPUs] + descriptor of the task connection
#   group: None, or [placement group, bundle or -1, capture children] that its tasks belong to
EXIT = 135  # to a worker: finish nothing more, end; or [True]: an actor begins nothing more, and ends after the calls that run
CANCEL_ASKED = 136  # [object id, force, recursive]: a CANCEL_TASK for a task of this process

RESPONSE = 140  # [req, ok: bool, data or error message]
QUERY = 141  # [req, what, params] → ANSWER
LOG = 142  # to a driver: [[task name, pid, node, stream "stdout"|"stderr", lines: list[str]], …]
GOODBYE_OK = 143
JOB_ENDED = 144  # to a worker: its driver is gone

ACTOR_PEER = 150  # to a caller: [actor, incarnation, worker proc, worker pid, whether with TLS] + descriptor of the connection to its process
ACTOR_STATE = 151  # to a caller: [actor, "restarting"|"dead"|"pending", details: dict ("restarting": with the incarnation that ended)]
#   details: {"reason", "name", "node", "pid", "exit_code", "signal", "current": id of the call started last,
#   "unmade": no call ran: its constructor had not returned, or it left in peace, "error": bytes}
LEFT = b"\xff" * 16  # in the status word of an actor's process: it left (EXIT [True]), and all calls that it began are answered
BECOME_ACTOR = 152  # to an idle worker: [actor, {"name", "namespace", "class", "restarts", "job_id", "resources", "group", "gpus"}]; PEERs follow
CALLER_LEFT = 153  # to an actor: [proc]: this caller has no handle any more, or is dead; what it had sent and has not started does not run

GROUP_STATE = 160  # [group, state "CREATED"|"REMOVED"|"PENDING"|"RESCHEDULING", reason, node id of each bundle or ""]
#   to who made or watches it, once: when it is created or over; before, if no node can ever have it

# --- submitter → worker (one pickle per frame: a list of tuples) --------------------------------

JOB = 200  # (job: dict) first on every connection: {"job_id", "namespace", "sys_path", "cwd", "caller", "runtime_env"}
#   to an actor also "session": a number that the caller chose for this stream of calls
FUNCTION = 201  # (function id, blob, name) before its first TASK on this connection; (…, stamp, stamps) if it captured refs
TASK = 202  # (task id, function id, args payload, arg refs, options or None); see shoal.owner.spec
CANCEL = 203  # (task id, force, recursive)
TAKE_BACK = 204  # (how many): give back that many unstarted tasks, newest first
CONSUMED = 205  # (task id, count): items of a generator the reader has taken
FORGET = 206  # (function id): no task of it follows; the worker lets go of the refs that it captured
RESUME = 207  # (session, frames heard) to an actor, instead of JOB: the caller lost its connection and goes on → RESUMED
HEARD = 208  # (frames) to an actor: how many frames of replies its caller has heard in all; it need not keep them
LEAVE = 209  # () to an actor: its caller has no handle any more

# --- worker → submitter -------------------------------------------------------------------------

DONE = 220  # (task id, results, kept ids, run time µs)
FAILED = 221  # (task id, error blob, container, kept ids, cancelled)
#   container: (id, stamp): an object that holds the refs inside the error, sealed with a hold for the submitter; id is b"" if there
#   are none; nothing of the task is sealed after stamp. () if nothing was sealed at all.
GIVEN_BACK = 222  # ([task ids]) not started, and never will be here
ITEM = 223  # (task id, index, result): a streaming generator yielded
RUNNING = 224  # (task id) it has started and takes long: send nothing more meanwhile
USED_UP = 225  # () the worker has run its last task (max_calls)
RESUMED = 226  # (calls) from an actor, in a frame of its own: how many it has received; -1: it does not know the caller any more
NOT_BEGUN = 227  # ([task ids]) from an actor that leaves: these calls never begin in this process; the next one gets them

# A result is plain bytes (an inline value without refs), or one of:
RESULT_INLINE = 0  # (RESULT_INLINE, bytes, stamp): also sealed with a hold for the submitter; the refs inside ride on that
RESULT_STORED = 1  # (RESULT_STORED, size, stamp): sealed with a hold for the submitter
# stamp: (proc, number). The one result of a streaming generator is (RESULT_INLINE, bytes, (), None, number of items).
# What was sealed before a worker died without telling is found by its id: the submitter asks (WATCH) and drops its hold. So an
# id under a task is only ever sealed by a run of that task; an error's container has return index ERROR_INDEX - attempt.
ERROR_INDEX = 2**32 - 1

# --- node daemon ↔ node daemon (msgpack) --------------------------------------------------------
# Of the connections between two nodes each carries one direction: opened by the sender, who says P_HELLO; the other end
# answers P_READY and P_ACK. Everything below P_STREAM's numbers travels inside P_STREAM (shoald.node.peerstream).

P_HELLO = 300  # [node_id, incarnation, node_id of the one meant]
P_READY = 301  # [number]: all messages up to this one have been handled; send what follows
P_STREAM = 302  # [number of the first, messages]
P_ACK = 303  # [number]: all up to this one have been handled
P_REFUSED = 304  # [reason, final: bool]: final if the sender is dead to this node

P_PING = 305  # [number] → P_PONG
P_PONG = 306  # [number]

# Leases and jobs. `proc` is a submitter, a client of the node that sends P_DEMAND and P_FROM_CLIENT; lease ids are the lender's.
P_DEMAND = 310  # [proc, kind "driver"|"worker", job: dict, shape_id, resources, backlog, options]: as DEMAND, for leases there
#   job: {"id", "node": of its driver, "namespace", "log_to_driver"}; here also "submitter": what to call the process
P_LEASE = 311  # [proc, shape_id, lease_id, worker proc, worker pid, resources, token 16 B]: connect to the worker (KIND_TASKS, token)
P_FROM_CLIENT = 312  # [proc, message]: a RETURN or KILL_WORKER for a lease there
P_FOR_CLIENT = 313  # [proc, message]: a RECALL_LEASE, WORKER_DIED or DEMAND_STATUS
P_CLIENT_LEFT = 314  # [proc]: as if each of its leases were ended
P_JOB_ENDED = 315  # [job_id]: from its driver's node → P_JOB_GONE
P_JOB_GONE = 316  # [job_id]: no worker of it is left there, and all they wrote has been sent
P_LOG = 317  # [job_id, entries as in LOG, size]: for its driver → P_LOG_TAKEN
P_LOG_TAKEN = 318  # [job_id, size]: the driver has room for more
P_CANCEL = 319  # [object id, force, recursive]: a CANCEL_TASK for the owner, a process there
P_TAKE = 320  # [ids]: the sender leaves, and has the only copies of these → P_TAKEN for each
P_TAKEN = 321  # [ids]: they are here now, and the head knows; or they cannot be had

# References. `seq` numbers P_HOLD and P_SEALED of one sender; until P_HELD the sender holds the ids itself.
P_HOLD = 330  # [seq, proc, ids]: refs were handed to that process of the receiving node
P_SEALED = 331  # [seq, proc, [id, size, flags, …]]: the same, and the sender has just sealed these
P_HELD = 332  # [seq]: all up to this one are held by the receiver, and the head knows it, or nobody there holds them any more

# Fetches. `req` is a number of the reading node; `copy` names the bytes: two runs of a task may have made different ones.
P_FETCH = 350  # [req, ids, stamp procs, stamp numbers, priority, copy or b""] → P_FETCHED | P_FETCH_FAILED, when it is there
#   The second id has number req + 1, and so on. Of several ids, those that P_PARCELs bring at once are not answered otherwise.
#   With a copy: only what is here of exactly that, now, be it a part. With priority PRIORITY_ASK: is there one? nothing is pinned.
NOWHERE = 1  # the stamp number of a P_FETCH without a process, to the owner's node: nobody whom the reader knows has it
P_FETCHED = 351  # [req, size, flags, contained ids, copy, callsite, content hash, chunk size, have, order, holders: list of node ids]
#   The chunks are there to be asked for, until P_FETCH_DONE. have: bit per chunk, lowest first, b"": all. copy is b"": only told.
#   order: how many readers came before (where to start, so that they can help each other); holders: of the same copy, or parts.
P_FETCH_FAILED = 352  # [req, kind "lost"|"freed"|"owner_died"|"elsewhere", message, node ids]: not here, or not any more
P_FETCH_DONE = 353  # [list of reqs, complete: bool]: the reader needs them no longer; whether it has all of each now
P_CHUNKS = 354  # [req, have]: more of a part has come
P_HOLDERS = 355  # [req, node ids]: others who have some of that copy
P_PARCEL = 356  # [req of the P_FETCH, positions, sizes, copies, call sites, last: bool]: these of its ids are here, small, and
#   nothing but bytes. All of them are chunk 0 of req + the first position: one after the other, each padded to 64 bytes.

# Questions of people
P_QUERY = 390  # [req, method, params] → P_ANSWER. Methods: see shoald.node.requests
P_ANSWER = 391  # [req, ok: bool, data or error message]

# Actors. A caller is a process of the node that sends; a host is the node that runs the actor.
P_ACTOR_HOST = 370  # [actor, info, facts]: host it from now on (shoald.node.actorcluster)
P_ACTOR_CONNECT = 371  # [actor, caller, kind, incarnation that it lost its connection to] → P_ACTOR_PEER, P_ACTOR_TOLD | P_ACTOR_UNKNOWN
P_ACTOR_DISCONNECT = 372  # [actor, caller]
P_ACTOR_PEER = 373  # [caller, actor, incarnation, worker proc, worker pid, token]: connect to the worker, as for P_LEASE
P_ACTOR_TOLD = 374  # [caller, message]: an ACTOR_STATE
P_ACTOR_UNKNOWN = 375  # [actor]: this node does not host it
P_ACTOR_KILL = 376  # [actor, no_restart, reason]
P_ACTOR_GIVE = 377  # [req, actor, process]: give that process of the sender's node a hold on it → P_ACTOR_GIVEN
P_ACTOR_GIVEN = 378  # [req, table: bytes; b"": not known here (yet), None: it has ended]
