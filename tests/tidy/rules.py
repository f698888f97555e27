"""The habits of the code that a program can check: each rule reads one file and yields what is wrong in it.

A rule is a function of (path relative to the repository, source text). It knows nothing of the file system,
so its canary in test_tidy.py is a string. What is generated is not checked.
"""

import ast
from collections.abc import Callable, Iterator

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# Modules that decide and do no I/O (R6): folder → the names of its cores, or all.
CORES = {
    "src/shoal/owner": "*",
    "src/shoal/wire": "barlines frames labels messages web",
    "daemons/shoald/store": (
        "allocator core errors eviction extents holds leases ledger objects pins readers relief report restores seals "
        "sharing spills"
    ),
    "src/shoal/actors": "calls errors method",
    "src/shoal/client": "bars crowding",
    "src/shoal/store": "tracked",
    "src/shoal/util/dask": "plan window",
    "daemons/shoald/node": (
        "actors awayleases bundles cluster constraints effects fairness fields grantround groups guests leases memorywatch "
        "peerstream placement pool pressure scheduler staffing tallies timelines"
    ),
    "daemons/shoald/dashboard": "gate http view",
    "daemons/shoald/objects": "admission cluster_refs copies core effects lanes pull pulls serving",
    "daemons/shoald/head": "actors core directory events gauges groups groupwords jobs nodes planning reports",
}
IMPURE = frozenset(
    {
        "asyncio",
        "grpc",
        "mmap",
        "multiprocessing",
        "queue",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
    }
    | {"socket", "socketserver", "subprocess", "threading", "time", "uvloop", "concurrent", "ssl"}
)

Rule = Callable[[str, str], Iterator[str]]


def is_core(path: str) -> bool:
    """Whether the module at `path` has to be pure."""
    folder, _, name = path.rpartition("/")
    cores = CORES.get(folder, "").split()
    return cores == ["*"] or name.removesuffix(".py") in cores


def file_length(path: str, source: str) -> Iterator[str]:
    """A file over 600 lines has a concept in it that wants out."""
    lines = source.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{path}: {lines} lines, at most {FILE_LINES_MAX}"


def function_length(path: str, source: str) -> Iterator[str]:
    """A function over 70 lines, from its `def` to its last line, is more than one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def opening(path: str, source: str) -> Iterator[str]:
    """A file opens with its theory; an empty one (a package marker) has none."""
    tree = ast.parse(source)
    if tree.body and not ast.get_docstring(tree):
        yield f"{path}:1: the file does not open with a docstring that says what it is"


def pure_core(path: str, source: str) -> Iterator[str]:
    """A core imports no clock, no socket, no thread, no event loop and no randomness."""
    if not is_core(path):
        return
    for line, module in imported(source):
        if module.partition(".")[0] in IMPURE:
            yield f"{path}:{line}: a core imports {module}"


def one_direction(path: str, source: str) -> Iterator[str]:
    """`shoald` may import `shoal`; `shoal` never imports `shoald`."""
    if not path.startswith("src/shoal/"):
        return
    for line, module in imported(source):
        if module.partition(".")[0] == "shoald":
            yield f"{path}:{line}: shoal imports {module}"


def no_swallowed_error(path: str, source: str) -> Iterator[str]:
    """No bare `except`, and none that catches everything and does nothing."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield f"{path}:{node.lineno}: bare except"
        elif _catches_everything(node.type) and all(_does_nothing(statement) for statement in node.body):
            yield f"{path}:{node.lineno}: every error is swallowed"


def no_later(path: str, source: str) -> Iterator[str]:
    """Work that is left is in an issue, not in a comment."""
    for number, line in enumerate(source.splitlines(), 1):
        for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X"):
            if word in line:
                yield f"{path}:{number}: {word}"


RULES: tuple[Rule, ...] = (
    file_length,
    function_length,
    opening,
    pure_core,
    one_direction,
    no_swallowed_error,
    no_later,
)


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every absolute import, also of those inside functions.

    Imports for type checkers only do not count: they do not happen.
    """
    skipped: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module


def _catches_everything(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(isinstance(each, ast.Name) and each.id in {"Exception", "BaseException"} for each in kinds)


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass | ast.Continue):
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
