"""What a test asks of processes that are not its own."""


def alive(pid):
    """Whether the process runs; one that has ended and was not waited for does not.

    It may end between the opening of its file and the reading: both fail then, each with an `OSError` of its own.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
