"""The command tree: names and one line each, and where a command is, imported only to run it."""

from __future__ import annotations

import importlib

import click

from shoal.suggest import nearest

# Command: (module, one line for the list).
_COMMANDS = {
    "start-head": ("daemons", "Start a head and a node on this machine."),
    "start-node": ("daemons", "Start a node on this machine and join a cluster."),
    "join-string": ("daemons", "Print what another machine needs to join."),
    "drain": ("draining", "Give a node nothing new, and let end what runs there."),
    "stop": ("daemons", "Stop this user's daemons on this machine."),
    "status": ("status", "Nodes, resources, and what waits for them."),
    "health-check": ("status", "Exit with 0 if the node and the head answer."),
    "memory": ("memory", "What is in the object store, and who holds it."),
    "list": ("lists", "List nodes, workers, tasks, actors, objects, jobs or groups."),
    "get": ("states", "Show all that is known of one of these, by its id."),
    "summary": ("states", "Count tasks, actors or objects by what made them."),
    "stack": ("stack", "Where workers and drivers are in their Python code."),
    "why": ("lists", "What a task or an object waits for."),
    "metrics": ("metrics", "What the runtime and user code count, for Prometheus."),
    "dashboard": ("dashboard", "Print a link to the dashboard, or its token."),
    "timeline": ("timeline", "Write what ran when, as a Chrome trace."),
    "job": ("jobs", "Submit driver scripts, and look after them."),
    "microbenchmark": ("microbenchmark", "How fast puts, tasks and calls are here."),
    "logs": ("logs", "Show or follow the logs of a daemon and its workers."),
}


class _LazyCommands(click.Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        guess = nearest(args[0], _COMMANDS) if args[0] not in _COMMANDS else None
        if guess is not None and not context.resilient_parsing:
            context.fail(f"No such command {args[0]!r}. Did you mean {guess!r}?")
        return super().resolve_command(context, args)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"shoal.cli.{_COMMANDS[name][0]}")
        command = getattr(module, f"{name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.command(cls=_LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shoal")
def app() -> None:
    """Run Python functions on a cluster, with large values in shared memory."""
