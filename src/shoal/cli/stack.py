"""shoal stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from shoal.cli.common import asking, asking_options, print_json
from shoal.cli.status_report import silent_notes

Row = Mapping[str, Any]
# Parts of the names of files of what starts programs, threads and event loops.
_RUNTIME = ("<frozen ", "/threading.py", "/asyncio/", "/concurrent/futures/")


@click.command("stack")
@click.argument("pid", type=click.IntRange(min=1), required=False)
@click.option(
    "--all",
    "--all-threads",
    "everything",
    is_flag=True,
    help="Also threads and frames that are shoal's own in each process.",
)
@asking_options
def stack_command(
    pid: int | None, everything: bool, address: str, temp_dir: str | None, as_json: bool
) -> None:
    """Show where all workers and drivers of the cluster are in their Python code (or those with PID), and which task runs there.

    Processes that are in C code which lets no other thread run do not answer, and are named.
    """
    with asking(address, temp_dir) as daemon:
        answer = daemon.request("stack", {"cluster": True})
        workers = daemon.request("workers", {"cluster": True})["rows"]
        tasks = daemon.request("tasks", {"cluster": True})["rows"]
    rows = with_tasks(answer["rows"], workers, tasks)
    if pid is not None:
        rows = [row for row in rows if row["pid"] == pid]
    silent = answer["silent"]
    if as_json:
        print_json({"rows": rows, "silent": silent})
    else:
        for line in [*stack_lines(rows, everything), *_silent(silent)]:
            click.echo(line)
    if pid is not None and not rows:
        raise click.ClickException(
            f"no process with pid {pid} has answered; `shoal list workers` and `list jobs` show those there are"
        )


def _silent(silent: Sequence[str]) -> list[str]:
    return [*silent_notes(silent), "(in C code that lets no Python run, or stopped)"] if silent else []


def with_tasks(rows: Sequence[Row], workers: Sequence[Row], tasks: Sequence[Row]) -> list[dict[str, Any]]:
    """``rows`` with "task_id" and "task", the name, of what runs in each process; "" for none."""
    running = {(row["node_id"], row["pid"]): str(row["task_id"]) for row in workers}
    names = {str(row["id"]): str(row["name"]) for row in tasks}
    told = []
    for row in rows:
        task_id = running.get((row["node_id"], row["pid"]), "")
        task_id = task_id if task_id.strip("0") else ""
        told.append({**row, "task_id": task_id, "task": names.get(task_id, "")})
    return told


def stack_lines(rows: Sequence[Row], everything: bool) -> list[str]:
    """For each process a line and its threads: what users' code does there, or all."""
    lines: list[str] = []
    for row in rows:
        doing = f", task {row['task_id']} {row['task']}".rstrip() if row["task_id"] else ""
        lines.append(f"{row['process']}{doing}")
        threads = frames_hidden = 0
        for thread in row["threads"]:
            frames = thread["frames"] if everything else _users_frames(thread)
            if not (everything or thread["main"] or (frames and _is_users(thread))):
                threads += 1
                continue
            frames_hidden += len(thread["frames"]) - len(frames)
            lines.append(f"  thread {thread['thread']}")
            if thread["cut"]:
                lines.append(f"    ({thread['cut']} outer frames left out)")
            lines += [f"    {file}:{line} in {function}" for file, line, function in frames]
            if not frames:
                lines.append("    in shoal's own code")
        hidden = [_count(threads, "thread")] * bool(threads) + [_count(frames_hidden, "frame")] * bool(
            frames_hidden
        )
        if hidden:
            lines.append(f"  and {' and '.join(hidden)} of shoal's own (--all shows them)")
        lines.append("")
    return lines or ["no process has answered"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _users_frames(thread: Row) -> list[Sequence[Any]]:
    """Those of users' code, and what of shoal that calls: neither how a worker came there nor how shoal does it helps anybody."""
    frames, own = thread["frames"], thread["own"]
    first = next(
        (
            place
            for place, frame in enumerate(frames)
            if not own[place] and not any(part in frame[0] for part in _RUNTIME)
        ),
        len(frames),
    )
    return [frames[place] for place in range(first, len(frames)) if not (own[place] and own[place - 1])]


def _is_users(thread: Row) -> bool:
    return not str(thread["thread"]).startswith("shoal")
