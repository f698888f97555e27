"""Every bound and window of the runtime, by name (R7), with what happens at the bound.

Values are read once per process. A test or an operator overrides one through ``SHOAL_<NAME>`` in
the environment, or ``init(_system_config={"name": value})`` for the cluster that init starts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3
TLS_MODES = ("auto", "on", "off")
# Refs, entries, tasks and what modules define are many, long-lived, and in few cycles: looking for cycles among them at every
# 700th new object cost a fifth of the time of submitting, a tenth of a daemon's, and a tenth of the imports of a start.
GC_THRESHOLD = (50_000, 20, 20)


# With a constructor of its own: one with so many arguments takes 4 ms to generate, in every process that starts.
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Config:
    """Limits of one process; sizes in bytes, times in the unit that the name ends with.

    Raises TypeError for a name that does not exist.
    """

    # A value up to this size stays in its owner's memory and rides in messages; beyond, the store.
    inline_bytes_max: int = 100 * KIB
    # Inline arguments of one task together, and values of refs among them together; beyond, the largest go to the store.
    inline_args_bytes_max: int = 8 * MIB
    # A function with what it captured; beyond, `.remote` raises ValueError. From the second size on it warns once.
    function_bytes_max: int = 96 * MIB
    function_warning_bytes: int = 8 * MIB
    # A batch of messages to or from a worker is cut into frames of this size, unless one message is longer.
    batch_bytes_max: int = 16 * MIB
    # A longer frame closes the connection: nothing in the protocol needs one.
    frame_bytes_max: int = 256 * MIB
    # Outgoing bytes that may wait for one peer: of the daemon, then a `put` waits; of a worker or actor, then tasks wait at their
    # submitter (one batch more was sent); of a client of the daemon, then its connection closes.
    outbox_bytes_max: int = 64 * MIB
    # Bytes that a submitter and its worker may each send ahead of the other, in the kernel (net.core.wmem_max may allow less).
    task_socket_bytes: int = 1 * MIB
    # How long a waiting thread polls before it blocks.
    poll_us: int = 50
    # Backup thread and watchdog tick while there is activity; parked otherwise.
    tick_ms: float = 2.0
    # A worker holds finished replies at most this long while more tasks follow.
    reply_delay_us: int = 500
    # Tasks sent ahead to one worker, at most; the window follows the function's measured time.
    window_tasks_max: int = 512
    # Work sent ahead to one worker, as time.
    window_ms: float = 5.0
    # A lease without work goes back to the daemon after this time (or at once when recalled).
    lease_idle_ms: float = 500.0
    # In-place execution of own unstarted children inside a blocked get: nesting in one process.
    inline_depth_max: int = 40
    # Tasks nested at least so deep run children in place also in waits with a timeout, which is noticed late then; nearer to the
    # driver timeouts are exact, and each level takes a process.
    inline_timed_depth_min: int = 8
    # Memory of the machine or of this process's cgroup in use, as a share, above which workers are ended (0 ms: no watch);
    # how often it is read while workers run something, how long it must last, and the pause after the end of one.
    memory_usage_share_max: float = 0.95
    memory_monitor_ms: float = 250.0
    memory_patience_ms: float = 500.0
    memory_settle_ms: float = 500.0
    # Tasks like one that was ended for lack of memory are not started beside others until what it had is free, but for so long at
    # most; then they are tried anyway. Shapes of tasks of which that is remembered; beyond, the oldest is forgotten.
    memory_room_ms_max: float = 600_000.0
    memory_room_shapes_max: int = 1000
    # What processes can fill in a second at most: it is read more often when that much less is left.
    memory_fill_bytes_per_s: float = 4e9
    # What the processes and the store of one node may use together, if that is less than the machine has; 0: what there is.
    memory_limit_bytes: int = 0
    # Processes of one node above its CPUs, for tasks whose parents are blocked; beyond, PlacementError.
    blocked_workers_max: int = 256
    # Calls sent to one actor by one process and not answered; later ones wait at their caller.
    actor_calls_sent_max: int = 10_000
    # Dead actors that a node remembers, to say why they died; of older ones it only says that they are gone.
    # As many that went on to other nodes, in case the head has not heard of it.
    dead_actors_max: int = 1000
    # Killed actors that a head remembers until their host has confirmed the end, and a node until it hears of the actor or the
    # head has confirmed the kill; beyond, the oldest is forgotten: it could come back if its host dies at the wrong moment.
    actor_kills_max: int = 10_000
    # `shoal.kill` waits so long for a head that does not answer; the node goes on telling it. So does `get_actor` for a name of
    # its own node, which the head is asked about since the kill may be on its way.
    actor_kill_ms_max: float = 2000.0
    # A connection to an actor that the node has not heard of yet: its creation may be on its way for this long.
    actor_unknown_ms: float = 5000.0
    # The head is asked again after this time for an actor that it does not know (yet), or whose host does not.
    actor_ask_again_ms: float = 100.0
    # The host of a named actor is asked for a handle; it answers within this time, or dies.
    actor_give_ms_max: float = 30_000.0
    # A caller whose connection to an actor broke gets another one after this time, unless the actor turns out to be dead; and
    # after twice the time, up to the second, if that breaks again soon.
    actor_reconnect_ms: float = 5.0
    actor_reconnect_ms_max: float = 500.0
    # A caller that comes back to a living actor within this time goes on where it was; later its calls are in doubt.
    actor_resume_ms: float = 30_000.0
    # Callers without a connection that an actor remembers; beyond, the one that left first is forgotten.
    actor_parked_callers_max: int = 1000
    # Connections of one caller to one actor that break in a row, with nothing heard; then its calls are in doubt.
    actor_resumes_max: int = 20
    # A caller tells the actor what it has heard after so many frames or bytes; until then the actor keeps them.
    actor_frames_unheard_max: int = 64
    actor_bytes_unheard_max: int = 256 * KIB
    # A get that waits longer than this says once what it waits for.
    get_warning_s: float = 10.0
    # Finished tasks remembered per process for `list tasks`; older ones are forgotten.
    finished_tasks_max: int = 1000
    # What is kept to make lost results again (arguments of tasks, not objects); beyond, the oldest is dropped.
    lineage_bytes_max: int = 256 * MIB
    # Of these, objects to which this process refers no more, but others may.
    lineage_orphans_max: int = 10_000
    # Unread items of a streaming generator before its producer waits.
    generator_backlog_max: int = 64
    # Client extents: smallest and largest slab leased ahead of need.
    slab_bytes_min: int = 1 * MIB
    slab_bytes_max: int = 64 * MIB
    # Share of the store that all clients together may lease ahead of need; beyond, each gets what it needs at once, and no more.
    lease_ahead_share: float = 0.125
    # Tasks of one graph of Dask that are submitted ahead: their results together, as a share of this node's store; how many while
    # nothing is known of these; how many in any case; how many at most. At the bound the submitter waits.
    dask_window_store_share: float = 0.125
    dask_window_first: int = 16
    dask_window_tasks_per_cpu_min: float = 2.0
    dask_window_tasks_max: int = 4096
    # Freed memory that a driver keeps at the end of its heap; beyond, it goes back to the system.
    heap_kept_bytes_max: int = 32 * MIB
    # The same of a worker, for the arrays of its next task; without work it gives all of that back after this time.
    worker_heap_kept_bytes_max: int = 256 * MIB
    worker_heap_idle_ms: float = 500.0
    # Store pages populated ahead of demand, at most.
    populate_ahead_bytes_max: int = 1 * GIB
    # And not before nothing has come from other nodes, or gone there, for this long.
    populate_lull_ms: float = 250.0
    # Pages populated ahead that nobody needed for this long are given back.
    populate_idle_ms: float = 30_000.0
    # Whoever waits for room in a store is refused (ObjectStoreFullError) this long after relief last made progress.
    store_full_wait_ms: float = 3000.0
    # And after this time in all, whatever the progress.
    store_relief_wait_ms: float = 60000.0
    # A task that waits for its stored arguments lends its CPU out after this time: the next one would want room as well.
    arguments_lend_ms: float = 2000.0
    # And after this time (doubled each time, up to a bound) it lets go of the arguments that it has for a moment: another task,
    # which has what this one lacks, may lack them.
    arguments_turn_ms: float = 3000.0
    arguments_turn_ms_max: float = 60_000.0
    arguments_pause_ms: float = 100.0
    # Objects are spilled to disk when the store is full.
    spilling: bool = True
    # Share of the store in use from which on the oldest objects are written to disk ahead of need.
    spill_threshold: float = 0.8
    # Objects that are spilled together, at least (or an eighth of the store); and one file, unless one object is larger.
    spill_batch_bytes_min: int = 32 * MIB
    spill_file_bytes_max: int = 128 * MIB
    # Files written at once, files rewritten at once, and objects read back at once; the others wait.
    spill_writes_max: int = 2
    spill_rewrites_max: int = 1
    spill_reads_max: int = 2
    # A spill file is rewritten without its dead parts when more than this share of it is dead.
    spill_dead_share: float = 0.5
    # A directory that could not be written to is left alone for this time.
    spill_retry_ms: float = 10000.0
    # If it was full, and somebody new wants room, only for this time.
    spill_full_retry_ms: float = 1000.0
    # A directory that has not written or read something for this long counts as hanging: others get what is to be written.
    # A creator waits so long for the file that one makes for it; then for another one's, or OutOfDiskError says which hangs.
    spill_stall_ms: float = 10000.0
    spill_lend_ms_max: float = 5000.0
    # A read of an object from a directory that hangs is given up when for this time nothing more was read there, plus the time
    # that its bytes take at the slowest rate of a disk: the copy counts as lost, until it comes after all. So is a
    # client's read in a file, since there is no room for it in memory, when it has used no processor time for this time.
    spill_read_ms_max: float = 30000.0
    spill_bytes_per_s_min: int = 20 * MIB
    # A creator's write to a file counts as hanging when it has used no processor time for this time: another directory is tried,
    # up to so many in all, or OutOfDiskError says which file it was.
    spill_write_ms_max: float = 30000.0
    spill_write_tries_max: int = 3
    # Files without live objects that are kept to be written over: how long (0: none), and bytes; beyond, they go at once.
    spill_spare_ms: float = 30000.0
    spill_spare_bytes_max: int = 4 * GIB
    # Large objects that their creators wrote to files are summed this long after, if they are still there; 0: by their creators.
    spill_sum_after_ms: float = 2000.0
    # Spilling stops while more than this share of a disk is in use.
    spill_disk_used_max: float = 0.95
    # Files that one client may have to write objects into, for lack of memory; beyond, its connection is closed.
    spill_lent_files_max: int = 1000
    # Who wants to read spilled objects that no room can be made for reads them in their files after this time without progress,
    # and who wants to write one writes it to a file if nothing is under way; sooner when that was in vain (store/standstill).
    spill_map_after_ms: float = 100.0
    # Objects of at least this size are written to files by their creators, instead of having others written for want of room, and
    # are read in their files the first time, while there is no room for them.
    spill_in_place_bytes_min: int = 16 * MIB
    # Cached pins that were asked for and have not come back after this time count as in use.
    recall_grace_ms: float = 20.0
    # Creators that wait for room at one store; the next is refused at once.
    store_waiters_max: int = 10_000
    # Ids of freed objects a store remembers to say "freed" instead of "lost"; twice that for a moment.
    store_freed_ids_max: int = 16_384
    # Releases of one client that have overtaken their holds; beyond, its connection is closed.
    store_debts_max: int = 1_000_000
    # Reads of one client that wait for objects, and objects it announced; beyond, its connection is closed.
    parked_reads_max: int = 1_000_000
    # Pins a client keeps without a live view; beyond, the oldest are given back.
    cached_pins_max: int = 65_536
    # Partly used slabs a client keeps; beyond, the smallest rest is given back.
    slabs_max: int = 8
    # A copy this large is split over threads; one saturates the memory for smaller ones.
    copy_split_bytes_min: int = 512 * MIB
    copy_threads_max: int = 4
    # Handshakes in progress, and how long one may take.
    handshake_ms_max: float = 5000.0
    connections_max: int = 4096
    # Unproved connections at once; beyond, the oldest is closed.
    handshakes_max: int = 256
    # Log files: size of one, and how many are kept.
    log_file_bytes_max: int = 16 * MIB
    log_files_max: int = 4
    # Node health: how often it reports to the head, and after which silence it is declared dead.
    heartbeat_ms: float = 2000.0
    node_dead_ms: float = 10000.0
    # Silence after which the head suspects a node (nothing new is placed there).
    node_suspect_ms: float = 5000.0
    # Dead nodes that the head remembers and refuses; beyond, the longest dead is forgotten.
    dead_nodes_max: int = 1000
    # A node that drains waits this long for what runs there.
    drain_ms_max: float = 20_000.0
    # Whoever leased a worker of another node connects to it within this time, or the lease ends.
    lease_connect_ms: float = 10_000.0
    # A worker of another node died: its last replies may be under way for this long.
    late_replies_ms: float = 2000.0
    # Objects that one question to the head is about who has them, more are asked for in another one; node ids in one answer,
    # beyond which the other objects are asked for again.
    locate_ids_max: int = 1000
    locate_nodes_max: int = 65536
    # Nodes of one cluster; beyond, one that registers is refused.
    nodes_max: int = 10000
    # Jobs that the head remembers; beyond, the ones that ended first are forgotten.
    jobs_max: int = 10000
    # A durable value at the head, and how many there may be; beyond, the request fails.
    key_bytes_max: int = 1024
    value_bytes_max: int = 1 * MIB
    keys_max: int = 100000
    # One message between node and head; a longer one breaks the stream.
    head_message_bytes_max: int = 16 * MIB
    # Ids per kind in one report to the head; more are split over several reports.
    head_batch_ids_max: int = 65536
    # Parts of one batch; a node that sends more is refused.
    report_parts_max: int = 4096
    # Between two nodes: bytes sent and not acknowledged, beyond which messages wait; bytes that may wait in all, beyond which
    # the two give each other up; messages handled before they are acknowledged at once, and the time until the others are.
    peer_window_bytes_max: int = 16 * MIB
    peer_backlog_bytes_max: int = 1 * GIB
    peer_ack_messages: int = 256
    peer_ack_ms: float = 20.0
    # Objects of other nodes: bytes per checksum and request (of a large object a relay_parts-th of it, within these bounds),
    # connections to one source, requests sent ahead on each, chunks in one request, and objects that are sought in one turn (the
    # rest in the next). A chunk is moved and checked in parts that stay in the processor's cache meanwhile; between nodes on one
    # machine about data_ahead_bytes of them are under way. Objects up to parcel_object_bytes_max that are sought together come
    # together, as one chunk.
    pull_chunk_bytes: int = 4 * MIB
    pull_chunk_bytes_max: int = 16 * MIB
    pull_part_bytes: int = 512 * KIB
    data_ahead_bytes: int = 64 * KIB
    pull_connections: int = 2
    pull_requests_max: int = 2
    pull_pieces_max: int = 256
    pull_wants_max: int = 256
    parcel_object_bytes_max: int = 256 * KIB
    # Ids of arguments on other nodes that a worker remembers to have asked for while their tasks wait.
    prefetched_ids_max: int = 256
    # Share of the store that objects on their way may take; the others wait, by priority.
    pull_memory_percent: int = 50
    # How often an object that found no room asks again; beyond, its readers get ObjectStoreFullError.
    pull_room_tries_max: int = 10
    # Objects that are received into files at a time, since the store had no room for them; the others wait, by priority.
    pull_files_max: int = 8
    # A source that sends nothing for this long is given up for that object; a file that takes nothing for so long, too.
    pull_stall_ms: float = 5000.0
    # Nodes asked for parts of one object at a time; from this size on readers of one object help each other, and tell each
    # other what they have every so many parts of it.
    pull_sources_max: int = 4
    relay_bytes_min: int = 16 * MIB
    relay_parts: int = 32
    # Rounds over all nodes that may have an object (pauses as for the head), until its readers are told that it is lost.
    pull_rounds_max: int = 12
    # The same for an object of this node's own that only the head may know of: its table is a report (report_ms_min) behind.
    locate_rounds_max: int = 5
    # Data connections that a node serves; one more is closed. An idle one is closed after this time.
    data_connections_max: int = 512
    data_idle_ms: float = 30000.0
    # Copies of which a node remembers checksums and other holders; beyond, the oldest that nobody reads are forgotten.
    served_copies_max: int = 1024
    # Objects of which a node remembers where they are (a peer said so); beyond, the oldest are forgotten.
    location_hints_max: int = 100_000
    # The same for objects that nobody on the node refers to any more.
    last_seen_max: int = 20_000
    # An object of which the head knows a copy and never knew a holder is freed after this time.
    directory_grace_ms: float = 2000.0
    # A node's reports to the head are at least this far apart; what happens in between is merged.
    report_ms_min: float = 20.0
    # Messages waiting for one node at the head, or for the head at a node; beyond, the stream is
    # broken, and the node's next snapshot makes good for it.
    head_outbox_max: int = 10000
    # How far clocks may differ, and how long a ticket for the head is good.
    ticket_ms_max: float = 60000.0
    # Tickets remembered against replay while they are good; beyond, calls are refused.
    tickets_max: int = 65536
    # A call to the head that gets no answer for this long fails.
    head_call_ms_max: float = 10000.0
    # Pauses between attempts to reach the head: first, and where doubling ends. Attempts never end:
    # running jobs do not need the head, and it may come back.
    # A connection that brings no word of the head within the longest pause is given up.
    reconnect_ms_min: float = 50.0
    reconnect_ms_max: float = 2000.0
    # How long a daemon may take to start, to stop when asked (then it is killed), and to answer a question.
    start_ms_max: float = 20000.0
    stop_ms_max: float = 8000.0
    control_ms_max: float = 10000.0
    # Workers kept warm beyond the CPUs in use, and how long an idle extra one lives.
    idle_worker_ms: float = 5000.0
    # Worker processes of one node, whatever the reason for them; beyond, demands wait.
    workers_max: int = 4096
    # A worker that was told to end, or closed its connection, is killed if it has not ended by itself after this time.
    worker_exit_ms_max: float = 1000.0
    # A forked worker that has not said hello after this time is killed; failures to start in a row before demands are
    # told about it, and the pause between further attempts.
    worker_start_ms_max: float = 20000.0
    worker_start_failures_max: int = 5
    worker_restart_ms: float = 1000.0
    # Unblocked tasks that ask for no CPU, at once on one node; beyond, they queue.
    zero_cpu_leases_max: int = 64
    # While demands wait, the scheduler looks again this often (time slices, reservations, recalls).
    scheduler_tick_ms: float = 50.0
    # A lease that may be idle is not recalled before it was held this long: handing over costs as much as short tasks.
    lease_hold_ms: float = 10.0
    # A client that has held a lease this long gives way to an equal one that waits.
    lease_slice_ms: float = 100.0
    # A recalled lease that did not come back for this long no longer counts as about to.
    recall_again_ms: float = 250.0
    # A demand that waits this long reserves what it needs, for reservation_hold_ms at a time, with as long a pause between.
    reservation_after_ms: float = 500.0
    reservation_hold_ms: float = 2000.0
    # A demand that this node can never meet says so after this time.
    infeasible_ms: float = 1000.0
    # The head passes on what nodes have free this often, or more rarely: view_ms_per_node for each node of the cluster. So
    # its messages a second are bounded, whatever the number of nodes; and in one message are view_rows_max nodes at most. Who
    # came, or is in another state, is told at once, or also that much after the last time.
    view_ms: float = 100.0
    view_ms_per_node: float = 1.0
    view_rows_max: int = 1000
    # A lease from another node is counted against what that node says it has free for this long.
    view_lag_ms: float = 400.0
    # A task whose stored arguments on another node are at least this large prefers that node. It waits there for room for as
    # long as moving them at this rate would take, but at least locality_wait_ms_min.
    locality_bytes_min: int = 1 * MIB
    locality_bytes_per_s: float = 1e9
    locality_wait_ms_min: float = 200.0
    # Placement groups that the head knows, without those that are over; beyond, a new one is refused. And how many of those that
    # are over are remembered; beyond, the oldest is forgotten.
    groups_max: int = 100000
    groups_removed_max: int = 1000
    # Groups that wait are tried again this often, so many in one round; the others' turn comes in the next.
    group_retry_ms: float = 100.0
    groups_tried_max: int = 100
    # Bundles of one group.
    bundles_max: int = 10000
    # A decision where a demand is met stands for this long, for each node that was looked at and each demand that waits.
    place_us: float = 10.0
    # Leases of one demand that SPREAD places in one round; the rest follows.
    spread_round_max: int = 1000
    # Shapes of one client that are in use at a time; one more closes the connection.
    shapes_max: int = 10000
    # Shapes of one client that the scheduler remembers (some kilobytes each), or twice as many as are in use; one more, and all
    # that are not in use are forgotten.
    demands_idle_max: int = 100
    # Kinds of its own faults that a daemon remembers, to log each with its traceback once; one more, and the oldest is forgotten.
    fault_kinds_max: int = 100
    # Shapes without work that a process remembers of those that it submitted; one more, and all such are forgotten.
    shapes_idle_max: int = 1000
    # A question to all processes (list, why) waits this long for their answers.
    query_ms_max: float = 2000.0
    # The dashboard: connections at a time (one more, and the oldest that has not said yet what it wants is closed, else the new
    # one); bytes of a request (a longer one is refused); how long a client may take to send one, and to take the answer.
    dashboard_connections_max: int = 64
    dashboard_request_bytes_max: int = 8 * KIB
    dashboard_request_ms_max: float = 5000.0
    # It asks the daemon at most so often, whoever looks, and more rarely in a large cluster, all of whose nodes are asked:
    # dashboard_refresh_ms_per_node for each. What it shows of actors, jobs, and demands that wait; beyond, counts.
    dashboard_refresh_ms: float = 1000.0
    dashboard_refresh_ms_per_node: float = 10.0
    dashboard_rows_max: int = 200
    # A link to it is good for so long, once; the browser that used it for so long. Used links that it remembers; one more is
    # refused.
    dashboard_link_s: float = 600.0
    dashboard_visit_s: float = 43200.0
    dashboard_links_max: int = 1000
    # How long its process may take to start; the pause before it is started again when it has died, and how often that happens.
    dashboard_start_ms_max: float = 10000.0
    dashboard_restart_ms: float = 1000.0
    dashboard_restarts_max: int = 5
    # After the driver's goodbye, its workers' last output is waited for this long.
    goodbye_ms_max: float = 4000.0
    # Rows of one answer to people; beyond, the answer says how many were left out.
    rows_max: int = 100000
    # Bytes of a worker's output without a newline: at the worker before they are written anyway, and at the daemon
    # before they count as a line.
    output_buffer_bytes_max: int = 8 * KIB
    output_line_bytes_max: int = 64 * KIB
    # The same line from several workers within this time is printed once, with how often it came; this many lines are
    # remembered for that, then the oldest is printed early.
    output_fold_ms: float = 1000.0
    output_fold_lines_max: int = 1000
    # Worker output waiting to be printed at a driver; beyond, the oldest is left to the log files, and that is said.
    output_queue_lines_max: int = 100000
    # Progress bars of a driver and its workers; beyond, the oldest is forgotten. Seconds between two lines of one, where there
    # is no terminal.
    progress_bars_max: int = 1000
    progress_line_s: float = 10.0
    # A remote traceback in an error; of a longer one the middle is left out.
    traceback_chars_max: int = 64 * KIB
    # Classes made for `except` at get, one per class of cause; beyond, the oldest is forgotten.
    error_classes_max: int = 256
    # Files of one package of a runtime_env (a working_dir, or one of py_modules); with more it is refused.
    package_bytes_max: int = 500 * MIB
    # Unpacked and installed packages on one node; beyond, those that no worker uses go, least recently used first.
    package_cache_bytes_max: int = 10 * 1024 * MIB
    # How long pip may take for one environment of a runtime_env; then it is ended, and its tasks fail.
    environment_build_ms_max: float = 600_000.0
    # An environment that could not be made fails tasks at once for so long; later ones have it tried again.
    environment_retry_ms: float = 10_000.0
    # What ran last, for `shoal timeline`: so many tasks and calls of each process, and so many bytes of what ended processes
    # had. Beyond, the oldest are forgotten.
    timeline_tasks_max: int = 10000
    timeline_kept_bytes_max: int = 8 * MIB
    # Refs that one call may return (num_returns); with more it is refused, and may stream them.
    returns_max: int = 1_000_000
    # Results of `.options(...)` remembered per function; beyond, they are made anew.
    options_cache_max: int = 64
    # The smallest store that init accepts.
    store_bytes_min: int = 8 * MIB
    # A stored copy of a large by-value argument is kept this long after its last use, in case it is passed again.
    shared_copy_ms: float = 1000.0
    # Arrays that are passed again and again, of at least so many bytes, that the kernel watches instead of being hashed at each
    # call (0: none); beyond, that which was passed longest ago is hashed again.
    write_tracked_ranges_max: int = 16
    write_tracked_bytes_min: int = 4 * MIB
    # Encrypt what goes to other machines: "auto" is on, but for nodes that listen on loopback; one for the whole cluster.
    tls: str = "auto"
    # Unmap writer windows at the seal (costs half of the put bandwidth).
    strict_seal: bool = False

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - self.__dataclass_fields__.keys()
        if unknown:
            raise TypeError(f"there are no settings {', '.join(sorted(unknown))}")
        self.__dict__.update({name: getattr(type(self), name) for name in self.__dataclass_fields__})
        self.__dict__.update(values)


def load(overrides: dict[str, Any] | None = None) -> Config:
    """The configuration of this process: defaults, then ``SHOAL_*`` variables, then ``overrides``.

    Raises ValueError for a name that does not exist or a value of the wrong type.
    """
    base = Config()
    known = {field.name: type(getattr(base, field.name)) for field in fields(base)}
    values: dict[str, Any] = {}
    for name, kind in known.items():
        text = os.environ.get(f"SHOAL_{name.upper()}")
        if text is not None:
            values[name] = _convert(name, kind, text)
    for name, value in (overrides or {}).items():
        if name not in known:
            raise ValueError(f"unknown setting {name!r}; known are {', '.join(sorted(known))}")
        values[name] = _convert(name, known[name], value)
    return replace(base, **values)


def _convert(name: str, kind: type, value: object) -> object:
    """``value`` as an int, float, bool or word; nothing is rounded, and no limit is negative or not a number."""
    if kind is str:
        if value not in _WORDS[name]:
            raise ValueError(f"setting {name!r} needs one of {', '.join(_WORDS[name])}, not {value!r}")
        return value
    try:
        if kind is bool:
            return _FLAGS[str(value).lower()]
        number = kind(value)
        if isinstance(value, float) and number != value:
            raise ValueError(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"setting {name!r} needs {kind.__name__}, not {value!r}") from None
    if not number >= 0:
        raise ValueError(f"setting {name!r} must not be negative, but is {value!r}")
    return number


_WORDS = {"tls": TLS_MODES}

_FLAGS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
