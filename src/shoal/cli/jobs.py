"""shoal job: submit driver scripts, list them, ask how they are, read what they wrote, stop them."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from shoal.cli.common import F, JsonObject, address_option, print_json
from shoal.cli.format import Table
from shoal.cli.output import show
from shoal.cli.states import field_lines
from shoal.exceptions import ShoalError
from shoal.jobs import JobDetails, JobStatus, JobSubmissionClient

Client = JobSubmissionClient


class _JsonText(click.ParamType[dict[str, Any]]):
    """A JSON object, whatever is in it."""

    name = "json"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> dict[str, Any]:
        try:
            found = json.loads(value)
        except json.JSONDecodeError as error:
            self.fail(f"{value!r} is no JSON: {error}", parameter, context)
        if not isinstance(found, dict):
            self.fail(f"{value!r} is no JSON object", parameter, context)
        return found


def _options(command: F) -> F:
    """--address, --temp-dir (by the variable, which `init` reads) and --json."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
    temp_dir = click.option(
        "--temp-dir",
        envvar="SHOAL_TEMP_DIR",
        metavar="DIR",
        expose_value=False,
        callback=lambda _context, _option, value: os.environ.update(SHOAL_TEMP_DIR=value) if value else None,
        help="Where session directories are (default: the system's temporary directory).",
    )
    return address_option(temp_dir(as_json(command)))


@contextmanager
def _client(address: str) -> Iterator[Client]:
    """A client with a session of its own, which ends with it; the user's errors as one line."""
    from shoal.api import shutdown

    try:
        yield JobSubmissionClient(address)
    except (ShoalError, ConnectionError, LookupError, ValueError, TypeError) as error:
        raise click.ClickException(_line(error)) from error
    finally:
        shutdown()


def _line(error: Exception) -> str:
    """What happened, and what to do next, as one line."""
    text = f"{error.message}; {error.next_step}" if isinstance(error, ShoalError) else str(error.args[0])
    return " ".join(text.splitlines())


@click.group("job", context_settings={"help_option_names": ["-h", "--help"]})
def job_command() -> None:
    """Run driver scripts in the cluster, apart from this terminal; each command has --json."""


@job_command.command("submit", context_settings={"ignore_unknown_options": True})
@click.option("--submission-id", metavar="ID", help="What to call the job (default: an id that is made up).")
@click.option(
    "--working-dir",
    metavar="DIR",
    type=click.Path(exists=True),
    help="Taken to the cluster, and the current directory of the script and its tasks.",
)
@click.option(
    "--runtime-env-json",
    metavar="JSON",
    type=_JsonText(),
    help="env_vars, working_dir, excludes.",
)
@click.option(
    "--metadata-json", metavar="JSON", type=JsonObject(str), help="Kept with the job: names and texts."
)
@click.option(
    "--no-wait", is_flag=True, help="Return when it is submitted, instead of showing its output to the end."
)
@_options
@click.argument("entrypoint", nargs=-1, required=True, type=click.UNPROCESSED)
def submit_command(
    submission_id: str | None,
    working_dir: str | None,
    runtime_env_json: dict[str, Any] | None,
    metadata_json: dict[str, str] | None,
    no_wait: bool,
    address: str,
    as_json: bool,
    entrypoint: tuple[str, ...],
) -> None:
    """Run ENTRYPOINT, a command for the shell (after "--", as in: shoal job submit -- python script.py), on the head's node.

    Its output is shown until it ends, and the exit status is 0 if it succeeded. Ctrl-C leaves it running.
    """
    env = dict(runtime_env_json or {})
    if working_dir:
        env["working_dir"] = working_dir
    command = entrypoint[0] if len(entrypoint) == 1 else shlex.join(entrypoint)
    with _client(address) as client:
        job = client.submit_job(
            entrypoint=command, submission_id=submission_id, runtime_env=env, metadata=metadata_json
        )
        if no_wait:
            _told(as_json, {"submission_id": job}, f"job {job} is submitted (shoal job logs -f {job})")
            return
        if not as_json:
            click.echo(f"job {job} is submitted", err=True)
        _follow(client, job, as_json)


def _follow(client: Client, job: str, as_json: bool) -> None:
    """Show what it writes until it ends, and how it did; raises SystemExit(1) if not well."""
    try:
        for text in client.tail_job_logs(job):
            click.echo(text, nl=False, err=as_json)
    except KeyboardInterrupt:
        click.echo(f"job {job} goes on (shoal job stop {job})", err=True)
        raise SystemExit(130) from None
    details = client.get_job_info(job)
    if as_json:
        print_json(_row(details))
    else:
        click.echo(f"job {job} {details.status}: {details.message}", err=True)
    if details.status is not JobStatus.SUCCEEDED:
        raise SystemExit(1)


@job_command.command("list")
@_options
def list_command(address: str, as_json: bool) -> None:
    """List the jobs that were submitted and are remembered."""
    with _client(address) as client:
        jobs = client.list_jobs()
    if as_json:
        print_json({"rows": [_row(job) for job in jobs]})
    else:
        show(jobs_table(jobs, time.time()))


def jobs_table(jobs: Sequence[JobDetails], now_s: float) -> Table:
    """A row for each job."""
    rows = [(job.submission_id, str(job.status), _time(job, now_s), job.entrypoint) for job in jobs]
    return Table(("JOB", "STATUS", "TIME", "ENTRYPOINT"), rows, f"{len(jobs)} jobs", [])


def _time(job: JobDetails, now_s: float) -> str:
    if job.start_time is None:
        return "-"
    return f"{(job.end_time or 1000 * now_s) / 1000 - job.start_time / 1000:.1f} s"


@job_command.command("status")
@click.argument("job", metavar="ID")
@_options
def status_command(job: str, address: str, as_json: bool) -> None:
    """Show all that is known of the job ID."""
    with _client(address) as client:
        row = _row(client.get_job_info(job))
    _told(as_json, row, "\n".join(field_lines(row)))


@job_command.command("logs")
@click.argument("job", metavar="ID")
@click.option(
    "-f", "--follow", is_flag=True, help="Show what it writes until it ends; the exit status is as of submit."
)
@_options
def logs_command(job: str, follow: bool, address: str, as_json: bool) -> None:
    """Show what the script of the job ID has written."""
    with _client(address) as client:
        if follow:
            _follow(client, job, as_json)
            return
        text = client.get_job_logs(job)
    if as_json:
        print_json({"submission_id": job, "logs": text})
    else:
        click.echo(text, nl=False)


@job_command.command("stop")
@click.argument("job", metavar="ID")
@_options
def stop_command(job: str, address: str, as_json: bool) -> None:
    """End the script of the job ID and its processes, and wait until they have ended."""
    with _client(address) as client:
        stopped = client.stop_job(job)
        row = _row(client.get_job_info(job))
    text = f"job {job} {row['status']}" if stopped else f"job {job} had ended: {row['status']}"
    _told(as_json, row, text)


@job_command.command("delete")
@click.argument("job", metavar="ID")
@_options
def delete_command(job: str, address: str, as_json: bool) -> None:
    """Forget the job ID, which has ended, and remove its log."""
    with _client(address) as client:
        client.delete_job(job)
    _told(as_json, {"deleted": job}, f"job {job} is forgotten")


def _row(job: JobDetails) -> dict[str, Any]:
    return {**asdict(job), "status": str(job.status)}


def _told(as_json: bool, row: Mapping[str, Any], text: str) -> None:
    if as_json:
        print_json(row)
    else:
        click.echo(text)
