"""Messages that are almost right, for the tests that send them."""

VALUES = [
    None, True, -1, 2**70, 1.5, "x", b"", b"short", bytes(17), bytes(100_000), [], [None], (), (1, 2, 3, 4), {}, {"careful": 1},
    object, len,
]  # fmt: skip


def almost(message):
    """``message`` with one thing changed, in every way."""
    yield message[:-1]
    yield [*message, None]
    for index in range(1, len(message)):
        for value in VALUES:
            yield [*message[:index], value, *message[index + 1 :]]
